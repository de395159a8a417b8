package underlay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/stun"
)

// garbage makes packets that look like something.
func garbage(random *rand.Rand) []byte {
	p := make([]byte, random.IntN(200))
	for i := range p {
		p[i] = byte(random.Uint32())
	}
	switch random.IntN(4) {
	case 0:
		return append([]byte(disco.Magic), p...)
	case 1:
		return append(stun.Request([stun.TxSize]byte{byte(random.Uint32())}), p...)
	case 2:
		return slices.Concat([]byte(disco.Magic), make([]byte, disco.MaxPacket))
	}
	return p
}

// What comes while the queue is full is dropped and counted; what is said once is
// not; and nothing remains of it afterwards.
func TestFloodOfGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(20, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		time.Sleep(time.Second)
		random := rand.New(rand.NewPCG(20, 20))
		const flood = 5000
		from := netip.MustParseAddrPort("192.0.2.99:9")
		a.u.mu.Lock() // so that the queue is not drained
		long := 0
		for range flood {
			p := garbage(random)
			if len(p) > disco.MaxPacket {
				long++
			}
			if random.IntN(2) == 0 {
				a.u.Control(from, p)
			} else {
				a.u.Relayed(b.id, p)
			}
		}
		a.u.Woken(b.id)
		a.u.Here(b.id)
		a.u.RelayUp()
		for i := range maxHere + 10 {
			a.u.Here(key.NodeID{9, byte(i), byte(i >> 8)})
		}
		a.u.mu.Unlock()
		synctest.Wait()
		s := a.u.Stats()
		if got := s.Disco[disco.Long]; got != uint64(long) {
			t.Errorf("%d packets were too long, want %d", got, long)
		}
		// One packet may have left the queue when the lock was asked for.
		if most, least := flood-long-queueLength+11, flood-long-queueLength-1+11; int(s.Full) != most && int(s.Full) != least {
			t.Errorf("%d found the queue full, want %d or %d", s.Full, least, most)
		}
		total := s.Unknown + s.STUN + s.Full
		for _, n := range s.Disco {
			total += n
		}
		if total != flood+11 {
			t.Errorf("%d were counted as dropped, want all of %d", total, flood+11)
		}
		named := uint64(0)
		for reason, n := range s.Dropped() {
			if n == 0 {
				t.Errorf("%q is among the reasons, and never applied", reason)
			}
			named += n
		}
		if named != total {
			t.Errorf("by reason %d were dropped, want %d: %v", named, total, s.Dropped())
		}
		if got := a.to(b); !got.Relay {
			t.Errorf("the peer that woke in the flood goes by %+v, want by relay and awake", got)
		}
		l.stream(a, b, often)
		l.within("direct after the flood", 2*time.Second, bothOnlyDirect(a, b))
	})
}

// An attacker that hears all that the nodes send each other, and sends it again
// from its own address, and to others, gets nothing but what it costs.
func TestReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := natlab.KindNamed("open")
		w := natlab.Pair(21, open, open)
		mallory := w.Host("mallory")
		mallory.Attach(w.Internet(), natlab.Link{Delay: time.Millisecond}, netip.MustParseAddr("192.0.2.66"))
		conn, err := mallory.ListenUDP(4242)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, w.Net, w.Servers[:]...)
		hits := l.count(conn)
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		c := l.node("c", w.Servers[0])
		l.mesh()
		var mu sync.Mutex
		var heard [][]byte
		l.relay.set(func(r *relay) {
			r.saw = func(src, _ key.NodeID, pkt []byte) {
				if disco.Is(pkt) {
					mu.Lock()
					heard = append(heard, pkt)
					mu.Unlock()
				}
			}
		})
		for _, n := range []*node{a, b} {
			n.tap = func(pkt []byte) {
				mu.Lock()
				heard = append(heard, slices.Clone(pkt))
				mu.Unlock()
			}
		}
		l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		before := []netip.AddrPort{a.to(b).Direct, b.to(a).Direct}
		random := rand.New(rand.NewPCG(21, 21))
		for range 3000 {
			mu.Lock()
			pkt := slices.Clone(heard[random.IntN(len(heard))])
			mu.Unlock()
			if random.IntN(4) == 0 {
				pkt[random.IntN(len(pkt))] ^= 1 << random.IntN(8)
			}
			to := []*node{a, b, c}[random.IntN(3)]
			conn.WriteToUDPAddrPort(pkt, netip.AddrPortFrom(to.host.Addrs()[0], to.LocalPort()))
			if random.IntN(4) == 0 {
				to.u.Relayed([]key.NodeID{a.id, b.id, c.id, {7}}[random.IntN(4)], pkt)
			}
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if probes, data := hits(); probes != 0 || data != 0 {
			t.Errorf("mallory got %d probes and %d data packets, want none: it has sealed nothing", probes, data)
		}
		if after := []netip.AddrPort{a.to(b).Direct, b.to(a).Direct}; !slices.Equal(before, after) {
			t.Errorf("paths were %v and are %v", before, after)
		}
		for _, n := range []*node{a, b} {
			s := n.u.Stats()
			if s.Disco[disco.Replay] == 0 || s.Disco[disco.Forged] == 0 || s.Disco[disco.Tag] == 0 || s.Unknown == 0 {
				t.Errorf("%s counted %+v; want replays, forgeries, other tags and unknown ones", n.name, s)
			}
		}
		if s := c.u.Stats(); s.Unknown == 0 {
			t.Errorf("c counted %+v, want packets for others among the unknown", s)
		}
	})
}

// A relay that names another source than the true one keeps nodes from meeting by
// it, and does no more.
func TestRelayLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(22, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l := newLab(t, w.Net, w.Servers[:]...)
		a, b, c := l.node("a", w.A.Host), l.node("b", w.B.Host), l.node("c", w.Servers[0])
		l.mesh()
		l.relay.set(func(r *relay) {
			r.lie = func(src, dst key.NodeID) key.NodeID {
				switch {
				case src == b.id && dst == a.id:
					return c.id
				case src == c.id && dst == a.id:
					return b.id
				}
				return src
			}
		})
		l.stream(a, b, often)
		l.stream(a, c, often)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.u.Stats().Disco[disco.Tag]; got == 0 {
			t.Error("messages under another's name were not counted")
		}
		l.relay.set(func(r *relay) { r.lie = nil })
		// Endpoints are said again each minute, more or less.
		l.within("direct when the relay is honest", 70*time.Second, func() bool { return bothOnlyDirect(a, b)() && bothOnlyDirect(a, c)() })
	})
}

// A peer that lists a victim's addresses, again and again, costs the victim probes
// within bounds and no data; and it does not keep others from meeting.
func TestPeerListsVictims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(23, natlab.KindNamed("home"), natlab.KindNamed("home"))
		victim := w.Host("victim")
		victim.Attach(w.Internet(), natlab.Link{Delay: time.Millisecond}, netip.MustParseAddr("192.0.2.66"))
		l := newLab(t, w.Net, w.Servers[:]...)
		var list []disco.Endpoint
		var hits []func() (int, int)
		for i := range uint16(disco.MaxEndpoints) {
			conn, err := victim.ListenUDP(4000 + i)
			if err != nil {
				t.Fatal(err)
			}
			hits = append(hits, l.count(conn))
			list = append(list, disco.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.66"), 4000+i), Kind: disco.Reflexive})
		}
		a, b := l.node("a", w.A.Host), l.node("b", w.B.Host)
		evil := &node{l: l, name: "evil", secret: key.NewWG()}
		copy(evil.id[:], evil.name)
		l.nodes = append(l.nodes, evil)
		a.peers()
		b.peers(evil)
		l.nodes = l.nodes[:2] // it is no Underlay
		pair, err := disco.NewSelf(evil.secret, network1, evil.id, time.Now()).Pair(a.secret.Public(), a.id)
		if err != nil {
			t.Fatal(err)
		}
		const minutes = 3
		tell := time.NewTicker(100 * time.Millisecond)
		defer tell.Stop()
		l.stream(a, b, often)
		for i := range minutes * 600 {
			slices.Reverse(list)
			some := list[i%5:]
			pkt, err := pair.Seal(&disco.Endpoints{Reply: true, List: some})
			if err != nil {
				t.Fatal(err)
			}
			a.u.Relayed(evil.id, pkt)
			<-tell.C
		}
		synctest.Wait()
		if !bothOnlyDirect(a, b)() {
			t.Errorf("a sends to %+v, want directly", a.to(b))
		}
		var probes, data int
		for _, h := range hits {
			p, d := h()
			probes, data = probes+p, data+d
		}
		t.Logf("the victim got %d probes in %d minutes", probes, minutes)
		// The bound of package path: 30 pings a second because of one peer, 96 at once.
		if most := minutes*60*30 + 96; probes == 0 || probes > most || data > 0 {
			t.Errorf("the victim got %d probes and %d data packets, want 1 to %d and none", probes, data, most)
		}
	})
}

// Endpoints inside the mesh, from the policy or a peer, are never sent to: the
// packets would go into the tunnel. The double of the bind looks for them.
func TestEndpointsInsideTheMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(28, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		inside := []netip.AddrPort{
			netip.AddrPortFrom(b.inside(), b.LocalPort()), netip.AddrPortFrom(a.inside(), 7),
			netip.MustParseAddrPort("[fd00:1::9]:9"), netip.AddrPortFrom(netip.AddrFrom16(b.inside().As16()), 5),
		}
		a.u.Set([]Peer{{ID: b.id, WG: b.secret.Public(), Static: inside, Inside: []netip.Addr{b.inside()}}},
			l.relays(), Mesh{Prefix6: prefix6, Own: []netip.Addr{a.inside()}})
		l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		// And as b would list them.
		self := disco.NewSelf(b.secret, network1, b.id, time.Now().Add(time.Second))
		pair, err := self.Pair(a.secret.Public(), a.id)
		if err != nil {
			t.Fatal(err)
		}
		var list []disco.Endpoint
		for _, i := range inside {
			list = append(list, disco.Endpoint{Addr: i, Kind: disco.Interface})
		}
		pkt, err := pair.Seal(&disco.Endpoints{List: list})
		if err != nil {
			t.Fatal(err)
		}
		a.u.Relayed(b.id, pkt)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		refused := 0
		for _, c := range a.u.Verdict(b.id).Candidates {
			if prefix4.Contains(c.Addr.Addr()) {
				refused++
				if c.Result != "the socket refuses: an address of the mesh" {
					t.Errorf("candidate %s: %s, want that it is an address of the mesh", c.Addr, c.Result)
				}
			}
		}
		if refused == 0 {
			t.Error("no candidate inside the mesh was refused, want those of b")
		}
	})
}

// Close at any moment, whatever is under way, leaves nothing that runs: or the
// bubble would not end.
func TestCloseAtAnyMoment(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 24))
			w := natlab.Pair(seed, natlab.KindNamed("home"), natlab.KindNamed("open"))
			l := newLab(t, w.Net, w.Servers[:]...)
			dns := newNames()
			dns.set("slow", 3*time.Second, "192.0.2.1")
			a := l.node("a", w.A.Host, func(c *Config) { c.Resolve = dns.resolve })
			b := l.node("b", w.B.Host)
			l.stun = append(l.stun, "slow:3478")
			if seed%3 > 0 {
				l.mesh()
			}
			var calls sync.WaitGroup
			calls.Go(func() {
				if _, err := a.u.Check(context.Background()); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNoServers) {
					t.Errorf("check: %v", err)
				}
			})
			calls.Go(func() {
				if _, err := a.u.Ping(context.Background(), b.id); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNoPeer) {
					t.Errorf("ping: %v", err)
				}
			})
			stop := l.stream(a, b, often)
			time.Sleep(time.Duration(random.Int64N(int64(200*time.Millisecond) << random.IntN(6))))
			calls.Go(a.u.Close)
			a.u.Close()
			calls.Wait()
			stop()
			b.u.Close()
			after(t, a, b)
		})
	}
}

// after calls everything of an Underlay that is closed.
func after(t *testing.T, n, peer *node) {
	n.peers()
	n.u.Start(n)
	n.u.Woken(peer.id)
	n.u.Here(peer.id)
	n.u.Failed(peer.id, netip.MustParseAddrPort("192.0.2.1:1"), errors.New("closed"))
	n.u.Control(netip.MustParseAddrPort("192.0.2.1:1"), []byte(disco.Magic))
	n.u.Relayed(peer.id, []byte(disco.Magic))
	n.u.RelayUp()
	n.u.Moved()
	n.u.Verdict(peer.id)
	n.u.Report()
	n.u.Stats()
	if _, err := n.u.Ping(context.Background(), peer.id); !errors.Is(err, ErrClosed) {
		t.Errorf("ping after Close: got %v, want %v", err, ErrClosed)
	}
	if _, err := n.u.Check(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("check after Close: got %v, want %v", err, ErrClosed)
	}
	n.mu.Lock()
	before := n.sentTo
	n.mu.Unlock()
	time.Sleep(time.Hour)
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sentTo != before {
		t.Errorf("%d packets were sent after Close", n.sentTo-before)
	}
}

// What is Set, and happens, before Start holds when it starts.
func TestBeforeStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(25, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		a.u.Close()
		u, err := New(Config{Network: network1, Self: a.id, Key: a.secret, Relays: sender{a}, Interfaces: a.u.cfg.Interfaces})
		if err != nil {
			t.Fatal(err)
		}
		a.truth.reset(a)
		a.u = u
		a.peers()
		a.peers(b)
		a.peers()
		u.Verdict(b.id)
		u.Report()
		u.Moved()
		if _, err := u.Ping(context.Background(), b.id); !errors.Is(err, ErrClosed) {
			t.Errorf("ping before Start: got %v, want %v", err, ErrClosed)
		}
		if _, err := u.Check(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("check before Start: got %v, want %v", err, ErrClosed)
		}
		l.stream(a, b, often)
		time.Sleep(10 * time.Second)
		u.Start(a)
		l.within("direct after the start", time.Second, bothOnlyDirect(a, b))
	})
}

// Every method from many goroutines at once.
func TestManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(26, natlab.KindNamed("home"), natlab.KindNamed("open"))
		l, a, b := pair(t, w)
		l.stream(a, b, often)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var callers sync.WaitGroup
		from := netip.MustParseAddrPort("192.0.2.99:9")
		for i, call := range []func(){
			func() { a.peers() }, func() { a.peers(b) },
			func() { a.u.Moved() }, func() { a.u.RelayUp() }, func() { a.u.Here(b.id) }, func() { a.u.Woken(b.id) },
			func() { a.u.Failed(b.id, from, errors.New("refused")) },
			func() { a.u.Control(from, []byte(disco.Magic)) }, func() { a.u.Relayed(b.id, []byte(disco.Magic)) },
			func() { a.u.Verdict(b.id) }, func() { a.u.Report() }, func() { a.u.Stats() },
			func() { a.u.Ping(ctx, b.id) }, func() { a.u.Check(ctx) },
		} {
			for j := range 2 {
				callers.Go(func() {
					for ctx.Err() == nil {
						call()
						time.Sleep(time.Duration(7+i*3+j) * time.Millisecond)
					}
				})
			}
		}
		callers.Wait()
		a.truth.forget(b.id)
		a.peers()
		l.within("direct afterwards", 20*time.Second, bothOnlyDirect(a, b))
	})
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(27, natlab.KindNamed("home"), natlab.KindNamed("apd-apd"))
		l, a, b := pair(t, w)
		ping := func(d time.Duration) (Pong, time.Duration, error) {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			began := time.Now()
			p, err := a.u.Ping(ctx, b.id)
			return p, time.Since(began), err
		}
		if p, _, err := ping(6 * time.Second); err != nil || p.Direct || p.RTT != 40*time.Millisecond {
			t.Errorf("ping by relay: got %+v, %v; want 40 ms by relay", p, err)
		}
		// A ping that is lost is sent again.
		l.relay.set(func(r *relay) { r.loss = 1 })
		mend := time.AfterFunc(1500*time.Millisecond, func() { l.relay.set(func(r *relay) { r.loss = 0 }) })
		defer mend.Stop()
		if p, took, err := ping(6 * time.Second); err != nil || p.RTT != 40*time.Millisecond || took != 2040*time.Millisecond {
			t.Errorf("ping whose first two packets are lost: got %+v, %v after %s; want 40 ms of the third, after 2.04 s", p, err, took)
		}
		for seed := range uint64(20) {
			l.relay.set(func(r *relay) { r.loss, r.rand = 0.3, rand.New(rand.NewPCG(seed, 1)) })
			if _, took, err := ping(20 * time.Second); err != nil || took > 15*time.Second {
				t.Errorf("seed %d: ping where three of ten are lost: %v after %s", seed, err, took)
			}
		}
		l.relay.set(func(r *relay) { r.loss = 1 })
		if _, took, err := ping(6 * time.Second); !errors.Is(err, context.DeadlineExceeded) || took != 6*time.Second {
			t.Errorf("ping that nobody answers: got %v after %s, want %v after 6 s", err, took, context.DeadlineExceeded)
		}
		if n := len(a.u.waiting); n != 0 {
			t.Errorf("%d pings wait though all have ended", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := natlab.Pair(27, natlab.KindNamed("home"), natlab.KindNamed("home"))
		l, a, b := pair(t, w)
		l.stream(a, b, often)
		l.within("direct", 5*time.Second, bothOnlyDirect(a, b))
		// The relay is quicker, the path in use is what is asked about.
		l.relay.set(func(r *relay) { r.delay = time.Millisecond })
		p, err := a.u.Ping(context.Background(), b.id)
		if want := 44 * time.Millisecond; err != nil || !p.Direct || p.RTT < want || p.RTT > want+time.Millisecond {
			t.Errorf("ping: got %+v, %v; want %s directly", p, err, want)
		}
		gone := make(chan error)
		l.relay.set(func(r *relay) { r.down = true })
		w.Cut(w.A.Edge(), w.B.Edge())
		go func() {
			_, err := a.u.Ping(context.Background(), b.id)
			gone <- err
		}()
		time.Sleep(100 * time.Millisecond)
		a.peers(b)
		if err := <-gone; !errors.Is(err, ErrNoPeer) {
			t.Errorf("ping of a peer that was removed meanwhile: got %v, want %v", err, ErrNoPeer)
		}
	})
}
