package bind

import (
	"fmt"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// Send carries packets to the node that ep is, by the paths that Use said.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) == 0 {
		return nil
	}
	b.wake(e.peer)
	e.sending(bufs)
	return b.carry(e.peer, bufs)
}

// carry sends packets of one kind. An error means that no path took them.
func (b *Bind) carry(p *peer, bufs [][]byte) error {
	data := messageType(bufs[0]) == device.MessageTransportType
	size := 0
	if data {
		for _, buf := range bufs {
			size += len(buf)
		}
	}
	r := p.route.Load()
	direct := r.to != nil && b.direct(p, r, bufs)
	if direct && data {
		p.directSent.add(len(bufs), size)
		if !r.relay {
			return nil
		}
	}
	if err := b.sender.Send(p.id, bufs); err != nil {
		if direct {
			return nil
		}
		b.unsent.Add(uint64(len(bufs)))
		return fmt.Errorf("send to %s: %w", p.id.Short(), err)
	}
	if data {
		p.relaySent.add(len(bufs), size)
	}
	return nil
}

// direct sends packets by r's direct path; false when the socket refused.
func (b *Bind) direct(p *peer, r *route, bufs [][]byte) bool {
	err := b.udp.send(r.to, bufs)
	if err == nil {
		if r.failing.Load() {
			r.failing.Store(false)
		}
		return true
	}
	b.refused.Add(uint64(len(bufs)))
	if !r.failing.Swap(true) && b.udp.failed != nil {
		b.udp.failed(p.id, r.to.addr, err)
	}
	return false
}

// SendTo sends a packet of the path engine's own to an address, from the local
// address that the last one from there came to. It keeps nothing of pkt.
func (b *Bind) SendTo(addr netip.AddrPort, pkt []byte) error {
	to := plain(addr)
	if !to.IsValid() {
		return fmt.Errorf("send to %s: no address that UDP can send to", addr)
	}
	b.mu.RLock()
	r := b.book.byAddr[to]
	b.mu.RUnlock()
	if r == nil {
		r = &remote{addr: to}
	}
	if err := b.udp.send(r, [][]byte{pkt}); err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

// Retry sends the handshake message that dst has not answered, if there is one
// and it is still young enough for dst to take it. It is called when a path to
// dst appears: its own relay connection is up, dst came online, a direct path
// was proved.
func (b *Bind) Retry(dst key.NodeID) {
	if e := b.find(dst); e != nil {
		b.retry(e)
	}
}

// RetryAll does what Retry does, for every node: when this node's own
// connection came back.
func (b *Bind) RetryAll() {
	b.mu.RLock()
	var waiting []*Endpoint
	for _, p := range b.peers {
		if p.endpoint != nil && p.endpoint.held.Load() != nil {
			waiting = append(waiting, p.endpoint)
		}
	}
	b.mu.RUnlock()
	for _, e := range waiting {
		b.retry(e)
	}
}

func (b *Bind) retry(e *Endpoint) {
	msg := e.unanswered(time.Now())
	if msg == nil {
		return
	}
	if b.carry(e.peer, [][]byte{msg}) == nil {
		b.retried.Add(1)
	}
}
