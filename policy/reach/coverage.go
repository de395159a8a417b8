package reach

import (
	"fmt"
)

// Coverage counts what tests say something about.
//
// A rule is witnessed if it gives some of the access that an allow asserts, or
// gives access to a destination, on a port, that a deny or an only is about: were
// the rule wider, that test would fail. A cell is access from one class of ends to
// another on one class of ports. It is witnessed if an allow asserts it, or if an
// only is about it, which permits it.
type Coverage struct {
	world *World
	asked []asserted
}

type asserted struct {
	q     Question
	allow bool
}

// A Report is what a Coverage comes to.
type Report struct {
	Rules, RulesWitnessed int
	Unwitnessed           []string // rules, by name
	Cells, CellsWitnessed uint64
}

// NewCoverage counts for the rules of the world.
func (w *World) NewCoverage() *Coverage { return &Coverage{world: w} }

// Allow counts an allow that passed.
func (c *Coverage) Allow(q Question) { c.asked = append(c.asked, asserted{q, true}) }

// Bound counts a deny that passed, or an only (which is Outside).
func (c *Coverage) Bound(q Question) { c.asked = append(c.asked, asserted{q, false}) }

// Report counts what was said, at the time of the first question that the world
// was made for.
func (c *Coverage) Report() Report {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	witnessed := make([]bool, len(w.e.rules))
	var said []*inquiry
	for _, a := range c.asked {
		q := a.q
		if !a.allow {
			q.From, q.Outside = nil, false
		}
		w.giving(w.inquire(q), func(_, _ int, it *item) {
			for _, n := range it.rules {
				witnessed[n] = true
			}
		})
		if !a.allow && !a.q.Outside {
			continue
		}
		q = a.q
		q.Outside = false // what an only permits
		said = append(said, w.inquire(q))
	}
	out := Report{Rules: len(w.e.rules)}
	for n, is := range witnessed {
		if is {
			out.RulesWitnessed++
		} else {
			out.Unwitnessed = append(out.Unwitnessed, w.e.rules[n])
		}
	}
	out.Cells, out.CellsWitnessed = w.cells(said)
	return out
}

// cells counts all, and those that some inquiry is about.
func (w *World) cells(said []*inquiry) (all, witnessed uint64) {
	about := make([][]int, len(w.e.sp.classes))
	for i, in := range said {
		for d := range in.to.each {
			about[d] = append(about[d], i)
		}
		for d := range in.own.each {
			about[d] = append(about[d], i)
		}
	}
	s, _ := w.sheet(w.at)
	type counted struct{ all, witnessed uint64 }
	known := map[string]counted{}
	everything := newBitset(len(w.e.ports) + len(w.e.caps))
	for i := range len(w.e.ports) + len(w.e.caps) {
		everything.add(i)
	}
	for d := range w.e.sp.classes {
		r := s.row(d)
		if len(r.items) == 0 || w.e.sp.classes[d].claimed != "" {
			continue
		}
		k := fmt.Sprintf("%p %v", r, about[d])
		if r.self {
			k += fmt.Sprint(" ", d)
		}
		n, ok := known[k]
		if !ok {
			for _, c := range w.e.covers(everything, []*row{r}, func(*item) bool { return true }) {
				given := newBitset(len(w.e.sp.classes))
				for _, it := range c.items[0] {
					if !it.self {
						given.or(w.e.sets.sets[it.set])
						continue
					}
					for _, own := range w.e.sp.sharing(d) {
						if w.e.sets.sets[it.set].has(int(own)) {
							given.add(int(own))
						}
					}
				}
				w.e.sp.withoutClaimed(given)
				n.all += uint64(given.count()) * uint64(c.atoms.count())
				n.witnessed += w.witnessed(given, c.atoms, about[d], said)
			}
			known[k] = n
		}
		all += n.all
		witnessed += n.witnessed
	}
	return all, witnessed
}

// witnessed counts the cells of sources and atoms that some inquiry is about.
func (w *World) witnessed(given, atoms bitset, about []int, said []*inquiry) (n uint64) {
	left := []cover{{atoms: atoms.clone()}}
	sets := []bitset{newBitset(len(w.e.sp.classes))}
	for _, i := range about {
		in := said[i]
		for j := range left {
			c := &left[j]
			if !c.atoms.meets(in.atoms) {
				continue
			}
			if !c.atoms.subsetOf(in.atoms) {
				rest := c.atoms.clone()
				rest.without(in.atoms)
				c.atoms.and(in.atoms)
				left = append(left, cover{atoms: rest})
				sets = append(sets, sets[j].clone())
			}
			sets[j].or(in.from)
		}
	}
	for j := range left {
		sets[j].and(given)
		n += uint64(sets[j].count()) * uint64(left[j].atoms.count())
	}
	return n
}
