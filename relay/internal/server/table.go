package server

import (
	"sync"
	"sync/atomic"

	"github.com/writmesh/writ/coordinator/key"
)

// shards is how many locks the table has: enough that readers on a few dozen
// cores seldom meet at one.
const shards = 64

// A table is who is connected: at most one connection per node. Node ids are
// hashes, and so the first byte spreads them.
type table struct {
	n     atomic.Int64
	parts [shards]struct {
		mu sync.RWMutex
		m  map[key.NodeID]*conn
	}
}

func (t *table) get(id key.NodeID) *conn {
	p := &t.parts[id[0]%shards]
	p.mu.RLock()
	c := p.m[id]
	p.mu.RUnlock()
	return c
}

// put makes c the node's connection and returns the one it replaces. It is
// false when the node's connections replace each other too often.
func (t *table) put(c *conn) (old *conn, ok bool) {
	p := &t.parts[c.node[0]%shards]
	p.mu.Lock()
	defer p.mu.Unlock()
	if old = p.m[c.node]; old != nil {
		c.takeovers = old.takeovers
		if !c.takeovers.Allow() {
			return nil, false
		}
	} else {
		t.n.Add(1)
	}
	if p.m == nil {
		p.m = make(map[key.NodeID]*conn)
	}
	p.m[c.node] = c
	return old, true
}

// remove takes c out, unless another connection has replaced it.
func (t *table) remove(c *conn) {
	p := &t.parts[c.node[0]%shards]
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
