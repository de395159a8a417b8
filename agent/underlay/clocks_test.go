package underlay

import (
	"testing"
	"time"
)

func TestClocks(t *testing.T) {
	const look = 10 * time.Second
	start := time.Now()
	// A reading whose wall clock was moved by set: time.Time keeps both clocks, and
	// only a copy without the monotonic one can be moved alone.
	for _, c := range []struct {
		name       string
		ran        time.Duration // by the monotonic clock
		boot       time.Duration
		slept, set bool
	}{
		{"nothing happened", look, look, false, false},
		{"slewed", look, look + 5*time.Millisecond, false, false},
		{"slept an hour", look, look + time.Hour, true, false},
		{"no such clock", look, 0, false, false},
		{"virtual time", time.Hour, time.Millisecond, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := clocks{start, time.Minute}
			now := clocks{start.Add(c.ran), time.Minute + c.boot}
			slept, set := now.since(before)
			if slept != c.slept || set != c.set {
				t.Errorf("got slept %v, set %v; want %v, %v", slept, set, c.slept, c.set)
			}
		})
	}
	for _, c := range []struct {
		name      string
		wall, ran time.Duration
		set       bool
	}{
		{"as fast", look, look, false},
		{"set forward a minute", look + time.Minute, look, true},
		{"set back a minute", look - time.Minute, look, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := forward(c.wall, c.ran); got != c.set {
				t.Errorf("the wall clock went %v in %v: got set forward %v, want %v", c.wall, c.ran, got, c.set)
			}
		})
	}
}
