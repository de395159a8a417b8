package netmap_test

import (
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// accounting is the policy that these tests change.
func accounting(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "accounting-web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80 icmp"}},
	}
}

// may says whether the netmap lets the named peer open the port of this node.
func may(n *netmap.Netmap, from string, port uint16, at time.Time) bool {
	if n.Self == nil {
		return false
	}
	p, ok := n.Named(from)
	if !ok {
		return false
	}
	return acl.Judge(n.Inbound, acl.Request{From: p.Subject, To: n.Self, Target: acl.Target{Proto: acl.TCP, Port: port}, At: at}).Allowed
}

// accept fails the test where anything is refused.
func accept(t *testing.T, s *netmap.State, u netmap.Update, now time.Time) *netmap.State {
	t.Helper()
	o := s.Accept(u, now)
	for _, r := range o.Refused {
		t.Errorf("got refusal %v, want none", r)
	}
	return o.State
}

func TestFollowsMembershipFromRevisionToRevision(t *testing.T) {
	w := netmaptest.New(t, start)
	alice, bob := w.Admit("alice", "alice@acme.example"), w.Admit("bob", "bob@acme.example")
	ledger := w.Admit("ledger-1", "tag:accounting")
	r1 := w.Publish(accounting("alice@acme.example"))

	s := netmap.New(w.Network, ledger.ID)
	s = accept(t, s, w.Everything(ledger, r1, alice, bob), w.Now)
	n := s.Netmap(w.Now)
	if got := [2]bool{may(n, "alice", 80, w.Now), may(n, "bob", 80, w.Now)}; got != [2]bool{true, false} {
		t.Fatalf("at r1 alice, bob may reach the ledger: got %v, want [true false]", got)
	}
	if want := netmap.Expected(ledger.Admission, r1.Manifest.Hash(), r1.Tree, principals(r1)); n.Digest != want {
		t.Errorf("digest: got %s, want %s", n.Digest, want)
	}

	w.Advance(time.Minute)
	r2 := w.Publish(accounting("alice@acme.example", "bob@acme.example"))
	s = accept(t, s, w.Delta(ledger, r1, r2, alice, bob), w.Now)
	if n := s.Netmap(w.Now); !may(n, "bob", 80, w.Now) || !may(n, "alice", 80, w.Now) || may(n, "bob", 22, w.Now) {
		t.Errorf("at r2: want alice and bob on tcp/80 and nothing else, got netmap %+v", n)
	}

	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := netmap.Load(w.Network, ledger.ID, b)
	if err != nil {
		t.Fatal(err)
	}
	if n := loaded.Netmap(w.Now); n.Digest != s.Netmap(w.Now).Digest || !may(n, "bob", 80, w.Now) {
		t.Error("a state read from the disk enforces something else than the one written")
	}

	o := loaded.Accept(w.Everything(ledger, r1, alice, bob), w.Now)
	if o.Adopted || len(o.Refused) == 0 || o.Refused[0].Kind != netmap.Rollback {
		t.Errorf("replay of r1: got %+v, want a rollback refused", o)
	}
}

func principals(r *netmaptest.Revision) func(string) (leaf.Principal, bool) {
	return func(name string) (leaf.Principal, bool) {
		l, ok := r.Leaves[name]
		if !ok {
			return leaf.Principal{}, false
		}
		p, err := leaf.DecodePrincipal(l)
		return p, err == nil
	}
}
