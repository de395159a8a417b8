package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// fill is a state with one revision and the world's nodes.
func fill(tb testing.TB, w *netmaptest.World, r *netmaptest.Revision) *state.State {
	tb.Helper()
	s, err := state.New()
	if err != nil {
		tb.Fatal(err)
	}
	put(tb, s, r)
	for _, n := range w.Nodes {
		admit(tb, s, n)
	}
	return s
}

func put(tb testing.TB, s *state.State, r *netmaptest.Revision) {
	tb.Helper()
	p := state.Publication{Revision: state.NewRevision(r.Manifest, r.Doc.Manifest, nil, nil, r.Tree)}
	for _, l := range s.Snapshot().Leaves() {
		if _, ok := r.Leaves[l.Leaf.Name]; !ok {
			p.Remove = append(p.Remove, l.Name)
		}
	}
	for _, l := range r.Leaves {
		p.Put = append(p.Put, state.NewLeaf(l))
	}
	if err := s.Publish(p); err != nil {
		tb.Fatal(err)
	}
}

func admit(tb testing.TB, s *state.State, n *netmaptest.Node) {
	tb.Helper()
	if err := s.Admit(n.Admission, n.Papers.Admission); err != nil {
		tb.Fatal(err)
	}
	if err := s.SetRecord(n.ID, n.Record, n.Papers.Record); err != nil {
		tb.Fatal(err)
	}
}

func policy(accounting ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": accounting},
		Rules: []netmaptest.Rule{
			{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"},
			{Name: "ci", From: "tag:ci", To: "tag:ci", Allow: "tcp/22"},
		},
	}
}

// A change wakes those whom it touches and nobody else.
func TestWakesWhomItTouches(t *testing.T) {
	w := netmaptest.New(t, start)
	r := w.Publish(policy("alice@acme.example"))
	alice, ledger := w.Admit("alice", "alice@acme.example"), w.Admit("ledger-1", "tag:accounting")
	ci := w.Admit("ci-1", "tag:ci")
	w.Admit("ci-2", "tag:ci")
	s := fill(t, w, r)
	watch := func(n *netmaptest.Node) *state.Watch {
		snap, wt := s.Snapshot(), state.NewWatch()
		row, ok := snap.Node(wt, n.ID)
		if !ok {
			t.Fatalf("%s is not there", n.Admission.Name)
		}
		snap.Concerning(wt, row)
		return wt
	}
	for _, test := range []struct {
		name   string
		change func()
		wakes  map[*netmaptest.Node]bool
	}{
		{"another ci node joins", func() { admit(t, s, w.Admit("ci-3", "tag:ci")) }, map[*netmaptest.Node]bool{ci: true}},
		{"a second node of alice joins", func() { admit(t, s, w.Admit("alice-2", "alice@acme.example")) }, map[*netmaptest.Node]bool{ledger: true}},
		{"the ledger has a new record", func() {
			w.SignRecord(ledger, nil)
			admit(t, s, ledger)
		}, map[*netmaptest.Node]bool{ledger: true, alice: true}},
		{"alice acknowledges", func() {
			if err := s.Online(alice.Key.Public(), "test"); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"somebody asks to join", func() {
			if err := s.PutJoin(&state.Join{ID: key.NodeID{1}}, nil); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		watches := map[*netmaptest.Node]*state.Watch{}
		for _, n := range []*netmaptest.Node{alice, ledger, ci} {
			watches[n] = watch(n)
		}
		test.change()
		for n, wt := range watches {
			if got, want := wt.Woken(), test.wakes[n]; got != want {
				t.Errorf("%s: %s woken: got %v, want %v", test.name, n.Admission.Name, got, want)
			}
		}
	}
}

func TestSnapshotNeverChanges(t *testing.T) {
	w := netmaptest.New(t, start)
	alice, ledger := w.Admit("alice", "alice@acme.example"), w.Admit("ledger-1", "tag:accounting")
	s := fill(t, w, w.Publish(policy("alice@acme.example")))
	old := s.Snapshot()
	w.Advance(time.Second)
	put(t, s, w.Publish(policy()))
	for _, test := range []struct {
		name string
		snap *state.Snapshot
		want int
	}{{"before", old, 1}, {"after", s.Snapshot(), 0}} {
		for _, n := range []*netmaptest.Node{alice, ledger} {
			row, ok := test.snap.Node(nil, n.ID)
			if !ok {
				t.Fatal("not there")
			}
			if got := len(test.snap.Concerning(nil, row)); got != test.want {
				t.Errorf("%s: %d nodes concern %s, want %d", test.name, got, n.Admission.Name, test.want)
			}
		}
	}
	if r := old.Newest(nil); r.Tree == nil {
		t.Error("the old snapshot's newest revision lost its tree")
	}
	if rs := s.Snapshot().Revisions(); len(rs) != 2 || rs[0].Tree != nil {
		t.Error("the revision before keeps its tree: it is not needed, and large")
	}
	if _, err := s.Snapshot().Revisions()[0].Prove(leaf.NameNetwork); err == nil {
		t.Error("a proof under a revision that is not the newest: got no error")
	}
}

func TestPresenceIsReadOnce(t *testing.T) {
	s, err := state.New()
	if err != nil {
		t.Fatal(err)
	}
	a, b := key.NewIdentity().Public(), key.NewIdentity().Public()
	var seen uint64
	read := func() (out []string) {
		for _, p := range s.Snapshot().PresenceSince(nil, seen) {
			seen = p.Changed
			who := "a"
			if p.Identity.Equal(b) {
				who = "b"
			}
			out = append(out, fmt.Sprintf("%s %d %d", who, p.Streams, max(0, p.OfflineSince.Unix())))
		}
		return out
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Online(a, "1"))
	must(s.Online(b, "1"))
	must(s.Online(a, "2")) // a second stream, before the first is known to have ended
	if got, want := fmt.Sprint(read()), "[b 1 0 a 2 0]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(s.Offline(a, time.Unix(100, 0)))
	if got, want := fmt.Sprint(read()), "[a 1 0]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(s.Offline(a, time.Unix(200, 0)))
	if got, want := fmt.Sprint(read()), "[a 0 200]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := read(); got != nil {
		t.Errorf("nothing changed: got %v", got)
	}
}

// BenchmarkPublish is one group edit in a network of a thousand nodes, in memory.
func BenchmarkPublish(b *testing.B) {
	w := netmaptest.New(b, start)
	for i := range 1000 {
		w.Admit(fmt.Sprintf("n%d", i), fmt.Sprintf("user-%d@acme.example", i))
	}
	r1, r2 := w.Publish(policy("user-1@acme.example")), w.Publish(policy("user-2@acme.example"))
	s := fill(b, w, r1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			put(b, s, r2)
		} else {
			put(b, s, r1)
		}
	}
}
