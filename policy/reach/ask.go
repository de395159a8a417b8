package reach

import (
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// A World is one policy with the nodes that exist, or might, at one time: what
// tests and questions are asked of.
type World struct {
	Policy  *Compiled
	Nodes   []Node
	At      time.Time
	classes []PortClass
	names   *namer
}

// NewWorld prepares a policy. Users and tags that questions name exist, whether
// or not the policy mentions them; ports that they name are told apart.
func NewWorld(c *Compiled, inv *Inventory, at time.Time, asked []acl.Selector, ports []acl.Ports) *World {
	nodes := Nodes(inv, asked, c)
	return &World{
		Policy: c, Nodes: nodes, At: at,
		classes: Classes(append(c.portSets(), ports...)...),
		names:   newNamer(nodes, at, c),
	}
}

// Select are the indexes of the nodes that any of the selectors selects.
func (w *World) Select(sels []acl.Selector) (out []int) {
	for i, n := range w.Nodes {
		if slices.ContainsFunc(sels, func(s acl.Selector) bool { return w.Policy.Selects(s, n, w.At) }) {
			out = append(out, i)
		}
	}
	return out
}

// A Finding is a set of pairs of nodes that do, or do not, reach each other.
type Finding struct {
	From   []string // in the policy's words
	To     []string
	Ports  []string
	People []string // users among From, by e-mail address
	Rules  []string // that allow; empty where access is missing
	Sample Pair
}

// Find gathers the pairs for which access on the ports is as asked: those that
// have it on some port of the sets (allowed), or those that lack it on some. No
// sets are all ports. The result is empty when there is none.
func (w *World) Find(from, to []int, ports []acl.Ports, allowed bool) []Finding {
	g := &grouping{nodes: w.Nodes, ports: w.classes, names: w.names, gained: map[string]*rectangles{}}
	sources, dests := g.split(w, from), g.split(w, to)
	classes := within(w.classes, ports)
	asked := make([]bool, len(w.classes))
	for i, port := range w.classes {
		asked[i] = slices.Contains(classes, port)
	}
	subject := func(class int) *acl.Subject { return w.Policy.Subject(w.Nodes[g.classes[class][0]]) }
	for _, t := range dests {
		to := subject(t)
		in := selecting(w.Policy, to, w.At)
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
				v := acl.Judge(in, acl.Request{From: from, To: to, Target: port.Target, At: w.At})
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

// Name describes nodes by their indexes.
func (w *World) Name(nodes []int) []string {
	set := make([]bool, len(w.Nodes))
	for _, i := range nodes {
		set[i] = true
	}
	return w.names.name(set)
}
