package filter

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClockIsReadOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		var c clock
		c.init(func() time.Time { reads++; return time.Now() }, 0)
		start := time.Now().UnixNano()
		for range 1000 {
			if got := c.now(); got != start {
				t.Fatalf("now %d, want %d", got, start)
			}
		}
		if reads != 1 {
			t.Errorf("clock read %d times for 1000 packets at one instant, want 1", reads)
		}
		time.Sleep(defaultClockEvery)
		synctest.Wait()
		if got, want := c.now(), start+int64(defaultClockEvery); got != want || reads != 2 {
			t.Errorf("after %v: now %d in %d reads, want %d in 2", defaultClockEvery, got, reads, want)
		}
		// Nothing flows for an hour: the next packet must not meet an old time.
		time.Sleep(time.Hour)
		if got, want := c.now(), start+int64(defaultClockEvery+time.Hour); got != want {
			t.Errorf("after an hour: now %d, want %d", got, want)
		}
	})
}

func TestClockThatEveryPacketReads(t *testing.T) {
	var c clock
	n := int64(0)
	c.init(func() time.Time { n++; return time.Unix(0, n) }, -1)
	for want := int64(1); want < 5; want++ {
		if got := c.now(); got != want {
			t.Errorf("now %d, want %d", got, want)
		}
	}
}
