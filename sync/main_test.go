package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli"
	"github.com/writmesh/writ/policy/source/sourcetest"
	"github.com/writmesh/writ/sync/apply"
)

// asSync in the environment makes the test's binary the program itself.
const asSync = "WRIT_TEST_AS_SYNC"

func TestMain(m *testing.M) {
	build.Child()
	if os.Getenv(asSync) != "" {
		os.Unsetenv(asSync)
		main()
	}
	testscript.Main(m, map[string]func(){
		"sync":   main,
		"policy": func() { os.Exit(cli.Run(context.Background(), "test", os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// timeout is how long a test waits for what must come: long, for a machine that
// does ten other things under the race detector.
const timeout = 30 * time.Second

// A stage is what a script acts on.
type stage struct {
	*network
	repo  *sourcetest.Repo
	coord *coordtest.Coordinator
}

// TestScripts runs testdata/script against the real main, a real coordinator, and
// a repository at $REPO. The keys and the root document are in the current
// directory. Beside testscript's own commands there are
//
//	exits N COMMAND...   the command ends with exactly this code
//	commit WHO DIR       commits the files in DIR as main's next commit, signed by
//	                     WHO, and sets $HEAD and $SHORT to it
//	await DIR WORD...    waits until the sync with this state directory answers
//	                     (up), refused the head (refused), has N nodes in (nodes N),
//	                     or has nothing to report (ok)
//	join NAME            has a node ask to join and waits until it is admitted
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "commit": commit, "await": await, "join": join,
		},
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			n := found(tb)
			s := &stage{n, sourcetest.New(tb), coordtest.Start(tb, n.World)}
			e.Values[stage{}] = s
			e.Setenv("REPO", s.repo.Dir)
			e.Setenv("ADDR", s.coord.Addr)
			e.Setenv("PIN", s.coord.Pin.String())
			e.Setenv("NETWORK", n.Network.String())
			return n.write(e.WorkDir)
		},
	})
}

func staged(ts *testscript.TestScript) *stage { return ts.Value(stage{}).(*stage) }

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
	if neg || len(args) != 2 {
		ts.Fatalf("usage: commit WHO DIR")
	}
	s := staged(ts)
	files := map[string]string{"trust/allowed_signers": s.signers("alice")}
	dir := os.DirFS(ts.MkAbs(args[1]))
	ts.Check(fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(dir, path)
		files[path] = strings.ReplaceAll(string(b), "$FLEET", s.fleet.Key.Public().String())
		return err
	}))
	c := sourcetest.Commit{Files: files}
	if args[0] != "nobody" {
		c.Sign = s.person(args[0]).SignCommit
	}
	head := s.repo.Commit(c)
	ts.Setenv("HEAD", head)
	ts.Setenv("SHORT", head[:7])
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await DIR WORD...")
	}
	head := ts.Getenv("HEAD")
	ok := func(s apply.Status) bool {
		switch args[1] {
		case "up":
			return true
		case "refused":
			return s.Refused != nil && s.Refused.Commit == head
		case "nodes":
			return len(args) == 3 && strconv.Itoa(s.Nodes) == args[2]
		case "ok":
			return s.OK()
		}
		ts.Fatalf("await: %q is not known", args[1])
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s, err := awaitStatus(ctx, ts.MkAbs(args[0]), ok); err != nil {
		ts.Fatalf("await %v: %v; got %+v", args, err, s)
	}
}

// awaitStatus waits until the status of the sync with this state directory is as
// it should be. Its socket cannot be waited for before it is there: it is looked
// for again and again.
func awaitStatus(ctx context.Context, dir string, ok func(apply.Status) bool) (apply.Status, error) {
	c := apply.DialStatus(dir)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for after := int64(-1); ; {
		s, err := c.Status(ctx, after)
		if err == nil {
			if ok(s) {
				return s, nil
			}
			after = s.Version
			continue
		}
		after = -1
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, err
		}
	}
}

func join(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: join NAME")
	}
	s := staged(ts)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := s.network.join(ctx, s.coord, args[0])
	ts.Check(err)
}

// write puts the keys and the root document into a directory.
func (n *network) write(dir string) error {
	files := map[string]string{
		"policy.key": n.PolicyKey.Secret(), "admission.key": n.AdmissionKey.Secret(), "seal.key": n.Seal.Secret(),
		"root-1.note": string(n.Roots[0]), "hook.secret": hookSecret,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "root-1.note"), n.Roots[0], 0o644)
}

const hookSecret = "a secret of the forge"
