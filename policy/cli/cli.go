// Package cli is the verbs of the policy command, one file each. What they find
// out comes from package build and those below it; how it looks is package
// output's. A verb's help is a constant that ends in an example.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/cli/output"
)

// The exit codes, for every verb.
const (
	nothing   = 0 // to report
	something = 1 // to report
	unknown   = 2 // wrong usage, or it could not be told
)

type program struct {
	Version kong.VersionFlag `help:"Print the version."`

	Init    initCmd    `cmd:"" help:"Make a policy repository that passes its own tests."`
	Check   checkCmd   `cmd:"" help:"Say what is wrong with a policy."`
	Test    testCmd    `cmd:"" help:"Run the policy's tests and guards."`
	Diff    diffCmd    `cmd:"" help:"Say who gains and who loses access."`
	Why     whyCmd     `cmd:"" help:"Say which rule allows something, or what is missing."`
	Who     whoCmd     `cmd:"" help:"Say who reaches something."`
	What    whatCmd    `cmd:"" help:"Say what somebody reaches."`
	Blame   blameCmd   `cmd:"" help:"Say which commit gave access."`
	Lint    lintCmd    `cmd:"" help:"Say what in a policy should be looked at."`
	Fmt     fmtCmd     `cmd:"" help:"Format CUE and Rego."`
	Build   buildCmd   `cmd:"" help:"Print what a policy compiles to."`
	Filters filtersCmd `cmd:"" help:"Print what each node of an inventory lets in."`
	Import  importCmd  `cmd:"" help:"Make a policy repository from another system's policy."`
	Verify  verifyCmd  `cmd:"" help:"Say what signed documents are, and who signed them."`
	Keys    keysCmd    `cmd:"" help:"Make keys, and print their public halves."`
	Root    rootCmd    `cmd:"" help:"Make a network's root document, and print it."`
}

const description = `Decide in Git who may reach what on the network.

A policy is CUE files, tests and guards. Exit codes, for every verb: 0 nothing to report, 1 something to report, 2 could not tell.

Example: policy init acme && cd acme && policy test`

// env is what the verbs share.
type env struct {
	ctx     context.Context
	stdout  io.Writer
	stderr  io.Writer
	version string
	text    *output.Text // on stdout
}

// report ends a verb with exit code 1, after it has written its report.
var errReport = errors.New("something to report")

// Run is the command, without the process around it.
func Run(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	var p program
	exited := -1
	k, err := kong.New(&p,
		kong.Name("policy"),
		kong.Description(description),
		kong.Vars{"version": version},
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: output.Width}),
		kong.Exit(func(code int) { exited = code; panic(errExit) }),
	)
	if err != nil {
		fmt.Fprintf(stderr, "policy: %v\n", err)
		return unknown
	}
	if len(args) == 0 {
		k.Stdout = stderr
		parse(k, []string{"--help"})
		return unknown
	}
	if err := checkVerb(k.Model.Node, args); err != nil {
		fmt.Fprintf(stderr, "policy: %v\n", err)
		return unknown
	}
	c, err := parse(k, args)
	switch {
	case exited >= 0: // help or version
		return exited
	case err != nil:
		fmt.Fprintf(stderr, "policy: %v\n", err)
		return unknown
	}
	e := &env{ctx: ctx, stdout: stdout, stderr: stderr, version: version, text: output.NewText(stdout)}
	switch err := c.Run(e); {
	case errors.Is(err, errReport):
		return something
	case err != nil:
		e.complain(err)
		return unknown
	}
	return nothing
}

// complain writes why it could not be told: a policy's problems with their
// places, anything else on one line.
func (e *env) complain(err error) {
	t := output.NewText(e.stderr)
	var ps model.Problems
	if !errors.As(err, &ps) {
		t.Line("policy: " + err.Error())
		return
	}
	if before, found := strings.CutSuffix(err.Error(), ": "+ps.Error()); found {
		t.Line("policy: " + before + ":")
	}
	t.Problems(ps)
}

// errExit unwinds kong when it wants to end the process.
var errExit = errors.New("exit")

func parse(k *kong.Kong, args []string) (c *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil && r != any(errExit) {
			panic(r)
		}
	}()
	return k.Parse(args)
}

// checkVerb says of an unknown verb which known one it is nearest to.
func checkVerb(n *kong.Node, args []string) error {
	if len(n.Children) == 0 || len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return nil
	}
	var names []string
	for _, c := range n.Children {
		if c.Name == args[0] {
			return checkVerb(c, args[1:])
		}
		names = append(names, c.Name)
	}
	what := "no verb"
	if n.Type == kong.CommandNode {
		what = n.Name + ": no verb"
	}
	if near := model.Nearest(args[0], names); near != "" {
		return fmt.Errorf("%s %q; did you mean %q?", what, args[0], near)
	}
	return fmt.Errorf("%s %q; there are %s", what, args[0], strings.Join(names, ", "))
}
