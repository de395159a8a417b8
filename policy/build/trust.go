package build

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// teamChanges are the teams that may write rules to other destinations than
// before. What a team writes then is access, and is told as such; that it may, is
// told when it is given the right.
func teamChanges(was, is []model.Team) (out []reach.Admission) {
	add := func(t model.Team, change, text string, at model.Place) {
		a := reach.Admission{Kind: "team", Name: t.Name, Change: change, Text: text, Nodes: []string{}}
		a.Cause = cause(a, at, change == reach.Removed)
		out = append(out, a)
	}
	old := map[string]model.Team{}
	for _, t := range was {
		old[t.Name] = t
	}
	for _, t := range is {
		before, ok := old[t.Name]
		delete(old, t.Name)
		if !ok {
			add(t, reach.Added, fmt.Sprintf("team %s may write rules to %s", t.Name, refTexts(t.Scope)), t.Place)
			continue
		}
		more, fewer := refsBeyond(t.Scope, before.Scope), refsBeyond(before.Scope, t.Scope)
		switch {
		case len(more) > 0 && len(fewer) > 0:
			add(t, reach.Changed, fmt.Sprintf("team %s may write rules to %s, and no longer to %s", t.Name, refTexts(more), refTexts(fewer)), more[0].Place)
		case len(more) > 0:
			add(t, reach.Changed, fmt.Sprintf("team %s may write rules to %s, too", t.Name, refTexts(more)), more[0].Place)
		case len(fewer) > 0:
			add(t, reach.Changed, fmt.Sprintf("team %s may no longer write rules to %s", t.Name, refTexts(fewer)), t.Place)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		add(old[name], reach.Removed, fmt.Sprintf("team %s may no longer write rules to %s", name, refTexts(old[name].Scope)), old[name].Place)
	}
	return out
}

// refText is what a reference selects, in the order in which it is written.
func refText(r model.Ref) string {
	text := r.Selector.String()
	for i, x := range r.Except {
		text += map[bool]string{true: " except ", false: " and "}[i == 0] + x.Selector.String()
	}
	return text
}

func refTexts(refs []model.Ref) string {
	var out []string
	for _, r := range refs {
		if text := refText(r); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	const most = 12 // more than a line of a report holds
	if more := len(out) - most; more > 0 {
		out = append(out[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

// refsBeyond are the references of a list that another does not have.
func refsBeyond(list, other []model.Ref) (out []model.Ref) {
	has := map[string]bool{}
	for _, r := range other {
		has[refText(r)] = true
	}
	for _, r := range list {
		if !has[refText(r)] {
			out = append(out, r)
		}
	}
	return out
}

// A claim is one assertion of a test, whichever its sort.
type claim struct {
	kind     string // "allow", "deny", "only"
	from, to []model.Ref
	ports    []acl.Ports // none: every port
	same     string      // what two claims share that can be compared: time and posture
	empty    bool        // it holds where it is about nobody
	on       []model.PortRef
}

func claims(t *model.Test) (out []claim) {
	same := func(at fmt.Stringer, posture map[string]string) string {
		text := at.String()
		for _, k := range slices.Sorted(maps.Keys(posture)) {
			text += fmt.Sprintf("\x00%s\x00%s", k, posture[k])
		}
		if posture != nil {
			text += "\x00"
		}
		return text
	}
	for kind, list := range map[string][]model.Assertion{"allow": t.Allow, "deny": t.Deny} {
		for _, a := range list {
			out = append(out, claim{kind, a.From, a.To, a.Ports, same(a.At, a.Posture), a.AllowEmpty, a.On})
		}
	}
	slices.SortStableFunc(out, func(a, b claim) int { return strings.Compare(a.kind, b.kind) })
	for _, o := range t.Only {
		out = append(out, claim{"only", o.From, o.To, o.Ports, same(o.At, o.Posture), o.AllowEmpty, o.On})
	}
	return out
}

// text is the whole claim.
func (c claim) text() string {
	return fmt.Sprint(c.kind, "\x00", c.same, c.empty, c.ports, "\x00", allRefs(c.from), "\x00", allRefs(c.to))
}

func allRefs(refs []model.Ref) []string {
	var out []string
	for _, r := range refs {
		out = append(out, refText(r))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// words say what the claim says, for people.
func (c claim) words() string {
	on := "any port"
	if c.kind == "allow" {
		on = "every port"
	}
	if len(c.on) > 0 {
		var texts []string
		for _, p := range c.on {
			texts = append(texts, p.Text)
		}
		on = strings.Join(texts, ", ")
	}
	switch c.kind {
	case "allow":
		return fmt.Sprintf("%s may reach %s on %s", refTexts(c.from), refTexts(c.to), on)
	case "deny":
		return fmt.Sprintf("%s may not reach %s on %s", refTexts(c.from), refTexts(c.to), on)
	}
	return fmt.Sprintf("only %s may reach %s on %s", refTexts(c.from), refTexts(c.to), on)
}

// testChanges are the tests of which nothing is asserted any more, or less. Tests
// that are moved, renamed, split or made stronger are not among them: what each
// said is compared with what all say now.
func testChanges(was, is []model.Test) (out []reach.Admission) {
	now := map[string]bool{}
	var head []claim
	names := map[string]model.Test{}
	for _, t := range is {
		names[t.Name] = t
		for _, c := range claims(&t) {
			now[c.text()] = true
			head = append(head, c)
		}
	}
	covered := coverer(head)
	for _, t := range was {
		all := claims(&t)
		var lost []claim
		for _, c := range all {
			if !now[c.text()] && !covered(c) {
				lost = append(lost, c)
			}
		}
		if len(lost) == 0 {
			continue
		}
		a := reach.Admission{Kind: "test", Name: t.Name, Change: reach.Changed, Nodes: []string{}}
		after, kept := names[t.Name]
		at, gone := after.Place, false
		if !kept {
			at, gone = t.Place, true
		}
		if !kept && len(lost) == len(all) {
			a.Change, a.Text = reach.Removed, fmt.Sprintf("test %q is gone: that %s", t.Name, lost[0].words())
		} else {
			a.Text = fmt.Sprintf("test %q says less: no longer that %s", t.Name, lost[0].words())
		}
		if more := len(lost) - 1; more > 0 {
			a.Text += fmt.Sprintf(", and %d more", more)
		}
		a.Cause = cause(a, at, gone)
		out = append(out, a)
	}
	return out
}

// coverer reports of a claim whether others together say as much. It looks at one
// source, one destination and one range of ports at a time, as they are written: a
// claim about everybody is not found in one about each.
func coverer(head []claim) func(claim) bool {
	type pair struct{ kind, same, from, to string }
	var index map[pair][]claim
	ends := func(c claim, f func(pair)) {
		from := allRefs(c.from)
		if c.kind == "only" { // its sources are who is left out
			from = []string{""}
		}
		for _, x := range from {
			for _, y := range allRefs(c.to) {
				f(pair{c.kind, c.same, x, y})
			}
		}
	}
	return func(c claim) bool {
		if index == nil {
			index = map[pair][]claim{}
			for _, h := range head {
				ends(h, func(p pair) { index[p] = append(index[p], h) })
			}
		}
		all := true
		ends(c, func(p pair) {
			ports := c.ports
			if len(ports) == 0 {
				ports = []acl.Ports{{}}
			}
			for _, want := range ports {
				all = all && slices.ContainsFunc(index[p], func(h claim) bool {
					return (!h.empty || c.empty) &&
						(c.kind != "only" || len(refsBeyond(h.from, c.from)) == 0) &&
						(len(h.ports) == 0 || len(c.ports) > 0 && slices.ContainsFunc(h.ports, func(have acl.Ports) bool { return within(want, have) }))
				})
			}
		})
		return all
	}
}

// within reports whether ports are part of others.
func within(want, have acl.Ports) bool {
	switch {
	case have.Range == acl.RangeAll:
		return true
	case have.Range == acl.RangeProto && want.Range == acl.RangePorts:
		return have.Proto == want.Proto
	case have.Range != want.Range || have.Proto != want.Proto:
		return false
	}
	return have.First <= want.First && want.Last <= have.Last
}
