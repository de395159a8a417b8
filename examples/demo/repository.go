package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"golang.org/x/crypto/ssh"

	"github.com/writmesh/writ/sync/verify"
)

// A person commits to the policy repository and signs with an SSH key.
type person struct {
	name, email string
	key         *verify.Key
}

func newPerson(name, email string) (*person, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	k, err := verify.NewKey(signer)
	return &person{name, email, k}, err
}

// signerLine is the person's line of allowed_signers.
func (p *person) signerLine() string {
	return fmt.Sprintf("%s namespaces=\"git\" %s", p.email, p.key.Public())
}

// A repository is the policy repository as its authors have it: a work tree.
type repository struct {
	dir  string
	git  *git.Repository
	tree *git.Worktree
}

// newRepository makes a repository with the files of an example.
func newRepository(dir string, example fs.FS) (*repository, error) {
	g, err := git.PlainInitWithOptions(dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: plumbing.Main}})
	if err != nil {
		return nil, err
	}
	t, err := g.Worktree()
	if err != nil {
		return nil, err
	}
	return &repository{dir, g, t}, os.CopyFS(dir, example)
}

func (r *repository) write(name, content string) error {
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// edit replaces a text that stands once in a file.
func (r *repository) edit(name, old, new string) error {
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	if strings.Count(string(b), old) != 1 {
		return fmt.Errorf("%s: %q does not stand there once", name, old)
	}
	return r.write(name, strings.Replace(string(b), old, new, 1))
}

// commit commits everything, signed, and gives the commit's hash.
func (r *repository) commit(by *person, message string, parents ...plumbing.Hash) (string, error) {
	if err := r.tree.AddWithOptions(&git.AddOptions{All: true}); err != nil {
		return "", err
	}
	h, err := r.tree.Commit(message, &git.CommitOptions{
		Author: &object.Signature{Name: by.name, Email: by.email, When: time.Now()},
		Signer: by.key, Parents: parents, AllowEmptyCommits: true,
	})
	return h.String(), err
}

// branch begins a branch at main and moves the work tree to it.
func (r *repository) branch(name string) error {
	return r.tree.Checkout(&git.CheckoutOptions{Branch: plumbing.NewBranchReferenceName(name), Create: true})
}

// main moves the work tree back to main.
func (r *repository) main() error {
	return r.tree.Checkout(&git.CheckoutOptions{Branch: plumbing.Main})
}

// merge merges a branch of which main is an ancestor, with a merge commit, as a
// forge does.
func (r *repository) merge(by *person, branch string) (string, error) {
	if err := r.main(); err != nil {
		return "", err
	}
	main, err := r.git.Head()
	if err != nil {
		return "", err
	}
	ref, err := r.git.Reference(plumbing.NewBranchReferenceName(branch), true)
	if err != nil {
		return "", err
	}
	if err := r.checkoutFiles(ref.Hash()); err != nil {
		return "", err
	}
	return r.commit(by, "Merge branch '"+branch+"'", main.Hash(), ref.Hash())
}

// checkoutFiles makes the files of the work tree those of a commit.
func (r *repository) checkoutFiles(h plumbing.Hash) error {
	c, err := r.git.CommitObject(h)
	if err != nil {
		return err
	}
	files, err := c.Files()
	if err != nil {
		return err
	}
	return files.ForEach(func(f *object.File) error {
		content, err := f.Contents()
		if err != nil {
			return err
		}
		return r.write(f.Name, content)
	})
}
