// Package view says what one caller is sent: the difference between what it has
// and what a snapshot holds for it. A view is a function of (snapshot, node,
// have, time) and of nothing else, so that any replica gives the same answer and
// a slow reader misses steps but never the newest state.
//
// # What a node is sent, in order
//
//  1. Root documents above the version it has.
//  2. The ended list, where its own is older.
//  3. Every revision after its own with its change list, where the lists form an
//     unbroken chain of at most [maxChain] bytes; otherwise the newest manifest
//     alone, and proofs for everything.
//  4. Every leaf that it requires and that the chain changed, without a proof, or
//     that it newly requires, with one.
//  5. The principal leaves that the chain changed of the peers that it knows.
//  6. Its own admission, where it has an older one or none.
//  7. Papers of the nodes that concern it and are not as it has them, with their
//     principal leaves and proofs; and the ids of those that no longer do.
//
// 1 to 6 are one message, because a verifier adopts a revision whole or not at
// all; 1 and 2 come before it where they are large. 7 follows in messages of
// about [batch] bytes. A node that concerns nobody in a change is sent the
// manifest and its change list.
//
// A node that is not admitted, and a relay, is sent what a verifier requires that
// has no admission: 1 to 3 and the leaves network and relays. A node that is out
// is sent 1 and 2, so that it can see that it is.
//
// # Who concerns a node
//
// Those that may reach it or that it may reach by any grant, ports and time and
// exceptions aside (state.Concerning), and whose papers a verifier would take up:
// with a record, neither expired.
//
// # What is never sent
//
// A revision that is not after the caller's own; a leaf whose content the disk
// lost: a node that requires one stays at its revision, and [Next.Withheld] says
// why.
package view

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
)

const (
	// maxChain is how many bytes of change lists a node is sent rather than
	// proofs: a proof of a leaf is some 600 bytes, a node requires some twenty
	// leaves, and its peers' are about as many again.
	maxChain = 1 << 20

	// batch is the size at which papers begin a new message.
	batch = 1 << 20

	// room is what a message may take up, leaving some for its envelope.
	room = wire.MaxMessage - 64<<10
)

// A Next is what a caller is sent.
type Next struct {
	Updates  []*wire.Update
	Have     netmap.Have // what it has when it has taken them up
	Withheld error       // why a newer revision is not among them
	Complete bool        // of Peers: the caller knows all that concern it
}

// Everything is what a caller has that asks for everything: nothing, but peers
// to be told of that no longer concern it.
func Everything(h netmap.Have) netmap.Have {
	out := netmap.Have{Peers: make(map[key.NodeID]netmap.Serials, len(h.Peers))}
	for id := range h.Peers {
		out.Peers[id] = netmap.Serials{}
	}
	return out
}

// For is the whole view of a node that follows with what it has.
func For(s *state.Snapshot, id key.NodeID, have netmap.Have, at time.Time) Next {
	next := Documents(s, nil, id, have)
	peers := Peers(s, nil, id, next.Have, at)
	return Next{append(next.Updates, peers.Updates...), peers.Have, next.Withheld, peers.Complete}
}

// Documents is the part of the view that is of one piece: 1 to 6. A relay is
// the zero id.
func Documents(s *state.Snapshot, w *state.Watch, id key.NodeID, have netmap.Have) Next {
	d := &documents{s: s, id: id, have: have, u: &wire.Update{}}
	d.next.Have = have
	n, ok := s.Node(w, id)
	d.roots(w)
	d.ended(w)
	r := s.Newest(w)
	switch {
	case ok && n.Ended != "":
	case r == nil:
		d.next.Withheld = errors.New("no revision is published, or the newest is damaged")
	default:
		if ok {
			d.node = n
		}
		d.split()
		d.revision(r)
	}
	if !empty(d.u) {
		d.next.Updates = append(d.next.Updates, d.u)
	}
	d.next.Updates = append(d.next.Updates, d.later...)
	return d.next
}

func empty(u *wire.Update) bool { return proto.Size(u) == 0 }

// documents is one view in the making.
type documents struct {
	s     *state.Snapshot
	id    key.NodeID
	have  netmap.Have
	node  *state.Node // nil for a relay and a node that is not admitted
	u     *wire.Update
	later []*wire.Update // proofs of peers' principals for which there was no room
	next  Next
}

func (d *documents) roots(w *state.Watch) {
	for _, r := range d.s.Roots(w) {
		if r.Root.Version > d.have.Root {
			d.u.Roots = append(d.u.Roots, r.Doc)
			d.next.Have.Root = r.Root.Version
			d.split()
		}
	}
}

// ended sends the list where the caller's is older: by number, or because it
// does not know of the list's epoch yet.
func (d *documents) ended(w *state.Watch) {
	e := d.s.Ended(w)
	if e.List == nil {
		return
	}
	if e.List.Number > d.have.Ended || d.have.Position.Epoch != e.List.Epoch {
		if e.List.Number == d.have.Ended && d.have.EndedHash == e.List.Hash() {
			return
		}
		d.u.Ended = e.Doc
		d.next.Have.Ended, d.next.Have.EndedHash = e.List.Number, e.List.Hash()
	}
}

// split sends what there is before a revision in a message of its own, where it
// is large.
func (d *documents) split() {
	if proto.Size(d.u) > batch {
		d.next.Updates = append(d.next.Updates, d.u)
		d.u = &wire.Update{}
	}
}

// revision sends the newest revision and the node's admission.
func (d *documents) revision(r *state.Revision) {
	admission := d.admission(r)
	m := r.Manifest
	moved := d.have.Manifest != m.Hash()
	switch {
	case m.Position.Compare(d.have.Position) < 0:
		return // the caller knows more than this coordinator does
	case !moved && !admission:
		return
	}
	var revisions []*wire.Revision
	var changed map[key.Hash]key.Hash // nil: everything is to be proved
	if moved {
		revisions, changed = d.chain(r)
	} else {
		changed = map[key.Hash]key.Hash{}
	}
	own, err := d.required(r, changed, admission && d.have.Admission == 0)
	if err != nil {
		d.next.Withheld = err
		return
	}
	d.u.Revisions, d.u.Leaves = revisions, own
	if admission {
		d.u.Admission = d.node.AdmissionDoc
		d.next.Have.Admission = d.node.Admission.Serial
	}
	d.next.Have.Position, d.next.Have.Manifest = m.Position, m.Hash()
	if size := proto.Size(d.u); size > room {
		d.next.Withheld = fmt.Errorf("revision %s takes %d bytes for this node, and a message has room for %d", m.Position, size, room)
		d.u.Revisions, d.u.Leaves, d.u.Admission = nil, nil, nil
		d.next.Have.Position, d.next.Have.Manifest, d.next.Have.Admission = d.have.Position, d.have.Manifest, d.have.Admission
		return
	}
	d.peers(r, changed)
}

// admission reports whether the node's own admission is news to it.
func (d *documents) admission(r *state.Revision) bool {
	return d.node != nil && d.node.Admission.Serial > d.have.Admission &&
		r.Manifest.Position.Compare(d.node.Admission.Decided) >= 0
}

// chain is the way from the caller's revision to the newest, with what it
// changes; or the newest alone.
func (d *documents) chain(r *state.Revision) ([]*wire.Revision, map[key.Hash]key.Hash) {
	alone := []*wire.Revision{{Manifest: r.Doc}}
	if d.have.Manifest.IsZero() {
		return alone, nil
	}
	var way []*state.Revision
	size := 0
	all := d.s.Revisions()
	root, _ := d.s.Root(nil)
	for _, rev := range slices.Backward(all) {
		if rev.Manifest.Hash() == d.have.Manifest {
			break
		}
		size += len(rev.Changes)
		if rev.Changes == nil || size > maxChain || !verifies(rev, root.Root) {
			return alone, nil
		}
		way = append(way, rev)
	}
	if len(way) == len(all) || way[len(way)-1].Manifest.Prev != d.have.Manifest {
		return alone, nil
	}
	changed := way[0].Changed
	if len(way) > 1 {
		changed = map[key.Hash]key.Hash{}
	}
	var revisions []*wire.Revision
	for i, rev := range slices.Backward(way) {
		if i > 0 && way[i-1].Manifest.Prev != rev.Manifest.Hash() {
			return alone, nil
		}
		revisions = append(revisions, &wire.Revision{Manifest: rev.Doc, Changes: rev.Changes})
		if len(way) > 1 {
			maps.Copy(changed, rev.Changed)
		}
	}
	return revisions, changed
}

// verifies reports whether a verifier that holds the newest root document takes
// the manifest up.
func verifies(r *state.Revision, root *trust.Root) bool {
	if r.Manifest.Root == root.Hash() {
		return true
	}
	_, err := trust.OpenManifest(r.Doc, root)
	return err == nil
}

// required are the leaves that the caller must be sent to adopt the newest
// revision. All is set for a node that did not know itself until now.
func (d *documents) required(r *state.Revision, changed map[key.Hash]key.Hash, all bool) (out []*wire.ProvedLeaf, err error) {
	var principals []acl.Selector
	var groups []acl.Membership
	name := ""
	if d.node != nil {
		principals, groups, name = d.node.Admission.Principals(), d.node.Groups, d.node.Admission.Name
	}
	// Which groups' leaves a node requires follows from its principal leaves: as
	// long as these are what they were, it requires what it did.
	regrouped := all || changed == nil
	for _, p := range principals {
		if _, ok := changed[leaf.NameHash(leaf.PrincipalName(p))]; ok {
			regrouped = true
		}
	}
	for _, name := range netmap.Required(principals, groups, name) {
		h := leaf.NameHash(name)
		_, onList := changed[h]
		switch {
		case all || changed == nil || !onList && regrouped && isGroup(name):
			l, err := d.proved(r, name)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		case onList:
			l, err := d.content(name)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		}
	}
	return out, nil
}

func isGroup(name string) bool {
	const prefix = "inbound/group:"
	return len(name) > len(prefix) && name[:len(prefix)] == prefix
}

// content is a leaf, or its absence, without a proof.
func (d *documents) content(name string) (*wire.ProvedLeaf, error) { return content(d.s, name) }

func content(s *state.Snapshot, name string) (*wire.ProvedLeaf, error) {
	l, ok := s.Leaf(leaf.NameHash(name))
	switch {
	case !ok:
		return &wire.ProvedLeaf{Name: name, Absent: true}, nil
	case l.Lost:
		return nil, fmt.Errorf("the content of leaf %s is lost", name)
	}
	return &wire.ProvedLeaf{Name: name, Data: l.Leaf.Data}, nil
}

func (d *documents) proved(r *state.Revision, name string) (*wire.ProvedLeaf, error) {
	return proved(d.s, r, name)
}

func proved(s *state.Snapshot, r *state.Revision, name string) (*wire.ProvedLeaf, error) {
	l, err := content(s, name)
	if err == nil {
		l.Proof, err = r.Prove(name)
	}
	return l, err
}

// peers sends the principal leaves, of the peers that the caller knows, that are
// not what they were. A peer whose leaf is lost is nobody to it until the leaf
// is found; one for whose leaf there is no room is proved in the next message.
func (d *documents) peers(r *state.Revision, changed map[key.Hash]key.Hash) {
	names := map[string]bool{}
	note := func(n *state.Node) {
		for _, p := range n.Admission.Principals() {
			name := leaf.PrincipalName(p)
			if _, ok := changed[leaf.NameHash(name)]; ok || changed == nil {
				names[name] = true
			}
		}
	}
	if changed == nil || len(d.have.Peers) < len(changed) {
		for id := range d.have.Peers {
			if n, ok := d.s.Node(nil, id); ok {
				note(n)
			}
		}
	} else {
		for h := range changed {
			for _, n := range d.s.Bearing(h) {
				if _, known := d.have.Peers[n.ID]; known {
					note(n)
				}
			}
		}
	}
	for _, l := range d.u.Leaves {
		delete(names, l.Name)
	}
	size := proto.Size(d.u)
	var overflow *wire.Update
	over := 0
	for _, name := range slices.Sorted(maps.Keys(names)) {
		l, err := d.content(name)
		if err != nil {
			continue
		}
		if changed == nil {
			if l, err = d.proved(r, name); err != nil {
				continue
			}
		}
		n := proto.Size(l) + 8
		if size+n <= room/2 {
			d.u.Leaves = append(d.u.Leaves, l)
			size += n
			continue
		}
		if l.Proof == nil {
			if l, err = d.proved(r, name); err != nil {
				continue
			}
		}
		if overflow == nil || over > batch {
			overflow, over = &wire.Update{}, 0
			d.later = append(d.later, overflow)
		}
		overflow.Leaves = append(overflow.Leaves, l)
		over += proto.Size(l) + 8
	}
}

// Peers is the part of the view about other nodes: 7. Have is what the node has
// once it has taken up its Documents.
func Peers(s *state.Snapshot, w *state.Watch, id key.NodeID, have netmap.Have, at time.Time) Next {
	next := Next{Have: have}
	next.Have.Peers = maps.Clone(have.Peers)
	if next.Have.Peers == nil {
		next.Have.Peers = map[key.NodeID]netmap.Serials{}
	}
	n, ok := s.Node(w, id)
	r := s.Newest(nil)
	if !ok || n.Ended != "" || have.Admission == 0 || r == nil || have.Manifest != r.Manifest.Hash() {
		// Papers are proved under the newest revision, which it does not hold.
		return next
	}
	concerning := s.Concerning(w, n)
	p := &papersOf{s: s, r: r, proved: map[string]bool{}}
	for _, id := range slices.SortedFunc(maps.Keys(concerning), compareIDs) {
		m := concerning[id]
		held, known := have.Peers[id]
		if m.Record == nil || known && held.Admission >= m.Admission.Serial && held.Record >= m.Record.Serial {
			continue
		}
		if !at.Before(m.Record.Expires) || !m.Admission.Expires.IsZero() && !at.Before(m.Admission.Expires) ||
			r.Manifest.Position.Compare(m.Admission.Decided) < 0 {
			continue
		}
		p.add(m, known && held != (netmap.Serials{}))
		next.Have.Peers[id] = netmap.Serials{Admission: m.Admission.Serial, Record: m.Record.Serial}
	}
	for _, id := range slices.SortedFunc(maps.Keys(have.Peers), compareIDs) {
		if concerning[id] == nil {
			p.gone(id)
			delete(next.Have.Peers, id)
		}
	}
	next.Updates, next.Complete = p.updates, true
	return next
}

func compareIDs(a, b key.NodeID) int { return bytes.Compare(a[:], b[:]) }

// papersOf collects papers into messages.
type papersOf struct {
	s       *state.Snapshot
	r       *state.Revision
	proved  map[string]bool // leaves that are in one of the messages
	updates []*wire.Update
	size    int // of the last message
}

func (p *papersOf) message(size int) *wire.Update {
	if len(p.updates) == 0 || p.size+size > batch {
		p.updates = append(p.updates, &wire.Update{})
		p.size = 0
	}
	p.size += size
	return p.updates[len(p.updates)-1]
}

// add sends a node's papers, and its principal leaves where the caller does not
// have them from before.
func (p *papersOf) add(n *state.Node, known bool) {
	papers := &wire.Papers{Admission: n.AdmissionDoc, Record: n.RecordDoc}
	size := proto.Size(papers) + 8
	var leaves []*wire.ProvedLeaf
	for _, sel := range n.Admission.Principals() {
		name := leaf.PrincipalName(sel)
		if known || p.proved[name] {
			continue
		}
		l, err := proved(p.s, p.r, name)
		if err != nil {
			continue // lost: the node is nobody until it is found
		}
		p.proved[name] = true
		leaves = append(leaves, l)
		size += proto.Size(l) + 8
	}
	u := p.message(size)
	u.Leaves = append(u.Leaves, leaves...)
	u.Peers = append(u.Peers, papers)
}

func (p *papersOf) gone(id key.NodeID) {
	u := p.message(len(id) + 8)
	u.Gone = append(u.Gone, id[:])
}
