package server

import (
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

// A wish is a client's, to be told when a node connects that it was sending to
// in vain. The reader that has the wish keeps it for as long as its connection
// lasts; in between it is linked into the table, under the node's id, from the
// packet that was dropped to the first of: the node connects, wishTime passes,
// the reader wishes for too many others, the connection ends.
//
// So a connection that has ended is in no list, and whatever clients send, the
// relay holds perClient wishes for each at most, and maxWishes in all.
type wish struct {
	// set at construction
	by   *conn
	node key.NodeID

	// guarded by the lock of the node's part of the table
	linked     bool
	at         time.Duration // of the last packet dropped, in the Server's time
	prev, next *wish         // others of the same node; neither when not linked
}

const (
	// wishTime is longer than WireGuard repeats a handshake (5 s, some times)
	// and than a node's relay connection is usually away.
	wishTime = 30 * time.Second
	// perClient is for a node that misses many at once, after a restart of the
	// relay: those it talks to, which are seldom more.
	perClient = 64
	// maxWishes bounds their memory, with the table's entries, to some 32 MiB.
	maxWishes = 1 << 18
)

// Told at most so often, a client is told of all its wishes at once.
const (
	hereRate  = 20 // a second
	hereBurst = perClient
)

// want is called by c's reader for a packet to a node that is not connected. It
// makes the wish, tells c that the node is gone, and returns nil; or it returns
// the node's connection, if it has connected since.
func (c *conn) want(node key.NodeID) *conn {
	var w *wish
	for _, have := range c.wishes {
		if have.node == node {
			w = have
			break
		}
	}
	t := &c.s.table
	if w == nil {
		w = &wish{by: c, node: node}
		if len(c.wishes) < perClient {
			c.wishes = append(c.wishes, w)
		} else {
			t.drop(c.wishes[c.oldest])
			c.wishes[c.oldest] = w
			c.oldest = (c.oldest + 1) % perClient
		}
	}
	now := c.s.now()
	p := t.part(node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.m[node]; d != nil {
		return d
	}
	w.at = now
	if !w.linked && !p.link(w, &t.wishes) {
		c.s.counts.unwished.Add(1)
	}
	// Under the lock, so that a here cannot come before its gone.
	if c.gone.Allow() {
		c.box.Control(frame.AppendGone(make([]byte, 0, 64), node))
	}
	return nil
}

// forgetWishes is called when c's reader has ended.
func (c *conn) forgetWishes() {
	for _, w := range c.wishes {
		c.s.table.drop(w)
	}
	c.wishes = nil
}

// grant tells those who wished for node that it is connected.
func (s *Server) grant(node key.NodeID, wishes []*conn) {
	if len(wishes) == 0 {
		return
	}
	f := frame.AppendHere(nil, node)
	for _, c := range wishes {
		if !c.here.Allow() {
			s.counts.dropped[dropHere].Add(1)
			continue
		}
		if !c.box.Control(f) {
			s.counts.dropped[dropControl].Add(1)
			continue
		}
		s.counts.heres.Add(1)
	}
}

// The methods below are called with the part's lock held.

// link enters w, unless there are too many; n counts those of all parts.
func (p *part) link(w *wish, n *atomic.Int64) bool {
	if n.Add(1) > maxWishes {
		n.Add(-1)
		return false
	}
	if p.wishes == nil {
		p.wishes = make(map[key.NodeID]*wish)
	}
	w.linked, w.next = true, p.wishes[w.node]
	if w.next != nil {
		w.next.prev = w
	}
	p.wishes[w.node] = w
	return true
}

func (p *part) unlink(w *wish, n *atomic.Int64) {
	if !w.linked {
		return
	}
	switch {
	case w.prev != nil:
		w.prev.next = w.next
	case w.next != nil:
		p.wishes[w.node] = w.next
	default:
		delete(p.wishes, w.node)
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.linked, w.prev, w.next = false, nil, nil
	n.Add(-1)
}

// take unlinks the wishes for node and returns whose they are, but for those
// that are too old.
func (p *part) take(node key.NodeID, now time.Duration, n *atomic.Int64) (by []*conn) {
	for w := p.wishes[node]; w != nil; w = p.wishes[node] {
		if now-w.at <= wishTime {
			by = append(by, w.by)
		}
		p.unlink(w, n)
	}
	return by
}

// drop unlinks one wish.
func (t *table) drop(w *wish) {
	p := t.part(w.node)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unlink(w, &t.wishes)
}

// forget unlinks the wishes that are too old.
func (t *table) forget(now time.Duration) {
	for i := range t.parts {
		if t.wishes.Load() == 0 {
			return
		}
		p := &t.parts[i]
		p.mu.Lock()
		for _, w := range p.wishes {
			for w != nil {
				next := w.next
				if now-w.at > wishTime {
					p.unlink(w, &t.wishes)
				}
				w = next
			}
		}
		p.mu.Unlock()
	}
}
