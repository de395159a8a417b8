package reach

import (
	"maps"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

// A Redundant is a rule without which nothing changes.
type Redundant struct {
	Rule string
	By   []string // rules that allow the same
	Dead bool     // it allows nothing at all
}

// Redundant are the rules of the world without any one of which nothing changes, by
// name. Of two rules that allow the same, both are.
func (w *World) Redundant() (out []Redundant) {
	rules := map[string]bool{}
	for _, in := range w.Policy.Inbound {
		for _, g := range in.Grants {
			rules[g.Rule] = true
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		only := func(keep bool) *Compiled {
			c := *w.Policy
			c.Inbound = nil
			for _, in := range w.Policy.Inbound {
				in.Grants = slices.DeleteFunc(slices.Clone(in.Grants), func(g acl.Grant) bool { return (g.Rule == rule) != keep })
				c.Inbound = append(c.Inbound, in)
			}
			return &c
		}
		alone, others := only(true), only(false)
		if !Equal(others, w.Policy, w.at).access() {
			out = append(out, Redundant{Rule: rule, Dead: !Equal(nil, alone, w.at).access()})
		}
	}
	return out
}

func (d *Difference) access() bool { return len(d.Gained)+len(d.Lost) > 0 }
