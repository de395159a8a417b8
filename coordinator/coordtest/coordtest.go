// Package coordtest runs a coordinator on loopback, for others' tests. It is the
// real one: its store in a temporary directory, its protocol over TLS.
//
//	w := netmaptest.New(t, time.Now())
//	c := coordtest.Start(t, w)
//	c.Publish(w.Publish(policy))          // a revision
//	c.Admit(w.Admit("db", "tag:db"))      // or, for agents that ask:
//	c.DecideJoins(func(j *papers.Join, p *papers.Proof) (papers.Admission, error) { … })
//	join := c.JoinString()                // what an agent is started with
//
// A coordinator stops, and its directory goes, when the test ends.
package coordtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/server"
	"github.com/writmesh/writ/coordinator/internal/store/bolt"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// Timeout is how long a helper of this package waits before it fails the test:
// long, for a machine that does ten other things under the race detector.
const Timeout = time.Minute

// A Coordinator is a coordinator that runs.
type Coordinator struct {
	// set at construction
	Addr  string             // host:port on loopback; stays across Restart
	Pin   key.IdentityPublic // of its TLS certificate
	World *netmaptest.World

	tb    testing.TB
	dir   string
	id    key.IdentityPrivate
	log   *slog.Logger
	alive time.Duration
	dial  func(ctx context.Context, network, addr string) (net.Conn, error) // nil: as everybody does
	other bool                                                              // another process runs it

	mu      sync.Mutex // guards the fields below
	running *running
}

// running is one life of a coordinator.
type running struct {
	reg    *registry.Registry
	srv    *server.Server
	store  *bolt.Store
	cancel context.CancelFunc
	done   chan error
}

// An Option changes what Start starts.
type Option func(*Coordinator)

// WithLog makes the coordinator log.
func WithLog(l *slog.Logger) Option { return func(c *Coordinator) { c.log = l } }

// WithAliveEvery changes how long streams are silent.
func WithAliveEvery(d time.Duration) Option { return func(c *Coordinator) { c.alive = d } }

// At makes Start run nothing and speak to a coordinator of the same network that
// another process runs: under that key, at an address that dial reaches (nil:
// as everybody does). Such a coordinator is stopped, restarted and asked for its
// status where it runs.
func At(addr string, pin key.IdentityPublic, dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return func(c *Coordinator) { c.Addr, c.Pin, c.dial, c.other = addr, pin, dial, true }
}

// Start runs a coordinator for the world's network, on an empty store. Nothing
// is published.
func Start(tb testing.TB, w *netmaptest.World, options ...Option) *Coordinator {
	tb.Helper()
	c := &Coordinator{tb: tb, World: w, dir: tb.TempDir(), id: key.NewIdentity(), log: slog.New(slog.DiscardHandler)}
	for _, o := range options {
		o(c)
	}
	if c.other {
		return c
	}
	c.Pin = c.id.Public()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	c.Addr = l.Addr().String()
	c.run(l)
	tb.Cleanup(c.Stop)
	return c
}

func (c *Coordinator) run(l net.Listener) {
	c.tb.Helper()
	st, err := bolt.Open(c.dir)
	if err != nil {
		c.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reg, err := registry.Open(ctx, registry.Config{Store: st, Roots: c.World.Roots[:1], Log: c.log})
	if err != nil {
		cancel()
		st.Close()
		c.tb.Fatal(err)
	}
	r := &running{reg: reg, store: st, cancel: cancel, done: make(chan error, 1)}
	r.srv = server.New(server.Config{Registry: reg, Identity: c.id, AliveEvery: c.alive, Log: c.log})
	go func() { r.done <- r.srv.Serve(ctx, l) }()
	c.mu.Lock()
	c.running = r
	c.mu.Unlock()
}

// Stop stops the coordinator and keeps its directory. A second Stop does nothing.
func (c *Coordinator) Stop() {
	c.tb.Helper()
	c.mu.Lock()
	r := c.running
	c.running = nil
	c.mu.Unlock()
	if r == nil {
		return
	}
	r.srv.Close()
	r.cancel()
	if err := errors.Join(<-r.done, r.store.Close()); err != nil {
		c.tb.Errorf("stop coordinator: %v", err)
	}
}

// Restart stops the coordinator, if it runs, and starts it again from its
// directory at the same address.
func (c *Coordinator) Restart() {
	c.tb.Helper()
	if c.other {
		c.tb.Fatal("restart coordinator: another process runs it")
	}
	c.Stop()
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.run(l)
}

// Coordinator is how the policy and join strings name it.
func (c *Coordinator) Coordinator() leaf.Coordinator {
	return leaf.Coordinator{Addr: c.Addr, Pin: c.Pin}
}

// JoinString is what an agent is started with.
func (c *Coordinator) JoinString() papers.JoinString {
	return papers.JoinString{Network: c.World.Network, Coordinators: []leaf.Coordinator{c.Coordinator()}}
}

// Client meets the coordinator as the holder of that key. Its connections end
// with the test.
func (c *Coordinator) Client(self key.IdentityPrivate) *http.Client {
	t := &http.Transport{TLSClientConfig: tlskey.ClientConfig(self, c.Pin), ForceAttemptHTTP2: true, DialContext: c.dial}
	c.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// URL is where its services are.
func (c *Coordinator) URL() string { return "https://" + c.Addr }

// Agent calls as a node.
func (c *Coordinator) Agent(self key.IdentityPrivate) wireconnect.AgentClient {
	return wireconnect.NewAgentClient(c.Client(self), c.URL(), connect.WithReadMaxBytes(wire.MaxMessage))
}

// Relay calls as a relay.
func (c *Coordinator) Relay(self key.IdentityPrivate) wireconnect.RelayClient {
	return wireconnect.NewRelayClient(c.Client(self), c.URL(), connect.WithReadMaxBytes(wire.MaxMessage))
}

// Publisher calls with the world's policy key.
func (c *Coordinator) Publisher() wireconnect.PublisherClient {
	c.tb.Helper()
	id, err := c.World.PolicyKey.TLSIdentity()
	if err != nil {
		c.tb.Fatal(err)
	}
	return wireconnect.NewPublisherClient(c.Client(id), c.URL(), connect.WithReadMaxBytes(wire.MaxMessage))
}

// Request is the request that publishes the revision, with all its leaves that
// the one before did not have.
func (c *Coordinator) Request(r *netmaptest.Revision) *wire.PublishRequest {
	m := &wire.PublishRequest{Roots: c.World.Roots, Manifest: r.Doc.Manifest, Changes: r.Doc.Changes, Ended: c.World.EndedDoc}
	var before *netmaptest.Revision
	for _, b := range c.World.Revisions {
		if b.Manifest.Hash() == r.Manifest.Prev {
			before = b
			m.Prev = bytes.Clone(r.Manifest.Prev[:])
		}
	}
	for name, l := range r.Leaves {
		if before != nil && bytes.Equal(before.Leaves[name].Data, l.Data) {
			continue
		}
		m.Leaves = append(m.Leaves, &wire.Leaf{Name: name, Data: l.Data})
	}
	return m
}

// Publish publishes a revision of the world; those before it are published.
func (c *Coordinator) Publish(r *netmaptest.Revision) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if _, err := c.Publisher().Publish(ctx, connect.NewRequest(c.Request(r))); err != nil {
		c.tb.Fatalf("publish %s: %v", r.Manifest.Position, err)
	}
}

// PutEnded publishes the world's ended list.
func (c *Coordinator) PutEnded() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	if _, err := c.Publisher().PutEnded(ctx, connect.NewRequest(&wire.PutEndedRequest{Ended: c.World.EndedDoc})); err != nil {
		c.tb.Fatalf("put ended list: %v", err)
	}
}

// Admit hands in the admissions of nodes that the world admitted, in the order
// of its log. A revision is published before.
func (c *Coordinator) Admit(nodes ...*netmaptest.Node) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	p := c.Publisher()
	for _, n := range nodes {
		if _, err := p.Decide(ctx, connect.NewRequest(&wire.DecideRequest{Admission: n.Papers.Admission})); err != nil {
			c.tb.Fatalf("admit %s: %v", n.Admission.Name, err)
		}
	}
}

// PutRecord puts a node's record as the node does.
func (c *Coordinator) PutRecord(nodes ...*netmaptest.Node) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	for _, n := range nodes {
		if _, err := c.Agent(n.Key).PutRecord(ctx, connect.NewRequest(&wire.PutRecordRequest{Record: n.Papers.Record})); err != nil {
			c.tb.Fatalf("put record of %s: %v", n.Admission.Name, err)
		}
	}
}

// A Decider says what an admission says of who the node is: its user or tags,
// and its basis. The rest is filled in. An error refuses the request with its
// text.
type Decider func(*papers.Join, *papers.Proof) (papers.Admission, error)

// DecideJoins answers join requests until the test ends, as sync does. The
// admission log goes on after the nodes that the world admitted; call it after
// they were handed in.
func (c *Coordinator) DecideJoins(decide Decider) {
	c.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	p := c.Publisher()
	d := &decider{c: c, p: p, decide: decide, admitted: map[key.NodeID]bool{}}
	if n := len(c.World.Nodes); n > 0 {
		last := c.World.Nodes[n-1].Admission
		d.log, d.prev = last.Log, last.Hash()
	}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			d.follow(ctx) // until the coordinator restarts
			pause := time.NewTimer(20 * time.Millisecond)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
	}()
	c.tb.Cleanup(func() {
		cancel()
		<-done
	})
}

// decider is sync's part of joining. It is owned by one goroutine.
type decider struct {
	c        *Coordinator
	p        wireconnect.PublisherClient
	decide   Decider
	log      int64
	prev     key.Hash
	admitted map[key.NodeID]bool
}

func (d *decider) follow(ctx context.Context) {
	s, err := d.p.FollowJoins(ctx, connect.NewRequest(&wire.FollowJoinsRequest{}))
	if err != nil {
		return
	}
	defer s.Close()
	for s.Receive() {
		if m := s.Msg(); len(m.GetJoin()) > 0 {
			if err := d.one(ctx, m); err != nil && ctx.Err() == nil {
				d.c.log.Error("decide", "err", err)
			}
		}
	}
}

func (d *decider) one(ctx context.Context, m *wire.JoinEvent) error {
	w := d.c.World
	id, err := key.IdentityPublicFrom(m.GetIdentity())
	if err != nil {
		return err
	}
	if d.admitted[id.NodeID()] {
		return nil
	}
	answer := &wire.DecideRequest{Identity: m.GetIdentity()}
	j, err := papers.OpenJoin(m.GetJoin(), w.Network, id)
	var proof *papers.Proof
	if err == nil {
		proof, err = j.Unseal(w.Seal)
	}
	var a papers.Admission
	if err == nil {
		a, err = d.decide(j, proof)
	}
	if err != nil {
		answer.Reason = err.Error()
		_, err := d.p.Decide(ctx, connect.NewRequest(answer))
		return err
	}
	a.Network, a.Identity, a.Log, a.Prev, a.Serial = w.Network, id, d.log+1, d.prev, 1
	a.IPv6 = papers.Address6(w.Network, id)
	if !a.IPv4.IsValid() {
		a.IPv4 = netip.AddrFrom4([4]byte{100, 64, byte(a.Log >> 8), byte(a.Log)})
	}
	if a.Name == "" {
		a.Name = j.Name
	}
	if a.Basis.Kind == "" {
		a.Basis = papers.Basis{Kind: "pin", Name: a.Name}
	}
	if a.Decided == (trust.Position{}) {
		a.Decided = trust.Position{Epoch: 1, Seq: 1}
	}
	if a.Issued.IsZero() {
		a.Issued = time.Now().UTC().Truncate(time.Second)
	}
	ad, err := papers.NewAdmission(a)
	if err != nil {
		return err
	}
	if answer.Admission, err = trust.Sign(ad.Text(), w.AdmissionKey); err != nil {
		return err
	}
	if _, err := d.p.Decide(ctx, connect.NewRequest(answer)); err != nil {
		return fmt.Errorf("admit %s: %w", ad.Name, err)
	}
	d.log, d.prev, d.admitted[id.NodeID()] = ad.Log, ad.Hash(), true
	return nil
}

// Status is what "coordinator status" prints, as a line.
func (c *Coordinator) Status() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		return "not running"
	}
	return c.running.srv.Status().Line()
}

// WaitEnforced waits until every node that is in enforces the newest revision,
// and there are n of them.
func (c *Coordinator) WaitEnforced(n int) {
	c.tb.Helper()
	c.WaitStatus(fmt.Sprintf("enforced on %d of %d nodes", n, n))
}

// WaitStatus waits until the status line holds the text.
func (c *Coordinator) WaitStatus(text string) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	for {
		c.mu.Lock()
		r := c.running
		c.mu.Unlock()
		if r == nil {
			c.tb.Fatalf("wait for %q: the coordinator is stopped", text)
		}
		woken := r.srv.Watch()
		if line := r.srv.Status().Line(); bytes.Contains([]byte(line), []byte(text)) {
			return
		}
		if err := woken.Wait(ctx); err != nil {
			c.tb.Fatalf("wait for %q: got %q", text, r.srv.Status().Line())
		}
	}
}
