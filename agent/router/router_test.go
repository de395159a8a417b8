//go:build linux

package router

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// aState is a node with two peers.
func aState() State {
	return State{
		Addresses: []netip.Addr{addr("100.64.0.1"), addr("fd12:3456:789a::1")},
		Peers:     []netip.Addr{addr("100.64.0.7"), addr("100.64.9.9"), addr("fd12:3456:789a::7"), addr("fd12:3456:789a::99")},
		Prefix6:   netip.MustParsePrefix("fd12:3456:789a::/48"),
		MTU:       1420,
	}
}

// What ip and nft print is a reading that shares no code with this package.
func TestSet(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tunFor(t, "writ0")
	r := routerFor(t, Config{})
	s := aState()
	for range 2 { // the second time changes nothing
		if err := r.Set(t.Context(), s); err != nil {
			t.Fatalf("Set: %v", err)
		}
		if got := r.Warnings(); got != nil {
			t.Errorf("Warnings are %q, want none", got)
		}
		compare(t, "ip -4 route", []string{"-4", "route", "show", "table", "8787"}, `
100.64.0.7 dev writ0 proto 87 scope link src 100.64.0.1 metric 100
unreachable 100.64.0.7 proto 87 metric 8700
100.64.9.9 dev writ0 proto 87 scope link src 100.64.0.1 metric 100
unreachable 100.64.9.9 proto 87 metric 8700`)
		compare(t, "ip -6 route", []string{"-6", "route", "show", "table", "8787"}, `
fd12:3456:789a::7 dev writ0 proto 87 src fd12:3456:789a::1 metric 100 pref medium
fd12:3456:789a::99 dev writ0 proto 87 src fd12:3456:789a::1 metric 100 pref medium
unreachable fd12:3456:789a::/48 dev lo proto 87 metric 8700 pref medium`)
		compare(t, "ip -4 rule", []string{"-4", "rule", "show", "priority", "1870"}, "1870: from all lookup 8787 proto 87")
		compare(t, "ip -6 rule", []string{"-6", "rule", "show", "priority", "1870"}, "1870: from all lookup 8787 proto 87")
		compare(t, "ip addr", []string{"-br", "addr", "show", "dev", "writ0"}, "writ0 UNKNOWN 100.64.0.1/32 fd12:3456:789a::1/128")
		compare(t, "ip route", []string{"route", "show", "table", "main"}, "")
		if out, ok := output(t, "ip", "link", "show", "dev", "writ0"); ok && !strings.Contains(out, "mtu 1420") {
			t.Errorf("ip link says %q, want mtu 1420", out)
		}
		if out, ok := output(t, "nft", "list", "ruleset"); ok {
			if got, want := fields(out), fields(wantRuleset); got != want {
				t.Errorf("nft lists\n%s\nwant\n%s", out, wantRuleset)
			}
		}
	}
}

const wantRuleset = `
table inet writ {
	set mesh4 { type ipv4_addr elements = { 100.64.0.1, 100.64.0.7, 100.64.9.9 } }
	set mesh6 { type ipv6_addr }
	set own4 { type ipv4_addr elements = { 100.64.0.1 } }
	set own6 { type ipv6_addr elements = { fd12:3456:789a::1 } }
	chain arriving {
		type filter hook prerouting priority raw; policy accept;
		iifname "writ0" accept
		iifname "lo" accept
		ip saddr @mesh4 counter packets 0 bytes 0 drop comment "source in the mesh"
		ip6 saddr @mesh6 counter packets 0 bytes 0 drop comment "source in the mesh"
		ip daddr @own4 counter packets 0 bytes 0 drop comment "own address"
		ip6 daddr @own6 counter packets 0 bytes 0 drop comment "own address"
		ip6 saddr fd12:3456:789a::/48 counter packets 0 bytes 0 drop comment "source in the mesh"
	}
	chain leaving {
		type filter hook postrouting priority 300; policy accept;
		oifname "writ0" accept
		oifname "lo" accept
		ip daddr @mesh4 counter packets 0 bytes 0 drop comment "to the mesh in clear"
		ip6 daddr @mesh6 counter packets 0 bytes 0 drop comment "to the mesh in clear"
		ip6 daddr fd12:3456:789a::/48 counter packets 0 bytes 0 drop comment "to the mesh in clear"
	}
}`

// compare compares what ip prints with a text, but for white space.
func compare(t *testing.T, what string, args []string, want string) {
	t.Helper()
	if out, ok := output(t, "ip", args...); ok && fields(out) != fields(want) {
		t.Errorf("%s is\n%s\nwant\n%s", what, out, want)
	}
}

func fields(s string) string { return strings.Join(strings.Fields(s), " ") }

// A packet to a peer enters the interface with the node's address as its source.
func TestPacketsTakeTheInterface(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tun := tunFor(t, "writ0")
	r := routerFor(t, Config{})
	must(t, r.Set(t.Context(), aState()))
	for _, to := range []netip.Addr{addr("100.64.0.7"), addr("fd12:3456:789a::99")} {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		must(t, err)
		_, err = c.Write([]byte("hello"))
		must(t, err)
		own := aState().own(to.Is4())
		if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != own {
			t.Errorf("the source to %s is %s, want %s", to, got, own)
		}
		buf := make([]byte, 2000)
		n, err := tun.Read(buf)
		must(t, err)
		if !strings.HasSuffix(string(buf[:n]), "hello") {
			t.Errorf("the interface got % x, want a packet that ends in hello", buf[:n])
		}
	}
	// An address of nobody in the network's prefix is not sent anywhere.
	if err := send(addr("fd12:3456:789a::1234")); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("to nobody in the prefix: %v, want %v", err, syscall.EHOSTUNREACH)
	}
}

// send sends one datagram and returns the kernel's objection.
func send(to netip.Addr) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("clear"))
	return err
}

// A neighbour on the local network cannot speak as a peer, nor to the node's mesh
// addresses. Without the Router it can, which shows that this test can fail.
func TestNeighbourIsKeptOut(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNeighbour(t)
	tunFor(t, "writ0")
	s := aState()
	n.do(func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		for _, a := range s.Peers { // it takes the peers' addresses for its own
			assign(t, lo, netip.PrefixFrom(a, a.BitLen()))
		}
		for _, a := range s.Addresses { // and knows a way to the node's
			gw := lanHere6
			if a.Is4() {
				gw = lanHere4
			}
			must(t, netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.PrefixFrom(a, a.BitLen())), Gw: gw.AsSlice()}))
		}
	})
	for _, with := range []bool{false, true} {
		var r *Router
		want := []string{"as a peer", "to the mesh address", "marker"}
		if with {
			r = routerFor(t, Config{})
			must(t, r.Set(t.Context(), s))
			want = want[2:]
		} else {
			link, err := netlink.LinkByName("writ0")
			must(t, err)
			must(t, netlink.LinkSetUp(link))
			for _, a := range s.Addresses {
				assign(t, link, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		for i, lan := range []struct{ here, there, peer, own netip.Addr }{
			{lanHere4, lanThere4, s.Peers[0], s.Addresses[0]},
			{lanHere6, lanThere6, s.Peers[2], s.Addresses[1]},
		} {
			port := uint16(4000 + i)
			wild := netip.IPv6Unspecified()
			if lan.here.Is4() {
				wild = netip.IPv4Unspecified()
			}
			here := listen(t, wild, port)
			from, as := n.socket(lan.there, 0), n.socket(lan.peer, 0)
			write := func(c *net.UDPConn, to netip.Addr, text string) {
				_, err := c.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(to, port))
				must(t, err)
			}
			write(as, lan.here, "as a peer")
			write(from, lan.own, "to the mesh address")
			write(from, lan.here, "marker")
			if got := receiveAll(t, here, "marker"); !slices.Equal(got, want) {
				t.Errorf("with the Router %v: from the neighbour came %q, want %q", with, got, want)
			}
			here.Close()
		}
		if with {
			got, err := r.Drops()
			if want := (Drops{Source: 2, Destination: 2}); err != nil || got != want {
				t.Errorf("Drops are %+v, %v; want %+v", got, err, want)
			}
		}
	}
}

// An agent that was killed leaves no way for packets to leave in clear, and its
// successor takes over what it left.
func TestKilledAgentLeaksNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNeighbour(t)
	s := aState()
	outside := make(map[bool]*net.UDPConn)
	n.do(func() { // the way to the Internet ends at the neighbour, who sees all of it
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		for _, a := range s.Peers {
			assign(t, lo, netip.PrefixFrom(a, a.BitLen()))
		}
		outside[true] = listen(t, netip.IPv4Unspecified(), 9)
		outside[false] = listen(t, netip.IPv6Unspecified(), 9)
	})
	// seen sends to every peer, then a marker by the same way.
	seen := func(want error, leaks int) {
		t.Helper()
		for _, p := range s.Peers {
			if err := send(p); !errors.Is(err, want) {
				t.Errorf("to %s: %v, want %v", p, err, want)
			}
		}
		for is4, c := range outside {
			to := lanThere6
			if is4 {
				to = lanThere4
			}
			m, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
			must(t, err)
			_, err = m.Write([]byte("marker"))
			must(t, err)
			if got := len(receiveAll(t, c, "marker")) - 1; got != leaks {
				t.Errorf("IPv4 %v: the local network saw %d packets to peers in clear, want %d", is4, got, leaks)
			}
		}
	}
	seen(nil, 2) // without an agent they do leave
	before := snapshot(t)

	a := startAgent(t, s, nil)
	seen(nil, 0)
	a.kill()
	seen(syscall.EHOSTUNREACH, 0)

	// A successor whose peers differ, and another that ends in good order.
	s2 := s
	s2.Peers = []netip.Addr{s.Peers[0], s.Peers[2]}
	b := startAgent(t, s2, nil)
	for i, want := range []error{nil, syscall.EHOSTUNREACH, nil, syscall.EHOSTUNREACH} {
		if err := send(s.Peers[i]); !errors.Is(err, want) {
			t.Errorf("with the successor, to %s: %v, want %v", s.Peers[i], err, want)
		}
	}
	b.stdin.Close()
	if err := b.cmd.Wait(); err != nil {
		t.Fatalf("the successor ended with %v", err)
	}
	if out, ok := output(t, "nft", "list", "tables"); ok && out != "" {
		t.Errorf("after Close there is %s, want no table", out)
	}
	seen(syscall.EHOSTUNREACH, 0)

	if err := Cleanup(t.Context()); err != nil {
		t.Fatalf("Cleanup: %v", err)
	}
	sameNetwork(t, "after Cleanup", snapshot(t), before)
	seen(nil, 2)
}

// snapshot is everything that programs print of this namespace's network, line by
// line and sorted: the kernel promises no order.
func snapshot(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, args := range [][]string{
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
		{"ip", "-4", "rule"}, {"ip", "-6", "rule"}, {"ip", "-br", "addr"}, {"nft", "--stateless", "list", "ruleset"},
	} {
		text, _ := output(t, args[0], args[1:]...)
		for line := range strings.Lines(text) {
			if strings.Contains(line, " table local ") {
				continue // follows from the addresses, for IPv6 some time later
			}
			out = append(out, strings.Join(args, " ")+": "+fields(line))
		}
	}
	slices.Sort(out)
	return out
}

// sameNetwork compares two snapshots.
func sameNetwork(t *testing.T, when string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s there is %q, want that not", when, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s there is no %q, want it", when, line)
		}
	}
}

// CAP_NET_ADMIN is all it takes: neither another capability nor a file of root's.
func TestLeastPrivilege(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const nobody = 65534
	// Package tunnel/kernel's part: whether the user may open the device is up to
	// the machine.
	tunFor(t, "writ0")
	c := startAgent(t, aState(), &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	})
	if err := send(aState().Peers[0]); err != nil {
		t.Errorf("to a peer: %v, want no error", err)
	}
	for _, loss := range []func() error{removeTable, func() error { return netlink.RuleDel(ourRule(unix.AF_INET)) }} {
		must(t, loss())
		if !c.lines.Scan() || c.lines.Text() != "repaired <nil>" {
			t.Fatalf("after a loss the child agent says %q, want that it is repaired", c.lines.Text())
		}
	}
	equalLines(t, "IPv4 rules", []string{"1870: from all lookup 8787 proto 87"}, "-4", "rule", "show", "priority", "1870")
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the child agent ends with %v, want no error", err)
	}
	if out, ok := output(t, "nft", "list", "ruleset"); ok && out != "" {
		t.Errorf("after Close nft lists %q, want nothing", out)
	}
}
