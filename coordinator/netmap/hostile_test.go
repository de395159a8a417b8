package netmap_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// refused fails the test unless the update is refused as that kind.
func refused(t *testing.T, s *netmap.State, u netmap.Update, now time.Time, want netmap.Kind) *netmap.State {
	t.Helper()
	o := s.Accept(u, now)
	if len(o.Refused) != 1 || o.Refused[0].Kind != want {
		t.Fatalf("got refusals %v, want one %q", o.Refused, want)
	}
	return o.State
}

func restart(t *testing.T, w *netmaptest.World, self key.NodeID, s *netmap.State) *netmap.State {
	t.Helper()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = netmap.Load(w.Network, self, b); err != nil {
		t.Fatalf("a state does not start again: %v", err)
	}
	return s
}

func nobody(t *testing.T, n *netmap.Netmap, name, why string) {
	t.Helper()
	if _, ok := n.Named(name); ok {
		t.Errorf("%s is a peer, want nobody", name)
	}
	for _, x := range n.Nobodies {
		if x.Name == name && strings.Contains(x.Why, why) {
			return
		}
	}
	t.Errorf("got nobodies %+v, want %s because %q", n.Nobodies, name, why)
}

func TestSerialsOutliveANodeThatIsToldGone(t *testing.T) {
	x := setStage(t)
	oldRecord := x.bob.Papers
	long := x.readmit(x.bob, func(a *papers.Admission) { a.Expires = x.Now.Add(1000 * time.Hour) })
	x.s = accept(t, x.s, peers(long), x.Now)
	x.readmit(x.bob, func(a *papers.Admission) { a.Expires = x.Now.Add(time.Hour) })
	short := x.rerecord(x.bob, func(r *papers.Record) { r.WG = key.NewWG().Public() })
	x.s = accept(t, x.s, peers(short), x.Now)

	x.s = accept(t, x.s, netmap.Update{Gone: []key.NodeID{x.bob.ID}}, x.Now)
	x.s = restart(t, x.World, x.ledger.ID, x.s)
	if _, ok := x.s.Netmap(x.Now).Named("bob"); ok {
		t.Error("a node told gone is a peer")
	}
	x.s = refused(t, x.s, peers(long), x.Now, netmap.Rollback)
	x.s = refused(t, x.s, peers(netmap.Papers{Admission: short.Admission, Record: oldRecord.Record}), x.Now, netmap.Rollback)
	twin := *x.bob.Admission
	twin.Issued = twin.Issued.Add(time.Second)
	other := *x.bob
	x.SignAdmission(&other, twin)
	x.s = refused(t, x.s, peers(other.Papers), x.Now, netmap.Equivocation)
	record := *x.bob.Record
	record.WG = key.NewWG().Public()
	doc, _, err := papers.SignRecord(record, x.bob.Key)
	if err != nil {
		t.Fatal(err)
	}
	x.s = refused(t, x.s, peers(netmap.Papers{Admission: short.Admission, Record: doc}), x.Now, netmap.Equivocation)
	renamed := *x.bob.Admission
	renamed.Serial, renamed.Name = renamed.Serial+1, "robert"
	x.SignAdmission(&other, renamed)
	x.s = refused(t, x.s, peers(other.Papers), x.Now, netmap.Conflict)

	u := peers(short)
	u.Leaves = leaves(x.Prove(x.r2, "principal/bob@acme.example")).Leaves
	x.s = accept(t, x.s, u, x.Now)
	if p, ok := x.s.Netmap(x.Now).Named("bob"); !ok || p.WG != x.bob.Record.WG {
		t.Errorf("bob is back with his newest papers: got %v %+v", ok, p)
	}
}

func TestNewEpochsListLetsNobodyBackIntoTheOldRevision(t *testing.T) {
	x := setStage(t)
	x.Advance(time.Minute)
	x.End(x.alice.ID)
	r3 := x.Publish(accounting("alice@acme.example"))
	x.s = accept(t, x.s, x.Everything(x.ledger, r3, x.bob), x.Now)
	nobody(t, x.s.Netmap(x.Now), "alice", "ended: revoked")

	x.Advance(time.Minute)
	x.sameRoot(2)
	x.End(x.bob.ID) // the list of the new epoch names bob alone
	x.s = accept(t, x.s, netmap.Update{Roots: x.Roots, Ended: x.EndedDoc}, x.Now)
	for range 2 {
		n := x.s.Netmap(x.Now)
		nobody(t, n, "alice", "ended: revoked")
		nobody(t, n, "bob", "ended: revoked")
		refused(t, x.s, peers(x.alice.Papers), x.Now, netmap.Out)
		if _, err := x.s.AdmitPapers(x.alice.Key.Public(), x.alice.Papers.Admission, x.Now); err == nil {
			t.Error("a relay admits alice, who is ended in the revision held")
		}
		x.s = restart(t, x.World, x.ledger.ID, x.s)
	}
	// The node's own admission is renewed while two lists are held.
	x.s = accept(t, x.s, netmap.Update{Admission: x.readmit(x.ledger, func(*papers.Admission) {}).Admission}, x.Now)

	x.Advance(time.Minute)
	r4 := x.Publish(accounting("alice@acme.example"))
	u := x.Everything(x.ledger, r4)
	u.Leaves = append(u.Leaves, x.Prove(r4, "principal/alice@acme.example"))
	x.s = accept(t, x.s, u, x.Now)
	x.s = restart(t, x.World, x.ledger.ID, x.s)
	if n := x.s.Netmap(x.Now); !may(n, "alice", 80, x.Now) {
		t.Errorf("the revision of the new epoch lets alice in again: got %+v", n.Nobodies)
	}
}

func TestPeersOfADroppedAdmissionKeyAreNobody(t *testing.T) {
	x := setStage(t)
	mallory := x.Admit("mallory", "alice@acme.example") // with the key that is stolen
	x.s = accept(t, x.s, peers(mallory.Papers), x.Now)
	if n := x.s.Netmap(x.Now); !may(n, "mallory", 80, x.Now) {
		t.Fatal("mallory is not even a peer before the key is dropped")
	}
	stolen := x.alice.Papers
	k, err := trust.NewSigningKey("admission-2")
	if err != nil {
		t.Fatal(err)
	}
	x.AdmissionKey = k
	x.Advance(time.Minute)
	x.sameRoot(1)
	x.End()

	// The root document alone changes nothing that is enforced.
	x.s = accept(t, x.s, netmap.Update{Roots: x.Roots, Ended: x.EndedDoc}, x.Now)
	if n := x.s.Netmap(x.Now); !may(n, "mallory", 80, x.Now) || !may(n, "alice", 80, x.Now) {
		t.Errorf("a root document without a revision changed the peers: %+v", n.Nobodies)
	}
	x.s = restart(t, x.World, x.ledger.ID, x.s)

	r3 := x.Publish(accounting("alice@acme.example"))
	x.SignAdmission(x.alice, *x.alice.Admission) // the same admission, signed anew
	x.SignAdmission(x.ledger, *x.ledger.Admission)
	x.s = accept(t, x.s, x.Everything(x.ledger, r3, x.alice), x.Now)
	for range 2 {
		n := x.s.Netmap(x.Now)
		if !may(n, "alice", 80, x.Now) {
			t.Errorf("alice, admitted again, may not reach the ledger: %+v", n.Nobodies)
		}
		nobody(t, n, "mallory", "no longer in force")
		nobody(t, n, "bob", "no longer in force")
		if got := x.s.Have().Peers[x.bob.ID]; got != (netmap.Serials{}) {
			t.Errorf("of bob, to be admitted again, the state has %+v, want nothing", got)
		}
		refused(t, x.s, peers(stolen), x.Now, netmap.Invalid)
		x.s = restart(t, x.World, x.ledger.ID, x.s)
	}
	if _, doc := x.s.Admission(); string(doc) != string(x.ledger.Papers.Admission) {
		t.Error("the node shows its old admission, which nobody takes up any more")
	}
}

// A root that adds an admission key or raises nothing keeps everybody: their
// admissions verify under it as they are.
func TestPeersStayUnderARootThatKeepsTheirKey(t *testing.T) {
	x := setStage(t)
	x.Advance(time.Minute)
	x.sameRoot(1)
	r3 := x.Publish(accounting("alice@acme.example"))
	x.s = accept(t, x.s, x.Everything(x.ledger, r3, x.alice), x.Now)
	x.s = restart(t, x.World, x.ledger.ID, x.s)
	if n := x.s.Netmap(x.Now); !may(n, "alice", 80, x.Now) {
		t.Errorf("alice is nobody under the second root: %+v", n.Nobodies)
	}
}

func TestARefusedPeerRemovesNoOther(t *testing.T) {
	x := setStage(t)
	x.s = accept(t, x.s, peers(x.readmit(x.bob, func(a *papers.Admission) { a.Expires = x.Now.Add(time.Minute) })), x.Now)
	x.Advance(time.Hour) // bob's session ends
	thief := x.Admit("bob", "carol@acme.example")
	x.rerecord(thief, func(r *papers.Record) { r.WG = x.alice.WG.Public() })
	x.s = refused(t, x.s, peers(thief.Papers), x.Now, netmap.Conflict)
	if _, held := x.s.Have().Peers[x.bob.ID]; !held {
		t.Error("bob's papers were let go by papers that were refused")
	}
	// Without the conflict, the name passes on, and bob's older papers stay refused.
	old := x.bob.Papers
	x.s = accept(t, x.s, peers(x.rerecord(thief, func(r *papers.Record) { r.WG = key.NewWG().Public() })), x.Now)
	if _, held := x.s.Have().Peers[x.bob.ID]; held {
		t.Error("two nodes of one name are held")
	}
	refused(t, x.s, peers(old), x.Now, netmap.Expired)
}

func TestProofsThatNobodyNeedsAreNotKept(t *testing.T) {
	x := setStage(t)
	small, err := x.s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var u netmap.Update
	for i := range 100 {
		u.Leaves = append(u.Leaves, x.Prove(x.r2, fmt.Sprintf("principal/user-%d@acme.example", i)))
	}
	o := x.s.Accept(u, x.Now)
	if o.Changed {
		t.Error("proofs that nobody needs change the state, want it as it was")
	}
	x.s = accept(t, x.s, netmap.Update{Gone: []key.NodeID{x.alice.ID, x.bob.ID}}, x.Now)
	b, err := x.s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "alice@acme.example") || len(b) >= len(small) {
		t.Errorf("of nodes that are gone %d bytes are held, with them %d", len(b), len(small))
	}
}

func TestNodeOnTheEndedListIsOut(t *testing.T) {
	x := setStage(t)
	x.s = accept(t, x.s, netmap.Update{Ended: x.End(x.ledger.ID)}, x.Now)
	n := x.s.Netmap(x.Now)
	if n.Self != nil || n.Out != "ended: revoked" || len(n.Peers) > 0 || len(n.Inbound) > 0 {
		t.Errorf("got self %v, out %q, %d peers, %d inbound; want nothing but why", n.Self, n.Out, len(n.Peers), len(n.Inbound))
	}
}

func TestSessionEndsOnTime(t *testing.T) {
	x := setStage(t)
	end := x.Now.Add(time.Hour)
	u := peers(x.readmit(x.bob, func(a *papers.Admission) { a.Expires = end }))
	u.Admission = x.readmit(x.ledger, func(a *papers.Admission) { a.Expires = end.Add(time.Hour) }).Admission
	x.s = accept(t, x.s, u, x.Now)
	if _, ok := x.s.Netmap(end.Add(-time.Second)).Named("bob"); !ok {
		t.Error("bob is nobody before the end of his session")
	}
	nobody(t, x.s.Netmap(end), "bob", "session ended")
	if n := x.s.Netmap(end.Add(time.Hour)); n.Self != nil || !strings.HasPrefix(n.Out, "session ended") {
		t.Errorf("at the end of its own session the node is %v, out %q", n.Self, n.Out)
	}
	// A clock that is set back gives no time: a revision was issued since.
	x.Advance(2 * time.Hour)
	x.s = accept(t, x.s, x.Delta(x.ledger, x.r2, x.Publish(accounting("alice@acme.example")), x.alice, x.bob), x.Now)
	for range 2 {
		if n := x.s.Netmap(start); n.Self != nil {
			t.Error("with the clock set back the session goes on")
		}
		x.s = restart(t, x.World, x.ledger.ID, x.s)
	}
}

// Time is told by each document that the network's keys sign, and by none that a
// node signs itself.
func TestNewestIssuedTimeCounts(t *testing.T) {
	ahead := trust.MaxAhead / 2
	for _, test := range []struct {
		name string
		u    func(x *stage) netmap.Update
		want time.Duration
	}{
		{"root", func(x *stage) netmap.Update { x.sameRoot(1); return netmap.Update{Roots: x.Roots} }, ahead},
		{"ended list", func(x *stage) netmap.Update { return netmap.Update{Ended: x.End()} }, ahead},
		{"manifest", func(x *stage) netmap.Update {
			return x.Delta(x.ledger, x.r2, x.Publish(accounting("alice@acme.example")))
		}, ahead},
		{"own admission", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.readmit(x.ledger, func(a *papers.Admission) { a.Issued = x.Now }).Admission}
		}, ahead},
		{"admission", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.Issued = x.Now }))
		}, ahead},
		{"record", func(x *stage) netmap.Update {
			return peers(x.rerecord(x.bob, func(r *papers.Record) { r.Issued = x.Now }))
		}, 0},
		{"a revision that is not adopted", func(x *stage) netmap.Update { return revision(x.noChanges(x.Publish(accounting())).Doc) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := setStage(t)
			now := x.Now
			x.Advance(ahead)
			s := x.s.Accept(test.u(x), now).State
			if got := s.At(now).Sub(now); got != test.want {
				t.Errorf("time is %s ahead of the clock, want %s", got, test.want)
			}
		})
	}
}

// An inbound leaf with a grant that this version does not understand gives what
// the others grant; a principal leaf that cannot be read makes its node nobody,
// since it may be in a group that a rule excepts.
func TestUnreadableLeavesGiveNoAccess(t *testing.T) {
	x := setStage(t)
	x.Advance(time.Minute)
	p := accounting("alice@acme.example")
	p.Rules = append(p.Rules, netmaptest.Rule{Name: "all-but", From: "autogroup:member", Except: "group:contractors", To: "tag:accounting", Allow: "tcp/443"})
	p.Extra = []leaf.Leaf{
		{Name: "principal/bob@acme.example", Data: []byte(`{"principal":"bob@acme.example","groups":[],"unheard":true}` + "\n")},
		{Name: "inbound/*", Data: []byte(`{"to":"*","grants":[{"rule":"new","from":["*"],"allow":["tcp/22"],"onlyAtNight":true},{"rule":"old","from":["*"],"allow":["tcp/8080"]}]}` + "\n")},
		{Name: "inbound/node:ledger-1", Data: []byte(`{"to":"node:ledger-1","grants":[{"rule":"x","from":["*"],"allow":["*"]}],"unheard":1}` + "\n")},
		{Name: "inbound/autogroup:tagged", Data: []byte(`{"to":"*","grants":[{"rule":"x","from":["*"],"allow":["*"]}]}` + "\n")},
	}
	r3 := x.Publish(p)
	x.s = accept(t, x.s, x.Everything(x.ledger, r3, x.alice, x.bob), x.Now)
	for range 2 {
		n := x.s.Netmap(x.Now)
		nobody(t, n, "bob", "cannot be read")
		got := [4]bool{may(n, "alice", 80, x.Now), may(n, "alice", 443, x.Now), may(n, "alice", 8080, x.Now), may(n, "alice", 22, x.Now)}
		if want := [4]bool{true, true, true, false}; got != want {
			t.Errorf("alice on tcp/80, 443, 8080, 22: got %v, want %v", got, want)
		}
		if n.Unenforced != 1 {
			t.Errorf("grants not enforced: got %d, want 1", n.Unenforced)
		}
		x.s = restart(t, x.World, x.ledger.ID, x.s)
	}
}

func TestUnprovedIsNobodyAndProvedAbsentIsInNoGroup(t *testing.T) {
	x := setStage(t)
	x.Advance(time.Minute)
	p := accounting("alice@acme.example")
	p.Rules = []netmaptest.Rule{{Name: "all-but", From: "*", Except: "group:accounting", To: "tag:accounting", Allow: "tcp/80"}}
	r3 := x.Publish(p)
	u := x.Everything(x.ledger, x.noChanges(r3), x.bob) // alice's principal is withheld
	x.s = accept(t, x.s, u, x.Now)
	n := x.s.Netmap(x.Now)
	nobody(t, n, "alice", "alice@acme.example is not proved")
	if may(n, "alice", 80, x.Now) || !may(n, "bob", 80, x.Now) {
		t.Error("want bob, proved in no group, allowed, and alice, not proved, nobody")
	}
	if got := x.s.Have().Peers; got[x.alice.ID] != (netmap.Serials{}) || got[x.bob.ID] != (netmap.Serials{Admission: 1, Record: 1}) {
		t.Errorf("have: got %+v, want bob's serials and none of alice's", got)
	}
}

// A node with two tags is proved only with both.
func TestEveryPrincipalIsProved(t *testing.T) {
	x := setStage(t)
	worker := x.Admit("worker", "tag:accounting tag:batch")
	u := peers(worker.Papers)
	u.Leaves = leaves(x.Prove(x.r2, "principal/tag:accounting")).Leaves
	s := accept(t, x.s, u, x.Now)
	nobody(t, s.Netmap(x.Now), "worker", "tag:batch is not proved")
	s = accept(t, s, leaves(x.Prove(x.r2, "principal/tag:batch")), x.Now)
	if _, ok := s.Netmap(x.Now).Named("worker"); !ok {
		t.Error("with both tags proved the worker is nobody")
	}
}

func TestPeerAdmittedUnderANewerRevisionIsNobodyUntilThen(t *testing.T) {
	x := setStage(t)
	x.Advance(time.Minute)
	r3 := x.Publish(accounting("alice@acme.example"))
	carol := x.Admit("carol", "alice@acme.example")
	x.readmit(carol, func(a *papers.Admission) { a.Decided = r3.Manifest.Position })
	x.s = accept(t, x.s, peers(carol.Papers), x.Now)
	nobody(t, x.s.Netmap(x.Now), "carol", "newer revision")
	x.s = accept(t, x.s, x.Delta(x.ledger, x.r2, r3, x.alice, x.bob), x.Now)
	if n := x.s.Netmap(x.Now); !may(n, "carol", 80, x.Now) {
		t.Errorf("carol is nobody at the revision that she was admitted under: %+v", n.Nobodies)
	}
}

func TestRootThresholdBreaksTheGlass(t *testing.T) {
	x := setStage(t)
	x.PolicyKey, x.AdmissionKey = x.RootKey, x.RootKey
	x.Advance(time.Minute)
	x.End(x.bob.ID)
	r3 := x.Publish(netmaptest.Policy{})
	u := x.Everything(x.ledger, r3)
	u.Admission = nil
	x.s = accept(t, x.s, u, x.Now)
	if n := x.s.Netmap(x.Now); n.Position != r3.Manifest.Position || may(n, "alice", 80, x.Now) {
		t.Errorf("got %v with %d inbound, want the root's revision %v, which allows nothing", n.Position, len(n.Inbound), r3.Manifest.Position)
	}
}

func TestRootChainIsFollowedStepByStep(t *testing.T) {
	w := netmaptest.New(t, start)
	next := func(epoch int64, k trust.SigningKey) {
		w.AddRoot(trust.Root{
			Epoch: epoch, RootThreshold: 1, RootKeys: []trust.VKey{k.Public()},
			PolicyThreshold: 1, PolicyKeys: []trust.VKey{w.PolicyKey.Public()},
			AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{w.AdmissionKey.Public()},
		})
	}
	next(2, w.RootKey)
	next(2, w.RootKey)
	s := netmap.New(w.Network, key.NodeID{})
	s = refused(t, s, netmap.Update{Roots: w.Roots[1:]}, w.Now, netmap.Invalid)
	s = accept(t, s, netmap.Update{Roots: w.Roots[:2]}, w.Now)
	s = accept(t, s, netmap.Update{Roots: w.Roots}, w.Now) // those held are passed over
	if s.Root().Version != 3 || s.Root().Epoch != 2 {
		t.Errorf("got root version %d of epoch %d, want 3 of 2", s.Root().Version, s.Root().Epoch)
	}
	other := netmaptest.New(t, start)
	refused(t, netmap.New(w.Network, key.NodeID{}), netmap.Update{Roots: other.Roots}, w.Now, netmap.Invalid)
}

func TestEpochOfTheRootNeverGoesBack(t *testing.T) {
	w := netmaptest.New(t, start)
	x := &stage{World: w, t: t}
	x.sameRoot(3)
	s := accept(t, netmap.New(w.Network, key.NodeID{}), netmap.Update{Roots: w.Roots}, w.Now)
	x.sameRoot(2)
	s = refused(t, s, netmap.Update{Roots: w.Roots}, w.Now, netmap.Invalid)
	if got := s.Root().Version; got != 2 {
		t.Errorf("root version: got %d, want 2", got)
	}
}

func TestBeforeTheRootNothingIsTakenUp(t *testing.T) {
	w := netmaptest.New(t, start)
	ledger, alice := w.Admit("ledger-1", "tag:accounting"), w.Admit("alice", "alice@acme.example")
	all := w.Everything(ledger, w.Publish(accounting()), alice)
	for _, u := range []netmap.Update{
		{Ended: all.Ended}, {Revisions: all.Revisions}, {Admission: all.Admission}, {Peers: all.Peers},
	} {
		s := netmap.New(w.Network, ledger.ID)
		if o := s.Accept(u, w.Now); o.Changed || len(o.Refused) != 1 || o.Refused[0].Kind != netmap.Invalid {
			t.Errorf("got %+v, want a refusal", o)
		}
	}
	s := accept(t, netmap.New(w.Network, ledger.ID), netmap.Update{Roots: w.Roots}, w.Now)
	for _, u := range []netmap.Update{{Leaves: all.Leaves}, {Admission: all.Admission}} {
		if o := s.Accept(u, w.Now); o.Changed || len(o.Refused) != 1 || o.Refused[0].Kind != netmap.Incomplete {
			t.Errorf("before a revision: got %+v, want a refusal", o)
		}
	}
}

func TestChainsOfChangeLists(t *testing.T) {
	x := setStage(t)
	rs := []*netmaptest.Revision{x.r2, x.next("alice@acme.example", "bob@acme.example"), x.next("bob@acme.example"), x.next("bob@acme.example", "carol@acme.example")}
	last := rs[len(rs)-1]
	u := netmap.Update{Revisions: []netmap.Revision{rs[1].Doc, rs[2].Doc, rs[3].Doc}}
	for _, who := range []string{"alice@acme.example", "bob@acme.example"} {
		l := x.Prove(last, "principal/"+who) // alice's last change is two lists back
		l.Proof = nil
		u.Leaves = append(u.Leaves, l)
	}
	s := accept(t, x.s, u, x.Now)
	if n := s.Netmap(x.Now); n.Position != last.Manifest.Position || may(n, "alice", 80, x.Now) || !may(n, "bob", 80, x.Now) {
		t.Errorf("after three lists: got %v, peers %+v", n.Position, n.Peers)
	}

	// A leaf that a list changed and that does not come is held no more.
	short := u
	short.Leaves = u.Leaves[1:]
	s = accept(t, x.s, short, x.Now)
	nobody(t, s.Netmap(x.Now), "alice", "is not proved")

	// A list that is missing in the middle means proofs for everything.
	gap := u
	gap.Revisions = []netmap.Revision{rs[1].Doc, {Manifest: rs[2].Doc.Manifest}, rs[3].Doc}
	if o := x.s.Accept(gap, x.Now); o.Adopted || len(o.Missing) == 0 {
		t.Errorf("a chain with a gap was followed: adopted %v, missing %v", o.Adopted, o.Missing)
	}
	// A revision left out likewise, though the list of the next is there.
	gap.Revisions = []netmap.Revision{rs[1].Doc, rs[3].Doc}
	if o := x.s.Accept(gap, x.Now); o.Adopted {
		t.Error("a chain without one of its revisions was followed")
	}
	// An older content than the newest list says does not count.
	stale := u
	l := x.Prove(rs[1], "principal/alice@acme.example")
	l.Proof = nil
	stale.Leaves = append([]netmap.Proved{l}, u.Leaves[1:]...)
	o := x.s.Accept(stale, x.Now)
	if len(o.Refused) != 1 || may(o.State.Netmap(x.Now), "alice", 80, x.Now) {
		t.Errorf("alice is a member by an older leaf: refused %v", o.Refused)
	}
}

func TestRelayAdmitsByPapers(t *testing.T) {
	x := setStage(t)
	relay := netmap.New(x.Network, key.NodeID{})
	relay = accept(t, relay, netmap.Update{Roots: x.Roots}, x.Now)
	if _, err := relay.AdmitPapers(x.alice.Key.Public(), x.alice.Papers.Admission, x.Now); err == nil {
		t.Error("a relay that holds no ended list admits somebody")
	}
	relay = accept(t, relay, x.Everything(nil, x.r2), x.Now)
	end := x.Now.Add(time.Hour)
	bob := x.readmit(x.bob, func(a *papers.Admission) { a.Expires = end })
	if until, err := relay.AdmitPapers(x.alice.Key.Public(), x.alice.Papers.Admission, x.Now); err != nil || !until.IsZero() {
		t.Errorf("alice: got until %v, %v; want admitted without end", until, err)
	}
	if until, err := relay.AdmitPapers(x.bob.Key.Public(), bob.Admission, x.Now); err != nil || !until.Equal(end) {
		t.Errorf("bob: got until %v, %v; want %v", until, err, end)
	}
	if _, err := relay.AdmitPapers(x.bob.Key.Public(), bob.Admission, end); err == nil {
		t.Error("bob is admitted after his session")
	}
	if _, err := relay.AdmitPapers(x.bob.Key.Public(), x.alice.Papers.Admission, x.Now); err == nil {
		t.Error("bob is admitted with alice's papers")
	}
	if _, err := relay.AdmitPapers(x.bob.Key.Public(), bob.Admission[:40], x.Now); err == nil {
		t.Error("bob is admitted with half an admission")
	}
	relay = accept(t, relay, netmap.Update{Ended: x.End(x.alice.ID)}, x.Now)
	if _, err := relay.AdmitPapers(x.alice.Key.Public(), x.alice.Papers.Admission, x.Now); err == nil {
		t.Error("alice is admitted though she is on the ended list")
	}
}

func TestRequiredNamesEveryInboundThatSelectsTheNode(t *testing.T) {
	sel := func(s string) acl.Selector {
		x, err := acl.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, test := range []struct {
		principals []acl.Selector
		groups     []acl.Membership
		name, want string
	}{
		{nil, nil, "", "network relays"},
		{[]acl.Selector{sel("alice@acme.example")}, []acl.Membership{{Group: "b"}, {Group: "a", Until: start}, {Group: "b"}}, "laptop",
			"inbound/* inbound/alice@acme.example inbound/autogroup:member inbound/autogroup:self inbound/group:a inbound/group:b inbound/node:laptop network principal/alice@acme.example relays"},
		{[]acl.Selector{sel("tag:a"), sel("tag:b")}, nil, "db",
			"inbound/* inbound/autogroup:tagged inbound/node:db inbound/tag:a inbound/tag:b network principal/tag:a principal/tag:b relays"},
	} {
		if got := strings.Join(netmap.Required(test.principals, test.groups, test.name), " "); got != test.want {
			t.Errorf("required of %v:\n got %s\nwant %s", test.principals, got, test.want)
		}
	}
}
