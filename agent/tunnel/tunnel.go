// Package tunnel runs WireGuard for a node: wireguard-go between a tun.Device on
// one side (the kernel's, or package netstack's) and a conn.Bind on the other
// (package bind's), with the packet filter in between.
//
// # Flow
//
//		device ── Read ──► Out ──► whose is it? ──► gate ──► WireGuard encrypts ──► Bind
//		                    ▲ InjectOut  ▲ held              (counts out)
//		                    ▼ InjectIn (a goroutine of its own)
//		device ◄─ Write ◄── In ◄── WireGuard decrypts ◄── gate ◄── Bind
//		                           (counts out)
//
//	 1. New puts both filters in place, then starts WireGuard, then brings it up.
//	    No packet ever passes without having been judged; a tunnel without both
//	    filters is refused.
//	 2. SetPeers declares who the peers are now. Only what differs is changed: an
//	    unchanged peer keeps its session and its counters.
//	 3. With Config.Idle, WireGuard is told of a declared peer only when it is
//	    needed: by a packet to one of its addresses, which is held meanwhile
//	    (at most 64 for a peer, 4 MiB for all) and goes before those that come
//	    after it; or by Configure, when a packet of the peer's has come. After the
//	    idle time without a packet WireGuard is made to forget it; its counts stay.
//	    Without Config.Idle WireGuard knows every declared peer always.
//	 4. A packet that a filter refuses is dropped within its batch. So is one to
//	    an address that is no peer's.
//	 5. InjectOut and InjectIn send what the filter itself has to say (a reset to
//	    both ends of a flow that was cut). Injected packets are not judged.
//	 6. Close ends everything. Done is closed when WireGuard has ended, also when
//	    it ended because the device was lost.
//
// # Limits
//
// At most 256 packets, and the batch that reaches that number, are inside
// WireGuard each way; see gate. Packets for a peer without a session do not count, so
// that a dead peer never holds up another: 64 of them go in, then one in 20 ms,
// the rest is dropped and counted. WireGuard works on them when there is a
// session.
//
// # Promises
//
// WireGuard checks that the source of a decrypted packet is an address in
// Peer.Allowed of the peer whose key decrypted it, before In sees the packet. In
// and Out see one IP packet each, which may be shorter than its own header says
// and must be parsed with care. A peer whose addresses lie within another's
// prefix is always configured, because for WireGuard they would be the other's
// while it is not.
//
// After SetPeers returns, no packet to or from a peer that it removed passes
// any more, held packets included, and WireGuard has forgotten its key. An
// address that goes from one peer to another is at every moment one's or the
// other's.
//
// A held packet was judged when it came, like one that waits inside WireGuard
// for a session.
//
// An endpoint never roams: it is what SetPeers gave, the node. Nothing in this
// package listens on a port.
//
// WireGuard is configured by whoever calls SetPeers and Configure, and by
// goroutines of this package's; never by WireGuard's own, which its Close waits
// for while it holds the lock of the configuration.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

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
	// that is called for every node that SetPeers removed, and for every peer that
	// was idle. If it has SetKey(key.WGPublic), that is called once, with the public
	// half of Key. If it has Accepted(key.NodeID, [][]byte), that is called for the
	// packets of one peer that WireGuard authenticated, in the buffers that the
	// Bind filled; and AcceptedKeepalive(key.NodeID) for each such keepalive.
	Bind conn.Bind

	// Idle is how long a peer may have no packet before WireGuard is made to
	// forget it, three minutes or more. Zero: WireGuard knows every peer always.
	// With any other value WireGuard is told of a peer only when there is a packet
	// for it, or by Configure, which whoever made the Bind must call for a packet
	// from a node that the Bind does not know.
	Idle time.Duration

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
	bind    *metered
	idle    time.Duration // zero: never
	log     *slog.Logger  // may be nil
	public  key.WGPublic
	forget  func(key.NodeID) // nil if the Bind has no such method
	cancel  context.CancelFunc
	running sync.WaitGroup // the tunnel's own goroutines

	peers peerSet

	keepalive    func(key.NodeID) // nil if the Bind has no such method; set by New
	byPeer       sync.Map         // *device.Peer → key.NodeID, for every configured peer
	forgedSource atomic.Uint64
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
	case cfg.Idle != 0 && cfg.Idle < minIdle:
		return nil, fmt.Errorf("new tunnel: idle time %v, want none or %v or more", cfg.Idle, minIdle)
	case cfg.Key.Equal(key.WGPrivate{}):
		return nil, errors.New("new tunnel: no key")
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Tunnel{public: cfg.Key.Public(), cancel: cancel, idle: cfg.Idle, log: cfg.Log}
	t.tap = newTap(cfg.Device, cfg.MTU, cfg.In, cfg.Out)
	t.bind = &metered{Bind: cfg.Bind, in: t.tap.inGate, out: t.tap.outGate}
	if f, ok := cfg.Bind.(interface{ Forget(key.NodeID) }); ok {
		t.forget = f.Forget
	}
	if b, ok := cfg.Bind.(interface{ Accepted(key.NodeID, [][]byte) }); ok {
		t.tap.accepted = b.Accepted
	}
	if b, ok := cfg.Bind.(interface{ AcceptedKeepalive(key.NodeID) }); ok {
		t.keepalive = b.AcceptedKeepalive
	}
	if b, ok := cfg.Bind.(interface{ SetKey(key.WGPublic) }); ok {
		b.SetKey(t.public)
	}
	t.peers.init()
	t.tap.start(ctx, &t.running)
	t.dev = device.NewDevice(t.tap, t.bind, t.logger())
	t.dev.DisableSomeRoamingForBrokenMobileSemantics()
	if err := t.dev.IpcSet("private_key=" + cfg.Key.Hex() + "\n"); err != nil {
		t.Close()
		return nil, fmt.Errorf("new tunnel: set key: %w", err)
	}
	if err := t.dev.Up(); err != nil {
		t.Close()
		return nil, fmt.Errorf("new tunnel: %w", err)
	}
	t.running.Go(func() { t.answer(ctx) })
	if t.idle > 0 {
		t.running.Go(func() { t.watch(ctx) })
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
	Unrouted   uint64 // dropped: for an address that is no peer's
	Held       uint64 // that waited for their peer to be configured
	HeldFull   uint64 // dropped: too many waited already
	HeldLost   uint64 // dropped: they waited for a peer that was removed
	NoSession  uint64 // dropped: too many were sent to a peer without a session
	Expired    uint64 // that WireGuard dropped, as far as the gates noticed

	// ForgedSource counts packets that WireGuard dropped because they came from a
	// peer by its key, and from an address inside the mesh that is not the peer's.
	ForgedSource uint64
}

// Counters returns the counts so far.
func (t *Tunnel) Counters() Counters {
	return Counters{
		RefusedIn:  t.tap.refusedIn.Load(),
		RefusedOut: t.tap.refusedOut.Load(),
		InjectFull: t.tap.injectFull.Load(),
		Unrouted:   t.tap.unrouted.Load(),
		Held:       t.tap.heldCount.Load(),
		HeldFull:   t.tap.heldFull.Load(),
		HeldLost:   t.tap.heldLost.Load(),
		NoSession:  t.tap.noSession.Load(),
		Expired:    t.tap.inGate.expired.Load() + t.tap.outGate.expired.Load(),

		ForgedSource: t.forgedSource.Load(),
	}
}
