package reach

import (
	"math/bits"
	"slices"
)

// A bitset is a set of small numbers: of classes of ends, or of atoms. All sets of
// one kind in one space have the same length.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }

func (b bitset) or(o bitset) {
	for i, w := range o {
		b[i] |= w
	}
}

func (b bitset) and(o bitset) {
	for i := range b {
		b[i] &= o[i]
	}
}

func (b bitset) without(o bitset) {
	for i, w := range o {
		b[i] &^= w
	}
}

func (b bitset) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

func (b bitset) meets(o bitset) bool {
	for i, w := range b {
		if w&o[i] != 0 {
			return true
		}
	}
	return false
}

// subsetOf reports whether all of b is in o.
func (b bitset) subsetOf(o bitset) bool {
	for i, w := range b {
		if w&^o[i] != 0 {
			return false
		}
	}
	return true
}

func (b bitset) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// each yields the members, rising.
func (b bitset) each(yield func(int) bool) {
	for i, w := range b {
		for w != 0 {
			if !yield(i*64 + bits.TrailingZeros64(w)) {
				return
			}
			w &= w - 1
		}
	}
}

// first is the lowest member, or -1.
func (b bitset) first() int {
	for i, w := range b {
		if w != 0 {
			return i*64 + bits.TrailingZeros64(w)
		}
	}
	return -1
}

func (b bitset) clone() bitset { return slices.Clone(b) }

func (b bitset) hash() uint64 {
	h := uint64(14695981039346656037) // FNV-1a, by words
	for _, w := range b {
		h = (h ^ w) * 1099511628211
		h ^= h >> 29
	}
	return h
}

// A pool keeps each set once, so that equal sets have equal numbers.
type pool struct {
	sets []bitset
	by   map[uint64][]int32
}

func newPool() *pool { return &pool{by: map[uint64][]int32{}} }

// put numbers a set, which must not change afterwards.
func (p *pool) put(b bitset) int32 {
	h := b.hash()
	for _, id := range p.by[h] {
		if slices.Equal(p.sets[id], b) {
			return id
		}
	}
	id := int32(len(p.sets))
	p.sets = append(p.sets, b)
	p.by[h] = append(p.by[h], id)
	return id
}
