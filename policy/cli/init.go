package cli

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

const initHelp = `Makes a policy repository in DIR: a network with three groups, a server tag and two rules, with tests and guards that it passes, and a workflow that runs them on every pull request. DIR may be missing, or hold nothing but .git.

Exit codes: 0 made, 2 could not, as when DIR is not empty.

Example:

    policy init --domain acme.example acme
`

type initCmd struct {
	Dir    string `arg:"" optional:"" default:"." help:"Directory to make the repository in (the current one)."`
	Domain string `default:"acme.example" placeholder:"DOMAIN" help:"Domain of the users' e-mail addresses (acme.example)."`
}

func (initCmd) Help() string { return initHelp }

// scaffold is written for acme.example; each file is valid as it stands.
//
//go:embed all:scaffold
var scaffold embed.FS

const exampleDomain, exampleName = "acme.example", "acme"

func (c initCmd) Run(e *env) error {
	if err := acl.CheckUser("user@" + c.Domain); err != nil {
		return fmt.Errorf("init: domain %q: %w", c.Domain, err)
	}
	name, _, _ := strings.Cut(c.Domain, ".")
	// One pass: a domain that holds the example's name is not replaced again.
	fill := strings.NewReplacer(exampleDomain, c.Domain, exampleName, name)
	if err := empty(c.Dir); err != nil {
		return fmt.Errorf("init %s: %w", c.Dir, err)
	}
	if err := writeScaffold(c.Dir, fill); err != nil {
		return fmt.Errorf("init %s: %w", c.Dir, err)
	}
	t := e.text
	t.Plain(fmt.Sprintf("%s holds a policy of the network %s that passes its tests.", c.Dir, name))
	t.Plain("Next:")
	if filepath.Clean(c.Dir) != "." {
		t.Plain("  cd " + c.Dir)
	}
	t.Plain("  policy test           run its tests and guards")
	t.Plain("  $EDITOR groups.cue    put in your people and servers")
	t.Plain("  less trust/README.md  make the keys of the network")
	return nil
}

// empty reports, as an error, what lies in a directory that is not empty.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != ".git" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil
	}
	const most = 3
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Errorf("not empty: there is %s%s", strings.Join(names, ", "), more)
}

// writeScaffold writes every file, or removes what it wrote.
func writeScaffold(dir string, fill *strings.Replacer) (err error) {
	var made []string // in the order made
	defer func() {
		if err == nil {
			return
		}
		for i := len(made) - 1; i >= 0; i-- {
			err = errors.Join(err, os.Remove(made[i]))
		}
	}()
	makeDir := func(path string) error {
		err := os.Mkdir(path, 0o755)
		if err == nil {
			made = append(made, path)
		} else if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o755); err != nil {
		return err
	}
	root, err := fs.Sub(scaffold, "scaffold")
	if err != nil {
		return err
	}
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if d.IsDir() {
			return makeDir(path)
		}
		b, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		made = append(made, path)
		_, err = f.WriteString(fill.Replace(string(b)))
		return errors.Join(err, f.Close())
	})
}
