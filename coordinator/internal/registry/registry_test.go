package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/internal/store/bolt"
	"github.com/writmesh/writ/coordinator/internal/view"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// bench is a registry with its store, and the world that publishes to it.
type bench struct {
	t     *testing.T
	w     *netmaptest.World
	dir   string
	store *flaky
	reg   *registry.Registry
	roots [][]byte // given at start

	damage func(*store.Contents) // at the next open
}

// flaky is a store that a test breaks.
type flaky struct {
	store.Store
	before, after error                 // of the next Apply, before or after it is durable
	damage        func(*store.Contents) // of what Load reads
}

func (f *flaky) Load(ctx context.Context) (store.Contents, error) {
	c, err := f.Store.Load(ctx)
	if f.damage != nil {
		f.damage(&c)
	}
	return c, err
}

func (f *flaky) Apply(ctx context.Context, b store.Batch) error {
	if f.before != nil {
		return f.before
	}
	if f.damage != nil && b.Publish != nil && b.Publish.From == (store.Head{}) {
		// A store whose head is damaged takes a swap from none; this one is whole.
		c, err := f.Store.Load(ctx)
		if err != nil {
			return err
		}
		b.Publish = &store.Swap{From: c.Head, To: b.Publish.To}
	}
	if err := f.Store.Apply(ctx, b); err != nil {
		return err
	}
	return f.after
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, w: netmaptest.New(t, start), dir: t.TempDir()}
	b.roots = b.w.Roots
	b.open()
	t.Cleanup(func() { b.store.Close() })
	return b
}

func (b *bench) tryOpen() error {
	st, err := bolt.Open(b.dir)
	if err != nil {
		return err
	}
	b.store = &flaky{Store: st, damage: b.damage}
	b.damage = nil
	b.reg, err = registry.Open(context.Background(), registry.Config{Store: b.store, Roots: b.roots, Now: func() time.Time { return b.w.Now }})
	if err != nil {
		st.Close()
	}
	return err
}

func (b *bench) open() {
	b.t.Helper()
	if err := b.tryOpen(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
}

// publication is an honest one of the world's newest revision.
func (b *bench) publication() registry.Publication {
	n := len(b.w.Revisions)
	r := b.w.Revisions[n-1]
	p := registry.Publication{Roots: b.w.Roots, Manifest: r.Doc.Manifest, Changes: r.Doc.Changes, Ended: b.w.EndedDoc}
	var before map[string]leaf.Leaf
	if n > 1 {
		before = b.w.Revisions[n-2].Leaves
		p.Prev = b.w.Revisions[n-2].Manifest.Hash()
	}
	for _, name := range slices.Sorted(maps.Keys(r.Leaves)) {
		if l := r.Leaves[name]; string(before[name].Data) != string(l.Data) {
			p.Leaves = append(p.Leaves, l)
		}
	}
	return p
}

func (b *bench) publish(p netmaptest.Policy) *netmaptest.Revision {
	b.t.Helper()
	b.w.Advance(time.Second)
	r := b.w.Publish(p)
	if err := b.reg.Publish(context.Background(), b.publication()); err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) admit(nodes ...*netmaptest.Node) {
	b.t.Helper()
	for _, n := range nodes {
		if err := b.reg.Admit(context.Background(), n.ID, n.Papers.Admission); err != nil {
			b.t.Fatal(err)
		}
		if b.w.Ended.Has(n.ID) {
			continue // it is admitted in the log, and may not put a record
		}
		if err := b.reg.PutRecord(context.Background(), n.Key.Public(), n.Papers.Record); err != nil {
			b.t.Fatal(err)
		}
	}
}

// fresh is what a node that begins with nothing enforces.
func (b *bench) fresh(n *netmaptest.Node) *netmap.Netmap {
	b.t.Helper()
	s := netmap.New(b.w.Network, n.ID)
	for _, u := range view.For(b.reg.Snapshot(), n.ID, s.Have(), b.w.Now).Updates {
		update, err := wire.ToUpdate(u)
		if err != nil {
			b.t.Fatal(err)
		}
		o := s.Accept(update, b.w.Now)
		for _, r := range o.Refused {
			b.t.Errorf("got refusal %v, want none", r)
		}
		s = o.State
	}
	return s.Netmap(b.w.Now)
}

func policy(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"}},
	}
}

// refused checks the kind and words of a refusal.
func refused(t *testing.T, what string, err error, kind registry.Kind, words string) {
	t.Helper()
	var e *registry.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: got %v, want %v with %q", what, err, kind, words)
	}
}

// A publisher that has some keys and bad intent, or a bug, changes nothing.
func TestHostilePublisher(t *testing.T) {
	const alice = "alice@acme.example"
	for _, test := range []struct {
		name  string
		kind  registry.Kind
		words string
		make  func(b *bench, p *registry.Publication)
	}{
		{"unsigned", registry.Invalid, "not signed to threshold", func(b *bench, p *registry.Publication) {
			other, err := trust.NewSigningKey("policy-1")
			if err != nil {
				b.t.Fatal(err)
			}
			text, err := trust.Text(p.Manifest)
			if err != nil {
				b.t.Fatal(err)
			}
			if p.Manifest, err = trust.Sign(text, other); err != nil {
				b.t.Fatal(err)
			}
		}},
		{"signed by the admission key", registry.Invalid, "not signed to threshold", func(b *bench, p *registry.Publication) {
			text, err := trust.Text(p.Manifest)
			if err != nil {
				b.t.Fatal(err)
			}
			if p.Manifest, err = trust.Sign(text, b.w.AdmissionKey); err != nil {
				b.t.Fatal(err)
			}
		}},
		{"rollback", registry.Invalid, "is older than", func(b *bench, p *registry.Publication) {
			p.Manifest, p.Changes = b.w.Revisions[0].Doc.Manifest, b.w.Revisions[0].Doc.Changes
		}},
		{"the same position again", registry.Invalid, "two revisions", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Position = b.w.Revisions[1].Manifest.Position
			m.Issued = b.w.Revisions[1].Manifest.Issued
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"from the future", registry.Invalid, "ahead of this clock", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Issued = b.w.Now.Add(time.Hour)
			m.Seq = m.Issued.Unix()
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"on another manifest, by the caller", registry.Conflict, "is the newest", func(b *bench, p *registry.Publication) {
			p.Prev = b.w.Revisions[0].Manifest.Hash()
		}},
		{"as the first, by the caller", registry.Conflict, "is the newest", func(_ *bench, p *registry.Publication) { p.Prev = key.Hash{} }},
		{"on another manifest, by the document", registry.Invalid, "change list from", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Prev = b.w.Revisions[0].Manifest.Hash()
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"under a root document of nobody", registry.Invalid, "not in the chain", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Root = key.HashOf([]byte("another"))
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"another tree", registry.Invalid, "another tree", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Tree = key.HashOf([]byte("another"))
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"another size", registry.Invalid, "another tree", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.Leaves++
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"a leaf missing", registry.Invalid, "is not given", func(_ *bench, p *registry.Publication) { p.Leaves = p.Leaves[1:] }},
		{"a leaf changed", registry.Invalid, "is not given", func(_ *bench, p *registry.Publication) {
			p.Leaves[0].Data = append(slices.Clone(p.Leaves[0].Data), ' ')
		}},
		{"a leaf too many", registry.Invalid, "not of this revision", func(_ *bench, p *registry.Publication) {
			p.Leaves = append(p.Leaves, leaf.Leaf{Name: "inbound/*", Data: []byte("{}\n")})
		}},
		{"a leaf twice", registry.Invalid, "two leaves", func(_ *bench, p *registry.Publication) { p.Leaves = append(p.Leaves, p.Leaves[0]) }},
		{"no change list", registry.Invalid, "is not given", func(_ *bench, p *registry.Publication) { p.Changes = nil }},
		{"another change list", registry.Invalid, "not the manifest's", func(b *bench, p *registry.Publication) {
			p.Changes = b.w.Revisions[1].Doc.Changes
		}},
		{"a change list that hides a change and its leaf", registry.Invalid, "another tree", func(b *bench, p *registry.Publication) {
			rebind(b, p, func(c *leaf.ChangeList) {
				hidden := leaf.NameHash("principal/carol@acme.example")
				c.Changes = slices.DeleteFunc(c.Changes, func(c leaf.Change) bool { return c.Name == hidden })
			})
			p.Leaves = slices.DeleteFunc(p.Leaves, func(l leaf.Leaf) bool { return l.Name == "principal/carol@acme.example" })
		}},
		{"a change list that hides a change", registry.Invalid, "not of this revision", func(b *bench, p *registry.Publication) {
			rebind(b, p, func(c *leaf.ChangeList) {
				hidden := leaf.NameHash("principal/carol@acme.example")
				c.Changes = slices.DeleteFunc(c.Changes, func(c leaf.Change) bool { return c.Name == hidden })
			})
		}},
		{"a change list that names what did not change", registry.Invalid, "change", func(b *bench, p *registry.Publication) {
			rebind(b, p, func(c *leaf.ChangeList) {
				c.Changes = append(c.Changes, leaf.Change{Name: key.HashOf([]byte("x")), Old: key.HashOf([]byte("y"))})
				slices.SortFunc(c.Changes, func(a, b leaf.Change) int { return strings.Compare(string(a.Name[:]), string(b.Name[:])) })
			})
		}},
		{"a change list on another base", registry.Invalid, "prev is", func(b *bench, p *registry.Publication) {
			rebind(b, p, func(c *leaf.ChangeList) { c.Base = b.w.Revisions[0].Manifest.Hash() })
		}},
		{"a change list of another network", registry.Invalid, "of network", func(b *bench, p *registry.Publication) {
			rebind(b, p, func(c *leaf.ChangeList) { c.Network = key.NetworkID{1} })
		}},
		{"the network leaf of another", registry.Invalid, "leaf network", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.NetworkLeaf = m.RelaysLeaf
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"an ended list that is not there", registry.Invalid, "is not given", func(b *bench, p *registry.Publication) {
			m := *b.w.Revisions[2].Manifest
			m.EndedNumber++
			_, p.Manifest = b.w.SignManifest(m)
		}},
		{"an ended list that forgets a node", registry.Invalid, "which had ended", func(b *bench, p *registry.Publication) {
			e := *b.w.Ended
			e.Number, e.Nodes = e.Number+1, map[key.NodeID]string{}
			ended, err := trust.NewEnded(e)
			if err != nil {
				b.t.Fatal(err)
			}
			if p.Ended, err = trust.Sign(ended.Text(), b.w.AdmissionKey); err != nil {
				b.t.Fatal(err)
			}
		}},
		{"origins of another", registry.Invalid, "origins", func(_ *bench, p *registry.Publication) { p.Origins = []byte("{}") }},
		{"no manifest", registry.Invalid, "manifest", func(_ *bench, p *registry.Publication) { p.Manifest = nil }},
		{"a root document that does not follow", registry.Invalid, "root document", func(b *bench, p *registry.Publication) {
			other := netmaptest.New(b.t, start)
			p.Roots = append(slices.Clone(p.Roots), other.Roots[0])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			out := b.w.Admit("mallory", "mallory@acme.example")
			ledger := b.w.Admit("ledger-1", "tag:accounting")
			b.w.End(out.ID)
			b.publish(policy(alice))
			r := b.publish(policy(alice, "bob@acme.example"))
			b.admit(out, ledger)
			b.w.Advance(time.Second)
			b.w.Publish(policy("carol@acme.example"))
			p := b.publication()
			test.make(b, &p)
			before := b.fresh(ledger)
			refused(t, test.name, b.reg.Publish(context.Background(), p), test.kind, test.words)
			for range 2 { // in memory, then from disk
				if n := b.fresh(ledger); n.Digest != before.Digest || n.Manifest != r.Manifest.Hash() {
					t.Errorf("after the refusal a node is served %s, want %s as before", n.Manifest.Short(), r.Manifest.Hash().Short())
				}
				b.reopen()
			}
			if err := b.reg.Publish(context.Background(), b.publication()); err != nil {
				t.Errorf("the honest publication after it: %v", err)
			}
		})
	}
}

// rebind changes the change list and signs a manifest that names it.
func rebind(b *bench, p *registry.Publication, change func(*leaf.ChangeList)) {
	list, err := leaf.ParseChangeList(p.Changes)
	if err != nil {
		b.t.Fatal(err)
	}
	change(&list)
	p.Changes = list.Encode()
	m := *b.w.Revisions[len(b.w.Revisions)-1].Manifest
	m.Changes = key.HashOf(p.Changes)
	_, p.Manifest = b.w.SignManifest(m)
}

func TestRootDocumentsComeWithARevision(t *testing.T) {
	b := newBench(t)
	ledger := b.w.Admit("ledger-1", "tag:accounting")
	b.publish(policy("alice@acme.example"))
	b.admit(ledger)
	next := *b.w.Root
	key2, err := trust.NewSigningKey("policy-2")
	if err != nil {
		t.Fatal(err)
	}
	next.PolicyKeys, next.Epoch = []trust.VKey{key2.Public()}, 2
	b.w.Advance(time.Second)
	b.w.AddRoot(next)
	b.w.PolicyKey = key2
	b.w.End()
	r := b.publish(policy("bob@acme.example"))
	for range 2 {
		if n := b.fresh(ledger); n.Manifest != r.Manifest.Hash() || n.Position.Epoch != 2 {
			t.Errorf("a node is served %v, want the revision of epoch 2", n.Position)
		}
		b.reopen()
	}
}

func TestPublishedAgainChangesNothing(t *testing.T) {
	b := newBench(t)
	b.publish(policy("alice@acme.example"))
	for range 2 {
		if err := b.reg.Publish(context.Background(), b.publication()); err != nil {
			t.Errorf("the newest revision again: %v", err)
		}
	}
	if got := len(b.reg.Snapshot().Revisions()); got != 1 {
		t.Errorf("got %d revisions, want 1", got)
	}
}

// Killed at either side of the moment at which a publication is durable, a
// coordinator serves the old revision whole, or the new.
func TestKilledWhilePublishing(t *testing.T) {
	for _, test := range []struct {
		name string
		kill func(*flaky)
		want int // index of the revision served after
	}{
		{"before it is durable", func(f *flaky) { f.before = errors.New("killed") }, 0},
		{"after it is durable", func(f *flaky) { f.after = errors.New("killed") }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			ledger := b.w.Admit("ledger-1", "tag:accounting")
			b.publish(policy("alice@acme.example"))
			b.admit(ledger)
			b.w.Advance(time.Second)
			b.w.Publish(policy("bob@acme.example"))
			test.kill(b.store)
			refused(t, test.name, b.reg.Publish(context.Background(), b.publication()), registry.Broken, "killed")
			b.store.before, b.store.after = nil, nil
			b.reopen()
			if got, want := b.fresh(ledger).Manifest, b.w.Revisions[test.want].Manifest.Hash(); got != want {
				t.Errorf("after the restart a node is served %s, want %s", got.Short(), want.Short())
			}
			if err := b.reg.Publish(context.Background(), b.publication()); err != nil {
				t.Errorf("publishing it again: %v", err)
			}
			if got, want := b.fresh(ledger).Manifest, b.w.Revisions[1].Manifest.Hash(); got != want {
				t.Errorf("then a node is served %s, want %s", got.Short(), want.Short())
			}
		})
	}
}

func TestAdmissionLog(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	n1, n2, n3 := b.w.Admit("a", "tag:a"), b.w.Admit("b", "tag:b"), b.w.Admit("c", "tag:c")
	refused(t, "before a revision", b.reg.Admit(ctx, key.NodeID{}, n1.Papers.Admission), registry.Conflict, "publish it first")
	b.publish(policy())
	refused(t, "a gap", b.reg.Admit(ctx, key.NodeID{}, n2.Papers.Admission), registry.Conflict, "the log goes on from 1")
	for range 2 { // the second time changes nothing
		for _, n := range []*netmaptest.Node{n1, n2} {
			if err := b.reg.Admit(ctx, n.ID, n.Papers.Admission); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused(t, "of another than asked", b.reg.Admit(ctx, n1.ID, n3.Papers.Admission), registry.Invalid, "another node")
	forked := *n3.Admission
	forked.Name, forked.Log, forked.Prev = "fork", 2, n1.Admission.Hash()
	b.w.SignAdmission(n3, forked)
	refused(t, "a fork", b.reg.Admit(ctx, n3.ID, n3.Papers.Admission), registry.Conflict, "position 2 of the log is another")
	same := *n1.Admission
	same.Log, same.Prev = 3, n2.Admission.Hash()
	b.w.SignAdmission(n1, same)
	refused(t, "a serial again", b.reg.Admit(ctx, n1.ID, n1.Papers.Admission), registry.Invalid, "serial 1 of a, 1 is held")
	same.Serial = 2
	b.w.SignAdmission(n1, same)
	if err := b.reg.Admit(ctx, n1.ID, n1.Papers.Admission); err != nil {
		t.Errorf("a renewal: %v", err)
	}
	unsigned := append([]byte(nil), n1.Papers.Admission...)
	unsigned[len(unsigned)-10] ^= 1
	refused(t, "damaged", b.reg.Admit(ctx, n1.ID, unsigned), registry.Invalid, "admission")
	for range 2 {
		if got := b.reg.LogHead(); got != 3 {
			t.Errorf("log head: got %d, want 3", got)
		}
		if n, ok := b.reg.Snapshot().Node(nil, n1.ID); !ok || n.Admission.Serial != 2 {
			t.Errorf("the node's admission is not the newest: %+v", n)
		}
		b.reopen()
	}
}

func TestRecords(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	n, other := b.w.Admit("a", "tag:a"), b.w.Admit("b", "tag:b")
	refused(t, "of a stranger", b.reg.PutRecord(ctx, n.Key.Public(), n.Papers.Record), registry.Denied, "not admitted")
	b.publish(policy())
	b.admit(n, other)
	refused(t, "of another", b.reg.PutRecord(ctx, n.Key.Public(), other.Papers.Record), registry.Invalid, "record")
	old := n.Papers.Record
	b.w.SignRecord(n, []string{"relay-1"})
	for range 2 {
		if err := b.reg.PutRecord(ctx, n.Key.Public(), n.Papers.Record); err != nil {
			t.Fatal(err)
		}
	}
	err := b.reg.PutRecord(ctx, n.Key.Public(), old)
	refused(t, "the one before", err, registry.Invalid, "serial 1 of a, 2 is held")
	var e *registry.Error
	if !errors.As(err, &e) || !bytes.Equal(e.Held, n.Papers.Record) {
		t.Error("the one before: got an error without the record held, want that record")
	}
	b.w.Advance(25 * time.Hour)
	b.w.Advance(-25 * time.Hour)
	b.w.SignRecord(n, nil)
	b.w.Advance(25 * time.Hour)
	refused(t, "ended", b.reg.PutRecord(ctx, n.Key.Public(), n.Papers.Record), registry.Invalid, "ended")
	b.reopen()
	if got, ok := b.reg.Snapshot().Node(nil, n.ID); !ok || got.Record == nil || got.Record.Serial != 2 {
		t.Errorf("from disk: got %+v, want the record of serial 2", got)
	}
}

func TestAcknowledgements(t *testing.T) {
	b := newBench(t)
	n := b.w.Admit("ledger-1", "tag:accounting")
	b.publish(policy("alice@acme.example"))
	b.admit(n)
	sign := func(a papers.Ack) []byte {
		t.Helper()
		a.Network, a.Issued = b.w.Network, b.w.Now
		doc, err := papers.SignAck(a, n.Key)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	at1 := b.fresh(n)
	r2 := b.publish(policy("bob@acme.example"))
	at2 := b.fresh(n)
	for _, test := range []struct {
		name string
		ack  papers.Ack
		want state.Digest
	}{
		{"of the one before", papers.Ack{Position: at1.Position, Manifest: at1.Manifest, Digest: at1.Digest}, state.DigestUnknown},
		{"of the newest", papers.Ack{Position: at2.Position, Manifest: at2.Manifest, Digest: at2.Digest}, state.DigestRight},
		{"of something else", papers.Ack{Position: at2.Position, Manifest: at2.Manifest, Digest: key.HashOf(nil)}, state.DigestWrong},
	} {
		got, err := b.reg.Acknowledge(n.Key.Public(), sign(test.ack))
		if err != nil || got != test.want {
			t.Errorf("%s: got %v, %v, want %v", test.name, got, err, test.want)
		}
	}
	_, err := b.reg.Acknowledge(n.Key.Public(), sign(papers.Ack{Position: at1.Position, Manifest: at1.Manifest}))
	refused(t, "back", err, registry.Invalid, "is held")
	_, err = b.reg.Acknowledge(n.Key.Public(), sign(papers.Ack{Position: r2.Manifest.Position, Manifest: at1.Manifest}))
	refused(t, "of another manifest", err, registry.Invalid, "another revision")
	_, err = b.reg.Acknowledge(key.NewIdentity().Public(), sign(papers.Ack{Position: at2.Position}))
	refused(t, "signed by another", err, registry.Invalid, "acknowledgement")
}

func TestJoinRequestsAreBoundedAndFair(t *testing.T) {
	b := newBench(t)
	b.publish(policy())
	join := func(from string) (key.NodeID, error) {
		k := key.NewIdentity()
		doc, err := papers.NewJoin(b.w.Network, k, "n", b.w.Now, b.w.Root.SealKeys[0], papers.Proof{Kind: papers.ProofPin})
		if err != nil {
			t.Fatal(err)
		}
		b.w.Advance(time.Second)
		return k.Public().NodeID(), b.reg.Join(k.Public(), from, doc)
	}
	honest, err := join("198.51.100.7")
	if err != nil {
		t.Fatal(err)
	}
	for range 1023 {
		if _, err := join("203.0.113.9"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = join("203.0.113.9")
	refused(t, "one more of the crowd", err, registry.Limit, "are waiting already")
	late, err := join("198.51.100.8")
	if err != nil {
		t.Errorf("one of another network: %v", err)
	}
	snap := b.reg.Snapshot()
	for _, id := range []key.NodeID{honest, late} {
		if _, ok := snap.Join(nil, id); !ok {
			t.Errorf("%s was dropped for the crowd", id.Short())
		}
	}
	if got := len(snap.Joins(nil)); got != 1024 {
		t.Errorf("got %d requests, want 1024", got)
	}
	if err := b.reg.Refuse(honest, ""); err == nil {
		t.Error("a refusal without a reason: got no error")
	}
}

func TestFirstStartNeedsARoot(t *testing.T) {
	b := newBench(t)
	b.publish(policy())
	b.close()
	b.roots = nil
	b.open() // the store knows its network
	b.close()
	b.roots = netmaptest.New(t, start).Roots
	if err := b.tryOpen(); err == nil || !strings.Contains(err.Error(), "this state directory is of") {
		t.Errorf("the root of another network: got %v", err)
	}
	b.dir, b.roots = t.TempDir(), nil
	if err := b.tryOpen(); !errors.Is(err, registry.ErrNoRoot) {
		t.Errorf("an empty store without a root: got %v, want %v", err, registry.ErrNoRoot)
	}
	b.roots = b.w.Roots
	b.open()
}

func TestKeepsTheNewest64Revisions(t *testing.T) {
	b := newBench(t)
	ledger := b.w.Admit("ledger-1", "tag:accounting")
	for i := range state.KeepRevisions + 3 {
		b.publish(policy(fmt.Sprintf("user-%d@acme.example", i)))
	}
	b.admit(ledger)
	for range 2 {
		if got := len(b.reg.Snapshot().Revisions()); got != state.KeepRevisions {
			t.Errorf("got %d revisions, want %d", got, state.KeepRevisions)
		}
		if n := b.fresh(ledger); n.Manifest != b.w.Revisions[len(b.w.Revisions)-1].Manifest.Hash() {
			t.Errorf("a node is served %v, want the newest", n.Position)
		}
		c, err := b.store.Load(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		count := map[store.Kind]int{}
		for _, d := range c.Documents {
			count[d.Kind]++
		}
		leaves := len(b.w.Revisions[len(b.w.Revisions)-1].Leaves)
		if count[store.Manifest] != state.KeepRevisions || count[store.Changes] != state.KeepRevisions || count[store.Leaf] != leaves || count[store.Blob] != leaves {
			t.Errorf("the store holds %v, want %d manifests and change lists, %d leaves and contents", count, state.KeepRevisions, leaves)
		}
		b.reopen()
	}
}
