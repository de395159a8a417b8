package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/writmesh/writ/policy/source"
)

// A store is a directory with the object store in it:
//
//	git       in use
//	git.new   being cloned
//	git.old   was in use; only while git.new takes its place
type store struct{ dir string }

func (s store) current() string { return filepath.Join(s.dir, "git") }
func (s store) next() string    { return filepath.Join(s.dir, "git.new") }
func (s store) past() string    { return filepath.Join(s.dir, "git.old") }

// recover makes the directory and tidies up what a crash left.
func (s store) recover() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(s.current()); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(s.past(), s.current()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	removeTemporary(s.current())
	return errors.Join(os.RemoveAll(s.next()), os.RemoveAll(s.past()))
}

// open opens the store in use and reads the head noted for a branch, "" if none.
func (s store) open(branch plumbing.ReferenceName) (*source.Repository, string, error) {
	if _, err := os.Lstat(s.current()); err != nil {
		return nil, "", err
	}
	repo, err := source.Open(s.current())
	if err != nil {
		return nil, "", err
	}
	ref, err := storage(s.current()).Reference(branch)
	switch {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
		return repo, "", nil
	case err != nil:
		return nil, "", err
	case ref.Type() != plumbing.HashReference || ref.Hash().IsZero():
		return nil, "", fmt.Errorf("reference %s is damaged", branch)
	}
	return repo, ref.Hash().String(), nil
}

func storage(dir string) *filesystem.Storage {
	return filesystem.NewStorage(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(cache.MiByte))
}

// setHead notes a head in the store in use.
func (s store) setHead(branch plumbing.ReferenceName, head string) error {
	return setHead(s.current(), branch, head)
}

func setHead(dir string, branch plumbing.ReferenceName, head string) error {
	return storage(dir).SetReference(plumbing.NewHashReference(branch, plumbing.NewHash(head)))
}

// begin makes an empty store for a clone.
func (s store) begin() error {
	if err := os.RemoveAll(s.next()); err != nil {
		return err
	}
	_, err := git.InitWithOptions(storage(s.next()), nil, git.InitOptions{DefaultBranch: plumbing.Main})
	return err
}

// commit puts the new store in the place of the old.
func (s store) commit(branch plumbing.ReferenceName, head string) error {
	if err := setHead(s.next(), branch, head); err != nil {
		return err
	}
	if err := os.RemoveAll(s.past()); err != nil {
		return err
	}
	if err := os.Rename(s.current(), s.past()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(s.next(), s.current()); err != nil {
		return err
	}
	return errors.Join(syncDir(s.dir), os.RemoveAll(s.past()))
}

// discard removes what is left of a clone that did not work.
func (s store) discard() { os.RemoveAll(s.next()) }

// packs counts the packs of the store in use.
func (s store) packs() int {
	found, _ := filepath.Glob(filepath.Join(s.current(), "objects", "pack", "pack-*.pack"))
	return len(found)
}

// removeTemporary removes the files of a fetch that a crash ended.
func removeTemporary(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", temporary+"*"))
	for _, path := range found {
		os.Remove(path)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
