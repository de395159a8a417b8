// Package build is the walk from a policy tree to what is signed, in one
// function. Start reading here.
//
//	1  policy/source     commit or directory → fs.FS (the caller's Tree)
//	2  cue/model         CUE → model, in a sandboxed child
//	3  policy/rego       computed rules; guards compiled, both in the child
//	4  policy/compile    model → leaves, their tree
//	   policy/reach      leaves read back
//	   …/validate        what was read back means what the model does
//	5  policy/tester     the tests beside the policy
//	   policy/rego       the tests of guards and generators, in the child
//	   policy/reach      the difference to the revision before
//	   policy/rego       guards of the revision before and of this one, in the child
//
// The leaves depend on the files alone: same files, same bytes, on any machine.
// The verdict (difference, counts, guards) depends on the tree, the base and the
// inventory. CI and sync call the same function: what was tested is what ships.
package build

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/compile/validate"
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

	// BaseInventory is what was admitted at the base, where that is not the same:
	// the difference then tells what the policy changes from what the inventory
	// does. Nil is Inventory.
	BaseInventory *reach.Inventory

	Coverage bool           // say what the tests bear witness to
	At       time.Time      // zero: the commit's time, or now for a directory
	Limits   sandbox.Limits // of the child; zero values are its defaults
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
	Gone bool `json:"gone"` // its place is in the revision before
}

// An Approval is what a guard asks for.
type Approval struct {
	rego.Approval
	Base bool `json:"base"`
	Gone bool `json:"gone"`
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
	return countGuards(r.guardFiles)
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
	run := tester.Run
	if req.Coverage {
		run = tester.Cover
	}
	r.Tests = run(r.Policy, r.Compiled, req.Inventory, r.At)
	if err := r.testRego(ctx, child); err != nil {
		return nil, err
	}
	r.Difference = CompareSides(req.Base, r, cmp.Or(req.BaseInventory, req.Inventory), req.Inventory)
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

// read is the steps 2 to 4.
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
	problems = append(problems, r.onlyTests()...)
	if err := problems.Err(); err != nil {
		return nil, err // all kinds in one list, sorted by place
	}
	if r.Leaves, err = compile.Leaves(r.Policy); err != nil {
		return nil, err
	}
	if r.Hashed, err = leaf.TreeOf(r.Leaves); err != nil {
		return nil, err
	}
	if r.Compiled, err = reach.Read(r.Leaves); err != nil {
		return nil, err
	}
	if err := validate.Leaves(r.Policy, r.Leaves, r.Compiled); err != nil {
		return nil, err // the compiler's mistake, and nobody else's
	}
	return r, nil
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
