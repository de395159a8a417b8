package reach

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
)

// A piece is a change of conditions for some sources and atoms of one row, and the
// rule that makes it. Mid is what the old policy says with the new inventory; where
// there is one inventory it is was.
type piece struct {
	was, mid, is cond
	rule         int32  // -1: none, as access is missing
	set          bitset // sources
	atoms        bitset
}

// touched are the atoms of the items that not all rows have.
func (e *engine) touched(rows []*row) bitset {
	out := newBitset(len(e.ports) + len(e.caps))
	for _, r := range rows[1:] {
		a, b := rows[0].items, r.items
		for len(a) > 0 || len(b) > 0 {
			order := 0
			switch {
			case len(a) == 0:
				order = 1
			case len(b) == 0:
				order = -1
			default:
				order = compareItems(a[0], b[0])
			}
			switch {
			case order < 0:
				out.or(e.atoms.sets[a[0].atoms])
				a = a[1:]
			case order > 0:
				out.or(e.atoms.sets[b[0].atoms])
				b = b[1:]
			default:
				a, b = a[1:], b[1:]
			}
		}
	}
	return out
}

// A cover is atoms that the same items of each row give.
type cover struct {
	atoms bitset
	items [3][]*item
}

// covers parts atoms by the items that give them, of those that the filter keeps.
func (e *engine) covers(atoms bitset, rows []*row, keep func(*item) bool) []cover {
	parts := []cover{{atoms: atoms.clone()}}
	for k, r := range rows {
		for i := range r.items {
			it := &r.items[i]
			if !keep(it) {
				continue
			}
			given := e.atoms.sets[it.atoms]
			for j := range parts {
				p := &parts[j]
				if !p.atoms.meets(given) {
					continue
				}
				if !p.atoms.subsetOf(given) {
					rest := *p
					for n := range rest.items {
						rest.items[n] = slices.Clip(rest.items[n])
					}
					rest.atoms = p.atoms.clone()
					rest.atoms.without(given)
					p.atoms.and(given)
					for n := range p.items {
						p.items[n] = slices.Clip(p.items[n])
					}
					parts = append(parts, rest)
					p = &parts[j]
				}
				p.items[k] = append(p.items[k], it)
			}
		}
	}
	return parts
}

// cell is sources with one condition in each row.
type cell struct {
	set   bitset
	conds [3]cond
}

// cells are the sources that a cover's items give anything, by their conditions.
func (e *engine) cells(c *cover, rows int) []cell {
	n := len(e.sp.classes)
	left := newBitset(n)
	var out []cell
	for k := range rows {
		byCond := map[cond]bitset{}
		var order []cond
		for _, it := range c.items[k] {
			b, ok := byCond[it.cond]
			if !ok {
				b = newBitset(n)
				byCond[it.cond] = b
				order = append(order, it.cond)
			}
			b.or(e.sets.sets[it.set])
		}
		slices.Sort(order)
		for _, id := range order {
			set := byCond[id]
			for i := range out {
				o := &out[i]
				if !o.set.meets(set) {
					continue
				}
				if !o.set.subsetOf(set) {
					rest := cell{o.set.clone(), o.conds}
					rest.set.without(set)
					o.set.and(set)
					out = append(out, rest)
					o = &out[i]
				}
				o.conds[k] = e.conds.union(o.conds[k], id)
			}
			fresh := set.clone()
			fresh.without(left)
			if !fresh.empty() {
				var x cell
				x.set, x.conds[k] = fresh, id
				out = append(out, x)
				left.or(set)
			}
		}
	}
	return out
}

// pieces are what changes from the first row to the last for sources that are not
// of the destination's user, or of all where the rows do not tell.
func (e *engine) pieces(rows []*row) []piece {
	if same(rows) {
		return nil
	}
	atoms := e.touched(rows)
	var out []piece
	for _, c := range e.covers(atoms, rows, func(it *item) bool { return !it.self }) {
		for _, x := range e.cells(&c, len(rows)) {
			out = e.addPieces(out, x, &c, len(rows))
		}
	}
	return out
}

// piecesOf is the same for one class of sources and those of its ends that are of
// the destination's user.
func (e *engine) piecesOf(rows []*row, source int) []piece {
	if same(rows) {
		return nil
	}
	set := newBitset(len(e.sp.classes))
	set.add(source)
	var out []piece
	for _, c := range e.covers(e.touched(rows), rows, func(it *item) bool { return e.sets.sets[it.set].has(source) }) {
		x := cell{set: set}
		for k := range rows {
			for _, it := range c.items[k] {
				x.conds[k] = e.conds.union(x.conds[k], it.cond)
			}
		}
		out = e.addPieces(out, x, &c, len(rows))
	}
	return out
}

// addPieces adds a cell that changes, split by the rules that make the change: of
// several, the one that gives all of the condition, then the first by name. Of
// what is gained they are the last row's, and of what is lost the first's.
func (e *engine) addPieces(out []piece, x cell, c *cover, rows int) []piece {
	p := piece{was: x.conds[0], mid: x.conds[0], is: x.conds[rows-1], set: x.set, atoms: c.atoms}
	if rows == 3 {
		p.mid = x.conds[1]
	}
	if p.was == p.is || e.conds.equal(p.was, p.is) {
		return out
	}
	items, full, but := c.items[rows-1], p.is, p.was
	if e.conds.union(p.was, p.is) == p.was {
		items, full, but = c.items[0], p.was, p.is
	}
	items = slices.SortedFunc(slices.Values(items), func(a, b *item) int {
		switch whole := a.cond == full; {
		case whole == (b.cond == full):
			return cmp.Compare(a.rules[0], b.rules[0])
		case whole:
			return -1
		}
		return 1
	})
	left := x.set.clone()
	for _, it := range items {
		if left.empty() {
			break
		}
		if !left.meets(e.sets.sets[it.set]) || e.conds.union(but, it.cond) == but {
			continue
		}
		part := p
		part.rule = it.rules[0]
		part.set = left.clone()
		part.set.and(e.sets.sets[it.set])
		left.without(part.set)
		out = addPiece(out, part)
	}
	if !left.empty() { // by what several rules give together
		p.set, p.rule = left, -1
		if len(items) > 0 {
			p.rule = items[0].rules[0]
		}
		out = addPiece(out, p)
	}
	return out
}

// addPiece adds a piece: to the one that has the same but for the atoms, if there
// is one.
func addPiece(out []piece, p piece) []piece {
	for i := range out {
		if o := &out[i]; o.was == p.was && o.mid == p.mid && o.is == p.is && o.rule == p.rule && slices.Equal(o.set, p.set) {
			o.atoms.or(p.atoms)
			return out
		}
	}
	p.atoms = p.atoms.clone()
	return append(out, p)
}

// same reports whether all rows give the same.
func same(rows []*row) bool {
	for _, r := range rows[1:] {
		if r.what != rows[0].what {
			return false
		}
	}
	return true
}

// parallel calls f for each number below n, on all processors.
func parallel(n int, f func(int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	next := make(chan int, workers)
	for range workers {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
