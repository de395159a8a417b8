package server_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/wire"
)

func accounting(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members, "engineering": {"dave@acme.example"}},
		Rules: []netmaptest.Rule{
			{Name: "accounting-web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80 icmp"},
			{Name: "eng-ci", From: "group:engineering", To: "tag:ci", Allow: "tcp/22"},
		},
	}
}

// agent is a node that verifies what it is sent, and nothing else.
type agent struct {
	t      *testing.T
	c      *coordtest.Coordinator
	key    key.IdentityPrivate
	state  *netmap.State
	cancel context.CancelFunc
	stream *connect.ServerStreamForClient[wire.Update]
	bytes  int // received since the last settle
}

func newAgent(t *testing.T, c *coordtest.Coordinator, k key.IdentityPrivate) *agent {
	return &agent{t: t, c: c, key: k, state: netmap.New(c.World.Network, k.Public().NodeID())}
}

func (a *agent) follow(everything bool) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), coordtest.Timeout)
	req := wire.FromHave(a.state.Have(), "test")
	req.Everything = everything
	s, err := a.c.Agent(a.key).Follow(ctx, connect.NewRequest(req))
	if err != nil {
		cancel()
		a.t.Fatal(err)
	}
	a.stream, a.cancel = s, cancel
	a.t.Cleanup(a.leave)
}

func (a *agent) leave() {
	if a.cancel != nil {
		a.cancel()
		a.stream.Close()
		a.cancel = nil
	}
}

// next takes up one message.
func (a *agent) next() *wire.Update {
	a.t.Helper()
	if !a.stream.Receive() {
		a.t.Fatalf("stream ended: %v", a.stream.Err())
	}
	m := proto.CloneOf(a.stream.Msg())
	a.bytes += proto.Size(m)
	u, err := wire.ToUpdate(m)
	if err != nil {
		a.t.Fatal(err)
	}
	o := a.state.Accept(u, a.c.World.Now)
	for _, r := range o.Refused {
		a.t.Errorf("got refusal %v, want none", r)
	}
	a.state = o.State
	return m
}

// until takes up messages until the netmap is as wanted.
func (a *agent) until(what string, ok func(*netmap.Netmap) bool) {
	a.t.Helper()
	for !ok(a.netmap()) {
		if m := a.next(); m.GetAlive() {
			a.t.Fatalf("%s: the coordinator says there is nothing more; got netmap %+v", what, a.netmap())
		}
	}
}

func (a *agent) caughtUp() {
	a.t.Helper()
	for !a.next().GetCaughtUp() {
	}
}

func (a *agent) netmap() *netmap.Netmap { return a.state.Netmap(a.c.World.Now) }

func (a *agent) acknowledge() {
	a.t.Helper()
	n := a.netmap()
	msg, err := papers.SignAck(papers.Ack{Network: n.NetworkID, Position: n.Position, Manifest: n.Manifest, Digest: n.Digest, Issued: a.c.World.Now}, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.c.Agent(a.key).Acknowledge(a.t.Context(), connect.NewRequest(&wire.AcknowledgeRequest{Ack: msg})); err != nil {
		a.t.Fatal(err)
	}
}

func may(n *netmap.Netmap, from string, port uint16, at time.Time) bool {
	p, ok := n.Named(from)
	if !ok || n.Self == nil {
		return false
	}
	return acl.Judge(n.Inbound, acl.Request{From: p.Subject, To: n.Self, Target: acl.Target{Proto: acl.TCP, Port: port}, At: at}).Allowed
}

func enforces(r *netmaptest.Revision) func(*netmap.Netmap) bool {
	return func(n *netmap.Netmap) bool { return n.Manifest == r.Manifest.Hash() }
}

func world(t *testing.T) *netmaptest.World {
	t.Helper()
	return netmaptest.New(t, time.Now().Add(-time.Minute))
}

func code(err error) connect.Code {
	if err == nil {
		return 0
	}
	return connect.CodeOf(err)
}

func TestTwoNodesFollowARevisionAndItsRevert(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting("alice@acme.example")))
	alice, bob, ledger := w.Admit("alice", "alice@acme.example"), w.Admit("bob", "bob@acme.example"), w.Admit("ledger-1", "tag:accounting")
	c.Admit(alice, bob, ledger)
	c.PutRecord(alice, bob, ledger)

	l, b := newAgent(t, c, ledger.Key), newAgent(t, c, bob.Key)
	l.follow(false)
	b.follow(false)
	l.caughtUp()
	b.caughtUp()
	if n := l.netmap(); !may(n, "alice", 80, w.Now) || may(n, "bob", 80, w.Now) {
		t.Fatalf("at the first revision: want alice to reach the ledger and bob not, got peers %+v", n.Peers)
	}
	if n := l.netmap(); len(n.Peers) != 1 {
		t.Errorf("the ledger is sent %d peers, want alice alone: %+v", len(n.Peers), n.Peers)
	}
	if n := b.netmap(); len(n.Peers) != 0 {
		t.Errorf("bob, whom nothing concerns, is sent %d peers, want none", len(n.Peers))
	}

	r2 := w.Publish(accounting("alice@acme.example", "bob@acme.example"))
	c.Publish(r2)
	l.until("bob reaches the ledger", func(n *netmap.Netmap) bool { return enforces(r2)(n) && may(n, "bob", 80, w.Now) })
	b.until("bob knows the ledger", func(n *netmap.Netmap) bool { _, ok := n.Named("ledger-1"); return enforces(r2)(n) && ok })

	r3 := w.Publish(accounting("alice@acme.example"))
	c.Publish(r3)
	l.until("the revert", enforces(r3))
	if may(l.netmap(), "bob", 80, w.Now) {
		t.Error("after the revert bob reaches the ledger, want not: revocation must not wait for papers")
	}
	l.until("bob is gone", func(n *netmap.Netmap) bool { _, ok := n.Named("bob"); return !ok })
	b.until("the revert", enforces(r3))

	l.acknowledge()
	b.acknowledge()
	c.WaitStatus("enforced on 2 of 3 nodes; missing: alice (not seen since this coordinator started)")
	a := newAgent(t, c, alice.Key)
	a.follow(false)
	a.caughtUp()
	a.acknowledge()
	c.WaitEnforced(3)
}

func TestNodeThatIsNotConcernedGetsTheManifestAndChangeListAlone(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting("alice@acme.example")))
	ci := w.Admit("ci-1", "tag:ci")
	c.Admit(ci)
	c.PutRecord(ci)
	a := newAgent(t, c, ci.Key)
	a.follow(false)
	a.caughtUp()
	r2 := w.Publish(accounting("alice@acme.example", "bob@acme.example"))
	c.Publish(r2)
	m := a.next()
	if len(m.GetLeaves()) != 0 || len(m.GetPeers()) != 0 || len(m.GetRevisions()) != 1 {
		t.Errorf("got %d leaves, %d papers, %d revisions, want 0, 0, 1", len(m.GetLeaves()), len(m.GetPeers()), len(m.GetRevisions()))
	}
	if want := r2.Manifest.Hash(); a.netmap().Manifest != want {
		t.Errorf("the node enforces %s, want %s", a.netmap().Manifest, want)
	}
	t.Logf("%d bytes to a node that the change does not concern", proto.Size(m))
}

func TestRestartFromDiskServesTheSame(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting("alice@acme.example")))
	alice, ledger := w.Admit("alice", "alice@acme.example"), w.Admit("ledger-1", "tag:accounting")
	c.Admit(alice, ledger)
	c.PutRecord(alice, ledger)
	r2 := w.Publish(accounting("alice@acme.example", "bob@acme.example"))
	c.Publish(r2)
	before := newAgent(t, c, ledger.Key)
	before.follow(false)
	before.caughtUp()
	before.leave()

	c.Restart()
	after := newAgent(t, c, ledger.Key)
	after.follow(false)
	after.caughtUp()
	x, y := before.netmap(), after.netmap()
	if x.Digest != y.Digest || len(x.Peers) != len(y.Peers) || !enforces(r2)(y) {
		t.Errorf("after a restart a node is told of %+v, want %+v", y, x)
	}
	// A node that held all is sent nothing but "caught up".
	again := &agent{t: t, c: c, key: ledger.Key, state: before.state}
	again.follow(false)
	if m := again.next(); proto.Size(m) != proto.Size(&wire.Update{CaughtUp: true}) {
		t.Errorf("a node that lacks nothing is sent %v, want caught up alone", m)
	}
	// and follows what comes next along the chain.
	r3 := w.Publish(accounting("alice@acme.example"))
	c.Publish(r3)
	again.until("the next revision", enforces(r3))
}

func TestEndedNodeIsToldAndServedNoMore(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting("alice@acme.example")))
	alice, ledger := w.Admit("alice", "alice@acme.example"), w.Admit("ledger-1", "tag:accounting")
	c.Admit(alice, ledger)
	c.PutRecord(alice, ledger)
	a, l := newAgent(t, c, alice.Key), newAgent(t, c, ledger.Key)
	a.follow(false)
	l.follow(false)
	a.caughtUp()
	l.caughtUp()

	w.End(alice.ID)
	c.PutEnded()
	a.until("alice sees that she is out", func(n *netmap.Netmap) bool { return n.Out != "" })
	for a.stream.Receive() {
	}
	if got := code(a.stream.Err()); got != connect.CodePermissionDenied {
		t.Errorf("the stream of a node that is out ends with %v, want permission_denied", a.stream.Err())
	}
	l.until("the ledger forgets alice", func(n *netmap.Netmap) bool { return len(n.Peers) == 0 && len(n.Nobodies) == 0 })
	_, err := c.Agent(alice.Key).PutRecord(t.Context(), connect.NewRequest(&wire.PutRecordRequest{Record: alice.Papers.Record}))
	if code(err) != connect.CodePermissionDenied {
		t.Errorf("a record of a node that is out: got %v, want permission_denied", err)
	}
}

func TestJoinIsCarriedToSyncAndTheAnswerBack(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	r := w.Publish(accounting("alice@acme.example"))
	c.Publish(r)
	c.DecideJoins(func(j *papers.Join, p *papers.Proof) (papers.Admission, error) {
		if j.Name == "mallory" {
			return papers.Admission{}, errors.New("no pin names this key")
		}
		return papers.Admission{Tags: []string{"accounting"}}, nil
	})
	for _, test := range []struct {
		name  string
		state wire.JoinResponse_State
	}{{"ledger-1", wire.JoinResponse_STATE_ADMITTED}, {"mallory", wire.JoinResponse_STATE_REFUSED}} {
		k := key.NewIdentity()
		a := newAgent(t, c, k)
		a.follow(false)
		a.caughtUp()
		if n := a.netmap(); n.Self != nil || !enforces(r)(n) {
			t.Fatalf("before it joins a node holds the revision and is nobody; got %+v", n)
		}
		doc, err := papers.NewJoin(w.Network, k, test.name, w.Now, w.Root.SealKeys[0], papers.Proof{Kind: papers.ProofPin})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Agent(k).Join(t.Context(), connect.NewRequest(&wire.JoinRequest{Join: doc}))
		if err != nil {
			t.Fatal(err)
		}
		if s := resp.Msg.GetState(); s != wire.JoinResponse_STATE_PENDING && s != test.state {
			t.Errorf("%s: got %v, want pending", test.name, s)
		}
		refused := ""
		for refused == "" && a.netmap().Self == nil {
			refused = a.next().GetRefused()
		}
		resp, err = c.Agent(k).Join(t.Context(), connect.NewRequest(&wire.JoinRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Msg.GetState() != test.state || resp.Msg.GetReason() != refused {
			t.Errorf("%s: got %v, %q, want %v and what the stream said, %q", test.name, resp.Msg.GetState(), resp.Msg.GetReason(), test.state, refused)
		}
	}
}

func TestRelayIsServedWhilePinned(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	k := key.NewIdentity()
	p := accounting("alice@acme.example")
	p.Relays = []leaf.Relay{{Name: "r1", Addr: "127.0.0.1:1", Key: k.Public()}}
	state := netmap.New(w.Network, key.NodeID{})
	ctx, cancel := context.WithTimeout(t.Context(), coordtest.Timeout)
	defer cancel()
	s, err := c.Relay(k).Follow(ctx, connect.NewRequest(wire.FromHave(state.Have(), "test")))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	take := func() {
		t.Helper()
		if !s.Receive() {
			t.Fatalf("stream ended: %v", s.Err())
		}
		u, err := wire.ToUpdate(s.Msg())
		if err != nil {
			t.Fatal(err)
		}
		o := state.Accept(u, w.Now)
		for _, r := range o.Refused {
			t.Errorf("got refusal %v, want none", r)
		}
		state = o.State
	}
	take() // before the first revision: the roots
	r1 := w.Publish(p)
	c.Publish(r1)
	take()
	if n := state.Netmap(w.Now); !enforces(r1)(n) || len(n.Relays) != 1 {
		t.Fatalf("the relay holds %+v, want revision %s with its own pin", n, r1.Manifest.Position)
	}
	p.Relays = nil
	r2 := w.Publish(p)
	c.Publish(r2)
	take()
	if !enforces(r2)(state.Netmap(w.Now)) {
		t.Error("the relay is not told that it is none any more")
	}
	if s.Receive() || code(s.Err()) != connect.CodePermissionDenied {
		t.Errorf("the stream of a relay that is not pinned: got %v, want permission_denied", s.Err())
	}
	s2, err := c.Relay(key.NewIdentity()).Follow(ctx, connect.NewRequest(&wire.FollowRequest{}))
	if err == nil {
		s2.Receive()
		err = s2.Err()
		s2.Close()
	}
	if code(err) != connect.CodePermissionDenied {
		t.Errorf("another key: got %v, want permission_denied", err)
	}
}
