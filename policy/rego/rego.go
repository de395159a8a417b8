// Package rego runs guards: Rego that looks at a policy, and at what a commit
// changes, and may refuse it. It is the only door to OPA.
//
// A guard forbids what the schema cannot express and what no test states:
// everybody may reach everything, temporary access without an end, twenty
// people gaining access in one commit.
//
// # Flow
//
//  1. [Files] collects a tree's guards.
//  2. [Compile] parses and checks them, and says what is wrong, with places.
//  3. [Guards.Evaluate] runs them over an [Input].
//
// Rego cannot be trusted to end, so 2 and 3 belong into the evaluating child:
// [Handler] serves [Judge] there.
//
// # A guard
//
// A guard is a file guard/STEM.rego of package guard.STEM. Its stem is lower
// case letters, digits, '-' and '_'; in the package's name '-' becomes '_'. It
// is called by its stem. Files that end in _test.rego are not guards; they must
// parse. Four rules are read from outside:
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
// # What it sees
//
// input.network is the policy as [model.Policy] encodes it; input.diff is a
// [Difference]; input.commit is a [Commit]. Every list is there, empty where
// there is nothing; other fields are left out where they are zero, so that
// "not rule.until" asks for a rule without end. data.guard is all guards.
//
// # What is refused
//
//   - syntax other than Rego v1; another package; a guard elsewhere than
//     directly under guard/; two stems with one package; .rego outside guard/;
//   - a field that the input does not have; data other than data.guard;
//   - rules named deny, warn, require_approval or checked of another kind than
//     above, and any other rule that nothing refers to;
//   - "with" on anything but input;
//   - built-in functions that are not on the list in this package: none that
//     asks the network, the clock, chance, the environment or a key;
//   - strict mode's complaints: unused imports and variables, deprecated
//     functions;
//   - at evaluation: an error of any built-in function (Rego would make it
//     undefined, and the denial would be silently absent), results of another
//     shape, a different answer with and without rule indexing, ten seconds.
//
// # Limits
//
// 1 MiB a file, 8 MiB and 1000 files together, 10,000 findings, 200 printed
// lines.
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
// coordinators and administrators it trusts, or of its guards.
type Admission struct {
	Kind   string      `json:"kind"`             // "pin", "enrolment", "revoked", "admins", "relay", "coordinator", "guard"
	Name   string      `json:"name"`             // the entry's; a coordinator's address, a selector for admins, a guard's file
	Change string      `json:"change"`           // what happens to the entry: "added", "removed", "changed"
	Effect string      `json:"effect,omitempty"` // "in": others may be in; "out": some no longer are
	Text   string      `json:"text"`             // in people's words
	Nodes  []string    `json:"nodes"`            // names of the admitted nodes that this puts out
	Place  model.Place `json:"place"`            // of the entry; of one that is removed, where it was before
}

// A Change is access that begins or ends, grouped as people speak of it.
type Change struct {
	From   string   `json:"from"`            // a selector: a user or a tag
	To     string   `json:"to"`              // a selector
	Ports  []string `json:"ports"`           // as rules write them
	Until  string   `json:"until,omitempty"` // RFC 3339; empty means without end
	Rules  []string `json:"rules"`           // the rules that give it, or gave it
	People []string `json:"people"`          // e-mail addresses of those who gain or lose
	Nodes  []string `json:"nodes"`           // names of the nodes reached
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
