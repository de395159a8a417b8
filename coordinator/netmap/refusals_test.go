package netmap_test

import (
	"slices"
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

// A stage is a network with a verifier that enforces its second revision and
// knows alice and bob.
type stage struct {
	*netmaptest.World
	t                  *testing.T
	ledger, alice, bob *netmaptest.Node
	r1, r2             *netmaptest.Revision
	ended1             []byte // the list of r1
	s                  *netmap.State
}

func setStage(t *testing.T) *stage {
	w := netmaptest.New(t, start)
	x := &stage{World: w, t: t}
	x.ledger, x.alice, x.bob = w.Admit("ledger-1", "tag:accounting"), w.Admit("alice", "alice@acme.example"), w.Admit("bob", "bob@acme.example")
	x.ended1 = w.EndedDoc
	x.r1 = w.Publish(accounting("alice@acme.example"))
	w.Advance(time.Minute)
	w.End(key.NewIdentity().Public().NodeID())
	x.r2 = w.Publish(accounting("alice@acme.example"))
	x.s = accept(t, netmap.New(w.Network, x.ledger.ID), w.Everything(x.ledger, x.r2, x.alice, x.bob), w.Now)
	return x
}

// next publishes a revision a minute later.
func (x *stage) next(members ...string) *netmaptest.Revision {
	x.t.Helper()
	x.Advance(time.Minute)
	return x.Publish(accounting(members...))
}

func without(u netmap.Update, leaf string) netmap.Update {
	u.Leaves = slices.DeleteFunc(u.Leaves, func(l netmap.Proved) bool { return l.Name == leaf })
	return u
}

// readmit signs another admission for the node, and a record with it.
func (x *stage) readmit(n *netmaptest.Node, change func(*papers.Admission)) netmap.Papers {
	x.t.Helper()
	a := *n.Admission
	a.Serial++
	change(&a)
	x.SignAdmission(n, a)
	return n.Papers
}

func (x *stage) rerecord(n *netmaptest.Node, change func(*papers.Record)) netmap.Papers {
	x.t.Helper()
	r := *n.Record
	r.Serial++
	change(&r)
	doc, rec, err := papers.SignRecord(r, n.Key)
	if err != nil {
		x.t.Fatal(err)
	}
	n.Record, n.Papers.Record = rec, doc
	return n.Papers
}

func peers(p ...netmap.Papers) netmap.Update { return netmap.Update{Peers: p} }

func leaves(l ...netmap.Proved) netmap.Update { return netmap.Update{Leaves: l} }

func revision(r netmap.Revision) netmap.Update { return netmap.Update{Revisions: []netmap.Revision{r}} }

// TestRefuses has one row for each thing that is refused: the update is otherwise
// good, and what the verifier held is untouched.
func TestRefuses(t *testing.T) {
	tests := []struct {
		name  string
		given func(x *stage) netmap.Update
		kind  netmap.Kind
		cause string
	}{
		{"a manifest that is older", func(x *stage) netmap.Update { return revision(x.r1.Doc) },
			netmap.Rollback, "is older than"},
		{"another manifest of one seq", func(x *stage) netmap.Update {
			m := *x.r2.Manifest
			m.Commit = trust.Commit(strings.Repeat("e", 40))
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc})
		}, netmap.Equivocation, "two revisions"},
		{"a manifest from the future", func(x *stage) netmap.Update {
			r := x.next()
			m := *r.Manifest
			m.Issued = x.Now.Add(trust.MaxAhead + time.Second)
			m.Seq = m.Issued.Unix()
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc})
		}, netmap.Ahead, "ahead of this clock"},
		{"a manifest signed by another key", func(x *stage) netmap.Update {
			x.PolicyKey = x.AdmissionKey
			return revision(x.next().Doc)
		}, netmap.Invalid, "none of the 1 keys in force signed"},
		{"a manifest of another network", func(x *stage) netmap.Update {
			m := *x.next().Manifest
			m.Network[0] ^= 1
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc})
		}, netmap.Invalid, "of network"},
		{"a manifest under an unknown root document", func(x *stage) netmap.Update {
			m := *x.next().Manifest
			m.Root[0] ^= 1
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc})
		}, netmap.Invalid, "root document that is not held"},
		{"a manifest that names an older root document than the one held", func(x *stage) netmap.Update {
			first := x.Root.Hash()
			x.sameRoot(1)
			r3 := x.next("alice@acme.example")
			u := x.Everything(x.ledger, r3, x.alice, x.bob)
			x.s = accept(x.t, x.s, u, x.Now)
			m := *x.next().Manifest
			m.Root = first
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc})
		}, netmap.Rollback, "names root document version 1, the revision held 2"},
		{"a manifest of the epoch before", func(x *stage) netmap.Update {
			r3 := x.next()
			x.sameRoot(2)
			x.End()
			x.Publish(accounting())
			x.s = accept(x.t, x.s, netmap.Update{Roots: x.Roots}, x.Now)
			return revision(r3.Doc)
		}, netmap.Rollback, "of epoch 1"},

		{"a revision without a leaf that it requires", func(x *stage) netmap.Update {
			return without(x.Everything(x.ledger, x.noChanges(x.next())), "inbound/tag:accounting")
		}, netmap.Incomplete, "inbound/tag:accounting"},
		{"a revision without the proof of absence that it requires", func(x *stage) netmap.Update {
			return without(x.Everything(x.ledger, x.noChanges(x.next())), "inbound/node:ledger-1")
		}, netmap.Incomplete, "inbound/node:ledger-1"},
		{"a revision that puts the node in a group, without that group's leaf", func(x *stage) netmap.Update {
			r3 := x.next("tag:accounting")
			return without(x.Delta(x.ledger, x.r2, r3, x.alice, x.bob), "inbound/group:accounting")
		}, netmap.Incomplete, "inbound/group:accounting"},
		{"a revision without a leaf on its change list", func(x *stage) netmap.Update {
			x.Advance(time.Minute)
			p := accounting("alice@acme.example")
			p.Rules[0].Allow = "tcp/22"
			r3 := x.Publish(p)
			return without(x.Delta(x.ledger, x.r2, r3, x.alice, x.bob), "inbound/tag:accounting")
		}, netmap.Incomplete, "inbound/tag:accounting"},
		{"a revision without its ended list", func(x *stage) netmap.Update {
			x.End(x.bob.ID)
			u := x.Everything(x.ledger, x.next())
			u.Ended = nil
			return u
		}, netmap.Incomplete, "ended list number 3"},
		{"a revision with another ended list of the same number", func(x *stage) netmap.Update {
			r3 := x.next()
			m := *r3.Manifest
			m.Ended[0] ^= 1
			_, r3.Doc.Manifest = x.SignManifest(m)
			return x.Everything(x.ledger, r3)
		}, netmap.Incomplete, "ended list number 2"},
		{"a revision older than the node's own admission", func(x *stage) netmap.Update {
			x.readmit(x.ledger, func(a *papers.Admission) { a.Decided = trust.Position{Epoch: 1, Seq: x.Now.Unix() + 3600} })
			return x.Everything(x.ledger, x.next())
		}, netmap.Incomplete, "admitted under the newer revision"},
		{"a network leaf that is not the manifest's", func(x *stage) netmap.Update {
			r3 := x.next()
			m := *r3.Manifest
			m.NetworkLeaf[0] ^= 1
			_, r3.Doc.Manifest = x.SignManifest(m)
			return x.Everything(x.ledger, x.noChanges(r3))
		}, netmap.Incomplete, "leaf network is not the manifest's"},
		{"a network leaf that cannot be read", func(x *stage) netmap.Update {
			return x.unreadable(leaf.NameNetwork)
		}, netmap.Incomplete, "leaf network: "},
		{"a relays leaf that cannot be read", func(x *stage) netmap.Update {
			return x.unreadable(leaf.NameRelays)
		}, netmap.Incomplete, "leaf relays: "},

		{"a change list that is not the manifest's", func(x *stage) netmap.Update {
			r3 := x.next()
			return revision(netmap.Revision{Manifest: r3.Doc.Manifest, Changes: x.r2.Doc.Changes})
		}, netmap.Invalid, "is not the manifest's"},
		{"a change list of another network", func(x *stage) netmap.Update {
			return x.changes(func(l *leaf.ChangeList) { l.Network[0] ^= 1 })
		}, netmap.Invalid, "of network"},
		{"a change list that cannot be read", func(x *stage) netmap.Update {
			m := *x.next().Manifest
			m.Changes = key.HashOf([]byte("garbage\n"))
			_, doc := x.SignManifest(m)
			return revision(netmap.Revision{Manifest: doc, Changes: []byte("garbage\n")})
		}, netmap.Invalid, "not a change list"},
		{"a change list on another base", func(x *stage) netmap.Update {
			x.next("bob@acme.example")
			r4 := x.next("alice@acme.example")
			return x.Delta(x.ledger, x.r2, r4)
		}, netmap.Incomplete, "leaves are not proved"},

		{"a leaf proved under another revision", func(x *stage) netmap.Update {
			return leaves(x.Prove(x.next("bob@acme.example"), "principal/bob@acme.example"))
		}, netmap.Invalid, "the path does not lead to the root"},
		{"another leaf's proof", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "principal/alice@acme.example")
			l.Name = "principal/bob@acme.example"
			return leaves(l)
		}, netmap.Invalid, "neither the name's nor at that end"},
		{"other content than proved", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "inbound/tag:accounting")
			l.Data = append(slices.Clone(l.Data), ' ')
			return leaves(l)
		}, netmap.Invalid, "is not the content proved"},
		{"a present leaf with a proof of absence", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "principal/bob@acme.example")
			l.Absent, l.Data = false, []byte("{}\n")
			return leaves(l)
		}, netmap.Invalid, "is not what the proof proves"},
		{"an absent leaf with a proof of presence", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "inbound/tag:accounting")
			l.Absent, l.Data = true, nil
			return leaves(l)
		}, netmap.Invalid, "is not what the proof proves"},
		{"an absent leaf with content", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "principal/bob@acme.example")
			l.Data = []byte("{}\n")
			return leaves(l)
		}, netmap.Invalid, "has content, and is proved absent"},
		{"a leaf with neither proof nor change list", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "inbound/tag:accounting")
			l.Proof = nil
			return leaves(l)
		}, netmap.Invalid, "no proof, and on no change list followed"},
		{"a proof that cannot be read", func(x *stage) netmap.Update {
			l := x.Prove(x.r2, "inbound/tag:accounting")
			l.Proof = l.Proof[:len(l.Proof)-1]
			return leaves(l)
		}, netmap.Invalid, "ends inside a path"},
		{"a leaf with too long a name", func(x *stage) netmap.Update {
			return leaves(netmap.Proved{Name: strings.Repeat("n", leaf.MaxName+1), Proof: []byte{0}})
		}, netmap.Invalid, "too large"},
		{"too large a leaf", func(x *stage) netmap.Update {
			return leaves(netmap.Proved{Name: "relays", Data: make([]byte, leaf.MaxSize+1), Proof: []byte{0}})
		}, netmap.Invalid, "too large"},

		{"an ended list with a lower number", func(x *stage) netmap.Update { return netmap.Update{Ended: x.ended1} },
			netmap.Rollback, "number 1, 2 is held"},
		{"another ended list of one number", func(x *stage) netmap.Update {
			x.Ended.Number--
			return netmap.Update{Ended: x.End(x.bob.ID)}
		}, netmap.Equivocation, "two of number 2"},
		{"an ended list that lacks a node", func(x *stage) netmap.Update {
			x.Ended.Nodes = nil
			return netmap.Update{Ended: x.End(x.bob.ID)}
		}, netmap.Rollback, "which had ended"},
		{"an ended list from the future", func(x *stage) netmap.Update {
			now := x.Now
			x.Advance(trust.MaxAhead + time.Second)
			u := netmap.Update{Ended: x.End()}
			x.Now = now
			return u
		}, netmap.Ahead, "ahead of this clock"},
		{"an ended list signed by another key", func(x *stage) netmap.Update {
			x.AdmissionKey = x.PolicyKey
			return netmap.Update{Ended: x.End(x.bob.ID)}
		}, netmap.Invalid, "none of the 1 keys in force signed"},
		{"an ended list of a later epoch than the root's", func(x *stage) netmap.Update {
			x.sameRoot(2)
			return netmap.Update{Ended: x.End()}
		}, netmap.Invalid, "of epoch 2"},

		{"a root document that is not the next", func(x *stage) netmap.Update {
			x.sameRoot(1)
			x.sameRoot(1)
			return netmap.Update{Roots: x.Roots[2:]}
		}, netmap.Invalid, "version 3, want 2"},
		{"a root document of other keys", func(x *stage) netmap.Update {
			k, err := trust.NewSigningKey("root-1")
			if err != nil {
				x.t.Fatal(err)
			}
			x.RootKey = k
			x.sameRoot(1)
			return netmap.Update{Roots: x.Roots[1:]}
		}, netmap.Invalid, "by version 1"},
		{"a root document whose epoch goes back", func(x *stage) netmap.Update {
			x.sameRoot(3)
			x.sameRoot(2)
			return netmap.Update{Roots: x.Roots[2:]}
		}, netmap.Invalid, "want 2"}, // version 3 alone; the chain with it is tried below
		{"a root document from the future", func(x *stage) netmap.Update {
			now := x.Now
			x.Advance(trust.MaxAhead + time.Second)
			x.sameRoot(1)
			x.Now = now
			return netmap.Update{Roots: x.Roots[1:]}
		}, netmap.Ahead, "ahead of this clock"},
		{"a root document that is none", func(x *stage) netmap.Update {
			return netmap.Update{Roots: [][]byte{[]byte("garbage")}}
		}, netmap.Invalid, "malformed note"},

		{"an own admission of another node", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.alice.Papers.Admission}
		}, netmap.Invalid, "of another node"},
		{"an own admission signed by another key", func(x *stage) netmap.Update {
			x.AdmissionKey = x.PolicyKey
			return netmap.Update{Admission: x.readmit(x.ledger, func(*papers.Admission) {}).Admission}
		}, netmap.Invalid, "none of the 1 keys in force signed"},
		{"an own admission with a lower serial", func(x *stage) netmap.Update {
			old := x.ledger.Papers.Admission
			x.s = accept(x.t, x.s, netmap.Update{Admission: x.readmit(x.ledger, func(*papers.Admission) {}).Admission}, x.Now)
			return netmap.Update{Admission: old}
		}, netmap.Rollback, "serial 1, 2 is held"},
		{"another own admission of one serial", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.readmit(x.ledger, func(a *papers.Admission) { a.Serial--; a.Issued = a.Issued.Add(1e9) }).Admission}
		}, netmap.Equivocation, "two of serial 1"},
		{"an own admission with other tags", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.readmit(x.ledger, func(a *papers.Admission) { a.Tags = []string{"other"} }).Admission}
		}, netmap.Conflict, "another name, address or principal"},
		{"an own admission from the future", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.readmit(x.ledger, func(a *papers.Admission) { a.Issued = x.Now.Add(trust.MaxAhead + 1e9) }).Admission}
		}, netmap.Ahead, "ahead of this clock"},
		{"an own admission that names a newer revision", func(x *stage) netmap.Update {
			return netmap.Update{Admission: x.readmit(x.ledger, func(a *papers.Admission) { a.Decided.Seq = x.Now.Unix() + 60 }).Admission}
		}, netmap.Incomplete, "admitted under the newer revision"},

		{"an admission signed by another key", func(x *stage) netmap.Update {
			x.AdmissionKey = x.PolicyKey
			return peers(x.Admit("mallory", "alice@acme.example").Papers)
		}, netmap.Invalid, "none of the 1 keys in force signed"},
		{"an admission with a lower serial", func(x *stage) netmap.Update {
			old := x.bob.Papers
			x.s = accept(x.t, x.s, peers(x.readmit(x.bob, func(*papers.Admission) {})), x.Now)
			return peers(old)
		}, netmap.Rollback, "serial 1, 2 is held"},
		{"another admission of one serial", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.Serial--; a.Expires = x.Now.Add(1e12) }))
		}, netmap.Equivocation, "two of serial 1"},
		{"an admission with another name than before", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.Name = "robert" }))
		}, netmap.Conflict, "than before"},
		{"an admission with another user than before", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.User = x.alice.Admission.User }))
		}, netmap.Conflict, "than before"},
		{"an admission with another subject than before", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) {
				a.User = &acl.User{Email: a.User.Email, Issuer: a.User.Issuer, Subject: "another"}
			}))
		}, netmap.Conflict, "than before"},
		{"an admission with another address than before", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.IPv4 = a.IPv4.Next().Next() }))
		}, netmap.Conflict, "than before"},
		{"an admission from the future", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.Issued = x.Now.Add(trust.MaxAhead + 1e9) }))
		}, netmap.Ahead, "ahead of this clock"},
		{"an admission that has expired", func(x *stage) netmap.Update {
			return peers(x.readmit(x.bob, func(a *papers.Admission) { a.Expires = x.Now }))
		}, netmap.Expired, "the session has ended"},
		{"an admission of a node that is out", func(x *stage) netmap.Update {
			x.s = accept(x.t, x.s, netmap.Update{Ended: x.End(x.bob.ID)}, x.Now)
			return peers(x.readmit(x.bob, func(*papers.Admission) {}))
		}, netmap.Out, "on the ended list"},
		{"the very papers held of a node that is out", func(x *stage) netmap.Update {
			x.s = accept(x.t, x.s, netmap.Update{Ended: x.End(x.bob.ID)}, x.Now)
			return peers(x.bob.Papers)
		}, netmap.Out, "on the ended list"},

		{"a record of another node", func(x *stage) netmap.Update {
			return peers(netmap.Papers{Admission: x.readmit(x.bob, func(*papers.Admission) {}).Admission, Record: x.alice.Papers.Record})
		}, netmap.Invalid, "not by"},
		{"no record", func(x *stage) netmap.Update {
			return peers(netmap.Papers{Admission: x.bob.Papers.Admission})
		}, netmap.Invalid, "malformed note"},
		{"a record with a lower serial", func(x *stage) netmap.Update {
			old := x.bob.Papers
			x.s = accept(x.t, x.s, peers(x.rerecord(x.bob, func(*papers.Record) {})), x.Now)
			return peers(old)
		}, netmap.Rollback, "serial 1, 2 is held"},
		{"another record of one serial", func(x *stage) netmap.Update {
			return peers(x.rerecord(x.bob, func(r *papers.Record) { r.Serial--; r.WG = key.NewWG().Public() }))
		}, netmap.Equivocation, "two of serial 1"},
		{"a record that has expired", func(x *stage) netmap.Update {
			return peers(x.rerecord(x.bob, func(r *papers.Record) { r.Expires = x.Now }))
		}, netmap.Expired, "ended 2026"},
		{"a record from the future", func(x *stage) netmap.Update {
			return peers(x.rerecord(x.bob, func(r *papers.Record) { r.Issued = x.Now.Add(trust.MaxAhead + 1e9); r.Expires = r.Issued.Add(1e9) }))
		}, netmap.Ahead, "ahead of this clock"},

		{"papers that claim another node's name", func(x *stage) netmap.Update {
			return peers(x.Admit("alice", "bob@acme.example").Papers)
		}, netmap.Conflict, "claims the name alice of alice"},
		{"papers that claim another node's address", func(x *stage) netmap.Update {
			n := x.Admit("carol", "bob@acme.example")
			return peers(x.readmit(n, func(a *papers.Admission) { a.IPv4 = x.alice.Admission.IPv4 }))
		}, netmap.Conflict, "claims the address"},
		{"papers that claim another node's WireGuard key", func(x *stage) netmap.Update {
			return peers(x.rerecord(x.bob, func(r *papers.Record) { r.WG = x.alice.WG.Public() }))
		}, netmap.Conflict, "claims the WireGuard key"},
		{"papers that claim this node's name", func(x *stage) netmap.Update {
			return peers(x.Admit("ledger-1", "bob@acme.example").Papers)
		}, netmap.Conflict, "claims this node's name"},
		{"papers that claim this node's address", func(x *stage) netmap.Update {
			n := x.Admit("carol", "bob@acme.example")
			return peers(x.readmit(n, func(a *papers.Admission) { a.IPv4 = x.ledger.Admission.IPv4 }))
		}, netmap.Conflict, "claims this node's address"},

		{"too many root documents", func(*stage) netmap.Update { return netmap.Update{Roots: make([][]byte, 1025)} },
			netmap.Invalid, "too many documents"},
		{"too many revisions", func(*stage) netmap.Update { return netmap.Update{Revisions: make([]netmap.Revision, 1025)} },
			netmap.Invalid, "too many documents"},
		{"too many leaves", func(*stage) netmap.Update { return leaves(make([]netmap.Proved, 1<<16+1)...) },
			netmap.Invalid, "too many documents"},
		{"too many papers", func(*stage) netmap.Update { return peers(make([]netmap.Papers, 1<<16+1)...) },
			netmap.Invalid, "too many documents"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			x := setStage(t)
			u := test.given(x)
			before, err := x.s.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			held := x.s.Netmap(x.Now)
			o := x.s.Accept(u, x.Now)
			if len(o.Refused) == 0 || o.Refused[0].Kind != test.kind || !strings.Contains(o.Refused[0].Error(), test.cause) {
				t.Fatalf("got refusals %v, want %q with %q", o.Refused, test.kind, test.cause)
			}
			// A change list that is refused leaves its revision without proofs.
			for _, r := range o.Refused[1:] {
				if r.Kind != netmap.Incomplete || !strings.HasPrefix(o.Refused[0].Document, "change list") {
					t.Errorf("got refusal %v too, want none", r)
				}
			}
			if o.Adopted {
				t.Error("a revision was adopted")
			}
			after := o.State.Netmap(x.Now)
			if after.Position != held.Position || after.Digest != held.Digest || len(after.Peers) != len(held.Peers) {
				t.Errorf("got a netmap at %v with %d peers, want that of before at %v with %d", after.Position, len(after.Peers), held.Position, len(held.Peers))
			}
			if b, _ := x.s.Marshal(); string(b) != string(before) {
				t.Error("the state before is another than it was")
			}
		})
	}
}

// sameRoot signs a next root document with the same keys.
func (x *stage) sameRoot(epoch int64) {
	x.AddRoot(trust.Root{
		Epoch:         epoch,
		RootThreshold: 1, RootKeys: []trust.VKey{x.RootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{x.PolicyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{x.AdmissionKey.Public()},
	})
}

// noChanges is the revision without its change list, so that all is to be proved.
func (x *stage) noChanges(r *netmaptest.Revision) *netmaptest.Revision {
	c := *r
	c.Doc.Changes = nil
	return &c
}

// changes publishes a revision whose change list is another.
func (x *stage) changes(change func(*leaf.ChangeList)) netmap.Update {
	x.t.Helper()
	r3 := x.next("bob@acme.example")
	l, err := leaf.ParseChangeList(r3.Doc.Changes)
	if err != nil {
		x.t.Fatal(err)
	}
	change(&l)
	m := *r3.Manifest
	doc := l.Encode()
	m.Changes = key.HashOf(doc)
	_, man := x.SignManifest(m)
	return revision(netmap.Revision{Manifest: man, Changes: doc})
}

// unreadable publishes a revision in which that leaf has a field that this
// version does not know.
func (x *stage) unreadable(name string) netmap.Update {
	x.t.Helper()
	r := *x.noChanges(x.next())
	all := make(map[string]leaf.Leaf)
	var list []leaf.Leaf
	for n, l := range r.Leaves {
		if n == name {
			l.Data = []byte(`{"unheard":1}` + "\n")
		}
		all[n] = l
		list = append(list, l)
	}
	tree, err := leaf.TreeOf(list)
	if err != nil {
		x.t.Fatal(err)
	}
	m := *r.Manifest
	m.Tree, m.NetworkLeaf, m.RelaysLeaf = tree.Root(), all[leaf.NameNetwork].Hash(), all[leaf.NameRelays].Hash()
	r.Tree, r.Leaves = tree, all
	r.Manifest, r.Doc.Manifest = x.SignManifest(m)
	return x.Everything(x.ledger, &r)
}
