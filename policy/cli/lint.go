package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/lint"
)

const lintHelp = `Says what in a policy that is sound should be looked at: rules that give nothing, or nothing that others do not give; groups, tags, hosts, services and postures that nothing names; rules for everybody; what has ended. With --broad N, also rules for more than N people; with --soon 30d, also what ends within thirty days.

A finding is ignored by a comment on the line above its place, which says why:

    // lint:ignore broad the status page is for everybody

Exit codes: 0 nothing to look at, 1 something is, 2 could not tell, as when the policy does not load.

Example:

    policy lint --soon 30d --broad 500
`

type lintCmd struct {
	Dir       string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev       string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Broad     int    `placeholder:"N" help:"Find rules for more than N people."`
	Soon      string `placeholder:"DURATION" help:"Find what ends within this time: 30d, 12h."`
	Inventory string `placeholder:"FILE" help:"Count the nodes of this inventory, too (\"sync inventory\" prints one)."`
	formats
}

func (lintCmd) Help() string { return lintHelp }

func (c lintCmd) Run(e *env) error {
	if _, err := c.formats.check(); err != nil {
		return err
	}
	soon, err := days(c.Soon)
	if err != nil {
		return fmt.Errorf("lint: --soon: %w", err)
	}
	if c.Broad < 0 {
		return fmt.Errorf("lint: --broad %d: want a number of people", c.Broad)
	}
	inv, err := readInventory(c.Inventory)
	if err != nil {
		return err
	}
	tree, err := readTree(c.Dir, c.Rev)
	head := origin(c.Dir, tree)
	var r *build.Result
	if err == nil {
		r, err = build.Check(e.ctx, build.Request{Tree: tree, Inventory: inv})
	}
	if err != nil {
		return c.unknown(e, "lint", head, err)
	}
	report := output.Lint{Findings: []output.LintFinding{}}
	for _, f := range lint.Run(lint.Question{
		Policy: r.Policy, Compiled: r.Compiled, Inventory: inv, Tree: tree.FS, At: r.At, Broad: c.Broad, Soon: soon,
	}) {
		report.Findings = append(report.Findings, output.LintFinding{ID: f.ID, Level: string(f.Level), Place: f.Place, Also: f.Also, Text: f.Text, Hint: f.Hint})
	}
	return c.report(e, &output.Report{Verb: "lint", Lint: &report, Head: head})
}

// days reads a duration as Go does, or in days: 30d.
func days(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := strconv.Atoi(n)
		if err != nil || d < 1 || d > 36500 {
			return 0, fmt.Errorf("%q: want days, as 30d, or hours, as 12h", s)
		}
		return time.Duration(d) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q: want days, as 30d, or hours, as 12h", s)
	}
	return d, nil
}
