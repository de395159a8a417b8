package control

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
)

// policy gives accounting's members the ledger.
func policy(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "ledger", From: "group:accounting", To: "tag:ledger", Allow: "tcp/443"}},
	}
}

// begin runs a client until the test's end or until stop is called, which leaves
// nothing of it behind.
func begin(t *testing.T, cfg Config) (c *Client, stop func()) {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := next(t, "end of Run", done); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want context canceled", err)
		}
		// The test's own goroutine is in this package too, and no other is.
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for _, g := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(g, "(*Client).beside") || strings.Contains(g, "(*Follower).") {
				t.Errorf("left over after Run:\n%s", g)
			}
		}
	})
	t.Cleanup(stop)
	return c, stop
}

// waitFor waits until ok, asking again whenever the client has news.
func waitFor(t *testing.T, c *Client, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	for {
		following := c.News()
		_, joining := c.Netmap()
		if ok() {
			return
		}
		select {
		case <-following:
		case <-joining:
		case <-deadline:
			s, refused := c.Status()
			t.Fatalf("%s: not within %s; status %+v, refused %q", what, within, s, refused)
		}
	}
}

// admittedFake serves a node that is admitted, under a revision.
func admittedFake(t *testing.T) (*fake, *netmaptest.World, *netmaptest.Revision) {
	t.Helper()
	w := netmaptest.New(t, time.Now().Add(-time.Hour))
	n := w.Admit("alice-laptop", "alice@acme.example")
	r := w.Publish(policy("alice@acme.example"))
	f := newFake(t, w, n)
	f.admitted = true
	f.hold(r)
	return f, w, r
}

// expected is what the node must acknowledge, from the whole tree.
func expected(r *netmaptest.Revision, n *netmaptest.Node) key.Hash {
	return netmap.Expected(n.Admission, r.Manifest.Hash(), r.Tree, func(name string) (leaf.Principal, bool) {
		l, ok := r.Leaves[name]
		if !ok {
			return leaf.Principal{}, false
		}
		p, err := leaf.DecodePrincipal(l)
		return p, err == nil
	})
}

func wantAck(t *testing.T, f *fake, r *netmaptest.Revision) {
	t.Helper()
	a := next(t, "acknowledgement", f.acks)
	if a.Position != r.Manifest.Position || a.Manifest != r.Manifest.Hash() || a.Digest != expected(r, f.node) {
		t.Errorf("acknowledged: got %s %s %s, want %s %s %s", a.Position, a.Manifest.Short(), a.Digest.Short(),
			r.Manifest.Position, r.Manifest.Hash().Short(), expected(r, f.node).Short())
	}
}

func TestJoin(t *testing.T) {
	enrol := key.NewEnrol()
	secret := papers.EnrolSecret{Entry: "ledger-fleet", Tags: []string{"audit", "ledger"}, Key: enrol}
	for _, c := range []struct {
		name, who string
		secret    papers.EnrolSecret
		check     func(*testing.T, *papers.Proof)
	}{
		{"by pin", "alice@acme.example", papers.EnrolSecret{}, func(t *testing.T, p *papers.Proof) {
			if p.Kind != papers.ProofPin || len(p.Tags) != 0 {
				t.Errorf("proof: got %+v, want a pin", p)
			}
		}},
		{"by enrolment", "tag:audit tag:ledger", secret, func(t *testing.T, p *papers.Proof) {
			if p.Kind != papers.ProofEnrolment || p.Entry != "ledger-fleet" || strings.Join(p.Tags, " ") != "audit ledger" {
				t.Errorf("proof: got %+v, want an enrolment by ledger-fleet", p)
			}
			if !enrol.Public().Verify(papers.EnrolText(p.Network, p.Identity, p.Name, p.Tags), p.Signature) {
				t.Error("the proof's signature is not the enrolment key's")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := netmaptest.New(t, time.Now().Add(-time.Hour))
			n := w.Admit("ledger-1", c.who)
			r := w.Publish(policy("alice@acme.example"))
			f := newFake(t, w, n)
			f.hold(r)
			cfg := f.config(t.TempDir())
			cfg.Secret = c.secret
			client, _ := begin(t, cfg)
			j := next(t, "join request", f.joins)
			if j.Name != "ledger-1" {
				t.Errorf("name asked for: got %q, want ledger-1", j.Name)
			}
			proof, err := j.Unseal(w.Seal)
			if err != nil {
				t.Fatal(err)
			}
			c.check(t, proof)
			if n, _ := client.Netmap(); n.Self != nil || client.Admission() != nil {
				t.Errorf("before the admission: got %+v, want nobody", n.Self)
			}
			none(t, "record", f.records)
			none(t, "acknowledgement", f.acks)

			f.admit()
			if rec := next(t, "record", f.records); !rec.WG.Equal(n.WG.Public()) || rec.Relays != nil {
				t.Errorf("record: got %+v, want the node's key and no relays", rec)
			}
			wantAck(t, f, r)
			if got, _ := client.Netmap(); got.Self == nil || got.Self.Name != "ledger-1" {
				t.Errorf("after the admission: got %+v, want ledger-1", got.Self)
			}
			if string(client.Admission()) != string(n.Papers.Admission) {
				t.Error("the admission is not the one that was sent")
			}
			none(t, "second join request", f.joins)
		})
	}
}

func TestRefusedThenAdmitted(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Hour))
	f := newFake(t, w, w.Admit("alice-laptop", "alice@acme.example"))
	f.hold(w.Publish(policy()))
	f.answers(&wire.JoinResponse{State: wire.JoinResponse_STATE_REFUSED, Reason: "no pin names this key"})
	c, _ := begin(t, f.config(t.TempDir()))
	next(t, "join request", f.joins)
	refused := func(want string) func() bool {
		return func() bool { _, got := c.Status(); return got == want }
	}
	waitFor(t, c, "refused by the answer", refused("no pin names this key"))
	f.send(&wire.Update{Refused: "the pin names another user"})
	waitFor(t, c, "refused by the stream", refused("the pin names another user"))
	none(t, "join request before there is another revision", f.joins)

	// Another revision may admit it: it asks again at once.
	w.Advance(time.Minute)
	f.answers(&wire.JoinResponse{State: wire.JoinResponse_STATE_PENDING})
	r := w.Publish(policy("alice@acme.example"))
	f.publish(r)
	next(t, "join request under the next revision", f.joins)
	f.admit()
	wantAck(t, f, r)
	waitFor(t, c, "no longer refused", refused(""))
}

// A join request that could not be handed in is handed in again soon, not after
// the time that a refused node waits.
func TestJoinAgainOnANewStream(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Hour))
	f := newFake(t, w, w.Admit("alice-laptop", "alice@acme.example"))
	f.hold(w.Publish(policy()))
	c, _ := begin(t, f.config(t.TempDir()))
	next(t, "join request", f.joins)
	f.cutStreams()
	c.follower.Kick()
	next(t, "join request on the next stream", f.joins)
}

// adopter is a data plane that takes as long as the test wants.
type adopter struct {
	begun chan *netmap.Netmap
	free  chan struct{} // one for each that may return
}

func (a *adopter) adopt(n *netmap.Netmap) {
	a.begun <- n
	<-a.free
}

func TestAcknowledgedOnlyOnceAdopted(t *testing.T) {
	f, w, first := admittedFake(t)
	a := &adopter{begun: make(chan *netmap.Netmap, 100), free: make(chan struct{}, 100)}
	cfg := f.config(t.TempDir())
	cfg.Adopt = a.adopt
	c, stop := begin(t, cfg)
	defer stop()
	defer func() { close(a.free) }()
	a.free <- struct{}{} // the state on disk: nothing
	next(t, "netmap", a.begun)
	if n := next(t, "netmap", a.begun); n.Position != first.Manifest.Position {
		t.Fatalf("got %s, want %s", n.Position, first.Manifest.Position)
	}
	a.free <- struct{}{}
	next(t, "record", f.records)
	wantAck(t, f, first)

	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.publish(second)
	if n := next(t, "netmap", a.begun); n.Position != second.Manifest.Position {
		t.Fatalf("got %s, want %s", n.Position, second.Manifest.Position)
	}
	// The loop beside the stream goes round while the data plane is busy.
	c.SetRelays([]string{"eu-1"})
	next(t, "record", f.records)
	c.SetRelays([]string{"eu-2"})
	next(t, "record", f.records)
	none(t, "acknowledgement before the data plane is done", f.acks)
	if n, _ := c.Netmap(); n.Position != first.Manifest.Position {
		t.Errorf("in force: got %s, want %s until the data plane is done", n.Position, first.Manifest.Position)
	}
	a.free <- struct{}{}
	wantAck(t, f, second)
}

// Judging the state again must not put an older one in force over a newer.
func TestJudgeNeverPutsAnOlderStateInForce(t *testing.T) {
	f, w, first := admittedFake(t)
	clock := newClock(w.Now.Add(time.Hour))
	adopted := make(chan trust.Position, 100)
	cfg := f.config(t.TempDir())
	cfg.Now = clock.now
	cfg.Adopt = func(n *netmap.Netmap) { adopted <- n.Position }
	c, _ := begin(t, cfg)
	next(t, "record", f.records)
	wantAck(t, f, first)
	for len(adopted) > 0 {
		<-adopted
	}
	// Judge stops where it has read the state and asks for the time.
	stopped, free := make(chan struct{}), make(chan struct{})
	hook := func() {
		close(stopped)
		<-free
	}
	clock.hook.Store(&hook)
	var judging sync.WaitGroup
	judging.Go(c.Judge)
	next(t, "judging", stopped)
	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.publish(second)
	var order []trust.Position
	select { // what comes in between, if anything may
	case p := <-adopted:
		order = append(order, p)
	case <-time.After(100 * time.Millisecond):
	}
	close(free)
	judging.Wait()
	wantAck(t, f, second)
	for len(adopted) > 0 {
		order = append(order, <-adopted)
	}
	for i := range order[1:] {
		if order[i+1].Compare(order[i]) < 0 {
			t.Errorf("put in force: got %v, want never an older one after a newer", order)
		}
	}
	if n, _ := c.Netmap(); n.Position != second.Manifest.Position {
		t.Errorf("in force: got %s, want %s", n.Position, second.Manifest.Position)
	}
}

// A session ends with time alone.
func TestJudgeAtTheEndOfASession(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Hour))
	n := w.Admit("alice-laptop", "alice@acme.example")
	a := *n.Admission
	end := w.Now.Add(8 * time.Hour)
	a.User = &acl.User{Email: "alice@acme.example", Issuer: "https://login.acme.example", Subject: "1"}
	a.Expires = end
	w.SignAdmission(n, a)
	r := w.Publish(policy("alice@acme.example"))
	f := newFake(t, w, n)
	f.admitted = true
	f.hold(r)
	clock := newClock(end.Add(-time.Second))
	cfg := f.config(t.TempDir())
	cfg.Now = clock.now
	adopted := make(chan *netmap.Netmap, 100)
	cfg.Adopt = func(n *netmap.Netmap) { adopted <- n }
	c, _ := begin(t, cfg)
	wantAck(t, f, r)
	c.Judge()
	if n, _ := c.Netmap(); n.Self == nil || n.Out != "" {
		t.Errorf("a second before the end: got %+v, out %q, want alice", n.Self, n.Out)
	}
	for len(adopted) > 0 {
		<-adopted
	}
	clock.set(end)
	c.Judge()
	got := next(t, "netmap", adopted)
	if got.Self != nil || !strings.HasPrefix(got.Out, "session ended") || len(got.Inbound) != 0 || len(got.Peers) != 0 {
		t.Errorf("at the end: got %+v, out %q, want nobody whose session ended", got.Self, got.Out)
	}
	if n, _ := c.Netmap(); n != got {
		t.Error("the netmap in force is not the one adopted")
	}
}

func TestCoordinatorGoneAndBack(t *testing.T) {
	f, w, first := admittedFake(t)
	c, _ := begin(t, f.config(t.TempDir()))
	wantAck(t, f, first)
	f.stop()
	waitFor(t, c, "the loss is told", func() bool { s, _ := c.Status(); return s.Coordinator == "" && s.Error != "" && !s.CaughtUp })
	if n, _ := c.Netmap(); n.Digest != expected(first, f.node) || n.Self == nil {
		t.Errorf("without a coordinator: got digest %s, want %s still", n.Digest.Short(), expected(first, f.node).Short())
	}
	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.hold(second)
	f.start()
	c.follower.Kick()
	wantAck(t, f, second)
	waitFor(t, c, "caught up", func() bool { s, _ := c.Status(); return s.Coordinator == f.addr && s.CaughtUp && s.Error == "" })
}

// The next coordinator is followed where the first does not answer.
func TestNextCoordinator(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Hour))
	n := w.Admit("alice-laptop", "alice@acme.example")
	f, other := newFake(t, w, n), newFake(t, w, n)
	p := policy("alice@acme.example")
	r := w.Publish(p)
	f.admitted, other.admitted = true, true
	f.hold(r)
	other.hold(r)
	cfg := f.config(t.TempDir())
	cfg.Coordinators = append([]leaf.Coordinator{other.coordinator()}, cfg.Coordinators...)
	other.stop() // the first of the two does not answer
	c, _ := begin(t, cfg)
	wantAck(t, f, r)
	if s, _ := c.Status(); s.Coordinator != f.addr {
		t.Errorf("coordinator: got %q, want %q", s.Coordinator, f.addr)
	}
}

// A restarted node enforces what it did, before it has spoken to anybody.
func TestRestartFromDisk(t *testing.T) {
	f, w, r := admittedFake(t)
	peer := w.Admit("ledger", "tag:ledger")
	f.peers = append(f.peers, peer)
	cfg := f.config(t.TempDir())
	_, stop := begin(t, cfg)
	wantAck(t, f, r)
	stop()
	f.stop()
	for len(f.follows) > 0 {
		<-f.follows
	}
	adopted := make(chan *netmap.Netmap, 100)
	cfg.Adopt = func(n *netmap.Netmap) { adopted <- n }
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, n *netmap.Netmap) {
		t.Helper()
		if n.Digest != expected(r, f.node) || n.Self == nil || len(n.Peers) != 1 || n.Peers[0].Subject.Name != "ledger" {
			t.Errorf("%s: got %+v, want the revision, the node and its peer as before", when, n)
		}
	}
	n, _ := c.Netmap()
	check("opened", n)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	check("put in force", next(t, "netmap", adopted))
	cancel()
	<-done
	none(t, "stream", f.follows)
	if string(c.Admission()) != string(f.node.Papers.Admission) {
		t.Error("the admission is not the one before")
	}
}

func TestDamagedState(t *testing.T) {
	f, w, first := admittedFake(t)
	cfg := f.config(t.TempDir())
	_, stop := begin(t, cfg)
	wantAck(t, f, first)
	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.publish(second)
	wantAck(t, f, second)
	stop()

	file := filepath.Join(cfg.Dir, "netmap.state")
	flip(t, file)
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := c.Status(); !strings.Contains(s.Damaged, file) {
		t.Errorf("damaged: got %q, want the file %s named", s.Damaged, file)
	}
	if n, _ := c.Netmap(); n.Position != first.Manifest.Position || n.Self == nil {
		t.Errorf("from the copy: got %s, want %s", n.Position, first.Manifest.Position)
	}
	flip(t, file+".prev")
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("both damaged: got %v, want an error that names %s", err, file)
	}
	if err := os.Remove(file + ".prev"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("truncated: got %v, want an error that names %s", err, file)
	}
}

// What cannot be kept is not obeyed, and is obeyed once it can be.
func TestUnwrittenStateIsNotObeyed(t *testing.T) {
	f, w, first := admittedFake(t)
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, _ := begin(t, f.config(dir))
	next(t, "record", f.records)
	wantAck(t, f, first)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.publish(second)
	waitFor(t, c, "the disk is told", func() bool { s, _ := c.Status(); return strings.Contains(s.Unwritten, "netmap.state") })
	if n, _ := c.Netmap(); n.Position != first.Manifest.Position {
		t.Errorf("in force: got %s, want %s", n.Position, first.Manifest.Position)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	for len(f.acks) > 0 { // of the first, on streams that ended
		<-f.acks
	}
	waitFor(t, c, "the revision is in force", func() bool {
		c.follower.Kick()
		n, _ := c.Netmap()
		s, _ := c.Status()
		return n.Position == second.Manifest.Position && s.Unwritten == ""
	})
}

// A coordinator that serves what is old, or not whole, changes nothing and is
// told of.
func TestHostileCoordinator(t *testing.T) {
	f, w, first := admittedFake(t)
	c, _ := begin(t, f.config(t.TempDir()))
	wantAck(t, f, first)
	w.Advance(time.Minute)
	second := w.Publish(policy())
	f.publish(second)
	wantAck(t, f, second)
	for len(f.follows) > 0 {
		<-f.follows
	}
	f.send(wire.FromUpdate(w.Everything(f.node, first)))
	waitFor(t, c, "an old revision is told of", func() bool { s, _ := c.Status(); return s.Refusals[netmap.Rollback] == 1 })
	none(t, "stream", f.follows) // it is no reason to ask again

	// A revision without one of its leaves is asked for whole, once.
	w.Advance(time.Minute)
	third := w.Publish(policy("alice@acme.example"))
	u := w.Everything(f.node, third)
	u.Leaves = u.Leaves[:1]
	f.send(wire.FromUpdate(u))
	if req := next(t, "stream", f.follows); !req.GetEverything() {
		t.Errorf("after a revision that is not whole: got %+v, want everything asked for", req)
	}
	if n, _ := c.Netmap(); n.Position != second.Manifest.Position {
		t.Errorf("in force: got %s, want %s", n.Position, second.Manifest.Position)
	}
	wantAck(t, f, second) // on the new stream, where nothing is newer
	f.publish(third)
	wantAck(t, f, third)
	s, _ := c.Status()
	if s.Refusals[netmap.Rollback] < 1 || s.Refusals[netmap.Incomplete] < 1 || len(s.Recent) < 2 || s.Recent[0].Document != "manifest" {
		t.Errorf("status: got %v and %+v, want both refusals", s.Refusals, s.Recent)
	}
}

// A coordinator that only the policy names is found when that of the join string
// is gone, also after a restart.
func TestCoordinatorOfThePolicy(t *testing.T) {
	f, w, first := admittedFake(t)
	other := newFake(t, w, f.node)
	other.admitted = true
	w.Advance(time.Minute)
	second := renamed(t, w, first, other.coordinator())
	other.hold(second)
	cfg := f.config(t.TempDir())
	c, stop := begin(t, cfg)
	wantAck(t, f, first)
	f.publish(second)
	wantAck(t, f, second)
	f.stop()
	c.follower.Kick()
	wantAck(t, other, second)
	stop()
	begin(t, cfg)
	wantAck(t, other, second)
}

// renamed signs a revision that differs from the one before in the coordinators
// that it names.
func renamed(t *testing.T, w *netmaptest.World, before *netmaptest.Revision, coordinators ...leaf.Coordinator) *netmaptest.Revision {
	t.Helper()
	var network leaf.Network
	err := leaf.Decode(before.Leaves[leaf.NameNetwork], &network)
	if err != nil {
		t.Fatal(err)
	}
	network.Coordinators = coordinators
	r := &netmaptest.Revision{Leaves: maps.Clone(before.Leaves)}
	if r.Leaves[leaf.NameNetwork], err = leaf.Encode(leaf.NameNetwork, network); err != nil {
		t.Fatal(err)
	}
	if r.Tree, err = leaf.TreeOf(slices.Collect(maps.Values(r.Leaves))); err != nil {
		t.Fatal(err)
	}
	list := leaf.ChangeList{Network: w.Network, Base: before.Manifest.Hash(), Changes: leaf.Diff(before.Tree, r.Tree)}
	r.Doc.Changes = list.Encode()
	m := *before.Manifest
	m.Prev, m.Base, m.Issued = before.Manifest.Hash(), before.Manifest.Commit, w.Now
	m.Seq, m.Tree, m.Leaves = w.Now.Unix(), r.Tree.Root(), r.Tree.Size()
	m.NetworkLeaf, m.Changes = r.Leaves[leaf.NameNetwork].Hash(), key.HashOf(r.Doc.Changes)
	r.Manifest, r.Doc.Manifest = w.SignManifest(m)
	w.Revisions = append(w.Revisions, r)
	return r
}
