package tunnel

import (
	"slices"
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

	// maxStalls is how many stalls in stallsFor an untrusted gate waits for: 40 ms
	// in a second, a twenty-fifth of the time. On a machine that is merely busy,
	// stalls are rarer.
	maxStalls = 4
	stallsFor = time.Second
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
//
// Of what comes from outside, anybody may have made a packet in a peer's name:
// WireGuard drops it, and the lane stalls. One true packet makes the lane move
// again, so that a few forged ones after each would keep everybody waiting. An
// untrusted gate therefore waits for a few stalls in a second, whosever; beyond
// these it writes off whoever is the longest without progress, at once.
type gate struct {
	limit     int
	stalled   time.Duration
	untrusted bool
	now       func() time.Time

	mu     sync.Mutex
	total  int           // guarded by mu: the sum of busy lanes
	busy   []*lane       // guarded by mu: lanes with packets inside
	room   chan struct{} // guarded by mu: closed when there is room; nil when nobody waits
	closed bool          // guarded by mu

	// guarded by mu: when the last stalls ended that were waited for, of which the
	// one at oldest is the oldest
	stalls [maxStalls]time.Time
	oldest int

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
	came     uint64    // the tag that came out last; none of tags is late
}

// late reports whether a packet with that tag is not worth counting: one that was
// sent after it, with the same keys, came out already. It is a copy that took the
// other path, which WireGuard drops as a replay, or overtaken, which is rare.
// While a peer sends by both paths every second packet is one. Were they counted,
// they would fill the gate, with nothing behind them to take them off.
func (l *lane) late(tag uint64) bool { return tag>>32 == l.came>>32 && tag <= l.came }

func newGate(untrusted bool) *gate {
	return &gate{limit: maxInFlight, stalled: stalled, untrusted: untrusted, now: time.Now}
}

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
	rest, wrote := g.stalled, false
	for i := 0; i < len(g.busy); {
		l := g.busy[i]
		if left := g.stalled - now.Sub(l.progress); left > 0 {
			rest = min(rest, left)
			i++
			continue
		}
		g.writeOff(l, i)
		wrote = true
	}
	if wrote {
		g.stalls[g.oldest] = now
		g.oldest = (g.oldest + 1) % maxStalls
	} else if g.untrusted && now.Sub(g.stalls[g.oldest]) < stallsFor {
		for g.total >= g.limit && len(g.busy) > 0 {
			stalest := 0
			for i, l := range g.busy {
				if l.progress.Before(g.busy[stalest].progress) {
					stalest = i
				}
			}
			g.writeOff(g.busy[stalest], stalest)
		}
	}
	g.signal()
	return rest
}

// writeOff takes lane i off the account: what is inside of it will not come out.
func (g *gate) writeOff(l *lane, i int) {
	g.expired.Add(uint64(l.n))
	l.moving.Store(false)
	g.empty(l, i)
}

// signal wakes who waits. Waking for every packet would hand the processor to and
// fro; half the limit is a batch.
func (g *gate) signal() {
	if g.room != nil && g.total <= g.limit/2 {
		close(g.room)
		g.room = nil
	}
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
	for _, t := range tags {
		if l.late(t) {
			n--
		} else {
			l.tags = append(l.tags, t)
		}
	}
	if n == 0 {
		return
	}
	if l.n == 0 {
		l.progress = g.now()
		g.busy = append(g.busy, l)
	}
	l.n += n
	g.total += n
}

// leave counts n packets of l that came out.
func (g *gate) leave(l *lane, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.move()
	g.take(l, min(n, l.n))
}

// leaveUpTo counts out the packet with that tag, all that went in before it, which
// came out already or never will because a peer's packets keep their order, and
// all that are late. A tag that is not inside says only that l moves.
func (g *gate) leaveUpTo(l *lane, tag uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.move()
	if !l.late(tag) {
		l.came = tag
	}
	inside := l.tags[:0]
	for _, t := range l.tags[slices.Index(l.tags, tag)+1:] {
		if !l.late(t) {
			inside = append(inside, t)
		}
	}
	out := len(l.tags) - len(inside)
	l.tags = inside
	g.take(l, out)
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
	g.signal()
}

// drop forgets l, whose peer is gone.
func (g *gate) drop(l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.moving.Store(false)
	l.moved.Store(false)
	l.came = 0
	if i := g.find(l); i >= 0 {
		g.empty(l, i)
	}
	g.signal()
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
