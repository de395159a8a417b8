package natlab

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reflector lets a server of a world answer on port 3478 until the test ends,
// and returns its address.
func reflector(t *testing.T, h *Host) netip.AddrPort {
	t.Helper()
	c := listen(t, h, 3478)
	var done sync.WaitGroup
	reflect(c, &done)
	t.Cleanup(func() {
		c.Close()
		done.Wait()
	})
	return netip.AddrPortFrom(h.Addrs()[0], 3478)
}

func world(t *testing.T, w *World) *World {
	t.Cleanup(w.Close)
	return w
}

// Two servers at different addresses see what RFC 5780 would classify as the
// kind's mapping.
func TestKindsAsServersSeeThem(t *testing.T) {
	for _, k := range Kinds {
		synctest.Test(t, func(t *testing.T) {
			w := world(t, Pair(5, k, KindNamed("open")))
			s1, s2 := reflector(t, w.Servers[0]), reflector(t, w.Servers[1])
			again := listen(t, w.Servers[0], 3479)
			var done sync.WaitGroup
			reflect(again, &done)
			t.Cleanup(func() { again.Close(); done.Wait() })

			c := listen(t, w.A.Host, 41641)
			one, two := seenFrom(t, c, s1), seenFrom(t, c, s2)
			port := seenFrom(t, c, netip.AddrPortFrom(s1.Addr(), 3479))
			if k.UDPBlocked {
				if one.IsValid() || two.IsValid() || port.IsValid() {
					t.Errorf("%s: servers saw %s, %s, %s; want nothing", k, one, two, port)
				}
				return
			}
			if one.Addr() != two.Addr() {
				t.Errorf("%s: servers saw addresses %s and %s, want one (REQ-2)", k, one.Addr(), two.Addr())
			}
			got := EndpointIndependent
			if one != two {
				got = AddressDependent
			}
			if one != port {
				got = AddressAndPortDependent
			}
			if got != k.Mapping {
				t.Errorf("%s: got mapping %s (%s, %s, %s), want %s", k, got, one, two, port, k.Mapping)
			}
			local := netip.AddrPortFrom(w.A.Host.Addrs()[0], 41641)
			if translated := one != local; translated == (k.Name == "open" || k.Name == "firewall") {
				t.Errorf("%s: %s is seen as %s", k, local, one)
			}
		})
	}
}

// REQ-9a: what comes back by the hairpin has the sender's public endpoint.
func TestHairpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, hairpin := range []bool{true, false} {
			w := SameLAN(5, Kind{Name: "hairpin", Layers: []NAT{{Hairpin: hairpin, Filtering: AddressAndPortDependent}}})
			w.Servers[0].Attach(w.Internet(), Link{}, netip.MustParseAddr("192.0.2.99"))
			server := listen(t, w.Servers[0], 3478)
			var done sync.WaitGroup
			reflect(server, &done)
			a, b := listen(t, w.A.Host, 1000), listen(t, w.B.Host, 2000)
			seenA := seenFrom(t, a, netip.MustParseAddrPort("192.0.2.1:3478"))
			seenB := seenFrom(t, b, netip.MustParseAddrPort("192.0.2.1:3478"))

			send(t, a, "opens", seenB)
			if got, _ := next(t, b); got != "" {
				t.Errorf("hairpin %t: b got %q, want nothing before it has sent itself", hairpin, got)
			}
			send(t, b, "arrives", seenA)
			got, from := next(t, a)
			if hairpin && (got != "arrives" || from != seenB) {
				t.Errorf("got %q from %s, want arrives from %s", got, from, seenB)
			}
			if !hairpin && (got != "" || w.Dropped(NoHairpin) != 2) {
				t.Errorf("without a hairpin: got %q and %d drops, want nothing and 2", got, w.Dropped(NoHairpin))
			}
			w.Close()
			done.Wait()
		}
	})
}

func TestUnsolicited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, KindNamed("home"), KindNamed("open")))
		s := reflector(t, w.Servers[0])
		a, b := listen(t, w.A.Host, 41641), listen(t, w.B.Host, 41641)
		send(t, b, "nobody asked", netip.MustParseAddrPort("203.0.113.16:41641"))
		time.Sleep(time.Second)
		seen := seenFrom(t, a, s)
		if seen != netip.MustParseAddrPort("203.0.113.16:41641") {
			t.Fatalf("server saw %s, want the port preserved", seen)
		}
		send(t, b, "another was asked", seen)
		if got, from := next(t, a); got != "" {
			t.Errorf("got %q from %s, want nothing", got, from)
		}
		want := map[Drop]int{{"a-router", Unsolicited}: 1, {"a-router", Filtered}: 1}
		if got := w.Drops(); len(got) != 2 || got[Drop{"a-router", Unsolicited}] != 1 || got[Drop{"a-router", Filtered}] != 1 {
			t.Errorf("got drops %v, want %v", got, want)
		}
	})
}

// Mappings end in virtual time (REQ-5), a reboot ends them at once, and so does
// another outer address.
func TestMappingsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, one("random", EndpointIndependent, EndpointIndependent, RandomPort), KindNamed("open")))
		s := reflector(t, w.Servers[0])
		a, b := listen(t, w.A.Host, 41641), listen(t, w.B.Host, 41641)
		seen := seenFrom(t, a, s)
		for what, end := range map[string]func(){
			"timeout": func() { time.Sleep(DefaultTimeout) },
			"reboot":  w.A.Routers[0].Reboot,
			"address": func() { w.A.Routers[0].Outer().SetAddrs(netip.MustParseAddr("203.0.113.99")) },
		} {
			send(t, b, "before", seen)
			if got, _ := next(t, a); got != "before" {
				t.Errorf("before %s: got %q, want before", what, got)
			}
			end()
			send(t, b, "after", seen)
			if got, _ := next(t, a); got != "" {
				t.Errorf("after %s: got %q, want nothing", what, got)
			}
			again := seenFrom(t, a, s)
			if again == seen || !again.IsValid() {
				t.Errorf("after %s: server sees %s, want another endpoint than before", what, again)
			}
			seen = again
		}
	})
}

// Where addresses are not translated, networks outside know the way, through as
// many routers as there are.
func TestRoutesBehindRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, KindNamed("carrier").WithIPv6(), KindNamed("home").WithIPv6()))
		a, b := listen(t, w.A.Host, 41641), listen(t, w.B.Host, 41641)
		six := func(h *Host) netip.AddrPort { return netip.AddrPortFrom(h.Addrs()[1], 41641) }
		send(t, a, "opens", six(w.B.Host))
		if got, _ := next(t, b); got != "" {
			t.Errorf("b got %q, want nothing before it has sent itself", got)
		}
		send(t, b, "arrives", six(w.A.Host))
		if got, from := next(t, a); got != "arrives" || from != six(w.B.Host) {
			t.Errorf("got %q from %s, want arrives from %s", got, from, six(w.B.Host))
		}
	})
}

// A topology that goes in a circle ends packets, and the search for routes.
func TestCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		p, q := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")
		first, second := n.Network("first", p), n.Network("second", q)
		addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
		n.Router("r1", Between{Inner: first, InnerAddrs: addr("10.1.0.1"), Outer: second, OuterAddrs: addr("10.2.0.1")})
		n.Router("r2", Between{Inner: second, InnerAddrs: addr("10.2.0.2"), Outer: first, OuterAddrs: addr("10.1.0.2")})
		h := n.Host("h")
		h.Attach(first, Link{}, addr("10.1.0.9")...)
		send(t, listen(t, h, 1), "round and round", netip.MustParseAddrPort("10.9.0.1:1"))
		time.Sleep(time.Minute)
		if got := n.Dropped(HopLimit); got != 1 {
			t.Errorf("got %d packets over the hop limit, want 1\n%s", got, n.Log())
		}
	})
}

// Some packets end at the router itself.
func TestRouterDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, KindNamed("home"), KindNamed("firewall")))
		a, b := listen(t, w.A.Host, 1), listen(t, w.B.Host, 1)
		open := listen(t, w.Servers[0], 1)
		for _, c := range []struct {
			from *Conn
			to   string
			want Drop
		}{
			{a, "192.168.1.1:53", Drop{"a-router", NoSocket}},
			{b, "198.51.100.33:53", Drop{"b-router", NoSocket}},
			{open, "203.0.113.32:53", Drop{"b-router", NoSocket}},
			{open, "198.51.100.34:1", Drop{"b-router", Unsolicited}},
			{open, "203.0.113.16:53", Drop{"a-router", Unsolicited}},
			{a, "192.168.1.77:1", Drop{"a", NoRoute}},      // nobody on the LAN has it
			{a, "10.0.0.1:1", Drop{"a-router", NoRoute}},   // nobody on the Internet has it
			{open, "10.0.0.1:1", Drop{"server1", NoRoute}}, // nor from here
			{a, "203.0.113.16:9", Drop{"a-router", Unsolicited}},
		} {
			before := w.Drops()
			send(t, c.from, "x", netip.MustParseAddrPort(c.to))
			time.Sleep(time.Second)
			after := w.Drops()
			if got := after[c.want] - before[c.want]; got != 1 {
				t.Errorf("from %s to %s: got %d drops at %s because %q, want 1\n%s", c.from.host.Name(), c.to, got, c.want.Place, c.want.Reason, w.Log())
			}
		}
	})
}
