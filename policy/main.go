// Command policy is for the people who write an access policy, and for the CI
// that checks it: what is wrong with it, whether its tests hold, what a change
// gives and takes, and why somebody reaches something.
//
// Usage:
//
//	policy init [DIR]                   make a policy repository that passes its tests
//	policy check [DIR]                  say what is wrong with a policy
//	policy test [DIR]                   run the policy's tests and guards
//	policy diff BASE HEAD               say who gains and who loses access
//	policy why FROM TO PORT             say which rule allows, or what is missing
//	policy who TO [PORT]                say who reaches something
//	policy what FROM [PORT]             say what somebody reaches
//	policy blame TO PORT [FROM]         say which commit gave access
//	policy lint [DIR]                   say what should be looked at
//	policy fmt [DIR]                    format CUE and Rego
//	policy build [DIR]                  print what a policy compiles to
//	policy verify FILE...               say what signed documents are, and who signed
//	policy keys new KIND, keys show     make keys, and print their public halves
//	policy root init, root show         make a network's root document, and print it
//
// Each verb explains itself: policy VERB --help. A policy is read from a
// directory, or with --rev from a Git revision, without a checkout; why, who, what
// and blame take --at, a revision or a time. CUE and Rego
// are evaluated in a child process that has no network, no files and bounded
// memory and time.
//
// Text is written for 80 columns, in colour on a terminal unless NO_COLOR is set;
// check, test, diff and why take --json.
//
// Exit codes, for every verb:
//
//	0  nothing to report
//	1  something to report: problems, failed tests, a difference, a denial
//	2  could not tell: wrong usage, a policy that does not load, a limit reached
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli"
)

// version is set by the linker.
var version = "devel"

func main() {
	build.Child() // does not return in the child that evaluates
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what does not look at ctx
	code := cli.Run(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
