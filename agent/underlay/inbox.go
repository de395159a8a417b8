package underlay

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

const (
	// queueLength is how many packets may wait: a burst of probes from a hundred
	// peers that wake at once.
	queueLength = 512

	// maxHere is how many nodes may have connected to relays and not been looked
	// at yet. Relays tell of peers that are missed; what a relay invents beyond
	// this is dropped.
	maxHere = 4096
)

// An inbox is what happened and has not been handled.
type inbox struct {
	packets chan packet   // what does not fit is dropped
	poke    chan struct{} // capacity 1: there is something to look at

	mu sync.Mutex // guards the fields below
	notes
}

// Notes are what is said once and so must not be lost.
type notes struct {
	woken   []key.NodeID           // at most once each, until the bind is told Use
	failed  map[key.NodeID]failure // the latest of each
	here    map[key.NodeID]bool
	relayUp bool
}

// A packet is one of STUN or disco.
type packet struct {
	relayed bool
	src     key.NodeID     // as the relay claims; of one that was relayed
	from    netip.AddrPort // of one by UDP
	data    []byte
}

// A failure is what the socket said to a packet of data.
type failure struct {
	to   netip.AddrPort
	text string
}

func (b *inbox) init() {
	b.packets = make(chan packet, queueLength)
	b.poke = make(chan struct{}, 1)
}

// look has run look at the time and at what has changed.
func (b *inbox) look() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// note adds to the notes.
func (b *inbox) note(add func(*notes)) {
	b.mu.Lock()
	add(&b.notes)
	b.mu.Unlock()
	b.look()
}

func (b *inbox) take() notes {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes
	b.notes = notes{}
	return n
}

// put queues a packet. It never waits.
func (u *Underlay) put(p packet) {
	if len(p.data) > disco.MaxPacket {
		u.counts.disco[disco.Long].Add(1)
		return
	}
	p.data = slices.Clone(p.data)
	select {
	case u.inbox.packets <- p:
	default:
		u.counts.full.Add(1)
	}
}

// Control takes a packet that is not WireGuard's and came by UDP. It copies pkt.
func (u *Underlay) Control(from netip.AddrPort, pkt []byte) {
	if from.IsValid() {
		u.put(packet{from: from, data: pkt})
	}
}

// Relayed takes a disco packet that came by relay, from src as the relay says. It
// copies pkt.
func (u *Underlay) Relayed(src key.NodeID, pkt []byte) {
	u.put(packet{relayed: true, src: src, data: pkt})
}

// Woken says that there is traffic of a peer whose path sleeps. The bind says it
// once.
func (u *Underlay) Woken(id key.NodeID) {
	u.inbox.note(func(n *notes) { n.woken = append(n.woken, id) })
}

// Failed says that the socket refused to send to a peer's address.
func (u *Underlay) Failed(id key.NodeID, to netip.AddrPort, err error) {
	u.inbox.note(func(n *notes) {
		if n.failed == nil {
			n.failed = map[key.NodeID]failure{}
		}
		n.failed[id] = failure{to, err.Error()}
	})
}

// Here says that a node has connected to a relay which it was missed at.
func (u *Underlay) Here(id key.NodeID) {
	u.inbox.note(func(n *notes) {
		if n.here == nil {
			n.here = map[key.NodeID]bool{}
		}
		if len(n.here) < maxHere {
			n.here[id] = true
		} else if !n.here[id] {
			u.counts.full.Add(1)
		}
	})
}

// RelayUp says that a connection to a relay is up.
func (u *Underlay) RelayUp() { u.inbox.note(func(n *notes) { n.relayUp = true }) }

// Moved says that the machine's interfaces, addresses or routes have changed.
func (u *Underlay) Moved() {
	select {
	case u.moved <- struct{}{}:
	default: // it is about to be looked at
	}
}
