// Package storetest is what every store of package store must pass.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Harness makes the stores that are tested.
type Harness struct {
	// Open opens the store of a directory. The test closes it.
	Open func(t *testing.T, dir string) store.Store

	// Tamper changes the bytes that the store keeps for a row, envelope included,
	// behind the store's back; nil bytes remove the row. The store is open.
	Tamper func(t *testing.T, s store.Store, r store.Ref, change func(sealed []byte) []byte)
}

// Run tests the harness's stores.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"empty store", testEmpty},
		{"rows are loaded in order", testOrder},
		{"a batch survives reopening", testDurable},
		{"put replaces and delete removes", testReplace},
		{"a batch that is refused changes nothing", testAtomic},
		{"the head moves by compare and set", testHead},
		{"of two publishers one wins", testRace},
		{"quarantined rows are not loaded", testQuarantine},
		{"a changed byte is noticed wherever it stands", testFlips},
		{"a value under another key is noticed", testMoved},
		{"values are copies", testCopies},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, h) })
	}
}

func open(t *testing.T, h Harness) store.Store {
	t.Helper()
	s := h.Open(t, t.TempDir())
	t.Cleanup(func() { s.Close() })
	return s
}

func doc(k store.Kind, name, value string) store.Document {
	return store.Document{Ref: store.Ref{Kind: k, Key: name}, Value: []byte(value)}
}

func head(n int64) store.Head {
	return store.Head{Position: trust.Position{Epoch: 1, Seq: n}, Manifest: key.HashOf([]byte{byte(n)})}
}

func apply(t *testing.T, s store.Store, b store.Batch) {
	t.Helper()
	if err := s.Apply(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// rows are the documents of a store as text, with its head.
func rows(t *testing.T, s store.Store) []string {
	t.Helper()
	c, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if c.HeadDamaged != nil || len(c.Damaged) > 0 {
		t.Fatalf("got damage %v, %v, want none", c.HeadDamaged, c.Damaged)
	}
	return text(c)
}

func text(c store.Contents) []string {
	out := []string{fmt.Sprintf("head %d %s", c.Head.Position.Seq, c.Head.Manifest.Short())}
	for _, d := range c.Documents {
		out = append(out, fmt.Sprintf("%s %s = %s", d.Kind, d.Key, d.Value))
	}
	return out
}

func want(t *testing.T, s store.Store, h store.Head, docs ...store.Document) {
	t.Helper()
	wanted := text(store.Contents{Head: h, Documents: docs})
	if got := rows(t, s); !slices.Equal(got, wanted) {
		t.Errorf("got rows %q, want %q", got, wanted)
	}
}

func testEmpty(t *testing.T, h Harness) { want(t, open(t, h), store.Head{}) }

func testOrder(t *testing.T, h Harness) {
	s := open(t, h)
	var b store.Batch
	for _, n := range []int64{3, 1, 256, 2} {
		b.Put = append(b.Put, doc(store.Admission, store.Number(n), fmt.Sprint(n)))
	}
	b.Put = append(b.Put, doc(store.Root, "r", "root"), doc(store.Blob, "b", ""))
	apply(t, s, b)
	want(t, s, store.Head{}, doc(store.Root, "r", "root"), doc(store.Blob, "b", ""),
		doc(store.Admission, store.Number(1), "1"), doc(store.Admission, store.Number(2), "2"),
		doc(store.Admission, store.Number(3), "3"), doc(store.Admission, store.Number(256), "256"))
}

func testDurable(t *testing.T, h Harness) {
	dir := t.TempDir()
	s := h.Open(t, dir)
	apply(t, s, store.Batch{Publish: &store.Swap{To: head(7)}, Put: []store.Document{doc(store.Leaf, "a", "1")}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = h.Open(t, dir)
	defer s.Close()
	want(t, s, head(7), doc(store.Leaf, "a", "1"))
}

func testReplace(t *testing.T, h Harness) {
	s := open(t, h)
	apply(t, s, store.Batch{Put: []store.Document{doc(store.Leaf, "a", "1"), doc(store.Leaf, "b", "1"), doc(store.Record, "a", "1")}})
	apply(t, s, store.Batch{
		Delete: []store.Ref{{Kind: store.Leaf, Key: "b"}, {Kind: store.Leaf, Key: "a"}, {Kind: store.Leaf, Key: "never"}},
		Put:    []store.Document{doc(store.Leaf, "a", "2")}, // deletions come first
	})
	want(t, s, store.Head{}, doc(store.Leaf, "a", "2"), doc(store.Record, "a", "1"))
}

func testAtomic(t *testing.T, h Harness) {
	s := open(t, h)
	apply(t, s, store.Batch{Publish: &store.Swap{To: head(1)}, Put: []store.Document{doc(store.Leaf, "a", "1")}})
	good := store.Batch{
		Delete: []store.Ref{{Kind: store.Leaf, Key: "a"}},
		Put:    []store.Document{doc(store.Leaf, "b", "2")},
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, test := range []struct {
		name   string
		ctx    context.Context
		change func(*store.Batch)
	}{
		{"another head", context.Background(), func(b *store.Batch) { b.Publish = &store.Swap{From: head(2), To: head(3)} }},
		{"a kind that is none", context.Background(), func(b *store.Batch) { b.Put = append(b.Put, doc("nonsense", "a", "")) }},
		{"no key", context.Background(), func(b *store.Batch) { b.Put = append(b.Put, doc(store.Leaf, "", "")) }},
		{"a long key", context.Background(), func(b *store.Batch) {
			b.Put = append(b.Put, doc(store.Leaf, strings.Repeat("k", store.MaxKey+1), ""))
		}},
		{"a context that has ended", canceled, func(*store.Batch) {}},
	} {
		b := good
		test.change(&b)
		if err := s.Apply(test.ctx, b); err == nil {
			t.Errorf("%s: got no error", test.name)
		}
		want(t, s, head(1), doc(store.Leaf, "a", "1"))
	}
}

func testHead(t *testing.T, h Harness) {
	s := open(t, h)
	steps := []struct {
		from, to store.Head
		conflict bool
	}{
		{head(1), head(2), true},
		{store.Head{}, head(1), false},
		{store.Head{}, head(2), true},
		{head(1), head(2), false},
		{head(1), head(3), true},
	}
	for i, step := range steps {
		err := s.Apply(context.Background(), store.Batch{Publish: &store.Swap{From: step.from, To: step.to}})
		if errors.Is(err, store.ErrConflict) != step.conflict || !step.conflict && err != nil {
			t.Errorf("step %d, from %v to %v: got %v, want conflict %v", i, step.from.Position, step.to.Position, err, step.conflict)
		}
	}
	want(t, s, head(2))
}

func testRace(t *testing.T, h Harness) {
	s := open(t, h)
	var wg sync.WaitGroup
	won := make(chan int64, 8)
	for n := range int64(8) {
		wg.Go(func() {
			err := s.Apply(context.Background(), store.Batch{
				Publish: &store.Swap{To: head(n + 1)},
				Put:     []store.Document{doc(store.Leaf, "winner", fmt.Sprint(n+1))},
			})
			switch {
			case err == nil:
				won <- n + 1
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("got %v, want a conflict", err)
			}
		})
	}
	wg.Wait()
	close(won)
	var winners []int64
	for n := range won {
		winners = append(winners, n)
	}
	if len(winners) != 1 {
		t.Fatalf("got winners %v, want one", winners)
	}
	want(t, s, head(winners[0]), doc(store.Leaf, "winner", fmt.Sprint(winners[0])))
}

func testQuarantine(t *testing.T, h Harness) {
	s := open(t, h)
	apply(t, s, store.Batch{Put: []store.Document{doc(store.Leaf, "a", "1"), doc(store.Leaf, "b", "2")}})
	apply(t, s, store.Batch{
		Quarantine: []store.Ref{{Kind: store.Leaf, Key: "a"}, {Kind: store.Leaf, Key: "b"}},
		Put:        []store.Document{doc(store.Leaf, "b", "3")},
	})
	want(t, s, store.Head{}, doc(store.Leaf, "b", "3"))
}

func testFlips(t *testing.T, h Harness) {
	s := open(t, h)
	r := store.Ref{Kind: store.Manifest, Key: "m"}
	apply(t, s, store.Batch{Put: []store.Document{doc(store.Manifest, "m", "the manifest"), doc(store.Leaf, "a", "1")}})
	size := 0
	h.Tamper(t, s, r, func(b []byte) []byte { size = len(b); return b })
	for i := range size {
		for _, bit := range []byte{1, 0x80} {
			flip := func(b []byte) []byte { b[i] ^= bit; return b }
			h.Tamper(t, s, r, flip)
			damagedOnly(t, s, r, fmt.Sprintf("byte %d, bit %#x", i, bit))
			h.Tamper(t, s, r, flip)
		}
	}
	for n := range size {
		var whole []byte
		h.Tamper(t, s, r, func(b []byte) []byte { whole = append(whole, b...); return b[:n] })
		damagedOnly(t, s, r, fmt.Sprintf("cut to %d bytes", n))
		h.Tamper(t, s, r, func([]byte) []byte { return whole })
	}
	want(t, s, store.Head{}, doc(store.Manifest, "m", "the manifest"), doc(store.Leaf, "a", "1"))
}

// damagedOnly checks that the row is named as damaged, and the other is there.
func damagedOnly(t *testing.T, s store.Store, r store.Ref, what string) {
	t.Helper()
	c, err := s.Load(context.Background())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if len(c.Damaged) != 1 || c.Damaged[0].Ref != r || len(c.Documents) != 1 {
		t.Fatalf("%s: got damage %v and %d rows, want %s damaged and 1 row", what, c.Damaged, len(c.Documents), r)
	}
}

func testMoved(t *testing.T, h Harness) {
	s := open(t, h)
	apply(t, s, store.Batch{Put: []store.Document{doc(store.Leaf, "a", "1"), doc(store.Leaf, "b", "2")}})
	var a []byte
	h.Tamper(t, s, store.Ref{Kind: store.Leaf, Key: "a"}, func(b []byte) []byte { a = append(a, b...); return b })
	h.Tamper(t, s, store.Ref{Kind: store.Leaf, Key: "b"}, func([]byte) []byte { return a })
	damagedOnly(t, s, store.Ref{Kind: store.Leaf, Key: "b"}, "the value of a under b")
}

func testCopies(t *testing.T, h Harness) {
	s := open(t, h)
	d := doc(store.Leaf, "a", "1")
	apply(t, s, store.Batch{Put: []store.Document{d}})
	d.Value[0] = 'x'
	c, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c.Documents[0].Value[0] = 'y'
	want(t, s, store.Head{}, doc(store.Leaf, "a", "1"))
}
