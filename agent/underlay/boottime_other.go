//go:build !linux

package underlay

import "time"

// boottime stands still: that the machine slept is not noticed.
func boottime() time.Duration { return 0 }
