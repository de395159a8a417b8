package tunnel

import (
	"context"
	"fmt"
	"log/slog"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// What WireGuard tells only its log, by the formats that it does so with. A test
// with two tunnels sees to it that they are these.
const (
	forgedSource4 = "IPv4 packet with disallowed source address from %v"
	keepaliveCame = "%v - Receiving keepalive packet"
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
			case keepaliveCame:
				t.keepaliveCame(args)
			}
			logf(format, args...)
		},
	}
}

// keepaliveCame tells the Bind of a keepalive, whose peer WireGuard names first.
func (t *Tunnel) keepaliveCame(args []any) {
	if t.keepalive == nil || len(args) == 0 {
		return
	}
	if peer, ok := args[0].(*device.Peer); ok {
		if id, ok := t.byPeer.Load(peer); ok {
			t.keepalive(id.(key.NodeID))
		}
	}
}

// introduce takes note of which of WireGuard's peers m is. The peers' lock is
// held.
func (t *Tunnel) introduce(m *member) {
	if p := t.dev.LookupPeer(m.peer.Key.Bytes()); p != m.known {
		t.part(m)
		if p != nil {
			m.known = p
			t.byPeer.Store(p, m.id)
		}
	}
}

// part undoes introduce.
func (t *Tunnel) part(m *member) {
	if m.known != nil {
		t.byPeer.Delete(m.known)
		m.known = nil
	}
}
