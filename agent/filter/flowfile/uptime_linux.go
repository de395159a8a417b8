package flowfile

import (
	"time"

	"golang.org/x/sys/unix"
)

// uptime is how long the machine has been running, asleep or not.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
