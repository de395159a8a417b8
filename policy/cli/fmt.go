package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source"
)

const fmtHelp = `Writes the CUE and Rego files in DIR as everybody writes them, and prints the names of those that it changes. Comments and what a file means stay. A file that does not parse is named and left alone, and so are all others: either the whole policy is formatted or nothing is.

With --check nothing is written.

Exit codes: 0 nothing to change, 1 files were changed, or with --check would be, 2 could not tell, as when a file does not parse.

Example:

    policy fmt --check
`

type fmtCmd struct {
	Dir   string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Check bool   `help:"Print the names of files that are not formatted, and write nothing."`
}

func (fmtCmd) Help() string { return fmtHelp }

func (c fmtCmd) Run(e *env) error {
	tree, err := source.Dir(c.Dir)
	if err != nil {
		return err
	}
	changed, err := reformat(e, tree.FS)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range changed {
		if !c.Check {
			if err := replace(filepath.Join(c.Dir, filepath.FromSlash(f.name)), f.old, f.text); err != nil {
				return err
			}
		}
		names = append(names, f.name)
	}
	if err := e.text.Formatted(names); err != nil {
		return err
	}
	if len(names) > 0 {
		return errReport
	}
	return nil
}

// A reformatted file is one that is not as everybody writes it.
type reformatted struct {
	name      string
	old, text []byte
}

// reformat formats all files of a tree that are CUE or Rego. The problems of all
// of them are told together.
func reformat(e *env, tree fs.FS) (out []reformatted, err error) {
	f, err := build.NewFormatter(e.ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var problems model.Problems
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != "." && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if ext := path.Ext(name); d.IsDir() || ext != ".cue" && ext != ".rego" {
			return nil
		}
		old, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		text, err := f.Format(e.ctx, name, old)
		var ps model.Problems
		switch {
		case errors.As(err, &ps):
			problems = append(problems, ps...)
		case err != nil:
			return err
		case !bytes.Equal(old, text):
			out = append(out, reformatted{name, old, text})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, problems.Err()
}

// replace puts a text in the place of a file's, whole or not at all, unless
// somebody changed the file meanwhile.
func replace(name string, old, text []byte) (err error) {
	info, err := os.Lstat(name)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("format %s: not a regular file", name)
	}
	if now, err := readFile(name, int64(len(old))); err != nil || !bytes.Equal(now, old) {
		return fmt.Errorf("format %s: it changed meanwhile", name)
	}
	staged, err := os.CreateTemp(filepath.Dir(name), ".fmt-*")
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("format %s: %w", name, err), os.Remove(staged.Name()))
		}
	}()
	_, err = staged.Write(text)
	err = errors.Join(err, staged.Chmod(info.Mode().Perm()), staged.Sync(), staged.Close())
	if err != nil {
		return err
	}
	return os.Rename(staged.Name(), name)
}
