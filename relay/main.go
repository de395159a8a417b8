// Relay forwards sealed packets between the nodes of a Writ network that cannot
// reach each other directly.
//
// Usage:
//
//	relay [serve] --state DIR --join STRING [--listen ADDR] [--stun ADDR]... [--metrics ADDR]
//	relay id --state DIR
//	relay --version
//
// Serve, the default, admits the nodes of one network by their papers and
// forwards packets between them (package frame is the protocol). It reads
// nothing of them but where they go. It follows the coordinators of its network
// and keeps what it has verified, so that it admits nodes after a restart without
// them; until it first holds a revision it refuses everybody.
//
// It also answers STUN (package stun), which is how nodes learn the addresses
// that their NATs give them. These answers are for anybody and are limited by
// source; a relay on two UDP ports lets nodes tell apart NATs that look alike
// on one.
//
// Id prints the relay's public key, "idpub:…", which the policy names beside the
// relay's address; nodes speak to no relay with another. The key is made on
// first use.
//
// Flags:
//
//	--state DIR     where the relay keeps its key and what it has verified
//	--join STRING   the network's join string, as agents are given it, or the name of
//	                a file with it
//	--listen ADDR   where nodes connect, TCP (":443")
//	--stun ADDR     where to answer STUN, UDP: IP:PORT, or :PORT on every address
//	                of both families (":3478"); may be repeated; "none": nowhere
//	--metrics ADDR  serve Prometheus metrics at http://ADDR/metrics ("": nowhere)
//
// Files:
//
//	DIR/relay.key      the identity key; mode 0600, never sent
//	DIR/lock           held by the relay that serves from DIR; a second one ends
//	DIR/netmap.state   what the relay has verified, and beside it .prev, the
//	                   copy before it, which is used where the first is damaged
//
// SIGTERM and SIGINT drain: nodes are asked to connect elsewhere or again, and
// the relay ends when they have left, at most eleven seconds later.
//
// Exit codes: 0 after a drain, or when what was asked for was printed; 2 when that could not
// be done, and for usage.
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// flags is the command line.
type flags struct {
	Version kong.VersionFlag `help:"Print the version."`

	Serve Config `cmd:"" default:"withargs" help:"Admit nodes, forward their packets and answer STUN (the default)."`
	ID    struct {
		State string `required:"" placeholder:"DIR" help:"Directory of the relay's state."`
	} `cmd:"" name:"id" help:"Print the relay's public key, as the policy names it."`
}

// errUsage ends parsing after help was printed.
var errUsage = errors.New("usage")

// command is the program, without the process around it.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var f flags
	out := stdout
	if len(args) == 0 {
		args, out = []string{"--help"}, stderr
	}
	asked := false
	parser, err := kong.New(&f, kong.Name("relay"), kong.Vars{"version": version}, kong.Writers(out, stderr), kong.Exit(func(int) { asked = true; panic(errUsage) }),
		kong.Description("Forwards sealed packets between the nodes of a Writ network that cannot reach each other directly."),
		kong.UsageOnError())
	if err != nil {
		fmt.Fprintln(stderr, "relay:", err)
		return 2
	}
	parsed, err := parse(parser, args)
	if asked {
		if out == stderr {
			return 2
		}
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "relay:", err)
		return 2
	}
	if parsed.Command() == "id" {
		id, err := loadIdentity(f.ID.State)
		if err != nil {
			fmt.Fprintln(stderr, "relay:", err)
			return 2
		}
		fmt.Fprintln(stdout, id.Public())
		return 0
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	adm, release, err := admitterFor(f.Serve, log)
	if err != nil {
		fmt.Fprintln(stderr, "relay:", err)
		return 2
	}
	defer release()
	if err := run(ctx, f.Serve, adm, log); err != nil {
		log.Error("relay ends", "err", err)
		return 2
	}
	return 0
}

// parse turns kong's way to end after help into a return.
func parse(p *kong.Kong, args []string) (c *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil && r != any(errUsage) {
			panic(r)
		}
	}()
	return p.Parse(args)
}
