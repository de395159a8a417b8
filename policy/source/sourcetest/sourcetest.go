// Package sourcetest makes Git repositories for tests, object by object, in a
// temporary directory. It needs no git program and can write what Git itself
// would refuse to.
package sourcetest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/writmesh/writ/policy/source/commit"
)

// A Repo is a bare repository whose branch main is its HEAD.
type Repo struct {
	Dir string

	tb    testing.TB
	store storer.Storer
	clock time.Time         // of the next commit that names no time
	blobs map[string]string // content -> hash, of those written
}

// New makes an empty repository.
func New(tb testing.TB) *Repo {
	tb.Helper()
	r := &Repo{Dir: tb.TempDir(), tb: tb, clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), blobs: make(map[string]string)}
	g, err := git.PlainInitWithOptions(r.Dir, &git.PlainInitOptions{
		Bare:        true,
		InitOptions: git.InitOptions{DefaultBranch: "refs/heads/main"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.store = g.Storer
	return r
}

// A Commit says what to commit. Its zero value is an unsigned commit of no
// files, on top of main.
type Commit struct {
	Branch  string            // that is moved to it; "" means main, "-" none
	Parents []string          // nil means the branch's head, if there is one
	Files   map[string]string // the whole tree, by path
	Tree    string            // instead of Files: the tree object
	Message string
	Author  string                       // "Name <e-mail>"
	When    time.Time                    // zero means a minute after the last
	Sign    func([]byte) ([]byte, error) // given the commit's bytes, returns the signed ones
}

// Commit writes a commit and returns its hash.
func (r *Repo) Commit(c Commit) string {
	r.tb.Helper()
	if c.Branch == "" {
		c.Branch = "main"
	}
	if c.Parents == nil && c.Branch != "-" {
		if head := r.Head(c.Branch); head != "" {
			c.Parents = []string{head}
		}
	}
	if c.Tree == "" {
		c.Tree = r.Tree(c.Files)
	}
	if c.Author == "" {
		c.Author = "Alice Doe <alice@acme.example>"
	}
	if c.When.IsZero() {
		c.When = r.clock
		r.clock = r.clock.Add(time.Minute)
	}
	if c.Message == "" {
		c.Message = "change\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "tree %s\n", c.Tree)
	for _, p := range c.Parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	fmt.Fprintf(&b, "author %s %d +0000\ncommitter %[1]s %[2]d +0000\n\n%[3]s", c.Author, c.When.Unix(), c.Message)
	raw := []byte(b.String())
	if c.Sign != nil {
		var err error
		if raw, err = c.Sign(raw); err != nil {
			r.tb.Fatal(err)
		}
	}
	id := r.Object("commit", raw)
	if c.Branch != "-" {
		r.SetBranch(c.Branch, id)
	}
	return id
}

// Head returns the head of a branch, "" if there is none.
func (r *Repo) Head(branch string) string {
	ref, err := r.store.Reference(plumbing.NewBranchReferenceName(branch))
	if err != nil {
		return ""
	}
	return ref.Hash().String()
}

// SetBranch moves a branch, wherever it was.
func (r *Repo) SetBranch(branch, id string) { r.SetReference("refs/heads/"+branch, id) }

// SetReference sets any reference.
func (r *Repo) SetReference(name, id string) {
	r.tb.Helper()
	if err := r.store.SetReference(plumbing.NewHashReference(plumbing.ReferenceName(name), plumbing.NewHash(id))); err != nil {
		r.tb.Fatal(err)
	}
}

// DeleteBranch removes a branch.
func (r *Repo) DeleteBranch(branch string) {
	r.tb.Helper()
	if err := r.store.RemoveReference(plumbing.NewBranchReferenceName(branch)); err != nil {
		r.tb.Fatal(err)
	}
}

// Object writes an object as it is given and returns its hash.
func (r *Repo) Object(kind string, data []byte) string {
	r.tb.Helper()
	t, err := plumbing.ParseObjectType(kind)
	if err != nil {
		r.tb.Fatal(err)
	}
	obj := r.store.NewEncodedObject()
	obj.SetType(t)
	w, err := obj.Writer()
	if err == nil {
		_, err = w.Write(data)
	}
	if err != nil {
		r.tb.Fatal(err)
	}
	w.Close()
	id, err := r.store.SetEncodedObject(obj)
	if err != nil {
		r.tb.Fatal(err)
	}
	if want, err := commit.ID(kind, data); err != nil || want != id.String() {
		r.tb.Fatalf("wrote %s as %s, want %s (%v)", kind, id, want, err)
	}
	return id.String()
}

// An Entry is an entry of a tree object.
type Entry struct{ Mode, Name, ID string }

// TreeObject writes a tree object of these entries, in this order.
func (r *Repo) TreeObject(entries ...Entry) string {
	r.tb.Helper()
	var data []byte
	for _, e := range entries {
		id := plumbing.NewHash(e.ID)
		data = append(data, e.Mode+" "+e.Name+"\x00"...)
		data = append(data, id[:]...)
	}
	return r.Object("tree", data)
}

func (r *Repo) blob(content string) string {
	id, ok := r.blobs[content]
	if !ok {
		id = r.Object("blob", []byte(content))
		r.blobs[content] = id
	}
	return id
}

// Tree writes files by path and the tree objects that hold them.
func (r *Repo) Tree(files map[string]string) string {
	r.tb.Helper()
	dirs := make(map[string]map[string]string)
	entries := make(map[string]Entry) // sort key -> entry
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if first, rest, ok := strings.Cut(p, "/"); ok {
			if dirs[first] == nil {
				dirs[first] = make(map[string]string)
			}
			dirs[first][rest] = files[p]
		} else {
			entries[p] = Entry{"100644", path.Base(p), r.blob(files[p])}
		}
	}
	for name, files := range dirs {
		// Git sorts a directory as if its name ended in a slash.
		entries[name+"/"] = Entry{"40000", name, r.Tree(files)}
	}
	var sorted []Entry
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		sorted = append(sorted, entries[k])
	}
	return r.TreeObject(sorted...)
}
