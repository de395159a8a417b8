//go:build linux

package router

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Every loss of ours is told and put right by Set, what Set does is not told, and
// a change of the machine's own network is.
func TestWatch(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newNeighbour(t)
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	tun := tunFor(t, "writ0")
	r := routerFor(t, Config{})
	must(t, r.Set(t.Context(), aState()))
	calm := snapshot(t)

	events := make(chan Event, 100)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(e Event) { events <- e }) }()
	next := func(after string) (e Event) {
		t.Helper()
		select {
		case e = <-events:
		case err := <-ended:
			t.Fatalf("Watch ended after %s: %v", after, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no event after %s", after)
		}
		return e
	}

	link := func() netlink.Link {
		l, err := netlink.LinkByName("writ0")
		must(t, err)
		return l
	}
	peer := netip.MustParsePrefix("100.64.0.7/32")
	roam := &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("198.51.100.1/24"))}
	_, nft := output(t, "nft", "--version")
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"a route was removed", func() {
			must(t, netlink.RouteDel(&netlink.Route{Dst: toIPNet(peer), Table: Table, Priority: deviceMetric, Scope: netlink.SCOPE_LINK}))
		}},
		{"an unreachable route was removed", func() {
			must(t, netlink.RouteDel(&netlink.Route{Dst: toIPNet(peer), Table: Table, Priority: unreachableMetric, Type: unix.RTN_UNREACHABLE}))
		}},
		{"a rule was removed", func() { must(t, netlink.RuleDel(ourRule(unix.AF_INET6))) }},
		{"an address was removed", func() {
			must(t, netlink.AddrDel(link(), &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("fd12:3456:789a::1/128"))}))
		}},
		{"an address was added", func() { must(t, netlink.AddrAdd(link(), roam)) }},
		{"the interface went down", func() { must(t, netlink.LinkSetDown(link())) }},
		{"the MTU was changed", func() { must(t, netlink.LinkSetMTU(link(), 1300)) }},
		{"the interface was made anew", func() { tun.Close(); tun = tunFor(t, "writ0") }},
		{"the nftables table was removed", func() { must(t, removeTable()) }},
		{"an nftables chain was flushed", func() {
			if nft {
				output(t, "nft", "flush", "chain", "inet", TableName, chainArriving)
			} else {
				must(t, removeTable())
			}
		}},
		{"all of nftables was flushed", func() {
			if nft {
				output(t, "nft", "flush", "ruleset")
			} else {
				must(t, removeTable())
			}
		}},
	} {
		c.do()
		if e := next(c.name); e != (Event{Ours: true}) {
			t.Errorf("after %s: %s, want ours alone", c.name, e)
		}
		must(t, r.Set(t.Context(), aState()))
		sameNetwork(t, "after "+c.name+" and Set", snapshot(t), calm)
	}

	// A burst is one event, and has nothing of ours in it.
	for i := range 50 {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), 24)
		must(t, netlink.AddrAdd(lan, &netlink.Addr{IPNet: toIPNet(a)}))
	}
	if e := next("a burst"); e != (Event{Network: true}) {
		t.Errorf("after a burst: %s, want network alone", e)
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"the way to the Internet was removed", func() {
			must(t, netlink.RouteDel(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: lanThere4.AsSlice()}))
		}},
		{"the local network went away", func() { must(t, netlink.LinkSetDown(lan)) }},
	} {
		c.do()
		if e := next(c.name); e != (Event{Network: true}) {
			t.Errorf("after %s: %s, want network alone", c.name, e)
		}
	}

	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ends with %v, want %v", err, context.Canceled)
	}
	if len(events) > 0 {
		t.Errorf("there is one more event: %s", <-events)
	}
}

// What happened between New and Watch is told.
func TestWatchTellsWhatWasBefore(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	newNeighbour(t)
	tunFor(t, "writ0")
	r := routerFor(t, Config{})
	must(t, r.Set(t.Context(), aState()))
	must(t, netlink.RuleDel(ourRule(unix.AF_INET)))
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	must(t, netlink.LinkSetDown(lan))
	ctx, stop := context.WithCancelCause(t.Context())
	var got Event
	err = r.Watch(ctx, func(e Event) { got = e; stop(nil) })
	if want := (Event{Network: true, Ours: true}); !errors.Is(err, context.Canceled) || got != want {
		t.Errorf("Watch told %q and ended with %v, want %q", got, err, want)
	}
}

// Messages of the kernel come from a program that can be trusted, but their form
// changes with its version.
func FuzzWhere(f *testing.F) {
	route := nl.NewRtMsg()
	route.Table = unix.RT_TABLE_COMPAT
	attr := nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(Table))
	const ownPort = 4711
	seeds := []struct {
		kind uint16
		data []byte
		want trigger
	}{
		{unix.RTM_NEWROUTE, append(route.Serialize(), attr.Serialize()...), lookOurs},
		{unix.RTM_DELROUTE, nl.NewRtMsg().Serialize(), lookDefaults},
		{unix.RTM_NEWROUTE, []byte{2, 32}, lookAll},
		{unix.RTM_DELADDR, nil, lookAddrs | lookOurs},
		{unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE, append([]byte{unix.NFPROTO_INET, 0, 0, 0}, nl.NewRtAttr(1, []byte(TableName+"\x00")).Serialize()...), lookTable},
		{unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE, append([]byte{unix.NFPROTO_INET, 0, 0, 0}, nl.NewRtAttr(1, []byte("other\x00")).Serialize()...), 0},
		{unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE, nil, lookAll},
		{unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN, nil, 0},
	}
	for _, s := range seeds {
		if got := where(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: s.kind}, Data: s.data}, ownPort); got != s.want {
			f.Errorf("message %#x % x points to %b, want %b", s.kind, s.data, got, s.want)
		}
		f.Add(s.kind, s.data)
	}
	own := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: seeds[0].kind, Pid: ownPort}, Data: seeds[0].data}
	if got := where(own, ownPort); got != 0 {
		f.Errorf("a message about our own change points to %b, want nowhere", got)
	}
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		where(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}, ownPort)
	})
}

// IPv6 that is switched off leaves a node of IPv4 alone, and comes back.
func TestIPv6SwitchedOff(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tunFor(t, "writ0")
	off := func(value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte(value), 0); err != nil {
			t.Skipf("NOT TRIED: %v", err)
		}
	}
	off("1")
	r := routerFor(t, Config{})
	must(t, r.Set(t.Context(), aState()))
	if got := r.Warnings(); len(got) != 1 || !strings.Contains(got[0], "IPv6 is switched off") {
		t.Errorf("Warnings are %q, want that IPv6 is switched off", got)
	}
	if err := send(addr("100.64.0.7")); err != nil {
		t.Errorf("by IPv4: %v, want no error", err)
	}
	if drifted, err := r.drifted(lookAll); drifted || err != nil {
		t.Errorf("drifted is %v, %v; want that it is as good as it can be", drifted, err)
	}
	off("0")
	must(t, r.Set(t.Context(), aState()))
	if got := r.Warnings(); got != nil {
		t.Errorf("Warnings with IPv6 are %q, want none", got)
	}
	if err := send(addr("fd12:3456:789a::7")); err != nil {
		t.Errorf("by IPv6: %v, want no error", err)
	}
}

// A kernel without IPv6 at all is imitated: this one has it.
func TestKernelWithoutIPv6(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tunFor(t, "writ0")
	r := routerFor(t, Config{})
	r.k.no6 = true
	must(t, r.Set(t.Context(), aState()))
	if got := r.Warnings(); len(got) != 1 || !strings.Contains(got[0], "without IPv6") {
		t.Errorf("Warnings are %q, want that the kernel has no IPv6", got)
	}
	if drifted, err := r.drifted(lookAll); drifted || err != nil {
		t.Errorf("drifted is %v, %v; want that it is as good as it can be", drifted, err)
	}
	equalLines(t, "IPv6 routes", nil, "-6", "route", "show", "table", "8787")
	if err := send(addr("100.64.0.7")); err != nil {
		t.Errorf("by IPv4: %v, want no error", err)
	}
}
