// Package source reads a policy tree, from a directory or from a Git revision,
// into memory: one value, a Tree, that never changes and is an fs.FS. It is
// where the pipeline begins, and with sync/watch the only door to go-git.
//
// A Git revision is read from the object store. There is no checkout, no index,
// no hook, no filter, and the git program is not used. Every object is hashed
// again when it is read, with collision detection, and refused when its bytes
// are not those its name promises.
//
// What a tree may hold is the same for a directory and for a commit, so that a
// tree that passes on the author's disk passes after the push. Refused, with the
// path named:
//
//   - symbolic links, submodules (and nested repositories on disk), devices,
//     pipes, sockets; pointers of Git LFS, whose content is elsewhere
//   - names that are not UTF-8, are longer than MaxName bytes, are empty, "." or
//     "..", hold a slash, backslash, control or formatting character (those that
//     change the direction of text among them), or mean .git on some system
//   - two paths that differ only in case or in Unicode normalization
//   - more than MaxFiles files, a file above MaxFile bytes, MaxTotal bytes
//     altogether, or more than MaxDepth names in a path
//
// In a directory the entry .git at its top is skipped, and a directory without
// files is not seen: Git does not keep those either.
package source

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	// MaxFiles bounds the files of a tree. A thousand teams with ten files
	// each are a large policy; each file costs a parse on every build.
	MaxFiles = 10_000
	// MaxFile bounds one file: a bulk list of a hundred thousand members.
	MaxFile = 8 << 20
	// MaxTotal bounds all files together, which are held in memory.
	MaxTotal = 64 << 20
	// MaxDepth bounds the names in a path, and so every recursion over a tree.
	MaxDepth = 32
	// MaxName bounds one name: what common file systems can hold.
	MaxName = 255
	// MaxHistory bounds the commits that a walk over a history visits.
	MaxHistory = 1_000_000
)

// A Tree is a policy tree in memory.
type Tree struct {
	// FS holds the files. It implements fs.ReadDirFS, fs.ReadFileFS and
	// fs.StatFS; every file has mode 0444 and no modification time.
	FS fs.FS
	// Label says in messages where the tree is from: the directory as it was
	// given, or the revision as it was given and the commit it meant.
	Label string
	// Commit is the commit whose tree this is; nil for a directory.
	Commit *Commit

	repo *Repository // that the commit is in
}

// Blamer tells the origins of the tree's lines; nil where the tree is of a
// directory.
func (t Tree) Blamer() (*Blamer, error) {
	if t.repo == nil || t.Commit == nil {
		return nil, nil
	}
	return t.repo.Blamer(t.Commit.Hash)
}

// A Commit is what is known of a commit.
type Commit struct {
	Hash string // 40 hexadecimal digits
	Tree string // of the whole repository, also when the Tree is a part of it

	// Author wrote the change.
	Author, Email string
	// When is the committer's time, in UTC: when the commit was made, which is
	// also the time that its signature is judged at.
	When    time.Time
	Message string
	Parents []string
}

// Short returns the hash as people write it.
func (c Commit) Short() string { return c.Hash[:min(len(c.Hash), 7)] }

// A Refusal says that a tree holds something that no policy tree may hold.
type Refusal struct {
	Path   string // within the tree
	Reason string
}

func (r *Refusal) Error() string { return fmt.Sprintf("read %q: %s", r.Path, r.Reason) }

func refuse(path, format string, args ...any) error {
	return &Refusal{path, fmt.Sprintf(format, args...)}
}

var (
	// ErrNoRepository says that a revision was asked of a plain directory.
	ErrNoRepository = errors.New("not in a Git repository")
	// ErrUnknownRevision says that a revision names nothing, or several things.
	ErrUnknownRevision = errors.New("unknown revision")
	// ErrNoMergeBase says that two revisions share no history.
	ErrNoMergeBase = errors.New("no common ancestor")
	// ErrDamaged says that the store lacks an object or holds it changed. A
	// Refusal is about what somebody wrote; this is about what a disk or a
	// server lost.
	ErrDamaged = errors.New("object store is damaged")
)
