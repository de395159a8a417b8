package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// within is how long a test waits for what must happen.
const within = 20 * time.Second

// A fake is a coordinator that serves one node and does what the test says. What
// the node says to it arrives in channels.
type fake struct {
	// set at construction
	tb   testing.TB
	w    *netmaptest.World
	node *netmaptest.Node
	id   key.IdentityPrivate
	addr string

	follows chan *wire.FollowRequest
	joins   chan *papers.Join
	records chan *papers.Record
	acks    chan *papers.Ack

	mu       sync.Mutex // guards the fields below
	server   *http.Server
	served   chan struct{} // closed when server has ended
	rev      *netmaptest.Revision
	peers    []*netmaptest.Node
	admitted bool
	answer   *wire.JoinResponse
	live     []*wire.Update // sent to every stream that is open
	changed  chan struct{}
	cut      chan struct{} // closed to end the streams
	bad      bool          // PutRecord fails
	holds    bool          // PutRecord refuses what is not above the record held, as a coordinator does
	held     *papers.Record
	heldDoc  []byte
}

func newFake(tb testing.TB, w *netmaptest.World, node *netmaptest.Node) *fake {
	tb.Helper()
	f := &fake{
		tb: tb, w: w, node: node, id: key.NewIdentity(), addr: "127.0.0.1:0",
		follows: make(chan *wire.FollowRequest, 1000), joins: make(chan *papers.Join, 1000),
		records: make(chan *papers.Record, 1000), acks: make(chan *papers.Ack, 1000),
		answer:  &wire.JoinResponse{State: wire.JoinResponse_STATE_PENDING},
		changed: make(chan struct{}), cut: make(chan struct{}),
	}
	f.start()
	tb.Cleanup(f.stop)
	return f
}

// start serves, at the same address as before.
func (f *fake) start() {
	f.tb.Helper()
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.addr = l.Addr().String()
	_, handler := wireconnect.NewAgentHandler(f)
	srv := &http.Server{Handler: handler, TLSConfig: tlskey.ServerConfig(f.id)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.ServeTLS(l, "", "")
	}()
	f.mu.Lock()
	f.server, f.served = srv, served
	f.mu.Unlock()
}

func (f *fake) stop() {
	f.mu.Lock()
	srv, served := f.server, f.served
	f.server = nil
	f.mu.Unlock()
	if srv != nil {
		srv.Close()
		<-served
	}
	f.cutStreams()
}

// cutStreams ends every stream that is open.
func (f *fake) cutStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
}

// send sends an update to the streams that are open.
func (f *fake) send(u *wire.Update) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = append(f.live, u)
	close(f.changed)
	f.changed = make(chan struct{})
}

// hold makes a revision the newest, without a word to open streams.
func (f *fake) hold(r *netmaptest.Revision, peers ...*netmaptest.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rev, f.peers = r, peers
}

// publish makes a revision the newest and sends it.
func (f *fake) publish(r *netmaptest.Revision, peers ...*netmaptest.Node) {
	f.hold(r, peers...)
	f.send(f.everything())
}

// admit makes the node admitted and sends it what follows.
func (f *fake) admit() {
	f.mu.Lock()
	f.admitted = true
	f.mu.Unlock()
	f.send(f.everything())
}

func (f *fake) answers(r *wire.JoinResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = r
}

func (f *fake) everything() *wire.Update {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rev == nil {
		return wire.FromUpdate(netmap.Update{Roots: f.w.Roots, Ended: f.w.EndedDoc})
	}
	node := f.node
	if !f.admitted {
		node = nil
	}
	return wire.FromUpdate(f.w.Everything(node, f.rev, f.peers...))
}

// coordinator is how the policy names it.
func (f *fake) coordinator() leaf.Coordinator {
	return leaf.Coordinator{Addr: f.addr, Pin: f.id.Public()}
}

// config is the node's, with its state in dir.
func (f *fake) config(dir string) Config {
	return Config{
		Network: f.w.Network, Identity: f.node.Key, WG: f.node.WG,
		Coordinators: []leaf.Coordinator{f.coordinator()}, Dir: dir, Version: "test", Name: f.node.Admission.Name,
		Adopt: func(*netmap.Netmap) {},
	}
}

// Follow implements wireconnect.AgentHandler. It opens with all that the caller
// does not have, and says that this is all.
func (f *fake) Follow(ctx context.Context, req *connect.Request[wire.FollowRequest], s *connect.ServerStream[wire.Update]) error {
	f.mu.Lock()
	n, cut, rev := len(f.live), f.cut, f.rev
	f.mu.Unlock()
	f.follows <- req.Msg
	first := &wire.Update{}
	if rev == nil || !slices.Equal(req.Msg.GetManifest(), hashBytes(rev.Manifest.Hash())) || req.Msg.GetEverything() {
		first = f.everything()
	}
	first.CaughtUp = true
	if err := s.Send(first); err != nil {
		return err
	}
	for {
		f.mu.Lock()
		waiting, changed := f.live[n:], f.changed
		n = len(f.live)
		f.mu.Unlock()
		for _, u := range waiting {
			if err := s.Send(u); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-cut:
			return connect.NewError(connect.CodeUnavailable, errors.New("cut by the test"))
		case <-changed:
		}
	}
}

func hashBytes(h key.Hash) []byte { return h[:] }

func (f *fake) Join(_ context.Context, req *connect.Request[wire.JoinRequest]) (*connect.Response[wire.JoinResponse], error) {
	j, err := papers.OpenJoin(req.Msg.GetJoin(), f.w.Network, f.node.Key.Public())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	f.mu.Lock()
	answer := f.answer
	f.mu.Unlock()
	f.joins <- j
	return connect.NewResponse(answer), nil
}

func (f *fake) PutRecord(_ context.Context, req *connect.Request[wire.PutRecordRequest]) (*connect.Response[wire.PutRecordResponse], error) {
	r, err := papers.OpenRecord(req.Msg.GetRecord(), f.w.Network, f.node.Key.Public())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records <- r
	switch {
	case f.bad:
		return nil, connect.NewError(connect.CodeInternal, errors.New("refused by the test"))
	case f.holds && f.held != nil && r.Serial <= f.held.Serial && r.Hash() != f.held.Hash():
		err := connect.NewError(connect.CodeInvalidArgument, errors.New("a higher serial is held"))
		d, derr := connect.NewErrorDetail(&wire.PutRecordRequest{Record: f.heldDoc})
		if derr != nil {
			return nil, derr
		}
		err.AddDetail(d)
		return nil, err
	}
	f.held, f.heldDoc = r, req.Msg.GetRecord()
	return connect.NewResponse(&wire.PutRecordResponse{}), nil
}

func (f *fake) Acknowledge(_ context.Context, req *connect.Request[wire.AcknowledgeRequest]) (*connect.Response[wire.AcknowledgeResponse], error) {
	a, err := papers.OpenAck(req.Msg.GetAck(), f.w.Network, f.node.Key.Public())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	f.acks <- a
	return connect.NewResponse(&wire.AcknowledgeResponse{}), nil
}

// next is the next of what arrives in a channel.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(within):
		t.Fatalf("no %s within %s", what, within)
		panic("unreachable")
	}
}

// none fails if something has arrived.
func none[T any](t *testing.T, what string, from <-chan T) {
	t.Helper()
	select {
	case v := <-from:
		t.Errorf("got a %s, want none: %+v", what, v)
	default:
	}
}
