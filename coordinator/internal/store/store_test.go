package store_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

// The sum was computed with sha256sum over the bytes that the package comment
// lists: printf 'writ-row/v1\n\x04leaf\x00\x01avalue'.
func TestEnvelopeVector(t *testing.T) {
	const sum = "2430d8769a862f01c38616e06792df4ce94a900820f77f6c04453d7ccfcc6402"
	r := store.Ref{Kind: store.Leaf, Key: "a"}
	got := store.Seal(r, []byte("value"))
	if want := sum + hex.EncodeToString([]byte("value")); hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
	v, err := store.Unseal(r, got)
	if err != nil || string(v) != "value" {
		t.Errorf("unseal: got %q, %v", v, err)
	}
}

func FuzzUnseal(f *testing.F) {
	f.Add("leaf", "a", store.Seal(store.Ref{Kind: store.Leaf, Key: "a"}, []byte("value")))
	f.Add("head", "newest", []byte{})
	f.Fuzz(func(t *testing.T, kind, name string, b []byte) {
		r := store.Ref{Kind: store.Kind(kind), Key: name}
		v, err := store.Unseal(r, b)
		if err == nil && !bytes.Equal(store.Seal(r, v), b) {
			t.Errorf("%x unseals to %x, which seals to something else", b, v)
		}
		if h, err := store.ParseHead(b); err == nil && !bytes.Equal(h.Encode(), b) {
			t.Errorf("%x reads as head %v, which writes something else", b, h)
		}
	})
}

func TestKeysSortAsNumbersDo(t *testing.T) {
	ordered := []trust.Position{{Epoch: 1, Seq: 1}, {Epoch: 1, Seq: 255}, {Epoch: 1, Seq: 256}, {Epoch: 2, Seq: 0}, {Epoch: 256, Seq: 1}}
	for i, p := range ordered {
		if got, ok := store.ParseAt(store.At(p)); !ok || got != p {
			t.Errorf("%v reads back as %v, %v", p, got, ok)
		}
		if i > 0 && store.At(ordered[i-1]) >= store.At(p) {
			t.Errorf("%v does not sort before %v", ordered[i-1], p)
		}
	}
	for _, bad := range []string{"", "1234567", "123456789", "\x80\x00\x00\x00\x00\x00\x00\x00"} {
		if n, ok := store.ParseNumber(bad); ok {
			t.Errorf("%x reads as %d, want refused", bad, n)
		}
	}
	h := store.Head{Position: ordered[2], Manifest: key.HashOf(nil)}
	if got, err := store.ParseHead(h.Encode()); err != nil || got != h {
		t.Errorf("head reads back as %v, %v", got, err)
	}
}
