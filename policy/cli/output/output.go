// Package output is how the verbs of the policy command show what they found
// out, one file for each format: text for people, JSON for programs.
//
// Much of what is shown was written by whoever opens a pull request. Text
// therefore shows control and formatting characters as escapes, so that no name
// can move the cursor or turn the direction of a line.
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
