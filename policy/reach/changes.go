package reach

import (
	"slices"
)

// A layer is which pairs of two classes a rectangle is about.
type layer uint8

const (
	everyPair  layer = iota
	otherPairs       // of ends that are not of one user
	samePairs        // of nodes of one user
)

// A rect is a set of sources and a set of destinations: all pairs of both change
// in the same way.
type rect struct {
	was, mid, is cond
	atoms        bitset
	from, to     bitset
	layer        layer
	rule         int32
}

// A change3 is how a condition changes, by which rule.
type change3 struct {
	was, mid, is cond
	rule         int32
}

// A rectKey is what destinations have in common.
type rectKey struct {
	change3
	set, atoms int32
}

// A pairKey is what pairs of one user have in common.
type pairKey struct {
	change3
	atoms int32
}

// A gatherer gathers pieces into few rectangles.
type gatherer struct {
	e     *engine
	rects map[rectKey]*rect
	order []rectKey
	pairs map[pairKey][]ownPair // of destinations where one user matters
	same  map[int]map[int][]piece
	pair  []pairKey
}

// An ownPair is two classes that have nodes of one user.
type ownPair struct{ from, to int }

func (e *engine) newGatherer() *gatherer {
	return &gatherer{e: e, rects: map[rectKey]*rect{}, pairs: map[pairKey][]ownPair{}, same: map[int]map[int][]piece{}}
}

// add takes up the pieces of some classes of destinations that have the same rows.
func (g *gatherer) add(dests []int, pieces []piece) {
	for i := range pieces {
		p := &pieces[i]
		k := rectKey{change3{p.was, p.mid, p.is, p.rule}, g.e.sets.put(p.set), g.e.atoms.put(p.atoms)}
		r := g.rects[k]
		if r == nil {
			r = &rect{was: p.was, mid: p.mid, is: p.is, rule: p.rule, atoms: p.atoms, from: p.set, to: newBitset(len(g.e.sp.classes))}
			g.rects[k] = r
			g.order = append(g.order, k)
		}
		for _, d := range dests {
			r.to.add(d)
		}
	}
}

// addOwn takes up the pieces for sources of the destination's user, of a
// destination where that matters.
func (g *gatherer) addOwn(from, to int, pieces []piece) {
	if g.same[to] == nil {
		g.same[to] = map[int][]piece{}
	}
	g.same[to][from] = pieces
	for i := range pieces {
		p := &pieces[i]
		k := pairKey{change3{p.was, p.mid, p.is, p.rule}, g.e.atoms.put(p.atoms)}
		if g.pairs[k] == nil {
			g.pair = append(g.pair, k)
		}
		g.pairs[k] = append(g.pairs[k], ownPair{from, to})
	}
}

// wide reports whether a rectangle is so for pairs of one user as well, where there
// are any. Destinations that tell nothing apart are.
func (g *gatherer) wide(r *rect) bool {
	for d := range r.to.each {
		own := g.same[d]
		if own == nil {
			continue
		}
		for _, s := range g.e.sp.sharing(d) {
			if !r.from.has(int(s)) {
				continue
			}
			if same, _ := g.e.sp.meets(int(s), d); !same {
				continue
			}
			if !slices.ContainsFunc(own[int(s)], func(p piece) bool {
				return p.was == r.was && p.mid == r.mid && p.is == r.is && r.atoms.subsetOf(p.atoms)
			}) {
				return false
			}
		}
	}
	return true
}

// exists reports whether a rectangle has a pair, and gives one.
func (g *gatherer) exists(r *rect) (from, to int, ok bool) {
	for d := range r.to.each {
		for s := range r.from.each {
			same, other := g.e.sp.meets(s, d)
			if r.layer != samePairs && other || r.layer != otherPairs && same {
				return s, d, true
			}
		}
	}
	return 0, 0, false
}

// rectangles are what was gathered: those about every pair, those that leave out
// pairs of one user, and those that are only about such pairs.
func (g *gatherer) rectangles() (out []rect) {
	type covering struct {
		k        pairKey
		from, to int
	}
	covered := map[covering]bitset{} // atoms of pairs of one user that are said
	for _, r := range g.widen() {
		if len(g.same) > 0 && !g.wide(r) {
			r.layer = otherPairs
		}
		if _, _, ok := g.exists(r); !ok {
			continue
		}
		out = append(out, *r)
		if r.layer != everyPair {
			continue
		}
		for d := range r.to.each {
			for s, pieces := range g.same[d] {
				if !r.from.has(s) {
					continue
				}
				for i := range pieces {
					p := &pieces[i]
					if p.was != r.was || p.mid != r.mid || p.is != r.is || !r.atoms.subsetOf(p.atoms) {
						continue
					}
					k := covering{pairKey{change3{p.was, p.mid, p.is, p.rule}, g.e.atoms.put(p.atoms)}, s, d}
					if covered[k] == nil {
						covered[k] = newBitset(len(g.e.ports) + len(g.e.caps))
					}
					covered[k].or(r.atoms)
				}
			}
		}
	}
	// What is left of pairs of one user, by what changes.
	left := map[pairKey][]ownPair{}
	var order []pairKey
	for _, k := range g.pair {
		for _, p := range g.pairs[k] {
			same, _ := g.e.sp.meets(p.from, p.to)
			if !same {
				continue
			}
			atoms := g.e.atoms.sets[k.atoms].clone()
			if c := covered[covering{k, p.from, p.to}]; c != nil {
				atoms.without(c)
			}
			if atoms.empty() {
				continue
			}
			rest := pairKey{k.change3, g.e.atoms.put(atoms)}
			if left[rest] == nil {
				order = append(order, rest)
			}
			left[rest] = append(left[rest], p)
		}
	}
	for _, k := range order {
		out = g.own(k, left[k], out)
	}
	return out
}

// widen joins rectangles of the same destinations.
func (g *gatherer) widen() (out []*rect) {
	type key struct {
		change3
		atoms, to int32
	}
	index := map[key]*rect{}
	for _, k := range g.order {
		r := g.rects[k]
		id := key{k.change3, k.atoms, g.e.sets.put(r.to)}
		if known := index[id]; known != nil {
			known.from.or(r.from)
			continue
		}
		r.from = r.from.clone()
		index[id] = r
		out = append(out, r)
	}
	return out
}

// own makes rectangles of pairs of one user: one of all sources whose nodes reach
// every node of their user, if there are such, and one for each other source.
func (g *gatherer) own(k pairKey, pairs []ownPair, out []rect) []rect {
	n := len(g.e.sp.classes)
	bySource := map[int]bitset{}
	var order []int
	for _, p := range pairs {
		if bySource[p.from] == nil {
			bySource[p.from] = newBitset(n)
			order = append(order, p.from)
		}
		bySource[p.from].add(p.to)
	}
	whole := rect{was: k.was, mid: k.mid, is: k.is, rule: k.rule, atoms: g.e.atoms.sets[k.atoms], from: newBitset(n), to: newBitset(n), layer: samePairs}
	said := map[int]bool{}
	for _, s := range order {
		all := true
		for _, d := range g.e.sp.sharing(s) {
			same, _ := g.e.sp.meets(s, int(d))
			all = all && (!same || bySource[s].has(int(d)))
		}
		if !all {
			r := whole
			r.from, r.to = newBitset(n), bySource[s]
			r.from.add(s)
			out = append(out, r)
			said[s] = true
		}
	}
	for _, s := range order {
		if said[s] {
			continue
		}
		whole.from.add(s)
		whole.to.or(bySource[s])
	}
	if !whole.from.empty() {
		out = append(out, whole)
	}
	return out
}
