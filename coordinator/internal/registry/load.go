package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// ErrNoRoot is the error of a coordinator that was never told its network.
var ErrNoRoot = errors.New("no root document: a coordinator must be told which network it serves")

// Open reads the store and verifies everything in it.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	st, err := state.New()
	if err != nil {
		return nil, err
	}
	r := &Registry{store: cfg.Store, state: st, log: cfg.Log, now: cfg.Now, next: 1}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.started = r.now()
	contents, err := cfg.Store.Load(ctx)
	if err != nil {
		return nil, err
	}
	l := &loading{Registry: r, rows: map[store.Kind][]store.Document{}}
	for _, d := range contents.Documents {
		l.rows[d.Kind] = append(l.rows[d.Kind], d)
	}
	r.damage = contents.Damaged
	if err := l.loadRoots(cfg.Roots); err != nil {
		return nil, err
	}
	l.loadEnded()
	if err := l.loadRevisions(contents); err != nil {
		return nil, err
	}
	if err := l.loadNodes(); err != nil {
		return nil, err
	}
	if err := l.setAside(ctx); err != nil {
		return nil, err
	}
	r.advance()
	return r, nil
}

// loading is a registry while it reads its store.
type loading struct {
	*Registry
	rows  map[store.Kind][]store.Document
	roots []state.Root
	batch store.Batch // what the reading itself changes
}

func (l *loading) bad(r store.Ref, err error) {
	l.damage = append(l.damage, store.Damage{Ref: r, Err: err})
}

// setAside moves damaged rows out of the way and tells of them.
func (l *loading) setAside(ctx context.Context) error {
	for _, d := range l.damage {
		l.log.Error("damaged row set aside", "row", d.Ref, "err", d.Err)
		l.batch.Quarantine = append(l.batch.Quarantine, d.Ref)
	}
	if l.batch.Publish == nil && len(l.batch.Quarantine) == 0 && len(l.batch.Put) == 0 {
		return nil
	}
	return l.store.Apply(ctx, l.batch)
}

// loadRoots makes the chain of the documents stored and given. A stored one that
// is damaged must be among those given: what it signed for cannot be judged
// without it.
func (l *loading) loadRoots(given [][]byte) error {
	var docs [][]byte
	for _, d := range l.rows[store.Root] {
		docs = append(docs, d.Value)
	}
	first, err := firstRoot(docs, given)
	if err != nil {
		return err
	}
	l.network = first.Root.Network
	l.roots = []state.Root{first}
	// Stored and given ones interleave where one in the middle was damaged:
	// each pass takes up what the one before made possible.
	all := append(slices.Clone(docs), given...)
	for {
		fresh, err := extendAny(l.roots, all)
		if err != nil {
			return err
		}
		if len(fresh) == 0 {
			break
		}
		l.roots = append(l.roots, fresh...)
	}
	have := map[int64]bool{}
	for _, root := range l.roots {
		have[root.Root.Version] = true
	}
	for _, d := range append(refs(l.rows[store.Root]), damagedRefs(l.damage, store.Root)...) {
		if v, ok := store.ParseNumber(d.Key); !ok || !have[v] {
			return fmt.Errorf("read store: row %s is damaged or out of the chain: start with all root documents", d)
		}
	}
	stored := map[string]bool{}
	for _, d := range l.rows[store.Root] {
		stored[d.Key] = true
	}
	for _, root := range l.roots {
		if d := rootRow(root); !stored[d.Key] {
			l.batch.Put = append(l.batch.Put, d)
		}
	}
	return l.state.AddRoots(l.roots...)
}

func refs(docs []store.Document) (out []store.Ref) {
	for _, d := range docs {
		out = append(out, d.Ref)
	}
	return out
}

func damagedRefs(damage []store.Damage, k store.Kind) (out []store.Ref) {
	for _, d := range damage {
		if d.Kind == k {
			out = append(out, d.Ref)
		}
	}
	return out
}

// firstRoot is version 1, of those stored and those given; they must agree.
func firstRoot(stored, given [][]byte) (r state.Root, err error) {
	for _, docs := range [][][]byte{stored, given} {
		for _, doc := range docs {
			text, err := trust.Text(doc)
			if err != nil {
				return r, err
			}
			root, err := trust.OpenFirstRoot(doc, key.NetworkID(key.HashOf([]byte(text))))
			if err != nil {
				continue // a later version, or one that the chain will refuse
			}
			if r.Root != nil && r.Root.Network != root.Network {
				return r, fmt.Errorf("root document: of network %s, and this state directory is of %s", root.Network, r.Root.Network)
			}
			if r.Root == nil {
				r = state.Root{Root: root, Doc: doc}
			}
		}
	}
	if r.Root == nil {
		return r, ErrNoRoot
	}
	return r, nil
}

// extendAny takes up the documents that come right after the chain, in whatever
// order they are.
func extendAny(chain []state.Root, docs [][]byte) (fresh []state.Root, err error) {
	newest := chain[len(chain)-1].Root
	for _, doc := range docs {
		root, err := trust.OpenNextRoot(doc, newest)
		if err != nil {
			continue // another version; one that never fits is found by the caller
		}
		return []state.Root{{Root: root, Doc: doc}}, nil
	}
	return nil, nil
}

// underAny opens a document under the newest root document that it verifies
// under: what was verified once stays what it was.
func underAny[T any](roots []state.Root, open func(*trust.Root) (T, error)) (v T, err error) {
	for _, r := range slices.Backward(roots) {
		if v, err = open(r.Root); err == nil {
			return v, nil
		}
	}
	return v, err
}

func (l *loading) loadEnded() {
	for _, d := range l.rows[store.Ended] {
		list, err := underAny(l.roots, func(r *trust.Root) (*trust.Ended, error) { return trust.OpenEnded(d.Value, r) })
		if err == nil {
			err = l.state.SetEnded(state.Ended{List: list, Doc: d.Value})
		}
		if err != nil {
			l.bad(d.Ref, err)
		}
	}
}

// loadRevisions serves the newest revision if all of it is there. Where not even
// its position is known, nothing could tell an older one from a newer.
func (l *loading) loadRevisions(c store.Contents) error {
	if c.HeadDamaged == nil && c.Head == (store.Head{}) && len(l.rows[store.Manifest]) > 0 {
		c.HeadDamaged = errors.New("is not there")
	}
	changes := map[string][]byte{}
	for _, d := range l.rows[store.Changes] {
		changes[d.Key] = d.Value
	}
	var revisions []*state.Revision
	for _, d := range l.rows[store.Manifest] {
		m, err := underAny(l.roots, func(r *trust.Root) (*trust.Manifest, error) { return trust.OpenManifest(d.Value, r) })
		if err == nil && store.At(m.Position) != d.Key {
			err = errors.New("manifest of another position")
		}
		if err != nil {
			l.bad(d.Ref, err)
			continue
		}
		doc, list := changes[d.Key], []leaf.Change(nil)
		if doc != nil {
			if list, err = checkedChanges(doc, m); err != nil {
				l.bad(store.Ref{Kind: store.Changes, Key: d.Key}, err)
				doc = nil
			}
		}
		revisions = append(revisions, state.NewRevision(m, d.Value, doc, list, nil))
	}
	l.head = c.Head
	if c.HeadDamaged != nil {
		n := len(revisions)
		if n == 0 || len(damagedRefs(l.damage, store.Manifest)) > 0 {
			return fmt.Errorf("read store: it is not known which revision was the newest (%w), and manifests are damaged: restore a backup, or begin with a new state directory", c.HeadDamaged)
		}
		l.log.Error("damaged row: which manifest is the newest", "err", c.HeadDamaged)
		l.head = store.Head{Position: revisions[n-1].Manifest.Position, Manifest: revisions[n-1].Manifest.Hash()}
		l.batch.Publish = &store.Swap{To: l.head}
	}
	if l.head == (store.Head{}) {
		return nil
	}
	pub, err := l.whole(revisions)
	if err != nil {
		l.log.Error("the newest revision is not whole: nothing is served until it is published again", "revision", l.head.Position, "err", err)
		for _, k := range []store.Kind{store.Manifest, store.Changes, store.Leaf, store.Blob} {
			l.stale = append(l.stale, refs(l.rows[k])...)
		}
		return nil
	}
	for _, past := range revisions[:len(revisions)-1] {
		if err := l.state.AddPast(past); err != nil {
			return err
		}
	}
	return l.state.Publish(pub)
}

func checkedChanges(doc []byte, m *trust.Manifest) ([]leaf.Change, error) {
	if key.HashOf(doc) != m.Changes {
		return nil, errors.New("not the manifest's change list")
	}
	list, err := leaf.ParseChangeList(doc)
	return list.Changes, err
}

// whole checks that the newest revision is the head's, and all of it is there
// but the contents of leaves.
func (l *loading) whole(revisions []*state.Revision) (p state.Publication, err error) {
	if len(revisions) == 0 {
		return p, errors.New("its manifest is lost")
	}
	newest := revisions[len(revisions)-1]
	m := newest.Manifest
	if m.Hash() != l.head.Manifest {
		return p, fmt.Errorf("its manifest is lost; the newest that is not is %s", m.Position)
	}
	ended := l.state.Snapshot().Ended(nil).List
	if ended == nil || ended.Epoch != m.Epoch || ended.Number < m.EndedNumber || ended.Number == m.EndedNumber && ended.Hash() != m.Ended {
		return p, errors.New("its ended list is lost")
	}
	contents := map[string][]byte{}
	for _, d := range l.rows[store.Blob] {
		if h := key.HashOf(d.Value); d.Key != string(h[:]) {
			l.bad(d.Ref, errors.New("content of another hash"))
			continue
		}
		contents[d.Key] = d.Value
	}
	var records []leaf.Record
	for _, d := range l.rows[store.Leaf] {
		lf, err := parseLeafRow(d.Key, d.Value)
		if err != nil {
			l.bad(d.Ref, err)
			continue
		}
		data, ok := contents[string(lf.Hash[:])]
		if lf.Leaf.Data = data; !ok {
			lf.Lost = true
			l.log.Error("the content of a leaf is lost: nodes that require it stay where they are", "leaf", lf.Leaf.Name)
		}
		p.Put = append(p.Put, lf)
		records = append(records, leaf.Record{Name: lf.Name, Leaf: lf.Hash})
	}
	tree, err := leaf.NewTree(records)
	if err != nil {
		return p, err
	}
	if tree.Root() != m.Tree || tree.Size() != m.Leaves {
		return p, fmt.Errorf("its tree is not the manifest's: %d leaves of %d", tree.Size(), m.Leaves)
	}
	newest.Tree = tree
	p.Revision = newest
	return p, nil
}

// loadNodes reads the admission log and the nodes' records.
func (l *loading) loadNodes() error {
	for _, d := range l.rows[store.Admission] {
		a, err := underAny(l.roots, func(r *trust.Root) (*papers.Admission, error) { return papers.OpenAdmission(d.Value, r) })
		switch n, ok := store.ParseNumber(d.Key); {
		case err != nil:
		case !ok || n != a.Log:
			err = errors.New("admission of another log position")
		default:
			if before, ok := l.state.Snapshot().LogAt(a.Log - 1); ok && before.Hash != a.Prev {
				err = errors.New("does not follow the admission before it in the log")
			}
		}
		if err != nil {
			l.bad(d.Ref, err)
			continue
		}
		if err := l.state.Admit(a, d.Value); err != nil {
			return err
		}
	}
	for _, d := range l.rows[store.Record] {
		id, doc, err := parseRecordRow(d.Value)
		var rec *papers.Record
		if err == nil {
			rec, err = papers.OpenRecord(doc, l.network, id)
		}
		if err == nil && d.Key != string(rec.Node[:]) {
			err = errors.New("record of another node")
		}
		if err != nil {
			l.bad(d.Ref, err)
			continue
		}
		if err := l.state.SetRecord(rec.Node, rec, doc); err != nil {
			return err
		}
	}
	return nil
}

// NetworkOf is the network that root documents are of.
func NetworkOf(docs [][]byte) (key.NetworkID, error) {
	r, err := firstRoot(nil, docs)
	if err != nil {
		return key.NetworkID{}, err
	}
	return r.Root.Network, nil
}
