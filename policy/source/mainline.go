package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// ErrTooEarly says that no commit is as old as an instant.
var ErrTooEarly = errors.New("no commit is as old")

// Mainline walks from a revision to its first parent, and so on: what stood on a
// branch, merge by merge, the newest first. It ends with the first commit, or with
// an error.
func (r *Repository) Mainline(rev string) iter.Seq2[Commit, error] {
	return func(yield func(Commit, error) bool) {
		id, err := r.Resolve(rev)
		if err != nil {
			yield(Commit{}, err)
			return
		}
		for n := 0; ; n++ {
			if n == MaxHistory {
				yield(Commit{}, fmt.Errorf("walk history: more than %d commits", MaxHistory))
				return
			}
			c, err := r.Commit(id)
			if !yield(c, err) || err != nil || len(c.Parents) == 0 {
				return
			}
			id = c.Parents[0]
		}
	}
}

// AsOf returns the newest commit on the mainline of a revision that was made at an
// instant or before it.
func (r *Repository) AsOf(rev string, at time.Time) (Commit, error) {
	var oldest Commit
	for c, err := range r.Mainline(rev) {
		if err != nil {
			return Commit{}, err
		}
		if !c.When.After(at) {
			return c, nil
		}
		oldest = c
	}
	return Commit{}, fmt.Errorf("%w as %s: the first, %s, is of %s", ErrTooEarly,
		at.UTC().Format(time.RFC3339), oldest.Short(), oldest.When.UTC().Format(time.RFC3339))
}

// PolicyHash returns a hash of what in a commit's tree a policy is made of: the
// names and objects of its CUE, Rego, JSON and YAML, and of what is no regular
// file. Commits with the same hash have the same policy. No file is read.
func (r *Repository) PolicyHash(c Commit) (key.Hash, error) {
	top, err := r.subtree(c)
	if err != nil {
		return key.Hash{}, err
	}
	h := sha256.New()
	n := 0
	var walk func(dir, id string, depth int) error
	walk = func(dir, id string, depth int) error {
		if depth > MaxDepth {
			return refuse(dir, "more than %d names in a path", MaxDepth)
		}
		es, err := r.entries(dir, id)
		if err != nil {
			return err
		}
		for _, e := range es {
			if n++; n > maxHashed {
				return refuse(dir, "more than %d files and directories", maxHashed)
			}
			full := path.Join(dir, e.name)
			switch {
			case e.mode == modeDir && dir == "" && (e.name == "trust" || e.name == "cue.mod"):
			case e.mode == modeDir:
				if err := walk(full, e.id, depth+1); err != nil {
					return err
				}
			case e.mode != modeFile && e.mode != modeExecutable, isPolicy(e.name):
				fmt.Fprintf(h, "%s %s %d %s\n", e.mode, e.id, len(full), full)
			}
		}
		return nil
	}
	if err := walk("", top, 0); err != nil {
		return key.Hash{}, fmt.Errorf("hash policy of %s: %w", c.Short(), err)
	}
	return key.Hash(h.Sum(nil)), nil
}

// maxHashed bounds what PolicyHash looks at: a tree that can be read has at most
// MaxFiles files, each in directories of its own at worst.
const maxHashed = 20 * MaxFiles

// isPolicy reports whether a file of the name may be part of a policy.
func isPolicy(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".cue", ".rego", ".json", ".yaml", ".yml":
		return true
	}
	return false
}
