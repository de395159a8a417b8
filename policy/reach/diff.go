package reach

import (
	"cmp"
	"encoding/json"
	"fmt"
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
	Kept   bool      `json:"kept,omitempty"`   // access is there before and after; only its end changes
	Rules  []string  `json:"rules"`            // that give it: of the new policy for gains, of the old for losses
	People []string  `json:"people"`           // users among From, by e-mail address
	Nodes  []string  `json:"nodes"`            // of the inventory among To, by name
	Causes []Cause   `json:"causes,omitempty"` // filled in by whoever knows the places
	Sample Pair      `json:"sample"`           // one pair of nodes and a port that changes

	By           string   `json:"by"`                     // "policy", or "inventory": the policy is not what changes it
	When         []string `json:"when,omitempty"`         // hours, as Until
	Posture      []string `json:"posture,omitempty"`      // what the source reports, as Until; any of these
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

// cell is what changes for one pair of nodes on one port class.
type cell struct {
	gained, lost acl.Verdict // zero where there is nothing of the kind
	kept         bool
	before       time.Time // when what is kept ended before
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

// Diff compares two sides at a time.
func Diff(was, is Side, at time.Time) *Difference {
	base, head, inv := was.Policy, is.Policy, is.Inventory
	if base == nil {
		base = &Compiled{}
	}
	if head == nil {
		head = &Compiled{}
	}
	nodes := Nodes(inv, nil, base, head)
	classes := nodeClasses(nodes, base, head)
	ports := Classes(append(base.portSets(), head.portSets()...)...)
	d := &Difference{At: at, Inventory: inv != nil, Gained: []Change{}, Lost: []Change{}}
	g := &grouping{
		nodes: nodes, classes: classes, ports: ports, names: newNamer(nodes, at, head, base),
		gained: map[string]*rectangles{}, lost: map[string]*rectangles{},
	}
	subjects := func(c *Compiled) []*acl.Subject {
		out := make([]*acl.Subject, len(classes))
		for i, class := range classes {
			out[i] = c.Subject(nodes[class[0]])
		}
		return out
	}
	before, after := subjects(base), subjects(head)
	for to := range classes {
		baseIn, headIn := selecting(base, before[to], at), selecting(head, after[to], at)
		if len(baseIn) == 0 && len(headIn) == 0 {
			continue
		}
		for from := range classes {
			if g.meetsItself(from, to) {
				continue
			}
			row := make([]cell, len(ports))
			for i, port := range ports {
				was := acl.Judge(baseIn, acl.Request{From: before[from], To: before[to], Target: port.Target, At: at})
				is := acl.Judge(headIn, acl.Request{From: after[from], To: after[to], Target: port.Target, At: at})
				row[i] = compare(was, is)
			}
			g.add(from, to, row)
		}
	}
	d.Gained = g.changes(g.gained)
	d.Lost = g.changes(g.lost)
	d.Admission = admission(base, head, inv)
	return d
}

// selecting are the inbounds that may select a node: those that need the other
// end stay.
func selecting(c *Compiled, to *acl.Subject, at time.Time) (out []acl.Inbound) {
	for _, in := range c.Inbound {
		if in.To.Kind == acl.KindSelf || in.To.Selects(to, nil, at) {
			out = append(out, in)
		}
	}
	return out
}

func compare(was, is acl.Verdict) cell {
	switch {
	case is.Allowed && !was.Allowed:
		return cell{gained: is}
	case was.Allowed && !is.Allowed:
		return cell{lost: was}
	case !is.Allowed, is.Until.Equal(was.Until):
		return cell{}
	case was.Until.IsZero(), !is.Until.IsZero() && is.Until.Before(was.Until):
		before := was.Until
		was.Until = is.Until // what is left
		return cell{lost: was, kept: true, before: before}
	default:
		return cell{gained: is, kept: true, before: was.Until}
	}
}

// nodeClasses groups nodes that no rule of the policies tells apart, at the time
// or later: they have the same memberships with the same ends.
func nodeClasses(nodes []Node, policies ...*Compiled) [][]int {
	self, byName, byUser := false, map[string]bool{}, map[string]bool{}
	for _, c := range policies {
		for _, s := range c.selectors() {
			switch s.Kind {
			case acl.KindSelf:
				self = true
			case acl.KindNode:
				byName[s.Name] = true
			case acl.KindUser:
				byUser[s.Name] = true
			}
		}
	}
	index := map[string]int{}
	var out [][]int
	for i, n := range nodes {
		var k strings.Builder
		for _, c := range policies {
			for _, m := range c.Subject(n).Groups {
				fmt.Fprintf(&k, "%s %d,", m.Group, m.Until.Unix())
			}
			k.WriteString("|")
		}
		fmt.Fprintf(&k, "%t %s", n.User != "", strings.Join(n.Tags, "+"))
		if byName[n.Name] {
			k.WriteString("|node " + n.Name)
		}
		if self || byUser[n.User] {
			k.WriteString("|user " + n.User)
		}
		class, ok := index[k.String()]
		if !ok {
			class = len(out)
			index[k.String()] = class
			out = append(out, nil)
		}
		out[class] = append(out[class], i)
	}
	return out
}

// A grouping gathers cells into few changes: pairs with the same ports, ends and
// rules, then sources with the same destinations.
type grouping struct {
	nodes        []Node
	classes      [][]int
	ports        []PortClass
	names        *namer
	gained, lost map[string]*rectangles
}

// rectangles are the pairs that share one set of ports, ends and rules.
type rectangles struct {
	ports   []PortClass
	verdict acl.Verdict
	kept    bool
	before  time.Time
	rules   []string
	to      map[int][]int // class of From → classes of To, rising
}

// add takes up the row of one pair of classes.
func (g *grouping) add(from, to int, row []cell) {
	g.side(g.gained, from, to, row, func(c cell) acl.Verdict { return c.gained })
	g.side(g.lost, from, to, row, func(c cell) acl.Verdict { return c.lost })
}

func (g *grouping) side(into map[string]*rectangles, from, to int, row []cell, of func(cell) acl.Verdict) {
	type key struct {
		until, before int64
		kept          bool
	}
	byEnd := map[key]*rectangles{}
	var order []key
	for i, c := range row {
		v := of(c)
		if !v.Allowed {
			continue
		}
		k := key{v.Until.Unix(), c.before.Unix(), c.kept}
		r := byEnd[k]
		if r == nil {
			r = &rectangles{verdict: v, kept: c.kept, before: c.before, to: map[int][]int{}}
			byEnd[k] = r
			order = append(order, k)
		}
		r.ports = append(r.ports, g.ports[i])
		if !slices.Contains(r.rules, v.Rule) {
			r.rules = append(r.rules, v.Rule)
		}
	}
	for _, k := range order {
		r := byEnd[k]
		slices.Sort(r.rules)
		id := fmt.Sprint(k, portText(r.ports, len(g.ports)), r.rules)
		if known := into[id]; known != nil {
			r = known
		} else {
			into[id] = r
		}
		r.to[from] = append(r.to[from], to)
	}
}

// changes names what was gathered.
func (g *grouping) changes(in map[string]*rectangles) []Change {
	out := []Change{}
	for _, r := range in {
		byTo := map[string][]int{}
		for from, to := range r.to {
			byTo[fmt.Sprint(to)] = append(byTo[fmt.Sprint(to)], from)
		}
		for _, sources := range byTo {
			slices.Sort(sources)
			to := r.to[sources[0]]
			one, other := g.sample(sources[0], to[0])
			c := Change{
				From: g.names.name(g.set(sources)), To: g.names.name(g.set(to)),
				Ports: portText(r.ports, len(g.ports)), Until: r.verdict.Until, Kept: r.kept, Before: r.before, Rules: r.rules,
				Sample: Pair{one, other, r.ports[0].Target},
			}
			c.People, c.Nodes, c.By = g.people(g.set(sources)), g.real(g.set(to)), "policy"
			c.PeopleCount, c.NodesCount, c.SourceNodes = len(c.People), len(c.Nodes), len(g.real(g.set(sources)))
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(
			strings.Compare(strings.Join(a.To, " "), strings.Join(b.To, " ")),
			strings.Compare(strings.Join(a.From, " "), strings.Join(b.From, " ")),
			strings.Compare(strings.Join(a.Ports, " "), strings.Join(b.Ports, " ")),
			a.Until.Compare(b.Until), a.Before.Compare(b.Before), slices.Compare(a.Rules, b.Rules),
		)
	})
	return out
}

// people are the users among the nodes, each once.
func (g *grouping) people(set []bool) []string {
	out := []string{}
	for i, n := range g.nodes {
		if set[i] && n.User != "" && !n.Stranger {
			out = append(out, n.User)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// real are the nodes of the inventory among the nodes.
func (g *grouping) real(set []bool) []string {
	out := []string{}
	for i, n := range g.nodes {
		if set[i] && n.Real {
			out = append(out, n.Name)
		}
	}
	return out
}

// set is the nodes of classes.
func (g *grouping) set(classes []int) []bool {
	out := make([]bool, len(g.nodes))
	for _, c := range classes {
		for _, i := range g.classes[c] {
			out[i] = true
		}
	}
	return out
}
