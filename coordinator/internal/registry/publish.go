package registry

import (
	"bytes"
	"context"
	"fmt"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Publication is a revision as a publisher hands it in.
type Publication struct {
	Roots    [][]byte
	Manifest []byte
	Changes  []byte // nil for none
	Ended    []byte // nil for the one held
	Leaves   []leaf.Leaf
	Origins  []byte
	Prev     key.Hash // of the manifest that this replaces; zero where none is held
}

// A draft is a publication while it is verified.
type draft struct {
	Publication
	snap     *state.Snapshot
	newest   *state.Revision // held whole; nil where none is
	roots    []state.Root    // new ones
	root     *trust.Root     // newest
	manifest *trust.Manifest
	ended    *state.Ended // nil where the one held stays
	list     []leaf.Change
	tree     *leaf.Tree
	put      []*state.Leaf
	remove   []*state.Leaf
}

// Publish takes up a revision.
func (r *Registry) Publish(ctx context.Context, p Publication) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &draft{Publication: p, snap: r.state.Snapshot()}
	d.newest = d.snap.Newest(nil)
	if err := r.openRoots(d); err != nil {
		return err
	}
	m, err := trust.OpenManifest(p.Manifest, d.root)
	if err != nil {
		return invalid(err)
	}
	d.manifest = m
	if d.newest != nil && m.Hash() == d.newest.Manifest.Hash() {
		return r.again(ctx, d)
	}
	for _, step := range []func(*draft) error{r.order, r.openEnded, r.openChanges, r.openLeaves, checkContent} {
		if err := step(d); err != nil {
			return err
		}
	}
	return r.commit(ctx, d)
}

// openRoots extends the chain of root documents.
func (r *Registry) openRoots(d *draft) error {
	held := d.snap.Roots(nil)
	d.root = held[len(held)-1].Root
	fresh, err := extend(held, d.Publication.Roots)
	if err != nil {
		return invalid(err)
	}
	for _, f := range fresh {
		if err := r.future("root document", f.Root.Issued); err != nil {
			return err
		}
		d.root = f.Root
	}
	d.roots = fresh
	return nil
}

// extend verifies root documents that come after those held; ones that are held
// already are passed over.
func extend(held []state.Root, docs [][]byte) (fresh []state.Root, err error) {
	known := map[key.Hash]bool{}
	for _, h := range held {
		known[h.Root.Hash()] = true
	}
	newest := held[len(held)-1].Root
	for _, doc := range docs {
		text, err := trust.Text(doc)
		if err != nil {
			return nil, err
		}
		if known[key.HashOf([]byte(text))] {
			continue
		}
		next, err := trust.OpenNextRoot(doc, newest)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, state.Root{Root: next, Doc: doc})
		newest = next
	}
	return fresh, nil
}

// order checks that the manifest comes after the newest, for the publisher and
// for the document itself.
func (r *Registry) order(d *draft) error {
	m := d.manifest
	if err := r.future("manifest", m.Issued); err != nil {
		return err
	}
	if err := r.underChain(d); err != nil {
		return err
	}
	held := r.head
	whole := d.newest != nil
	switch c := m.Position.Compare(held.Position); {
	case held == (store.Head{}):
		if !d.Prev.IsZero() {
			return refuse(Conflict, "publish: nothing is published here yet, and this replaces %s", d.Prev.Short())
		}
		return nil // a manifest from the middle, where a store was lost, is as good as the first
	case c < 0:
		return refuse(Invalid, "publish: revision %s is older than %s", m.Position, held.Position)
	case c == 0 && m.Hash() != held.Manifest:
		return refuse(Invalid, "publish: two revisions %s: %s, and %s is held", m.Position, m.Hash().Short(), held.Manifest.Short())
	case c == 0:
		return nil // the one that was damaged here, given again
	case !whole && d.Prev.IsZero():
		return nil // what is held is damaged: nothing can be built on it
	case d.Prev != held.Manifest:
		return refuse(Conflict, "publish: replaces %s, and %s is the newest", d.Prev.Short(), held.Manifest.Short())
	}
	// The manifest's own prev may be one that was never published here, while
	// this coordinator was not reached: then its change list leads from nowhere,
	// all leaves are needed, and agents are given proofs.
	return nil
}

func (r *Registry) underChain(d *draft) error {
	for _, h := range append(d.snap.Roots(nil), d.roots...) {
		if h.Root.Hash() == d.manifest.Root {
			return nil
		}
	}
	return refuse(Invalid, "manifest: signed under a root document that is not in the chain")
}

// openEnded checks that the ended list is the manifest's, or follows it.
func (r *Registry) openEnded(d *draft) error {
	held := d.snap.Ended(nil).List
	list := held
	if len(d.Publication.Ended) > 0 {
		given, err := trust.OpenEnded(d.Publication.Ended, d.root)
		if err != nil {
			return invalid(err)
		}
		if err := r.future("ended list", given.Issued); err != nil {
			return err
		}
		newer, err := given.Follows(held)
		switch {
		case newer:
			list = given
			d.ended = &state.Ended{List: given, Doc: d.Publication.Ended}
		case err != nil:
			// One that was overtaken by a newer, which holds all that it does, is
			// no step back.
			if over, e := held.Follows(given); e != nil || !over {
				return invalid(err)
			}
		}
	}
	m := d.manifest
	if list == nil || list.Epoch != m.Epoch || list.Number < m.EndedNumber || list.Number == m.EndedNumber && list.Hash() != m.Ended {
		return refuse(Invalid, "publish: the ended list number %d that the manifest names is not given", m.EndedNumber)
	}
	return nil
}

// openChanges checks that the change list is the manifest's.
func (r *Registry) openChanges(d *draft) error {
	m := d.manifest
	if m.Changes.IsZero() {
		if d.Publication.Changes != nil {
			return refuse(Invalid, "publish: a change list that the manifest does not name")
		}
		return nil
	}
	if d.Publication.Changes == nil {
		return refuse(Invalid, "publish: the change list that the manifest names is not given")
	}
	if key.HashOf(d.Publication.Changes) != m.Changes {
		return refuse(Invalid, "publish: the change list is not the manifest's")
	}
	list, err := leaf.ParseChangeList(d.Publication.Changes)
	switch {
	case err != nil:
		return invalid(err)
	case list.Network != r.network:
		return refuse(Invalid, "publish: change list of network %s", list.Network)
	case list.Base != m.Prev:
		return refuse(Invalid, "publish: change list from %s, and prev is %s", list.Base.Short(), m.Prev.Short())
	}
	d.list = list.Changes
	return nil
}

// openLeaves builds the tree: with a list, of what is held and what it changes;
// without one, or where nothing is held to build on, of what is given.
func (r *Registry) openLeaves(d *draft) error {
	given := make(map[key.Hash]*state.Leaf, len(d.Publication.Leaves))
	for _, l := range d.Publication.Leaves {
		if len(l.Name) == 0 || len(l.Name) > leaf.MaxName || len(l.Data) > leaf.MaxSize {
			return refuse(Invalid, "publish: a leaf with a name of %d and content of %d bytes", len(l.Name), len(l.Data))
		}
		row := state.NewLeaf(l)
		if given[row.Name] != nil {
			return refuse(Invalid, "publish: two leaves %s", l.Name)
		}
		given[row.Name] = row
	}
	follows := d.newest != nil && d.manifest.Prev == d.newest.Manifest.Hash() && d.Publication.Changes != nil
	held := map[key.Hash]*state.Leaf{}
	for _, l := range d.snap.Leaves() {
		held[l.Name] = l
	}
	next := given
	if follows {
		next = make(map[key.Hash]*state.Leaf, len(held)+len(given))
		for name, l := range held {
			next[name] = l
		}
		for _, c := range d.list {
			old := held[c.Name]
			if old == nil && !c.Old.IsZero() || old != nil && old.Hash != c.Old {
				return refuse(Invalid, "publish: the change list changes a record that is not there (H(name) %s)", c.Name.Short())
			}
			if c.New.IsZero() {
				delete(next, c.Name)
				continue
			}
			l := given[c.Name]
			if l == nil || l.Hash != c.New {
				return refuse(Invalid, "publish: a leaf of the change list is not given (H(name) %s)", c.Name.Short())
			}
			next[c.Name] = l
		}
		for name, l := range given { // found again, or not asked for
			if n := next[name]; n == nil || n.Hash != l.Hash {
				return refuse(Invalid, "publish: leaf %s is not of this revision", l.Leaf.Name)
			}
			next[name] = l
		}
	}
	records := make([]leaf.Record, 0, len(next))
	for _, l := range next {
		records = append(records, leaf.Record{Name: l.Name, Leaf: l.Hash})
	}
	tree, err := leaf.NewTree(records)
	if err != nil {
		return invalid(err)
	}
	if tree.Root() != d.manifest.Tree || tree.Size() != d.manifest.Leaves {
		return refuse(Invalid, "publish: the leaves make another tree than the manifest's: %d leaves, root %s; want %d, %s",
			tree.Size(), tree.Root().Short(), d.manifest.Leaves, d.manifest.Tree.Short())
	}
	// Where it follows, each change of the list was applied to the record that it
	// names, and all of them together make the tree: the list is the difference.
	d.tree = tree
	for name, l := range next {
		if old := held[name]; old == nil || old.Hash != l.Hash || old.Lost && !l.Lost {
			d.put = append(d.put, l)
		}
	}
	for name, l := range held {
		if next[name] == nil {
			d.remove = append(d.remove, l)
		}
	}
	return nil
}

// checkContent checks what the manifest says of single documents.
func checkContent(d *draft) error {
	m := d.manifest
	for _, f := range []struct {
		name string
		want key.Hash
		into any
	}{
		{leaf.NameNetwork, m.NetworkLeaf, &leaf.Network{}},
		{leaf.NameRelays, m.RelaysLeaf, &leaf.Relays{}},
	} {
		h, ok := d.tree.Has(f.name)
		if !ok || h != f.want {
			return refuse(Invalid, "publish: leaf %s is not the manifest's", f.name)
		}
		for _, l := range d.put {
			if l.Leaf.Name == f.name {
				if err := leaf.Decode(l.Leaf, f.into); err != nil {
					return invalid(err)
				}
			}
		}
	}
	if m.Origins.IsZero() != (len(d.Origins) == 0) || !m.Origins.IsZero() && key.HashOf(d.Origins) != m.Origins {
		return refuse(Invalid, "publish: the origins document is not the manifest's")
	}
	return nil
}

// commit makes the draft durable, then seen.
func (r *Registry) commit(ctx context.Context, d *draft) error {
	m := d.manifest
	to := store.Head{Position: m.Position, Manifest: m.Hash()}
	b := store.Batch{Publish: &store.Swap{From: r.head, To: to}, Delete: r.stale}
	pub := state.Publication{Roots: d.roots, Ended: d.ended, Put: d.put}
	for _, root := range d.roots {
		b.Put = append(b.Put, rootRow(root))
	}
	b.Put = append(b.Put, row(store.Manifest, store.At(m.Position), d.Publication.Manifest))
	if d.Publication.Changes != nil {
		b.Put = append(b.Put, row(store.Changes, store.At(m.Position), d.Publication.Changes))
	}
	if d.ended != nil {
		b.Put = append(b.Put, endedRow(d.ended.Doc))
	}
	for _, l := range d.put {
		b.Put = append(b.Put, leafRow(l), blobRow(l.Hash, l.Leaf.Data))
	}
	if len(d.Origins) > 0 {
		b.Put = append(b.Put, blobRow(m.Origins, d.Origins))
	}
	// What the tree no longer holds goes; a content that two leaves share stays
	// as long as one of them.
	for _, l := range d.remove {
		b.Delete = append(b.Delete, store.Ref{Kind: store.Leaf, Key: string(l.Name[:])})
		pub.Remove = append(pub.Remove, l.Name)
	}
	for _, h := range r.unused(d) {
		b.Delete = append(b.Delete, blobRef(h))
	}
	revisions := d.snap.Revisions()
	for len(revisions) >= state.KeepRevisions {
		at := store.At(revisions[0].Manifest.Position)
		b.Delete = append(b.Delete, store.Ref{Kind: store.Manifest, Key: at}, store.Ref{Kind: store.Changes, Key: at})
		revisions = revisions[1:]
	}
	if err := r.apply(ctx, b); err != nil {
		return err
	}
	r.head, r.stale = to, nil
	pub.Revision = state.NewRevision(m, d.Publication.Manifest, d.Publication.Changes, d.list, d.tree)
	if err := r.state.Publish(pub); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	r.log.Info("revision published", "revision", m.Position, "commit", m.Commit.Short(), "leaves", m.Leaves,
		"changed", len(d.put)+len(d.remove))
	return nil
}

// unused are the contents that nothing holds any more after the draft.
func (r *Registry) unused(d *draft) (out []key.Hash) {
	leaving := map[key.Hash]bool{} // H(name)
	gone := map[key.Hash]bool{}
	for _, l := range d.remove {
		leaving[l.Name], gone[l.Hash] = true, true
	}
	for _, l := range d.put {
		if old, ok := d.snap.Leaf(l.Name); ok {
			leaving[l.Name], gone[old.Hash] = true, true
		}
	}
	if d.newest != nil && !d.newest.Manifest.Origins.IsZero() {
		gone[d.newest.Manifest.Origins] = true
	}
	kept := map[key.Hash]bool{d.manifest.Origins: true}
	for _, l := range d.put {
		kept[l.Hash] = true
	}
	for h := range gone {
		for _, l := range d.snap.Sharing(h) {
			kept[h] = kept[h] || !leaving[l.Name]
		}
		if !kept[h] {
			out = append(out, h)
		}
	}
	return out
}

// again takes the newest revision a second time: contents that the disk lost,
// and root documents and an ended list that came since.
func (r *Registry) again(ctx context.Context, d *draft) error {
	if err := r.openEnded(d); err != nil {
		return err
	}
	var b store.Batch
	pub := state.Publication{Revision: d.newest, Roots: d.roots, Ended: d.ended}
	for _, root := range d.roots {
		b.Put = append(b.Put, rootRow(root))
	}
	if d.ended != nil {
		b.Put = append(b.Put, endedRow(d.ended.Doc))
	}
	for _, l := range d.Publication.Leaves {
		held, ok := d.snap.Leaf(leaf.NameHash(l.Name))
		switch {
		case !ok || held.Hash != l.Hash():
			return refuse(Invalid, "publish: leaf %s is not of this revision", l.Name)
		case held.Lost:
			found := state.NewLeaf(leaf.Leaf{Name: l.Name, Data: bytes.Clone(l.Data)})
			pub.Put = append(pub.Put, found)
			b.Put = append(b.Put, blobRow(found.Hash, found.Leaf.Data))
		}
	}
	if len(b.Put) == 0 {
		return nil
	}
	if err := r.apply(ctx, b); err != nil {
		return err
	}
	if err := r.state.Publish(pub); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}
