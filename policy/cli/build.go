package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/policy/build"
)

const buildHelp = `Prints what the policy in DIR compiles to: the hash of its sources, the root of the tree of leaves, and each leaf's hash and name. The same files give the same bytes on any machine, so that anyone can recompute what a manifest says.

With --out each leaf is written to a file below OUT, named by its name with %XX for what file names do not hold. OUT must not exist; it appears whole or not at all.

Exit codes: 0 built, 2 could not, as when the policy has problems.

Example:

    policy build --rev main --out leaves
`

type buildCmd struct {
	Dir string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Out string `placeholder:"OUT" help:"Write the leaves to this directory, which must not exist."`
}

func (buildCmd) Help() string { return buildHelp }

func (c buildCmd) Run(e *env) error {
	tree, err := readTree(c.Dir, c.Rev)
	if err != nil {
		return err
	}
	r, err := build.Check(e.ctx, build.Request{Tree: tree})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := writeLeaves(c.Out, r.Leaves); err != nil {
			return err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "source  %s\ntree    %s\nleaves  %d\n", r.Source, r.Hashed.Root(), r.Hashed.Size())
	for _, l := range r.Leaves {
		fmt.Fprintf(&b, "  %s  %s\n", l.Hash(), l.Name)
	}
	_, err = e.stdout.Write([]byte(b.String()))
	return err
}

// writeLeaves makes a directory of leaves, whole or not at all.
func writeLeaves(dir string, leaves []leaf.Leaf) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("write leaves: %s exists", dir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write leaves: %w", err)
	}
	staged, err := os.MkdirTemp(filepath.Dir(dir), ".leaves-*")
	if err != nil {
		return fmt.Errorf("write leaves: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write leaves: %w", err), os.RemoveAll(staged))
		}
	}()
	for _, l := range leaves {
		file := filepath.Join(staged, leafFile(l.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, l.Data, 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(staged, 0o755); err != nil {
		return err
	}
	return os.Rename(staged, dir)
}

// maxFileName is what common file systems hold, in bytes.
const maxFileName = 255

// leafFile is the file of a leaf: its kind is a directory, and what a file name
// does not hold is escaped. A name that becomes too long is its hash instead.
func leafFile(name string) string {
	kind, rest, ok := strings.Cut(name, "/")
	if !ok {
		return kind + ".json"
	}
	file := url.PathEscape(rest) + ".json"
	if len(file) > maxFileName {
		file = leaf.NameHash(name).String() + ".json"
	}
	return filepath.Join(kind, file)
}
