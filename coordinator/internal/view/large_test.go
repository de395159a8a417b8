package view_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/internal/view"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// heavy is a policy in which each of n users is in many groups of long names: a
// revision that changes them all does not fit into one message.
func heavy(tb testing.TB, n int, mark string) netmaptest.Policy {
	p := netmaptest.Policy{Rules: []netmaptest.Rule{{Name: "all", From: "autogroup:member", To: "tag:db", Allow: "tcp/80"}}}
	var groups []acl.Membership
	for i := range 1200 {
		groups = append(groups, acl.Membership{Group: fmt.Sprintf("%s-%0100d", mark, i)})
	}
	for i := range n {
		sel := acl.Selector{Kind: acl.KindUser, Name: fmt.Sprintf("user-%d@acme.example", i)}
		l, err := leaf.Encode(leaf.PrincipalName(sel), leaf.Principal{Principal: sel, Groups: groups})
		if err != nil {
			tb.Fatal(err)
		}
		p.Extra = append(p.Extra, l)
	}
	return p
}

// A revision with more of peers than a message holds is adopted with the first
// message, and its peers are proved by those that follow.
func TestMoreThanOneMessage(t *testing.T) {
	const users = 40
	w := netmaptest.New(t, start)
	c := newCourier(t, w)
	c.publish(heavy(t, users, "a"))
	db := w.Admit("db", "tag:db")
	c.admit(db)
	for i := range users {
		c.admit(w.Admit(fmt.Sprintf("laptop-%d", i), fmt.Sprintf("user-%d@acme.example", i)))
	}
	cl := &client{n: db, state: netmap.New(w.Network, db.ID)}
	for _, test := range []struct {
		name       string
		everything bool
	}{{"from nothing", false}, {"following", false}, {"everything", true}} {
		next := view.For(c.reg.Snapshot(), db.ID, cl.request(test.everything), w.Now)
		if next.Withheld != nil {
			t.Fatalf("%s: %v", test.name, next.Withheld)
		}
		if len(next.Updates) < 2 {
			t.Errorf("%s: got %d messages, want several", test.name, len(next.Updates))
		}
		refused, err := cl.take(w, next.Updates, -1)
		if err != nil || len(refused) > 0 {
			t.Fatalf("%s: refused %v, %v", test.name, refused, err)
		}
		if n := cl.state.Netmap(w.Now); len(n.Peers) != users || len(n.Nobodies) != 0 || n.Manifest != w.Revisions[len(w.Revisions)-1].Manifest.Hash() {
			t.Errorf("%s: got %d peers and %d nobodies at %s, want %d peers at the newest", test.name, len(n.Peers), len(n.Nobodies), n.Position, users)
		}
		c.publish(heavy(t, users, "b"+test.name[:1]))
	}
	// The stream breaks after the first message: the next one proves the rest.
	next := view.For(c.reg.Snapshot(), db.ID, cl.request(false), w.Now)
	if _, err := cl.take(w, next.Updates, 1); err != nil {
		t.Fatal(err)
	}
	if n := cl.state.Netmap(w.Now); len(n.Nobodies) == 0 {
		t.Error("after one message every peer is proved: this test tests nothing")
	}
	next = view.For(c.reg.Snapshot(), db.ID, cl.request(false), w.Now)
	if refused, err := cl.take(w, next.Updates, -1); err != nil || len(refused) > 0 {
		t.Fatalf("refused %v, %v", refused, err)
	}
	if n := cl.state.Netmap(w.Now); len(n.Peers) != users {
		t.Errorf("a new stream proves %d peers, want %d", len(n.Peers), users)
	}
}

func TestExpiredPapersAreNotSent(t *testing.T) {
	w := netmaptest.New(t, start)
	c := newCourier(t, w)
	c.publish(netmaptest.Policy{Rules: []netmaptest.Rule{{Name: "all", From: "*", To: "*", Allow: "*"}}})
	a, b := w.Admit("a", "tag:a"), w.Admit("b", "tag:b")
	c.admit(a)
	c.admit(b)
	w.Advance(25 * time.Hour)
	cl := &client{n: a, state: netmap.New(w.Network, a.ID)}
	next := view.For(c.reg.Snapshot(), a.ID, cl.request(false), w.Now)
	if refused, err := cl.take(w, next.Updates, -1); err != nil || len(refused) > 0 {
		t.Errorf("refused %v, %v, want the record that has ended not sent", refused, err)
	}
	w.SignRecord(b, nil)
	c.record(b)
	next = view.For(c.reg.Snapshot(), a.ID, next.Have, w.Now)
	if refused, err := cl.take(w, next.Updates, -1); err != nil || len(refused) > 0 {
		t.Fatalf("refused %v, %v", refused, err)
	}
	if n := cl.state.Netmap(w.Now); len(n.Peers) != 1 {
		t.Errorf("got %d peers, want the one with a new record", len(n.Peers))
	}
}

// A caller that is ahead of this coordinator is sent nothing that it would have
// to refuse.
func TestCallerThatIsAheadIsSentNothingOld(t *testing.T) {
	w := netmaptest.New(t, start)
	behind := newCourier(t, w)
	behind.publish(netmaptest.Policy{Groups: map[string][]string{"g": {"tag:a"}}})
	a := w.Admit("a", "tag:a")
	behind.admit(a)
	w.Advance(time.Second)
	newer := w.Publish(netmaptest.Policy{})
	cl := &client{n: a, state: netmap.New(w.Network, a.ID)}
	cl.state = cl.state.Accept(w.Everything(a, newer), w.Now).State
	next := view.For(behind.reg.Snapshot(), a.ID, cl.request(false), w.Now)
	if len(next.Updates) != 0 {
		t.Errorf("got %v, want nothing", next.Updates)
	}
}

// The chain of change lists is followed as long as it is unbroken, and not one
// step longer.
func TestChain(t *testing.T) {
	w := netmaptest.New(t, start)
	c := newCourier(t, w)
	group := func(i int) netmaptest.Policy {
		return netmaptest.Policy{Groups: map[string][]string{"g": {"tag:a"}, fmt.Sprintf("h%d", i): {"tag:b"}}}
	}
	c.publish(group(0))
	a := w.Admit("a", "tag:a")
	c.admit(a)
	cl := &client{n: a, state: netmap.New(w.Network, a.ID)}
	if _, err := cl.take(w, view.For(c.reg.Snapshot(), a.ID, cl.request(false), w.Now).Updates, -1); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 64; i++ {
		w.Advance(time.Second)
		c.publish(group(i))
		next := view.Documents(c.reg.Snapshot(), nil, a.ID, cl.request(false))
		want, leaves := i, 0
		if i == 64 { // the revision held is none of those kept any more
			want = 1
			leaves = len(netmap.Required(a.Admission.Principals(), []acl.Membership{{Group: "g"}}, "a"))
		}
		u := next.Updates[0]
		if len(u.GetRevisions()) != want || len(u.GetLeaves()) != leaves {
			t.Fatalf("%d revisions later: got %d revisions and %d leaves, want %d and %d", i, len(u.GetRevisions()), len(u.GetLeaves()), want, leaves)
		}
		other := &client{n: a, state: cl.state}
		if refused, err := other.take(w, next.Updates, -1); err != nil || len(refused) > 0 || other.state.Manifest().Position != w.Revisions[i].Manifest.Position {
			t.Fatalf("%d revisions later: refused %v, %v, at %v", i, refused, err, other.state.Manifest().Position)
		}
	}
}

// BenchmarkUnconcerned reports what a change of one membership costs an agent
// that it does not concern, in a network of that many nodes: bytes on the wire,
// and the coordinator's time.
func BenchmarkUnconcerned(b *testing.B) {
	for _, nodes := range []int{100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			w := netmaptest.New(b, start)
			c := newCourier(b, w)
			policy := func(member string) netmaptest.Policy {
				return netmaptest.Policy{
					Groups: map[string][]string{"accounting": {"alice@acme.example", member}},
					Rules: []netmaptest.Rule{
						{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"},
						{Name: "ci", From: "tag:ci", To: "tag:ci", Allow: "tcp/22"},
					},
				}
			}
			c.publish(policy("bob@acme.example"))
			var ci *netmaptest.Node
			for i := range nodes {
				ci = w.Admit(fmt.Sprintf("ci-%d", i), "tag:ci")
				c.admit(ci)
			}
			have := view.For(c.reg.Snapshot(), ci.ID, netmap.Have{}, w.Now).Have
			w.Advance(time.Second)
			c.publish(policy("carol@acme.example"))
			snap := c.reg.Snapshot()
			bytes := 0
			b.ReportAllocs()
			for b.Loop() {
				bytes = 0
				for _, u := range view.Documents(snap, nil, ci.ID, have).Updates {
					bytes += proto.Size(u)
				}
			}
			b.ReportMetric(float64(bytes), "bytes/agent")
		})
	}
}
