package underlay

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/relay/stun"
)

// often is a stream of a hundred packets a second.
const often = 10 * time.Millisecond

// flows checks that no node was without data for longer than limit since began.
func (l *lab) flows(what string, began time.Time, limit time.Duration, nodes ...*node) {
	l.t.Helper()
	for _, n := range nodes {
		if gap := n.longestGap(began); gap > limit {
			l.t.Errorf("%s: %s had no data for %s, want %s at most", what, n.name, gap, limit)
		}
	}
}

func TestBlockedPath(t *testing.T) {
	for _, kind := range []string{"home", "open", "ei-ad"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := natlab.Pair(2, natlab.KindNamed(kind), natlab.KindNamed("home"))
				l, a, b := pair(t, w)
				l.stream(a, b, often)
				l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
				time.Sleep(20 * time.Second)
				began := time.Now()
				w.Cut(w.A.Edge(), w.B.Edge())
				time.Sleep(20 * time.Second)
				synctest.Wait()
				l.flows("after the cut", began, time.Second, a, b)
				if !bothRelayed(a, b)() {
					t.Errorf("20 s after the cut: a sends to %+v and b to %+v, want by relay", a.to(b), b.to(a))
				}
				w.Mend(w.A.Edge(), w.B.Edge())
				took := l.within("direct again", 5*time.Second, bothOnlyDirect(a, b))
				t.Logf("direct again %s after it was mended", took)

				// One way only: both sides must leave it.
				began = time.Now()
				w.CutOneWay(w.B.Edge(), w.A.Edge())
				time.Sleep(10 * time.Second)
				synctest.Wait()
				l.flows("after a cut one way", began, time.Second, a, b)
			})
		})
	}
}

// A NAT that restarts shows its node at another port. Behind a peer's NAT that
// looks at ports, only a STUN server can say which.
func TestNATReboots(t *testing.T) {
	random := natlab.Kind{Name: "random", Filtering: natlab.AddressAndPortDependent, Layers: []natlab.NAT{
		{Filtering: natlab.AddressAndPortDependent, Ports: natlab.RandomPort},
	}}
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(3, random, natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		for range 3 {
			before := b.to(a).Direct
			time.Sleep(40 * time.Second) // three in a minute make a path that flaps
			began := time.Now()
			w.A.Routers[0].Reboot()
			took := l.within("direct by the new port", 5*time.Second, func() bool {
				return bothOnlyDirect(a, b)() && b.to(a).Direct != before
			})
			t.Logf("direct %s after the restart", took)
			l.flows("after the restart", began, time.Second, a, b)
		}
	})
}

// roam takes a host to another network, with a NAT of its own.
func roam(w *natlab.World, s natlab.Site) {
	nat := natlab.NAT{Filtering: natlab.AddressAndPortDependent}
	cafe := w.Network("cafe", netip.MustParsePrefix("10.7.0.0/16"))
	w.Router("cafe router", natlab.Between{
		Inner: cafe, InnerAddrs: []netip.Addr{netip.MustParseAddr("10.7.0.1")},
		Outer: w.Internet(), OuterAddrs: []netip.Addr{netip.MustParseAddr("203.0.113.99")}, OuterLink: natlab.Link{Delay: 15 * time.Millisecond},
		V4: &nat,
	})
	s.Host.Detach(s.Interface)
	s.Host.Attach(cafe, natlab.Link{Delay: 2 * time.Millisecond}, netip.MustParseAddr("10.7.0.23"))
}

func TestRoaming(t *testing.T) {
	for _, c := range []struct {
		name string
		tell bool
	}{{"told by the kernel", true}, {"found out because the path is doubted", false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := natlab.Pair(4, natlab.KindNamed("home"), natlab.KindNamed("home"))
				l, a, b := pair(t, w)
				l.stream(a, b, often)
				l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
				time.Sleep(13 * time.Second)
				before, began := b.to(a).Direct, time.Now()
				roam(w, w.A)
				if c.tell {
					a.u.Moved()
				}
				took := l.within("direct from the new network", time.Second, func() bool {
					return bothOnlyDirect(a, b)() && b.to(a).Direct != before
				})
				t.Logf("direct %s after the move", took)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				l.flows("after the move", began, time.Second, a, b)
				if a.cleared == 0 {
					t.Error("the bind was not told to forget source addresses")
				}
				_, told := a.u.Report()
				for _, e := range told {
					if e.Addr.Addr() == netip.MustParseAddr("192.168.1.2") {
						t.Errorf("a still tells %s of the network it left", e.Addr)
					}
				}
			})
		})
	}
}

// Networks inside a machine come and go without a path being another.
func TestContainersMoveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(4, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		var mu sync.Mutex
		var more []netcheck.Interface
		a := l.node("a", w.A.Host, func(c *Config) {
			kernel := c.Interfaces
			c.Interfaces = func() ([]netcheck.Interface, error) {
				mu.Lock()
				defer mu.Unlock()
				list, err := kernel()
				return append(list, more...), err
			}
		})
		b := l.node("b", w.B.Host)
		l.mesh()
		l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		transitions := len(a.u.Verdict(b.id).Transitions)
		for i := range byte(5) {
			mu.Lock()
			more = []netcheck.Interface{{Name: "docker0", Up: true, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 17, i, 1})}}}
			mu.Unlock()
			time.Sleep(lookEvery)
		}
		synctest.Wait()
		if got := len(a.u.Verdict(b.id).Transitions); got != transitions {
			t.Errorf("got %d transitions because of containers, want none", got-transitions)
		}
		_, told := a.u.Report()
		if last := told[len(told)-1].Addr.Addr(); last != netip.AddrFrom4([4]byte{172, 17, 4, 1}) {
			t.Errorf("a tells %v, want the container network's address last", told)
		}
	})
}

func TestNodeRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(5, natlab.KindNamed("home"), natlab.KindNamed("carrier"))
		l, a, b := pair(t, w)
		stop := l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		for range 3 {
			time.Sleep(10 * time.Second)
			stop()
			a.restart()
			began := time.Now()
			stop = l.stream(a, b, often)
			took := l.within("direct again", 4*time.Second, bothOnlyDirect(a, b))
			t.Logf("direct %s after the restart", took)
			l.flows("after the restart", began, time.Second, a, b)
		}
	})
}

// Without a relay nobody learns of anybody; when it is back all is said again.
// Then a direct path carries on alone, and is found again from what is remembered.
func TestRelayDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(6, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		l.relay.set(func(r *relay) { r.down = true })
		stop := l.stream(a, b, often)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if a.to(b).Direct.IsValid() || len(b.got) > 0 {
			t.Errorf("without a relay: a sends to %+v and b got %d packets, want by relay and none", a.to(b), len(b.got))
		}
		l.relay.set(func(r *relay) { r.down = false })
		a.u.RelayUp()
		b.u.RelayUp()
		took := l.within("direct after the relay came back", time.Second, bothOnlyDirect(a, b))
		t.Logf("direct %s after the relay came back", took)

		time.Sleep(10 * time.Second)
		began := time.Now()
		l.relay.set(func(r *relay) { r.down = true })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		l.flows("without a relay", began, 100*time.Millisecond, a, b)
		stop()
		time.Sleep(5 * time.Minute) // both sleep
		if !bothRelayed(a, b)() {
			t.Errorf("at rest: a sends to %+v, want the peer asleep", a.to(b))
		}
		l.stream(a, b, often)
		l.within("direct again without a relay", 2*time.Second, bothOnlyDirect(a, b))
	})
}

// A node whose peer comes later is told so by the relay.
func TestPeerComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(6, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		b.stop()
		a.peers()
		delete(l.relay.nodes, b.id)
		a.send(b)
		time.Sleep(20 * time.Second)
		l.relay.set(func(r *relay) { r.nodes[b.id] = b })
		b.start()
		b.peers()
		a.u.Here(b.id)
		l.within("direct", time.Second, bothDirect(a, b))
	})
}

func TestServersDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(7, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		l.stream(a, b, 50*time.Millisecond)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		block := func(blocked bool) {
			for _, s := range w.Servers {
				for _, x := range []natlab.Site{w.A, w.B} {
					if blocked {
						w.Cut(s, x.Edge())
					} else {
						w.Mend(s, x.Edge())
					}
				}
			}
		}
		reflexive := func() bool {
			_, told := a.u.Report()
			return slices.ContainsFunc(told, func(e disco.Endpoint) bool { return e.Kind == disco.Reflexive })
		}
		began := time.Now()
		block(true)
		time.Sleep(75 * time.Second)
		synctest.Wait()
		if !reflexive() {
			t.Error("a minute after the servers died a no longer tells where they saw it, want for two minutes")
		}
		if r, _ := a.u.Report(); r.IPv4.UDP != netcheck.Blocked {
			t.Errorf("the report says that UDP is %s, want blocked: it is the latest", r.IPv4.UDP)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if reflexive() {
			t.Error("three minutes after the servers died a still tells where they saw it")
		}
		l.flows("without servers", began, 100*time.Millisecond, a, b)
		if !bothOnlyDirect(a, b)() {
			t.Errorf("a sends to %+v, want directly: the path needs no server", a.to(b))
		}
		block(false)
		took := l.within("endpoints known again", freshFor+time.Second, reflexive)
		t.Logf("endpoints known %s after the servers came back", took)
	})
}

// A relay that restarts: the round that finds no server is soon repeated.
func TestServersAreAwayForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(7, natlab.KindNamed("home"), natlab.KindNamed("home"))
		for _, s := range w.Servers {
			w.Cut(s, w.A.Edge())
		}
		l, a, _ := pair(t, w)
		time.Sleep(4 * time.Second)
		for _, s := range w.Servers {
			w.Mend(s, w.A.Edge())
		}
		took := l.within("endpoints known", 6*time.Second, func() bool {
			r, _ := a.u.Report()
			return len(r.IPv4.Endpoints) > 0
		})
		t.Logf("endpoints known after %s", took)
	})
}

// Servers that answer only after more than a second, and servers that lie.
func TestServersSlowAndLying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(8, natlab.KindNamed("home"), natlab.KindNamed("home"))
		var slow [2]*natlab.Host
		for i := range slow {
			slow[i] = w.Host([]string{"slow", "slower"}[i])
			slow[i].Attach(w.Internet(), natlab.Link{Delay: time.Duration(7+2*i) * 100 * time.Millisecond}, netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}))
		}
		l := newLab(t, w.Net, slow[:]...)
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		l.mesh()
		l.stream(a, b, often)
		took := l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		t.Logf("direct after %s with slow servers", took)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := a.u.Stats().STUN; got == 0 {
			t.Error("no answer came late, want some: servers are asked again before they can answer")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(8, natlab.KindNamed("home"), natlab.KindNamed("home"))
		victim := w.Host("victim")
		victim.Attach(w.Internet(), natlab.Link{}, netip.MustParseAddr("192.0.2.66"))
		conn, err := victim.ListenUDP(4242)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, w.Net, w.Servers[0])
		hits := l.count(conn)
		liar := w.Servers[1]
		pc, err := liar.ListenUDP(3478)
		if err != nil {
			t.Fatal(err)
		}
		l.running.Go(func() {
			var answerer stun.Answerer
			buf := make([]byte, 1000)
			for {
				n, from, err := pc.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				at := from
				if from.Addr() == netip.MustParseAddr("203.0.113.16") { // a's NAT
					at = netip.MustParseAddrPort("192.0.2.66:4242")
				}
				if answer, err := answerer.Answer(buf[:n], at); err == nil {
					pc.WriteToUDPAddrPort(answer, from)
				}
			}
		})
		l.stun = append(l.stun, "192.0.2.2:3478")
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		l.mesh()
		l.stream(a, b, time.Second)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		probes, data := hits()
		t.Logf("the victim got %d probes in ten minutes", probes)
		// From b alone, which waits up to a minute before the next ping in the end.
		if probes == 0 || probes > 40 || data > 0 {
			t.Errorf("the victim got %d probes and %d data packets, want 1 to 40 and none", probes, data)
		}
	})
}

// A machine that moves while nothing is sent is found out by looking.
func TestRoamingAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(4, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, _ := pair(t, w)
		time.Sleep(time.Minute)
		roam(w, w.A)
		l.within("endpoints of the new network", lookEvery+time.Second, func() bool {
			_, told := a.u.Report()
			return slices.ContainsFunc(told, func(e disco.Endpoint) bool { return e.Addr.Addr() == netip.MustParseAddr("203.0.113.99") })
		})
	})
}
