package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// shards is how many locks the table has: enough that readers on a few dozen
// cores seldom meet at one.
const shards = 64

// A table is who is connected, at most one connection per node, and who waits
// for whom. Node ids are hashes, and so the first byte spreads them; ids that
// clients make up can meet at one lock, where they wait for each other no longer
// than for a look into a map.
type table struct {
	n      atomic.Int64
	wishes atomic.Int64 // linked in all parts
	parts  [shards]part
}

// A part is the nodes whose ids begin alike. A node that has a connection here
// has no wishes.
type part struct {
	mu     sync.RWMutex
	m      map[key.NodeID]*conn
	wishes map[key.NodeID]*wish // the first of each node's
}

func (t *table) part(id key.NodeID) *part { return &t.parts[id[0]%shards] }

func (t *table) get(id key.NodeID) *conn {
	p := t.part(id)
	p.mu.RLock()
	c := p.m[id]
	p.mu.RUnlock()
	return c
}

// put makes c the node's connection and returns the one it replaces, and who
// wished for the node. It is false when the node's connections replace each
// other too often.
func (t *table) put(c *conn, now time.Duration) (old *conn, wished []*conn, ok bool) {
	p := t.part(c.node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if old = p.m[c.node]; old != nil {
		c.takeovers = old.takeovers
		if !c.takeovers.Allow() {
			return nil, nil, false
		}
	} else {
		t.n.Add(1)
	}
	if p.m == nil {
		p.m = make(map[key.NodeID]*conn)
	}
	p.m[c.node] = c
	return old, p.take(c.node, now, &t.wishes), true
}

// remove takes c out, unless another connection has replaced it.
func (t *table) remove(c *conn) {
	p := t.part(c.node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m[c.node] == c {
		delete(p.m, c.node)
		t.n.Add(-1)
	}
}

func (t *table) len() int { return int(t.n.Load()) }

func (t *table) all() []*conn {
	out := make([]*conn, 0, t.len())
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.RLock()
		for _, c := range p.m {
			out = append(out, c)
		}
		p.mu.RUnlock()
	}
	return out
}
