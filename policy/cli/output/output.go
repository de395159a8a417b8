// Package output is how the verbs of the policy command show what they found
// out, one file for each format, all written from one [Report]:
//
//	text      for people, in colour on a terminal
//	json      for programs; see below
//	markdown  one comment on a pull request, at most 65,000 characters: the
//	          verdict, guards and tests, access gained and lost, who is let in,
//	          coverage, and a picture that GitHub and GitLab draw
//	github    annotations: workflow commands, at most ten of a level
//	gitlab    a code quality report
//	junit     a suite each for tests, guards and the difference
//	tap       the same as the Test Anything Protocol, version 14
//	sarif     findings as SARIF 2.1.0, at most 25,000
//	html      a page with maps of the access before and after; it loads nothing
//
// The exit code does not depend on the format: 0 nothing to report, 1 something,
// 2 it could not be told, which every format but html says, too.
//
// # Other people's text
//
// Much of what is shown was written by whoever opens a pull request. In every
// format it is text and nothing else: control and formatting characters are shown
// as escapes, so that no name can move the cursor or turn the direction of a line;
// Markdown shows it as code, in which neither forge looks for people to call,
// issues to mark or addresses to link to; and what has a meaning in workflow
// commands, XML, YAML, HTML, Mermaid or SARIF is escaped as that format says.
// Nobody's text is cut so long that it crowds out others'.
//
// # JSON
//
// Every object begins with "version": 1. Fields may be added without another
// version; none goes or changes its meaning. Lists are there where they are empty,
// other fields are left out where they are zero. Places are {file, line, col}, as
// numbers from 1, columns in bytes; times are RFC 3339 in UTC.
//
//	check  {version, problems, warnings, network, rules, tests, guards}: [Check]
//	test   {version, passed, tests, guardTests, guards, approvals, warnings,
//	       guardCoverage, threshold}: [Test], and with a base
//	       difference: as diff writes it
//	diff   {version, at, inventory, gained, lost, admission}: [reach.Difference]
//	lint   {version, findings}: [Lint]
//	all    {version, unknown, problems} where it could not be told
//
// A problem is {place, message, also, hint}; gained and lost are lists of
// [reach.Change], admission of [reach.Admission].
package output

import (
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/tester"
)

// A Check is what "policy check" reports.
type Check struct {
	Problems model.Problems `json:"problems"`
	Warnings model.Problems `json:"warnings"`
	Network  string         `json:"network,omitempty"` // the rest is there without problems only
	Rules    int            `json:"rules"`
	Tests    int            `json:"tests"`
	Guards   int            `json:"guards"`
}

// Count fills in what a sound policy holds.
func (c *Check) Count(r *build.Result) {
	c.Network = r.Policy.Network.Name
	c.Rules, c.Tests, c.Guards = len(r.Policy.Rules), len(r.Policy.Tests), r.GuardCount()
	c.Warnings = full(r.Policy.Warnings)
}

// NewCheck is a report of problems, of which there may be none.
func NewCheck(ps model.Problems) Check {
	return Check{Problems: full(ps), Warnings: model.Problems{}}
}

// full is a list that JSON writes as one, also where it is empty.
func full[S ~[]E, E any](list S) S {
	if list == nil {
		return S{}
	}
	return list
}

// A Test is what "policy test" reports.
type Test struct {
	Passed    bool             `json:"passed"` // all tests, and no guard denies
	Tests     *tester.Result   `json:"tests"`
	Guards    []build.Finding  `json:"guards"`
	Approvals []build.Approval `json:"approvals"`
	Warnings  model.Problems   `json:"warnings"`

	GuardTests []rego.Test `json:"guardTests,omitempty"` // of guards and generators

	Covered
}

// NewTest is the report about a built policy.
func NewTest(r *build.Result) Test {
	return Test{
		Passed: r.Tests.OK() && len(r.FailedGuardTests()) == 0 && len(r.Denied()) == 0,
		Tests:  r.Tests, GuardTests: r.GuardTests, Guards: full(r.Guards), Approvals: full(r.Approvals), Warnings: full(r.Policy.Warnings),
	}
}

// A Why is what "policy why" reports: about one pair of nodes, and how many of
// those asked for are allowed.
type Why struct {
	reach.Why
	Pairs        int    `json:"pairs"`
	AllowedPairs int    `json:"allowedPairs"`
	Except       string `json:"except,omitempty"` // one pair that is not allowed
}
