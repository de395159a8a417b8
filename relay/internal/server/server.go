// Package server is the relay: it admits nodes and forwards their packets as
// package frame says.
//
// # A connection's life
//
//	accepted ──gate──▶ TLS ──▶ request ──▶ hello ──▶ admitted ──▶ forwarding
//	     │              │         │          │           │             │
//	     └──────────────┴─────────┴──────────┴───────────┴─────────────┴──▶ closed
//
// Each phase before admission has its own deadline, and the gate bounds how
// many connections are in those phases, in all and from one address. A
// forwarding connection has two goroutines: a reader, which hands each packet
// to the destination's Box (package outbox) and never waits, and a writer,
// which empties its own Box. The two meet only there, and so a client that does
// not read fills its own Box and holds up nobody.
//
// # Who is admitted
//
// The Admitter decides, from the key that TLS has proven and the papers, and
// without asking anybody: a relay that cannot decide refuses. It is asked again
// when the node sends new papers and when Recheck is called; when an admission
// ends, the connection ends within a second. A node that is refused is out of
// the table before it is told.
//
// One identity has one connection. The newest wins, because the older one is
// usually a socket whose network is gone; when two fight over an identity (a
// copied disk), the newcomer is told to wait.
//
// # Who is waited for
//
// A client whose packet is for a node that is not connected is told so (gone),
// and the wish to hear of the node is kept in the table (see wish). Whether a
// node is connected and who wishes for it changes under one lock: a packet is
// forwarded, or its sender hears of the node, and nothing falls between.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/outbox"
)

// An Admitter decides who may use this relay. It is called from many
// goroutines, and must answer from what it holds.
type Admitter interface {
	// Admit judges the papers of the node that holds id and says when its
	// admission ends. A *frame.Refusal chooses the kind that the node is told;
	// any other error is NotAdmitted, and its text stays in the relay's log.
	// Papers is valid during the call and not to be modified.
	Admit(id key.IdentityPublic, papers []byte) (until time.Time, err error)
}

// Config is what a Server is made of. Zero limits mean the defaults.
type Config struct {
	Identity   key.IdentityPrivate   // the relay's own key, which nodes pin
	Admitter   Admitter              // nil refuses everybody: not ready
	Log        *slog.Logger          // nil logs nothing
	Registerer prometheus.Registerer // nil publishes no metrics

	QueueBytes       int64   // all that waits for all clients; 256 MiB
	MaxClients       int     // admitted connections; 20,000
	MaxPending       int     // connections not yet admitted; 1,024
	PendingPerSource int     // of those, from one address; 32
	ConnectRate      float64 // connections a second from one address; 50
	ConnectBurst     int     // and at once; 200
}

const (
	tlsTimeout     = 5 * time.Second
	requestTimeout = 5 * time.Second
	helloTimeout   = 5 * time.Second

	// writeTimeout is how long one record may take. It is longer than the
	// stalls a phone lives through (handover, three retransmissions of TCP:
	// 3 s); what a stalled client holds meanwhile is bounded by its Box.
	writeTimeout = 5 * time.Second
	// silence ends a connection on which nothing arrives. A node pings every
	// 30 seconds; three may be lost.
	silence = 100 * time.Second
	// lazily is how often the deadlines above are moved, instead of at every
	// frame; they are longer by as much.
	lazily = time.Second

	// linger is how long a refused node may take to read why. Until then its
	// data is read and thrown away: closing on unread data would send a reset,
	// which overtakes the refusal.
	linger = time.Second

	// maxControl bounds the control frames that wait for one client: some 300
	// pongs, for one that pings and does not read.
	maxControl = 4096

	// A drain lets one node leave each millisecond: a relay makes about a
	// thousand TLS handshakes a second on one core.
	drainPerClient = time.Millisecond
	drainMin       = 50 * time.Millisecond
	drainMax       = 10 * time.Second
	// drainGrace is what the last node may take to say goodbye.
	drainGrace = time.Second
)

// A Server is one relay.
type Server struct {
	// set at construction
	cfg    Config
	tls    *tls.Config
	node   key.NodeID
	log    *slog.Logger
	start  time.Time // Boxes count time from here
	budget *outbox.Budget
	queues outbox.Counts
	counts counts
	gate   *gate
	noisy  *rate.Limiter // for log lines that strangers cause

	table    table
	rechecks atomic.Uint64 // grows before each Recheck
	draining atomic.Bool
	left     chan struct{} // capacity 1; signalled when a client has left

	// guarded by mu
	mu      sync.Mutex
	open    map[net.Conn]bool // every accepted connection; true when admitted
	closed  bool              // and nothing is added to open
	serving sync.WaitGroup    // one for each in open
}

// New makes a relay. It accepts nobody until Serve.
func New(cfg Config) (*Server, error) {
	if cfg.Identity.Equal(key.IdentityPrivate{}) {
		return nil, errors.New("new relay: no identity key")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&cfg.MaxClients, 20_000}, {&cfg.MaxPending, 1024}, {&cfg.PendingPerSource, 32}, {&cfg.ConnectBurst, 200}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 256 << 20
	}
	if cfg.ConnectRate == 0 {
		cfg.ConnectRate = 50
	}
	s := &Server{
		cfg:    cfg,
		tls:    tlskey.ServerConfig(cfg.Identity),
		node:   cfg.Identity.Public().NodeID(),
		log:    cfg.Log,
		start:  time.Now(),
		budget: outbox.NewBudget(cfg.QueueBytes),
		gate:   newGate(cfg),
		noisy:  rate.NewLimiter(10, 50),
		left:   make(chan struct{}, 1),
		open:   make(map[net.Conn]bool),
	}
	s.tls.NextProtos = []string{"http/1.1"}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(collector{s}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// now is the clock of the Boxes.
func (s *Server) now() time.Duration { return time.Since(s.start) }

// Serve accepts nodes on ln until ctx is done. It then asks those connected to
// leave, waits until they have or their time is over, closes what remains, and
// returns nil. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.sweep(ctx)
	}()

	err := s.accept(ctx, ln)
	ln.Close()
	if ctx.Err() != nil {
		s.drain()
		err = nil
	}
	cancel()
	s.Close()
	<-swept
	return err
}

func (s *Server) accept(ctx context.Context, ln net.Listener) error {
	for delay := time.Duration(0); ; {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, most likely: connections that end make room.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("accept", "err", err, "retry", delay)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(delay):
			}
			continue
		}
		delay = 0
		s.counts.accepted.Add(1)
		leave, reason := s.gate.enter(c.RemoteAddr())
		if leave == nil {
			s.counts.turnedAway[reason].Add(1)
			c.Close()
			continue
		}
		if !s.track(c) {
			leave()
			c.Close()
			return net.ErrClosed
		}
		go func() {
			defer s.untrack(c)
			s.handle(ctx, c, sync.OnceFunc(leave))
		}()
	}
}

// Close ends every connection at once, without a word, and waits until their
// goroutines have ended. No connection is accepted any more; Serve itself ends
// with its context.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = false
	s.serving.Add(1)
	return true
}

func (s *Server) untrack(c net.Conn) {
	defer s.serving.Done()
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// drain asks every node to leave and waits until all have, or their time is
// over. Connections that are not admitted yet are closed.
func (s *Server) drain() {
	s.draining.Store(true)
	s.mu.Lock()
	for c, admitted := range s.open {
		if !admitted {
			c.Close()
		}
	}
	s.mu.Unlock()
	clients := s.table.all()
	spread := min(max(time.Duration(len(clients))*drainPerClient, drainMin), drainMax)
	s.log.Info("draining", "clients", len(clients), "within", spread)
	f := frame.AppendDrain(nil, 0, spread)
	for _, c := range clients {
		c.box.Control(f)
	}
	over := time.NewTimer(spread + drainGrace)
	defer over.Stop()
	for s.table.len() > 0 {
		select {
		case <-s.left:
		case <-over.C:
			s.log.Warn("drain: closing clients that did not leave", "clients", s.table.len())
			return
		}
	}
}

// Recheck asks the Admitter again about every node connected, and disconnects
// those it refuses. Call it after what the Admitter holds has changed; when it
// returns, no node is connected that was judged before.
func (s *Server) Recheck() {
	s.rechecks.Add(1)
	for _, c := range s.table.all() {
		c.judge()
	}
}

// sweep ends the connections of nodes whose admission has ended, and wishes that
// are too old. It compares
// with the wall clock every second, rather than set timers, so that a clock
// that is set forward is noticed.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.table.forget(s.now())
		now := time.Now().Unix()
		for _, c := range s.table.all() {
			if c.until.Load() <= now {
				c.refuse(&frame.Refusal{Kind: frame.Ended})
			}
		}
	}
}
