package underlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// names is a resolver.
type names struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr // none: an error
	slow  map[string]time.Duration
	asked map[string]int
}

func newNames() *names {
	return &names{addrs: map[string][]netip.Addr{}, slow: map[string]time.Duration{}, asked: map[string]int{}}
}

func (s *names) set(host string, slow time.Duration, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow[host], s.addrs[host] = slow, nil
	for _, a := range addrs {
		s.addrs[host] = append(s.addrs[host], netip.MustParseAddr(a))
	}
}

func (s *names) count(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[host]
}

func (s *names) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	addrs, slow := s.addrs[host], s.slow[host]
	s.asked[host]++
	s.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("no such host")
	}
	return addrs, nil
}

// asked are the servers of the latest report, in order.
func (n *node) asked() (out []string) {
	r, _ := n.u.Report()
	for _, s := range r.Servers {
		out = append(out, s.Addr.String())
	}
	slices.Sort(out)
	return out
}

func TestNamesOfServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(9, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		dns := newNames()
		dns.set("late", 4*time.Second, "192.0.2.1")
		dns.set("never", time.Hour)
		a := l.node("a", w.A.Host, func(c *Config) { c.Resolve = dns.resolve })
		set := func(stun ...string) {
			a.u.Set(nil, []leaf.Relay{{Name: "relay", STUN: stun}}, Mesh{Prefix6: prefix6, Own: []netip.Addr{a.inside()}})
		}
		is := func(want ...string) func() bool { return func() bool { return slices.Equal(a.asked(), want) } }

		// While a name is being looked up the others are asked, and who asks waits.
		set("late:3478", "never:3478")
		began := time.Now()
		report, err := a.u.Check(context.Background())
		if err != nil || len(report.IPv4.Endpoints) == 0 {
			t.Errorf("check while names are looked up: got %+v, %v; want an endpoint", report, err)
		}
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("the check took %s, want the 4 s of the name and a round trip", took)
		}

		// A name that fails is looked up again and again, ever less often.
		set("missing:3478")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := dns.count("missing"); got != 4 { // at 0, 5, 15, 35 s
			t.Errorf("a name that fails was looked up %d times in a minute, want 4", got)
		}
		if _, err := a.u.Check(context.Background()); !errors.Is(err, ErrNoServers) {
			t.Errorf("check without servers: got %v, want %v", err, ErrNoServers)
		}
		dns.set("missing", 0, "192.0.2.2")
		if _, err := a.u.Check(context.Background()); err != nil {
			t.Errorf("check of a name that has an address again: %v", err)
		}

		// A name that moves is followed, and keeps its address while it fails.
		dns.set("moves", 0, "192.0.2.1")
		set("moves:3478")
		l.within("the first address", time.Second, is("192.0.2.1:3478"))
		dns.set("moves", 0)
		time.Sleep(believed + time.Second)
		if got := a.asked(); !is("192.0.2.1:3478")() {
			t.Errorf("a name that fails after it had an address: asked %v, want the last one", got)
		}
		dns.set("moves", 0, "192.0.2.2", "2001:db8:2::1")
		l.within("the new address", 30*time.Second, func() bool { return slices.Contains(a.asked(), "192.0.2.2:3478") })

		// Another policy while a look-up is under way.
		dns.set("slow", 8*time.Second, "192.0.2.1")
		dns.set("quick", 0, "192.0.2.2")
		set("slow:3478")
		time.Sleep(time.Second)
		set("quick:3478")
		l.within("the name of the new policy", time.Second, is("192.0.2.2:3478"))
		time.Sleep(10 * time.Second)
		if got := a.asked(); !is("192.0.2.2:3478")() {
			t.Errorf("after the old policy's name was found: asked %v, want the new policy's alone", got)
		}

		// A name that lies about where it is costs nobody inside the mesh a packet.
		dns.set("inside", 0, "100.127.0.1", "fd00:1::5")
		set("inside:3478", "nonsense", "192.0.2.1:0", "192.0.2.1:70000")
		time.Sleep(time.Second)
		if _, err := a.u.Check(context.Background()); !errors.Is(err, ErrNoServers) {
			t.Errorf("check with servers inside the mesh: got %v, asked %v; want %v", err, a.asked(), ErrNoServers)
		}
	})
}

// The WireGuard key of a node changes, and its peer hears of it later, or first.
func TestKeyRotates(t *testing.T) {
	for _, late := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := natlab.Pair(10, natlab.KindNamed("home"), natlab.KindNamed("home"))
			l, a, b := pair(t, w)
			stop := l.stream(a, b, often)
			l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
			stop()
			b.secret = key.NewWG()
			learn := func() {
				a.truth.forget(b.id)
				a.peers()
			}
			if late {
				b.restart()
			} else {
				learn()
			}
			stop = l.stream(a, b, often)
			time.Sleep(40 * time.Second)
			synctest.Wait()
			if late && !bothRelayed(a, b)() {
				t.Errorf("a has the old key: a sends to %+v and b to %+v, want by relay", a.to(b), b.to(a))
			}
			stop()
			if late {
				learn()
			} else {
				b.restart()
			}
			stop = l.stream(a, b, often)
			took := l.within("direct with the new key", 2*time.Second, bothOnlyDirect(a, b))
			t.Logf("direct %s after both had the new key (peer late: %t)", took, late)
			stop()
		})
	}
}

func TestPeerRemovedAndAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(11, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		stop := l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		stop()
		a.peers(b)
		synctest.Wait()
		a.mu.Lock()
		if !slices.Equal(a.removed, []key.NodeID{b.id}) || len(a.learned) != 0 || len(a.choice) != 0 {
			t.Errorf("the bind was told to remove %v, and has %v and %v; want b removed and nothing left", a.removed, a.learned, a.choice)
		}
		before := a.sentTo
		a.mu.Unlock()
		if _, err := a.u.Ping(context.Background(), b.id); !errors.Is(err, ErrNoPeer) {
			t.Errorf("ping of a node that is no peer: got %v, want %v", err, ErrNoPeer)
		}
		// Nobody is awake: the node measures every five minutes, and once what was
		// due.
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		a.mu.Lock()
		sent := a.sentTo - before
		a.mu.Unlock()
		if most := 7 * 4; sent > most {
			t.Errorf("without peers a sent %d packets in 29 minutes, want %d at most: four questions each five minutes", sent, most)
		}
		if got := a.u.Stats().Unknown; got == 0 {
			t.Error("the removed peer's packets were not counted")
		}
		a.truth.forget(b.id)
		a.peers()
		l.stream(a, b, often)
		l.within("direct again", 5*time.Second, bothOnlyDirect(a, b))
	})
}

// A thousand peers that are not there wake at once, and one that is.
func TestThousandPeersWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const absent = 1000
		w := natlab.Pair(12, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		var relayed int
		var mu sync.Mutex
		l.relay.set(func(r *relay) {
			r.saw = func(src, _ key.NodeID, pkt []byte) {
				if src == a.id && describe(pkt) != "data" {
					mu.Lock()
					relayed++
					mu.Unlock()
				}
			}
		})
		peers := []Peer{{ID: b.id, WG: b.secret.Public()}}
		for i := range absent {
			p := Peer{ID: key.NodeID{0: 200, 1: byte(i >> 8), 2: byte(i)}, WG: key.NewWG().Public()}
			for j := range byte(3) {
				p.Static = append(p.Static, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 114 + j, byte(i)}), 4242))
			}
			peers = append(peers, p)
		}
		a.u.Set(peers, l.relays(), Mesh{Prefix6: prefix6, Own: []netip.Addr{a.inside()}})
		time.Sleep(time.Second)
		for _, p := range peers {
			a.u.Woken(p.ID)
		}
		l.stream(a, b, often)
		// Three thousand addresses at a hundred a second.
		took := l.within("direct among a thousand", 40*time.Second, bothDirect(a, b))
		t.Logf("direct after %s", took)
		a.mu.Lock()
		before := a.sentTo
		a.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		a.mu.Lock()
		sent := a.sentTo - before
		a.mu.Unlock()
		// A hundred pings a second and 200 at once, and those answers and questions
		// that are not counted among them.
		if most := 100*60 + 200 + 100; sent > most || sent < 60*50 {
			t.Errorf("a sent %d packets in a minute, want %d at most, and that they are sent", sent, most)
		}
		mu.Lock()
		defer mu.Unlock()
		// Twelve Endpoints at once and one a second would be the bound of one peer;
		// the schedule sends seven in a minute.
		if most := (absent + 1) * 10; relayed > most || relayed < absent {
			t.Errorf("a sent %d messages by relay, want %d at most and one to each", relayed, most)
		}
		if got := a.u.Stats().Full; got != 0 {
			t.Errorf("%d packets found the queue full, want none", got)
		}
	})
}

// An Underlay without interfaces that can be listed, without a socket, without
// relays.
func TestPoorSurroundings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(13, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		blind := func(c *Config) {
			c.Interfaces = func() ([]netcheck.Interface, error) { return nil, errors.New("not permitted") }
		}
		a, b := l.node("a", w.A.Host, blind), l.node("b", w.B.Host, blind)
		l.mesh()
		l.stream(a, b, often)
		l.within("direct without a list of interfaces", 5*time.Second, bothOnlyDirect(a, b))
	})
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(13, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net)
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		l.mesh()
		if _, err := a.u.Check(context.Background()); !errors.Is(err, ErrNoServers) {
			t.Errorf("check without servers: got %v, want %v", err, ErrNoServers)
		}
		l.stream(a, b, often)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !bothRelayed(a, b)() {
			t.Errorf("two homes without servers: a sends to %+v, want by relay", a.to(b))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(13, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		a := l.node("a", w.A.Host)
		a.stop()
		u, err := New(Config{Network: network1, Self: a.id, Key: a.secret, Relays: sender{a}})
		if err != nil {
			t.Fatal(err)
		}
		u.Set(nil, l.relays(), Mesh{Prefix6: prefix6})
		u.Start(portless{a})
		defer u.Close()
		if _, err := u.Check(context.Background()); !errors.Is(err, ErrNoSocket) {
			t.Errorf("check without a socket: got %v, want %v", err, ErrNoSocket)
		}
	})
}

// portless is a bind that has no sockets.
type portless struct{ *node }

func (portless) LocalPort() uint16 { return 0 }
