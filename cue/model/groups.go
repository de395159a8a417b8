package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

func (d *decoder) group(name string, v *value) Group {
	d.name("group", name, v)
	what := subject("group", name)
	g := Group{Name: name, Place: v.place}
	for _, item := range v.items {
		if m, ok := d.member(item, what); ok {
			g.Members = append(g.Members, m)
		}
	}
	return g
}

// member reads an entry of a group: a principal, or {member: …} or {claim: …}.
func (d *decoder) member(v *value, what string) (m Member, ok bool) {
	m.Place = v.place
	text := v
	if v.kind == kindStruct {
		m.Until = d.time(v.field("until"), what)
		claim := v.field("claim")
		text = v.field("member")
		switch {
		case claim != nil && text != nil:
			d.problems.Add(v.place, `%s: a member has "member" or "claim", not both; write two members`, what)
			return m, false
		case claim != nil:
			m.Selector, ok = d.claim(claim, what)
			return m, ok
		case text == nil:
			d.problems.Add(v.place, `%s: a member has neither "member" nor "claim"`, what)
			return m, false
		}
	}
	ref, ok := d.ref(text, what)
	if !ok {
		return m, false
	}
	switch ref.Selector.Kind {
	case acl.KindUser, acl.KindGroup, acl.KindTag:
		m.Selector = ref.Selector
		return m, true
	default:
		d.problems.Add(text.place, "%s: a member is a user, a group or a tag, not %s", what, ref.Selector)
		return m, false
	}
}

// claim reads {name: "groups", value: "eng"}.
func (d *decoder) claim(v *value, what string) (acl.Selector, bool) {
	text := v.field("name").str + "=" + v.field("value").str
	err := checkASCII("claim", text)
	if err == nil {
		err = acl.CheckClaim(text)
	}
	d.add(v.place, what, err)
	return acl.Selector{Kind: acl.KindClaim, Name: text}, err == nil
}

func (c *check) checkGroups() {
	for i := range c.p.Groups {
		g := &c.p.Groups[i]
		what := subject("group", g.Name)
		if len(g.Members) == 0 {
			c.warnings.Add(g.Place, "%s has no members", what)
		}
		g.Members = c.members(what, g.Members)
		for _, m := range g.Members {
			c.selector(what, m.Selector, m.Place)
			if m.Selector.Kind == acl.KindClaim && len(c.p.Identity) == 0 {
				c.warnings.Add(m.Place, "%s: nobody has a claim: there is no identity provider", what)
			}
		}
	}
	cycles(c, "group", c.p.Groups, func(g Group) (string, Place, []PortRef) {
		var inner []PortRef
		for _, m := range g.Members {
			if m.Selector.Kind == acl.KindGroup {
				inner = append(inner, PortRef{m.Selector.Name, m.Place})
			}
		}
		return g.Name, g.Place, inner
	})
}

// members sorts a group's members and drops repetitions. Two entries of one
// member with different ends contradict each other.
func (c *check) members(what string, list []Member) []Member {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Member) int {
		if x := strings.Compare(a.Selector.String(), b.Selector.String()); x != 0 {
			return x
		}
		return a.Place.Compare(b.Place)
	})
	return slices.CompactFunc(list, func(a, b Member) bool {
		if a.Selector != b.Selector {
			return false
		}
		twice := Problem{Place: b.Place, Also: []Place{a.Place}, Message: fmt.Sprintf("%s: %s is written twice", what, b.Selector)}
		if !a.Until.Equal(b.Until) {
			twice.Message += ", with different ends"
			c.problems = append(c.problems, twice)
		} else {
			c.warnings = append(c.warnings, twice)
		}
		return true
	})
}

// A groupInside is what is in a group, directly or through other groups.
type groupInside struct {
	claim    *Member // one that whoever has a claim is; nil for none
	ending   *Member // a membership that ends; nil for none
	possible bool    // users, who has a claim, or a tag that nodes may bear
}

// look finds what is in a group. A cycle, which is told elsewhere, ends it.
func (c *check) look(group string) groupInside {
	if in, ok := c.inside[group]; ok {
		return in
	}
	var in groupInside
	c.inside[group] = in
	g := c.groups[group]
	if g == nil {
		return in
	}
	for i := range g.Members {
		m := &g.Members[i]
		if !m.Until.IsZero() && in.ending == nil {
			in.ending = m
		}
		switch m.Selector.Kind {
		case acl.KindUser:
			in.possible = true
		case acl.KindClaim:
			in.possible = true
			if in.claim == nil {
				in.claim = m
			}
		case acl.KindTag:
			in.possible = in.possible || c.borne()[m.Selector.Name]
		case acl.KindGroup:
			inner := c.look(m.Selector.Name)
			in.possible = in.possible || inner.possible
			if in.claim == nil {
				in.claim = inner.claim
			}
			if in.ending == nil {
				in.ending = inner.ending
			}
		}
	}
	c.inside[group] = in
	return in
}
