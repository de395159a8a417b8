package reach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A World is one policy with the ends that exist, or might: what tests and
// questions are asked of. It is safe for use by several goroutines.
type World struct {
	Policy *Compiled
	e      *engine

	mu     sync.Mutex
	sheets map[int64]*sheet
	namers map[int64]*namer
	at     int64 // of the first question
}

// NewWorld cuts the ends into classes, for a policy and everything that will be
// asked: users and tags that questions name exist, whether or not the policy
// mentions them, and what they tell apart is told apart. Another question than
// these may be asked if it has their selectors and ports.
func NewWorld(c *Compiled, inv *Inventory, asked []Question) *World {
	if c == nil {
		c = &Compiled{}
	}
	w := &World{Policy: c, sheets: map[int64]*sheet{}, namers: map[int64]*namer{}}
	var ports []acl.Ports
	for _, q := range asked {
		ports = append(ports, q.Ports...)
		if w.at == 0 {
			w.at = q.At.Unix()
		}
	}
	w.e = newEngine(newSpace([]spaceSide{{c, inv}}, asked), ports)
	return w
}

// sheet is the policy at a time.
func (w *World) sheet(at int64) (*sheet, *namer) {
	if w.sheets[at] == nil {
		w.sheets[at] = w.e.newSheet(0, at)
		w.namers[at] = newNamer(w.e, w.sheets[at])
	}
	return w.sheets[at], w.namers[at]
}

// An inquiry is a question in terms of classes.
type inquiry struct {
	q        Question
	s        *sheet
	names    *namer
	from, to bitset
	own      bitset // destinations of which only the user's own nodes are asked about
	atoms    bitset
}

// inquire finds the classes that a question is about.
func (w *World) inquire(q Question) *inquiry {
	s, names := w.sheet(q.At.Unix())
	n := len(w.e.sp.classes)
	in := &inquiry{q: q, s: s, names: names, own: newBitset(n)}
	in.from = s.selected(q.From)
	if q.Outside {
		all := s.selected(nil)
		all.without(in.from)
		in.from = all
	}
	in.to = s.selected(q.To)
	if slices.ContainsFunc(q.To, func(r model.Ref) bool { return r.Selector.Kind == acl.KindSelf }) {
		for d := range s.selected(nil).each {
			if c := &w.e.sp.classes[d]; c.kind == nodeEnd && c.user && !in.to.has(d) {
				in.own.add(d)
			}
		}
	}
	in.atoms = newBitset(len(w.e.ports) + len(w.e.caps))
	for i, c := range w.e.ports {
		if len(q.Ports) == 0 || slices.ContainsFunc(q.Ports, func(p acl.Ports) bool { return p.Contains(c.Target) }) {
			in.atoms.add(i)
		}
	}
	for i := range w.e.caps {
		if q.Capabilities {
			in.atoms.add(len(w.e.ports) + i)
		}
	}
	return in
}

// selected are the classes that any of the references selects, less its
// exceptions; all there are for nil.
func (s *sheet) selected(list []model.Ref) bitset {
	out := newBitset(len(s.sp.classes))
	if list == nil {
		for i := range s.sp.classes {
			if s.sp.classes[i].until[s.side] > s.at {
				out.add(i)
			}
		}
		s.sp.withoutClaimed(out)
		return out
	}
	for _, r := range list {
		except := make([]acl.Selector, len(r.Except))
		for i, x := range r.Except {
			except[i] = x.Selector
		}
		for _, p := range s.choices[s.choose([]acl.Selector{r.Selector}, except)] {
			out.or(s.e.sets.sets[p.set])
		}
	}
	s.sp.withoutClaimed(out)
	return out
}

// holds reports whether an item counts for a question: at its time, and with what
// sources report. All says whether it must at every hour, whatever is reported.
func (in *inquiry) holds(it *item, all bool) bool {
	if it.cond == always {
		return true
	}
	for _, t := range in.s.e.conds.terms(it.cond) {
		switch {
		case len(t.posture) == 0:
		case in.q.Posture != nil:
			if !t.posture.Met(in.q.Posture) {
				continue
			}
		case all || !possible(t.posture):
			continue
		}
		switch {
		case t.zone == "":
			return true
		case in.q.Fixed:
			if endAt(t.spans, minuteOf(in.q.At, t.zone)) > 0 {
				return true
			}
		case !all:
			return true
		}
	}
	return false
}

// restricted is a row of the items that count, on the atoms asked about. For what
// must always hold, items that do so together are kept with their hours.
func (in *inquiry) restricted(r *row, all bool) *row {
	out := &row{self: r.self}
	for i := range r.items {
		it := r.items[i]
		if !in.s.e.atoms.sets[it.atoms].meets(in.atoms) {
			continue
		}
		if all && !in.q.Fixed && it.cond != always {
			id := in.regardless(it.cond)
			if id == never {
				continue
			}
			it.cond = id
		} else if !in.holds(&it, all) {
			continue
		} else if all {
			it.cond = always
		} else {
			it.cond = in.settled(it.cond)
		}
		out.items = append(out.items, it)
	}
	return out
}

// regardless is what is left of a condition that must always hold: its hours, of
// the terms that what is reported meets.
func (in *inquiry) regardless(id cond) cond {
	return in.terms(id, func(t *term) bool {
		met := len(t.posture) == 0 || in.q.Posture != nil && t.posture.Met(in.q.Posture)
		t.posture, t.key = nil, ""
		return met
	})
}

// settled is a condition of which some term holds, as far as the question does not
// settle it: without terms that do not hold then, where the time is fixed, and
// without postures where what is reported is said.
func (in *inquiry) settled(id cond) cond {
	return in.terms(id, func(t *term) bool {
		if in.q.Posture != nil {
			if len(t.posture) > 0 && !t.posture.Met(in.q.Posture) {
				return false
			}
			t.posture, t.key = nil, ""
		} else if !possible(t.posture) {
			return false
		}
		return t.zone == "" || !in.q.Fixed || endAt(t.spans, minuteOf(in.q.At, t.zone)) > 0
	})
}

// terms is a condition of the terms that are kept, as they are left. None of them
// has ended, and unless that is asked none ends.
func (in *inquiry) terms(id cond, keep func(*term) bool) cond {
	c := in.s.e.conds
	var terms []term
	for _, t := range c.terms(id) {
		t.spans = slices.Clone(t.spans)
		for i := range t.spans {
			if !in.q.Ends {
				t.spans[i].until = forever
			}
		}
		if keep(&t) {
			terms = append(terms, t)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(normal(terms))
}

// Ends are how many classes of ends a question is about; 0 where there are none.
func (w *World) Ends(q Question) (from, to int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inquire(q)
	return in.from.count(), in.to.count() + in.own.count()
}

// Meet reports whether there is a flow that a question is about: two ends that are
// not one node, of one address family, and of one user where autogroup:self is
// asked about.
func (w *World) Meet(q Question) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inquire(q)
	for d := range in.to.each {
		for s := range in.from.each {
			if same, other := w.e.sp.meets(s, d); same || other {
				return true
			}
		}
	}
	for d := range in.own.each {
		for _, s := range w.e.sp.sharing(d) {
			if same, _ := w.e.sp.meets(int(s), d); same && in.from.has(int(s)) {
				return true
			}
		}
	}
	return false
}

// Name describes the ends that any of the references selects, less its Except.
func (w *World) Name(refs []model.Ref, at time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, names := w.sheet(at.Unix())
	return names.name(s.selected(refs))
}

// Reachable are the pairs that have access on some port that is asked about, at
// some hour, with some report. Where a local address of a node that is asked about
// lies behind an approved route, what reaches the address reaches the node.
func (w *World) Reachable(q Question) []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inquire(q)
	return w.findings(w.reachable(in), in, true)
}

func (w *World) reachable(in *inquiry) *gatherer {
	w.behind(in)
	g := w.e.newGatherer()
	byRow := map[*row][]int{}
	var order []*row
	asked := in.to.clone()
	asked.or(in.own)
	for d := range asked.each {
		r := in.s.row(d)
		if len(r.items) == 0 {
			continue
		}
		if byRow[r] == nil {
			order = append(order, r)
		}
		byRow[r] = append(byRow[r], d)
	}
	nothing := &row{}
	for _, full := range order {
		if !slices.ContainsFunc(full.items, func(it item) bool {
			return w.e.sets.sets[it.set].meets(in.from) && w.e.atoms.sets[it.atoms].meets(in.atoms)
		}) {
			continue
		}
		r := in.restricted(full, false)
		r.what = "asked"
		if len(r.items) == 0 {
			continue
		}
		rows := []*row{nothing, r}
		clip := func(list []piece) (out []piece) {
			for _, p := range list {
				p.set, p.atoms = p.set.clone(), p.atoms.clone()
				p.set.and(in.from)
				p.atoms.and(in.atoms)
				if !p.set.empty() && !p.atoms.empty() {
					out = append(out, p)
				}
			}
			return out
		}
		var dests []int
		for _, d := range byRow[full] {
			if in.to.has(d) {
				dests = append(dests, d)
			}
		}
		if len(dests) > 0 {
			g.add(dests, clip(w.e.pieces(rows)))
		}
		for _, d := range byRow[full] {
			if !full.self && in.to.has(d) {
				continue
			}
			for _, s := range w.e.sp.sharing(d) {
				g.addOwn(int(s), d, clip(w.e.piecesOf(rows, int(s))))
			}
		}
	}
	return g
}

// behind adds the addresses behind routes that are local addresses of nodes asked
// about.
func (w *World) behind(in *inquiry) {
	sp := w.e.sp
	inv := sp.sides[0].inv
	if inv == nil || sp.unlocal {
		return
	}
	real := 0
	names := map[string]bool{}
	for d := range in.to.each {
		for _, id := range sp.classes[d].real {
			names[sp.real[id]] = true
			real++
		}
	}
	if real == 0 {
		return
	}
	for i := range inv.Nodes {
		n := &inv.Nodes[i]
		if !names[n.Name] {
			continue
		}
		for _, a := range n.Local {
			if c, ok := sp.local[a.Unmap()]; ok {
				in.to.add(int(c))
			}
			if acl.Public(a) {
				for c := range sp.classes {
					if sp.classes[c].kind == internetEnd {
						in.to.add(c)
					}
				}
			}
		}
	}
}

// Missing are the pairs that lack access on some port that is asked about, at some
// hour.
func (w *World) Missing(q Question) []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inquire(q)
	return w.findings(w.missing(in), in, false)
}

func (w *World) missing(in *inquiry) *gatherer {
	g := w.e.newGatherer()
	lack := func(rows []*row, d int, set bitset, keep func(*item) bool, source int) (out []piece) {
		for _, c := range w.e.covers(in.atoms, rows, keep) {
			left := set.clone()
			sum := map[int]cond{}
			for _, it := range c.items[0] {
				if it.cond == always {
					left.without(w.e.sets.sets[it.set])
				}
			}
			if left.empty() {
				continue
			}
			for _, it := range c.items[0] {
				if it.cond == always {
					continue
				}
				both := left.clone()
				both.and(w.e.sets.sets[it.set])
				for s := range both.each {
					sum[s] = w.e.conds.union(sum[s], it.cond)
				}
			}
			for s, id := range sum {
				if id == always || w.e.conds.equal(id, always) {
					left[s/64] &^= 1 << (s % 64)
				}
			}
			if !left.empty() {
				out = addPiece(out, piece{is: always, rule: -1, set: left, atoms: c.atoms})
			}
		}
		return out
	}
	asked := in.to.clone()
	asked.or(in.own)
	type rest struct {
		r      *row
		pieces []piece
	}
	known := map[*row]rest{}
	for d := range asked.each {
		full := in.s.row(d)
		k, ok := known[full]
		if !ok {
			k.r = in.restricted(full, true)
			k.pieces = lack([]*row{k.r}, d, in.from, func(it *item) bool { return !it.self }, -1)
			known[full] = k
		}
		if in.to.has(d) {
			var pieces []piece
			for _, p := range k.pieces {
				p.set = p.set.clone()
				for s := range p.set.each {
					same, other := w.e.sp.meets(s, d)
					if !other && (!same || full.self) {
						p.set[s/64] &^= 1 << (s % 64)
					}
				}
				if !p.set.empty() {
					pieces = append(pieces, p)
				}
			}
			g.add([]int{d}, pieces)
			if !full.self {
				continue
			}
		}
		for _, s := range w.e.sp.sharing(d) {
			if same, _ := w.e.sp.meets(int(s), d); !same || !in.from.has(int(s)) {
				g.addOwn(int(s), d, nil)
				continue
			}
			one := newBitset(len(w.e.sp.classes))
			one.add(int(s))
			g.addOwn(int(s), d, lack([]*row{k.r}, d, one, func(it *item) bool { return w.e.sets.sets[it.set].has(int(s)) }, int(s)))
		}
	}
	return g
}

// findings writes what was gathered in words.
func (w *World) findings(g *gatherer, in *inquiry, allowed bool) (out []Finding) {
	for _, r := range g.rectangles() {
		f := Finding{From: in.names.name(r.from), To: in.names.name(r.to), People: in.names.people(r.from), Nodes: in.names.real(r.to)}
		if r.layer == samePairs {
			f.To = w.e.ownText(&r, g, in.names)
		}
		f.Ports, f.Capabilities = w.e.atomText(r.atoms)
		from, to, _ := g.exists(&r)
		f.Sample = Pair{w.e.sp.classes[from].rep, w.e.sp.classes[to].rep, w.e.target(r.atoms)}
		if allowed {
			f.Rules = w.e.ruleNames(&r)
			words := w.e.conds.words(r.is)
			f.When, f.Posture, f.Until = words.when, words.posture, words.until
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(strings.Compare(strings.Join(a.To, " "), strings.Join(b.To, " ")), strings.Compare(strings.Join(a.From, " "), strings.Join(b.From, " ")),
			strings.Compare(strings.Join(a.Ports, " "), strings.Join(b.Ports, " ")), slices.Compare(a.Rules, b.Rules), slices.Compare(a.When, b.When), slices.Compare(a.Posture, b.Posture))
	})
	return out
}

// Rules are those that give any of the access asked about, sorted.
func (w *World) Rules(q Question) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	rules := map[int32]bool{}
	w.giving(w.inquire(q), func(_, _ int, it *item) {
		for _, n := range it.rules {
			rules[n] = true
		}
	})
	var out []string
	for n, r := range w.e.rules {
		if rules[int32(n)] {
			out = append(out, r)
		}
	}
	return out
}

// giving calls f for items that give some of the access asked about: a destination,
// and a source or -1.
func (w *World) giving(in *inquiry, f func(source, dest int, it *item)) {
	w.behind(in)
	type seen struct {
		r   *row
		own bool
	}
	known := map[seen]bool{}
	asked := in.to.clone()
	asked.or(in.own)
	for d := range asked.each {
		full := in.s.row(d)
		self := full.self || in.own.has(d)
		if k := (seen{full, self}); !self && known[k] {
			continue
		} else {
			known[k] = true
		}
		for i := range full.items {
			it := &full.items[i]
			if !w.e.atoms.sets[it.atoms].meets(in.atoms) || !in.holds(it, false) || !w.e.sets.sets[it.set].meets(in.from) {
				continue
			}
			for s := range w.e.sets.sets[it.set].each {
				if !in.from.has(s) {
					continue
				}
				same, other := w.e.sp.meets(s, d)
				if same || other && !it.self && in.to.has(d) {
					f(s, d, it)
					break
				}
			}
		}
	}
}

// Assumptions are what answers to a question rest on that is not known, one
// sentence each.
func (w *World) Assumptions(q Question) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sp := w.e.sp
	routes := slices.ContainsFunc(sp.classes, func(c class) bool { return c.kind == addressEnd || c.kind == internetEnd })
	if !routes {
		return nil
	}
	if sp.assumed {
		out = append(out, "every route and exit node that the policy approves is taken to be advertised: no inventory tells which are")
	}
	if len(q.To) > 0 && slices.ContainsFunc(sp.classes, func(c class) bool { return c.kind == addressEnd }) {
		in := w.inquire(q)
		nodes, untold := false, map[string]bool{}
		for d := range in.to.each {
			nodes = nodes || sp.classes[d].kind == nodeEnd
			for _, id := range sp.classes[d].real {
				if name := sp.real[id]; !sp.told[name] {
					untold[name] = true
				}
			}
		}
		const lead = "no node that is asked about is taken to have an address behind an approved route: "
		switch names := slices.Sorted(maps.Keys(untold)); {
		case nodes && sp.unlocal:
			out = append(out, lead+"no inventory tells local addresses")
		case len(names) == 1:
			out = append(out, lead+"the inventory tells no local addresses of "+names[0])
		case len(names) > 1:
			out = append(out, fmt.Sprintf("%sthe inventory tells no local addresses of %s and %d more", lead, names[0], len(names)-1))
		}
	}
	return out
}
