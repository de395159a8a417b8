// Package leaf holds what a commit compiles to: leaves, the Merkle tree over
// them, proofs of presence and absence, and change lists.
//
// # Leaves
//
// A leaf is a small document about one thing, so that a node is given only what
// concerns it and a change moves only what changed. Leaves depend on the commit
// alone: same commit, same bytes, on any machine.
//
//	network                  the network: prefixes, domain, session, coordinators
//	relays                   each relay's address and pinned key
//	principal/SELECTOR       the groups that this user or tag is in, flattened
//	inbound/SELECTOR         what may reach the nodes the selector selects
//	node/NAME                a node that the policy pins
//	route/PREFIX, route/exit what nodes may forward to, and what may reach it there
//	enrolment/NAME           an enrolment key and what it admits
//	identity/NAME            an identity provider, and whom it may log in
//
// SELECTOR is the canonical text of an acl.Selector ("alice@acme.example",
// "tag:accounting", "autogroup:member", "*"). The content is JSON: one object,
// fields in the order of the Go structs of this package, lists sorted, no white
// space, one final newline.
//
// # Tree
//
// A record is 64 bytes:
//
//	32  H(name) = SHA-256("writ-leaf-name/v1\n" + name)
//	32  H(leaf) = SHA-256(content)
//
// A revision is the RFC 6962 section 2.1 Merkle tree over its records sorted by
// H(name); no two have one name. The tree is built afresh for each revision. The
// root of an empty tree is SHA-256 of nothing.
//
// # Proof
//
// A [Proof] shows that a name is, or is not, in the tree of a given root and
// size. Presence is one record and its audit path; absence is the two adjacent
// records between whose names the name falls, or the first or last record alone,
// or nothing where the tree is empty.
//
//	 1  number of entries, 0 to 2
//	each entry:
//	 8  index of the record, big endian
//	64  record
//	 1  number of hashes, at most 62
//	32  each hash of the audit path, RFC 6962 section 2.1.1
//
// A decoder rejects more than two entries, more than 62 hashes, an index with
// the top bit set, missing bytes and trailing bytes. A checker rejects a size
// above [MaxLeaves], an index outside the tree, a path that does not lead to the root, two entries that are
// not adjacent, and records that do not enclose the name.
//
// # Change list
//
// A change list is every record added, changed or removed since the manifest
// named base; it is bound by its hash in the next manifest. Its text is
//
//	writ/changes/v1
//	network net:…
//	base sha256:…|none
//	change NAME OLD NEW
//
// with one change line for each record, sorted by NAME; NAME, OLD and NEW are 64
// lower-case hexadecimal digits, OLD or NEW is "-" where there is no such
// record, and they differ. A decoder rejects everything else.
//
// # Limits
//
// A leaf has at most [MaxSize] bytes and its name [MaxName], a revision at most
// [MaxLeaves] leaves, a change list [MaxChanges] bytes. A decoder of a leaf
// rejects unknown fields, data after the object, and content about another
// thing than its name says; of an inbound leaf, only the grant with an unknown
// field is rejected. testdata/vectors.txt has a leaf of each kind, their tree,
// and proofs; testdata/changes.txt a change list.
package leaf

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writmesh/writ/coordinator/key"
)

// MaxSize is the largest leaf in bytes: an inbound leaf of ten thousand grants
// with room to spare.
const MaxSize = 4 << 20

// MaxName is the longest name of a leaf in bytes.
const MaxName = 512

// MaxLeaves is the largest number of leaves in a revision.
const MaxLeaves = 1 << 20

// A Leaf is a named document.
type Leaf struct {
	Name string
	Data []byte
}

// Hash is the second half of the leaf's record.
func (l Leaf) Hash() key.Hash { return key.HashOf(l.Data) }

// Record is the leaf's entry in the tree.
func (l Leaf) Record() Record { return Record{NameHash(l.Name), l.Hash()} }

// NameHash is the first half of the record of the leaf of this name.
func NameHash(name string) key.Hash {
	h := sha256.New()
	h.Write([]byte("writ-leaf-name/v1\n"))
	h.Write([]byte(name))
	return key.Hash(h.Sum(nil))
}

// A Record is a leaf's entry in the tree.
type Record struct {
	Name key.Hash // H(name)
	Leaf key.Hash // H(leaf)
}

func (r Record) hash() tlog.Hash {
	var b [64]byte
	copy(b[:32], r.Name[:])
	copy(b[32:], r.Leaf[:])
	return tlog.RecordHash(b[:])
}

func compareNames(a, b key.Hash) int { return bytes.Compare(a[:], b[:]) }

// A Tree is the Merkle tree of one revision. It never changes.
type Tree struct {
	records []Record    // sorted by Name
	hashes  []tlog.Hash // as tlog stores them
	root    key.Hash
}

// NewTree builds the tree over records, in any order. Two records of one name
// are an error.
func NewTree(records []Record) (*Tree, error) {
	if len(records) > MaxLeaves {
		return nil, fmt.Errorf("tree of %d leaves: at most %d", len(records), MaxLeaves)
	}
	t := &Tree{records: slices.Clone(records), root: key.HashOf(nil)}
	slices.SortFunc(t.records, func(a, b Record) int {
		return cmp.Or(compareNames(a.Name, b.Name), compareNames(a.Leaf, b.Leaf))
	})
	for i, r := range t.records {
		if i > 0 && t.records[i-1].Name == r.Name {
			return nil, fmt.Errorf("tree: two leaves of one name (H(name) %s)", r.Name)
		}
		hs, err := tlog.StoredHashesForRecordHash(int64(i), r.hash(), t)
		if err != nil {
			return nil, fmt.Errorf("tree: %w", err)
		}
		t.hashes = append(t.hashes, hs...)
	}
	if len(t.records) > 0 {
		h, err := tlog.TreeHash(t.Size(), t)
		if err != nil {
			return nil, fmt.Errorf("tree: %w", err)
		}
		t.root = key.Hash(h)
	}
	return t, nil
}

// TreeOf builds the tree over leaves.
func TreeOf(leaves []Leaf) (*Tree, error) {
	records := make([]Record, len(leaves))
	for i, l := range leaves {
		records[i] = l.Record()
	}
	return NewTree(records)
}

// ReadHashes implements tlog.HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("no stored hash %d", x)
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

// Root is the RFC 6962 tree hash.
func (t *Tree) Root() key.Hash { return t.root }

// Size is the number of leaves.
func (t *Tree) Size() int64 { return int64(len(t.records)) }

// Records are the tree's records sorted by name hash; read only.
func (t *Tree) Records() []Record { return t.records }

func (t *Tree) find(name key.Hash) (int, bool) {
	return slices.BinarySearchFunc(t.records, name, func(r Record, n key.Hash) int {
		return compareNames(r.Name, n)
	})
}

// Has reports whether the tree has a leaf of that name, and its hash.
func (t *Tree) Has(name string) (key.Hash, bool) {
	i, ok := t.find(NameHash(name))
	if !ok {
		return key.Hash{}, false
	}
	return t.records[i].Leaf, true
}

// Prove shows that the tree has, or has not, a leaf of that name.
func (t *Tree) Prove(name string) (Proof, error) {
	i, ok := t.find(NameHash(name))
	var at []int
	switch {
	case ok:
		at = []int{i}
	case i > 0 && i < len(t.records):
		at = []int{i - 1, i}
	case i > 0:
		at = []int{i - 1}
	case len(t.records) > 0:
		at = []int{0}
	}
	var p Proof
	for _, i := range at {
		path, err := tlog.ProveRecord(t.Size(), int64(i), t)
		if err != nil {
			return Proof{}, fmt.Errorf("prove %s: %w", name, err)
		}
		e := Entry{Index: int64(i), Record: t.records[i]}
		for _, h := range path {
			e.Path = append(e.Path, key.Hash(h))
		}
		p.Entries = append(p.Entries, e)
	}
	return p, nil
}
