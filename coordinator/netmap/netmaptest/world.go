// Package netmaptest founds small networks for tests: root, policy and admission
// keys, nodes with their papers, and revisions made of grants, all really signed.
package netmaptest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// A World is a network with all its keys in one hand.
type World struct {
	tb testing.TB

	Now                              time.Time // of what is signed next; Advance moves it
	Network                          key.NetworkID
	Roots                            [][]byte
	Root                             *trust.Root
	RootKey, PolicyKey, AdmissionKey trust.SigningKey
	Seal                             key.SealPrivate

	Ended    *trust.Ended
	EndedDoc []byte

	Revisions []*Revision
	Nodes     []*Node
	logHead   key.Hash
}

// A Node is a node of the world with its private keys.
type Node struct {
	Key       key.IdentityPrivate
	WG        key.WGPrivate
	ID        key.NodeID
	Admission *papers.Admission
	Papers    netmap.Papers
	Record    *papers.Record
}

// A Revision is a signed manifest with what stands behind it.
type Revision struct {
	Doc      netmap.Revision
	Manifest *trust.Manifest
	Tree     *leaf.Tree
	Leaves   map[string]leaf.Leaf
}

// A Policy is what a revision compiles from.
type Policy struct {
	Groups map[string][]string  // group → users and "tag:" selectors
	Until  map[string]time.Time // "group member" → end of that membership
	Rules  []Rule
	Relays []leaf.Relay
	// Endpoints of nodes, sorted by node.
	Endpoints []leaf.NodeEndpoints
	Extra     []leaf.Leaf // added as they are
}

// A Rule is one grant to one destination, in the policy's words.
type Rule struct {
	Name, From, To, Allow string // From and Allow: separated by spaces
	Except                string
	Until                 time.Time
	Hours                 acl.Hours
	Posture               acl.Postures
	Capabilities          map[string]json.RawMessage
}

// New founds a network at that time.
func New(tb testing.TB, now time.Time) *World {
	tb.Helper()
	w := &World{tb: tb, Now: now.UTC().Truncate(time.Second), Seal: key.NewSeal()}
	for _, k := range []struct {
		name string
		into *trust.SigningKey
	}{{"root-1", &w.RootKey}, {"policy-1", &w.PolicyKey}, {"admission-1", &w.AdmissionKey}} {
		sk, err := trust.NewSigningKey(k.name)
		w.must(err)
		*k.into = sk
	}
	w.AddRoot(trust.Root{
		Version: 1, Epoch: 1,
		RootThreshold: 1, RootKeys: []trust.VKey{w.RootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{w.PolicyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{w.AdmissionKey.Public()},
		SealKeys: []key.SealPublic{w.Seal.Public()},
	})
	w.End()
	return w
}

func (w *World) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

// AddRoot signs the next root document with RootKey; network, version, prev and
// issued are filled in.
func (w *World) AddRoot(r trust.Root) []byte {
	w.tb.Helper()
	r.Version, r.Issued = int64(len(w.Roots)+1), w.Now
	if w.Root != nil {
		r.Network, r.Prev = w.Network, w.Root.Hash()
	}
	root, err := trust.NewRoot(r)
	w.must(err)
	doc, err := trust.Sign(root.Text(), w.RootKey)
	w.must(err)
	w.Root, w.Network = root, root.Network
	w.Roots = append(w.Roots, doc)
	return doc
}

// Advance moves the world's time.
func (w *World) Advance(d time.Duration) { w.Now = w.Now.Add(d).Truncate(time.Second) }

// End signs a new ended list with these nodes added.
func (w *World) End(ids ...key.NodeID) []byte {
	w.tb.Helper()
	e := trust.Ended{Network: w.Network, Epoch: w.Root.Epoch, Number: 1, Issued: w.Now, Nodes: map[key.NodeID]string{}}
	if w.Ended != nil && w.Ended.Epoch == w.Root.Epoch {
		e.Number = w.Ended.Number + 1
		for id, why := range w.Ended.Nodes {
			e.Nodes[id] = why
		}
	}
	for _, id := range ids {
		e.Nodes[id] = "revoked"
	}
	ended, err := trust.NewEnded(e)
	w.must(err)
	w.EndedDoc, err = trust.Sign(ended.Text(), w.AdmissionKey)
	w.must(err)
	w.Ended = ended
	return w.EndedDoc
}

// Admit makes a node: who is a user's e-mail address, or tags as in
// "tag:a tag:b".
func (w *World) Admit(name, who string) *Node {
	w.tb.Helper()
	k := key.NewIdentity()
	n := &Node{Key: k, WG: key.NewWG(), ID: k.Public().NodeID()}
	n4 := len(w.Nodes) + 1
	a := papers.Admission{
		Network: w.Network, Log: int64(n4), Prev: w.logHead, Identity: k.Public(), Name: name,
		IPv4: netip.AddrFrom4([4]byte{100, 64, byte(n4 >> 8), byte(n4)}), IPv6: papers.Address6(w.Network, k.Public()),
		Basis: papers.Basis{Kind: "pin", Name: name}, Decided: trust.Position{Epoch: 1, Seq: 1},
		Issued: w.Now, Serial: 1,
	}
	if strings.HasPrefix(who, "tag:") {
		for _, t := range strings.Fields(who) {
			a.Tags = append(a.Tags, strings.TrimPrefix(t, "tag:"))
		}
		slices.Sort(a.Tags)
	} else {
		a.User = &acl.User{Email: who, Issuer: "git", Subject: who}
	}
	w.SignAdmission(n, a)
	w.SignRecord(n, nil)
	w.logHead = n.Admission.Hash()
	w.Nodes = append(w.Nodes, n)
	return n
}

// SignAdmission signs an admission for the node, whatever it says.
func (w *World) SignAdmission(n *Node, a papers.Admission) {
	w.tb.Helper()
	ad, err := papers.NewAdmission(a)
	w.must(err)
	n.Admission = ad
	n.Papers.Admission, err = trust.Sign(ad.Text(), w.AdmissionKey)
	w.must(err)
}

// SignRecord signs the node's next record, good for a day.
func (w *World) SignRecord(n *Node, relays []string) {
	w.tb.Helper()
	r := papers.Record{Network: w.Network, Serial: 1, WG: n.WG.Public(), Relays: relays, Issued: w.Now, Expires: w.Now.Add(24 * time.Hour)}
	if n.Record != nil {
		r.Serial = n.Record.Serial + 1
	}
	var err error
	n.Papers.Record, n.Record, err = papers.SignRecord(r, n.Key)
	w.must(err)
}

// Publish signs the next revision.
func (w *World) Publish(p Policy) *Revision {
	w.tb.Helper()
	leaves := w.compile(p)
	tree, err := leaf.TreeOf(leaves)
	w.must(err)
	r := &Revision{Tree: tree, Leaves: map[string]leaf.Leaf{}}
	for _, l := range leaves {
		r.Leaves[l.Name] = l
	}
	m := trust.Manifest{
		Network: w.Network, Root: w.Root.Hash(), Position: trust.Position{Epoch: w.Root.Epoch, Seq: w.Now.Unix()},
		Commit: trust.Commit(fmt.Sprintf("%040x", len(w.Revisions)+1)), Source: tree.Root(), Compiler: "writ/test",
		Issued: w.Now, Leaves: tree.Size(), Tree: tree.Root(),
		NetworkLeaf: r.Leaves[leaf.NameNetwork].Hash(), RelaysLeaf: r.Leaves[leaf.NameRelays].Hash(),
		Ended: w.Ended.Hash(), EndedNumber: w.Ended.Number, Inventory: w.logHead,
	}
	var old *leaf.Tree
	list := leaf.ChangeList{Network: w.Network}
	if n := len(w.Revisions); n > 0 {
		last := w.Revisions[n-1]
		m.Prev, m.Base, list.Base, old = last.Manifest.Hash(), last.Manifest.Commit, last.Manifest.Hash(), last.Tree
		if last.Manifest.Epoch == m.Epoch {
			m.Seq = max(m.Seq, last.Manifest.Seq+1)
		}
	}
	list.Changes = leaf.Diff(old, tree)
	r.Doc.Changes = list.Encode()
	m.Changes = key.HashOf(r.Doc.Changes)
	r.Manifest, r.Doc.Manifest = w.SignManifest(m)
	w.Revisions = append(w.Revisions, r)
	return r
}

// SignManifest signs a manifest, whatever it says.
func (w *World) SignManifest(m trust.Manifest) (*trust.Manifest, []byte) {
	w.tb.Helper()
	man, err := trust.NewManifest(m)
	w.must(err)
	doc, err := trust.Sign(man.Text(), w.PolicyKey)
	w.must(err)
	return man, doc
}

func (w *World) compile(p Policy) []leaf.Leaf {
	w.tb.Helper()
	add := func(out []leaf.Leaf, name string, content any) []leaf.Leaf {
		l, err := leaf.Encode(name, content)
		w.must(err)
		return append(out, l)
	}
	sels := func(s string) (out []acl.Selector) {
		for _, f := range strings.Fields(s) {
			sel, err := acl.ParseSelector(f)
			w.must(err)
			out = append(out, sel)
		}
		return out
	}
	out := add(nil, leaf.NameNetwork, leaf.Network{Name: "acme", Domain: "acme.mesh", Prefix4: netip.MustParsePrefix("100.64.0.0/10"), Session: 3600})
	out = add(out, leaf.NameRelays, leaf.Relays{Relays: p.Relays, Endpoints: p.Endpoints})
	principals := map[acl.Selector][]acl.Membership{}
	for group, members := range p.Groups {
		for _, m := range members {
			sel := sels(m)[0]
			principals[sel] = append(principals[sel], acl.Membership{Group: group, Until: p.Until[group+" "+m]})
		}
	}
	for sel, groups := range principals {
		slices.SortFunc(groups, func(a, b acl.Membership) int { return strings.Compare(a.Group, b.Group) })
		out = add(out, leaf.PrincipalName(sel), leaf.Principal{Principal: sel, Groups: groups})
	}
	inbound := map[acl.Selector]*acl.Inbound{}
	for _, r := range p.Rules {
		g := acl.Grant{Rule: r.Name, From: sels(r.From), Except: sels(r.Except), Until: r.Until, Hours: r.Hours, Posture: r.Posture, Capabilities: r.Capabilities}
		for _, f := range strings.Fields(r.Allow) {
			ports, err := acl.ParsePorts(f)
			w.must(err)
			g.Allow = append(g.Allow, ports)
		}
		to := sels(r.To)[0]
		if inbound[to] == nil {
			inbound[to] = &acl.Inbound{To: to}
		}
		inbound[to].Grants = append(inbound[to].Grants, g)
	}
	for to, in := range inbound {
		out = add(out, leaf.InboundName(to), in)
	}
	return append(out, p.Extra...)
}

// Prove shows a leaf, or its absence, under the revision.
func (w *World) Prove(r *Revision, name string) netmap.Proved {
	w.tb.Helper()
	p, err := r.Tree.Prove(name)
	w.must(err)
	l, ok := r.Leaves[name]
	return netmap.Proved{Name: name, Data: l.Data, Absent: !ok, Proof: p.Append(nil)}
}

// Groups are those of an admission under the revision.
func (w *World) Groups(r *Revision, a *papers.Admission) (out []acl.Membership) {
	w.tb.Helper()
	for _, p := range a.Principals() {
		if l, ok := r.Leaves[leaf.PrincipalName(p)]; ok {
			c, err := leaf.DecodePrincipal(l)
			w.must(err)
			out = append(out, c.Groups...)
		}
	}
	return out
}

// Everything is what a node that holds nothing needs to enforce the revision and
// to know these peers.
func (w *World) Everything(n *Node, r *Revision, peers ...*Node) netmap.Update {
	w.tb.Helper()
	u := netmap.Update{Roots: w.Roots, Ended: w.EndedDoc, Revisions: []netmap.Revision{r.Doc}}
	if n != nil {
		u.Admission = n.Papers.Admission
		for _, name := range netmap.Required(n.Admission.Principals(), w.Groups(r, n.Admission), n.Admission.Name) {
			u.Leaves = append(u.Leaves, w.Prove(r, name))
		}
	} else {
		for _, name := range netmap.Required(nil, nil, "") {
			u.Leaves = append(u.Leaves, w.Prove(r, name))
		}
	}
	for _, p := range peers {
		u.Peers = append(u.Peers, p.Papers)
		for _, sel := range p.Admission.Principals() {
			u.Leaves = append(u.Leaves, w.Prove(r, leaf.PrincipalName(sel)))
		}
	}
	return u
}

// Delta is what a node that enforces the revision before r, and knows these
// peers, needs to follow: the change list and the leaves on it, without proofs
// but for the newly required.
func (w *World) Delta(n *Node, before, r *Revision, peers ...*Node) netmap.Update {
	w.tb.Helper()
	u := netmap.Update{Ended: w.EndedDoc, Revisions: []netmap.Revision{r.Doc}}
	was := netmap.Required(n.Admission.Principals(), w.Groups(before, n.Admission), n.Admission.Name)
	names := netmap.Required(n.Admission.Principals(), w.Groups(r, n.Admission), n.Admission.Name)
	for _, p := range peers {
		for _, sel := range p.Admission.Principals() {
			names = append(names, leaf.PrincipalName(sel))
			was = append(was, leaf.PrincipalName(sel))
		}
	}
	for _, name := range names {
		a, _ := before.Tree.Has(name)
		b, _ := r.Tree.Has(name)
		switch {
		case !slices.Contains(was, name):
			u.Leaves = append(u.Leaves, w.Prove(r, name))
		case a != b:
			p := w.Prove(r, name)
			p.Proof = nil
			u.Leaves = append(u.Leaves, p)
		}
	}
	return u
}
