// Package lint finds what a policy allows and a person should look at. What is
// wrong with a policy, cue/model says; here everything is enforced as it is
// written, and may still not be what was meant.
//
//	shadowed          a rule gives nothing that others do not give
//	dead              a rule gives nothing at all
//	empty-selector    a rule names a group that nobody is in
//	unused-group      nothing names the group; likewise unused-tag, unused-host,
//	                  unused-service and unused-posture
//	broad             a rule is from or to everybody, on all ports; or it is for
//	                  more people than asked about
//	expires           a rule, a membership or an enrolment entry ends soon
//	ended             one has ended: what is written has no effect
//	ignore            a comment that ignores something says no reason, or ignores
//	                  nothing
//
// Each is exact for the time at which the policy is judged: shadowed and dead
// rules are found by comparing access with and without them (policy/reach), over
// all nodes that exist or might.
//
// A comment on the line above ignores a finding at a place, and says why:
//
//	// lint:ignore broad the status page is for everybody
package lint

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// A Finding is one thing to look at.
type Finding struct {
	ID    string        `json:"id"`
	Level Level         `json:"level"`
	Place model.Place   `json:"place"`
	Also  []model.Place `json:"also,omitempty"` // the other places that it is about
	Text  string        `json:"text"`
	Hint  string        `json:"hint,omitempty"`
}

// A Level is how much a finding matters.
type Level string

// The levels.
const (
	Warning Level = "warning" // somebody may rely on what is not so
	Note    Level = "note"    // it can be tidied
)

// A Question is what to look at.
type Question struct {
	Policy    *model.Policy
	Compiled  *reach.Compiled
	Inventory *reach.Inventory // nil: none
	Tree      fs.FS            // for comments that ignore findings; nil: none do
	At        time.Time
	Broad     int           // rules for more people than this are broad; zero: however many
	Soon      time.Duration // what ends within it, ends soon; zero: nothing does
}

// Run looks at a policy. Findings are sorted by place.
func Run(q Question) []Finding {
	l := &linter{Question: q, out: []Finding{}}
	l.rules()
	l.broad()
	l.ends()
	l.empty()
	l.unused()
	l.ignore()
	slices.SortFunc(l.out, func(a, b Finding) int {
		return cmp.Or(a.Place.Compare(b.Place), strings.Compare(a.ID, b.ID), strings.Compare(a.Text, b.Text))
	})
	return slices.CompactFunc(l.out, func(a, b Finding) bool { return a.Place == b.Place && a.ID == b.ID && a.Text == b.Text })
}

type linter struct {
	Question
	out     []Finding
	members map[string][]string // users of groups, now
}

func (l *linter) add(f Finding) { l.out = append(l.out, f) }

// rules finds those that give nothing, or nothing more.
func (l *linter) rules() {
	refs := byName(l.Policy.Rules, func(r model.Rule) string { return r.Name })
	compiled := map[string]bool{}
	take := func(in []acl.Inbound) {
		for _, i := range in {
			for _, g := range i.Grants {
				compiled[g.Rule] = true
			}
		}
	}
	take(l.Compiled.Inbound)
	for _, r := range l.Compiled.Routes {
		take(r.Inbound)
	}
	for _, r := range l.Policy.Rules {
		if !compiled[r.Name] {
			l.dead(r)
		}
	}
	w := reach.NewWorld(l.Compiled, l.Inventory, []reach.Question{{At: l.At}})
	for _, x := range w.Redundant() {
		r, ok := refs[x.Rule]
		if !ok || len(r.Capabilities) > 0 {
			continue // what it tells applications is more than access
		}
		if x.Dead {
			l.dead(r)
			continue
		}
		f := Finding{ID: "shadowed", Level: Warning, Place: r.Place, Text: fmt.Sprintf("rule %q gives nothing that other rules do not give", r.Name)}
		var names []string
		for _, by := range x.By {
			if o, ok := refs[by]; ok {
				names = append(names, fmt.Sprintf("%q", by))
				f.Also = append(f.Also, o.Place)
			}
		}
		if len(names) > 0 {
			f.Text = fmt.Sprintf("rule %q gives nothing that %s not give", r.Name, withDo(names))
		}
		f.Hint = "take one of them away, or say in one what differs"
		l.add(f)
	}
}

func withDo(names []string) string {
	if len(names) == 1 {
		return names[0] + " does"
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " do"
}

// dead says why a rule gives nothing.
func (l *linter) dead(r model.Rule) {
	f := Finding{ID: "dead", Level: Warning, Place: r.Place}
	switch {
	case ended(r.Until, l.At):
		return // said by ends
	case len(r.Capabilities) > 0 && len(r.Ports) == 0:
		return
	default:
		var why []string
		for _, side := range [][]model.Ref{r.From, r.To} {
			if text := l.nobody(side); text != "" {
				why = append(why, text)
			}
		}
		if len(why) == 0 {
			why = append(why, "its exceptions leave nobody, or no route to it is approved")
		}
		f.Text = fmt.Sprintf("rule %q gives nothing: %s", r.Name, strings.Join(why, "; "))
	}
	l.add(f)
}

// nobody says why refs select nobody, where each of them does for a reason that is
// easily told.
func (l *linter) nobody(refs []model.Ref) string {
	var why []string
	for _, r := range refs {
		switch s := r.Selector; s.Kind {
		case acl.KindGroup:
			if len(l.inGroup(s.Name)) > 0 {
				return ""
			}
			why = append(why, "nobody is in "+s.String())
		case acl.KindHost, acl.KindPrefix:
			p := s.Prefix()
			if s.Kind == acl.KindHost {
				if h, ok := byName(l.Policy.Hosts, func(h model.Host) string { return h.Name })[s.Name]; ok {
					p = h.Prefix
				}
			}
			if l.routed(p) {
				return ""
			}
			why = append(why, "no route to "+s.String()+" is approved")
		case acl.KindInternet:
			if l.Policy.Exit != nil {
				return ""
			}
			why = append(why, "no exit node is approved")
		default:
			return ""
		}
	}
	return strings.Join(why, "; ")
}

// routed reports whether a part of a prefix may be reached: behind a route, or as
// a node's own address.
func (l *linter) routed(p netip.Prefix) bool {
	return p.Overlaps(l.Policy.Network.Prefix4) || slices.ContainsFunc(l.Compiled.Routes, func(r acl.Route) bool {
		return !r.Exit && r.Prefix.Overlaps(p)
	})
}

// inGroup are the principals of a group, now.
func (l *linter) inGroup(name string) []string {
	if l.members == nil {
		l.members = map[string][]string{}
		for p, ms := range l.Compiled.Principals {
			for _, m := range ms {
				if !ended(m.Until, l.At) {
					l.members[m.Group] = append(l.members[m.Group], p.String())
				}
			}
		}
	}
	return l.members[name]
}

// broad finds rules for everybody, or for more people than asked about.
func (l *linter) broad() {
	for _, r := range l.Policy.Rules {
		if ended(r.Until, l.At) {
			continue
		}
		everybody := func(refs []model.Ref) *model.Ref {
			i := slices.IndexFunc(refs, func(r model.Ref) bool { return r.Selector.Kind == acl.KindAny })
			if i < 0 {
				return nil
			}
			return &refs[i]
		}
		from, to := everybody(r.From), everybody(r.To)
		all := slices.ContainsFunc(r.Ports, func(p acl.Ports) bool { return p.Range == acl.RangeAll })
		internet := slices.ContainsFunc(r.To, func(x model.Ref) bool { return x.Selector.Kind == acl.KindInternet })
		text := ""
		switch {
		case from != nil && to != nil:
			text = "is from every node to every node"
		case from != nil && internet:
			text = "lets every node use the exit nodes"
		case from != nil && all:
			text = "is from every node, on all ports"
		case to != nil && all:
			text = "is to every node, on all ports"
		case internet && all:
			text = "opens all ports of the internet"
		}
		if text != "" {
			l.add(Finding{ID: "broad", Level: Warning, Place: r.Place, Text: fmt.Sprintf("rule %q %s", r.Name, text), Hint: "name the groups, tags and ports that need it"})
			continue
		}
		if l.Broad <= 0 {
			continue
		}
		if n, unknown := l.people(r.From); unknown {
			l.add(Finding{ID: "broad", Level: Warning, Place: r.Place, Text: fmt.Sprintf("rule %q is for everybody who logs in", r.Name)})
		} else if n > l.Broad {
			l.add(Finding{ID: "broad", Level: Warning, Place: r.Place, Text: fmt.Sprintf("rule %q is for %d people, more than %d", r.Name, n, l.Broad)})
		}
	}
}

// people counts who refs select; whoever logs in is unknown.
func (l *linter) people(refs []model.Ref) (n int, unknown bool) {
	in := map[string]bool{}
	for _, r := range refs {
		out := map[string]bool{}
		for _, e := range r.Except {
			for _, u := range l.usersOf(e.Selector) {
				out[u] = true
			}
		}
		switch r.Selector.Kind {
		case acl.KindAny, acl.KindMember:
			return 0, true
		}
		for _, u := range l.usersOf(r.Selector) {
			if !out[u] {
				in[u] = true
			}
		}
	}
	return len(in), false
}

func (l *linter) usersOf(s acl.Selector) (out []string) {
	switch s.Kind {
	case acl.KindUser:
		return []string{s.Name}
	case acl.KindGroup:
		for _, m := range l.inGroup(s.Name) {
			if strings.Contains(m, "@") && !strings.HasPrefix(m, "claim:") {
				out = append(out, m)
			}
		}
	}
	return out
}

// ends finds what has ended, or will soon.
func (l *linter) ends() {
	soon := l.At.Add(l.Soon)
	say := func(place model.Place, what string, until time.Time) {
		switch {
		case until.IsZero():
		case ended(until, l.At):
			l.add(Finding{ID: "ended", Level: Note, Place: place, Text: fmt.Sprintf("%s ended %s", what, reach.Moment(until)), Hint: "take it away, or give it a later end"})
		case l.Soon > 0 && until.Before(soon):
			l.add(Finding{ID: "expires", Level: Warning, Place: place, Text: fmt.Sprintf("%s ends %s", what, reach.Moment(until))})
		}
	}
	for _, r := range l.Policy.Rules {
		say(r.Place, fmt.Sprintf("rule %q", r.Name), r.Until)
	}
	for _, g := range l.Policy.Groups {
		for _, m := range g.Members {
			say(m.Place, fmt.Sprintf("the membership of %s in group:%s", m.Selector, g.Name), m.Until)
		}
	}
	for _, e := range l.Policy.Enrolment {
		say(e.Place, fmt.Sprintf("enrolment %q", e.Name), e.Expires)
	}
}

func ended(until, at time.Time) bool { return !until.IsZero() && !at.Before(until) }

func byName[T any](list []T, name func(T) string) map[string]T {
	out := make(map[string]T, len(list))
	for _, x := range list {
		out[name(x)] = x
	}
	return out
}
