package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/sync/publish"
)

var noon = time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)

// A mesh is a Reporter, and a world whose nodes acknowledge what their own
// verifiers say that they enforce.
type mesh struct {
	*Reporter
	t *testing.T
	w *netmaptest.World
}

func newMesh(t *testing.T) *mesh {
	w := netmaptest.New(t, noon)
	return &mesh{New(w.Network), t, w}
}

func (m *mesh) publish(members ...string) *netmaptest.Revision {
	m.t.Helper()
	return m.w.Publish(netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "web", From: "group:accounting", To: "tag:db", Allow: "tcp/443"}},
	})
}

// revision is what sync decided.
func revision(r *netmaptest.Revision) *publish.Revision {
	p := &publish.Revision{Manifest: r.Manifest, Tree: r.Tree}
	for _, l := range r.Leaves {
		p.Leaves = append(p.Leaves, l)
	}
	slices.SortFunc(p.Leaves, func(a, b leaf.Leaf) int { return strings.Compare(a.Name, b.Name) })
	return p
}

func (m *mesh) target(r *netmaptest.Revision, nodes ...*netmaptest.Node) {
	m.t.Helper()
	var live []*papers.Admission
	for _, n := range nodes {
		live = append(live, n.Admission)
	}
	m.Target(revision(r), live, r.Manifest.Issued)
}

// ack is a node's acknowledgement after its verifier adopted the revision.
func (m *mesh) ack(n *netmaptest.Node, r *netmaptest.Revision) []byte {
	m.t.Helper()
	o := netmap.New(m.w.Network, n.ID).Accept(m.w.Everything(n, r), m.w.Now)
	if !o.Adopted {
		m.t.Fatalf("%s does not adopt: %v", n.Admission.Name, o.Refused)
	}
	nm := o.State.Netmap(m.w.Now)
	return m.sign(n.Key, papers.Ack{Network: m.w.Network, Position: nm.Position, Manifest: nm.Manifest, Digest: nm.Digest, Issued: m.w.Now})
}

func (m *mesh) sign(k key.IdentityPrivate, a papers.Ack) []byte {
	m.t.Helper()
	b, err := papers.SignAck(a, k)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// hears hands in what a coordinator says of a node that follows it.
func (m *mesh) hears(n *netmaptest.Node, note []byte, after time.Duration) {
	m.t.Helper()
	if err := m.Ack(n.ID, note, true, time.Time{}, noon.Add(after)); err != nil {
		m.t.Error(err)
	}
}

func (m *mesh) says(want string) Convergence {
	m.t.Helper()
	c, _ := m.Convergence()
	if got := c.String(); got != want {
		m.t.Errorf("got  %s\nwant %s", got, want)
	}
	return c
}

func TestConvergence(t *testing.T) {
	m := newMesh(t)
	m.says("no revision yet")
	alice, bob := m.w.Admit("alice", "alice@acme.example"), m.w.Admit("bob", "bob@acme.example")
	db1, db2 := m.w.Admit("db1", "tag:db"), m.w.Admit("db2", "tag:db")
	r := m.publish("alice@acme.example")
	short := r.Manifest.Commit.Short()
	m.target(r, alice, bob, db1, db2)
	m.says("revision " + short + ": enforced on 0 of 4 nodes; missing: alice (not seen), bob (not seen), db1 (not seen), db2 (not seen)")
	m.hears(alice, nil, 0)
	m.says("revision " + short + ": enforced on 0 of 4 nodes; missing: alice (has acknowledged nothing), bob (not seen), db1 (not seen), db2 (not seen)")
	m.hears(alice, m.ack(alice, r), time.Second)
	m.hears(bob, m.ack(bob, r), 2*time.Second)
	m.hears(db1, m.ack(db1, r), 3*time.Second)
	since := time.Date(2026, 11, 22, 14, 4, 59, 0, time.FixedZone("CET", 3600))
	if err := m.Ack(db2.ID, nil, false, since, noon); err != nil {
		t.Fatal(err)
	}
	if c := m.says("revision " + short + ": enforced on 3 of 4 nodes; missing: db2 (offline since 2026-11-22 13:04 UTC)"); c.Took != 0 {
		t.Errorf("took %s while one is missing", c.Took)
	}
	m.hears(db2, m.ack(db2, r), 70*time.Second)
	c := m.says("revision " + short + ": enforced on 4 of 4 nodes")
	if c.Took != 70*time.Second || c.Enforced != 4 || c.Of != 4 || c.Commit != r.Manifest.Commit || c.Position != r.Manifest.Position || !c.Decided.Equal(noon) {
		t.Errorf("got %+v", c)
	}

	// A node that leaves still enforces; one that calls again and says the same
	// does not make it take longer; nor does one that joins later.
	if err := m.Ack(db2.ID, nil, false, noon.Add(time.Hour), noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	m.w.Advance(time.Minute)
	m.hears(db1, m.ack(db1, r), time.Hour)
	late := m.w.Admit("late", "bob@acme.example")
	m.target(r, alice, bob, db1, db2, late)
	if c := m.says("revision " + short + ": enforced on 4 of 5 nodes; missing: late (not seen)"); c.Took != 0 {
		t.Errorf("took %s while one is missing", c.Took)
	}
	m.hears(late, m.ack(late, r), 2*time.Hour)
	if c := m.says("revision " + short + ": enforced on 5 of 5 nodes"); c.Took != 70*time.Second {
		t.Errorf("took %s, want 1m10s", c.Took)
	}

	// The next revision: everybody enforces the one before.
	next := m.publish("bob@acme.example")
	m.target(next, alice, bob, db1)
	pos := r.Manifest.Position.String()
	m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 0 of 3 nodes; missing: alice (enforces " + pos + "), bob (enforces " + pos + "), db1 (enforces " + pos + ")")
	for i, n := range []*netmaptest.Node{alice, bob, db1} {
		m.hears(n, m.ack(n, next), time.Duration(i+1)*time.Minute+time.Second)
	}
	if c := m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 3 of 3 nodes"); c.Took != 3*time.Minute+time.Second-time.Minute {
		t.Errorf("took %s, want 2m1s", c.Took)
	}
}

func TestAcksThatDoNotCount(t *testing.T) {
	m := newMesh(t)
	db1, db2 := m.w.Admit("db1", "tag:db"), m.w.Admit("db2", "tag:db")
	r1 := m.publish("alice@acme.example")
	m.w.Advance(time.Minute)
	r2 := m.publish("alice@acme.example", "bob@acme.example")
	m.target(r2, db1)
	head := "revision " + r2.Manifest.Commit.Short() + ": enforced on "
	good := papers.Ack{Network: m.w.Network, Position: r2.Manifest.Position, Manifest: r2.Manifest.Hash(), Issued: m.w.Now}
	if a, err := papers.OpenAck(m.ack(db1, r2), m.w.Network, db1.Key.Public()); err != nil {
		t.Fatal(err)
	} else {
		good.Digest = a.Digest
	}
	with := func(change func(*papers.Ack)) []byte {
		a := good
		change(&a)
		return m.sign(db1.Key, a)
	}
	flipped := m.sign(db1.Key, good)
	flipped[len(flipped)-5] ^= 1
	m.hears(db1, nil, 0)

	// What does not verify is an error, and changes nothing, presence included.
	for name, c := range map[string]struct {
		note []byte
		want string
	}{
		"another node's":     {m.ack(db2, r2), "db1: acknowledgement: not by "},
		"of another network": {with(func(a *papers.Ack) { a.Network = key.NetworkID{3} }), "db1: acknowledgement: of network "},
		"flipped":            {flipped, "db1: acknowledgement: "},
		"not a note":         {[]byte("enforced"), "db1: acknowledgement: note: malformed note"},
		"too large":          {make([]byte, papers.MaxAck+1), "2049 bytes, at most 2048"},
	} {
		if err := m.Ack(db1.ID, c.note, false, noon, noon); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		m.says(head + "0 of 1 nodes; missing: db1 (has acknowledged nothing)")
	}

	// What verifies and is of something else does not count.
	m.hears(db1, m.ack(db1, r1), 0)
	m.says(head + "0 of 1 nodes; missing: db1 (enforces " + r1.Manifest.Position.String() + ")")
	m.hears(db1, with(func(a *papers.Ack) { a.Manifest = key.HashOf([]byte("a second of this seq")) }), 0)
	m.says(head + "0 of 1 nodes; missing: db1 (enforces " + r2.Manifest.Position.String() + ")")
	m.hears(db1, with(func(a *papers.Ack) { a.Digest = key.HashOf([]byte("less")) }), 0)
	m.says(head + "0 of 1 nodes; missing: db1 (enforces something else than this revision)")
	m.hears(db1, with(func(*papers.Ack) {}), time.Hour)
	m.says(head + "1 of 1 nodes")
	// An older one that comes again takes nothing back, a newer wrong one does.
	m.hears(db1, m.ack(db1, r1), 0)
	m.says(head + "1 of 1 nodes")
	m.hears(db1, with(func(a *papers.Ack) { a.Position.Seq++ }), 0)
	m.says(head + "1 of 1 nodes")
	m.hears(db1, with(func(a *papers.Ack) { a.Position.Seq++; a.Digest = key.Hash{9} }), 0)
	m.says(head + "0 of 1 nodes; missing: db1 (enforces something else than this revision)")
}

// The revisions' ended lists decide who counts, not the coordinator.
func TestNodesThatAreNobody(t *testing.T) {
	m := newMesh(t)
	db1, ghost := m.w.Admit("db1", "tag:db"), m.w.Admit("ghost", "tag:db")
	r := m.publish("alice@acme.example")
	m.target(r, db1)
	head := "revision " + r.Manifest.Commit.Short() + ": enforced on "
	m.hears(ghost, m.ack(ghost, r), 0)
	m.hears(db1, m.ack(db1, r), 0)
	m.says(head + "1 of 1 nodes")
	m.w.Advance(time.Second)
	next := m.publish("bob@acme.example")
	m.target(next, db1)
	m.hears(db1, m.ack(db1, next), time.Minute)
	m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 1 of 1 nodes")

	// The revision before, and fewer nodes of this one, are old news.
	m.target(r, db1, ghost)
	m.target(next)
	m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 1 of 1 nodes")
}

// A node's acknowledgement may come before Target names the node, or the revision.
func TestEarlyAcks(t *testing.T) {
	m := newMesh(t)
	db1, db2 := m.w.Admit("db1", "tag:db"), m.w.Admit("db2", "tag:db")
	r := m.publish("alice@acme.example")
	m.target(r, db1)
	m.hears(db1, m.ack(db1, r), time.Second)
	note := m.ack(db2, r)
	m.hears(db2, note, 2*time.Second)
	clear(note) // the caller's buffer is its own
	m.target(r, db1, db2)
	if c := m.says("revision " + r.Manifest.Commit.Short() + ": enforced on 2 of 2 nodes"); c.Took != 2*time.Second {
		t.Errorf("took %s, want 2s", c.Took)
	}
	m.w.Advance(time.Minute)
	next := m.publish("bob@acme.example")
	m.hears(db1, m.ack(db1, next), time.Minute+time.Second)
	m.hears(db2, m.ack(db2, next), time.Minute+3*time.Second)
	m.target(next, db1, db2)
	if c := m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 2 of 2 nodes"); c.Took != 3*time.Second {
		t.Errorf("took %s, want 3s", c.Took)
	}

	// A coordinator that invents nodes fills no memory, and one that is wrong about
	// a node that comes later does no harm.
	third := m.w.Admit("db3", "tag:db")
	m.hears(third, m.ack(db1, next), time.Minute)
	for i := range 3 * maxEarly {
		id := key.NodeID{1, byte(i >> 8), byte(i)}
		if err := m.Ack(id, []byte("x"), true, time.Time{}, noon.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.early); n != maxEarly {
		t.Errorf("news of %d unknown nodes, want %d", n, maxEarly)
	}
	m.hears(third, m.ack(db1, next), time.Hour)
	m.target(next, db1, db2, third)
	m.says("revision " + next.Manifest.Commit.Short() + ": enforced on 2 of 3 nodes; missing: db3 (not seen)")
}

func TestManyMissingNodesInOneLine(t *testing.T) {
	c := Convergence{Commit: trust.Commit(strings.Repeat("ab", 20)), Enforced: 9998, Of: 10000}
	for i := range 13 {
		c.Missing = append(c.Missing, Missing{fmt.Sprintf("n%02d", i), "not seen"})
		got := c.String()
		named := min(i+1, maxNamed)
		want := "revision abababa: enforced on 9998 of 10000 nodes; missing: n00 (not seen)"
		for j := 1; j < named; j++ {
			want += fmt.Sprintf(", n%02d (not seen)", j)
		}
		if i >= maxNamed {
			want += fmt.Sprintf(", and %d more", i+1-maxNamed)
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// Who waits for a change is told of each.
func TestConvergenceTells(t *testing.T) {
	m := newMesh(t)
	db := m.w.Admit("db1", "tag:db")
	r := m.publish("alice@acme.example")
	told := func(what string, want bool, do func()) {
		t.Helper()
		_, changed := m.Convergence()
		do()
		select {
		case <-changed:
			if !want {
				t.Errorf("%s: told, and nothing changed", what)
			}
		default:
			if want {
				t.Errorf("%s: not told", what)
			}
		}
	}
	told("a revision", true, func() { m.target(r, db) })
	told("an acknowledgement", true, func() { m.hears(db, m.ack(db, r), 0) })
	told("one that does not verify", false, func() { m.Ack(db.ID, []byte("x"), true, time.Time{}, noon) })
	told("one of nobody", false, func() { m.Ack(key.NodeID{1}, nil, true, time.Time{}, noon) })
	told("an older revision", false, func() {
		old := *r.Manifest
		old.Seq--
		m.Target(&publish.Revision{Manifest: &old, Tree: r.Tree}, nil, noon)
	})
}
