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
	for i := range w.Nodes {
		g.classes = append(g.classes, []int{i})
	}
	classes := within(w.classes, ports)
	subjects := make([]*acl.Subject, len(w.Nodes))
	for i, n := range w.Nodes {
		subjects[i] = w.Policy.Subject(n)
	}
	for _, t := range to {
		in := selecting(w.Policy, subjects[t], w.At)
		for _, f := range from {
			if f == t && w.Nodes[f].Name != "" {
				continue // a node does not meet itself
			}
			row := make([]cell, len(w.classes))
			for i, port := range w.classes {
				if !slices.Contains(classes, port) {
					continue
				}
				v := acl.Judge(in, acl.Request{From: subjects[f], To: subjects[t], Target: port.Target, At: w.At})
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

// Name describes nodes by their indexes.
func (w *World) Name(nodes []int) []string {
	set := make([]bool, len(w.Nodes))
	for _, i := range nodes {
		set[i] = true
	}
	return w.names.name(set)
}
