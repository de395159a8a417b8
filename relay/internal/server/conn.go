package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/outbox"
)

// A conn is one admitted node.
type conn struct {
	// set at construction
	s    *Server
	id   key.IdentityPublic
	node key.NodeID
	tc   *tls.Conn
	box  *outbox.Box

	// owned by the reader
	fr       *frame.Reader
	gone     *rate.Limiter // notices that a destination is not here
	renewals *rate.Limiter // papers sent anew
	wishes   []*wish       // at most perClient; which of them are linked the table knows
	oldest   int           // of wishes, when they are perClient

	here      *rate.Limiter // notices that a node has come
	takeovers *rate.Limiter // shared by the successive connections of one node; guarded by the table
	refused   atomic.Bool
	until     atomic.Int64 // end of the admission, Unix seconds

	mu     sync.Mutex // held while the node is judged
	papers []byte     // guarded by mu
}

// batches are buffers for what a writer takes; a client that is idle has none.
var batches = sync.Pool{New: func() any {
	b := make([]byte, 0, outbox.BatchSize+maxControl)
	return &b
}}

// serve forwards until the connection ends, and says why it did.
func (c *conn) serve() error {
	written := make(chan error, 1)
	go func() { written <- c.write() }()
	err := c.read()
	c.forgetWishes()
	var d *frame.Defect
	if errors.As(err, &d) {
		c.refuse(&frame.Refusal{Kind: frame.Violation, Text: d.Error()})
	}
	c.leave()
	if c.refused.Load() {
		io.Copy(io.Discard, c.tc) // until the deadline that refuse has set
	}
	c.box.Close(nil)
	if werr := <-written; werr != nil && !c.refused.Load() {
		return werr // the reader only saw the connection closed
	}
	return err
}

// leave takes the node out of the table.
func (c *conn) leave() {
	c.s.table.remove(c)
	select {
	case c.s.left <- struct{}{}:
	default:
	}
}

// refuse ends the connection with a reason. Nothing is forwarded to or from
// the node once refuse has returned, except a packet that was being handled.
func (c *conn) refuse(r *frame.Refusal) {
	if !c.refused.CompareAndSwap(false, true) {
		return
	}
	c.leave()
	c.s.counts.refused(r.Kind)
	c.s.log.Info("node refused", "node", c.node.Short(), "why", r)
	c.box.Close(frame.AppendRefusal(nil, r))
	c.tc.SetDeadline(time.Now().Add(linger))
}

// judge asks the Admitter about the papers held.
func (c *conn) judge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judgeLocked(c.papers)
}

func (c *conn) judgeLocked(papers []byte) bool {
	until, err := c.s.admit(c.id, papers)
	if err != nil {
		var r *frame.Refusal
		if !errors.As(err, &r) {
			r = &frame.Refusal{Kind: frame.NotAdmitted}
		}
		c.refuse(r)
		return false
	}
	c.until.Store(until.Unix())
	return true
}

// renew judges new papers and keeps them. Papers that are refused end the
// connection, also while the old ones would do: the node says that it is
// these now.
func (c *conn) renew(papers []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.judgeLocked(papers) {
		c.papers = append(c.papers[:0:0], papers...)
		c.box.Control(frame.AppendWelcome(nil, frame.Version, time.Unix(c.until.Load(), 0)))
	}
}

// read handles frames until the connection ends. It never waits for another
// client.
func (c *conn) read() error {
	armed := time.Duration(-lazily)
	for {
		now := c.s.now()
		if now-armed >= lazily {
			armed = now
			c.tc.SetReadDeadline(time.Now().Add(silence))
			if c.refused.Load() { // and its deadline, perhaps, overwritten
				c.tc.SetReadDeadline(time.Now().Add(linger))
			}
		}
		t, body, err := c.fr.Next()
		if c.refused.Load() {
			return errors.New("refused")
		}
		if err != nil {
			return err
		}
		switch t {
		case frame.Send:
			c.forward(body)
		case frame.Ping:
			token, err := frame.ParsePing(body)
			if err != nil {
				return err
			}
			if !c.box.Control(frame.AppendPong(make([]byte, 0, 16), token)) {
				c.s.counts.dropped[dropControl].Add(1)
			}
		case frame.Papers:
			if !c.renewals.Allow() {
				return &frame.Defect{Type: t, Reason: "more than one a second"}
			}
			c.renew(body)
		default:
			return &frame.Defect{Type: t, Reason: "a second time"}
		}
	}
}

// forward hands one packet to its destination's Box.
func (c *conn) forward(body []byte) {
	dst, packet, err := frame.ParseSend(body)
	if err != nil {
		return // the Reader has checked the length: cannot be
	}
	n := &c.s.counts
	n.packets.Add(1)
	n.bytes.Add(uint64(len(packet)))
	class := frame.Classify(packet)
	if class == frame.Foreign {
		n.dropped[dropForeign].Add(1)
		return
	}
	if dst == c.node {
		n.dropped[dropSelf].Add(1)
		return
	}
	d := c.s.table.get(dst)
	if d == nil {
		if d = c.want(dst); d == nil {
			n.dropped[dropUnknown].Add(1)
			return
		}
	}
	p := outbox.Get(frame.HeaderSize + frame.NodeSize + len(packet))
	p.Frame = frame.AppendRecv(p.Frame, c.node, packet)
	// The Boxes share the counts of what they drop, with the reason.
	d.box.Push(p, c.node, class, c.s.now())
}

// write empties the Box into the connection until the Box is closed and empty,
// or the connection takes no more.
func (c *conn) write() error {
	for range c.box.Ready() {
		more, err := c.flush()
		if err != nil {
			c.leave()
			c.box.Close(nil)
			c.tc.NetConn().Close() // Close would wait to say goodbye
			return fmt.Errorf("write: %w", err)
		}
		if !more {
			c.tc.CloseWrite()
			return nil
		}
	}
	return nil
}

// flush writes what waits. A record is at most BatchSize bytes, and control
// frames.
func (c *conn) flush() (more bool, err error) {
	buf := batches.Get().(*[]byte)
	defer batches.Put(buf)
	armed := time.Duration(-lazily)
	for {
		now := c.s.now()
		batch, more := c.box.Take((*buf)[:0], now)
		if len(batch) == 0 {
			return more, nil
		}
		if now-armed >= lazily && !c.refused.Load() {
			armed = now
			c.tc.SetWriteDeadline(time.Now().Add(writeTimeout))
		}
		if _, err := c.tc.Write(batch); err != nil {
			return false, err
		}
	}
}
