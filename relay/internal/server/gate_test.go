package server

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func at(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func TestGateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{MaxPending: 6, PendingPerSource: 4, ConnectRate: 2, ConnectBurst: 8})
		enter := func(from string, want turnedAway) (leave func()) {
			t.Helper()
			leave, reason := g.enter(at(from))
			if want < 0 && leave == nil || want >= 0 && (leave != nil || reason != want) {
				t.Fatalf("%s: admitted %v (%v), want %v", from, leave != nil, reason, want)
			}
			return leave
		}
		const in = turnedAway(-1)
		var leave []func()
		for range 4 {
			leave = append(leave, enter("192.0.2.1:1", in))
		}
		enter("192.0.2.1:2", sourcePending)
		// The neighbour is another source in IPv4, and the same in an IPv6 /64.
		leave = append(leave, enter("192.0.2.2:1", in), enter("[2001:db8::1]:1", in))
		enter("[2001:db8::2]:1", tooManyPending)
		enter("192.0.2.3:1", tooManyPending)
		for _, l := range leave {
			l()
		}
		if g.pending != 0 {
			t.Errorf("%d pending, want 0", g.pending)
		}
		// Of eight at once, four are spent; being turned away spends none.
		for range 4 {
			enter("192.0.2.1:1", in)()
		}
		enter("192.0.2.1:1", sourceRate)
		enter("192.0.2.9:1", in)()
		time.Sleep(500 * time.Millisecond)
		enter("192.0.2.1:1", in)()
		enter("192.0.2.1:1", sourceRate)
		// An IPv4 address written as IPv6 is the same source.
		enter("[::ffff:192.0.2.1]:1", sourceRate)
		for range 8 { // its first is whole again, too
			enter("[2001:db8::5]:1", in)()
		}
		enter("[2001:db8::6]:1", sourceRate)
		enter("[2001:db8:0:1::6]:1", in)()
	})
}

// TestGateForgets: an attacker with many addresses does not fill the memory,
// and sources that rest are forgotten.
func TestGateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{MaxPending: 10, PendingPerSource: 4, ConnectRate: 1, ConnectBurst: 2})
		g.maxSources, g.forgetful = 1<<10, 1<<6
		source := 0
		next := func() bool {
			source++
			leave, _ := g.enter(at(fmt.Sprintf("[2001:db8:%x:%x::1]:1", source>>16, source&0xffff)))
			if leave != nil {
				leave()
			}
			return leave != nil
		}
		for range g.maxSources {
			if !next() {
				t.Fatalf("source %d turned away", source)
			}
		}
		if next() {
			t.Error("more sources than the gate remembers")
		}
		if n := len(g.sources); n > g.maxSources {
			t.Errorf("%d sources remembered, at most %d", n, g.maxSources)
		}
		time.Sleep(2 * time.Second) // their limits are whole again
		if !next() || len(g.sources) != 1 {
			t.Errorf("%d sources remembered after a rest, want 1", len(g.sources))
		}
	})
}

func TestSourceOfOtherAddresses(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := sourceOf(a.RemoteAddr()); got != (netip.Prefix{}) {
		t.Errorf("got %v, want none", got)
	}
	if got, want := sourceOf(at("[fe80::1%eth0]:9")), netip.MustParsePrefix("fe80::/64"); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
