package bind

import (
	"net/netip"
	"sync/atomic"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
)

// A peer is what the Bind knows of one node. It exists while the node is
// configured in WireGuard, and from the first Use or Learn until Remove.
type peer struct {
	// set at construction
	id     key.NodeID
	number uint32 // never another's, and never zero

	// guarded by Bind.mu
	endpoint *Endpoint // nil: not configured
	followed bool      // Use or Learn spoke of it: counts and choice outlive Forget

	route atomic.Pointer[route] // never nil; replaced with Bind.mu held
	awake atomic.Bool           // Woken was called, or the Choice is not zero

	once once // its handshakes

	keepalives keepalives

	directSent, relaySent count
	received              [ways]count // that WireGuard accepted
}

// A route is a Choice made ready to send by. It never changes.
type route struct {
	to    *remote // the direct path; nil: none
	relay bool    // also by relay
	// failing says that the last packet sent to it was refused, so that Failed
	// is told of the first only.
	failing *atomic.Bool
}

// asleep is the route of the zero Choice.
var asleep = route{}

// A count is packets and their bytes.
type count struct{ packets, bytes atomic.Uint64 }

func (c *count) add(packets, bytes int) {
	c.packets.Add(uint64(packets))
	c.bytes.Add(uint64(bytes))
}

// peer is the node id, made known if it was not. b.mu is held.
func (b *Bind) peer(id key.NodeID) *peer {
	p := b.peers[id]
	if p == nil {
		b.numbers++
		p = &peer{id: id, number: b.numbers}
		p.route.Store(&asleep)
		b.peers[id] = p
	}
	return p
}

// wake tells of traffic of a node that was asleep.
func (b *Bind) wake(p *peer) {
	if !p.awake.Load() && p.awake.CompareAndSwap(false, true) && b.woken != nil {
		b.woken(p.id)
	}
}

// Use says how packets to id go from now on. A batch that is being sent goes by
// what was said before. The zero Choice puts the node to sleep.
func (b *Bind) Use(id key.NodeID, c path.Choice) {
	c.Direct = plain(c.Direct)
	if !b.udp.enabled && c.Direct.IsValid() {
		c = path.Choice{Relay: true}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	zero := c == path.Choice{}
	if b.peers[id] == nil && zero {
		return
	}
	p := b.peer(id)
	if !zero {
		p.followed = true
	}
	b.use(p, c)
	p.awake.Store(!zero)
}

// use replaces the route of p; b.mu is held.
func (b *Bind) use(p *peer, c path.Choice) {
	old := p.route.Load()
	next := &route{relay: c.Relay}
	if !c.Direct.IsValid() {
		next = &asleep // relay is what there is
	} else if old.to != nil && old.to.addr == c.Direct {
		if old.relay == c.Relay {
			return
		}
		next.to, next.failing = old.to, old.failing
	} else {
		next.to, next.failing = b.book.remote(c.Direct), new(atomic.Bool)
	}
	if next.to != nil {
		next.to.uses++
	}
	p.route.Store(next)
	if old.to != nil {
		old.to.uses--
		b.book.prune(old.to)
	}
}

// Sleep is Use with the zero Choice: the next packet to or from id is told to
// Config.Woken.
func (b *Bind) Sleep(id key.NodeID) { b.Use(id, path.Choice{}) }

// Learn says that UDP packets from addr are id's from now on, whoever's they
// were.
func (b *Bind) Learn(addr netip.AddrPort, id key.NodeID) {
	addr = plain(addr)
	if !addr.IsValid() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peer(id)
	p.followed = true
	b.book.remote(addr).peer = p
	b.book.changed()
}

// Unlearn undoes Learn, unless the address is another node's by now.
func (b *Bind) Unlearn(addr netip.AddrPort, id key.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.book.byAddr[plain(addr)]
	if r == nil || r.peer == nil || r.peer.id != id {
		return
	}
	r.peer = nil
	b.book.changed()
	b.book.prune(r)
}

// Remove undoes all that Use and Learn said of id, and forgets its counts: it is
// no longer in the mesh.
func (b *Bind) Remove(id key.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[id]
	if p == nil || !p.followed {
		return
	}
	b.use(p, path.Choice{})
	p.awake.Store(false)
	p.followed = false
	for _, r := range b.book.byAddr {
		if r.peer == p {
			r.peer = nil
			b.book.prune(r)
		}
	}
	b.book.changed()
	if p.endpoint == nil {
		delete(b.peers, id)
	}
}

// Traffic is what was counted for id since it was first spoken of, or since
// Remove. Of packets received those count that WireGuard accepted, or that are
// copies of these, each once for each way.
func (b *Bind) Traffic(id key.NodeID) path.Traffic {
	b.mu.RLock()
	p := b.peers[id]
	b.mu.RUnlock()
	if p == nil {
		return path.Traffic{}
	}
	return path.Traffic{
		DirectSent: p.directSent.packets.Load(), DirectReceived: p.received[byDirect].packets.Load(),
		RelaySent: p.relaySent.packets.Load(), RelayReceived: p.received[byRelay].packets.Load(),
	}
}

// Volume is the bytes of the packets that path.Traffic counts, with WireGuard's
// headers and without those of UDP or the relay.
type Volume struct {
	DirectSent, DirectReceived uint64
	RelaySent, RelayReceived   uint64
}

// Volume is the bytes of what Traffic counted.
func (b *Bind) Volume(id key.NodeID) Volume {
	b.mu.RLock()
	p := b.peers[id]
	b.mu.RUnlock()
	if p == nil {
		return Volume{}
	}
	return Volume{
		DirectSent: p.directSent.bytes.Load(), DirectReceived: p.received[byDirect].bytes.Load(),
		RelaySent: p.relaySent.bytes.Load(), RelayReceived: p.received[byRelay].bytes.Load(),
	}
}
