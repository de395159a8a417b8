package model

import (
	"fmt"

	"github.com/writmesh/writ/coordinator/acl"
)

// ends checks one side of a rule or test: "from" or "to", or the "scope" of a team.
func (c *check) ends(what, side string, refs []Ref) {
	for i, r := range refs {
		c.selector(what, r.Selector, r.Place)
		c.literalAddress(what, r.Selector, r.Place)
		switch k := r.Selector.Kind; {
		case side == "from" && (k == acl.KindSelf || k == acl.KindInternet):
			c.problems.Add(r.Place, `%s: %s stands in "to" only`, what, r.Selector)
		case k == acl.KindSelf && len(refs) > 1:
			c.problems.Add(r.Place, `%s: autogroup:self stands alone in "to"; write another rule for the rest`, what)
		case (k == acl.KindSelf || k == acl.KindInternet) && len(r.Except) > 0:
			c.problems.Add(r.Place, `%s: nothing is excepted from %s; write it without "except"`, what, r.Selector)
		}
		// Refs of one difference share their exceptions.
		if i == 0 || len(r.Except) != len(refs[i-1].Except) || len(r.Except) > 0 && r.Except[0] != refs[i-1].Except[0] {
			for _, e := range r.Except {
				c.exception(what, e)
			}
		}
	}
}

// exception refuses to subtract what a node escapes by hiding something: it would
// have more access without its claim than with it.
func (c *check) exception(what string, e Exception) {
	what += ": except " + e.Selector.String()
	c.selector(what, e.Selector, e.Place)
	switch e.Selector.Kind {
	case acl.KindGroup:
		in := c.look(e.Selector.Name)
		if in.claim != nil {
			c.problems = append(c.problems, Problem{Place: e.Place, Also: []Place{in.claim.Place},
				Message: fmt.Sprintf("%s: who is in it by %s would escape by not showing the claim; list users", what, in.claim.Selector)})
		} else if in.ending != nil {
			c.warnings = append(c.warnings, Problem{Place: e.Place, Also: []Place{in.ending.Place},
				Message: fmt.Sprintf("%s: gives access to %s when the membership ends", what, in.ending.Selector)})
		}
	case acl.KindNode:
		if !c.nodes[e.Selector.Name] {
			c.problems.Add(e.Place, "%s: no pinned node has this name, and others choose theirs; pin it", what)
		}
	case acl.KindPrefix, acl.KindHost:
		if p := c.prefix(e.Selector); p.IsValid() && c.own(p) && !c.isPinned(p) {
			c.problems.Add(e.Place, "%s: no pinned node has this address, and whoever has it has another as well; except users, groups or tags", what)
		}
	case acl.KindSelf, acl.KindInternet, acl.KindAny:
		c.problems.Add(e.Place, "%s: want users, groups, tags, pinned nodes, autogroup:member, autogroup:tagged, hosts or addresses", what)
	}
}
