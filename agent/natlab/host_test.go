package natlab

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A host with two interfaces prefers the network that the destination is on,
// then the one attached first; and goes on by the other when that is down.
func TestRoaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(9, KindNamed("home"), KindNamed("open")))
		mobile := w.Network("mobile", netip.MustParsePrefix("10.8.0.0/16"))
		w.Router("tower", Between{
			Inner: mobile, InnerAddrs: []netip.Addr{netip.MustParseAddr("10.8.0.1")},
			Outer: w.Internet(), OuterAddrs: []netip.Addr{netip.MustParseAddr("203.0.113.200")},
			V4: &NAT{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, Ports: RandomPort},
		})
		s := reflector(t, w.Servers[0])
		a := listen(t, w.A.Host, 41641)
		home, tower := netip.MustParseAddr("203.0.113.16"), netip.MustParseAddr("203.0.113.200")
		at := func(what string, want netip.Addr) {
			t.Helper()
			if got := seenFrom(t, a, s).Addr(); got != want {
				t.Errorf("%s: server sees %s, want %s", what, got, want)
			}
		}
		at("at home", home)

		changed := w.A.Host.Changed()
		notified := func(what string) {
			t.Helper()
			select {
			case <-changed:
			default:
				t.Errorf("%s: Changed did not wake", what)
			}
			changed = w.A.Host.Changed()
			select {
			case <-changed:
				t.Errorf("%s: Changed wakes without a change", what)
			default:
			}
		}
		phone := w.A.Host.Attach(mobile, Link{Delay: 40 * time.Millisecond}, netip.MustParseAddr("10.8.0.2"))
		notified("attach")
		at("with both", home)
		w.A.Interface.SetUp(false)
		notified("down")
		at("on the way", tower)
		if got, want := w.A.Host.Addrs(), []netip.Addr{netip.MustParseAddr("10.8.0.2")}; !slices.Equal(got, want) {
			t.Errorf("got addresses %v, want %v", got, want)
		}
		w.A.Interface.SetUp(true)
		notified("up")
		at("home again", home)
		phone.SetAddrs(netip.MustParseAddr("10.8.0.3"))
		notified("another lease")
		w.A.Host.Detach(phone)
		notified("detach")
		at("without the other", home)
		w.A.Interface.SetUp(false)
		if _, err := a.WriteToUDPAddrPort(nil, s); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("with no interface: got %v, want %v", err, syscall.ENETUNREACH)
		}
	})
}

// What was under way to an address that moved ends.
func TestAddressMovesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{Delay: 50 * time.Millisecond}, Link{Delay: 50 * time.Millisecond})
		moved := netip.MustParseAddr("203.0.113.77")
		send(t, x, "to the old one", netip.AddrPortFrom(addrY, 1000))
		time.Sleep(75 * time.Millisecond) // on y's link
		y.host.interfaces[0].SetAddrs(moved)
		send(t, x, "to nobody", netip.AddrPortFrom(addrY, 1000))
		send(t, x, "to the new one", netip.AddrPortFrom(moved, 1000))
		if got, _ := next(t, y); got != "to the new one" {
			t.Errorf("got %q, want only what went to the new address", got)
		}
		if got := n.Drops(); got[Drop{"y", NoRoute}] != 1 || got[Drop{"x", NoRoute}] != 1 {
			t.Errorf("got drops %v, want one at each end", got)
		}
	})
}

// A block says nothing to the sender; a cut holds between two nodes only, one
// way or both.
func TestBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{}, Link{})
		third := n.Host("z")
		third.Attach(n.Internet(), Link{}, netip.MustParseAddr("203.0.113.3"))
		z := listen(t, third, 1000)
		passes := func(what string, from, to *Conn, want bool) {
			t.Helper()
			send(t, from, what, netip.AddrPortFrom(to.host.Addrs()[0], 1000))
			if got, _ := next(t, to); (got == what) != want {
				t.Errorf("%s, from %s to %s: got %q, want it to pass: %t", what, from.host.Name(), to.host.Name(), got, want)
			}
		}
		n.Cut(x.host, y.host)
		passes("cut", x, y, false)
		passes("cut", y, x, false)
		passes("cut", x, z, true)
		n.Mend(y.host, x.host)
		passes("mended", x, y, true)
		passes("mended", y, x, true)
		n.CutOneWay(x.host, y.host)
		passes("one way", x, y, false)
		passes("one way", y, x, true)
		n.Mend(x.host, y.host)
		link := y.host.interfaces[0]
		link.SetBlocked(true)
		passes("blocked", x, y, false)
		passes("blocked", y, z, false)
		link.SetBlocked(false)
		passes("unblocked", x, y, true)
		if got := n.Dropped(Blocked); got != 5 {
			t.Errorf("counted %d blocked packets, want 5", got)
		}
	})
}

func TestContradictionsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		lan := n.Network("lan", netip.MustParsePrefix("192.168.1.0/24"))
		h := n.Host("h")
		h.Attach(lan, Link{}, netip.MustParseAddr("192.168.1.2"))
		for what, build := range map[string]func(){
			"two hosts of one name":    func() { n.Host("h") },
			"two networks of one name": func() { n.Network("lan") },
			"an address of elsewhere":  func() { h.Attach(lan, Link{}, netip.MustParseAddr("10.0.0.1")) },
			"an address of another":    func() { h.Attach(lan, Link{}, netip.MustParseAddr("192.168.1.2")) },
			"a router to itself":       func() { n.Router("r", Between{Inner: lan, Outer: lan}) },
			"a kind nobody listed":     func() { KindNamed("full cone") },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", what)
					}
				}()
				build()
			}()
		}
		n.Host("after") // the lock is free
	})
}
