//go:build !linux

package flowfile

import "time"

// uptime is not known.
func uptime() time.Duration { return 0 }
