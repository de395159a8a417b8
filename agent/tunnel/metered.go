package tunnel

import (
	"encoding/binary"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// A metered bind is the Bind with a gate before each way: it counts out what
// WireGuard sends, and counts in what it receives.
type metered struct {
	conn.Bind
	in, out *gate

	members sync.Map // key.NodeID → *member, for every configured peer
	lanes   sync.Map // conn.Endpoint → *member, as ParseEndpoint made them
}

// ParseEndpoint is the Bind's. It learns which member the endpoint is.
func (b *metered) ParseEndpoint(s string) (conn.Endpoint, error) {
	ep, err := b.Bind.ParseEndpoint(s)
	if err != nil {
		return nil, err
	}
	if id, err := key.ParseNodeID(s); err == nil {
		if m, ok := b.members.Load(id); ok {
			m.(*member).endpoint = ep
			b.lanes.Store(ep, m)
		}
	}
	return ep, nil
}

// add makes m known before it is configured; remove undoes it.
func (b *metered) add(m *member) { b.members.Store(m.id, m) }

func (b *metered) remove(m *member) {
	b.members.CompareAndDelete(m.id, m)
	if m.endpoint != nil {
		b.lanes.CompareAndDelete(m.endpoint, m)
		m.endpoint = nil
	}
	b.in.drop(&m.in)
	b.out.drop(&m.out)
}

// isData reports whether a message of WireGuard carries a packet, which a
// keepalive does not.
func isData(msg []byte) bool {
	return len(msg) > device.MessageKeepaliveSize && binary.LittleEndian.Uint32(msg) == device.MessageTransportType
}

// tag tells a data message from others: its receiver index and its counter, which
// are also what WireGuard leaves before the packet that it decrypts in place.
func tag(msg []byte) uint64 {
	return binary.LittleEndian.Uint64(msg[device.MessageTransportOffsetCounter:]) ^
		uint64(binary.LittleEndian.Uint32(msg[device.MessageTransportOffsetReceiver:]))<<32
}

// Send is the Bind's. What it does not take has come out of WireGuard too.
func (b *metered) Send(bufs [][]byte, ep conn.Endpoint) error {
	err := b.Bind.Send(bufs, ep)
	n := 0
	for _, msg := range bufs {
		if isData(msg) {
			n++
		}
	}
	if n > 0 {
		if m, ok := b.lanes.Load(ep); ok {
			b.out.leave(&m.(*member).out, n)
		}
	}
	return err
}

// Open is the Bind's, with the gate before every receive function.
func (b *metered) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := b.Bind.Open(port)
	if err != nil {
		return nil, port, err
	}
	for i, receive := range fns {
		r := &meteredReceiver{bind: b, receive: receive}
		fns[i] = r.run
	}
	return fns, port, nil
}

// A meteredReceiver is one receive function. WireGuard calls it from one
// goroutine.
type meteredReceiver struct {
	bind    *metered
	receive conn.ReceiveFunc
	tags    []uint64
}

func (r *meteredReceiver) run(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	r.bind.in.wait()
	n, err := r.receive(packets, sizes, eps)
	for i := 0; i < n; {
		// A run of packets from one endpoint, and at most one look-up for it.
		from := eps[i]
		r.tags = r.tags[:0]
		for ; i < n && eps[i] == from; i++ {
			if msg := packets[i][:sizes[i]]; isData(msg) {
				r.tags = append(r.tags, tag(msg))
			}
		}
		if len(r.tags) == 0 {
			continue
		}
		if m, ok := r.bind.lanes.Load(from); ok {
			r.bind.in.enter(&m.(*member).in, len(r.tags), r.tags...)
		}
	}
	return n, err
}
