package underlay

import "time"

// clockSlack is how far two clocks may drift apart between two looks: a clock that
// is slewed gains 500 ppm, and to read two takes a moment.
const clockSlack = time.Second

// clocks are three readings of the time, taken together.
type clocks struct {
	at   time.Time     // with the monotonic clock, which stands still while the machine sleeps
	boot time.Duration // which does not
}

func readClocks(boot func() time.Duration) clocks { return clocks{time.Now(), boot()} }

// since says what happened since an earlier reading: the machine slept, so that
// every NAT has forgotten it; or its wall clock was set forward.
func (c clocks) since(before clocks) (slept, set bool) {
	ran := c.at.Sub(before.at)
	slept = c.boot-before.boot-ran > clockSlack
	wall := c.at.Round(0).Sub(before.at.Round(0))
	if slept {
		ran = c.boot - before.boot
	}
	return slept, forward(wall, ran)
}

// forward reports whether a wall clock that went by wall in the time of ran was set
// forward.
func forward(wall, ran time.Duration) bool { return wall-ran > clockSlack }
