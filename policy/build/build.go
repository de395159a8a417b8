// Package build is the walk from a policy tree to what is signed, in one
// function. Start reading here.
//
//	1  policy/source     commit or directory → fs.FS (the caller's Tree)
//	2  cue/model         CUE → model, in a sandboxed child
//	3  policy/rego       computed rules; guards compiled, both in the child
//	4  policy/compile    model → leaves, their tree
//	5  policy/reach      leaves read back
//	   policy/tester     the tests beside the policy
//	   policy/rego       the tests of guards and generators, in the child
//	   policy/reach      the difference to the revision before
//	   policy/rego       guards of the revision before and of this one, in the child
//
// The leaves depend on the files alone: same files, same bytes, on any machine.
// The verdict (difference, counts, guards) depends on the tree, the base and the
// inventory. CI and sync call the same function: what was tested is what ships.
package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/sandbox"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/policy/tester"
)

// A Request says what to build.
type Request struct {
	Tree      source.Tree
	Base      *Result          // of the revision before; nil when there is none
	Inventory *reach.Inventory // nil when there is none
	At        time.Time        // zero: the commit's time, or now for a directory
	Limits    sandbox.Limits   // of the child; zero values are its defaults
}

// A Result is a tree built and judged.
type Result struct {
	Tree     source.Tree
	At       time.Time
	Source   key.Hash
	Policy   *model.Policy
	Leaves   []leaf.Leaf // sorted by name
	Hashed   *leaf.Tree
	Compiled *reach.Compiled

	Tests      *tester.Result
	Difference *reach.Difference // to the base; everything is gained where there is none
	Guards     []Finding         // of this tree's guards, then of the base's that are not the same
	Approvals  []Approval

	GuardTests    []rego.Test    // of guards and generators, by place; of none nil
	GuardCoverage *rego.Coverage // of guards and generators by their tests; nil without any

	guardFiles     map[string][]byte
	generatorFiles map[string][]byte
}

// A Finding is what a guard says.
type Finding struct {
	rego.Finding
	Deny bool `json:"deny"` // otherwise it warns
	Base bool `json:"base"` // a guard of the revision before
}

// An Approval is what a guard asks for.
type Approval struct {
	rego.Approval
	Base bool `json:"base"`
}

// Denied are the findings of guards that forbid the revision.
func (r *Result) Denied() (out []Finding) {
	for _, f := range r.Guards {
		if f.Deny {
			out = append(out, f)
		}
	}
	return out
}

// GuardCount is how many guards the tree has.
func (r *Result) GuardCount() int {
	n := 0
	for name := range r.guardFiles {
		if !strings.HasSuffix(name, "_test.rego") {
			n++
		}
	}
	return n
}

// Child serves a build's child process and does not return there. It comes first
// in the main function of every program, and the TestMain of every test, that
// builds.
func Child() {
	sandbox.Main(map[string]sandbox.Handler{loadHandler: load, rego.HandlerName: rego.Handler, formatHandler: format})
}

// Build walks the whole way. The error is model.Problems, or a source.Refusal,
// where the tree is at fault; failed tests, denials and approvals are in the
// Result.
func Build(ctx context.Context, req Request) (*Result, error) {
	child, err := sandbox.Start(ctx, req.Limits)
	if err != nil {
		return nil, err
	}
	defer child.Close()
	r, err := read(ctx, child, req)
	if err != nil {
		return nil, err
	}
	r.Tests = tester.Run(r.Policy, r.Compiled, req.Inventory, r.At)
	if err := r.testRego(ctx, child); err != nil {
		return nil, err
	}
	r.Difference = Compare(req.Base, r, req.Inventory)
	if err := r.guard(ctx, child, req.Base); err != nil {
		return nil, err
	}
	return r, nil
}

// Check walks the way as far as the leaves: it says what is wrong with a tree,
// and asks neither tests nor guards.
func Check(ctx context.Context, req Request) (*Result, error) {
	child, err := sandbox.Start(ctx, req.Limits)
	if err != nil {
		return nil, err
	}
	defer child.Close()
	return read(ctx, child, req)
}

// read is the steps 2 to 4, and the leaves read back.
func read(ctx context.Context, child *sandbox.Child, req Request) (*Result, error) {
	r := &Result{Tree: req.Tree, At: req.At}
	if r.At.IsZero() {
		r.At = time.Now()
		if req.Tree.Commit != nil {
			r.At = req.Tree.Commit.When
		}
	}
	r.At = r.At.UTC().Truncate(time.Second)
	var err error
	if r.Source, err = source.SourceHash(req.Tree.FS); err != nil {
		return nil, err
	}
	var problems model.Problems
	r.Policy, err = callLoad(ctx, child, req.Tree)
	if err != nil && !errors.As(err, &problems) {
		return nil, err
	}
	if r.guardFiles, err = rego.Files(req.Tree.FS); err == nil {
		err = rego.Check(ctx, child, r.guardFiles)
	}
	loaded := len(problems) == 0
	var more model.Problems
	if errors.As(err, &more) {
		problems, err = append(problems, more...), nil
	}
	if err == nil && loaded {
		if err = r.generate(ctx, child); errors.As(err, &more) {
			problems, err = append(problems, more...), nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := problems.Err(); err != nil {
		return nil, err // all kinds in one list, sorted by place
	}
	if r.Leaves, err = compile.Leaves(r.Policy); err != nil {
		return nil, err
	}
	if r.Hashed, err = leaf.TreeOf(r.Leaves); err != nil {
		return nil, err
	}
	r.Compiled, err = reach.Read(r.Leaves)
	return r, err
}

// Compare says what access changes from one revision to another, who is let in
// and put out, and where in the two policies the change comes from. A nil base
// allows nothing and admits nobody. It is judged
// at the head's time.
func Compare(base, head *Result, inv *reach.Inventory) *reach.Difference {
	var from *reach.Compiled
	var fromPolicy *model.Policy
	if base != nil {
		from, fromPolicy = base.Compiled, base.Policy
	}
	d := reach.Diff(reach.Side{Policy: from, Inventory: inv}, reach.Side{Policy: head.Compiled, Inventory: inv}, head.At)
	for i := range d.Gained {
		c := &d.Gained[i]
		c.Causes = reach.Causes(*c, fromPolicy, head.Policy, head.At, from, head.Compiled, true)
	}
	for i := range d.Lost {
		c := &d.Lost[i]
		c.Causes = reach.Causes(*c, fromPolicy, head.Policy, head.At, from, head.Compiled, false)
	}
	admission(d, base, head, inv)
	return d
}

// guard runs this tree's guards, and those of the revision before where they are
// not the same: a change cannot remove the guard that forbids it. Guards may
// refer to each other, so that the old ones run as the whole that they were; what
// both say is said once.
func (r *Result) guard(ctx context.Context, child *sandbox.Child, base *Result) error {
	input := rego.Input{Network: r.Policy, Diff: r.guardDifference(base)}
	if c := r.Tree.Commit; c != nil {
		input.Commit = rego.Commit{
			Hash: c.Hash, Author: c.Author, Email: c.Email, Message: c.Message, Parents: slices.Clone(c.Parents), When: c.When,
		}
	}
	if err := r.judge(ctx, child, r.guardFiles, input, false); err != nil {
		return err
	}
	if base == nil || keeps(base.guardFiles, r.guardFiles) {
		return nil
	}
	if err := r.judge(ctx, child, base.guardFiles, input, true); err != nil {
		return fmt.Errorf("guards of the revision before: %w", err)
	}
	return nil
}

// judge takes up what one set of guards says.
func (r *Result) judge(ctx context.Context, child *sandbox.Child, files map[string][]byte, input rego.Input, base bool) error {
	if len(files) == 0 {
		return nil
	}
	res, err := rego.Judge(ctx, child, files, input)
	if err != nil {
		return err
	}
	for _, found := range []struct {
		findings []rego.Finding
		deny     bool
	}{{res.Deny, true}, {res.Warn, false}} {
		for _, f := range found.findings {
			said := slices.ContainsFunc(r.Guards, func(x Finding) bool {
				return x.Deny == found.deny && x.Guard == f.Guard && x.Message == f.Message && x.Place == f.Place
			})
			if !said {
				r.Guards = append(r.Guards, Finding{f, found.deny, base})
			}
		}
	}
	for _, a := range res.Approvals {
		said := slices.ContainsFunc(r.Approvals, func(x Approval) bool {
			return x.Guard == a.Guard && x.Team == a.Team && x.Reason == a.Reason && x.Place == a.Place
		})
		if !said {
			r.Approvals = append(r.Approvals, Approval{a, base})
		}
	}
	return nil
}

// keeps reports whether all guards of a set stand unchanged in another. Tests of
// guards do not judge.
func keeps(files, in map[string][]byte) bool {
	for name, b := range files {
		if o, ok := in[name]; (!ok || string(o) != string(b)) && !strings.HasSuffix(name, "_test.rego") {
			return false
		}
	}
	return true
}

// guardDifference is the difference as guards see it: one entry for each source
// and destination.
func (r *Result) guardDifference(base *Result) (out rego.Difference) {
	d, was := r.Difference, &model.Policy{}
	if base != nil {
		was = base.Policy
	}
	for _, a := range d.Admission {
		out.Admission = append(out.Admission, rego.Admission{
			Kind: a.Kind, Name: a.Name, Change: a.Change, Effect: a.Effect, Text: a.Text, Nodes: a.Nodes,
			Place: admissionPlace(a, was, r.Policy, d.At),
		})
	}
	side := func(changes []reach.Change) ([]rego.Change, rego.Extent) {
		list := []rego.Change{}
		people, nodes := map[string]bool{}, map[string]bool{}
		for _, c := range changes {
			until := ""
			if !c.Until.IsZero() {
				until = c.Until.UTC().Format(time.RFC3339)
			}
			for _, from := range c.From {
				for _, to := range c.To {
					list = append(list, rego.Change{
						From: from, To: to, Ports: c.Ports, Until: until, Kept: c.Kept,
						When: c.When, Posture: c.Posture, Capabilities: c.Capabilities,
						By: c.By, Rules: c.Rules, People: c.People, Nodes: c.Nodes,
					})
				}
			}
			for _, p := range c.People {
				people[p] = true
			}
			for _, n := range c.Nodes {
				nodes[n] = true
			}
		}
		return list, rego.Extent{Changes: len(list), People: len(people), Nodes: len(nodes)}
	}
	out.Gained, out.Counts.Gained = side(d.Gained)
	out.Lost, out.Counts.Lost = side(d.Lost)
	return out
}

// AtFault tells a tree that is at fault, which trying again does not mend, from
// a build that could not be done. Text has every problem with its place.
func AtFault(err error) (text string, is bool) {
	var problems model.Problems
	var refusal *source.Refusal
	var failure *sandbox.Failure
	switch {
	case errors.As(err, &problems):
		return problems.Error(), true
	case errors.As(err, &refusal):
		return refusal.Error(), true
	case errors.As(err, &failure):
		return failure.Error(), true
	}
	return "", false
}
