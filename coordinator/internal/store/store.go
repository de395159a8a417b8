// Package store is what a coordinator needs of a durable store: documents by
// kind and key, written in batches that are whole or not there, and read all at
// once when the coordinator starts. Package bolt is the store of one replica;
// package storetest is what every store must pass.
//
// The store believes nothing and decides nothing. What it holds was verified
// before it was written, and is verified again when it is read: a store in an
// attacker's hands can withhold, and that is all.
//
// # Rows
//
//	kind       key                 value
//	root       version, 8 bytes    the root document
//	manifest   epoch, seq, 16      the manifest
//	changes    epoch, seq, 16      the change list that leads to it
//	ended      "newest"            the newest ended list
//	leaf       H(name), 32         H(leaf), 32 bytes, then the name: a record of
//	                               the newest revision
//	blob       H(content), 32      the content of a leaf, or of an origins document
//	admission  log position, 8     the admission
//	record     node id, 32         identity key, 32 bytes, then the node's record
//
// Numbers are big endian, so that keys sort as the numbers do.
//
// # Envelope
//
// A value is stored behind the SHA-256 of
//
//	"writ-row/v1\n" ‖ length of kind, 1 byte ‖ kind ‖ length of key, 2 ‖ key ‖ value
//
// so that a changed byte is noticed wherever it stands, a value under another
// row's key included. A row that does not check is damaged: it is named, never
// served, and never taken for a row that is not there.
//
// # Head
//
// Beside the rows a store has one [Head], which names the newest manifest. A
// batch that publishes compares it with what the publisher built on and sets it
// in the same transaction: of two publishers one wins.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Kind is what a row holds.
type Kind string

// The kinds of rows.
const (
	Root      Kind = "root"
	Manifest  Kind = "manifest"
	Changes   Kind = "changes"
	Ended     Kind = "ended"
	Leaf      Kind = "leaf"
	Blob      Kind = "blob"
	Admission Kind = "admission"
	Record    Kind = "record"
)

// Kinds are all kinds, in the order in which a coordinator reads them. New ones
// are appended.
var Kinds = []Kind{Root, Manifest, Changes, Ended, Leaf, Blob, Admission, Record}

// A Ref names a row.
type Ref struct {
	Kind Kind
	Key  string // bytes
}

func (r Ref) String() string { return fmt.Sprintf("%s/%x", r.Kind, r.Key) }

// A Document is a row.
type Document struct {
	Ref
	Value []byte
}

// A Head names the newest manifest. The zero Head is that of a store to which
// nothing was published.
type Head struct {
	Position trust.Position
	Manifest key.Hash
}

// A Batch is a change of the store, whole or not at all. Deletions come first,
// then rows set aside, then rows put.
type Batch struct {
	Publish    *Swap // nil leaves the head as it is
	Delete     []Ref
	Quarantine []Ref // moved where Load does not find them and people do
	Put        []Document
}

// A Swap moves the head.
type Swap struct{ From, To Head }

// ErrConflict is the error of a batch whose Swap did not find the head it moves.
var ErrConflict = errors.New("another manifest was published meanwhile")

// A Damage is a row that does not check.
type Damage struct {
	Ref
	Err error
}

func (d Damage) Error() string { return fmt.Sprintf("row %s: %v", d.Ref, d.Err) }

// Contents are all rows of a store.
type Contents struct {
	Head        Head
	HeadDamaged error // the head could not be read; Head is zero
	Documents   []Document
	Damaged     []Damage
}

// A Store keeps rows. Its methods may be called at the same time.
type Store interface {
	// Apply makes the batch durable, and then returns nil; or changes nothing.
	Apply(context.Context, Batch) error

	// Load reads every row, by kind and key in order.
	Load(context.Context) (Contents, error)

	// Close releases the store. Nothing else may be called after it.
	Close() error
}

// Limits of a row.
const (
	MaxKey   = 256
	MaxValue = 64 << 20 // an origins document of 100,000 rules with room to spare
)

// Seal is the value in its envelope.
func Seal(r Ref, value []byte) []byte {
	sum := check(r, value)
	return append(sum[:], value...)
}

// Unseal takes the value out of its envelope. The result is a copy.
func Unseal(r Ref, sealed []byte) ([]byte, error) {
	if len(sealed) < sha256.Size {
		return nil, fmt.Errorf("%d bytes, at least %d", len(sealed), sha256.Size)
	}
	value := append([]byte(nil), sealed[sha256.Size:]...)
	if check(r, value) != [sha256.Size]byte(sealed[:sha256.Size]) {
		return nil, errors.New("checksum does not match")
	}
	return value, nil
}

func check(r Ref, value []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte("writ-row/v1\n"))
	h.Write([]byte{byte(len(r.Kind))})
	h.Write([]byte(r.Kind))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(r.Key))))
	h.Write([]byte(r.Key))
	h.Write(value)
	h.Sum(sum[:0])
	return sum
}

// Check refuses a batch that no store could keep.
func (b Batch) Check() error {
	for _, d := range b.Put {
		if len(d.Key) == 0 || len(d.Key) > MaxKey || len(d.Value) > MaxValue {
			return fmt.Errorf("row %s: key of %d and value of %d bytes, want 1 to %d and at most %d", d.Ref, len(d.Key), len(d.Value), MaxKey, MaxValue)
		}
	}
	return nil
}

// Number is a key that sorts as the number does.
func Number(n int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// ParseNumber reads what Number writes.
func ParseNumber(s string) (int64, bool) {
	if len(s) != 8 || s[0]&0x80 != 0 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64([]byte(s))), true
}

// At is the key of what belongs to a revision.
func At(p trust.Position) string { return Number(p.Epoch) + Number(p.Seq) }

// ParseAt reads what At writes.
func ParseAt(s string) (p trust.Position, ok bool) {
	if len(s) != 16 {
		return p, false
	}
	var a, b bool
	p.Epoch, a = ParseNumber(s[:8])
	p.Seq, b = ParseNumber(s[8:])
	return p, a && b
}

// Encode is the head as a row's value.
func (h Head) Encode() []byte { return append([]byte(At(h.Position)), h.Manifest[:]...) }

// ParseHead reads what Encode writes.
func ParseHead(b []byte) (h Head, err error) {
	if len(b) != 16+len(h.Manifest) {
		return h, fmt.Errorf("head of %d bytes", len(b))
	}
	p, ok := ParseAt(string(b[:16]))
	if !ok {
		return h, errors.New("head: no position")
	}
	return Head{p, key.Hash(b[16:])}, nil
}
