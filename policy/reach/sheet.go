package reach

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// A member is a class that a selector selects, with the end of that.
type member struct {
	class int32
	until int64
}

// members are the classes that each selector selects on a side, whatever the
// time. autogroup:self is not among them.
func (sp *space) members(c *Compiled, side int) map[acl.Selector][]member {
	out := map[acl.Selector][]member{}
	for i := range sp.classes {
		cl := &sp.classes[i]
		present := cl.until[side]
		if present == 0 {
			continue
		}
		add := func(s acl.Selector, until int64) {
			if sp.used[s] {
				out[s] = append(out[s], member{int32(i), min(until, present)})
			}
		}
		for _, p := range cl.within {
			add(p, forever)
		}
		switch cl.kind {
		case internetEnd:
			add(acl.Selector{Kind: acl.KindInternet}, forever)
			continue
		case addressEnd:
			continue
		case holderEnd:
			add(acl.Selector{Kind: acl.KindAny}, forever)
			continue
		}
		if cl.claimed != "" {
			for _, m := range c.Principals[acl.Selector{Kind: acl.KindClaim, Name: cl.rep.Claim}] {
				add(acl.Selector{Kind: acl.KindGroup, Name: m.Group}, unix(m.Until))
			}
			continue
		}
		sub := c.Subject(cl.rep)
		add(acl.Selector{Kind: acl.KindAny}, forever)
		if cl.user {
			add(acl.Selector{Kind: acl.KindMember}, forever)
			add(acl.Selector{Kind: acl.KindUser, Name: cl.rep.User}, forever)
		} else {
			add(acl.Selector{Kind: acl.KindTagged}, forever)
		}
		for j, t := range sub.Tags {
			if !slices.Contains(sub.Tags[:j], t) {
				add(acl.Selector{Kind: acl.KindTag, Name: t}, forever)
			}
		}
		if cl.named != "" {
			add(acl.Selector{Kind: acl.KindNode, Name: cl.named}, forever)
		}
		for _, m := range sub.Groups {
			add(acl.Selector{Kind: acl.KindGroup, Name: m.Group}, unix(m.Until))
		}
	}
	return out
}

// A part is classes with one end.
type part struct {
	until int64
	set   int32 // in the pool
}

// An item is what one or more grants give to a destination: some sources, under a
// condition, on some atoms.
type item struct {
	atoms int32 // in the pool of atoms
	cond  cond
	set   int32 // in the pool of classes
	self  bool  // the destination is autogroup:self: sources are of its user only
	rules []int32
}

// A row is all that is given to some classes of destinations.
type row struct {
	items []item
	what  string // the items but for their rules: rows of one text give the same
	self  bool   // some item tells nodes of the same user from others
}

// A grantSheet is a grant as the engine sees it.
type grantSheet struct {
	g        *acl.Grant
	rule     int32
	atoms    int32
	cond     cond
	from     int32 // choice; -1: not yet
	toExcept int32 // choice of the exceptions; -1: none
}

// A sheet is a policy at an instant, on one side of a space.
type sheet struct {
	sp      *space
	e       *engine
	c       *Compiled
	side    int
	at      int64
	members map[acl.Selector][]member
	against map[acl.Selector][]member // what excepts a class, and does not select it
	grants  [][]grantSheet            // by inbound
	inbound []acl.Inbound             // those of routes last
	into    [][]member                // class → inbounds that select it: member.class is the inbound
	choices [][]part                  // what selectors less exceptions select, by rising ends
	byText  map[string]int32
	rows    map[string]*row
	byClass []*row
	byInto  map[string]*row // by the inbounds, where no exception tells destinations apart
	excepts bool            // some grant has exceptions to its destination
	best    []int64
}

// An engine holds what sheets of one space share.
type engine struct {
	sp    *space
	conds *conds
	sets  *pool // of classes
	atoms *pool
	ports []PortClass
	caps  []string // atoms after those of ports: NAME = VALUE
	capID map[string]int
	rules []string
	ruleN map[string]int32
	cache map[string]int32 // ports of grants → atoms
	holds map[string]cond
}

// newEngine cuts targets into atoms.
func newEngine(sp *space, ports []acl.Ports) *engine {
	e := &engine{sp: sp, conds: newConds(), sets: newPool(), atoms: newPool(), capID: map[string]int{}, ruleN: map[string]int32{}, cache: map[string]int32{}, holds: map[string]cond{}}
	sets := slices.Clone(ports)
	rules, caps := map[string]bool{}, map[string]bool{}
	for i, s := range sp.sides {
		if i > 0 && s.policy == sp.sides[i-1].policy {
			continue
		}
		for _, in := range s.policy.allInbound() {
			for j := range in.Grants {
				g := &in.Grants[j]
				sets = append(sets, g.Allow...)
				rules[g.Rule] = true
				for name, value := range g.Capabilities {
					caps[capText(name, value)] = true
				}
			}
		}
	}
	e.ports = Classes(sets...)
	e.caps = slices.Sorted(maps.Keys(caps))
	for i, c := range e.caps {
		e.capID[c] = len(e.ports) + i
	}
	e.rules = slices.Sorted(maps.Keys(rules))
	for i, r := range e.rules {
		e.ruleN[r] = int32(i)
	}
	return e
}

// capText is a capability with its value in canonical form. Numbers stay as they
// are written: applications are told them digit by digit.
func capText(name string, value json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if d.Decode(&v) == nil {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(v) == nil {
			value = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
		}
	}
	return name + " = " + string(value)
}

// allInbound are the inbounds of nodes, then those behind routes.
func (c *Compiled) allInbound() []acl.Inbound {
	out := slices.Clip(c.Inbound)
	for _, r := range c.Routes {
		out = append(out, r.Inbound...)
	}
	return out
}

func (e *engine) portAtoms(ports []acl.Ports) bitset {
	b := newBitset(len(e.ports) + len(e.caps))
	for i, c := range e.ports {
		if slices.ContainsFunc(ports, func(p acl.Ports) bool { return p.Contains(c.Target) }) {
			b.add(i)
		}
	}
	return b
}

// atomsOf are the atoms of a grant.
func (e *engine) atomsOf(g *acl.Grant) int32 {
	var k []byte
	for _, p := range g.Allow {
		k = append(k, byte(p.Range), byte(p.Proto), byte(p.First>>8), byte(p.First), byte(p.Last>>8), byte(p.Last))
	}
	if len(g.Capabilities) == 0 {
		if id, ok := e.cache[string(k)]; ok {
			return id
		}
	}
	b := e.portAtoms(g.Allow)
	for name, value := range g.Capabilities {
		b.add(e.capID[capText(name, value)])
	}
	id := e.atoms.put(b)
	if len(g.Capabilities) == 0 {
		e.cache[string(k)] = id
	}
	return id
}

// condOf is the condition of a grant.
func (e *engine) condOf(g *acl.Grant) cond {
	if g.Until.IsZero() && len(g.Hours) == 0 && len(g.Posture) == 0 {
		return always
	}
	var k strings.Builder
	k.WriteString(g.Until.UTC().String())
	for _, w := range g.Hours {
		k.WriteString(w.String() + ";")
	}
	for _, p := range g.Posture {
		k.WriteString("|" + postureKey(p))
	}
	id, ok := e.holds[k.String()]
	if !ok {
		id = e.conds.of(g)
		e.holds[k.String()] = id
	}
	return id
}

// newSheet draws up a policy at an instant, for one side.
func (e *engine) newSheet(side int, at int64) *sheet {
	sp := e.sp
	s := &sheet{
		sp: sp, e: e, c: sp.sides[side].policy, side: side, at: at,
		members: sp.members(sp.sides[side].policy, side), against: sp.against(sp.sides[side].policy), byText: map[string]int32{}, rows: map[string]*row{}, byInto: map[string]*row{},
		into: make([][]member, len(sp.classes)), byClass: make([]*row, len(sp.classes)), best: make([]int64, len(sp.classes)),
	}
	s.inbound = s.c.allInbound()
	s.grants = make([][]grantSheet, len(s.inbound))
	for i, in := range s.inbound {
		for j := range in.Grants {
			g := &in.Grants[j]
			if !g.Until.IsZero() && g.Until.Unix() <= at {
				continue
			}
			gs := grantSheet{g: g, rule: e.ruleN[g.Rule], atoms: e.atomsOf(g), cond: e.condOf(g), from: -1, toExcept: -1}
			if len(g.ToExcept) > 0 {
				gs.toExcept, s.excepts = s.chooseExcepted(g.ToExcept), true
			}
			s.grants[i] = append(s.grants[i], gs)
		}
		if len(s.grants[i]) == 0 {
			continue
		}
		if in.To.Kind == acl.KindSelf {
			for c := range sp.classes {
				if cl := &sp.classes[c]; cl.kind == nodeEnd && cl.user && cl.until[side] > at {
					s.into[c] = append(s.into[c], member{int32(i), cl.until[side]})
				}
			}
			continue
		}
		// What is behind nodes is reached by what the routes let in, and nothing else is.
		behind := i >= len(s.c.Inbound)
		for _, m := range s.members[in.To] {
			kind := sp.classes[m.class].kind
			if m.until > at && behind == (kind == addressEnd || kind == internetEnd) {
				s.into[m.class] = append(s.into[m.class], member{int32(i), m.until})
			}
		}
	}
	return s
}

// chooseExcepted finds what selectors select as exceptions.
func (s *sheet) chooseExcepted(except []acl.Selector) int32 {
	id := s.choose(except, nil)
	set := newBitset(len(s.sp.classes))
	for _, sel := range except {
		for _, m := range s.against[sel] {
			if m.until > s.at {
				set.add(int(m.class))
			}
		}
	}
	if set.empty() {
		return id
	}
	s.choices = append(s.choices, append(slices.Clip(s.choices[id]), part{forever, s.e.sets.put(set)}))
	return int32(len(s.choices) - 1)
}

// choose finds what selectors less exceptions select at the sheet's time.
func (s *sheet) choose(from, except []acl.Selector) int32 {
	var k []byte
	for _, list := range [2][]acl.Selector{from, except} {
		for _, sel := range list {
			k = append(append(append(k, byte(sel.Kind)), sel.Name...), 0)
		}
		k = append(k, 255)
	}
	if id, ok := s.byText[string(k)]; ok {
		return id
	}
	var c []part
	var touched []int32
	for _, sel := range from {
		for _, m := range s.members[sel] {
			if m.until <= s.at {
				continue
			}
			if s.best[m.class] == 0 {
				touched = append(touched, m.class)
			}
			s.best[m.class] = max(s.best[m.class], m.until)
		}
	}
	for _, sel := range except {
		for _, list := range [2][]member{s.members[sel], s.against[sel]} {
			for _, m := range list {
				if m.until > s.at {
					s.best[m.class] = 0
				}
			}
		}
	}
	n := len(s.sp.classes)
	sets := map[int64]bitset{}
	var ends []int64
	for _, cl := range touched {
		until := s.best[cl]
		s.best[cl] = 0
		if until == 0 {
			continue
		}
		if sets[until] == nil {
			sets[until] = newBitset(n)
			ends = append(ends, until)
		}
		sets[until].add(int(cl))
	}
	slices.Sort(ends)
	for _, until := range ends {
		c = append(c, part{until, s.e.sets.put(sets[until])})
	}
	id := int32(len(s.choices))
	s.choices = append(s.choices, c)
	s.byText[string(k)] = id
	return id
}

// row is what is given to a class of destinations. Grants of which only the rule
// differs are one entry.
func (s *sheet) row(class int) *row {
	if r := s.byClass[class]; r != nil {
		return r
	}
	var into []byte
	if !s.excepts {
		for _, m := range s.into[class] {
			into = binary.AppendVarint(binary.AppendVarint(into, int64(m.class)), m.until)
		}
		if r := s.byInto[string(into)]; r != nil {
			s.byClass[class] = r
			return r
		}
	}
	var items []item
	for _, m := range s.into[class] {
		grants := s.grants[m.class]
		for i := range grants {
			g := &grants[i]
			if g.toExcept >= 0 && s.chosen(g.toExcept, class) {
				continue
			}
			if g.from < 0 {
				g.from = s.choose(g.g.From, g.g.Except)
			}
			for _, p := range s.choices[g.from] {
				items = append(items, item{
					atoms: g.atoms, cond: s.e.conds.capped(g.cond, min(m.until, p.until)), set: p.set,
					self: s.inbound[m.class].To.Kind == acl.KindSelf, rules: []int32{g.rule},
				})
			}
		}
	}
	slices.SortStableFunc(items, compareItems)
	r := &row{}
	for _, it := range items {
		if n := len(r.items); n > 0 && compareItems(r.items[n-1], it) == 0 {
			if last := &r.items[n-1]; !slices.Contains(last.rules, it.rules[0]) {
				last.rules = append(last.rules, it.rules[0])
			}
			continue
		}
		r.items = append(r.items, it)
	}
	var what, rules []byte
	for i := range r.items {
		slices.Sort(r.items[i].rules)
	}
	for _, it := range r.items {
		what = binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(what, int64(it.atoms)), int64(it.cond)), int64(it.set))
		self := byte(0)
		if it.self {
			self = 1
		}
		what = append(what, self)
		for _, n := range it.rules {
			rules = binary.AppendVarint(rules, int64(n))
		}
		rules = append(rules, 255)
		r.self = r.self || it.self
	}
	r.what = string(what)
	k := r.what + "|" + string(rules)
	if known := s.rows[k]; known != nil {
		r = known
	} else {
		s.rows[k] = r
	}
	s.byClass[class] = r
	if !s.excepts {
		s.byInto[string(into)] = r
	}
	return r
}

// chosen reports whether a choice has a class.
func (s *sheet) chosen(id int32, class int) bool {
	return slices.ContainsFunc(s.choices[id], func(p part) bool { return s.e.sets.sets[p.set].has(class) })
}

func compareItems(a, b item) int {
	self := 0
	if a.self != b.self {
		self = -1
		if a.self {
			self = 1
		}
	}
	return cmp.Or(cmp.Compare(a.atoms, b.atoms), cmp.Compare(a.cond, b.cond), cmp.Compare(a.set, b.set), self)
}
