package path

import (
	"container/list"
	"time"
)

const (
	// pingRate and pingBurst bound the pings of the whole node. 100 a second are
	// about 10 kB/s; the burst lets a node that starts with a dozen peers in use
	// ping all of their addresses at once.
	pingRate, pingBurst = 100, 200

	// peerRate and peerBurst bound the pings that one peer can cause by what it
	// says: what a lying peer can aim at somebody else's address. The burst is
	// two pings for each candidate of a full list.
	peerRate, peerBurst = 30, 96

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

// A line is where pings wait for the node's budget: first come, first served
// within an urgency. A candidate waits at most once, so a line is never longer
// than there are candidates.
type line struct {
	budget bucket
	queues [urgencies]list.List
}

// join has c wait; a more urgent ping of the same candidate overtakes.
func (l *line) join(c *candidate, u urgency) {
	if c.waiting != nil {
		if u >= c.urgency {
			return
		}
		l.leave(c)
	}
	c.urgency = u
	c.waiting = l.queues[u].PushBack(c)
}

// leave takes c out of the line.
func (l *line) leave(c *candidate) {
	if c.waiting != nil {
		l.queues[c.urgency].Remove(c.waiting)
		c.waiting = nil
	}
}

// next takes the candidate that may be pinged now; nil when there is none.
func (l *line) next(now time.Time) *candidate {
	for u := range l.queues {
		if e := l.queues[u].Front(); e != nil {
			if !l.budget.take(now, pingRate, pingBurst) {
				return nil
			}
			c := e.Value.(*candidate)
			l.leave(c)
			return c
		}
	}
	return nil
}

// ready is when next has something; zero for an empty line.
func (l *line) ready() time.Time {
	for u := range l.queues {
		if l.queues[u].Len() > 0 {
			return l.budget.ready(pingRate)
		}
	}
	return time.Time{}
}
