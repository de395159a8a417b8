package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// forever stands for the end of what has none: later than all that can be written.
var forever = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// An ending is until when a user or tag is in a group, and the entry that says so.
type ending struct {
	at    time.Time
	place Place
}

// A groupUntil is a group with the ends of memberships: of each user, tag and claim,
// directly or through others, that of its longest; and the last of all tags.
type groupUntil struct {
	members map[acl.Selector]ending
	tags    time.Time
}

// maxEndings is how many members are looked at to tell who stays selected: ten
// thousand rules that except a group of two hundred. Beyond it an end is warned of
// whoever it is for. A step takes some hundred nanoseconds.
const maxEndings = 2_000_000

// endings looks through a group; false where there is too much. A cycle, which is
// told elsewhere, ends it.
func (c *check) endings(group string) (*groupUntil, bool) {
	if c.steps > maxEndings {
		return nil, false
	}
	if in, ok := c.until[group]; ok {
		return in, true
	}
	out := &groupUntil{members: map[acl.Selector]ending{}}
	c.until[group] = out
	add := func(s acl.Selector, e ending) {
		c.steps++
		if was, ok := out.members[s]; !ok || was.at.Before(e.at) {
			out.members[s] = e
		}
		if s.Kind == acl.KindTag && out.tags.Before(e.at) {
			out.tags = e.at
		}
	}
	g := c.groups[group]
	if g == nil {
		return out, true
	}
	for _, m := range g.Members {
		own := ending{forever, m.Place}
		if !m.Until.IsZero() {
			own.at = m.Until
		}
		if m.Selector.Kind != acl.KindGroup {
			add(m.Selector, own)
			continue
		}
		inner, ok := c.endings(m.Selector.Name)
		if !ok {
			return nil, false
		}
		for s, e := range inner.members {
			if own.at.Before(e.at) {
				e = own
			}
			add(s, e)
		}
	}
	return out, c.steps <= maxEndings
}

// outlive warns of exceptions whose membership ends while what they are excepted
// from goes on to select who was excepted: an end that gives access.
func (c *check) outlive(what string, refs []Ref) {
	excepted := map[acl.Selector]ending{}
	whose := map[acl.Selector]Exception{}
	for _, e := range refs[0].Except {
		in := map[acl.Selector]ending{e.Selector: {forever, e.Place}}
		if e.Selector.Kind == acl.KindGroup {
			group, ok := c.endings(e.Selector.Name)
			if !ok {
				if m := c.look(e.Selector.Name).ending; m != nil {
					c.gives(what, e, m.Selector.String(), m.Place)
				}
				continue
			}
			in = group.members
		}
		for s, end := range in {
			if was, ok := excepted[s]; !ok || was.at.Before(end.at) {
				excepted[s], whose[s] = end, e
			}
		}
	}
	if _, all := excepted[acl.Selector{Kind: acl.KindMember}]; all {
		maps.DeleteFunc(excepted, func(s acl.Selector, _ ending) bool { return s.Kind == acl.KindUser })
	}
	if _, all := excepted[acl.Selector{Kind: acl.KindTagged}]; all {
		maps.DeleteFunc(excepted, func(s acl.Selector, _ ending) bool { return s.Kind == acl.KindTag })
	}
	names := map[Place][]string{} // by exception
	last := map[Place]Place{}
	for _, s := range slices.SortedFunc(maps.Keys(excepted), func(a, b acl.Selector) int { return strings.Compare(a.String(), b.String()) }) {
		end := excepted[s]
		if end.at.Equal(forever) || !c.selectedAfter(refs, s, end.at) {
			continue
		}
		at := whose[s].Place
		if names[at] = append(names[at], s.String()); len(names[at]) == 1 {
			last[at] = end.place
		}
	}
	for _, e := range refs[0].Except {
		if list := names[e.Place]; len(list) > 0 {
			who := list[0]
			if len(list) > 1 {
				who += fmt.Sprintf(" and %d more", len(list)-1)
			}
			c.gives(what, e, who, last[e.Place])
			delete(names, e.Place)
		}
	}
}

func (c *check) gives(what string, e Exception, who string, at Place) {
	c.warnings = append(c.warnings, Problem{Place: e.Place, Also: []Place{at},
		Message: fmt.Sprintf("%s: except %s: gives access to %s when the membership ends", what, e.Selector, who)})
}

// selectedAfter reports whether refs select a user or tag after a time. A node
// bears other tags, and its name and address are its own, so what can be a tagged
// node may be this one; and who is in a group by a claim may be anybody.
func (c *check) selectedAfter(refs []Ref, s acl.Selector, at time.Time) bool {
	user := s.Kind == acl.KindUser
	return slices.ContainsFunc(refs, func(r Ref) bool {
		if c.steps++; c.steps > maxEndings {
			return true
		}
		switch r.Selector.Kind {
		case acl.KindUser:
			return r.Selector == s
		case acl.KindMember:
			return user
		case acl.KindTag, acl.KindTagged:
			return !user
		case acl.KindGroup:
			in, ok := c.endings(r.Selector.Name)
			switch {
			case !ok || user && c.look(r.Selector.Name).claim != nil:
				return true
			case user:
				return in.members[s].at.After(at)
			}
			return in.tags.After(at)
		}
		return true
	})
}
