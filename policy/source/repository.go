package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/writmesh/writ/policy/source/commit"
)

// A Repository is a place that trees are read from: a directory within a Git
// repository, a bare repository, or a plain directory, which has no revisions.
// It may be used by several goroutines.
type Repository struct {
	// set at construction
	dir string // as given to Open
	sub string // of dir within the repository, slash-separated; "." at its top
	git *git.Repository

	mu sync.Mutex // guards go-git's store, whose caches are not safe together
}

// Open opens the place that path names. It looks for .git in path and upward;
// where path is below the top of the repository, the tree of a revision is that
// of the same directory in it. Git's environment variables have no effect.
func Open(path string) (*Repository, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if info, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open %s: %w", path, errNotDirectory)
	}
	r := &Repository{dir: path, sub: "."}
	top, ok := abs, isBare(abs)
	for !ok {
		if _, err := os.Lstat(filepath.Join(top, git.GitDirName)); err == nil {
			ok = true
		} else if up := filepath.Dir(top); up != top {
			top = up
		} else {
			return r, nil
		}
	}
	r.git, err = git.PlainOpenWithOptions(top, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", top, err)
	}
	sub, err := filepath.Rel(top, abs)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	r.sub = filepath.ToSlash(sub)
	return r, nil
}

// isBare reports whether dir looks like the inside of a repository.
func isBare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// Below is where the place is within its repository, slash-separated; "." at its
// top, and for a plain directory.
func (r *Repository) Below() string { return r.sub }

// HasRevisions reports whether the place is in a Git repository.
func (r *Repository) HasRevisions() bool { return r.git != nil }

// Tree reads the tree of a revision, as Resolve understands it.
func (r *Repository) Tree(rev string) (Tree, error) {
	id, err := r.Resolve(rev)
	if err != nil {
		return Tree{}, err
	}
	c, err := r.Commit(id)
	if err != nil {
		return Tree{}, err
	}
	files, err := r.files(c)
	if err != nil {
		return Tree{}, fmt.Errorf("read commit %s: %w", c.Short(), err)
	}
	label := rev
	if len(rev) >= 7 && len(rev) <= len(id) && id[:len(rev)] == rev {
		label = c.Short()
	} else {
		label += "@" + c.Short()
	}
	return Tree{FS: newSnapshot(files), Label: label, Commit: &c, repo: r}, nil
}

// Commit returns what is known of the commit with this full hash.
func (r *Repository) Commit(id string) (Commit, error) {
	raw, err := r.Raw(id)
	if err != nil {
		return Commit{}, err
	}
	c, err := commit.Parse(raw)
	if err != nil {
		return Commit{}, fmt.Errorf("read commit %s: %w", short(id), err)
	}
	return Commit{
		Hash:    id,
		Tree:    c.Tree,
		Author:  c.Author.Name,
		Email:   c.Author.Email,
		When:    c.Committer.When,
		Message: c.Message,
		Parents: c.Parents,
	}, nil
}

// Raw returns the bytes of the commit with this full hash, as Git stores them.
func (r *Repository) Raw(id string) ([]byte, error) {
	if !commit.IsID(id) {
		return nil, fmt.Errorf("read commit %.60q: %w: not a full hash", id, ErrUnknownRevision)
	}
	raw, err := r.object(plumbing.CommitObject, id, commit.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read commit %s: %w", short(id), err)
	}
	return raw, nil
}

var errTooLarge = errors.New("object is too large")

// object reads an object's bytes and checks that they are what its name says.
func (r *Repository) object(kind plumbing.ObjectType, id string, limit int64) (data []byte, err error) {
	if r.git == nil {
		return nil, ErrNoRepository
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// A store with flipped bits has made go-git panic before.
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("%w: %s %s: %v", ErrDamaged, kind, id, p)
		}
	}()
	damaged := func(cause any) error { return fmt.Errorf("%w: %s %s: %v", ErrDamaged, kind, id, cause) }
	hash := plumbing.NewHash(id)
	size, err := r.git.Storer.EncodedObjectSize(hash)
	if err != nil {
		return nil, damaged(err)
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %s %s has %d bytes; the limit is %d", errTooLarge, kind, id, size, limit)
	}
	obj, err := r.git.Storer.EncodedObject(kind, hash)
	if err != nil {
		return nil, damaged(err)
	}
	rd, err := obj.Reader()
	if err != nil {
		return nil, damaged(err)
	}
	defer rd.Close()
	if data, err = io.ReadAll(io.LimitReader(rd, limit+1)); err != nil {
		return nil, damaged(err)
	}
	if int64(len(data)) > limit {
		return nil, damaged("longer than it says")
	}
	got, err := commit.ID(kind.String(), data)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, id, err)
	}
	if got != id {
		return nil, damaged("its bytes hash to " + got)
	}
	return data, nil
}

func short(id string) string { return id[:min(len(id), 7)] }

// assert that a snapshot is what Tree promises.
var _ interface {
	fs.ReadDirFS
	fs.ReadFileFS
	fs.StatFS
} = snapshot(nil)
