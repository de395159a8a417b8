package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writmesh/writ/policy/build"
)

func TestMain(m *testing.M) {
	build.Child()
	testscript.Main(m, map[string]func(){"policy": main})
}

// TestScripts runs testdata/script against the real main. In each script
// $WORK/example is a copy of examples/accounting, and beside testscript's own
// commands there are
//
//	exits N COMMAND...   the command ends with exactly this code
//	commit BRANCH        commits the current directory as the branch's next
//	                     commit; a new branch begins where the last commit was
//	documents            writes a signed document of each kind
//
// UPDATE=1 rewrites what "cmp stdout" and "cmp stderr" compare with.
func TestScripts(t *testing.T) {
	example, err := filepath.Abs("../examples/accounting")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"commit":    commit,
			"documents": documents,
		},
		Setup: func(e *testscript.Env) error {
			return os.CopyFS(filepath.Join(e.WorkDir, "example"), os.DirFS(example))
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code: got %d, want %d", args[1:], got, want)
	}
}

func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: commit BRANCH")
	}
	dir, branch := ts.MkAbs("."), plumbing.NewBranchReferenceName(args[0])
	repo, err := git.PlainOpen(dir)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.PlainInit(dir, false)
	}
	ts.Check(err)
	if _, err := repo.Reference(branch, false); err != nil {
		if head, err := repo.Head(); err == nil {
			ts.Check(repo.Storer.SetReference(plumbing.NewHashReference(branch, head.Hash())))
		}
	}
	ts.Check(repo.Storer.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, branch)))
	tree, err := repo.Worktree()
	ts.Check(err)
	ts.Check(tree.AddWithOptions(&git.AddOptions{All: true}))
	who := &object.Signature{Name: "Dave", Email: "dave@acme.example", When: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	_, err = tree.Commit("change", &git.CommitOptions{Author: who, AllowEmptyCommits: true})
	ts.Check(err)
}
