package underlay

import (
	"time"

	"golang.org/x/sys/unix"
)

func boottime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // never so on a Linux that Go runs on
	}
	return time.Duration(t.Nano())
}
