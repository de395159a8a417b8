package leaf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writmesh/writ/coordinator/key"
)

// maxPath is the longest audit path: a tree of 2^62 records.
const maxPath = 62

// A Proof shows that a name is or is not in a tree.
type Proof struct{ Entries []Entry }

// An Entry is one record and the way from it to the root.
type Entry struct {
	Index  int64
	Record Record
	Path   []key.Hash
}

// Check verifies the proof against a tree's root and size. It returns the leaf's
// hash where the name is present, and present = false where it is proved absent.
// An error means that nothing is proved either way. Root and size are those of
// one manifest: what is proved of a root holds whatever the size, but a wrong
// size may refuse what is true.
func (p Proof) Check(root key.Hash, size int64, name string) (leaf key.Hash, present bool, err error) {
	fail := func(why string) (key.Hash, bool, error) {
		return key.Hash{}, false, fmt.Errorf("proof of %q: %s", name, why)
	}
	if size < 0 || size > MaxLeaves {
		return fail("no tree has that size")
	}
	for _, e := range p.Entries {
		if e.Index < 0 || e.Index >= size {
			return fail("index outside the tree")
		}
		path := make(tlog.RecordProof, len(e.Path))
		for i, h := range e.Path {
			path[i] = tlog.Hash(h)
		}
		if err := tlog.CheckRecord(path, size, tlog.Hash(root), e.Index, e.Record.hash()); err != nil {
			return fail("the path does not lead to the root")
		}
	}
	want := NameHash(name)
	switch len(p.Entries) {
	case 0:
		if size != 0 || root != key.HashOf(nil) {
			return fail("empty, but the tree is not")
		}
		return key.Hash{}, false, nil
	case 1:
		e := p.Entries[0]
		c := compareNames(want, e.Record.Name)
		switch {
		case c == 0:
			return e.Record.Leaf, true, nil
		case c < 0 && e.Index == 0, c > 0 && e.Index == size-1:
			return key.Hash{}, false, nil
		}
		return fail("one record that is neither the name's nor at that end of the tree")
	case 2:
		a, b := p.Entries[0], p.Entries[1]
		if b.Index != a.Index+1 {
			return fail("two records that are not adjacent")
		}
		if compareNames(a.Record.Name, want) >= 0 || compareNames(want, b.Record.Name) >= 0 {
			return fail("two records that do not enclose the name")
		}
		return key.Hash{}, false, nil
	default:
		return fail("more than two records")
	}
}

// Append appends the encoding of p to b.
func (p Proof) Append(b []byte) []byte {
	b = append(b, byte(len(p.Entries)))
	for _, e := range p.Entries {
		b = binary.BigEndian.AppendUint64(b, uint64(e.Index))
		b = append(b, e.Record.Name[:]...)
		b = append(b, e.Record.Leaf[:]...)
		b = append(b, byte(len(e.Path)))
		for _, h := range e.Path {
			b = append(b, h[:]...)
		}
	}
	return b
}

// ParseProof reads what Append writes.
func ParseProof(b []byte) (Proof, error) {
	if len(b) == 0 {
		return Proof{}, errors.New("proof: empty")
	}
	n := int(b[0])
	if n > 2 {
		return Proof{}, fmt.Errorf("proof: %d entries, at most 2", n)
	}
	b = b[1:]
	var p Proof
	for range n {
		const fixed = 8 + 64 + 1
		if len(b) < fixed {
			return Proof{}, errors.New("proof: ends inside an entry")
		}
		index := binary.BigEndian.Uint64(b)
		if index>>63 != 0 {
			return Proof{}, errors.New("proof: index out of range")
		}
		e := Entry{Index: int64(index)}
		copy(e.Record.Name[:], b[8:])
		copy(e.Record.Leaf[:], b[40:])
		hashes := int(b[72])
		b = b[fixed:]
		if hashes > maxPath {
			return Proof{}, fmt.Errorf("proof: path of %d hashes, at most %d", hashes, maxPath)
		}
		if len(b) < hashes*32 {
			return Proof{}, errors.New("proof: ends inside a path")
		}
		for range hashes {
			e.Path = append(e.Path, key.Hash(b[:32]))
			b = b[32:]
		}
		p.Entries = append(p.Entries, e)
	}
	if len(b) != 0 {
		return Proof{}, fmt.Errorf("proof: %d bytes after the end", len(b))
	}
	return p, nil
}
