package node

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/coordinator/acl"
)

// armed arms a plane of whose rules something ends at next, and counts how often
// it asks for the time and judges.
func armed(next time.Time, clock func() time.Time) (looked, judged *atomic.Int64) {
	looked, judged = new(atomic.Int64), new(atomic.Int64)
	p := &plane{clock: func() time.Time {
		looked.Add(1)
		return clock()
	}}
	p.rules = filter.Compile(filter.Rules{Self: &acl.Subject{Expires: next}}, clock())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arm(p.rules, func() { judged.Add(1) })
	return looked, judged
}

func TestJudgedWhenSomethingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looked, judged := armed(time.Now().Add(90*time.Second), time.Now)
		time.Sleep(90*time.Second - time.Nanosecond)
		synctest.Wait()
		if judged.Load() != 0 {
			t.Errorf("judged %d times before the end, want 0", judged.Load())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if judged.Load() != 1 || looked.Load() > 2 {
			t.Errorf("judged %d times after %d looks at the clock, want 1 after 2", judged.Load(), looked.Load())
		}
		time.Sleep(time.Hour)
		if judged.Load() != 1 {
			t.Errorf("judged %d times, want once", judged.Load())
		}
	})
}

// A machine that slept wakes to a clock that went on without its timers.
func TestJudgedSoonAfterSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		_, judged := armed(time.Now().Add(8*time.Hour), func() time.Time { return time.Now().Add(time.Duration(slept.Load())) })
		time.Sleep(10 * time.Minute)
		slept.Store(int64(10 * time.Hour))
		time.Sleep(lookEvery)
		synctest.Wait()
		if judged.Load() != 1 {
			t.Errorf("judged %d times within %s of waking, want once", judged.Load(), lookEvery)
		}
	})
}

// Where the machine's clock is behind the newest document, the verifier's time
// stands still until it is not; that must cost nothing.
func TestJudgedOnceThoughTheClockIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newest := time.Now().Add(5 * time.Minute)
		clock := func() time.Time {
			if now := time.Now(); now.After(newest) {
				return now
			}
			return newest
		}
		looked, judged := armed(newest.Add(time.Millisecond), clock)
		time.Sleep(5*time.Minute + time.Millisecond)
		synctest.Wait()
		if judged.Load() != 1 || looked.Load() > 7 {
			t.Errorf("judged %d times after %d looks at the clock, want 1 after 7 at most", judged.Load(), looked.Load())
		}
	})
}
