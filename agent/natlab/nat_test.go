package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	public = netip.MustParseAddr("203.0.113.7")
	inside = netip.MustParseAddrPort("192.168.1.2:40000")
	other  = netip.MustParseAddrPort("192.168.1.3:40000")
	y1a    = netip.MustParseAddrPort("198.51.100.1:1000")
	y1b    = netip.MustParseAddrPort("198.51.100.1:2000")
	y2a    = netip.MustParseAddrPort("198.51.100.2:1000")
	epoch  = time.Unix(1_700_000_000, 0)
)

func nat(cfg NAT) *table { return newTable(cfg, rand.New(rand.NewPCG(1, 2))) }

func (t *table) mustOut(tb testing.TB, now time.Time, src, dst netip.AddrPort) netip.AddrPort {
	tb.Helper()
	got, _, why := t.outbound(now, src, dst, public)
	if why != "" {
		tb.Fatalf("outbound %s to %s: dropped: %s", src, dst, why)
	}
	return got
}

// RFC 4787, section 4.1: when X1':x1' and X2':x2' are equal.
func TestMapping(t *testing.T) {
	for _, c := range []struct {
		behaviour              Behaviour
		samePort, sameAddr, no bool // as for y1a: y1a again, another port, another address
	}{
		{EndpointIndependent, true, true, true}, // REQ-1
		{AddressDependent, true, true, false},
		{AddressAndPortDependent, true, false, false},
	} {
		for _, ports := range []PortChoice{PreservePort, SequentialPort, RandomPort} {
			n := nat(NAT{Mapping: c.behaviour, Ports: ports})
			first := n.mustOut(t, epoch, inside, y1a)
			for _, d := range []struct {
				to   netip.AddrPort
				want bool
			}{{y1a, c.samePort}, {y1b, c.sameAddr}, {y2a, c.no}} {
				if got := n.mustOut(t, epoch, inside, d.to) == first; got != d.want {
					t.Errorf("%s, %s: mapping for %s is that for %s: got %t, want %t", c.behaviour, ports, d.to, y1a, got, d.want)
				}
			}
			if n.mustOut(t, epoch, other, y1a) == first {
				t.Errorf("%s, %s: two internal endpoints have one public one: port overloading, which REQ-3 forbids", c.behaviour, ports)
			}
			if first.Addr() != public {
				t.Errorf("%s: got public address %s, want %s", c.behaviour, first.Addr(), public)
			}
		}
	}
}

// RFC 4787, section 5: who may answer after X:x sent to y1a.
func TestFiltering(t *testing.T) {
	for _, c := range []struct {
		behaviour        Behaviour
		y1a, y1b, y2a    Reason
		translated, wall bool
	}{
		{behaviour: EndpointIndependent},
		{behaviour: AddressDependent, y2a: Filtered},
		{behaviour: AddressAndPortDependent, y1b: Filtered, y2a: Filtered},
	} {
		for _, transparent := range []bool{false, true} {
			n := nat(NAT{Filtering: c.behaviour, Transparent: transparent})
			if _, why := n.inbound(epoch, y1a, netip.AddrPortFrom(public, 40000)); why != Unsolicited {
				t.Errorf("%s: before anything was sent: got %q, want %q", c.behaviour, why, Unsolicited)
			}
			ext := n.mustOut(t, epoch, inside, y1a)
			if transparent && ext != inside {
				t.Errorf("%s: a firewall made %s of %s", c.behaviour, ext, inside)
			}
			for _, d := range []struct {
				from netip.AddrPort
				want Reason
			}{{y1a, c.y1a}, {y1b, c.y1b}, {y2a, c.y2a}} {
				got, why := n.inbound(epoch, d.from, ext)
				if why != d.want {
					t.Errorf("%s (transparent %t): from %s: got %q, want %q", c.behaviour, transparent, d.from, why, d.want)
				}
				if why == "" && got != inside {
					t.Errorf("%s: got internal endpoint %s, want %s", c.behaviour, got, inside)
				}
			}
		}
	}
}

// A mapping's permissions are its own: what was let in by one is not by another.
func TestPermissionsBelongToTheMapping(t *testing.T) {
	n := nat(NAT{Mapping: AddressAndPortDependent, Filtering: AddressDependent, Ports: RandomPort})
	towards1 := n.mustOut(t, epoch, inside, y1a)
	towards2 := n.mustOut(t, epoch, inside, y2a)
	if _, why := n.inbound(epoch, y2a, towards1); why != Filtered {
		t.Errorf("from %s to the mapping towards %s: got %q, want %q", y2a, y1a, why, Filtered)
	}
	if _, why := n.inbound(epoch, y2a, towards2); why != "" {
		t.Errorf("from %s to its own mapping: dropped: %s", y2a, why)
	}
}

func TestPortChoice(t *testing.T) {
	low := netip.MustParseAddrPort("192.168.1.2:123")
	for _, choice := range []PortChoice{PreservePort, SequentialPort, RandomPort} {
		n := nat(NAT{Ports: choice})
		// REQ-3a: ports below 1024 go with ports below 1024.
		if got := n.mustOut(t, epoch, low, y1a).Port(); got >= 1024 {
			t.Errorf("%s: port 123 became %d, want one below 1024", choice, got)
		}
		first := n.mustOut(t, epoch, inside, y1a).Port()
		if first < 1024 {
			t.Errorf("%s: port 40000 became %d, want one above 1023", choice, first)
		}
		second := n.mustOut(t, epoch, other, y1a).Port()
		switch choice {
		case PreservePort:
			if first != 40000 || second == 40000 {
				t.Errorf("%s: got %d and, for a second host, %d; want 40000 and another", choice, first, second)
			}
		case SequentialPort:
			if want := first + 1; second != want && first != 65535 {
				t.Errorf("%s: got %d after %d, want %d", choice, second, first, want)
			}
		case RandomPort:
			if first == 40000 || second == first+1 {
				t.Errorf("%s: got %d and %d, which looks like another choice", choice, first, second)
			}
		}
	}
}

// Every port is used before a host gets none, no port twice; ended mappings give
// theirs back.
func TestPortsRunOut(t *testing.T) {
	const usable = 1023 // of ports below 1024, which are mapped to each other
	for _, choice := range []PortChoice{PreservePort, SequentialPort, RandomPort} {
		n := nat(NAT{Ports: choice})
		used := make(map[netip.AddrPort]bool)
		host := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 500)
		}
		for i := range usable {
			used[n.mustOut(t, epoch, host(i), y1a)] = true
		}
		if len(used) != usable {
			t.Fatalf("%s: %d hosts have %d ports, want as many", choice, usable, len(used))
		}
		if _, _, why := n.outbound(epoch, host(usable), y1a, public); why != NoFreePort {
			t.Errorf("%s: one host more: got %q, want %q", choice, why, NoFreePort)
		}
		later := epoch.Add(DefaultTimeout)
		for i := range usable {
			n.mustOut(t, later, host(usable+i), y1a)
		}
		if len(n.byPort) != usable || len(n.byKey) != usable {
			t.Errorf("%s: after the timeout %d mappings are kept, want %d", choice, len(n.byPort), usable)
		}
	}
}

// REQ-5 and REQ-6: packets outwards keep a mapping alive, packets inwards do not.
func TestTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, 30 * time.Second} {
		n := nat(NAT{Timeout: timeout, Ports: RandomPort})
		wait := timeout
		if wait == 0 {
			wait = 5 * time.Minute // REQ-5c
		}
		now := epoch
		ext := n.mustOut(t, now, inside, y1a)
		for range 5 {
			now = now.Add(wait - 1)
			if got := n.mustOut(t, now, inside, y1a); got != ext {
				t.Fatalf("timeout %s: just before it the mapping moved from %s to %s", wait, ext, got)
			}
		}
		now = now.Add(wait - 1)
		if _, why := n.inbound(now, y1a, ext); why != "" {
			t.Errorf("timeout %s: just before it: dropped: %s", wait, why)
		}
		now = now.Add(1)
		if _, why := n.inbound(now, y1a, ext); why != Unsolicited {
			t.Errorf("timeout %s: at it, though a packet came in just before: got %q, want %q", wait, why, Unsolicited)
		}
		if got := n.mustOut(t, now, inside, y1a); got == ext {
			t.Errorf("timeout %s: after it the mapping is %s again, want another port", wait, got)
		}
	}
}

// A remote's permission ends by itself, though others keep the mapping alive.
func TestPermissionTimeout(t *testing.T) {
	n := nat(NAT{Filtering: AddressDependent})
	ext := n.mustOut(t, epoch, inside, y1a)
	half := epoch.Add(DefaultTimeout / 2)
	n.mustOut(t, half, inside, y2a)
	end := epoch.Add(DefaultTimeout)
	if _, why := n.inbound(end, y1a, ext); why != Filtered {
		t.Errorf("from %s: got %q, want %q", y1a, why, Filtered)
	}
	if _, why := n.inbound(end, y2a, ext); why != "" {
		t.Errorf("from %s: dropped: %s", y2a, why)
	}
}

func TestFlush(t *testing.T) {
	n := nat(NAT{})
	ext := n.mustOut(t, epoch, inside, y1a)
	n.flush()
	if _, why := n.inbound(epoch, y1a, ext); why != Unsolicited {
		t.Errorf("after a flush: got %q, want %q", why, Unsolicited)
	}
}

// Whatever is sent, the two indexes of a table say the same, and no two live
// mappings share a public endpoint or a key (REQ-3, REQ-11).
func FuzzTable(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 0x80, 4, 5})
	f.Add(uint64(0x123456), []byte("a NAT is a table of what was asked for"))
	f.Fuzz(func(t *testing.T, shape uint64, packets []byte) {
		if len(packets) > 1000 {
			return
		}
		n := nat(NAT{
			Mapping: Behaviour(shape % 3), Filtering: Behaviour(shape / 3 % 3), Ports: PortChoice(shape / 9 % 3),
			Transparent: shape/27%2 == 1, Timeout: time.Duration(shape/54%100) * time.Second,
		})
		now := epoch
		for _, b := range packets {
			now = now.Add(time.Duration(b>>5) * 10 * time.Second)
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, b & 1}), 1023+uint16(b>>1&1))
			dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, b >> 2 & 1}), 1000+uint16(b>>3&3))
			ext, _, why := n.outbound(now, src, dst, public)
			if why != "" {
				t.Fatalf("outbound: %s", why)
			}
			if back, why := n.inbound(now, dst, ext); why != "" || back != src {
				t.Fatalf("the answer of %s to %s: got %s, %q; want %s", dst, ext, back, why, src)
			}
			if len(n.byKey) != len(n.byPort) {
				t.Fatalf("%d mappings by key and %d by port, want as many", len(n.byKey), len(n.byPort))
			}
			for ext, m := range n.byPort {
				if m.public != ext || n.byKey[m.key] != m {
					t.Fatal(fmt.Sprint("indexes disagree about ", ext))
				}
			}
		}
	})
}
