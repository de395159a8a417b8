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

func TestNewRefuses(t *testing.T) {
	for _, name := range []string{"", "lo", ".", "..", "a/b", "a b", "sixteen-bytes-xx", "a\x00", "wrít", "eth0:1"} {
		if _, err := New(Config{Interface: name}); err == nil || !strings.Contains(err.Error(), "interface name") {
			t.Errorf("interface name %q: error %v, want one about the name", name, err)
		}
	}
}

// A second agent in the same namespace would take the first one's routes for
// leftovers.
func TestSecondAgentIsRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	startAgent(t, aState(), nil)
	tunFor(t, "writ1")
	if _, err := New(Config{Interface: "writ1"}); err == nil || !strings.Contains(err.Error(), "interface writ0: another agent runs") {
		t.Errorf("New beside an agent: %v, want that another agent runs", err)
	}
}

// It is refused before either of them has routes, and so is Cleanup, until the
// first has ended; one that was killed is no obstacle.
func TestOneAgentBeforeItHasRoutes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	first := tunFor(t, "writ0")
	tunFor(t, "writ1")
	r := routerFor(t, Config{})
	refused := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want+": ") || !strings.Contains(err.Error(), "agent runs") {
			t.Errorf("%s: %v, want that the agent of %s runs", what, err, want)
		}
	}
	_, err := New(Config{Interface: "writ1"})
	refused("New beside a Router", err, "interface writ0")
	refused("Cleanup beside a Router", Cleanup(t.Context()), "interface writ0")
	must(t, r.Set(t.Context(), aState()))
	refused("Cleanup beside a Router with routes", Cleanup(t.Context()), "interface writ0")
	must(t, r.Close())
	must(t, Cleanup(t.Context()))
	must(t, routerFor(t, Config{Interface: "writ1"}).Close())

	// Two that began without an interface meet at the first Set.
	a, b := routerFor(t, Config{Interface: "late0"}), routerFor(t, Config{Interface: "late1"})
	tunFor(t, "late0")
	tunFor(t, "late1")
	must(t, a.Set(t.Context(), aState()))
	refused("Set beside a Router", b.Set(t.Context(), aState()), "interface late0")
	must(t, b.Close())
	must(t, a.Set(t.Context(), aState()))
	for _, p := range aState().Peers {
		if err := send(p); err != nil {
			t.Errorf("to %s beside a Router that was refused: %v, want no error", p, err)
		}
	}
	must(t, a.Close())

	must(t, first.Close()) // the agent has one that goes with it
	killed := startAgent(t, aState(), nil)
	refused("Cleanup beside an agent", Cleanup(t.Context()), "interface writ0")
	killed.kill()
	must(t, Cleanup(t.Context()))
}

// Without its interface the Router says so, and protects what it can.
func TestSetWithoutInterface(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	r := routerFor(t, Config{})
	var gone netlink.LinkNotFoundError
	if err := r.Set(t.Context(), aState()); !errors.As(err, &gone) {
		t.Errorf("Set without an interface: %v, want that it is not there", err)
	}
	for _, p := range aState().Peers {
		if err := send(p); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("to %s: %v, want %v", p, err, syscall.EHOSTUNREACH)
		}
	}
	tunFor(t, "writ0")
	must(t, r.Set(t.Context(), aState()))
	for _, p := range aState().Peers {
		if err := send(p); err != nil {
			t.Errorf("with the interface, to %s: %v, want no error", p, err)
		}
	}
	must(t, r.Close())
	if err := r.Set(t.Context(), aState()); !errors.Is(err, errClosed) {
		t.Errorf("Set after Close: %v, want %v", err, errClosed)
	}
	must(t, r.Close())
}

// Where the routes are got round or taken away, the packet filter still lets
// nothing out in clear; and what it counted is not forgotten.
func TestNothingLeavesInClear(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	n := newNeighbour(t)
	s := aState()
	var outside *net.UDPConn
	n.do(func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		assign(t, lo, netip.PrefixFrom(s.Peers[0], 32))
		outside = listen(t, netip.IPv4Unspecified(), 9)
	})
	tunFor(t, "writ0")
	r := routerFor(t, Config{})
	must(t, r.Set(t.Context(), s))

	bound := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lan0") }); cerr != nil {
			return cerr
		}
		return err
	}}
	if c, err := bound.Dial("udp", netip.AddrPortFrom(s.Peers[0], 9).String()); err == nil {
		// The kernel takes an address without a route by the interface that a socket
		// is bound to for one on that link, whatever the table says.
		_, err = c.Write([]byte("clear"))
		must(t, c.Close())
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("a socket bound to the local network, to a peer: %v, want %v from the packet filter", err, syscall.EPERM)
		}
	} else {
		t.Errorf("bind a socket to the local network: %v", err)
	}
	for _, family := range r.k.families() {
		must(t, netlink.RuleDel(ourRule(family)))
	}
	for _, p := range s.Peers {
		if err := send(p); !errors.Is(err, syscall.EPERM) {
			t.Errorf("without the rule, to %s: %v, want %v from the packet filter", p, err, syscall.EPERM)
		}
	}
	marker, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(lanThere4, 9)))
	must(t, err)
	_, err = marker.Write([]byte("marker"))
	must(t, err)
	if got := receiveAll(t, outside, "marker"); !slices.Equal(got, []string{"marker"}) {
		t.Errorf("the local network saw %q, want the marker alone", got)
	}
	want := Drops{Clear: 1 + uint64(len(s.Peers))}
	for _, when := range []string{"at first", "after Set", "after another prefix", "after a foreign change and Set"} {
		switch when {
		case "after another prefix":
			s.Prefix6 = netip.Prefix{}
		case "after a foreign change and Set":
			output(t, "nft", "add", "table", "inet", "other")
		}
		if when != "at first" {
			must(t, r.Set(t.Context(), s))
		}
		if got, err := r.Drops(); err != nil || got != want {
			t.Errorf("%s Drops are %+v, %v; want %+v", when, got, err, want)
		}
	}
}

// What others have that is in the way is told in the running system, too.
func TestWarnings(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newNeighbour(t)
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	tunFor(t, "writ0")
	must(t, netlink.AddrAdd(lan, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("100.64.9.9/24"))}))
	before := snapshot(t)
	r := routerFor(t, Config{WithoutNftables: true})
	must(t, r.Set(t.Context(), aState()))
	got := r.Warnings()
	for _, want := range []string{
		"nftables is not used",
		"100.64.9.9 is an address of this machine (interface lan0)",
		"100.64.9.0/24 of interface lan0 covers 1 address of peers (100.64.9.9)",
	} {
		if !slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("Warnings are %q, want one that says %q", got, want)
		}
	}
	if len(got) != 3 {
		t.Errorf("there are %d warnings, want 3: %q", len(got), got)
	}
	if out, ok := output(t, "nft", "list", "ruleset"); ok && out != "" {
		t.Errorf("nft lists %q, want nothing", out)
	}
	if got, err := r.Drops(); err != nil || got != (Drops{}) {
		t.Errorf("Drops are %+v, %v; want none", got, err)
	}
	must(t, r.Close())
	must(t, Cleanup(t.Context()))
	must(t, netlink.LinkSetDown(func() netlink.Link { l, err := netlink.LinkByName("writ0"); must(t, err); return l }()))
	sameNetwork(t, "after Cleanup", slices.DeleteFunc(snapshot(t), func(l string) bool { return strings.Contains(l, "writ0") }),
		slices.DeleteFunc(before, func(l string) bool { return strings.Contains(l, "writ0") }))
}
