// Package relaytest runs a relay for the tests of others: the real one, with
// an Admitter that the test directs, on loopback or in memory.
//
//	relay := relaytest.New(t)
//	alice := key.NewIdentity()
//	relay.Admit(alice.Public())
//	cfg := relay.Config(alice)
//	cfg.Receive = func(src key.NodeID, packet []byte) { … }
//	c := relaytest.Connect(t, cfg)
//
// Everything it starts has ended when the test's cleanup is over.
package relaytest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/server"
)

// A Relay is one relay under a test's control.
type Relay struct {
	// set at construction
	t        testing.TB
	identity key.IdentityPrivate
	options  server.Config
	memory   bool
	door     door
	silent   atomic.Bool

	// guarded by mu
	mu      sync.Mutex
	addr    string
	memLn   *listener
	server  *server.Server
	metrics *prometheus.Registry
	stop    context.CancelFunc
	stopped chan struct{}
}

// New starts a relay on a free port of 127.0.0.1.
func New(t testing.TB) *Relay { return start(t, false) }

// NewInMemory starts a relay without sockets, for a testing/synctest bubble.
// It is reached through the Dial of Config.
func NewInMemory(t testing.TB) *Relay { return start(t, true) }

func start(t testing.TB, memory bool) *Relay {
	t.Helper()
	r := &Relay{
		t: t, identity: key.NewIdentity(), memory: memory,
		// A test is one source; the gate has tests of its own.
		options: server.Config{PendingPerSource: 1000, ConnectRate: 1e6, ConnectBurst: 1e6},
		door:    door{known: make(map[key.NodeID]answer)},
	}
	r.addr = "127.0.0.1:0"
	if memory {
		r.addr = "relay.test:443"
	}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// Key is what clients pin.
func (r *Relay) Key() key.IdentityPublic { return r.identity.Public() }

// Addr is the relay's address, the same after a restart.
func (r *Relay) Addr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr
}

// Start runs the relay again after Stop or Kill, with the same key and address.
func (r *Relay) Start() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		r.t.Fatal("relaytest: the relay runs already")
	}
	var ln net.Listener
	if r.memory {
		r.memLn = newListener()
		ln = r.memLn
	} else {
		tcp, err := net.Listen("tcp", r.addr)
		if err != nil {
			r.t.Fatalf("relaytest: %v", err)
		}
		r.addr, ln = tcp.Addr().String(), tcp
	}
	cfg := r.options
	cfg.Identity, cfg.Admitter = r.identity, &r.door
	r.metrics = prometheus.NewRegistry()
	cfg.Registerer = r.metrics
	s, err := server.New(cfg)
	if err != nil {
		r.t.Fatalf("relaytest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := s.Serve(ctx, ln); err != nil && ctx.Err() == nil {
			r.t.Errorf("relaytest: serve: %v", err)
		}
	}()
	r.server, r.stop, r.stopped = s, cancel, stopped
}

// Stop drains the relay, as SIGTERM does, and returns when it has ended.
func (r *Relay) Stop() { r.end(false) }

// Kill ends the relay without a word, as SIGKILL does.
func (r *Relay) Kill() { r.end(true) }

func (r *Relay) end(kill bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return
	}
	if kill {
		r.server.Close() // clients first, so that nobody is left to drain
	}
	r.stop()
	<-r.stopped
	r.server = nil
}

// Admit lets nodes in, for a year.
func (r *Relay) Admit(ids ...key.IdentityPublic) {
	r.AdmitUntil(time.Now().AddDate(1, 0, 0), ids...)
}

// AdmitUntil lets nodes in until the given time.
func (r *Relay) AdmitUntil(until time.Time, ids ...key.IdentityPublic) {
	for _, id := range ids {
		r.door.set(id, answer{until: until})
	}
}

// Refuse keeps nodes out, for the given reason, and disconnects them. Nodes
// that were never mentioned are refused as not admitted.
func (r *Relay) Refuse(kind frame.Kind, ids ...key.IdentityPublic) {
	for _, id := range ids {
		r.door.set(id, answer{err: &frame.Refusal{Kind: kind, Text: "relaytest"}})
	}
	r.mu.Lock()
	s := r.server
	r.mu.Unlock()
	if s != nil {
		s.Recheck()
	}
}

// AdmitBy has check judge the papers of nodes from now on, instead of what Admit
// and Refuse have said. It is how a relay serves nodes with real papers.
func (r *Relay) AdmitBy(check func(id key.IdentityPublic, papers []byte) (until time.Time, err error)) {
	r.door.mu.Lock()
	defer r.door.mu.Unlock()
	r.door.check = check
}

// Blackhole makes the relay, as clients dialled by Config see it, accept
// connections and data and never answer.
func (r *Relay) Blackhole(on bool) { r.silent.Store(on) }

// Metric is one of the relay's metrics, since it was last started: its name and
// the value of its label, if it has one. A metric that does not exist fails the
// test.
func (r *Relay) Metric(name string, label ...string) float64 {
	r.t.Helper()
	r.mu.Lock()
	reg := r.metrics
	r.mu.Unlock()
	families, err := reg.Gather()
	if err != nil {
		r.t.Fatalf("relaytest: %v", err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || len(m.GetLabel()) != len(label) || len(label) == 1 && m.GetLabel()[0].GetValue() != label[0] {
				continue
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	r.t.Fatalf("relaytest: no metric %s %v", name, label)
	return 0
}

// Config is a client's, complete but for Receive. Its papers are the node's
// identity key, in text.
func (r *Relay) Config(id key.IdentityPrivate) client.Config {
	return client.Config{
		Addr: r.Addr(), Pin: r.Key(), Identity: id,
		Papers:  func() []byte { return Papers(id.Public()) },
		Receive: func(key.NodeID, []byte) {},
		Log:     slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Dial:    r.dial,
	}
}

func (r *Relay) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !r.memory {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &muffled{c, &r.silent}, nil
	}
	r.mu.Lock()
	ln := r.memLn
	r.mu.Unlock()
	c, err := ln.dial()
	if err != nil {
		return nil, err
	}
	return &muffled{c, &r.silent}, nil
}

// Papers are what this relay accepts from a node that Admit named.
func Papers(id key.IdentityPublic) []byte { return []byte(id.String()) }

// Connect runs a client until the test's cleanup, and returns when the relay
// has welcomed it.
func Connect(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatalf("relaytest: %v", err)
	}
	Run(t, c)
	WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Connected })
	return c
}

// Run runs a client until stop is called, at the test's cleanup at the latest.
func Run(t testing.TB, c *client.Client) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

// WaitFor waits for a state of the client, ten seconds at most.
func WaitFor(t testing.TB, c *client.Client, ok func(client.State) bool) client.State {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		changed := c.Changed()
		s := c.State()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("relaytest: the client stays %v, last error: %v", s.Phase, s.LastError)
		}
	}
}

// door is the Admitter: it knows what the test has said.
type door struct {
	mu    sync.Mutex
	known map[key.NodeID]answer
	check func(key.IdentityPublic, []byte) (time.Time, error) // nil: known says
}

type answer struct {
	until time.Time
	err   error
}

func (d *door) set(id key.IdentityPublic, a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[id.NodeID()] = a
}

// Admit implements server.Admitter.
func (d *door) Admit(id key.IdentityPublic, papers []byte) (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.check != nil {
		return d.check(id, papers)
	}
	if string(papers) != id.String() {
		return time.Time{}, fmt.Errorf("papers %q are not of %v", papers, id)
	}
	a, ok := d.known[id.NodeID()]
	if !ok {
		return time.Time{}, fmt.Errorf("no node %v", id)
	}
	return a.until, a.err
}
