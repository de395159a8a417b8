package registry_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/internal/store/bolt"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

var errFlipped = errors.New("checksum does not match")

// Each row of a store is damaged in turn. A node is then served what it was
// served before, or nothing: never anything else. What was damaged is named, and
// when everybody has said again what they say at any start, all is as it was.
func TestEachDamagedRowIsNamedAndNeverServed(t *testing.T) {
	b := newBench(t)
	alice, ledger := b.w.Admit("alice", "alice@acme.example"), b.w.Admit("ledger-1", "tag:accounting")
	b.publish(policy())
	b.admit(alice, ledger)
	r := b.publish(policy("alice@acme.example"))
	want := b.fresh(ledger)
	if len(want.Peers) != 1 {
		t.Fatalf("the ledger has %d peers, want alice", len(want.Peers))
	}
	c, err := b.store.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b.close()
	file, err := os.ReadFile(filepath.Join(b.dir, bolt.FileName))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Documents {
		t.Run(string(d.Kind)+"/"+key.HashOf([]byte(d.Key)).Short(), func(t *testing.T) {
			b := &bench{t: t, w: b.w, dir: t.TempDir(), roots: b.w.Roots}
			if err := os.WriteFile(filepath.Join(b.dir, bolt.FileName), file, 0o600); err != nil {
				t.Fatal(err)
			}
			damaged := false
			b.damage = func(c *store.Contents) {
				i := slices.IndexFunc(c.Documents, func(o store.Document) bool { return o.Ref == d.Ref })
				if i >= 0 {
					c.Documents = slices.Delete(c.Documents, i, i+1)
					c.Damaged = append(c.Damaged, store.Damage{Ref: d.Ref, Err: errFlipped})
					damaged = true
				}
			}
			if d.Kind == store.Root {
				damage := b.damage
				b.roots = nil
				if err := b.tryOpen(); err == nil {
					t.Fatal("without its root document a coordinator starts")
				}
				b.roots, b.damage = b.w.Roots, damage
			}
			b.open()
			defer func() { b.store.Close() }()
			if !damaged {
				t.Fatal("the row was not there to be damaged")
			}
			if got := b.reg.Damaged(); len(got) != 1 || got[0].Ref != d.Ref || !errors.Is(got[0].Err, errFlipped) {
				t.Errorf("got damage %v, want %s named", got, d.Ref)
			}
			for range 2 {
				n := b.fresh(ledger)
				if n.Manifest != want.Manifest && n.Manifest != (key.Hash{}) {
					t.Errorf("a node is served revision %s, want %s or none", n.Position, want.Position)
				}
				if n.Self != nil && n.Digest != want.Digest {
					t.Error("a node is served another netmap of the same revision")
				}
				b.reopen() // the row is set aside: it is not there the second time
			}
			restore(b, r, alice, ledger)
			for range 2 {
				if n := b.fresh(ledger); n.Digest != want.Digest || len(n.Peers) != 1 {
					t.Errorf("when all is said again a node is served %+v, want %+v", n, want)
				}
				b.reopen()
			}
		})
	}
}

// restore says again what sync and the nodes say.
func restore(b *bench, r *netmaptest.Revision, nodes ...*netmaptest.Node) {
	b.t.Helper()
	ctx := context.Background()
	p := b.publication()
	if b.reg.Snapshot().Newest(nil) == nil {
		p.Prev = key.Hash{}
	}
	p.Leaves = nil
	for _, l := range r.Leaves {
		p.Leaves = append(p.Leaves, l)
	}
	if err := b.reg.Publish(ctx, p); err != nil {
		b.t.Fatal(err)
	}
	for _, n := range nodes[min(int(b.reg.LogHead()), len(nodes)):] {
		if err := b.reg.Admit(ctx, n.ID, n.Papers.Admission); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, n := range nodes {
		if err := b.reg.PutRecord(ctx, n.Key.Public(), n.Papers.Record); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestDamagedHeadIsFoundAgain(t *testing.T) {
	b := newBench(t)
	ledger := b.w.Admit("ledger-1", "tag:accounting")
	b.publish(policy())
	b.admit(ledger)
	r := b.publish(policy("alice@acme.example"))
	b.close()
	b.damage = func(c *store.Contents) { c.Head, c.HeadDamaged = store.Head{}, errFlipped }
	b.open()
	if n := b.fresh(ledger); n.Manifest != r.Manifest.Hash() {
		t.Errorf("a node is served %v, want the newest", n.Position)
	}
	b.close()
	b.damage = func(c *store.Contents) {
		c.Head, c.HeadDamaged = store.Head{}, errFlipped
		for i, d := range c.Documents {
			if d.Kind == store.Manifest {
				c.Damaged = append(c.Damaged, store.Damage{Ref: d.Ref, Err: errFlipped})
				c.Documents = slices.Delete(c.Documents, i, i+1)
				break
			}
		}
	}
	if err := b.tryOpen(); !errors.Is(err, errFlipped) {
		t.Errorf("with the head and a manifest damaged, nothing tells which is the newest: got %v, want %v", err, errFlipped)
	}
	b.open()
}

// A coordinator whose newest revision is damaged does not go back.
func TestDamagedRevisionIsNoWayBack(t *testing.T) {
	b := newBench(t)
	b.publish(policy())
	old := b.publication()
	old.Prev = key.Hash{}
	old.Leaves = nil
	for _, l := range b.w.Revisions[0].Leaves {
		old.Leaves = append(old.Leaves, l)
	}
	b.publish(policy()) // with the same tree: only the head tells the two apart
	at := store.At(b.w.Revisions[1].Manifest.Position)
	b.close()
	b.damage = func(c *store.Contents) {
		i := slices.IndexFunc(c.Documents, func(o store.Document) bool { return o.Kind == store.Manifest && o.Key == at })
		c.Documents = slices.Delete(c.Documents, i, i+1)
		c.Damaged = append(c.Damaged, store.Damage{Ref: store.Ref{Kind: store.Manifest, Key: at}, Err: errFlipped})
	}
	b.open()
	if b.reg.Snapshot().Newest(nil) != nil {
		t.Error("a revision is served though the newest is damaged")
	}
	for range 2 {
		err := b.reg.Publish(context.Background(), old)
		if err == nil {
			t.Fatal("the revision before the damaged one is taken up")
		}
		b.reopen()
	}
}

// What a damaged revision left in the store does not get into the way of the
// next one.
func TestDamagedRevisionLeavesNothingBehind(t *testing.T) {
	b := newBench(t)
	ledger := b.w.Admit("ledger-1", "tag:accounting")
	b.publish(policy("alice@acme.example", "bob@acme.example"))
	b.admit(ledger)
	b.close()
	b.damage = func(c *store.Contents) {
		i := slices.IndexFunc(c.Documents, func(o store.Document) bool { return o.Kind == store.Leaf })
		c.Damaged = append(c.Damaged, store.Damage{Ref: c.Documents[i].Ref, Err: errFlipped})
		c.Documents = slices.Delete(c.Documents, i, i+1)
	}
	b.open()
	b.w.Advance(time.Second)
	r := b.w.Publish(policy())
	p := b.publication()
	p.Leaves = nil
	for _, l := range r.Leaves {
		p.Leaves = append(p.Leaves, l)
	}
	if err := b.reg.Publish(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := b.fresh(ledger); n.Manifest != r.Manifest.Hash() {
			t.Errorf("a node is served %v, want the newest", n.Position)
		}
		b.reopen()
	}
}
