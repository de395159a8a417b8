package reach

import (
	"maps"
	"slices"
)

// A Redundant is a rule without which nothing changes.
type Redundant struct {
	Rule string
	By   []string // rules that allow some of the same; together they allow all of it
	Dead bool     // it allows nothing at all
}

// Redundant are the rules of the world without any one of which nothing changes, by
// name, at the time of the first question that the world was made for. Of two
// rules that allow the same, both are.
func (w *World) Redundant() (out []Redundant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, _ := w.sheet(w.at)
	dests := map[*row][]int{}
	var order []*row
	for d := range w.e.sp.classes {
		r := s.row(d)
		if len(r.items) == 0 {
			continue
		}
		if dests[r] == nil {
			order = append(order, r)
		}
		dests[r] = append(dests[r], d)
	}
	needed := make([]bool, len(w.e.rules))
	gives := make([]bool, len(w.e.rules))
	by := make([]map[int32]bool, len(w.e.rules))
	for _, r := range order {
		rules := map[int32]bool{}
		for i := range r.items {
			for _, n := range r.items[i].rules {
				rules[n] = true
			}
		}
		for n := range rules {
			if needed[n] {
				continue
			}
			if !gives[n] {
				gives[n] = w.changes(&row{}, r.only(n, true), dests[r])
			}
			without := r.only(n, false)
			if len(without.items) < len(r.items) && w.changes(without, r, dests[r]) {
				needed[n] = true
				by[n] = nil
				continue
			}
			if by[n] == nil {
				by[n] = map[int32]bool{}
			}
			w.overlapping(r, n, by[n])
		}
	}
	for n, rule := range w.e.rules {
		if needed[n] {
			continue
		}
		x := Redundant{Rule: rule, Dead: !gives[n]}
		if gives[n] {
			for _, o := range slices.Sorted(maps.Keys(by[n])) {
				x.By = append(x.By, w.e.rules[o])
			}
		}
		out = append(out, x)
	}
	return out
}

// only is a row with what a rule gives, or with what others do.
func (r *row) only(rule int32, its bool) *row {
	out := &row{self: r.self, what: "part"}
	for _, it := range r.items {
		if its && slices.Contains(it.rules, rule) || !its && (len(it.rules) > 1 || it.rules[0] != rule) {
			out.items = append(out.items, it)
		}
	}
	return out
}

// changes reports whether some pair has other access under the one row than under
// the other.
func (w *World) changes(was, is *row, dests []int) bool {
	rows := []*row{was, is}
	pieces := w.e.pieces(rows)
	for _, d := range dests {
		for _, p := range pieces {
			for s := range p.set.each {
				same, other := w.e.sp.meets(s, d)
				if other || same && !is.self {
					return true
				}
			}
		}
		if !is.self {
			continue
		}
		for _, s := range w.e.sp.sharing(d) {
			if same, _ := w.e.sp.meets(int(s), d); same && len(w.e.piecesOf(rows, int(s))) > 0 {
				return true
			}
		}
	}
	return false
}

// overlapping adds the rules that give some of what a rule gives.
func (w *World) overlapping(r *row, rule int32, into map[int32]bool) {
	for i := range r.items {
		a := &r.items[i]
		if !slices.Contains(a.rules, rule) {
			continue
		}
		for j := range r.items {
			b := &r.items[j]
			if !w.e.atoms.sets[a.atoms].meets(w.e.atoms.sets[b.atoms]) || !w.e.sets.sets[a.set].meets(w.e.sets.sets[b.set]) {
				continue
			}
			for _, n := range b.rules {
				if n != rule {
					into[n] = true
				}
			}
		}
	}
}
