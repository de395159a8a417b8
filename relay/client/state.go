package client

import (
	"fmt"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// A Phase is where a Client is in its life.
type Phase byte

const (
	Idle       Phase = iota // Run is not running
	Connecting              // up to the relay's welcome
	Connected               // packets pass
	Waiting                 // until State.Retry
)

func (p Phase) String() string {
	switch p {
	case Idle:
		return "idle"
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Waiting:
		return "waiting"
	}
	return fmt.Sprintf("phase %d", byte(p))
}

// State is a Client at one moment.
type State struct {
	Relay key.IdentityPublic // the pinned key
	Addr  string

	Phase    Phase
	Since    time.Time     // when Phase began
	Retry    time.Time     // Waiting: when the next attempt begins
	Until    time.Time     // Connected: when the relay ends the admission
	RTT      time.Duration // of the last ping answered; 0: none was, on this connection
	Draining bool          // Connected: the relay has asked us to leave

	Connects    uint64    // how often the relay has said welcome
	LastError   error     // why the last connection or attempt ended; nil if none has
	LastErrorAt time.Time // and when

	Sent, Received           uint64 // packets queued here, and packets that came
	SentBytes, ReceivedBytes uint64
	DroppedFull, DroppedOld  uint64 // packets that waited here and were not sent
	DroppedEnd               uint64 // packets that waited when a connection ended
}

// State is how the Client stands now.
func (c *Client) State() State {
	c.mu.Lock()
	s := c.state
	c.mu.Unlock()
	s.Relay, s.Addr = c.cfg.Pin, c.cfg.Addr
	s.Sent, s.SentBytes = c.sent.Load(), c.sentBytes.Load()
	s.Received, s.ReceivedBytes = c.received.Load(), c.receivedBytes.Load()
	s.DroppedFull, s.DroppedOld, s.DroppedEnd = c.queues.Full.Load(), c.queues.Old.Load(), c.queues.Late.Load()
	return s
}

// Changed is closed when Phase, Until or Draining changes next. Take the
// channel first and look at State afterwards, and no change is missed.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// set changes the state and wakes who waits for a change.
func (c *Client) set(change func(*State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.state
	change(&c.state)
	if c.state.Phase != was.Phase {
		c.state.Since = time.Now()
		if c.state.Phase != Connected {
			c.state.Until, c.state.Draining, c.state.RTT = time.Time{}, false, 0
		}
	}
	if c.state.Phase != was.Phase || c.state.Draining != was.Draining || !c.state.Until.Equal(was.Until) {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}
