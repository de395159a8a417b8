// Package tester runs the tests that a policy keeps beside its rules.
//
//	allow   every node of every From reaches every To on all of On
//	deny    no node of any From reaches any To on any of On (all ports without On)
//	only    nobody but the nodes of From reaches any To on any of On
//
// They are asked of the compiled leaves (package reach), at the commit's time
// unless a test names its own. An assertion about nodes of which there are none
// fails, unless it says allowEmpty: it would pass whatever the rules say. A policy
// without tests does not pass.
package tester

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// A Result is what became of all tests.
type Result struct {
	Tests      []Test `json:"tests"` // by name
	Assertions int    `json:"assertions"`
	Failed     int    `json:"failed"` // tests
}

// OK reports whether there are tests and all passed.
func (r *Result) OK() bool { return r.Failed == 0 && len(r.Tests) > 0 }

// A Test is one test's result.
type Test struct {
	Name       string      `json:"name"`
	Place      model.Place `json:"place"`
	Assertions int         `json:"assertions"`
	Failures   []Failure   `json:"failures,omitempty"`
}

// A Failure is one assertion that does not hold.
type Failure struct {
	Place model.Place   `json:"place"` // of the assertion
	Kind  string        `json:"kind"`  // "allow", "deny" or "only"
	Text  string        `json:"text"`
	Pairs reach.Pair    `json:"counterexample"`
	Rules []model.Place `json:"rules,omitempty"` // that allow what must not be
}

// Run runs all tests of a policy at a time.
func Run(p *model.Policy, c *reach.Compiled, inv *reach.Inventory, at time.Time) *Result {
	out := &Result{Tests: []Test{}}
	for _, t := range p.Tests {
		r := &runner{policy: p, compiled: c, inventory: inv, at: at, test: Test{Name: t.Name, Place: t.Place}}
		for _, a := range t.Allow {
			r.assert("allow", a.From, a.To, a.Ports, a.At, a.AllowEmpty, a.Place)
		}
		for _, a := range t.Deny {
			r.assert("deny", a.From, a.To, a.Ports, a.At, a.AllowEmpty, a.Place)
		}
		for _, a := range t.Only {
			r.assert("only", a.From, a.To, a.Ports, a.At, a.AllowEmpty, a.Place)
		}
		if r.test.Assertions == 0 {
			r.fail(Failure{Place: t.Place, Kind: "empty", Text: "asserts nothing"})
		}
		out.Tests = append(out.Tests, r.test)
		out.Assertions += r.test.Assertions
		if len(r.test.Failures) > 0 {
			out.Failed++
		}
	}
	return out
}

type runner struct {
	policy    *model.Policy
	compiled  *reach.Compiled
	inventory *reach.Inventory
	at        time.Time
	test      Test
}

func (r *runner) fail(f Failure) { r.test.Failures = append(r.test.Failures, f) }

func (r *runner) assert(kind string, fromRefs, toRefs []model.Ref, ports []acl.Ports, at time.Time, allowEmpty bool, place model.Place) {
	r.test.Assertions++
	if at.IsZero() {
		at = r.at
	}
	q := reach.Question{From: fromRefs, To: toRefs, Ports: ports, At: at, Outside: kind == "only"}
	w := reach.NewWorld(r.compiled, r.inventory, []reach.Question{q})
	sources, dests := w.Ends(q)
	for _, side := range []struct {
		ends int
		refs []model.Ref
		skip bool
	}{{sources, fromRefs, kind == "only"}, {dests, toRefs, false}} {
		if side.ends == 0 && !side.skip && !allowEmpty {
			r.fail(Failure{Place: place, Kind: kind, Text: fmt.Sprintf("no node is %s, so that this asserts nothing (allowEmpty: true if that is meant)", texts(side.refs))})
			return
		}
	}
	switch kind {
	case "allow":
		for _, f := range w.Missing(q) {
			r.fail(Failure{Place: place, Kind: kind, Pairs: f.Sample,
				Text: fmt.Sprintf("%s must reach %s on %s, but %s cannot%s, on %s", texts(fromRefs), texts(toRefs), portTexts(ports), people(f), which(f, toRefs), join(f.Ports))})
		}
	case "deny":
		for _, f := range w.Reachable(q) {
			r.fail(r.allowed(place, kind, f, fmt.Sprintf("%s must not reach %s, but %s would%s", texts(fromRefs), texts(toRefs), people(f), which(f, toRefs))))
		}
	case "only":
		for _, f := range w.Reachable(q) {
			r.fail(r.allowed(place, kind, f, fmt.Sprintf("only %s may reach %s, but %s would%s", texts(fromRefs), texts(toRefs), people(f), which(f, toRefs))))
		}
	}
}

// allowed completes a failure about access that is there and must not be.
func (r *runner) allowed(place model.Place, kind string, f reach.Finding, text string) Failure {
	out := Failure{Place: place, Kind: kind, Pairs: f.Sample, Text: text + ", on " + join(f.Ports)}
	for i, name := range f.Rules {
		at := slices.IndexFunc(r.policy.Rules, func(x model.Rule) bool { return x.Name == name })
		if at < 0 {
			continue
		}
		p := r.policy.Rules[at].Place
		out.Rules = append(out.Rules, p)
		if i == 0 {
			out.Text += ", by "
		} else {
			out.Text += " and "
		}
		out.Text += fmt.Sprintf("%s:%d %q", p.File, p.Line, name)
	}
	return out
}

func texts(refs []model.Ref) string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Selector.String())
	}
	return join(out)
}

func portTexts(ports []acl.Ports) string {
	var out []string
	for _, p := range ports {
		out = append(out, p.String())
	}
	if len(out) == 0 {
		return "every port"
	}
	return join(out)
}

// people names who a finding is about, with a count where a group hides it.
func people(f reach.Finding) string {
	text := join(f.From)
	if len(f.People) > 0 && strings.Contains(text, "group:") {
		return fmt.Sprintf("%s (%s)", text, plural(len(f.People), "person", "people"))
	}
	return text
}

// which says which of the destinations a finding is about, where it is not all
// that the test names.
func which(f reach.Finding, to []model.Ref) string {
	if got := join(f.To); got != texts(to) {
		return " reach " + got
	}
	return ""
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func join(words []string) string { return strings.Join(words, ", ") }
