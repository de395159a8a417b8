package natlab

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A bench is a NAT with two hosts inside and a server outside that has several
// sockets, for looking at it as RFC 5780 and RFC 4787 do: from both sides, and
// never into it.
type bench struct {
	*World
	t       *testing.T
	servers []*Conn // at two addresses, the first of them with two ports
}

func (b bench) addr(server int) netip.AddrPort {
	c := b.servers[server]
	return netip.AddrPortFrom(c.host.Addrs()[0], c.local.Port())
}

// seen sends from a socket to a server, and returns where that sees it.
func (b bench) seen(c *Conn, server int) netip.AddrPort {
	b.t.Helper()
	send(b.t, c, "x", b.addr(server))
	_, from := next(b.t, b.servers[server])
	return from
}

// enters reports whether what a server sends to an endpoint reaches the socket.
func (b bench) enters(server int, to netip.AddrPort, c *Conn) bool {
	b.t.Helper()
	send(b.t, b.servers[server], "y", to)
	got, _ := next(b.t, c)
	return got == "y"
}

// mapping looks at a socket from all servers: which see the same endpoint.
func (b bench) mapping(c *Conn) Behaviour {
	b.t.Helper()
	first, port, addr := b.seen(c, 0), b.seen(c, 1), b.seen(c, 2)
	switch {
	case first == port && first == addr:
		return EndpointIndependent
	case first == port:
		return AddressDependent
	}
	return AddressAndPortDependent
}

// The requirements of RFC 4787, section 11, that concern UDP without ICMP and
// fragments. Each says whether a NAT meets it.
var requirements = []struct {
	name string
	met  func(b bench) bool
}{
	{"REQ-1 endpoint-independent mapping", func(b bench) bool {
		return b.mapping(listen(b.t, b.A.Host, 40000)) == EndpointIndependent
	}},
	{"REQ-2 paired address pooling", func(b bench) bool {
		one := b.seen(listen(b.t, b.A.Host, 40000), 0)
		return one.Addr() == b.seen(listen(b.t, b.A.Host, 40001), 2).Addr()
	}},
	{"REQ-3 no port overloading", func(b bench) bool {
		seen := make(map[netip.AddrPort]bool)
		for port := range uint16(20) {
			seen[b.seen(listen(b.t, b.A.Host, 40000+port), 0)] = true
			seen[b.seen(listen(b.t, b.B.Host, 40000+port), 0)] = true
		}
		return len(seen) == 40
	}},
	{"REQ-3a ports stay in their range", func(b bench) bool {
		low, high := listen(b.t, b.A.Host, 123), listen(b.t, b.A.Host, 40000)
		lowB, highB := listen(b.t, b.B.Host, 123), listen(b.t, b.B.Host, 40000)
		return b.seen(low, 0).Port() < 1024 && b.seen(lowB, 0).Port() < 1024 &&
			b.seen(high, 0).Port() >= 1024 && b.seen(highB, 0).Port() >= 1024
	}},
	{"REQ-5 mappings last two minutes", func(b bench) bool {
		c := listen(b.t, b.A.Host, 40000)
		ext := b.seen(c, 0)
		time.Sleep(2 * time.Minute)
		return b.enters(0, ext, c)
	}},
	{"REQ-5c mappings last five minutes by default", func(b bench) bool {
		c := listen(b.t, b.A.Host, 40000)
		ext := b.seen(c, 0)
		time.Sleep(5*time.Minute - time.Second)
		return b.enters(0, ext, c)
	}},
	{"REQ-6 packets outwards refresh", func(b bench) bool {
		c := listen(b.t, b.A.Host, 40000)
		ext := b.seen(c, 0)
		for range 10 {
			time.Sleep(2 * time.Minute)
			b.seen(c, 0)
		}
		return b.enters(0, ext, c)
	}},
	{"REQ-8 filtering looks at no port", func(b bench) bool {
		c := listen(b.t, b.A.Host, 40000)
		return b.enters(1, b.seen(c, 0), c)
	}},
	{"REQ-9 hairpinning", func(b bench) bool {
		_, ok := b.hairpin()
		return ok
	}},
	{"REQ-9a hairpin with the external source", func(b bench) bool {
		external, _ := b.hairpin()
		return external
	}},
	{"REQ-11 one behaviour, also in a conflict of ports", func(b bench) bool {
		return b.mapping(listen(b.t, b.A.Host, 40000)) == b.mapping(listen(b.t, b.B.Host, 40000))
	}},
}

// hairpin lets both hosts send to where the server sees the other, so that no
// filter that looks at mappings which stay stands in the way.
func (b bench) hairpin() (external, ok bool) {
	x, y := listen(b.t, b.A.Host, 50000), listen(b.t, b.B.Host, 50001)
	seenX, seenY := b.seen(x, 0), b.seen(y, 0)
	send(b.t, y, "opens", seenX)
	next(b.t, x)
	send(b.t, x, "arrives", seenY)
	got, from := next(b.t, y)
	return from == seenX, got == "arrives"
}

func TestRequirements(t *testing.T) {
	const (
		ad  = AddressDependent
		apd = AddressAndPortDependent
	)
	for _, c := range []struct {
		name  string
		nat   NAT
		unmet []string // beginnings of requirements
	}{
		{"transparent to applications", NAT{Hairpin: true}, nil},
		{"recommended for stringent filtering", NAT{Filtering: ad, Hairpin: true, Ports: SequentialPort}, nil},
		{"random ports", NAT{Filtering: ad, Hairpin: true, Ports: RandomPort}, nil},
		{"usual home router", homeRouter, []string{"REQ-8 "}},
		{"no hairpin", NAT{}, []string{"REQ-9 ", "REQ-9a "}},
		{"hasty", NAT{Hairpin: true, Timeout: 30 * time.Second, Ports: RandomPort}, []string{"REQ-5 ", "REQ-5c ", "REQ-6 "}},
		{"two minutes and a bit", NAT{Hairpin: true, Timeout: 2*time.Minute + time.Second}, []string{"REQ-5c "}},
		// A hairpin helps only where somebody knows the endpoint.
		{"address-dependent", NAT{Mapping: ad, Filtering: ad, Hairpin: true, Ports: RandomPort}, []string{"REQ-1 ", "REQ-9 ", "REQ-9a "}},
		{"worst", NAT{Mapping: apd, Filtering: apd, Hairpin: true, Ports: RandomPort}, []string{"REQ-1 ", "REQ-8 ", "REQ-9 ", "REQ-9a "}},
	} {
		for _, r := range requirements {
			synctest.Test(t, func(t *testing.T) {
				b := bench{t: t, World: world(t, SameLAN(3, Kind{Layers: []NAT{c.nat}}))}
				b.servers = []*Conn{listen(t, b.Servers[0], 3478), listen(t, b.Servers[0], 3479), listen(t, b.Servers[1], 3478)}
				want := !slices.ContainsFunc(c.unmet, func(u string) bool { return len(r.name) > len(u) && r.name[:len(u)] == u })
				if got := r.met(b); got != want {
					t.Errorf("%s: %s: got %t, want %t\n%s", c.name, r.name, got, want, b.Log())
				}
			})
		}
	}
}
