package path

import (
	"container/list"
	"time"
)

const (
	// pingRate and pingBurst bound the pings of the whole node. 100 a second are
	// 11 kB/s while nobody answers, and 134 kB/s if all were long ones, which go
	// only where somebody answers. The burst lets a node that starts with a dozen
	// peers in use ping all of their addresses at once, in 22 kB.
	pingRate, pingBurst = 100, 200

	// peerRate and peerBurst bound the pings that one peer can cause by what it
	// says, to addresses that answered: half a dozen of them, all in doubt at once,
	// are asked as quickly as the schedule says.
	peerRate, peerBurst = 15, 96

	// blindRate and blindBurst bound the same to addresses that never answered:
	// what a lying peer can aim at somebody else. The burst is two pings for each
	// candidate of a full list.
	blindRate, blindBurst = 5, 96

	// oneRate and oneBurst bound the pings to one address that never answered: the
	// five of the schedule's first 2 s and a few because something else happened.
	oneRate, oneBurst = 1, 8

	// freshRate and freshBurst bound the new addresses of one peer that become
	// candidates because a message came from there. Two NATs with
	// address-and-port-dependent mapping show a new address in each answer to a
	// ping to a new address, and so without end.
	freshRate, freshBurst = 0.2, 16

	// pongRate and pongBurst bound the answers to one peer. An honest peer pings
	// within its own bounds, above.
	pongRate, pongBurst = 50, 100
)

// A bucket holds tokens that come back at a constant rate.
type bucket struct {
	tokens float64
	at     time.Time // when tokens was right
}

func fullBucket(burst int, now time.Time) bucket { return bucket{tokens: float64(burst), at: now} }

// fill brings the bucket up to now.
func (b *bucket) fill(now time.Time, rate, burst float64) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(burst, b.tokens+d.Seconds()*rate)
		b.at = now
	}
}

// take takes one token, and reports whether there was one.
func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.fill(now, rate, burst)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// ready is when the next token is there.
func (b *bucket) ready(rate float64) time.Time {
	if b.tokens >= 1 {
		return b.at
	}
	// A microsecond more than the quotient, so that rounding never leaves the
	// bucket a hair short of a token at the time that was promised.
	return b.at.Add(time.Duration((1-b.tokens)/rate*float64(time.Second)) + time.Microsecond)
}

// An urgency orders the pings that wait for the node's budget.
type urgency int

const (
	inUse  urgency = iota // checks the path in use, or completes the proof of one
	first                 // the first on an address since something happened
	repeat                // others
	urgencies
)

// patience is how many pings of a more urgent kind, but for inUse, go before one
// repetition that waits: whoever makes first pings without end does not stop those
// of others.
const patience = 3

// A line is where pings wait for the node's budget. Within an urgency the peers
// take turns, so that none waits for what another causes; the candidates of one
// peer go first come, first served. A candidate waits at most once, so a line is
// never longer than there are candidates.
type line struct {
	budget bucket
	queues [urgencies]queue
	firsts int // first pings since the last repetition
}

// A queue is the peers whose candidates wait, in the order of their turns.
type queue struct {
	turns list.List // of *peer, whose queued of this urgency is not empty
	n     int       // candidates that wait
}

// A place is where one peer's candidates wait with one urgency.
type place struct {
	list.List               // of *candidate
	turn      *list.Element // in the queue; nil: the list is empty
}

// join has c wait; a more urgent ping of the same candidate overtakes.
func (l *line) join(c *candidate, u urgency) {
	if c.waiting != nil {
		if u >= c.urgency {
			return
		}
		l.leave(c)
	}
	at := &c.peer.places[u]
	c.urgency = u
	c.waiting = at.PushBack(c)
	if at.turn == nil {
		at.turn = l.queues[u].turns.PushBack(c.peer)
	}
	l.queues[u].n++
}

// leave takes c out of the line.
func (l *line) leave(c *candidate) {
	if c.waiting == nil {
		return
	}
	at, q := &c.peer.places[c.urgency], &l.queues[c.urgency]
	at.Remove(c.waiting)
	c.waiting = nil
	if at.Len() == 0 {
		q.turns.Remove(at.turn)
		at.turn = nil
	}
	q.n--
}

// next takes the candidate that may be pinged now; nil when there is none.
func (l *line) next(now time.Time) *candidate {
	u, ok := l.turn()
	if !ok || !l.budget.take(now, pingRate, pingBurst) {
		return nil
	}
	switch u {
	case first:
		l.firsts++
	case repeat:
		l.firsts = 0
	}
	turns := &l.queues[u].turns
	p := turns.Front().Value.(*peer)
	c := p.places[u].Front().Value.(*candidate)
	turns.MoveToBack(turns.Front())
	l.leave(c)
	return c
}

// turn is the urgency of what goes next; false for an empty line.
func (l *line) turn() (urgency, bool) {
	if l.queues[inUse].n == 0 && l.queues[repeat].n > 0 && l.firsts >= patience {
		return repeat, true
	}
	for u := range urgencies {
		if l.queues[u].n > 0 {
			return u, true
		}
	}
	return 0, false
}

// ready is when next has something; zero for an empty line.
func (l *line) ready() time.Time {
	if _, ok := l.turn(); !ok {
		return time.Time{}
	}
	return l.budget.ready(pingRate)
}
