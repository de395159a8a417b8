package router

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestStateIsRefused(t *testing.T) {
	a := netip.MustParseAddr
	for _, c := range []struct {
		state State
		want  string
	}{
		{State{Addresses: []netip.Addr{{}}}, "no address"},
		{State{Addresses: []netip.Addr{a("100.64.0.1"), a("100.64.0.2")}}, "there already"},
		{State{Addresses: []netip.Addr{a("fe80::1")}}, "not a unicast address"},
		{State{Addresses: []netip.Addr{a("100.64.0.1")}, Peers: []netip.Addr{a("100.64.0.1")}}, "this node's own"},
		{State{Peers: []netip.Addr{a("::ffff:100.64.0.1")}}, "not a plain address"},
		{State{Peers: []netip.Addr{a("fd00::1%eth0")}}, "not a plain address"},
		{State{Peers: []netip.Addr{a("0.0.0.0")}}, "not a unicast address"},
		{State{Peers: []netip.Addr{a("0.1.2.3")}}, "reserved"},
		{State{Peers: []netip.Addr{a("255.255.255.255")}}, "reserved"},
		{State{Peers: []netip.Addr{a("127.0.0.1")}}, "not a unicast address"},
		{State{Peers: []netip.Addr{a("224.0.0.1")}}, "not a unicast address"},
		{State{Peers: []netip.Addr{a("ff02::1")}}, "not a unicast address"},
		{State{Peers: make([]netip.Addr, MaxPeers+1)}, "at most"},
		{State{Prefix6: netip.MustParsePrefix("::/0")}, "not a /48"},
		{State{Prefix6: netip.MustParsePrefix("fd00::/8")}, "not a /48"},
		{State{Prefix6: netip.MustParsePrefix("2001:db8::/48")}, "not a /48"},
		{State{Prefix6: netip.MustParsePrefix("fd00::1/48")}, "not a /48"},
		{State{Prefix6: netip.MustParsePrefix("10.0.0.0/8")}, "not a /48"},
		{State{MTU: 1279}, "MTU"},
		{State{MTU: 65_536}, "MTU"},
		{State{MTU: -1}, "MTU"},
	} {
		if _, err := c.state.checked(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: error %v, want one that says %q", fmt.Sprint(c.state), err, c.want)
		}
	}
	if _, err := (State{}).checked(); err != nil {
		t.Errorf("the empty state: %v, want no error", err)
	}
}

// Applied to what was there, the changes give what is wanted, beside routes of
// addresses that departed; and no address is ever left to the device alone.
func TestRouteChanges(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("100.64.0.1")}
	state := func(last ...byte) State {
		s := State{Addresses: own}
		for _, b := range last {
			s.Peers = append(s.Peers, netip.AddrFrom4([4]byte{100, 64, 1, b}))
		}
		return s
	}
	have := state(1, 2, 3).routes(7)
	want := state(2, 3, 4).routes(8) // the interface was made anew
	remove, add := routeChanges(want, have)
	now := maps.Clone(have)
	for _, r := range remove {
		delete(now, r)
	}
	for _, r := range add {
		now[r] = true
		if r.kind == device && !now[route{dst: r.dst, kind: unreachable, metric: unreachableMetric}] {
			t.Errorf("%s is added to the device before its unreachable route", r.dst)
		}
	}
	departed := route{dst: netip.MustParsePrefix("100.64.1.1/32"), kind: unreachable, metric: unreachableMetric}
	if !now[departed] {
		t.Errorf("the unreachable route of the address that departed is gone")
	}
	delete(now, departed)
	if !maps.Equal(now, want) {
		t.Errorf("the routes are\n%v\nwant\n%v", now, want)
	}

	many := make(map[route]bool)
	for i := range maxDeparted + 5 {
		a := netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)})
		many[route{dst: netip.PrefixFrom(a, 32), kind: unreachable, metric: unreachableMetric}] = true
	}
	if remove, add := routeChanges(nil, many); len(remove) != 5 || len(add) != 0 {
		t.Errorf("of %d departed addresses %d routes are removed and %d added, want 5 and 0", len(many), len(remove), len(add))
	}
}

func TestConflicts(t *testing.T) {
	s, err := State{
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd00:1:1::1")},
		Peers: []netip.Addr{
			netip.MustParseAddr("fd00:1:1::2"), netip.MustParseAddr("100.64.5.7"), netip.MustParseAddr("100.64.5.8"),
			netip.MustParseAddr("100.64.5.9"), netip.MustParseAddr("100.64.5.10"), netip.MustParseAddr("100.64.6.1"),
		},
	}.checked()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		around surroundings
		want   []string // what each warning must name
	}{
		{surroundings{}, nil},
		{surroundings{addresses: []linkAddr{{"eth0", netip.MustParsePrefix("192.0.2.1/24")}, {"eth0", netip.MustParsePrefix("fe80::1/64")}}}, nil},
		{surroundings{addresses: []linkAddr{{"eth1", netip.MustParsePrefix("100.64.0.1/32")}}}, []string{"100.64.0.1 is on interface eth1"}},
		{surroundings{addresses: []linkAddr{{"eth1", netip.MustParsePrefix("100.64.6.1/32")}}}, []string{"peer address 100.64.6.1 is an address of this machine (interface eth1)"}},
		{surroundings{addresses: []linkAddr{{"cgn", netip.MustParsePrefix("100.64.5.1/24")}}}, []string{"100.64.5.0/24 of interface cgn covers 4 addresses of peers (100.64.5.7; 100.64.5.8; 100.64.5.9; …)"}},
		{surroundings{addresses: []linkAddr{{"lan", netip.MustParsePrefix("fd00:1:1::5/64")}}}, []string{"fd00:1:1::/64 of interface lan covers 1 address of peers"}},
		{surroundings{rules: []string{"a rule"}, routes: []string{"a", "b"}}, []string{"1 rule not ours at priority 1870", "2 routes not ours in table 8787"}},
	} {
		got := s.conflicts(c.around)
		if len(got) != len(c.want) {
			t.Errorf("%v: warnings %q, want %d", c.around, got, len(c.want))
			continue
		}
		for _, want := range c.want {
			if !slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, want) }) {
				t.Errorf("%v: warnings %q, want one that says %q", c.around, got, want)
			}
		}
	}
}
