package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

const diffHelp = `Says who gains and who loses access between two policies, over every node that exists or might: on which ports, until when, and by which line of the policy. Then who is let in or put out, and what else changes about whom the network trusts: pins, enrolment, identity providers, sessions, revoked nodes, administrators, routes and exit nodes, relays, coordinators, teams, guards, and tests that say less. Each of BASE and HEAD is a directory, or else a revision of the Git repository in the current directory. BASE..HEAD is the same as BASE HEAD; BASE...HEAD compares HEAD with what it branched off from BASE.

Both are judged at the time of HEAD's commit, now for a directory, or --at TIME. With --inventory nodes are counted that are admitted; with --base-inventory, which says who was admitted before, a change tells whether the policy makes it or the inventory.

Exit codes: 0 nothing changes, 1 something does, 2 could not tell.

Example:

    policy diff main..bob-in-accounting --inventory nodes.json
`

type diffCmd struct {
	Base string `arg:"" help:"A directory or a revision; or BASE..HEAD."`
	Head string `arg:"" optional:"" help:"A directory or a revision."`
	At   string `placeholder:"TIME" help:"Judge at this time: 2026-11-22T10:00:00Z."`
	HTML string `name:"html" placeholder:"FILE" help:"Write a page with maps of the access before and after to FILE, too: --write html=FILE."`
	inventories
	formats
}

func (diffCmd) Help() string { return diffHelp }

func (c diffCmd) Run(e *env) error {
	was, is, err := c.inventories.read()
	if err != nil {
		return err
	}
	if c.HTML != "" {
		c.Write = append(c.Write, "html="+c.HTML)
	}
	if _, err := c.check(); err != nil {
		return err
	}
	at, err := parseAt(c.At)
	if err != nil {
		return err
	}
	trees, err := c.trees()
	if err != nil {
		return err
	}
	var built [2]*build.Result
	var origins [2]output.Origin
	for i, tree := range trees {
		origins[i] = origin(c.place(tree), tree)
		if built[i], err = build.Check(e.ctx, build.Request{Tree: tree, At: at}); err != nil {
			return c.unknown(e, "diff", origins[i], fmt.Errorf("%s does not load: %w", tree.Label, err))
		}
	}
	d := build.CompareSides(built[0], built[1], was, is)
	return c.report(e, &output.Report{Verb: "diff", Difference: d, Base: origins[0], Head: origins[1],
		Maps: c.maps(reach.Side{Policy: built[0].Compiled, Inventory: was}, reach.Side{Policy: built[1].Compiled, Inventory: is}, d.At)})
}

// place is the directory that a tree was read from: itself, or the current one
// where it is a revision's.
func (c diffCmd) place(tree source.Tree) string {
	if tree.Commit == nil {
		return tree.Label
	}
	return "."
}

// trees reads both sides.
func (c diffCmd) trees() (out [2]source.Tree, err error) {
	base, head, fork := c.Base, c.Head, false
	if head == "" {
		var ok bool
		if base, head, ok = strings.Cut(c.Base, "..."); ok {
			fork = true
		} else if base, head, ok = strings.Cut(c.Base, ".."); !ok || isDirectory(c.Base) {
			return out, errors.New("diff: want BASE and HEAD, or BASE..HEAD")
		}
		if base == "" || head == "" {
			return out, fmt.Errorf("diff %q: want a revision on both sides", c.Base)
		}
	}
	repo, err := source.Open(".")
	if err != nil {
		return out, err
	}
	if fork {
		if base, err = repo.MergeBase(base, head); err != nil {
			return out, err
		}
	}
	for i, name := range []string{base, head} {
		if out[i], err = side(repo, name); err != nil {
			return out, err
		}
	}
	return out, nil
}

// side reads one side. A name that is both a directory and a revision is
// refused rather than guessed at.
func side(repo *source.Repository, name string) (source.Tree, error) {
	if !isDirectory(name) {
		tree, err := repo.Tree(name)
		if errors.Is(err, source.ErrNoRepository) || errors.Is(err, source.ErrUnknownRevision) && strings.ContainsAny(name, "/.") {
			err = fmt.Errorf("%w, and there is no directory %s", err, name)
		}
		return tree, err
	}
	if repo.HasRevisions() {
		if _, err := repo.Resolve(name); err == nil {
			return source.Tree{}, fmt.Errorf("%q is both a directory and a revision; write ./%s or the full name of the reference", name, name)
		}
	}
	return source.Dir(name)
}

func isDirectory(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
