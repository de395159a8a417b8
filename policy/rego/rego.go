// Package rego runs the Rego of a policy: guards, which look at a policy and at
// what a commit changes and may refuse it, and generators, which compute rules.
// It is the only door to OPA.
//
// A guard forbids what the schema cannot express and what no test states:
// everybody may reach everything, temporary access without an end, twenty
// people gaining access in one commit. A generator writes what would be the same
// rule for each of many groups, tags or hosts.
//
// # Flow
//
//  1. [GeneratorFiles] and [Files] collect a tree's generators and guards.
//  2. [Generate] has the generators yield rules, once the policy is loaded. They
//     become part of it ([model.Policy.With]) before anything else looks at it.
//  3. [Check] compiles guards and says what is wrong, with places.
//  4. [Judge] runs them over an [Input].
//  5. [Try] runs the tests of both.
//
// Rego cannot be trusted to end, so these call [Handler], in the evaluating
// child.
//
// # A module
//
// A guard is a file guard/STEM.rego of package guard.STEM; a generator is a file
// generate/STEM.rego of package generate.STEM. A stem is lower case letters,
// digits, '-' and '_'; in the package's name '-' becomes '_'. Modules are called
// by their stems. They may read others of their kind, as data.guard.STEM.RULE or
// data.generate.STEM.RULE.
//
// # A guard
//
// Four rules are read from outside:
//
//	deny contains …              the commit is refused
//	warn contains …              a person should look
//	require_approval contains …  somebody else must sign
//	checked := N                 how many things the guard looked at
//
// deny and warn yield a message, or {"msg": message, "place": place} where the
// place is copied from the input, as that of what the message is about.
// require_approval yields {"team": team, "reason": reason}, and may have a
// place. These texts are one line of 1 to 1000 bytes.
//
// Every guard has checked, and at least one of the others. checked may be 0
// only where the guard reads lists and all the lists it reads are empty: a
// guard that inspects nothing passes everything, which is how a misspelt
// condition looks.
//
// # A generator
//
// One rule is read from outside, any number of times:
//
//	rules[NAME] := {…} if { … }
//
// The object has the fields of a rule as CUE writes them (from, to, allow, until,
// hours, posture, capabilities, why, owner) and may have origin: a place, or a
// list of places, copied from the input, of what the rule is made of. It passes
// the schema and the checks of a written rule. Its place is that of the head that
// yields it. A name is yielded once: several heads of one module may yield the
// same rule under the same name, nothing else may.
//
// # Tests
//
// A file STEM_test.rego beside them, of package guard.STEM_test or
// generate.STEM_test, holds tests: rules test_NAME that must be true. One that is
// undefined, has another value, or in which a built-in function errs, has failed.
// A test sees the input that it makes itself: … with input as {…}; lists that it
// leaves out are not there. It may also replace rules, as those that hold a
// guard's configuration: … with data.guard.star.sensitive as {"tag:x"}. There is
// at least one test in such a file, and every rule in it is a test or referred
// to. Coverage counts the lines of modules that tests evaluate.
//
// # What it sees
//
// For guards input.network is the policy as [model.Policy] encodes it, computed
// rules included; input.diff is a [Difference]; input.commit is a [Commit].
// Generators see input.network only, as it is written: no computed rules, no
// commit, so that the rules depend on the files alone. Every list is there, empty
// where there is nothing; other fields are left out where they are zero, so that
// "not rule.until" asks for a rule without end. A module that reads a field which
// the input cannot have does not compile; the keys of capabilities and of the
// posture in tests are free.
//
// # What is refused
//
//   - syntax other than Rego v1; another package; a module elsewhere than
//     directly under guard/ or generate/; two stems with one package;
//   - a field that the input does not have; data other than that of the kind;
//   - rules that are read from outside of another kind than above, and any other
//     rule that nothing refers to;
//   - "with" on anything but input, except in tests;
//   - comprehensions, or every, nested more than four deep;
//   - built-in functions that are not on the list in this package: none that
//     asks the network, the clock, chance, the environment or a key;
//   - strict mode's complaints: unused imports and variables, deprecated
//     functions;
//   - at evaluation: an error of any built-in function (Rego would make it
//     undefined, and the denial would be silently absent), results of another
//     shape, a different answer with and without rule indexing, ten seconds for
//     all guards, for all generators and for all tests.
//
// # Limits
//
// For each kind 1 MiB a file, 8 MiB and 1000 files together; 10,000 findings, 200
// printed lines, 20,000 computed rules of 8 MiB together, 10,000 tests.
package rego

import (
	"cmp"
	"strings"
	"time"

	"github.com/writmesh/writ/cue/model"
)

const (
	// maxFile is two hundred times the longest guard we have seen.
	maxFile = 1 << 20
	// maxTotal and maxFiles bound the compiler's time, which has no deadline.
	maxTotal = 8 << 20
	maxFiles = 1000
	// maxComputed is twice the rules of the largest network we plan for.
	maxComputed = 20_000
	// maxTests is ten tests for each of as many modules as there may be.
	maxTests = 10 * maxFiles
	// maxClosures is how deep comprehensions may be nested. The compiler's time
	// doubles several times with each level: two hundred bytes of them take it
	// minutes. Nobody reads more than two.
	maxClosures = 4
	// maxFindings is more than anybody reads.
	maxFindings = 10_000
	// maxErrors is how many mistakes the compiler tells before it gives up.
	maxErrors = 100
	// maxText is a line that still fits a commit status or a log.
	maxText = 1000
	// maxPrinted lines of print statements are kept.
	maxPrinted = 200
	// maxTime ends an evaluation with the name of its guard, well before the
	// child is killed without one.
	maxTime = 10 * time.Second
)

// An Input is what guards look at.
type Input struct {
	Network *model.Policy `json:"network"`
	Diff    Difference    `json:"diff"`
	Commit  Commit        `json:"commit"`
}

// A Difference is what a commit changes about who reaches what, and about who is
// in the network at all.
type Difference struct {
	Gained    []Change    `json:"gained"`
	Lost      []Change    `json:"lost"`
	Admission []Admission `json:"admission"`
	Counts    Counts      `json:"counts"`
}

// An Admission is one change of who may be in the network, of the relays,
// coordinators and administrators it trusts, or of its teams, guards and tests.
type Admission struct {
	Kind   string      `json:"kind"`             // "pin", "enrolment", "identity", "session", "revoked", "admins", "route", "exit", "relay", "coordinator", "team", "guard", "test"
	Name   string      `json:"name"`             // the entry's; a coordinator's address, a selector for admins, a route's prefix, a guard's file
	Change string      `json:"change"`           // what happens to the entry: "added", "removed", "changed"
	Effect string      `json:"effect,omitempty"` // "in": others may be in; "out": some no longer are
	Text   string      `json:"text"`             // in people's words
	Nodes  []string    `json:"nodes"`            // names of the admitted nodes that this puts out
	Place  model.Place `json:"place"`            // of the entry; of one that is removed, where it was before
}

// A Change is access that begins or ends, grouped as people speak of it.
type Change struct {
	From  string   `json:"from"`            // a selector: a user or a tag
	To    string   `json:"to"`              // a selector
	Ports []string `json:"ports"`           // as rules write them
	Until string   `json:"until,omitempty"` // RFC 3339; empty means without end
	Kept  bool     `json:"kept,omitempty"`  // it is there before and after; its end, hours or posture change

	When         []string `json:"when"`         // the hours of it, in words; empty: always
	Posture      []string `json:"posture"`      // what the source must report for it, in words; empty: nothing
	Capabilities []string `json:"capabilities"` // "acme.example/cap/x = {...}"

	By     string   `json:"by,omitempty"` // "policy" or "inventory": which of them changed
	Rules  []string `json:"rules"`        // the rules that give it, or gave it
	People []string `json:"people"`       // e-mail addresses of those who gain or lose
	Nodes  []string `json:"nodes"`        // names of the nodes reached
}

// Counts are the sizes of a difference, each thing counted once.
type Counts struct {
	Gained Extent `json:"gained"`
	Lost   Extent `json:"lost"`
}

// An Extent is the size of one side of a difference.
type Extent struct {
	Changes int `json:"changes"`
	People  int `json:"people"`
	Nodes   int `json:"nodes"`
}

// A Commit is the one that is judged.
type Commit struct {
	Hash    string    `json:"hash"`
	Author  string    `json:"author"`
	Email   string    `json:"email"`
	Message string    `json:"message"`
	Parents []string  `json:"parents"`
	When    time.Time `json:"when,omitzero"` // the committer's
}

// A Result is what the guards say, sorted: the same input, the same bytes.
type Result struct {
	Deny      []Finding      `json:"deny"`
	Warn      []Finding      `json:"warn"`
	Approvals []Approval     `json:"approvals"`
	Checked   map[string]int `json:"checked"` // by guard
	Printed   []string       `json:"printed"` // print statements: "place: text"
}

// A Finding is one thing a guard says.
type Finding struct {
	Guard   string      `json:"guard"`
	Message string      `json:"message"`
	Place   model.Place `json:"place"` // what it is about, if the guard says so; otherwise Rule
	Rule    model.Place `json:"rule"`  // the rule in the guard that says it
}

// An Approval is a signature a guard asks for.
type Approval struct {
	Guard  string      `json:"guard"`
	Team   string      `json:"team"`
	Reason string      `json:"reason"`
	Place  model.Place `json:"place"` // as in Finding
	Rule   model.Place `json:"rule"`
}

func (f Finding) compare(o Finding) int {
	return cmp.Or(strings.Compare(f.Guard, o.Guard), f.Place.Compare(o.Place),
		strings.Compare(f.Message, o.Message), f.Rule.Compare(o.Rule))
}

func (a Approval) compare(o Approval) int {
	return cmp.Or(strings.Compare(a.Guard, o.Guard), strings.Compare(a.Team, o.Team), a.Place.Compare(o.Place),
		strings.Compare(a.Reason, o.Reason), a.Rule.Compare(o.Rule))
}
