package bind

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// holdFor is how long a handshake message is worth sending again. WireGuard
// replaces an unanswered one after RekeyTimeout; while it still does so, what
// is held is never older, and once it has given up nothing waits for an answer.
const holdFor = device.RekeyTimeout + device.RekeyTimeoutJitterMaxMs*time.Millisecond

// An Endpoint is a node as WireGuard sees it. It never changes what it names.
type Endpoint struct {
	peer *peer
	addr netip.Addr // see DstIP

	// held is the last handshake message sent that has seen no answer; nil when
	// there is none.
	held atomic.Pointer[handshake]
}

// A handshake is a copy of a WireGuard initiation or response.
type handshake struct {
	msg  []byte
	sent time.Time
}

var _ conn.Endpoint = (*Endpoint)(nil)

func newEndpoint(p *peer) *Endpoint {
	a := [16]byte(p.id[:16])
	a[0] = 0xfd
	return &Endpoint{peer: p, addr: netip.AddrFrom16(a)}
}

// Node is the node that the endpoint names.
func (e *Endpoint) Node() key.NodeID { return e.peer.id }

// ClearSrc forgets the local address that the direct path sends from. WireGuard
// calls it when the sockets or their mark changed.
func (e *Endpoint) ClearSrc() {
	if r := e.peer.route.Load(); r.to != nil {
		r.to.local.Store(nil)
	}
}

// SrcToString is empty: each path has a local address of its own.
func (e *Endpoint) SrcToString() string { return "" }

// DstToString is the text that ParseEndpoint reads.
func (e *Endpoint) DstToString() string { return e.peer.id.String() }

// DstToBytes are what a cookie of WireGuard is bound to: the node, by whichever
// path its packets come.
func (e *Endpoint) DstToBytes() []byte { return e.peer.id[:] }

// DstIP is no address of the node. WireGuard limits handshakes per address under
// load; this one is made of the node id, so that the limit is per node.
func (e *Endpoint) DstIP() netip.Addr { return e.addr }

// SrcIP is not known, see SrcToString.
func (e *Endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// A stranger is an address from which WireGuard's data came, and at which nobody
// is known. Send refuses it.
type stranger struct{ addr netip.AddrPort }

var _ conn.Endpoint = (*stranger)(nil)

func (*stranger) ClearSrc()             {}
func (*stranger) SrcToString() string   { return "" }
func (*stranger) SrcIP() netip.Addr     { return netip.Addr{} }
func (s *stranger) DstToString() string { return s.addr.String() }

func (s *stranger) DstIP() netip.Addr { return s.addr.Addr() }

func (s *stranger) DstToBytes() []byte {
	b, _ := s.addr.MarshalBinary() // it fails for no address
	return b
}

// messageType is the type of a WireGuard message, or 0 when pkt is none.
func messageType(pkt []byte) uint32 {
	if len(pkt) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(pkt)
}

// sending keeps a copy of a handshake message that is about to leave. WireGuard
// sends each of them alone.
func (e *Endpoint) sending(bufs [][]byte) {
	if len(bufs) != 1 {
		return
	}
	switch messageType(bufs[0]) {
	case device.MessageInitiationType, device.MessageResponseType:
		e.held.Store(&handshake{msg: append([]byte(nil), bufs[0]...), sent: time.Now()})
	}
}

// received drops what is held when the node has answered it: a response answers
// an initiation, and data answers both.
func (e *Endpoint) received(pkt []byte) {
	if e.held.Load() == nil {
		return
	}
	switch messageType(pkt) {
	case device.MessageResponseType, device.MessageTransportType:
		e.held.Store(nil)
	}
}

// unanswered is the message to send again at now, or nil.
func (e *Endpoint) unanswered(now time.Time) []byte {
	h := e.held.Load()
	if h == nil {
		return nil
	}
	if now.Sub(h.sent) > holdFor {
		e.held.CompareAndSwap(h, nil)
		return nil
	}
	return h.msg
}
