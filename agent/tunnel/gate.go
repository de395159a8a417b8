package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxInFlight is how many packets may be inside WireGuard, each way. Its own
	// queues are a thousand batches long, and each packet in them takes 64 KiB:
	// hundreds of megabytes under load, and slower for the misses in the caches.
	// 256 are two batches, one to fill while the other is worked off; at 1 Gbit/s
	// they are 3 ms. Fewer gain nothing.
	maxInFlight = 256

	// stalled is how long a lane may hold up the gate without anything of it
	// coming out. A packet that is worked on comes out within a fraction of a
	// millisecond; with more to do than processors, after their time slices. What
	// does not was dropped inside, or waits for a session.
	stalled = 10 * time.Millisecond
)

// A gate bounds how many packets are inside WireGuard in one direction. It
// counts what went in and what came out. WireGuard also drops packets inside
// (no session, a replay, a source that is not the peer's), and tells nobody; so
// the count is kept per peer, in lanes:
//
//	            something came out
//	standing ───────────────────────► moving
//	         ◄───────────────────────
//	          nothing for `stalled`, and somebody waits at the gate
//
// A standing lane counts nothing: what goes in for a peer without a session
// waits there for a handshake, and must not hold up the other peers. A moving
// lane that stalls holds them up once, for that long. What comes out is taken
// off to zero and never below, so that an account that is wrong corrects itself.
type gate struct {
	limit   int
	stalled time.Duration
	now     func() time.Time

	mu     sync.Mutex
	total  int           // guarded by mu: the sum of busy lanes
	busy   []*lane       // guarded by mu: lanes with packets inside
	room   chan struct{} // guarded by mu: closed when there is room; nil when nobody waits
	closed bool          // guarded by mu

	waits, expired atomic.Uint64
}

// A lane is one peer's account at one gate.
type lane struct {
	// written under the gate's mu
	moving atomic.Bool
	moved  atomic.Bool // once

	// guarded by the gate's mu
	n        int
	progress time.Time // of the last packet that came out, or of the first that went in
	tags     []uint64  // of the packets inside, oldest first, where they have tags
}

func newGate() *gate { return &gate{limit: maxInFlight, stalled: stalled, now: time.Now} }

// wait returns when there is room, or when the gate is closed.
func (g *gate) wait() {
	g.mu.Lock()
	for g.total >= g.limit && !g.closed {
		rest := g.expire()
		if g.total < g.limit {
			break
		}
		if g.room == nil {
			g.room = make(chan struct{})
		}
		room := g.room
		g.mu.Unlock()
		g.waits.Add(1)
		timer := time.NewTimer(rest)
		select {
		case <-room:
		case <-timer.C:
		}
		timer.Stop()
		g.mu.Lock()
	}
	g.mu.Unlock()
}

// expire writes off the lanes that stall, and returns how long it is until
// another may.
func (g *gate) expire() time.Duration {
	now := g.now()
	rest := g.stalled
	for i := 0; i < len(g.busy); {
		l := g.busy[i]
		if left := g.stalled - now.Sub(l.progress); left > 0 {
			rest = min(rest, left)
			i++
			continue
		}
		g.expired.Add(uint64(l.n))
		l.moving.Store(false)
		g.empty(l, i)
	}
	return rest
}

// empty takes lane i off the account.
func (g *gate) empty(l *lane, i int) {
	g.total -= l.n
	l.n, l.tags = 0, l.tags[:0]
	last := len(g.busy) - 1
	g.busy[i], g.busy[last] = g.busy[last], nil
	g.busy = g.busy[:last]
}

func (g *gate) find(l *lane) int {
	for i, b := range g.busy {
		if b == l {
			return i
		}
	}
	return -1
}

// enter counts n packets of l that go in. Tags may be given to tell them by, one
// for each.
func (g *gate) enter(l *lane, n int, tags ...uint64) {
	if n == 0 || !l.moving.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !l.moving.Load() {
		return
	}
	if l.n == 0 {
		l.progress = g.now()
		g.busy = append(g.busy, l)
	}
	l.n += n
	l.tags = append(l.tags, tags...)
	g.total += n
}

// leave counts n packets of l that came out.
func (g *gate) leave(l *lane, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.move()
	g.take(l, min(n, l.n))
}

// leaveUpTo counts out the packet with that tag, and all that went in before it:
// those came out already, or never will, because a peer's packets keep their
// order. A tag that is not inside says only that l moves.
func (g *gate) leaveUpTo(l *lane, tag uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.move()
	for i, t := range l.tags {
		if t == tag {
			l.tags = l.tags[:copy(l.tags, l.tags[i+1:])]
			g.take(l, i+1)
			return
		}
	}
}

func (l *lane) move() {
	if !l.moving.Load() {
		l.moving.Store(true)
		l.moved.Store(true)
	}
}

func (g *gate) take(l *lane, n int) {
	if n == 0 {
		return
	}
	if n == l.n {
		g.empty(l, g.find(l))
	} else {
		l.n -= n
		g.total -= n
		l.progress = g.now()
	}
	// Waking for every packet would hand the processor to and fro; half the
	// limit is a batch.
	if g.room != nil && g.total <= g.limit/2 {
		close(g.room)
		g.room = nil
	}
}

// drop forgets l, whose peer is gone.
func (g *gate) drop(l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.moving.Store(false)
	l.moved.Store(false)
	if i := g.find(l); i >= 0 {
		g.empty(l, i)
	}
	if g.room != nil && g.total <= g.limit/2 {
		close(g.room)
		g.room = nil
	}
}

// close ends every wait, for good.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
}
