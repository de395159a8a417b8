package filter

import (
	"sync/atomic"
	"time"
)

// defaultClockEvery is how stale the clock may be. Reading it costs as much as
// judging a packet of a known flow; nothing that the filter times is shorter
// than ten seconds, and a grant that ends 2 ms late has ended on time.
const defaultClockEvery = 2 * time.Millisecond

// clock reads a clock at most once in a while. While packets flow a timer makes
// the reading stale; while none do there is no timer.
type clock struct {
	read  func() time.Time
	every time.Duration
	stale *time.Timer
	fresh atomic.Bool // last is less than every old
	last  atomic.Int64
}

func (c *clock) init(read func() time.Time, every time.Duration) {
	if read == nil {
		read = time.Now
	}
	if every == 0 {
		every = defaultClockEvery
	}
	c.read, c.every = read, every
	if every > 0 {
		c.stale = time.AfterFunc(time.Hour, func() { c.fresh.Store(false) })
		c.stale.Stop()
	}
}

// now is the time in nanoseconds of the Unix epoch.
func (c *clock) now() int64 {
	if c.fresh.Load() {
		return c.last.Load()
	}
	return c.renew()
}

func (c *clock) renew() int64 {
	n := c.read().UnixNano()
	c.last.Store(n)
	if c.every > 0 && c.fresh.CompareAndSwap(false, true) {
		c.stale.Reset(c.every)
	}
	return n
}
