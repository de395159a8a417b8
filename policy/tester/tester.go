// Package tester runs the tests that a policy keeps beside its rules.
//
//	allow   every end of every From reaches every To on all of On
//	deny    no end of any From reaches any To on any of On (all ports without On)
//	only    nobody but the ends of From reaches any To on any of On
//
// They are asked of the compiled leaves (package reach): of nodes, of what is
// behind them through approved routes, and of the internet through exit nodes. An
// assertion about ends of which there are none, or no two of which can meet, fails,
// unless it says allowEmpty: it would pass whatever the rules say. A policy without tests does not pass.
//
// # Time and posture
//
// Ends of rules and memberships are judged at the commit's time, unless the
// assertion names another. With its own time, hours are judged at that time, too;
// without it at every hour of the week: allow holds at all of them, deny and only
// at none. Without a posture, sources report nothing (allow), or whatever they like
// (deny, only); with one exactly that.
//
// # Failures
//
// A failure says for whom, to what and on which ports the assertion does not hold,
// in the policy's words, and one flow for which it does not: which user on which
// node, to which node or address, on which port, by which rule.
package tester

import (
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
)

// A Result is what became of all tests.
type Result struct {
	Tests      []Test `json:"tests"` // by name
	Assertions int    `json:"assertions"`
	Failed     int    `json:"failed"` // tests

	// Assumptions are what the answers rest on that is not known, one sentence
	// each, sorted.
	Assumptions []string `json:"assumptions,omitempty"`

	// Coverage is what of the rules the tests that passed say something about; nil
	// where it was not asked for.
	Coverage *Coverage `json:"coverage,omitempty"`
}

// OK reports whether there are tests and all passed.
func (r *Result) OK() bool { return r.Failed == 0 && len(r.Tests) > 0 }

// A Coverage is how many of the rules tests bear witness to; see [reach.Coverage].
type Coverage struct {
	Rules          int    `json:"rules"`
	RulesWitnessed int    `json:"rulesWitnessed"`
	Cells          uint64 `json:"cells"` // of access
	CellsWitnessed uint64 `json:"cellsWitnessed"`

	Unwitnessed []Rule `json:"unwitnessed"` // rules without a witness, by name
}

// Percent is how many of a hundred rules have a witness, rounded down; of no
// rules, all have.
func (c *Coverage) Percent() int {
	if c.Rules == 0 {
		return 100
	}
	return c.RulesWitnessed * 100 / c.Rules
}

// A Rule is one of the policy's, and where it stands.
type Rule struct {
	Name  string      `json:"name"`
	Place model.Place `json:"place"`
}

// A Test is one test's result.
type Test struct {
	Name       string      `json:"name"`
	Place      model.Place `json:"place"`
	Assertions int         `json:"assertions"`
	Failures   []Failure   `json:"failures,omitempty"`
}

// A Failure is one assertion that does not hold.
type Failure struct {
	Place   model.Place   `json:"place"` // of the assertion
	Kind    string        `json:"kind"`  // "allow", "deny", "only" or "empty"
	Text    string        `json:"text"`
	Example string        `json:"example,omitempty"` // the counterexample in words: user, node, destination, port
	Pairs   reach.Pair    `json:"counterexample"`
	When    []string      `json:"when,omitempty"`    // hours at which it does not hold; none: at any
	Posture []string      `json:"posture,omitempty"` // of sources for which it does not hold; none: any
	Rules   []model.Place `json:"rules,omitempty"`   // that allow what must not be
}

// Run runs all tests of a policy at a time.
func Run(p *model.Policy, c *reach.Compiled, inv *reach.Inventory, at time.Time) *Result {
	return run(p, c, inv, at, false)
}

// Cover is Run, and says what the tests bear witness to.
func Cover(p *model.Policy, c *reach.Compiled, inv *reach.Inventory, at time.Time) *Result {
	return run(p, c, inv, at, true)
}

func run(p *model.Policy, c *reach.Compiled, inv *reach.Inventory, at time.Time, cover bool) *Result {
	r := &runner{rules: map[string]model.Place{}, users: known(p, inv)}
	for _, rule := range p.Rules {
		r.rules[rule.Name] = rule.Place
	}
	tests, questions := assertions(p, at)
	r.world = reach.NewWorld(c, inv, questions)
	if cover {
		r.coverage = r.world.NewCoverage()
	}
	out := &Result{Tests: []Test{}}
	for i, t := range p.Tests {
		r.test = Test{Name: t.Name, Place: t.Place, Assertions: len(tests[i])}
		for _, a := range tests[i] {
			r.assert(a)
		}
		if len(tests[i]) == 0 {
			r.fail(Failure{Place: t.Place, Kind: "empty", Text: "asserts nothing"})
		}
		out.Tests = append(out.Tests, r.test)
		out.Assertions += r.test.Assertions
		if len(r.test.Failures) > 0 {
			out.Failed++
		}
	}
	slices.Sort(r.assumptions)
	out.Assumptions = slices.Compact(r.assumptions)
	if cover {
		out.Coverage = r.report()
	}
	return out
}

// known are the users that the inventory lists, for a policy that comes from
// elsewhere: there, a test about a user who does not exist is at fault. Nil means
// that anybody may be.
func known(p *model.Policy, inv *reach.Inventory) map[string]bool {
	if !p.Network.LiteralAddresses || inv == nil || len(inv.Users) == 0 {
		return nil
	}
	users := map[string]bool{}
	for _, u := range inv.Users {
		users[u.Email] = true
	}
	for _, n := range inv.Nodes {
		users[n.User] = true
	}
	return users
}

// An assertion is one of a test, as a question.
type assertion struct {
	kind       string // "allow", "deny" or "only"
	from, to   []model.Ref
	ports      []acl.Ports
	allowEmpty bool
	place      model.Place
	q          reach.Question
	err        error // what is asked about has no meaning, which Check tells first
}

// assertions are those of all tests, in the order of the tests, and all that will
// be asked.
func assertions(p *model.Policy, at time.Time) (tests [][]assertion, questions []reach.Question) {
	ends := compile.NewEnds(p)
	for _, t := range p.Tests {
		var list []assertion
		add := func(kind string, a model.Assertion) {
			x := assertion{kind: kind, from: a.From, to: a.To, ports: a.Ports, allowEmpty: a.AllowEmpty, place: a.Place}
			x.q = reach.Question{Ports: a.Ports, At: at, Posture: a.Posture, Outside: kind == "only", Assume: p.Network.LiteralAddresses}
			if !a.At.IsZero() {
				x.q.At, x.q.Fixed = a.At, true
			}
			if x.q.From, x.err = ends.Refs(a.From); x.err == nil {
				x.q.To, x.err = ends.Refs(a.To)
			}
			if x.err == nil {
				questions = append(questions, x.q)
			}
			list = append(list, x)
		}
		for _, a := range t.Allow {
			add("allow", a)
		}
		for _, a := range t.Deny {
			add("deny", a)
		}
		for _, o := range t.Only {
			add("only", model.Assertion(o))
		}
		tests = append(tests, list)
	}
	return tests, questions
}
