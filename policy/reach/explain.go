package reach

import (
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Step is one place in the policy and what stands there.
type Step struct {
	Place model.Place `json:"place"`
	Text  string      `json:"text"`
}

// GroupPath is the shortest way by which a principal is in a group at a time: the
// place of each membership, innermost first. It is nil where there is none.
func GroupPath(p *model.Policy, principal acl.Selector, group string, at time.Time) []Step {
	type way struct {
		member acl.Selector
		steps  []Step
	}
	queue := []way{{member: principal}}
	seen := map[acl.Selector]bool{principal: true}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		for _, g := range p.Groups {
			for _, m := range g.Members {
				if m.Selector != w.member || !m.Until.IsZero() && !at.Before(m.Until) {
					continue
				}
				sel := acl.Selector{Kind: acl.KindGroup, Name: g.Name}
				text := w.member.String() + " is in " + sel.String()
				if !m.Until.IsZero() {
					text += " until " + Moment(m.Until)
				}
				steps := append(slices.Clone(w.steps), Step{m.Place, text})
				if g.Name == group {
					return steps
				}
				if !seen[sel] {
					seen[sel] = true
					queue = append(queue, way{sel, steps})
				}
			}
		}
	}
	return nil
}

// Moment is a time as people read it, in UTC: to the minute, or to the second
// where it is not a full minute.
func Moment(t time.Time) string {
	if t = t.UTC(); t.Second() != 0 {
		return t.Format("2006-01-02 15:04:05 UTC")
	}
	return t.Format("2006-01-02 15:04 UTC")
}

// principals are the node's, as selectors.
func (n Node) principals() (out []acl.Selector) {
	if n.User != "" {
		return []acl.Selector{{Kind: acl.KindUser, Name: n.User}}
	}
	for _, t := range n.Tags {
		out = append(out, acl.Selector{Kind: acl.KindTag, Name: t})
	}
	return out
}

// rule finds a rule by name.
func rule(p *model.Policy, name string) (model.Rule, bool) {
	i := slices.IndexFunc(p.Rules, func(r model.Rule) bool { return r.Name == name })
	if i < 0 {
		return model.Rule{}, false
	}
	return p.Rules[i], true
}

// matching are the refs that select the node.
func matching(c *Compiled, refs []model.Ref, n, other Node, at time.Time) (out []model.Ref) {
	s, o := c.Subject(n), c.Subject(other)
	for _, r := range refs {
		if r.Selector.Selects(s, o, at) {
			out = append(out, r)
		}
	}
	return out
}

// Causes finds the places that a change comes from: a rule that is new or says
// something else, or else the memberships by which the rule now, or no longer,
// selects the nodes.
func Causes(ch Change, base, head *model.Policy, at time.Time, baseC, headC *Compiled, gained bool) []Cause {
	now, then, nowC := head, base, headC
	if !gained {
		now, then, nowC = base, head, baseC
	}
	var out []Cause
	add := func(place model.Place, what string) {
		c := Cause{Place: placeLine(place), What: what, Base: !gained}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	for _, name := range ch.Rules {
		r, ok := rule(now, name)
		if !ok {
			continue
		}
		old, was := model.Rule{}, false
		if then != nil {
			old, was = rule(then, name)
		}
		if !was || !sameRule(r, old) {
			add(r.Place, "rule "+name)
			continue
		}
		for _, end := range []struct {
			node, other Node
			refs        []model.Ref
		}{{ch.Sample.From, ch.Sample.To, r.From}, {ch.Sample.To, ch.Sample.From, r.To}} {
			for _, ref := range matching(nowC, end.refs, end.node, end.other, at) {
				if ref.Selector.Kind != acl.KindGroup {
					continue
				}
				for _, p := range end.node.principals() {
					steps := GroupPath(now, p, ref.Selector.Name, at)
					for _, s := range steps {
						if then == nil || !hasStep(then, s) {
							add(s.Place, s.Text)
						}
					}
				}
			}
		}
		if len(out) == 0 {
			add(r.Place, "rule "+name)
		}
	}
	return out
}

// hasStep reports whether the other policy has the same membership.
func hasStep(p *model.Policy, s Step) bool {
	for _, g := range p.Groups {
		for _, m := range g.Members {
			text := m.Selector.String() + " is in group:" + g.Name
			if !m.Until.IsZero() {
				text += " until " + Moment(m.Until)
			}
			if text == s.Text {
				return true
			}
		}
	}
	return false
}

// sameRule reports whether two rules mean the same.
func sameRule(a, b model.Rule) bool {
	refs := func(rs []model.Ref) string {
		var out []string
		for _, r := range rs {
			out = append(out, r.Selector.String())
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	return refs(a.From) == refs(b.From) && refs(a.To) == refs(b.To) && slices.Equal(a.Ports, b.Ports) && a.Until.Equal(b.Until)
}

// placeLine is a place without its column, as people quote it.
func placeLine(p model.Place) string {
	p.Col = 0
	return strings.TrimSuffix(p.String(), ":0")
}
