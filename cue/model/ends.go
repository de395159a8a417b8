package model

import (
	"fmt"
	"slices"

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
		// Refs of one difference stand together and share their exceptions.
		if len(r.Except) > 0 && (i == 0 || !sameDifference(r, refs[i-1])) {
			n := slices.IndexFunc(refs[i:], func(o Ref) bool { return !sameDifference(r, o) })
			if n < 0 {
				n = len(refs) - i
			}
			c.difference(what, refs[i:i+n])
		}
	}
}

// sameDifference tells by the place of the first exception.
func sameDifference(a, b Ref) bool {
	return len(a.Except) == len(b.Except) && (len(a.Except) == 0 || a.Except[0] == b.Except[0])
}

// difference checks the exceptions of refs that share them.
func (c *check) difference(what string, refs []Ref) {
	var nodes, addresses bool
	for _, r := range refs {
		behind := c.behind(r.Selector)
		nodes, addresses = nodes || !behind, addresses || behind
	}
	ends := false
	for _, e := range refs[0].Except {
		c.exception(what, e)
		ends = ends || e.Selector.Kind == acl.KindGroup && c.look(e.Selector.Name).ending != nil
		if behind := c.behind(e.Selector); !c.p.Network.LiteralAddresses && (behind && !addresses || !behind && !nodes) {
			c.warnings.Add(e.Place, "%s: except %s subtracts nothing: a node is not an address behind one", what, e.Selector)
		}
	}
	if ends && !c.testing {
		c.outlive(what, refs)
	}
}

// behind reports whether a selector selects addresses behind nodes.
func (c *check) behind(s acl.Selector) bool {
	p := c.prefix(s)
	return p.IsValid() && !c.isPinned(p)
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
