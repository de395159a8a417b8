// Package netmap is the verifier: documents in, verdict out. From documents that
// anybody may hand it, a [State] keeps what the network's keys have signed, and
// its [Netmap] is what one node must know: who it is, who its peers are, and
// what may reach it.
//
// The package has no clock, file or socket, so that an adversary's sequences of
// documents can be tried against it. Agents and relays use the same code.
//
// # What is taken up, in order
//
//  1. Root documents extend the chain, one version at a time.
//  2. An ended list replaces the one held if it follows it. One of a later epoch
//     stands beside that of the revision held until a revision of that epoch is
//     adopted.
//  3. Manifests, oldest first, move the candidate forward: never back, never to
//     another manifest of the same (epoch, seq), never to one from the future.
//     A change list whose base is the candidate keeps every leaf that is not on
//     it; a manifest without one, or on another base, keeps none.
//  4. Leaves count if proved under the candidate, present or absent, or if they
//     are what a change list just followed says they have become.
//  5. The candidate is adopted only whole: its ended list is held, the node's own
//     admission does not name a later revision, and every leaf that the node
//     requires ([Required]) is proved present or absent. Otherwise the revision
//     held stays whole.
//  6. Peers' papers replace those of lower serials. A peer is somebody only while
//     each of its principals is proved present or absent under the revision
//     held, it is not on the ended list, its session has not ended, and the
//     admission keys of the root document that the revision names have signed
//     its admission.
//
// Leaves that nothing here needs are let go, proved or not. Of nodes that are
// gone the serials stay, so that their older papers are refused if they return.
//
// What is refused changes nothing and is reported as a [Refusal].
//
// # Time
//
// Time is the later of the caller's clock and the newest issued time verified.
package netmap

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Netmap is what one node must know. It never changes: a new state has a new
// netmap.
type Netmap struct {
	NetworkID key.NetworkID
	Position  trust.Position // of the revision enforced; zero before the first
	Manifest  key.Hash
	Commit    trust.Commit
	Issued    time.Time
	Ended     int64 // number of the ended list held

	Network leaf.Network
	Relays  []leaf.Relay

	Self      *acl.Subject // nil until admitted, and when out
	Addresses []netip.Addr // of this node
	Out       string       // why an admitted node is out of the network; empty when it is in
	Peers     []Peer       // by name
	Nobodies  []Nobody     // nodes whose papers prove too little, by id
	Inbound   []acl.Inbound

	Unenforced int      // grants that this version cannot enforce and so does not give
	Digest     key.Hash // of what is enforced
}

// A Peer is another node, fully proved.
type Peer struct {
	Subject   *acl.Subject
	Identity  key.IdentityPublic
	WG        key.WGPublic
	Relays    []string // home relays, best first
	Addresses []netip.Addr
	Endpoints []netip.AddrPort // where the policy says that it may be found
}

// A Nobody is a node that a state holds papers of which prove too little.
type Nobody struct {
	ID   key.NodeID
	Name string
	Why  string
}

// Peer finds the peer that has the address.
func (n *Netmap) Peer(a netip.Addr) (*Peer, bool) {
	for i := range n.Peers {
		if slices.Contains(n.Peers[i].Addresses, a) {
			return &n.Peers[i], true
		}
	}
	return nil, false
}

// Named finds the peer of that name, with or without the network's domain.
func (n *Netmap) Named(name string) (*Peer, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if n.Network.Domain != "" {
		name = strings.TrimSuffix(name, "."+n.Network.Domain)
	}
	i, ok := slices.BinarySearchFunc(n.Peers, name, func(p Peer, s string) int {
		return strings.Compare(p.Subject.Name, s)
	})
	if !ok {
		return nil, false
	}
	return &n.Peers[i], true
}

// Required are the names of the leaves that a node of these principals, groups
// and name must hold, present or absent, sorted. Its groups are those of its
// principal leaves, ended memberships included.
func Required(principals []acl.Selector, groups []acl.Membership, name string) []string {
	sel := func(k acl.Kind, name string) string {
		return leaf.InboundName(acl.Selector{Kind: k, Name: name})
	}
	out := []string{leaf.NameNetwork, leaf.NameRelays}
	if len(principals) > 0 {
		out = append(out, sel(acl.KindAny, ""), sel(acl.KindNode, name))
	}
	for _, p := range principals {
		out = append(out, leaf.PrincipalName(p), leaf.InboundName(p))
		switch p.Kind {
		case acl.KindUser:
			out = append(out, sel(acl.KindMember, ""), sel(acl.KindSelf, ""))
		case acl.KindTag:
			out = append(out, sel(acl.KindTagged, ""))
		}
	}
	for _, m := range groups {
		out = append(out, sel(acl.KindGroup, m.Group))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Digest is what a node acknowledges: SHA-256 over "writ-enforced/v1\n", the
// manifest's hash, and H(name) ‖ H(leaf) of each required leaf, H(leaf) being
// zeros for one that is proved absent, in the order of H(name).
func Digest(manifest key.Hash, required []leaf.Record) key.Hash {
	sorted := slices.SortedFunc(slices.Values(required), func(a, b leaf.Record) int {
		return bytes.Compare(a.Name[:], b.Name[:])
	})
	h := sha256.New()
	h.Write([]byte("writ-enforced/v1\n"))
	h.Write(manifest[:])
	for _, r := range sorted {
		h.Write(r.Name[:])
		h.Write(r.Leaf[:])
	}
	return key.Hash(h.Sum(nil))
}

// Expected is the digest that a node with this admission acknowledges when it
// enforces the revision of that manifest and tree.
func Expected(a *papers.Admission, manifest key.Hash, tree *leaf.Tree, principal func(name string) (leaf.Principal, bool)) key.Hash {
	var groups []acl.Membership
	for _, p := range a.Principals() {
		if l, ok := principal(leaf.PrincipalName(p)); ok {
			groups = append(groups, l.Groups...)
		}
	}
	var records []leaf.Record
	for _, name := range Required(a.Principals(), groups, a.Name) {
		h, _ := tree.Has(name)
		records = append(records, leaf.Record{Name: leaf.NameHash(name), Leaf: h})
	}
	return Digest(manifest, records)
}

// Netmap is what the state amounts to at the caller's time.
func (s *State) Netmap(now time.Time) *Netmap {
	at := s.At(now)
	n := &Netmap{NetworkID: s.network}
	if s.ended != nil {
		n.Ended = s.ended.Number
	}
	if s.manifest == nil {
		return n
	}
	n.Position, n.Manifest, n.Commit, n.Issued = s.manifest.Position, s.manifest.Hash(), s.manifest.Commit, s.manifest.Issued
	n.Network, n.Relays = s.networkLeaf, s.relaysLeaf.Relays
	n.Digest = s.digest()
	if s.admission == nil {
		return n
	}
	n.Addresses = s.admission.Addresses()
	self, why := s.subject(s.admission)
	switch {
	case why != "":
		n.Out = why
	case self.Nobody(at):
		n.Out = "session ended " + self.Expires.UTC().Format(time.RFC3339)
	}
	if n.Out != "" {
		return n
	}
	n.Self = self
	for _, name := range Required(s.admission.Principals(), self.Groups, self.Name) {
		if h := s.held[name]; h != nil && h.inbound != nil {
			n.Inbound = append(n.Inbound, *h.inbound)
			n.Unenforced += h.unenforced
		}
	}
	static := map[key.NodeID][]netip.AddrPort{}
	for _, e := range s.relaysLeaf.Endpoints {
		static[e.Node] = e.Addrs
	}
	for id, p := range s.peers {
		subject, why := s.subject(p.admission)
		if subject != nil {
			subject.Posture = p.record.Posture
		}
		switch {
		case why != "":
		case !s.inForce(p):
			why = "the keys that signed its admission are no longer in force"
		case subject.Nobody(at):
			why = "session ended"
		}
		if why != "" {
			n.Nobodies = append(n.Nobodies, Nobody{id, p.admission.Name, why})
			continue
		}
		n.Peers = append(n.Peers, Peer{
			Subject:   subject,
			Identity:  p.admission.Identity,
			WG:        p.record.WG,
			Relays:    p.record.Relays,
			Addresses: p.admission.Addresses(),
			Endpoints: static[id],
		})
	}
	slices.SortFunc(n.Peers, func(a, b Peer) int { return strings.Compare(a.Subject.Name, b.Subject.Name) })
	slices.SortFunc(n.Nobodies, func(a, b Nobody) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return n
}

// subject is what the leaves held prove of an admitted node, or why they prove
// nothing.
func (s *State) subject(a *papers.Admission) (*acl.Subject, string) {
	id := a.Identity.NodeID()
	if why, out := s.out(id); out {
		return nil, "ended: " + why
	}
	if s.manifest == nil || s.manifest.Position.Compare(a.Decided) < 0 {
		return nil, "admitted under a newer revision than the one held"
	}
	sub := &acl.Subject{ID: id, Name: a.Name, User: a.User, Tags: a.Tags, Expires: a.Expires}
	for _, p := range a.Principals() {
		h := s.held[leaf.PrincipalName(p)]
		switch {
		case h == nil:
			return nil, p.String() + " is not proved"
		case h.bad:
			return nil, p.String() + " cannot be read by this version"
		case h.principal != nil:
			sub.Groups = append(sub.Groups, h.principal.Groups...)
		}
	}
	return sub, ""
}
