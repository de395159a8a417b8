// Command coordinator hands on what the network's keys have signed: the policy
// from sync to agents and relays, join requests and acknowledgements the other
// way. It decides nothing; whoever runs it can delay and withhold.
//
//	coordinator run         --state DIR --listen ADDR [--root FILE|DIR] [--metrics ADDR]
//	coordinator id          --state DIR
//	coordinator join-string --state DIR --addr HOST:PORT...
//	coordinator status      --state DIR [--json]
//
// # Files in the state directory
//
//	identity.key   its TLS key, made by the first run or id; mode 0600 (package
//	               key/keyfile is the format)
//	store.db       what was published; locked while a coordinator runs
//	admin.sock     where status asks; only root and its own user are answered
//
// # First start
//
// A coordinator serves one network, and is told which: by the root documents of
// the policy repository's trust folder (--root trust/). It trusts nobody on first
// use. Later starts need no --root, and take up newer documents from it.
//
// # Exit codes
//
//	0  nothing to report
//	1  something to report: status finds a node that does not enforce the newest
//	   revision, or a damaged row
//	2  could not tell: wrong usage, or an error
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

type program struct {
	Version kong.VersionFlag `help:"Print the version."`

	Run        runCmd        `cmd:"" help:"Serve a network."`
	ID         idCmd         `cmd:"" name:"id" help:"Print the pin of this coordinator's TLS key, for the policy and for join strings."`
	JoinString joinStringCmd `cmd:"" help:"Print what an administrator hands to nodes so that they can ask to join."`
	Status     statusCmd     `cmd:"" help:"Print the nodes and how far the newest revision has come."`
}

// errReport ends a verb that has something to report with exit code 1.
var errReport = errors.New("something to report")

// env is what the verbs share.
type env struct {
	ctx    context.Context
	stdout io.Writer
	log    *slog.Logger
}

// command runs one verb and returns the exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	exited := -1
	var p program
	k, err := kong.New(&p,
		kong.Name("coordinator"),
		kong.Description("Hand on what the network's keys have signed.\n\nExample: coordinator run --state /var/lib/writ-coordinator --listen :7443 --root trust/"),
		kong.Vars{"version": version},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
	)
	if err != nil {
		fmt.Fprintf(stderr, "coordinator: %v\n", err)
		return 2
	}
	if len(args) == 0 {
		if t, err := kong.Trace(k, nil); err == nil {
			k.Stdout = stderr
			if err := t.PrintUsage(false); err != nil {
				fmt.Fprintf(stderr, "coordinator: %v\n", err)
			}
		}
		return 2
	}
	c, err := k.Parse(args)
	switch {
	case exited >= 0: // help or version
		return exited
	case err != nil:
		fmt.Fprintf(stderr, "coordinator: %v\n", err)
		return 2
	}
	e := &env{ctx: ctx, stdout: stdout, log: slog.New(slog.NewTextHandler(stderr, nil))}
	switch err := c.Run(e); {
	case errors.Is(err, errReport):
		return 1
	case err != nil:
		fmt.Fprintf(stderr, "coordinator: %v\n", err)
		return 2
	}
	return 0
}
