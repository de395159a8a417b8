package bind

import (
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/coordinator/key"
)

// A udpReceiver is the receive function of one socket of one opening. WireGuard
// calls it from one goroutine.
type udpReceiver struct {
	bind   *Bind
	socket *socket
	from   [BatchSize]origin
	hit    hit
}

// A hit is the answer to the last look into the book. A batch mostly comes from
// one address, and so does the next one.
type hit struct {
	addr       netip.AddrPort
	generation uint64    // of the book, when it was asked
	stranger   *stranger // nil: a node is known there
	remote     *remote
	id         key.NodeID
	endpoint   *Endpoint // nil: the node is not configured
}

func (r *udpReceiver) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	u := &r.bind.udp
	n, err := r.socket.receive(packets[:min(len(packets), BatchSize)], sizes, r.from[:])
	if err != nil {
		return 0, err
	}
	second := r.bind.second()
	var before *remote
	for i := range n {
		pkt, from := packets[i][:sizes[i]], &r.from[i]
		switch class := Classify(pkt); class {
		case Data, Handshake:
			h := r.look(from.addr)
			if h.stranger != nil {
				if class == Handshake {
					sizes[i] = 0
					u.unasked.Add(1)
					continue
				}
				u.strangers.Add(1)
				mark{}.write(packets[i], sizes[i])
				eps[i] = h.stranger
				continue
			}
			if class == Handshake && r.bind.isForged(pkt) {
				sizes[i] = 0
				continue
			}
			if before != h.remote {
				before = h.remote
				h.remote.note(from.to)
			}
			if h.endpoint == nil {
				sizes[i] = 0
				r.bind.stray(h.id, pkt)
				continue
			}
			if class == Handshake {
				if _, ok := r.bind.first(h.endpoint.peer, pkt, byDirect); !ok {
					sizes[i] = 0
					continue
				}
			}
			eps[i] = h.endpoint
			if class == Data {
				r.bind.arrived(packets[i], sizes[i], h.endpoint.peer, byDirect, second)
			}
			h.endpoint.received(pkt)
			r.bind.wake(h.endpoint.peer)
		case Disco, STUN:
			sizes[i] = 0
			u.controls.Add(1)
			if class == Disco {
				r.bind.heard(from)
			}
			if u.control != nil {
				u.control(from.addr, pkt)
			}
		default:
			sizes[i] = 0
			u.foreign.Add(1)
		}
	}
	return n, nil
}

// look is who is known at addr. The answer is good until the next call.
func (r *udpReceiver) look(addr netip.AddrPort) *hit {
	h, b := &r.hit, r.bind
	if h.addr == addr && h.generation == b.book.generation.Load() && (h.stranger != nil || h.remote != nil) {
		return h
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	*h = hit{addr: addr, generation: b.book.generation.Load()}
	if m := b.book.byAddr[addr]; m != nil && m.peer != nil {
		h.remote, h.id, h.endpoint = m, m.peer.id, m.peer.endpoint
	} else {
		h.stranger = &stranger{addr: addr}
	}
	return h
}
