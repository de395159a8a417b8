package node

import (
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// maxEarly is how many nodes' first messages are kept: a relay's clients are
	// all of the network, and a stranger's message costs 148 bytes.
	maxEarly = 512

	// earlyFor is how long one is kept: WireGuard sends another after five
	// seconds, and would not answer an older one.
	earlyFor = 5 * time.Second
)

// early keeps the first messages of nodes that this one does not know yet. A
// peer that was told of this node first calls before its own papers have come;
// when they have, its message is taken up instead of lost.
type early struct {
	mu   sync.Mutex
	from map[key.NodeID]message
}

type message struct {
	pkt []byte
	at  time.Time
}

// keep keeps a copy of the newest first message of a node.
func (e *early) keep(src key.NodeID, pkt []byte) {
	if !isInitiation(pkt) {
		return
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.from == nil {
		e.from = map[key.NodeID]message{}
	}
	if _, known := e.from[src]; !known && len(e.from) >= maxEarly {
		for id, m := range e.from {
			if now.Sub(m.at) > earlyFor {
				delete(e.from, id)
			}
		}
		if len(e.from) >= maxEarly {
			return
		}
	}
	e.from[src] = message{append([]byte(nil), pkt...), now}
}

// take gives a node's first message, once, if it is not too old.
func (e *early) take(src key.NodeID) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, ok := e.from[src]
	delete(e.from, src)
	if !ok || time.Since(m.at) > earlyFor {
		return nil
	}
	return m.pkt
}
