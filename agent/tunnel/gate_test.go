package tunnel

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// moving is a lane of g from which something came out already.
func moving(g *gate) *lane {
	l := new(lane)
	g.leave(l, 0)
	return l
}

// waited is how long wait takes, of the bubble's time.
func waited(g *gate) time.Duration {
	start := time.Now()
	g.wait()
	return time.Since(start)
}

// A peer without a session holds up nobody, however much is sent to it.
func TestStandingLaneCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		dead, alive := new(lane), moving(g)
		for range 1000 {
			g.enter(dead, 128)
			g.enter(alive, 100)
			if took := waited(g); took != 0 {
				t.Fatalf("waited %v", took)
			}
			g.leave(alive, 100)
		}
		if g.total != 0 || g.expired.Load() != 0 {
			t.Errorf("%d inside, %d written off; want none", g.total, g.expired.Load())
		}
	})
}

// A peer whose session dies holds up the others once, for the time of a stall.
func TestStalledLaneHoldsUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		dying, alive := moving(g), moving(g)
		var total time.Duration
		for range 100 {
			g.enter(dying, 128) // nothing of it comes out any more
			g.enter(alive, 64)
			g.leave(alive, 64)
			total += waited(g)
		}
		if total != stalled {
			t.Errorf("the other peer waited %v, want %v", total, stalled)
		}
		if dying.moving.Load() || !alive.moving.Load() || g.total != 0 {
			t.Errorf("dying moves: %v; alive moves: %v; %d inside", dying.moving.Load(), alive.moving.Load(), g.total)
		}
		// When something of it comes out it counts again, and what came out before
		// is not owed.
		g.leave(dying, 500)
		g.enter(dying, 10)
		if g.total != 10 {
			t.Errorf("%d inside, want 10", g.total)
		}
	})
}

// A slow peer is not a stalled one: as long as something comes out, wait waits.
func TestGateWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		l := moving(g)
		const over = 50
		g.enter(l, maxInFlight+over)
		passed := make(chan struct{})
		go func() { g.wait(); close(passed) }()
		for range over {
			time.Sleep(stalled - time.Millisecond)
			g.leave(l, 1)
			synctest.Wait()
			select {
			case <-passed:
				t.Fatalf("passed with %d inside", g.total)
			default:
			}
		}
		g.leave(l, maxInFlight/2)
		synctest.Wait()
		select {
		case <-passed:
		default:
			t.Errorf("waits with %d inside", g.total)
		}
		if g.expired.Load() != 0 {
			t.Errorf("%d were written off", g.expired.Load())
		}
	})
}

func TestGateClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		g.stalled = time.Hour
		g.enter(moving(g), maxInFlight)
		var running sync.WaitGroup
		for range 3 {
			running.Go(g.wait)
		}
		synctest.Wait()
		start := time.Now()
		g.close()
		running.Wait()
		g.wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for a closed gate", took)
		}
	})
}

// Packets that never come out (replays: a peer sends over two paths at once) are
// taken off with the next one behind them, or when what they are copies of comes
// out.
func TestLeaveUpTo(t *testing.T) {
	const k, j = 0x12345678 << 32, 0x9abcdef0 << 32 // of two sessions
	g := newGate(false)
	l, other := moving(g), moving(g)
	g.enter(l, 8, k+1, k+2, k+1, k+3, k+2, k+9, k+4, j+0)
	g.enter(other, 2, 1, 2)
	for _, c := range []struct {
		tag    uint64
		inside int
	}{
		{k + 1, 6}, // and its copy
		{k + 3, 3}, // 2, which never came, and its copy; 9, 4 and the other session stay
		{j + 7, 2}, // unknown, and later than the other session's
		{k + 9, 0}, // 4 was overtaken, though it went in later: it is late
		{k + 4, 0}, // and comes out uncounted
	} {
		if g.leaveUpTo(l, c.tag); l.n != c.inside || len(l.tags) != c.inside || g.total != c.inside+2 {
			t.Errorf("after %x: %d inside, %d tags, %d in all; want %d, and %d in all", c.tag, l.n, len(l.tags), g.total, c.inside, c.inside+2)
		}
	}
	// What is late when it goes in is not counted at all.
	g.enter(l, 3, k+9, k+5, k+10)
	if l.n != 1 || len(l.tags) != 1 || g.total != 3 {
		t.Errorf("two late packets and a fresh one: %d inside, %d tags, %d in all; want 1, 1, 3", l.n, len(l.tags), g.total)
	}
}

// While a peer sends everything twice, the copies do not fill the gate.
func TestCopiesDoNotHoldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		l := moving(g)
		for batch := range uint64(1000) {
			var tags []uint64
			for i := range uint64(64) {
				tags = append(tags, 1<<32+batch*64+i)
			}
			g.enter(l, len(tags), tags...)
			if batch%2 == 0 { // the copies go in before the first come out, or after
				g.enter(l, len(tags), tags...)
			}
			g.leaveUpTo(l, tags[63])
			if batch%2 == 1 {
				g.enter(l, len(tags), tags...)
			}
			if took := waited(g); took != 0 {
				t.Fatalf("batch %d: waited %v", batch, took)
			}
			if g.total != 0 || g.expired.Load() != 0 {
				t.Fatalf("batch %d: %d inside, %d written off; want none", batch, g.total, g.expired.Load())
			}
		}
	})
}

// In each peer's name a true packet comes, and then as many forged ones as fit:
// the others wait for a small part of the time, however many names are used, and
// a peer whose packets come out is not taken for one of those.
func TestForgedPacketsHoldUpLittle(t *testing.T) {
	for _, names := range []int{1, 2, 50} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(true)
			lanes, alive := make([]lane, names), new(lane)
			tags := make([]uint64, maxInFlight)
			var blocked time.Duration
			const seconds = 10
			for start, i := time.Now(), uint64(1); time.Since(start) < seconds*time.Second; i++ {
				l := &lanes[i%uint64(names)]
				g.leaveUpTo(l, i<<32)
				for j := range tags {
					tags[j] = i<<32 | uint64(j)
				}
				g.enter(l, len(tags), tags...)
				time.Sleep(time.Microsecond)
				g.leaveUpTo(alive, 1)
				g.enter(alive, 2, 1, 2)
				blocked += waited(g)
				g.leaveUpTo(alive, 2)
				if !alive.moving.Load() {
					t.Fatalf("%d names: the peer whose packets come out was written off", names)
				}
				time.Sleep(time.Millisecond)
			}
			if limit := (seconds + 1) * maxStalls * stalled; blocked > limit || blocked == 0 {
				t.Errorf("%d names: waited %v in %d s, want some and at most %v", names, blocked, seconds, limit)
			}
		})
	}
}

// The account against one that is kept the slow way.
func TestGateAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	g := newGate(false)
	now := time.Unix(0, 0)
	g.now = func() time.Time { return now }
	g.limit = 0 // so that expire always looks
	type account struct {
		n        int
		moving   bool
		progress time.Time
	}
	lanes, model := make([]*lane, 5), make([]account, 5)
	for i := range lanes {
		lanes[i] = new(lane)
	}
	for step := range 20000 {
		i := rng.IntN(len(lanes))
		l, m := lanes[i], &model[i]
		n := rng.IntN(5)
		switch rng.IntN(5) {
		case 0, 1:
			g.enter(l, n)
			if m.moving && n > 0 {
				if m.n == 0 {
					m.progress = now
				}
				m.n += n
			}
		case 2:
			g.leave(l, n)
			if m.n > 0 && n > 0 {
				m.progress = now
			}
			m.n, m.moving = max(0, m.n-n), true
		case 3:
			now = now.Add(time.Duration(rng.IntN(int(stalled))))
			g.mu.Lock()
			g.expire()
			g.mu.Unlock()
			for k := range model {
				if m := &model[k]; m.n > 0 && now.Sub(m.progress) >= stalled {
					m.n, m.moving = 0, false
				}
			}
		case 4:
			if rng.IntN(20) == 0 {
				g.drop(l)
				*m = account{}
			}
		}
		total, busy := 0, 0
		for k, m := range model {
			total += m.n
			if m.n > 0 {
				busy++
			}
			if lanes[k].n != m.n || lanes[k].moving.Load() != m.moving {
				t.Fatalf("seed %d step %d lane %d: got %d, %v; want %d, %v", seed, step, k, lanes[k].n, lanes[k].moving.Load(), m.n, m.moving)
			}
		}
		if g.total != total || len(g.busy) != busy {
			t.Fatalf("seed %d step %d: got %d in %d lanes, want %d in %d", seed, step, g.total, len(g.busy), total, busy)
		}
	}
}

// WireGuard as it is: while packets are sent to a peer that does not answer, as
// fast as they can be, another's come through, none waits for the dead, and what
// is kept for it is bounded.
func TestDeadPeerHoldsUpNobody(t *testing.T) {
	m, a, b := pair(t)
	dead := m.node(t, 3) // which does not know a
	a.setPeers(t, b, dead)
	client, server := connect(t, a, b)
	u, err := a.net.Dial(withinContext(t), "udp", netip.AddrPortFrom(dead.v4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var running sync.WaitGroup
	var done atomic.Bool
	running.Go(func() {
		for !done.Load() {
			u.Write(make([]byte, 100))
		}
	})
	await(t, "more packets to the dead peer than are kept", func() bool { return a.tun.Counters().NoSession > 1000 })
	buf := make([]byte, 64<<10)
	for range 50 {
		if _, err := client.Write(buf); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(buf); {
			k, err := server.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	}
	done.Store(true)
	running.Wait()
	a.tun.peers.mu.Lock()
	d := a.tun.peers.known[dead.id]
	a.tun.peers.mu.Unlock()
	if d.out.moving.Load() {
		t.Error("the dead peer moves")
	}
	t.Logf("%+v; waits at the gates: %d out, %d in", a.tun.Counters(), a.tun.tap.outGate.waits.Load(), a.tun.tap.inGate.waits.Load())
}

// Everything that goes in comes out or is written off: at rest nothing is inside.
func TestGatesAreEmptyAtRest(t *testing.T) {
	_, a, b := pair(t)
	client, server := connect(t, a, b)
	go client.Write(make([]byte, 1<<20))
	for n := 0; n < 1<<20; {
		k, err := server.Read(make([]byte, 1<<16))
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	for name, g := range map[string]*gate{
		"a out": a.tun.tap.outGate, "a in": a.tun.tap.inGate, "b out": b.tun.tap.outGate, "b in": b.tun.tap.inGate,
	} {
		await(t, name+" to be empty", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.total == 0
		})
		if x := g.expired.Load(); x > 0 {
			t.Logf("%s: %d were written off", name, x)
		}
	}
	b.tun.peers.mu.Lock()
	if !b.tun.peers.known[a.id].in.moving.Load() {
		t.Error("b's receiving lane does not move: its packets are not recognised")
	}
	b.tun.peers.mu.Unlock()
}
