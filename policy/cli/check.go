package cli

import (
	"time"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
)

const checkHelp = `Loads the policy in DIR, checks every name, port, time and key in it, compiles its guards and its leaves, and says what is wrong with the place of each problem. Tests and guards are not run: see "policy test".

Exit codes: 0 the policy is sound (warnings are printed), 1 it has problems, 2 could not tell.

Example:

    policy check --rev main
`

type checkCmd struct {
	Dir     string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev     string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	NoCache bool   `name:"no-cache" help:"Evaluate the policy even where the answer about the same files is kept."`
	formats
}

func (checkCmd) Help() string { return checkHelp }

func (c checkCmd) Run(e *env) error {
	if _, err := c.formats.check(); err != nil {
		return err
	}
	var r *build.Result
	tree, err := readTree(c.Dir, c.Rev)
	head := origin(c.Dir, tree)
	kept, key := &cache{}, ""
	if err == nil && !c.NoCache {
		kept = openCache()
		key = kept.key("check", tree, nil)
		var report output.Check
		if kept.get(key, time.Now(), &report) {
			return c.report(e, &output.Report{Verb: "check", Check: &report, Head: head})
		}
	}
	if err == nil {
		r, err = build.Check(e.ctx, build.Request{Tree: tree})
	}
	problems := asProblems(err)
	if err != nil && problems == nil {
		return c.unknown(e, "check", head, err)
	}
	report := output.NewCheck(problems)
	if err == nil {
		report.Count(r)
		kept.put(key, r, report)
	}
	return c.report(e, &output.Report{Verb: "check", Check: &report, Head: head})
}
