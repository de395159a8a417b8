package bind

import (
	"errors"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/coordinator/key"
)

// A udpReceiver is the receive function of one socket of one opening. WireGuard
// calls it from one goroutine.
type udpReceiver struct {
	bind *Bind
	fn   conn.ReceiveFunc
	hit  hit
}

// A hit is the answer to the last look into the book. A batch mostly comes from
// one address, and so does the next one.
type hit struct {
	addr       netip.AddrPort
	generation uint64 // of the book, when it was asked
	remote     *remote
	id         key.NodeID
	endpoint   *Endpoint // nil: the node is not configured
}

// A run is the packets of one node that follow each other in a batch.
type run struct {
	remote         *remote
	endpoint       *Endpoint
	packets, bytes int // of data
}

// end counts the run. The packets are counted together, because a count is
// shared with whoever reads it and each addition costs a cache line.
func (r *run) end() {
	if r.packets > 0 {
		r.endpoint.peer.directReceived.add(r.packets, r.bytes)
	}
}

func (r *udpReceiver) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	u := &r.bind.udp
	n, err := r.fn(packets, sizes, eps)
	if err != nil {
		return 0, u.readError(err)
	}
	var run run
	for i := range n {
		if sizes[i] == 0 {
			continue
		}
		pkt := packets[i][:sizes[i]]
		from, ok := eps[i].(*conn.StdNetEndpoint)
		if !ok {
			sizes[i] = 0
			continue
		}
		switch class := Classify(pkt); class {
		case Data, Handshake:
			h := r.look(from.AddrPort)
			if h == nil {
				u.strangers.Add(1)
				continue
			}
			if run.remote != h.remote || run.endpoint != h.endpoint {
				run.end()
				run.remote, run.endpoint, run.packets, run.bytes = h.remote, h.endpoint, 0, 0
				h.remote.note(from)
			}
			if h.endpoint == nil {
				sizes[i] = 0
				r.bind.stray(h.id, pkt)
				continue
			}
			eps[i] = h.endpoint
			if class == Data {
				run.packets++
				run.bytes += len(pkt)
			}
			h.endpoint.received(pkt)
			r.bind.wake(h.endpoint.peer)
		case Disco, STUN:
			sizes[i] = 0
			u.control.Add(1)
			if class == Disco {
				r.bind.heard(from)
			}
			if u.received != nil {
				u.received(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), pkt)
			}
		default:
			sizes[i] = 0
			u.foreign.Add(1)
		}
	}
	run.end()
	return n, nil
}

// readError is what WireGuard is told of a read that failed. It waits a third of
// a second after an error, and gives the socket up after ten.
//
// An error that is not the network's is wireguard-go's own: a train of datagrams
// that the kernel joined was longer than it has room for. The train is off the
// socket by then, so that the next read makes progress; and any program on the
// same host can send one, so that it must not cost more than itself.
func (u *udp) readError(err error) error {
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, net.ErrClosed) {
		return err
	}
	u.unread.Add(1)
	return nil
}

// look is who is known at addr; nil: nobody.
func (r *udpReceiver) look(addr netip.AddrPort) *hit {
	h, b := &r.hit, r.bind
	if h.addr == addr && h.generation == b.book.generation.Load() {
		if h.remote == nil {
			return nil
		}
		return h
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	*h = hit{addr: addr, generation: b.book.generation.Load()}
	m := b.book.byAddr[plain(addr)]
	if m == nil || m.peer == nil {
		return nil
	}
	h.remote, h.id, h.endpoint = m, m.peer.id, m.peer.endpoint
	return h
}
