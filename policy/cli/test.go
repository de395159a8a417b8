package cli

import (
	"fmt"
	"time"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
)

const testHelp = `Runs the tests that the policy in DIR keeps beside its rules, and its guards. A policy without tests does not pass, nor does a test that asserts something about nodes of which there are none.

Guards judge the difference to the revision named by --base, and that revision's guards run too: a change cannot delete the guard that forbids it. Without --base all access counts as gained.

Tests of guards and generators, which are rules named test_... in files named ..._test.rego beside them, run as well.

With --coverage it is said which rules the tests bear witness to: those that give some of what an allow asserts, or reach what a deny or an only is about; and which lines of guards and generators no test of theirs reaches. --coverage-threshold fails when fewer percent of the rules are.

Hours and ends are judged at the time of the commit, now for files, or --at TIME, but for tests that name their own.

Exit codes: 0 all tests pass and no guard denies (warnings, and approvals that guards ask for, are printed), 1 a test fails, also one of guards, a guard denies, or too little is covered, 2 could not tell, as when the policy does not load.

Example:

    policy test --base origin/main
`

type testCmd struct {
	Dir       string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev       string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Base      string `placeholder:"REV" help:"Judge the difference to this revision of the repository that DIR is in."`
	At        string `placeholder:"TIME" help:"Judge at this time: 2026-11-22T10:00:00Z."`
	Coverage  bool   `help:"Say which rules the tests bear witness to, and which lines of guards tests reach."`
	Threshold int    `name:"coverage-threshold" placeholder:"PERCENT" help:"Fail when the tests bear witness to fewer percent of the rules; with --coverage."`
	inventories
	NoCache bool `name:"no-cache" help:"Evaluate the policy even where the answer about the same files is kept. With --base, --at or --base-inventory it always is."`
	formats
}

func (testCmd) Help() string { return testHelp }

func (c testCmd) Run(e *env) error {
	if _, err := c.check(); err != nil {
		return err
	}
	if c.Threshold < 0 || c.Threshold > 100 {
		return fmt.Errorf("--coverage-threshold %d: want a percentage", c.Threshold)
	}
	req := build.Request{Coverage: c.Coverage || c.Threshold > 0}
	var err error
	if req.At, err = parseAt(c.At); err != nil {
		return err
	}
	nodes, err := readInventoryFile(c.Inventory)
	if err != nil {
		return err
	}
	req.Tree, err = readTree(c.Dir, c.Rev)
	head := origin(c.Dir, req.Tree)
	if err != nil {
		return c.unknown(e, "test", head, err)
	}
	kept, key := &cache{}, ""
	if !c.NoCache && c.Base == "" && c.At == "" && c.BaseInventory == "" {
		kept = openCache()
		key = kept.key(fmt.Sprintf("test coverage %t %d", req.Coverage, c.Threshold), req.Tree, nodes)
		var report output.Test
		if kept.get(key, time.Now(), &report) {
			return c.report(e, &output.Report{Verb: "test", Test: &report, Head: head})
		}
	}
	if req.BaseInventory, req.Inventory, err = c.inventories.parse(nodes); err != nil {
		return err
	}
	var base output.Origin
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
	r, err := build.Build(e.ctx, req)
	if err != nil {
		return c.unknown(e, "test", head, err)
	}
	report := output.NewTest(r)
	report.Cover(r, c.Threshold)
	kept.put(key, r, report)
	out := &output.Report{Verb: "test", Test: &report, Base: base, Head: head}
	if req.Base != nil {
		out.Difference = r.Difference
		out.Maps = c.maps(reach.Side{Policy: req.Base.Compiled, Inventory: req.BaseInventory}, reach.Side{Policy: r.Compiled, Inventory: req.Inventory}, r.At)
	}
	return c.report(e, out)
}
