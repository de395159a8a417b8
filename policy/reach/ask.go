package reach

import (
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A World is one policy with the nodes that exist, or might, at one time: what
// tests and questions are asked of.
type World struct {
	Policy  *Compiled
	Nodes   []Node
	at      time.Time
	classes []PortClass
	names   *namer
}

// NewWorld prepares a policy. Users and tags that questions name exist, whether
// or not the policy mentions them; ports that they name are told apart.
func NewWorld(c *Compiled, inv *Inventory, questions []Question) *World {
	var sels []acl.Selector
	sets := c.portSets()
	var at time.Time
	for _, q := range questions {
		for _, r := range slices.Concat(q.From, q.To) {
			sels = append(sels, r.Selector)
		}
		sets = append(sets, q.Ports...)
		at = q.At
	}
	nodes := Nodes(inv, sels, c)
	return &World{Policy: c, Nodes: nodes, at: at, classes: Classes(sets...), names: newNamer(nodes, at, c)}
}

// sides are the indexes of the nodes that a question is about.
func (w *World) sides(q Question) (from, to []int) {
	in := func(refs []model.Ref, n Node) bool {
		return refs == nil || slices.ContainsFunc(refs, func(r model.Ref) bool {
			return w.Policy.Selects(r.Selector, n, q.At) && !slices.ContainsFunc(r.Except, func(x model.Exception) bool { return w.Policy.Selects(x.Selector, n, q.At) })
		})
	}
	for i, n := range w.Nodes {
		if in(q.From, n) != q.Outside {
			from = append(from, i)
		}
		if in(q.To, n) {
			to = append(to, i)
		}
	}
	return from, to
}

// Name describes the ends that any of the references selects, less its Except.
func (w *World) Name(refs []model.Ref, at time.Time) []string {
	from, _ := w.sides(Question{From: refs, At: at})
	set := make([]bool, len(w.Nodes))
	for _, i := range from {
		set[i] = true
	}
	return w.names.name(set)
}

// Ends are how many ends a question is about.
func (w *World) Ends(q Question) (from, to int) {
	f, t := w.sides(q)
	return len(f), len(t)
}

// Reachable are the pairs that have access on some port that is asked about.
func (w *World) Reachable(q Question) []Finding {
	from, to := w.sides(q)
	return w.find(from, to, q, true)
}

// Missing are the pairs that lack access on some port that is asked about.
func (w *World) Missing(q Question) []Finding {
	from, to := w.sides(q)
	return w.find(from, to, q, false)
}

// Rules are those that give any of the access asked about, sorted.
func (w *World) Rules(q Question) (out []string) {
	for _, f := range w.Reachable(q) {
		out = append(out, f.Rules...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Assumptions are what answers to a question rest on that is not known, one
// sentence each.
func (w *World) Assumptions(Question) []string { return nil }

// find gathers the pairs for which access on the ports is as asked: those that
// have it on some port of the sets (allowed), or those that lack it on some. No
// sets are all ports. The result is empty when there is none.
func (w *World) find(from, to []int, q Question, allowed bool) []Finding {
	g := &grouping{nodes: w.Nodes, ports: w.classes, names: w.names, gained: map[string]*rectangles{}}
	sources, dests := g.split(w, from), g.split(w, to)
	classes := within(w.classes, q.Ports)
	asked := make([]bool, len(w.classes))
	for i, port := range w.classes {
		asked[i] = slices.Contains(classes, port)
	}
	subject := func(class int) *acl.Subject { return w.Policy.Subject(w.Nodes[g.classes[class][0]]) }
	for _, t := range dests {
		to := subject(t)
		in := selecting(w.Policy, to, q.At)
		for _, f := range sources {
			if g.meetsItself(f, t) {
				continue
			}
			from := subject(f)
			row := make([]cell, len(w.classes))
			for i, port := range w.classes {
				if !asked[i] {
					continue
				}
				v := acl.Judge(in, acl.Request{From: from, To: to, Target: port.Target, At: q.At})
				if v.Allowed == allowed {
					v.Allowed, v.Until = true, time.Time{}
					row[i] = cell{gained: v}
				}
			}
			g.side(g.gained, f, t, row, func(c cell) acl.Verdict { return c.gained })
		}
	}
	var out []Finding
	for _, c := range g.changes(g.gained) {
		f := Finding{From: c.From, To: c.To, Ports: c.Ports, People: c.People, Rules: c.Rules, Sample: c.Sample}
		if !allowed {
			f.Rules = nil
		}
		out = append(out, f)
	}
	return out
}

// split adds the classes of the nodes that are asked about, and returns their
// indexes. Of a class of the world only those of its nodes are in one.
func (g *grouping) split(w *World, asked []int) (out []int) {
	is := make([]bool, len(w.Nodes))
	for _, i := range asked {
		is[i] = true
	}
	for _, class := range nodeClasses(w.Nodes, w.Policy) {
		class = slices.DeleteFunc(class, func(i int) bool { return !is[i] })
		if len(class) > 0 {
			out = append(out, len(g.classes))
			g.classes = append(g.classes, class)
		}
	}
	return out
}

// meetsItself reports whether two classes are the same one node and nothing
// else: a node of the network has no flows to itself.
func (g *grouping) meetsItself(from, to int) bool {
	f, t := g.classes[from], g.classes[to]
	return len(f) == 1 && len(t) == 1 && f[0] == t[0] && g.nodes[f[0]].Name != ""
}

// sample is one node of each of two classes, different ones where there are.
func (g *grouping) sample(from, to int) (f, t Node) {
	a, b := g.classes[from], g.classes[to]
	if a[0] == b[0] && len(b) > 1 {
		return g.nodes[a[0]], g.nodes[b[1]]
	}
	if a[0] == b[0] && len(a) > 1 {
		return g.nodes[a[1]], g.nodes[b[0]]
	}
	return g.nodes[a[0]], g.nodes[b[0]]
}
