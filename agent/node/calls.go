package node

import (
	"bytes"
	"sync"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/coordinator/key"
)

// initiation is the first byte and the length of WireGuard's first message
// (section 5.4.2 of its paper).
const (
	initiation     = 1
	initiationSize = 148
)

func isInitiation(pkt []byte) bool { return len(pkt) == initiationSize && pkt[0] == initiation }

// A call is of a peer that WireGuard has no state for: its first message, or the
// wish for a session with it.
type call struct {
	from  key.NodeID
	first []byte // the newest; nil if there was none
	wish  bool   // a session that the peer still has is not known here
}

// calls are the peers that wait to be answered, first come, first served, which
// takes some milliseconds each. Every peer has one place, with one message: no
// peer's packets, however many, take the place of another's, and there are no
// more places than peers.
type calls struct {
	ready chan struct{} // holds a token while someone may be waiting

	mu      sync.Mutex // guards the fields below
	waiting map[key.NodeID]*call
	order   []key.NodeID // those of waiting
}

func newCalls() *calls {
	return &calls{ready: make(chan struct{}, 1), waiting: make(map[key.NodeID]*call)}
}

// heard notes a packet of a peer, which is not kept unless it is a first message.
// Data, and an answer to a handshake that nobody here began, are of sessions of
// before this agent; other packets say nothing.
func (c *calls) heard(from key.NodeID, pkt []byte) {
	if isInitiation(pkt) {
		c.add(from, bytes.Clone(pkt))
		return
	}
	switch bind.Classify(pkt) {
	case bind.Data, bind.Handshake:
		c.add(from, nil)
	}
}

// add gives a peer its place, and what it says: without a first message that it
// is to have a session.
func (c *calls) add(from key.NodeID, first []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[from]
	if w == nil {
		w = &call{from: from}
		c.waiting[from] = w
		c.order = append(c.order, from)
	}
	if first != nil {
		w.first = first
	} else {
		w.wish = true
	}
	c.stir()
}

// next takes who has waited longest; false: nobody waits.
func (c *calls) next() (call, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.order) == 0 {
		c.order = nil // what a crowd took is given back
		return call{}, false
	}
	w := c.waiting[c.order[0]]
	delete(c.waiting, w.from)
	c.order = c.order[1:]
	if len(c.order) > 0 {
		c.stir()
	}
	return *w, true
}

func (c *calls) stir() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}
