// Package tunnel runs WireGuard for a node: wireguard-go between a tun.Device on
// one side (the kernel's, or package netstack's) and a conn.Bind on the other
// (package bind's), with the packet filter in between.
//
// # Flow
//
//		device ── Read ──► Out ──► WireGuard encrypts ──► Bind
//		                    ▲ InjectOut
//		                    ▼ InjectIn (a goroutine of its own)
//		device ◄─ Write ◄── In ◄── WireGuard decrypts ◄── Bind
//
//	 1. New puts both filters in place, then starts WireGuard, then brings it up.
//	    No packet ever passes without having been judged; a tunnel without both
//	    filters is refused.
//	 2. SetPeers says who the peers are now. Only what differs is changed: an
//	    unchanged peer keeps its session and its counters.
//	 3. A packet that a filter refuses is dropped within its batch.
//	 4. InjectOut and InjectIn send what the filter itself has to say (a reset to
//	    both ends of a flow that was cut). Injected packets are not judged.
//	 5. Close ends everything. Done is closed when WireGuard has ended, also when
//	    it ended because the device was lost.
//
// # Promises
//
// WireGuard checks that the source of a decrypted packet is an address in
// Peer.Allowed of the peer whose key decrypted it, before In sees the packet. In
// and Out see one IP packet each, which may be shorter than its own header says
// and must be parsed with care.
//
// After SetPeers returns, no packet to or from a peer that it removed passes
// any more. An address that goes from one peer to another is at every moment
// one's or the other's.
//
// An endpoint never roams: it is what SetPeers gave, the node. Nothing in this
// package listens on a port.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/writmesh/writ/coordinator/key"
)

// injectLength is how many injected packets may wait, each way. A filter swap
// that cuts a thousand flows injects two packets for each; what does not fit is
// refused, and its connection ends by the silence instead of by a reset.
const injectLength = 4096

// Config is what a Tunnel is made of.
type Config struct {
	// Key is the node's WireGuard key.
	Key key.WGPrivate

	// Device is where the node's own packets come from and go to. The Tunnel
	// closes it.
	Device tun.Device

	// Bind carries WireGuard's packets. If it has a method Forget(key.NodeID),
	// that is called for every node that SetPeers removed.
	Bind conn.Bind

	// MTU is what WireGuard pads to, and what MTU of the device is taken to be.
	// Zero: what the device says.
	MTU int

	// In judges a packet from a peer to this node, Out one from this node to a
	// peer: false drops it. Both are required. They run on WireGuard's goroutines,
	// several at a time, once per packet; they must not block, keep pkt, or call
	// SetPeers or Close.
	In, Out func(pkt []byte) bool

	// Log receives what WireGuard logs, at level debug. Nil: nothing.
	Log *slog.Logger
}

// A Tunnel is a running WireGuard device.
type Tunnel struct {
	// set at construction
	dev     *device.Device
	tap     *tap
	public  key.WGPublic
	forget  func(key.NodeID) // nil if the Bind has no such method
	cancel  context.CancelFunc
	running sync.WaitGroup // the tunnel's own goroutines

	peers peerSet
}

// New starts a tunnel without peers.
func New(cfg Config) (*Tunnel, error) {
	switch {
	case cfg.Device == nil:
		return nil, errors.New("new tunnel: no device")
	case cfg.Bind == nil:
		return nil, errors.New("new tunnel: no bind")
	case cfg.In == nil || cfg.Out == nil:
		return nil, errors.New("new tunnel: no filter; a tunnel without one would pass everything")
	case cfg.MTU < 0 || cfg.MTU > device.MaxContentSize:
		return nil, fmt.Errorf("new tunnel: mtu %d, want 0 to %d", cfg.MTU, device.MaxContentSize)
	case cfg.Key.Equal(key.WGPrivate{}):
		return nil, errors.New("new tunnel: no key")
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Tunnel{public: cfg.Key.Public(), cancel: cancel}
	t.tap = newTap(cfg.Device, cfg.MTU, cfg.In, cfg.Out)
	if f, ok := cfg.Bind.(interface{ Forget(key.NodeID) }); ok {
		t.forget = f.Forget
	}
	t.peers.init()
	t.tap.start(ctx, &t.running)
	t.dev = device.NewDevice(t.tap, cfg.Bind, logger(cfg.Log))
	t.dev.DisableSomeRoamingForBrokenMobileSemantics()
	if err := t.dev.IpcSet("private_key=" + cfg.Key.Hex() + "\n"); err != nil {
		t.Close()
		return nil, fmt.Errorf("new tunnel: set key: %w", err)
	}
	if err := t.dev.Up(); err != nil {
		t.Close()
		return nil, fmt.Errorf("new tunnel: %w", err)
	}
	return t, nil
}

// PublicKey is the public half of Config.Key.
func (t *Tunnel) PublicKey() key.WGPublic { return t.public }

// Done is closed when WireGuard has ended.
func (t *Tunnel) Done() <-chan struct{} { return t.dev.Wait() }

// Close ends the tunnel, closes the device, and waits for both.
func (t *Tunnel) Close() error {
	t.dev.Close()
	<-t.dev.Wait() // whoever else closed it
	t.cancel()
	t.running.Wait()
	return nil
}

// InjectOut sends an IP packet of the filter's own towards the mesh, ahead of
// what the device sends. It copies pkt and never blocks; false: no room.
func (t *Tunnel) InjectOut(pkt []byte) bool { return t.tap.injectOut(pkt) }

// InjectIn gives an IP packet of the filter's own to the local device. It copies
// pkt and never blocks; false: no room. It may be called from In and Out.
func (t *Tunnel) InjectIn(pkt []byte) bool { return t.tap.injectIn(pkt) }

// Counters are packets since the tunnel began.
type Counters struct {
	RefusedIn  uint64 // that In refused
	RefusedOut uint64 // that Out refused
	InjectFull uint64 // that InjectIn and InjectOut had no room for
}

// Counters returns the counts so far.
func (t *Tunnel) Counters() Counters {
	return Counters{
		RefusedIn:  t.tap.refusedIn.Load(),
		RefusedOut: t.tap.refusedOut.Load(),
		InjectFull: t.tap.injectFull.Load(),
	}
}

// logger sends WireGuard's log to l at debug, without formatting what nobody
// will see.
func logger(l *slog.Logger) *device.Logger {
	if l == nil {
		return &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	}
	logf := func(format string, args ...any) {
		if l.Enabled(context.Background(), slog.LevelDebug) {
			l.Debug("wireguard: " + fmt.Sprintf(format, args...))
		}
	}
	return &device.Logger{Verbosef: logf, Errorf: logf}
}
