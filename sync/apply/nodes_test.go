package apply

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/reach"
)

// nodesFile is the policy's file with pins, an enrolment entry and revocations.
func nodesFile(pins map[string]*node, fleet papers.EnrolSecret, revoked ...*node) map[string]string {
	text := "package network\n"
	for who, n := range pins {
		text += fmt.Sprintf("nodes: %q: {key: %q, %s}\n", n.name, n.id.Public(), who)
	}
	if fleet.Entry != "" {
		text += fmt.Sprintf("enrolment: %q: {key: %q, tags: [\"tag:accounting\"], names: [\"db-*\"]}\n", fleet.Entry, fleet.Key.Public())
	}
	for _, n := range revoked {
		text += fmt.Sprintf("revoked: %q: why: \"stolen\"\n", n.id.Public().NodeID())
	}
	return map[string]string{"nodes.cue": text}
}

// enforced waits until that many nodes enforce the commit, and no other is in.
func (r *running) enforced(commit string, n int) Status {
	r.t.Helper()
	r.Wake()
	return r.wait(fmt.Sprintf("%d nodes enforce %s", n, commit), func(s *Status) bool {
		return s.Applied == commit && s.Convergence.Enforced == n && s.Convergence.Of == n && s.OK()
	})
}

// Nodes are admitted by pin and by enrolment, enforce what is merged, and are out
// once what they rest on is gone from Git. Who joins before there is a revision
// waits for it.
func TestNodesComeAndGo(t *testing.T) {
	b := newBench(t)
	fleet := papers.EnrolSecret{Entry: "fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()}
	alice, bob := b.node("alice", papers.EnrolSecret{}), b.node("bob", papers.EnrolSecret{})
	db, mallory := b.node("db-1", fleet), b.node("mallory", papers.EnrolSecret{})
	r := b.run()
	for _, n := range []*node{alice, bob, db} {
		b.up(n)
	}
	pins := map[string]*node{`user: "alice@acme.example"`: alice, `user: "bob@acme.example"`: bob}
	first := b.commit(nodesFile(pins, fleet))
	s := r.enforced(first, 3)
	if got, want := s.Convergence.String(), "revision "+first[:7]+": enforced on 3 of 3 nodes"; got != want {
		t.Errorf("convergence %q, want %q", got, want)
	}
	ad, _ := db.admitted()
	if ad.Name != "db-1" || !slices.Equal(ad.Tags, []string{"accounting"}) || ad.User != nil || ad.Basis.Kind != "enrolment" {
		t.Errorf("admission %+v, want db-1 with tag accounting by enrolment", ad)
	}
	if s.Nodes != 3 || s.Log != 3 || newest(t, b.coord).GetLog() != 3 {
		t.Errorf("%d nodes, %d admissions, %d at the coordinator; want 3 each", s.Nodes, s.Log, newest(t, b.coord).GetLog())
	}

	b.up(mallory)
	mallory.wait("is refused", func(_ *netmap.State, refused string) bool {
		return strings.Contains(refused, `the policy has no node "mallory"`)
	})

	// The difference counts the nodes that are in, and only they.
	more := nodesFile(pins, fleet)
	more["rules.cue"] = "package network\n\nrules: web: {\n\tfrom: [\"group:accounting\"]\n\tto: [\"tag:accounting\"]\n\tallow: [\"tcp/443\", \"icmp\"]\n}\n"
	s = r.enforced(b.commit(more), 3)
	if d := s.Last.Difference; len(d.Gained) != 1 || !slices.Equal(d.Gained[0].Nodes, []string{"db-1"}) || len(d.Lost) != 0 {
		t.Errorf("difference gained %+v, lost %+v; want access to db-1 gained", d.Gained, d.Lost)
	}

	for _, step := range []struct {
		name, why string
		out       *node
		files     map[string]string
		left      int
	}{
		{"pin removed", "pin", bob, nodesFile(map[string]*node{`user: "alice@acme.example"`: alice}, fleet), 2},
		{"revoked", "revoked", alice, nodesFile(map[string]*node{`user: "alice@acme.example"`: alice}, fleet, alice), 1},
		{"enrolment entry removed", "enrolment", db, nodesFile(nil, papers.EnrolSecret{}, alice), 0},
	} {
		commit := b.commit(step.files)
		s := r.enforced(commit, step.left)
		step.out.wait("is out: "+step.name, func(s *netmap.State, _ string) bool { return step.out.isOut() != "" })
		ended, err := trust.OpenEnded(newest(t, b.coord).GetEnded(), b.world.Root)
		if err != nil {
			t.Fatal(err)
		}
		id := step.out.id.Public().NodeID()
		if ended.Nodes[id] != step.why {
			t.Errorf("%s: the coordinator's ended list says %q of %s, want %q", step.name, ended.Nodes[id], step.out.name, step.why)
		}
		if s.Nodes != step.left {
			t.Errorf("%s: %d nodes are in, want %d", step.name, s.Nodes, step.left)
		}
		if m, _ := b.manifest(b.coord); m.Ended != ended.Hash() || string(m.Commit) != commit {
			t.Errorf("%s: the manifest names commit %s and ended list %s, want %s and %s", step.name, m.Commit, m.Ended, commit, ended.Hash())
		}
	}
	// Who is out stays out, though the policy has the pin again.
	again := b.node("bob", papers.EnrolSecret{})
	again.id = bob.id
	r.enforced(b.commit(nodesFile(map[string]*node{`user: "bob@acme.example"`: bob}, papers.EnrolSecret{})), 0)
	if s, _ := r.Status(); s.Log != 3 {
		t.Errorf("%d admissions, want 3: nobody is admitted a second time", s.Log)
	}
}

// The manifest names the head of the log that was counted. A commit that was
// judged before a node joined is judged again.
func TestJudgedWithTheNodesOfTheDecision(t *testing.T) {
	b := newBench(t)
	fleet := papers.EnrolSecret{Entry: "fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()}
	first := b.commit(nodesFile(nil, fleet))
	r := b.run()
	r.enforced(first, 0)
	r.stop()
	a, err := New(b.config())
	if err != nil {
		t.Fatal(err)
	}
	second := b.commit(map[string]string{"nodes.cue": nodesFile(nil, fleet)["nodes.cue"], "rules.cue": "package network\n\nrules: web: {\n\tfrom: [\"group:accounting\"]\n\tto: [\"tag:accounting\"]\n\tallow: [\"tcp/443\", \"icmp\"]\n}\n"})
	if _, err := a.watcher.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	cur := a.publisher.Current()
	early, err := a.judge(t.Context(), second, cur)
	if err != nil {
		t.Fatal(err)
	}
	db := b.node("db-1", fleet)
	join, err := papers.NewJoin(b.world.Network, db.id, db.name, time.Now(), db.seal, fleet.Proof(b.world.Network, db.id.Public(), db.name))
	if err != nil {
		t.Fatal(err)
	}
	ad, _, err := a.admitter.Decide(db.id.Public(), join, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.decide(early, time.Now(), true); !errors.Is(err, errJoined) {
		t.Errorf("decide what was judged before a node joined: got %v, want %v", err, errJoined)
	}
	if now := a.publisher.Current(); now != cur {
		t.Fatalf("revision %s was decided", now.Manifest.Position)
	}
	r = start(t, a)
	s := r.applies(second)
	if d := s.Last.Difference; len(d.Gained) != 1 || !slices.Equal(d.Gained[0].Nodes, []string{"db-1"}) {
		t.Errorf("gained %+v, want access to db-1", d.Gained)
	}
	if m, _ := b.manifest(b.coord); m.Inventory != ad.Hash() {
		t.Errorf("the manifest names inventory %s, want %s, the admission of db-1", m.Inventory, ad.Hash())
	}
}

// The status socket gives what Status gives, waits for news, and hands out the
// inventory of the nodes that are in.
func TestStatusSocket(t *testing.T) {
	b := newBench(t)
	alice := b.node("alice", papers.EnrolSecret{})
	first := b.commit(nodesFile(map[string]*node{`user: "alice@acme.example"`: alice}, papers.EnrolSecret{}))
	r := b.run()
	b.up(alice)
	r.enforced(first, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", r.serveStatus)
	bad := httptest.NewRecorder()
	mux.ServeHTTP(bad, httptest.NewRequest("GET", "/v1/status?after=x", nil))
	if bad.Code != http.StatusBadRequest {
		t.Errorf("after=x: got %d, want %d", bad.Code, http.StatusBadRequest)
	}

	done := make(chan error, 1)
	ctx, cancel := contextOf(t)
	c := DialStatus(b.dir)
	if _, err := c.Status(ctx, -1); err == nil || !strings.Contains(err.Error(), "no sync answers at "+b.dir) {
		t.Errorf("before it is served: got %v, want that no sync answers", err)
	}
	go func() { done <- r.ServeStatus(ctx) }()
	socketUp(t, c)
	s, err := c.Status(ctx, -1)
	if err != nil || s.Applied != first || s.Convergence.Enforced != 1 || !s.OK() {
		t.Errorf("status: got %+v, %v; want commit %s enforced on 1 node", s, err, first)
	}
	second := b.commit(nodesFile(map[string]*node{`user: "alice@acme.example"`: alice}, papers.EnrolSecret{}))
	r.Wake()
	for s.Applied != second || !s.OK() {
		was := s.Version
		if s, err = c.Status(ctx, s.Version); err != nil {
			t.Fatal(err)
		}
		if s.Version <= was {
			t.Fatalf("asked for news after version %d, got version %d", was, s.Version)
		}
	}
	inv, err := c.Inventory(ctx)
	want := reach.Inventory{Nodes: []reach.Admitted{{
		Name: "alice", ID: alice.id.Public().NodeID(), User: "alice@acme.example",
		Basis: "pin alice", Address4: netip.MustParseAddr("100.64.0.1"),
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), papers.Address6(b.world.Network, alice.id.Public())},
	}}}
	if err != nil || len(inv.Nodes) != 1 || fmt.Sprint(inv) != fmt.Sprint(want) {
		t.Errorf("inventory: got %+v, %v; want %+v", inv, err, want)
	}
	// A caller that waits is answered when the server ends, and nobody is left.
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Status(t.Context(), 1<<40)
		waiting <- err
	}()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	<-waiting
}

// Each coordinator gets everything: one that is away meanwhile, gets the newest
// revision and all admissions when it is back.
func TestTwoCoordinators(t *testing.T) {
	b := newBench(t)
	other := b.second()
	fleet := papers.EnrolSecret{Entry: "fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()}
	one, two := b.node("db-1", fleet), b.node("db-2", fleet)
	r := b.run(b.coord.Coordinator(), other.Coordinator())
	r.applies(b.commit(nodesFile(nil, fleet)))
	b.up(one)
	one.admitted()
	b.up(two, other.Coordinator())
	two.admitted()
	both := func(want []byte, log int64) {
		t.Helper()
		r.wait("both coordinators have everything", func(s *Status) bool {
			for _, c := range s.Coordinator {
				if c.Seq != s.Seq || c.Error != "" {
					return false
				}
			}
			return true
		})
		for _, c := range []string{"first", "other"} {
			at := b.coord
			if c == "other" {
				at = other
			}
			n := newest(t, at)
			if !bytes.Equal(n.GetManifest(), want) || n.GetLog() != log {
				t.Errorf("the %s coordinator has %d admissions and\n%s\nwant %d and\n%s", c, n.GetLog(), n.GetManifest(), log, want)
			}
		}
	}
	other.Stop()
	var last string
	for range 3 {
		last = b.commit(nodesFile(nil, fleet))
		r.Wake()
		r.wait(last+" is applied", func(s *Status) bool { return s.Applied == last && s.Coordinator[0].Seq == s.Seq })
	}
	s := r.wait("the other is missed", func(s *Status) bool { return s.Coordinator[1].Error != "" })
	if s.OK() {
		t.Error("status says OK while a coordinator is away")
	}
	three := b.node("db-3", fleet)
	b.up(three)
	three.admitted()
	_, note := b.manifest(b.coord)
	other.Restart()
	both(note, 3)
	// Losing everything makes no difference.
	other.Lose()
	other.Restart()
	head := b.commit(nodesFile(nil, fleet))
	r.applies(head)
	_, note = b.manifest(b.coord)
	both(note, 3)
	if ad, _ := two.admitted(); ad.Log != 2 {
		t.Errorf("db-2 has admission %d, want 2", ad.Log)
	}
	r.enforced(head, 3)
}
