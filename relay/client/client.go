// Package client is a node's connection to one relay: it connects, stays
// connected, and carries packets both ways. Package frame is the protocol.
//
//	     ┌──────────────── Kick, new papers, or the delay is over ◀───────────┐
//	     ▼                                                                    │
//	connecting ──welcome──▶ connected ──end, silence, drain, refusal──▶ waiting
//	     │                                                               ▲
//	     └───────────────── any error ───────────────────────────────────┘
//
// Run is the one that moves between these states; Send, State and the rest may
// be called at any time and never wait. A relay is an optimist's path: packets
// that do not fit are dropped, oldest first, and whoever needs them sends them
// again.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/outbox"
)

// Config is what a Client is made of.
type Config struct {
	Addr     string              // host:port of the relay
	Pin      key.IdentityPublic  // the relay's key, from the signed relays leaf
	Identity key.IdentityPrivate // the node's own

	// Papers are asked for at each connection and after PapersChanged.
	Papers func() []byte
	// Receive gets each packet and the node that sent it. It is called from
	// one goroutine, which reads no further until it returns; the packet is
	// valid until then.
	Receive func(src key.NodeID, packet []byte)
	// Gone, which may be nil, is told of nodes that a packet was for and that
	// are not connected to this relay. Calls come from Receive's goroutine.
	Gone func(node key.NodeID)
	// Here, which may be nil, is told of nodes that a packet was for within the
	// last 30 seconds, that were not connected to this relay, and that now are:
	// what was dropped can be sent again. Each is told of once, after the Gone
	// of that packet if there was one; a relay may leave some out. Calls come
	// from Receive's goroutine.
	Here func(node key.NodeID)

	Log *slog.Logger // nil logs nothing
	// Dial, which may be nil, opens the TCP connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Addrs, which may be nil, lists this machine's addresses.
	Addrs func() ([]net.Addr, error)
}

// Errors of Send.
var (
	ErrNotConnected = errors.New("relay: not connected")
	ErrNotPacket    = errors.New("relay: neither a WireGuard packet nor a probe")
	// ErrFull says that packets to this destination outrun the connection:
	// the packet is queued, and older ones were dropped for it.
	ErrFull = errors.New("relay: queue full")
)

// queueBytes is the budget of a Client's one Box: its limit for bulk, and
// beside it that for urgent packets.
const queueBytes = 1 << 20

// maxControl lets papers pass as a control frame, with pings beside them.
const maxControl = frame.HeaderSize + frame.MaxPapers + 1024

// A Client is a node's connection to one relay.
type Client struct {
	// set at construction
	cfg    Config
	tls    *tls.Config
	log    *slog.Logger
	start  time.Time // the Box counts time from here
	budget *outbox.Budget
	queues outbox.Counts

	running atomic.Bool
	session atomic.Pointer[session] // nil while not connected
	kick    chan struct{}           // capacity 1
	papers  chan struct{}           // capacity 1

	sent, sentBytes         atomic.Uint64
	received, receivedBytes atomic.Uint64

	// guarded by mu
	mu      sync.Mutex
	state   State
	changed chan struct{}
}

// New makes a Client, which does nothing until Run.
func New(cfg Config) (*Client, error) {
	switch _, _, err := net.SplitHostPort(cfg.Addr); {
	case err != nil:
		return nil, fmt.Errorf("relay client: %w", err)
	case cfg.Pin.IsZero():
		return nil, errors.New("relay client: no pinned key")
	case cfg.Identity.Equal(key.IdentityPrivate{}):
		return nil, errors.New("relay client: no identity key")
	case cfg.Papers == nil || cfg.Receive == nil:
		return nil, errors.New("relay client: no Papers or no Receive")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Addrs == nil {
		cfg.Addrs = net.InterfaceAddrs
	}
	c := &Client{
		cfg:     cfg,
		tls:     tlskey.ClientConfig(cfg.Identity, cfg.Pin),
		log:     cfg.Log.With("relay", cfg.Addr),
		start:   time.Now(),
		budget:  outbox.NewBudget(queueBytes),
		kick:    make(chan struct{}, 1),
		papers:  make(chan struct{}, 1),
		changed: make(chan struct{}),
	}
	c.tls.NextProtos = []string{"http/1.1"}
	return c, nil
}

func (c *Client) now() time.Duration { return time.Since(c.start) }

// Send queues one packet for dst. It copies the packet and never waits. A nil
// error says that the packet is on its way to the relay, not that it arrives.
func (c *Client) Send(dst key.NodeID, packet []byte) error {
	class := frame.Classify(packet)
	if class == frame.Foreign {
		return ErrNotPacket
	}
	s := c.session.Load()
	if s == nil {
		return ErrNotConnected
	}
	p := outbox.Get(frame.HeaderSize + frame.NodeSize + len(packet))
	p.Frame = frame.AppendSend(p.Frame, dst, packet)
	outcome := s.box.Push(p, dst, class, c.now())
	if outcome == outbox.Late {
		return ErrNotConnected
	}
	s.pushed()
	c.sent.Add(1)
	c.sentBytes.Add(uint64(len(packet)))
	if outcome == outbox.Dropped {
		return ErrFull
	}
	return nil
}

// Kick makes a Client that waits connect now, and one that is connected find
// out now whether it still is. Call it when the network has changed.
func (c *Client) Kick() { signal(c.kick) }

// PapersChanged sends the papers again, or connects with them if the relay
// refused the ones before.
func (c *Client) PapersChanged() { signal(c.papers) }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run keeps the connection until ctx is done, and returns its cause. When it
// returns, no callback is running. A Client runs once at a time.
func (c *Client) Run(ctx context.Context) error {
	if !c.running.CompareAndSwap(false, true) {
		return errors.New("relay client: runs already")
	}
	defer c.running.Store(false)
	defer c.set(func(s *State) { s.Phase, s.Retry = Idle, time.Time{} })
	var b backoff
	for {
		c.set(func(s *State) { s.Phase, s.Retry = Connecting, time.Time{} })
		began := time.Now()
		welcomed, err := c.connection(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		lasted := time.Duration(0)
		if welcomed {
			lasted = time.Since(began)
		}
		delay := b.after(err, lasted)
		if errors.Is(err, errDrained) {
			c.log.Info("relay drains, connecting again")
		} else {
			c.log.Warn("relay connection ended", "err", err, "retry", delay)
		}
		c.set(func(s *State) {
			s.Phase, s.Retry = Waiting, time.Now().Add(delay)
			s.LastError, s.LastErrorAt = err, time.Now()
		})
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		case <-c.kick:
		case <-c.papers:
		}
		timer.Stop()
	}
}
