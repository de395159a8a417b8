package build

import (
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// admission completes what the leaves of two revisions say about who is let in
// and put out: with the nodes that the policies revoke, the teams, the guards and
// the tests, none of which are leaves, with what nodes may forward to, and with
// places.
func admission(d *reach.Difference, base, head *Result, inv *reach.Inventory) {
	was, is := &model.Policy{}, head.Policy
	var guards map[string][]byte
	if base != nil {
		was, guards = base.Policy, base.guardFiles
	}
	for _, r := range is.Revoked {
		if !revokes(was, r.Node) {
			d.Admission = append(d.Admission, reach.Revocation(r.Node, r.Why, true, inv))
		}
	}
	for _, r := range was.Revoked {
		if !revokes(is, r.Node) {
			d.Admission = append(d.Admission, reach.Revocation(r.Node, r.Why, false, inv))
		}
	}
	var compiled *reach.Compiled
	if base != nil {
		compiled = base.Compiled
	}
	d.Admission = append(d.Admission, reach.Approvals(compiled, head.Compiled, inv, d.At)...)
	d.Admission = append(d.Admission, teamChanges(was.Teams, is.Teams)...)
	d.Admission = append(d.Admission, guardChanges(guards, head.guardFiles)...)
	d.Admission = append(d.Admission, testChanges(was.Tests, is.Tests)...)
	reach.SortAdmission(d.Admission)
	for i := range d.Admission {
		a := &d.Admission[i]
		if a.Kind == "guard" || a.Cause.Place != "" {
			continue // the name of a guard is its place
		}
		a.Cause = cause(*a, admissionPlace(*a, was, is, d.At), a.Change == reach.Removed)
	}
}

// cause is the place of an entry, in the base or not.
func cause(a reach.Admission, at model.Place, base bool) reach.Cause {
	at.Col = 0
	return reach.Cause{Place: strings.TrimSuffix(at.String(), ":0"), What: a.Kind + " " + a.Name, Base: base}
}

// admissionPlace is where the entry of an admission stands; of one that is
// removed, where it stood.
func admissionPlace(a reach.Admission, base, head *model.Policy, at time.Time) model.Place {
	p := head
	if a.Change == reach.Removed {
		p = base
	}
	place := entryPlace(p, a.Kind, a.Name)
	if place.IsZero() && a.Kind == "admins" {
		place = memberPlace(p, a.Name, at)
	}
	if place.IsZero() && a.Kind == "admins" && len(p.Admins) > 0 {
		place = p.Admins[0].Place // the membership has ended, or begins later
	}
	return place
}

func revokes(p *model.Policy, id key.NodeID) bool {
	return slices.ContainsFunc(p.Revoked, func(r model.Revoked) bool { return r.Node == id })
}

// guardChanges are the guards that are new, gone or other. Tests of guards do not
// judge.
func guardChanges(was, is map[string][]byte) (out []reach.Admission) {
	add := func(name, change, says string) {
		if !strings.HasSuffix(name, "_test.rego") {
			out = append(out, reach.Admission{Kind: "guard", Name: name, Change: change, Text: name + " " + says, Nodes: []string{}})
		}
	}
	for name, b := range is {
		switch old, ok := was[name]; {
		case !ok:
			add(name, reach.Added, "is new")
		case string(old) != string(b):
			add(name, reach.Changed, "says another thing")
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			add(name, reach.Removed, "is gone")
		}
	}
	return out
}

// entryPlace is where an entry of an admission stands in a policy, zero where it
// is not written there.
func entryPlace(p *model.Policy, kind, name string) model.Place {
	switch kind {
	case "guard":
		return model.Place{File: name, Line: 1, Col: 1}
	case "pin":
		return placed(p.Nodes, func(n model.Node) bool { return n.Name == name }, func(n model.Node) model.Place { return n.Place })
	case "enrolment":
		return placed(p.Enrolment, func(e model.Enrolment) bool { return e.Name == name }, func(e model.Enrolment) model.Place { return e.Place })
	case "identity":
		return placed(p.Identity, func(i model.Identity) bool { return i.Name == name }, func(i model.Identity) model.Place { return i.Place })
	case "session":
		return p.Network.Place
	case "route":
		return placed(p.Routes, func(r model.Route) bool { return r.Prefix.String() == name }, func(r model.Route) model.Place { return r.Place })
	case "exit":
		if p.Exit != nil {
			return p.Exit.Place
		}
	case "revoked":
		return placed(p.Revoked, func(r model.Revoked) bool { return r.Node.String() == name }, func(r model.Revoked) model.Place { return r.Place })
	case "admins":
		return placed(p.Admins, func(r model.Ref) bool { return r.Selector.String() == name }, func(r model.Ref) model.Place { return r.Place })
	case "relay":
		return placed(p.Relays, func(r model.Relay) bool { return r.Name == name }, func(r model.Relay) model.Place { return r.Place })
	case "coordinator":
		return placed(p.Network.Coordinators, func(c model.Coordinator) bool { return c.Addr == name }, func(c model.Coordinator) model.Place { return c.Place })
	}
	return model.Place{}
}

// memberPlace is where a user is made a member of a group that administers the
// network.
func memberPlace(p *model.Policy, user string, at time.Time) model.Place {
	for _, admin := range p.Admins {
		if steps := reach.GroupPath(p, acl.Selector{Kind: acl.KindUser, Name: user}, admin.Selector.Name, at); len(steps) > 0 {
			return steps[0].Place
		}
	}
	return model.Place{}
}

// placed is the place of the one entry of a list that is meant.
func placed[T any](list []T, is func(T) bool, place func(T) model.Place) model.Place {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return place(list[i])
	}
	return model.Place{}
}
