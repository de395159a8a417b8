package natlab

import (
	"math/rand/v2"
	"time"
)

// A Link joins an interface to its network. Everything in it holds for each
// direction by itself, and a packet between two hosts passes at least two links:
// both delays add up, both may lose it. The zero value is an ideal link.
type Link struct {
	// Delay is from one end to the other. No link is faster than a microsecond,
	// so that what causes something is always earlier.
	Delay time.Duration
	// Jitter is at most how much later a packet comes; evenly distributed, but
	// never so that one packet overtakes another.
	Jitter time.Duration
	// Loss is the share of packets that vanish, 0 to 1.
	Loss float64
	// Reorder is the share of packets that are held back by Hold, so that later
	// ones overtake them. A Hold of zero means ten milliseconds.
	Reorder float64
	Hold    time.Duration
	// Rate is in bits per second, IP headers included; zero means no limit.
	Rate int64
	// Queue is how many bytes may wait for their turn at Rate or be having it,
	// beyond which packets are dropped; a link that does nothing takes a packet of
	// any size. Zero means 128 KiB.
	Queue int
	// MTU is the largest IP packet in bytes; nothing is fragmented. Zero means
	// 1500.
	MTU int
}

const (
	leastDelay   = time.Microsecond
	defaultHold  = 10 * time.Millisecond
	defaultQueue = 128 << 10
	defaultMTU   = 1500
)

func (l Link) mtu() int {
	if l.MTU == 0 {
		return defaultMTU
	}
	return l.MTU
}

// A direction is one way through a link.
type direction struct {
	random *rand.Rand
	busy   time.Time // until when the packets accepted so far are being sent
	latest time.Time // when the latest of them arrives that was not held back
	seq    uint64    // how many were accepted
}

// pass decides when a packet of size bytes arrives that enters at now, or why it
// does not.
func (d *direction) pass(l Link, now time.Time, size int) (at time.Time, why Reason) {
	if size > l.mtu() {
		return time.Time{}, TooBig
	}
	// As many numbers are drawn for every packet, whatever the link is like: so
	// a world with loss and one without differ in nothing but the loss.
	lost, held, late := d.random.Float64(), d.random.Float64(), d.random.Float64()
	if lost < l.Loss {
		return time.Time{}, Lost
	}
	at = now
	if l.Rate > 0 {
		start := now
		if d.busy.After(now) {
			start = d.busy
		}
		queue := l.Queue
		if queue == 0 {
			queue = defaultQueue
		}
		waiting := int64(start.Sub(now).Seconds() * float64(l.Rate) / 8)
		if start.After(now) && waiting+int64(size) > int64(queue) {
			return time.Time{}, QueueFull
		}
		d.busy = start.Add(time.Duration(float64(size*8) / float64(l.Rate) * float64(time.Second)))
		at = d.busy
	}
	at = at.Add(max(l.Delay, leastDelay) + time.Duration(late*float64(l.Jitter)))
	if held < l.Reorder {
		hold := l.Hold
		if hold == 0 {
			hold = defaultHold
		}
		at = at.Add(hold)
	} else {
		if at.Before(d.latest) {
			at = d.latest
		}
		d.latest = at
	}
	d.seq++
	return at, ""
}
