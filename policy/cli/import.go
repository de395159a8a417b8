package cli

import (
	"fmt"
	"path/filepath"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/migrate"
)

const importTailscaleHelp = `Makes a policy repository that means the same as a policy file of Tailscale or headscale (HuJSON).

What cannot be carried over, such as rules about SSH or settings of clients, is refused, each with its place and what to do about it. With --partial it is left out instead, and a comment says so; what is left out never widens access.

Exit codes: 0 made, 1 made without what could not be carried over, 2 could not: the file is invalid, something in it cannot be carried over, or DIR is not empty.

Example:

    policy import tailscale --out acme policy.hujson
`

const importNetbirdHelp = `Makes a policy repository that means the same as what the management API of NetBird answers: one JSON object with "groups", "policies" and, as far as there are any, "routes", "networks", "users" and "posture_checks".

Groups of peers become tags, which servers and machines bear here. What cannot be carried over is refused, each with its place; with --partial it is left out, and a comment says so.

Exit codes: 0 made, 1 made without what could not be carried over, 2 could not.

Example:

    policy import netbird --out acme netbird.json
`

type importCmd struct {
	Tailscale importTailscaleCmd `cmd:"" help:"From a policy file of Tailscale or headscale."`
	Netbird   importNetbirdCmd   `cmd:"" help:"From what NetBird's management API answers."`
}

// importFlags are what all imports share.
type importFlags struct {
	File    string `arg:"" help:"The file."`
	Out     string `short:"o" required:"" placeholder:"DIR" help:"Directory to make the repository in: missing, or empty but for .git."`
	Name    string `default:"imported" placeholder:"NET" help:"Name of the network (imported)."`
	Domain  string `placeholder:"DOMAIN" help:"Domain of the nodes' names (NET.mesh)."`
	Users   string `placeholder:"DOMAIN" help:"Domain of users that are written without one, as alice@."`
	Partial bool   `help:"Leave out what cannot be carried over."`
}

type importTailscaleCmd struct{ importFlags }

func (importTailscaleCmd) Help() string { return importTailscaleHelp }

func (c importTailscaleCmd) Run(e *env) error { return c.run(e, migrate.Tailscale) }

type importNetbirdCmd struct{ importFlags }

func (importNetbirdCmd) Help() string { return importNetbirdHelp }

func (c importNetbirdCmd) Run(e *env) error { return c.run(e, migrate.NetBird) }

func (c importFlags) run(e *env, from func([]byte, migrate.Options) (*migrate.Result, error)) error {
	src, err := readFile(c.File, migrate.MaxSize)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	r, err := from(src, migrate.Options{File: c.File, Name: c.Name, Domain: c.Domain, Users: c.Users, Partial: c.Partial})
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	if err := r.Write(c.Out); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	t := e.text
	if len(r.NotCarried) > 0 {
		t.Plain("Not carried over:")
		t.Problems(model.Problems(r.NotCarried))
		t.Plain("")
	}
	switch n := len(r.NotCarried); {
	case n == 0:
		t.Plain(fmt.Sprintf("%s holds a policy that means the same as %s.", c.Out, c.File))
	case n == 1:
		t.Plain(fmt.Sprintf("%s holds what could be carried over of %s: one thing is not, and access is no wider for it.", c.Out, c.File))
	default:
		t.Plain(fmt.Sprintf("%s holds what could be carried over of %s: %d things are not, and access is no wider for it.", c.Out, c.File, n))
	}
	t.Plain("Next:")
	if filepath.Clean(c.Out) != "." {
		t.Plain("  cd " + c.Out)
	}
	t.Plain("  policy check          say what is still wrong")
	t.Plain("  policy test           run its tests")
	if len(r.NotCarried) > 0 {
		return errReport
	}
	return nil
}
