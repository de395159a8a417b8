package cli

import (
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
)

const checkHelp = `Loads the policy in DIR, checks every name, port, time and key in it, compiles its guards and its leaves, and says what is wrong with the place of each problem. Tests and guards are not run: see "policy test".

Exit codes: 0 the policy is sound (warnings are printed), 1 it has problems, 2 could not tell.

Example:

    policy check --rev main
`

type checkCmd struct {
	Dir  string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev  string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	JSON bool   `name:"json" help:"Write JSON."`
}

func (checkCmd) Help() string { return checkHelp }

func (c checkCmd) Run(e *env) error {
	var r *build.Result
	tree, err := readTree(c.Dir, c.Rev)
	if err == nil {
		r, err = build.Check(e.ctx, build.Request{Tree: tree})
	}
	problems := asProblems(err)
	if err != nil && problems == nil {
		return err
	}
	report := output.NewCheck(problems)
	if err == nil {
		report.Count(r)
	}
	if c.JSON {
		err = output.JSON(e.stdout, report)
	} else {
		err = e.text.Check(report)
	}
	if err == nil && len(report.Problems) > 0 {
		err = errReport
	}
	return err
}
