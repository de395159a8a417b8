package leaf

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/key"
)

// someNames draws names, most of them absent, and adds those of the leaves.
func someNames(t *rapid.T, leaves []Leaf) []string {
	names := rapid.SliceOfN(rapid.StringMatching(`[a-e]/[a-z0-9]{1,3}`), 4, 8).Draw(t, "asked")
	for _, l := range leaves {
		names = append(names, l.Name)
	}
	return names
}

// truth is what a leaf list says about a name, without any tree.
func truth(leaves []Leaf, name string) (key.Hash, bool) {
	for _, l := range leaves {
		if l.Name == name {
			return l.Hash(), true
		}
	}
	return key.Hash{}, false
}

func TestProofsOfEveryName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaves := drawLeaves(t)
		tree, err := TreeOf(leaves)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range someNames(t, leaves) {
			made, err := tree.Prove(name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := ParseProof(made.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			got, present, err := p.Check(tree.Root(), tree.Size(), name)
			want, wantPresent := truth(leaves, name)
			if err != nil || got != want || present != wantPresent {
				t.Errorf("%q in a tree of %d: got %s, %v, %v, want %s, %v", name, len(leaves), got.Short(), present, err, want.Short(), wantPresent)
			}
		}
	})
}

// Absence at each place: before the first record, after the last, between, and
// in an empty tree; the shape is the one the package comment fixes.
func TestAbsenceShapes(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 8, 9} {
		var leaves []Leaf
		for i := range n {
			leaves = append(leaves, Leaf{fmt.Sprintf("present/%d", i), nil})
		}
		tree, err := TreeOf(leaves)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for i := range 400 {
			name := fmt.Sprintf("absent/%d", i)
			at, _ := tree.find(NameHash(name))
			p, err := tree.Prove(name)
			if err != nil {
				t.Fatal(err)
			}
			var shape, want string
			switch {
			case n == 0:
				shape = "empty"
			case at == 0:
				shape, want = "first", " 0"
			case at == n:
				shape, want = "last", fmt.Sprint(" ", n-1)
			default:
				shape, want = "between", fmt.Sprint(" ", at-1, " ", at)
			}
			seen[shape] = true
			got := ""
			for _, e := range p.Entries {
				got += fmt.Sprint(" ", e.Index)
			}
			if got != want {
				t.Errorf("%s of %d: got entries%s, want%s", shape, n, got, want)
			}
			if _, present, err := p.Check(tree.Root(), tree.Size(), name); err != nil || present {
				t.Errorf("%s of %d: present %v, %v", shape, n, present, err)
			}
		}
		if n > 1 && len(seen) != 3 || n == 1 && len(seen) != 2 {
			t.Errorf("tree of %d: only the shapes %v were seen", n, seen)
		}
	}
}

// An adversary who knows the whole tree puts proofs together from its records in
// every way, and lies about the size: what is accepted is always true.
func TestProofsNeverLie(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaves := drawLeaves(t)
		tree, err := TreeOf(leaves)
		if err != nil {
			t.Fatal(err)
		}
		n := len(leaves)
		entries := make([]Entry, n)
		for i, r := range tree.Records() {
			p, err := tree.Prove(nameOf(leaves, r.Name))
			if err != nil {
				t.Fatal(err)
			}
			entries[i] = p.Entries[0]
		}
		size := rapid.OneOf(rapid.Just(int64(n)), rapid.Int64Range(0, int64(2*n+2))).Draw(t, "size")
		var p Proof
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			if n == 0 {
				break
			}
			e := entries[rapid.IntRange(0, n-1).Draw(t, "entry")]
			e.Path = slices.Clone(e.Path)
			if rapid.Bool().Draw(t, "lie about the index") {
				e.Index = rapid.Int64Range(-1, size).Draw(t, "index")
			}
			if rapid.Bool().Draw(t, "change the path") {
				e.Path = e.Path[:rapid.IntRange(0, len(e.Path)).Draw(t, "path")]
			}
			p.Entries = append(p.Entries, e)
		}
		for _, name := range someNames(t, leaves) {
			got, present, err := p.Check(tree.Root(), size, name)
			if err != nil {
				continue
			}
			if want, wantPresent := truth(leaves, name); got != want || present != wantPresent {
				t.Errorf("%q under size %d of %d: proved %v, truth is %v; entries %+v", name, size, n, present, wantPresent, p.Entries)
			}
		}
	})
}

func nameOf(leaves []Leaf, h key.Hash) string {
	for _, l := range leaves {
		if NameHash(l.Name) == h {
			return l.Name
		}
	}
	return ""
}

// Every change of the bytes of a proof is refused, by the decoder or the checker.
func TestProofMutations(t *testing.T) {
	leaves := examples(t)
	tree, err := TreeOf(leaves)
	if err != nil {
		t.Fatal(err)
	}
	other, err := TreeOf(leaves[1:])
	if err != nil {
		t.Fatal(err)
	}
	empty, err := TreeOf(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{NameNetwork, "inbound/tag:it", "absent/1", "absent/2", "absent/3", "absent/4", "absent/5", "absent/6", "absent/7"} {
		p, err := tree.Prove(name)
		if err != nil {
			t.Fatal(err)
		}
		refused := func(what string, b []byte, tree *Tree) {
			t.Helper()
			p, err := ParseProof(b)
			if err != nil {
				return
			}
			if h, present, err := p.Check(tree.Root(), tree.Size(), name); err == nil {
				t.Errorf("%s with %s: proved, present %v, hash %s", name, what, present, h.Short())
			}
		}
		good := p.Append(nil)
		for bit := range 8 * len(good) {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			refused(fmt.Sprintf("bit %d flipped", bit), bad, tree)
		}
		for i := range good {
			refused(fmt.Sprintf("only %d bytes", i), good[:i], tree)
			refused(fmt.Sprintf("byte %d dropped", i), slices.Delete(bytes.Clone(good), i, i+1), tree)
			refused(fmt.Sprintf("a byte before %d", i), slices.Insert(bytes.Clone(good), i, 0), tree)
		}
		refused("a byte more", append(bytes.Clone(good), 0), tree)
		refused("itself behind it", append(bytes.Clone(good), good...), tree)
		refused("another tree", good, other)
		refused("the empty tree", good, empty)
		for i, e := range p.Entries {
			less := Proof{slices.Delete(slices.Clone(p.Entries), i, i+1)}
			refused("an entry dropped", less.Append(nil), tree)
			twice := Proof{slices.Insert(slices.Clone(p.Entries), i, e)}
			refused("an entry twice", twice.Append(nil), tree)
			for j := range e.Path {
				q := Proof{slices.Clone(p.Entries)}
				q.Entries[i].Path = slices.Delete(slices.Clone(e.Path), j, j+1)
				refused("a hash dropped", q.Append(nil), tree)
				q.Entries[i].Path = slices.Insert(slices.Clone(e.Path), j, e.Path[j])
				refused("a hash twice", q.Append(nil), tree)
				if j > 0 {
					q.Entries[i].Path = slices.Clone(e.Path)
					q.Entries[i].Path[j-1], q.Entries[i].Path[j] = e.Path[j], e.Path[j-1]
					refused("two hashes swapped", q.Append(nil), tree)
				}
			}
		}
		if len(p.Entries) == 2 {
			refused("entries swapped", Proof{[]Entry{p.Entries[1], p.Entries[0]}}.Append(nil), tree)
		}
	}
}

func TestParseProofRefuses(t *testing.T) {
	one := func(index byte, hashes int, rest int) []byte {
		b := append([]byte{1, index}, make([]byte, 7+64)...)
		b = append(b, byte(hashes))
		return append(b, make([]byte, rest)...)
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"nothing":          {nil, "proof: empty"},
		"three entries":    {[]byte{3}, "proof: 3 entries, at most 2"},
		"255 entries":      {[]byte{255}, "proof: 255 entries, at most 2"},
		"no entry":         {[]byte{1}, "proof: ends inside an entry"},
		"half an entry":    {make([]byte, 40)[:0:0], "proof: empty"},
		"no second entry":  {append([]byte{2}, one(0, 0, 0)[1:]...), "proof: ends inside an entry"},
		"top bit of index": {one(0x80, 0, 0), "proof: index out of range"},
		"63 hashes":        {one(0, 63, 63*32), "proof: path of 63 hashes, at most 62"},
		"255 hashes":       {one(0, 255, 255*32), "proof: path of 255 hashes, at most 62"},
		"short path":       {one(0, 2, 63), "proof: ends inside a path"},
		"a byte after":     {one(0, 2, 65), "proof: 1 bytes after the end"},
		"after nothing":    {[]byte{0, 0}, "proof: 1 bytes after the end"},
	} {
		if p, err := ParseProof(c.in); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %q", name, p, err, c.want)
		}
	}
	if p, err := ParseProof(one(0, 62, 62*32)); err != nil || len(p.Entries[0].Path) != 62 {
		t.Errorf("62 hashes: %v", err)
	}
}

// What each refusal of the checker is called.
func TestCheckRefuses(t *testing.T) {
	leaves := examples(t)
	tree, err := TreeOf(leaves)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(i int64) Entry {
		p, err := tree.Prove(nameOf(leaves, tree.Records()[i].Name))
		if err != nil {
			t.Fatal(err)
		}
		return p.Entries[0]
	}
	n := tree.Size()
	middle := nameOf(leaves, tree.Records()[n/2].Name)
	at := func(e Entry, index int64) Entry { e.Index = index; return e }
	for name, c := range map[string]struct {
		p    Proof
		size int64
		name string
		want string
	}{
		"negative size":        {Proof{}, -1, "x", "no tree has that size"},
		"size above the limit": {Proof{}, MaxLeaves + 1, "x", "no tree has that size"},
		"size 2^62":            {Proof{[]Entry{entry(0)}}, 1 << 62, "x", "no tree has that size"},
		"size 2^63 - 1":        {Proof{[]Entry{entry(0)}}, 1<<63 - 1, "x", "no tree has that size"},
		"index -1":             {Proof{[]Entry{at(entry(0), -1)}}, n, "x", "index outside the tree"},
		"index past the end":   {Proof{[]Entry{at(entry(0), n)}}, n, "x", "index outside the tree"},
		"another index":        {Proof{[]Entry{at(entry(0), 1)}}, n, middle, "the path does not lead to the root"},
		"no entry":             {Proof{}, n, "x", "empty, but the tree is not"},
		"no entry, size 0":     {Proof{}, 0, "x", "empty, but the tree is not"},
		"another record":       {Proof{[]Entry{entry(1)}}, n, middle, "one record that is neither the name's nor at that end of the tree"},
		"first for a later":    {Proof{[]Entry{entry(0)}}, n, middle, "one record that is neither the name's nor at that end of the tree"},
		"last for an earlier":  {Proof{[]Entry{entry(n - 1)}}, n, middle, "one record that is neither the name's nor at that end of the tree"},
		"not adjacent":         {Proof{[]Entry{entry(n/2 - 1), entry(n/2 + 1)}}, n, middle, "two records that are not adjacent"},
		"itself on the left":   {Proof{[]Entry{entry(n / 2), entry(n/2 + 1)}}, n, middle, "two records that do not enclose the name"},
		"itself on the right":  {Proof{[]Entry{entry(n/2 - 1), entry(n / 2)}}, n, middle, "two records that do not enclose the name"},
		"below both":           {Proof{[]Entry{entry(n - 2), entry(n - 1)}}, n, nameOf(leaves, tree.Records()[0].Name), "two records that do not enclose the name"},
		"above both":           {Proof{[]Entry{entry(0), entry(1)}}, n, nameOf(leaves, tree.Records()[n-1].Name), "two records that do not enclose the name"},
		"three entries":        {Proof{[]Entry{entry(0), entry(1), entry(2)}}, n, middle, "more than two records"},
	} {
		_, _, err := c.p.Check(tree.Root(), c.size, c.name)
		if want := fmt.Sprintf("proof of %q: %s", c.name, c.want); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	if _, _, err := (Proof{}).Check(key.HashOf(nil), 1, "x"); err == nil || !strings.HasSuffix(err.Error(), "empty, but the tree is not") {
		t.Errorf("size 1 under the empty root: got %v", err)
	}
	if _, _, err := (Proof{}).Check(key.Hash{}, 0, "x"); err == nil || !strings.HasSuffix(err.Error(), "empty, but the tree is not") {
		t.Errorf("size 0 under another root: got %v", err)
	}
}

func FuzzParseProof(f *testing.F) {
	leaves := examples(f)
	tree, err := TreeOf(leaves)
	if err != nil {
		f.Fatal(err)
	}
	names := []string{NameNetwork, "inbound/tag:it", "absent/1", "absent/2", "absent/3"}
	for _, name := range names {
		p, err := tree.Prove(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Append(nil))
	}
	f.Add([]byte{0})
	f.Add([]byte{2})
	f.Add(append([]byte{1}, bytes.Repeat([]byte{0x7f}, 72)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			return
		}
		if got := p.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%x encodes again as %x", b, got)
		}
		for _, name := range names {
			got, present, err := p.Check(tree.Root(), tree.Size(), name)
			if err != nil {
				continue
			}
			if want, wantPresent := truth(leaves, name); got != want || present != wantPresent {
				t.Errorf("%x proves of %s: %v, truth is %v", b, name, present, wantPresent)
			}
		}
	})
}
