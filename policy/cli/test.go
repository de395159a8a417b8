package cli

import (
	"fmt"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
)

const testHelp = `Runs the tests that the policy in DIR keeps beside its rules, and its guards. A policy without tests does not pass, nor does a test that asserts something about nodes of which there are none.

Guards judge the difference to the revision named by --base, and that revision's guards run too: a change cannot delete the guard that forbids it. Without --base all access counts as gained.

Exit codes: 0 all tests pass and no guard denies (warnings, and approvals that guards ask for, are printed), 1 a test fails or a guard denies, 2 could not tell, as when the policy does not load.

Example:

    policy test --base origin/main
`

type testCmd struct {
	Dir       string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev       string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Base      string `placeholder:"REV" help:"Judge the difference to this revision of the repository that DIR is in."`
	Inventory string `placeholder:"FILE" help:"Count the nodes of this inventory, too (\"sync inventory\" prints one)."`
	formats
}

func (testCmd) Help() string { return testHelp }

func (c testCmd) Run(e *env) error {
	inv, err := readInventory(c.Inventory)
	if err != nil {
		return err
	}
	if _, err := c.check(); err != nil {
		return err
	}
	req := build.Request{Inventory: inv}
	var base, head output.Origin
	if c.Base != "" {
		tree, err := readTree(c.Dir, c.Base)
		if err != nil {
			return err
		}
		base = origin(c.Dir, tree)
		if req.Base, err = build.Check(e.ctx, build.Request{Tree: tree}); err != nil {
			return c.unknown(e, "test", base, fmt.Errorf("base %s does not load: %w", tree.Label, err))
		}
	}
	if req.Tree, err = readTree(c.Dir, c.Rev); err != nil {
		return c.unknown(e, "test", origin(c.Dir, req.Tree), err)
	}
	head = origin(c.Dir, req.Tree)
	r, err := build.Build(e.ctx, req)
	if err != nil {
		return c.unknown(e, "test", head, err)
	}
	report := output.NewTest(r)
	out := &output.Report{Verb: "test", Test: &report, Base: base, Head: head}
	if req.Base != nil {
		out.Difference = r.Difference
		out.Maps = c.maps(reach.Side{Policy: req.Base.Compiled, Inventory: inv}, reach.Side{Policy: r.Compiled, Inventory: inv}, r.At)
	}
	return c.report(e, out)
}
