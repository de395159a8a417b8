package reach

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// A Difference is what access changes from one policy to another, over all nodes
// that exist or might, and who is admitted. It is exact within what [Nodes] imagines: every change is
// in it, and nothing else.
type Difference struct {
	At        time.Time `json:"at"`        // when it was judged
	Inventory bool      `json:"inventory"` // whether nodes of an inventory were counted
	Gained    []Change  `json:"gained"`
	Lost      []Change  `json:"lost"`

	// Admission is who is let in or put out, and what else changes about whom the
	// network trusts. It is exact as far as the inventory tells who is in.
	Admission []Admission `json:"admission"`
}

// Empty reports whether nothing changes: neither what rules allow, nor who is
// admitted.
func (d *Difference) Empty() bool {
	return len(d.Gained) == 0 && len(d.Lost) == 0 && len(d.Admission) == 0
}

// A Change is access that some nodes gain or lose to others.
type Change struct {
	From   []string  `json:"from"`             // in the policy's words
	Owner  string    `json:"owner,omitempty"`  // "same": to nodes of the same user only; "other": to nodes of others only
	To     []string  `json:"to"`               //
	Ports  []string  `json:"ports"`            //
	Until  time.Time `json:"until,omitzero"`   // when what is gained ends, or what is left of what is lost
	Before time.Time `json:"before,omitzero"`  // where it is kept: when it ended before; zero: it did not
	Kept   bool      `json:"kept,omitempty"`   // access is there before and after; its end, hours or posture change
	Rules  []string  `json:"rules"`            // that give it: of the new policy for gains, of the old for losses
	People []string  `json:"people"`           // users among From, by e-mail address
	Nodes  []string  `json:"nodes"`            // of the inventory among To, by name
	Causes []Cause   `json:"causes,omitempty"` // filled in by whoever knows the places
	Sample Pair      `json:"sample"`           // one pair of nodes and a port that changes

	By      string   `json:"by"`                // "policy", or "inventory": the policy is not what changes it
	When    []string `json:"when,omitempty"`    // hours, as Until; none: whenever
	Posture []string `json:"posture,omitempty"` // what the source reports, as Until; any of these; none: whatever

	BeforeWhen    []string `json:"beforeWhen,omitempty"` // as Before
	BeforePosture []string `json:"beforePosture,omitempty"`

	Capabilities []string `json:"capabilities,omitempty"` // NAME = VALUE
	PeopleCount  int      `json:"peopleCount"`            // of People
	NodesCount   int      `json:"nodesCount"`             // of Nodes
	SourceNodes  int      `json:"sourceNodes"`            // nodes of the inventory among From
}

// A Cause is a place in the policy that a change comes from.
type Cause struct {
	Place string `json:"place"`          // file:line
	What  string `json:"what"`           // "rule accounting-web", "group accounting"
	Base  bool   `json:"base,omitempty"` // a place in the old policy: what was there is gone

	Commit string `json:"commit,omitempty"` // that last changed the place
	Author string `json:"author,omitempty"`
}

// A Pair is one question.
type Pair struct {
	From, To Node
	Target   acl.Target
}

// MarshalJSON writes the target as rules write ports.
func (p Pair) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		From Node   `json:"from"`
		To   Node   `json:"to"`
		On   string `json:"on"`
	}{p.From, p.To, p.Target.String()})
}

// A Side is a policy and the nodes that are admitted under it.
type Side struct {
	Policy    *Compiled  // nil allows nothing
	Inventory *Inventory // nil: nobody knows who is admitted
}

// Equal compares two policies over all nodes that might exist.
func Equal(a, b *Compiled, at time.Time) *Difference {
	return Diff(Side{Policy: a}, Side{Policy: b}, at)
}

// Diff compares two sides at a time. What changes with the inventory of head where
// the policy stays that of base is caused by the inventory, and all else by the
// policy.
func Diff(base, head Side, at time.Time) *Difference {
	d := &Difference{At: at, Inventory: head.Inventory != nil, Gained: []Change{}, Lost: []Change{}}
	e, g, names := difference(base, head, at)
	for _, r := range g.rectangles() {
		e.report(d, &r, g, names)
	}
	for _, list := range [][]Change{d.Gained, d.Lost} {
		slices.SortFunc(list, compareChanges)
	}
	d.Admission = admission(orNothing(base.Policy), orNothing(head.Policy), head.Inventory)
	return d
}

// orNothing is a policy that is there.
func orNothing(c *Compiled) *Compiled {
	if c == nil {
		return &Compiled{}
	}
	return c
}

// difference gathers what changes, in terms of classes.
func difference(base, head Side, at time.Time) (*engine, *gatherer, *namer) {
	was, is := orNothing(base.Policy), orNothing(head.Policy)
	sides := []spaceSide{{was, base.Inventory}, {is, head.Inventory}}
	if base.Inventory != head.Inventory {
		sides = slices.Insert(sides, 1, spaceSide{was, head.Inventory})
	}
	e := newEngine(newSpace(sides, nil), nil)
	sheets := make([]*sheet, len(sides))
	for i := range sides {
		sheets[i] = e.newSheet(i, at.Unix())
	}
	g := e.newGatherer()
	e.compare(sheets, g)
	return e, g, newNamer(e, sheets[len(sheets)-1], sheets[0])
}

// compare gathers what changes from the first sheet to the last.
func (e *engine) compare(sheets []*sheet, g *gatherer) {
	type rowsKey [3]*row
	index := map[rowsKey]int{}
	var rows []rowsKey
	var dests [][]int
	for d := range e.sp.classes {
		var k rowsKey
		some := false
		for i, s := range sheets {
			k[i] = s.row(d)
			some = some || len(k[i].items) > 0
		}
		if !some || same(k[:len(sheets)]) {
			continue
		}
		i, ok := index[k]
		if !ok {
			i = len(rows)
			index[k] = i
			rows = append(rows, k)
			dests = append(dests, nil)
		}
		dests[i] = append(dests[i], d)
	}
	pieces := make([][]piece, len(rows))
	parallel(len(rows), func(i int) { pieces[i] = e.pieces(rows[i][:len(sheets)]) })
	for i := range rows {
		k := rows[i][:len(sheets)]
		g.add(dests[i], pieces[i])
		if !slices.ContainsFunc(k, func(r *row) bool { return r.self }) {
			continue
		}
		for _, d := range dests[i] {
			for _, s := range e.sp.sharing(d) {
				g.addOwn(int(s), d, e.piecesOf(k, int(s)))
			}
		}
	}
}

// report writes a rectangle as gain, loss, or both.
func (e *engine) report(d *Difference, r *rect, g *gatherer, names *namer) {
	c := Change{
		From: names.name(r.from), To: names.name(r.to), By: "policy",
		People: names.people(r.from), Nodes: names.real(r.to),
		SourceNodes: len(names.real(r.from)),
	}
	c.PeopleCount, c.NodesCount = len(c.People), len(c.Nodes)
	if r.mid == r.is {
		c.By = "inventory"
	}
	switch r.layer {
	case otherPairs:
		c.Owner = "other"
	case samePairs:
		c.Owner, c.To = "same", e.ownText(r, g, names)
	}
	c.Rules = e.ruleNames(r)
	c.Ports, c.Capabilities = e.atomText(r.atoms)
	from, to, _ := g.exists(r)
	c.Sample = Pair{e.sp.classes[from].rep, e.sp.classes[to].rep, e.target(r.atoms)}
	was, is := e.conds.words(r.was), e.conds.words(r.is)
	set := func(now, before condWords) Change {
		c := c
		c.Until, c.When, c.Posture = now.until, now.when, now.posture
		if c.Kept {
			c.Before, c.BeforeWhen, c.BeforePosture = before.until, before.when, before.posture
		}
		return c
	}
	switch {
	case r.was == never:
		d.Gained = append(d.Gained, set(is, was))
	case r.is == never:
		d.Lost = append(d.Lost, set(was, is))
	default:
		c.Kept = true
		both := e.conds.union(r.was, r.is)
		if both != r.was {
			d.Gained = append(d.Gained, set(is, was))
		}
		if both != r.is {
			d.Lost = append(d.Lost, set(is, was))
		}
	}
}

// ownText describes the destinations of pairs of one user: as autogroup:self where
// they are all nodes of each source's user.
func (e *engine) ownText(r *rect, g *gatherer, names *namer) []string {
	one := len(names.people(r.from)) == 1
	for s := range r.from.each {
		one = one && !e.sp.classes[s].many
	}
	if one {
		return names.name(r.to)
	}
	for s := range r.from.each {
		for _, d := range e.sp.sharing(s) {
			if same, _ := e.sp.meets(s, int(d)); same && !r.to.has(int(d)) {
				return names.name(r.to)
			}
		}
	}
	return []string{"autogroup:self"}
}

// ruleNames is the rule of a rectangle, if it has one.
func (e *engine) ruleNames(r *rect) []string {
	if r.rule < 0 {
		return []string{}
	}
	return []string{e.rules[r.rule]}
}

// atomText splits atoms into words for ports and for capabilities.
func (e *engine) atomText(atoms bitset) (ports, caps []string) {
	var classes []PortClass
	for i := range atoms.each {
		if i < len(e.ports) {
			classes = append(classes, e.ports[i])
		} else {
			caps = append(caps, e.caps[i-len(e.ports)])
		}
	}
	return portText(classes, len(e.ports)), caps
}

// target is one of the atoms; zero where they are capabilities only.
func (e *engine) target(atoms bitset) acl.Target {
	if i := atoms.first(); i >= 0 && i < len(e.ports) {
		return e.ports[i].Target
	}
	return acl.Target{}
}

func compareChanges(a, b Change) int {
	return cmp.Or(
		strings.Compare(strings.Join(a.To, " "), strings.Join(b.To, " ")),
		strings.Compare(strings.Join(a.From, " "), strings.Join(b.From, " ")),
		strings.Compare(strings.Join(a.Ports, " "), strings.Join(b.Ports, " ")),
		strings.Compare(a.Owner, b.Owner), strings.Compare(a.By, b.By),
		a.Until.Compare(b.Until), a.Before.Compare(b.Before), slices.Compare(a.Rules, b.Rules),
		slices.Compare(a.When, b.When), slices.Compare(a.Posture, b.Posture), slices.Compare(a.Capabilities, b.Capabilities),
	)
}
