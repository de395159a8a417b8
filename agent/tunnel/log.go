package tunnel

import (
	"context"
	"fmt"
	"log/slog"

	"golang.zx2c4.com/wireguard/device"
)

// What WireGuard tells only its log, by the formats that it does so with. A test
// with two tunnels sees to it that they are these.
const (
	forgedSource4 = "IPv4 packet with disallowed source address from %v"
	forgedSource6 = "IPv6 packet with disallowed source address from %v"
)

// logger takes from WireGuard's log what is counted, and sends it to t.log at
// debug, without formatting what nobody will see.
func (t *Tunnel) logger() *device.Logger {
	logf := func(format string, args ...any) {
		if t.log != nil && t.log.Enabled(context.Background(), slog.LevelDebug) {
			t.log.Debug("wireguard: " + fmt.Sprintf(format, args...))
		}
	}
	return &device.Logger{
		Errorf: logf,
		Verbosef: func(format string, args ...any) {
			switch format {
			case forgedSource4, forgedSource6:
				t.forgedSource.Add(1)
			}
			logf(format, args...)
		},
	}
}
