package state

import (
	"fmt"
	"sync"

	"github.com/hashicorp/go-memdb"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Root is a root document.
type Root struct {
	Root *trust.Root
	Doc  []byte
}

// An Ended is an ended list.
type Ended struct {
	List *trust.Ended
	Doc  []byte
}

// A Revision is a manifest with what leads to it.
type Revision struct {
	Manifest *trust.Manifest
	Doc      []byte
	Changes  []byte                // nil where there is no list
	Changed  map[key.Hash]key.Hash // H(name) → H(leaf) of the list; zero for removed
	Tree     *leaf.Tree            // of the newest revision; nil in those before

	proofs *proofs
}

// NewRevision is a revision as it is published; list are its changes.
func NewRevision(m *trust.Manifest, doc, changes []byte, list []leaf.Change, tree *leaf.Tree) *Revision {
	r := &Revision{Manifest: m, Doc: doc, Changes: changes, Tree: tree, proofs: &proofs{made: map[string][]byte{}}}
	if changes != nil {
		r.Changed = make(map[key.Hash]key.Hash, len(list))
		for _, c := range list {
			r.Changed[c.Name] = c.New
		}
	}
	return r
}

// past is the revision without what only the newest needs.
func (r *Revision) past() *Revision {
	p := *r
	p.Tree, p.proofs = nil, nil
	return &p
}

// proofs are the encoded proofs asked for so far: many nodes require the same
// leaves, and a proof is the same for all of them.
type proofs struct {
	mu   sync.Mutex
	made map[string][]byte
}

// Prove shows that the newest revision has, or has not, a leaf of that name.
func (r *Revision) Prove(name string) ([]byte, error) {
	if r.Tree == nil {
		return nil, fmt.Errorf("prove %s: revision %s is not the newest", name, r.Manifest.Position)
	}
	r.proofs.mu.Lock()
	defer r.proofs.mu.Unlock()
	if b, ok := r.proofs.made[name]; ok {
		return b, nil
	}
	p, err := r.Tree.Prove(name)
	if err != nil {
		return nil, err
	}
	b := p.Append(nil)
	r.proofs.made[name] = b
	return b, nil
}

// A Leaf is a record of the newest revision with its content.
type Leaf struct {
	Name key.Hash // H(name)
	Hash key.Hash // H(leaf)
	Leaf leaf.Leaf
	Lost bool // the content was damaged on disk: known, and cannot be served
}

// NewLeaf is the row of a leaf.
func NewLeaf(l leaf.Leaf) *Leaf { return &Leaf{Name: leaf.NameHash(l.Name), Hash: l.Hash(), Leaf: l} }

// An Edge says that a grant in the inbound leaf of To is from From. Both are
// texts of selectors.
type Edge struct{ To, From string }

// Self is the selector that only stands for nodes of the same user.
const Self = "autogroup:self"

// A Publication is what a revision changes in the working set.
type Publication struct {
	Roots    []Root // new ones
	Ended    *Ended // nil where the one held stays
	Revision *Revision
	Put      []*Leaf    // new, changed or found again
	Remove   []key.Hash // H(name)
}

// Publish makes a revision the newest.
func (s *State) Publish(p Publication) error {
	return s.write(func(txn *memdb.Txn) error {
		for _, r := range p.Roots {
			if err := txn.Insert(tableRoots, r); err != nil {
				return err
			}
		}
		touched := map[key.Hash]bool{} // principals whose leaves are not what they were
		for _, name := range p.Remove {
			old, ok := one[*Leaf](&Snapshot{txn}, nil, tableLeaves, indexID, name)
			if !ok {
				continue
			}
			if err := txn.Delete(tableLeaves, old); err != nil {
				return err
			}
			if err := link(txn, old.Leaf.Name, nil); err != nil {
				return err
			}
			touched[name] = true
		}
		for _, l := range p.Put {
			if err := txn.Insert(tableLeaves, l); err != nil {
				return err
			}
			if err := link(txn, l.Leaf.Name, l); err != nil {
				return err
			}
			touched[l.Name] = true
		}
		if err := insertRevision(txn, p.Revision); err != nil {
			return err
		}
		if p.Ended != nil {
			if err := insertEnded(txn, *p.Ended); err != nil {
				return err
			}
		}
		for name := range touched {
			for _, n := range all[*Node](&Snapshot{txn}, nil, tableNodes, indexPrincipal, name) {
				if err := place(txn, n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func insertRevision(txn *memdb.Txn, r *Revision) error {
	held := all[*Revision](&Snapshot{txn}, nil, tableRevisions, indexID)
	if n := len(held); n > 0 && held[n-1].Manifest.Position == r.Manifest.Position {
		return txn.Insert(tableRevisions, r) // the same again
	}
	for i, old := range held {
		var err error
		switch {
		case len(held)-i >= KeepRevisions:
			err = txn.Delete(tableRevisions, old)
		case old.Tree != nil:
			err = txn.Insert(tableRevisions, old.past())
		}
		if err != nil {
			return err
		}
	}
	return txn.Insert(tableRevisions, r)
}

// AddPast puts an earlier revision before the newest one, at start.
func (s *State) AddPast(r *Revision) error {
	return s.write(func(txn *memdb.Txn) error { return txn.Insert(tableRevisions, r.past()) })
}

// AddRoots extends the chain of root documents.
func (s *State) AddRoots(roots ...Root) error {
	return s.write(func(txn *memdb.Txn) error {
		for _, r := range roots {
			if err := txn.Insert(tableRoots, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// link replaces the edges that end in the leaf of that name.
func link(txn *memdb.Txn, name string, l *Leaf) error {
	sel, ok := inboundOf(name)
	if !ok {
		return nil
	}
	to := sel.String()
	for _, e := range all[Edge](&Snapshot{txn}, nil, tableEdges, indexTo, to) {
		if err := txn.Delete(tableEdges, e); err != nil {
			return err
		}
	}
	if l == nil || l.Lost {
		return nil
	}
	in, _, err := leaf.DecodeInbound(l.Leaf)
	if err != nil {
		return nil // agents that cannot read it either get no access from it
	}
	for _, g := range in.Grants {
		for _, from := range g.From {
			if err := txn.Insert(tableEdges, Edge{To: to, From: from.String()}); err != nil {
				return err
			}
		}
	}
	return nil
}

func inboundOf(name string) (acl.Selector, bool) {
	const prefix = "inbound/"
	if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return acl.Selector{}, false
	}
	sel, err := acl.ParseSelector(name[len(prefix):])
	return sel, err == nil
}

// SetEnded replaces the ended list.
func (s *State) SetEnded(e Ended) error {
	return s.write(func(txn *memdb.Txn) error { return insertEnded(txn, e) })
}

func insertEnded(txn *memdb.Txn, e Ended) error {
	old, _ := one[Ended](&Snapshot{txn}, nil, tableEnded, indexID, []byte{0})
	if err := txn.Insert(tableEnded, e); err != nil {
		return err
	}
	moved := map[key.NodeID]bool{}
	for id := range e.List.Nodes {
		if !old.List.Has(id) {
			moved[id] = true
		}
	}
	if old.List != nil {
		for id := range old.List.Nodes {
			if !e.List.Has(id) {
				moved[id] = true // of an earlier epoch
			}
		}
	}
	for id := range moved {
		if n, ok := one[*Node](&Snapshot{txn}, nil, tableNodes, indexID, id); ok {
			if err := place(txn, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Roots are the root documents, version 1 first.
func (s *Snapshot) Roots(w *Watch) []Root { return all[Root](s, w, tableRoots, indexID) }

// Root is the newest root document.
func (s *Snapshot) Root(w *Watch) (Root, bool) { return last[Root](s, w, tableRoots) }

// Ended is the ended list; its List is nil where there is none.
func (s *Snapshot) Ended(w *Watch) Ended {
	e, _ := one[Ended](s, w, tableEnded, indexID, []byte{0})
	return e
}

// Newest is the newest revision, or nil.
func (s *Snapshot) Newest(w *Watch) *Revision {
	r, _ := last[*Revision](s, w, tableRevisions)
	return r
}

// Revisions are those kept, the oldest first.
func (s *Snapshot) Revisions() []*Revision {
	return all[*Revision](s, nil, tableRevisions, indexID)
}

// Leaf is the leaf of the newest revision with that name hash. It is not
// watched: leaves change with the revision.
func (s *Snapshot) Leaf(name key.Hash) (*Leaf, bool) {
	return one[*Leaf](s, nil, tableLeaves, indexID, name)
}

// Leaves are those of the newest revision.
func (s *Snapshot) Leaves() []*Leaf { return all[*Leaf](s, nil, tableLeaves, indexID) }

// Sharing are the leaves that have this content.
func (s *Snapshot) Sharing(hash key.Hash) []*Leaf {
	return all[*Leaf](s, nil, tableLeaves, indexBlob, hash)
}

// Principal reads a principal leaf of the newest revision.
func (s *Snapshot) Principal(name string) (leaf.Principal, bool) {
	l, ok := s.Leaf(leaf.NameHash(name))
	if !ok || l.Lost {
		return leaf.Principal{}, false
	}
	p, err := leaf.DecodePrincipal(l.Leaf)
	return p, err == nil
}

// Expected is the digest that the node acknowledges when it enforces the newest
// revision.
func (s *Snapshot) Expected(n *Node) (key.Hash, bool) {
	r := s.Newest(nil)
	if r == nil || r.Tree == nil {
		return key.Hash{}, false
	}
	return netmap.Expected(n.Admission, r.Manifest.Hash(), r.Tree, s.Principal), true
}
