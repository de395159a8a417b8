package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/policy/source/commit"
	"github.com/writmesh/writ/policy/source/sourcetest"
	"github.com/writmesh/writ/sync/verify"
)

func files(s string) map[string]string {
	return map[string]string{"network.cue": s, "teams/a.cue": "a"}
}

func follow(t *testing.T, remote string) *Follower {
	t.Helper()
	return followIn(t, remote, filepath.Join(t.TempDir(), "state"))
}

func followIn(t *testing.T, remote, dir string) *Follower {
	t.Helper()
	f, err := New(Config{Remote: remote, Branch: "main", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustFetch(t *testing.T, f *Follower, want string) {
	t.Helper()
	got, err := f.Fetch(t.Context())
	if err != nil || got != want {
		t.Fatalf("Fetch: got %s, %v; want %s", got, err, want)
	}
	if f.Head() != want {
		t.Fatalf("Head: got %s, want %s", f.Head(), want)
	}
}

func wantFile(t *testing.T, f *Follower, id, want string) {
	t.Helper()
	tree, err := f.Tree(id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fs.ReadFile(tree.FS, "network.cue"); err != nil || string(got) != want {
		t.Errorf("network.cue at %.7s: got %q, %v; want %q", id, got, err, want)
	}
}

func ids(commits []verify.RawCommit) []string {
	var out []string
	for _, c := range commits {
		out = append(out, c.Hash)
	}
	return out
}

// Every kind of remote, without any program to run.
func TestFollow(t *testing.T) {
	t.Setenv("PATH", "")
	for name, remoteOf := range map[string]func(dir string) string{
		"path": func(dir string) string { return dir },
		"file": func(dir string) string { return "file://" + dir },
		"http": func(dir string) string {
			s := httptest.NewServer(gitServer(t, dir))
			t.Cleanup(s.Close)
			return s.URL + "/repo.git"
		},
	} {
		t.Run(name, func(t *testing.T) {
			repo := sourcetest.New(t)
			state := filepath.Join(t.TempDir(), "state")
			f := followIn(t, remoteOf(repo.Dir), state)
			if _, err := f.Tree(strings.Repeat("0", 40)); err == nil {
				t.Error("a tree before any fetch")
			}
			if _, err := f.Fetch(t.Context()); !errors.Is(err, ErrNoBranch) {
				t.Errorf("empty repository: got %v, want %v", err, ErrNoBranch)
			}
			c1 := repo.Commit(sourcetest.Commit{Files: files("one")})
			mustFetch(t, f, c1)
			mustFetch(t, f, c1)
			c2 := repo.Commit(sourcetest.Commit{Files: files("two")})
			side := repo.Commit(sourcetest.Commit{Branch: "side", Parents: []string{c1}, Files: files("side")})
			merge := repo.Commit(sourcetest.Commit{Parents: []string{c2, side}, Files: files("merged")})
			mustFetch(t, f, merge)
			wantFile(t, f, c1, "one")
			wantFile(t, f, side, "side")
			wantFile(t, f, merge, "merged")
			if b, err := f.Blamer(merge); err != nil {
				t.Error(err)
			} else if o, err := b.LastChanged("teams/a.cue", 1); err != nil || o.Commit != c1 {
				t.Errorf("LastChanged: got %+v, %v; want commit %s", o, err, c1)
			}
			got, err := f.Commits(t.Context(), c1, merge)
			if want := []string{c2, side, merge}; err != nil || !slices.Equal(ids(got), want) {
				t.Errorf("Commits: got %v, %v; want %v", ids(got), err, want)
			}
			for _, c := range got {
				if id, _ := commit.ID("commit", c.Bytes); id != c.Hash {
					t.Errorf("commit %s has the bytes of %s", c.Hash, id)
				}
			}
			if got, err := f.Commits(t.Context(), "", merge); err != nil || !slices.Equal(ids(got), []string{c1, c2, side, merge}) {
				t.Errorf("Commits from the beginning: got %v, %v", ids(got), err)
			}
			if got, err := f.Commits(t.Context(), merge, merge); err != nil || len(got) != 0 {
				t.Errorf("Commits of nothing: got %v, %v", ids(got), err)
			}
			for _, from := range []string{merge, strings.Repeat("1", 40)} {
				if _, err := f.Commits(t.Context(), from, c2); !errors.Is(err, ErrNotDescendant) {
					t.Errorf("Commits(%.7s, %.7s): got %v, want %v", from, c2, err, ErrNotDescendant)
				}
			}
			if info, err := f.Commit(merge); err != nil || info.Email != "alice@acme.example" || len(info.Parents) != 2 {
				t.Errorf("Commit: got %+v, %v", info, err)
			}
			// A follower that starts again has what was fetched, remote or not.
			os.Rename(repo.Dir, repo.Dir+".gone")
			again := followIn(t, remoteOf(repo.Dir), state)
			if again.Head() != merge {
				t.Errorf("after a restart: got head %s, want %s", again.Head(), merge)
			}
			wantFile(t, again, merge, "merged")
			os.Rename(repo.Dir+".gone", repo.Dir)
			mustFetch(t, again, merge)
		})
	}
}

// The wire as Git itself speaks it: side bands, deltas, negotiation.
func TestFollowRealGitServer(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed: NOT COMPARED with its server")
	}
	out, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("git-http-backend is not installed: NOT COMPARED with it")
	}
	root := t.TempDir()
	repo := sourcetest.New(t)
	dir := filepath.Join(root, "repo.git")
	if err := os.Symlink(repo.Dir, dir); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&cgi.Handler{
		Path: backend,
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	})
	t.Cleanup(server.Close)
	// Long files that differ in a line each make deltas once they are packed.
	var lines []string
	for i := range 400 {
		lines = append(lines, fmt.Sprintf("rule %d %x", i, rand.Uint64()))
	}
	var all []string
	edit := func() {
		lines[rand.IntN(len(lines))] = fmt.Sprintf("changed %x", rand.Uint64())
		all = append(all, repo.Commit(sourcetest.Commit{Files: files(strings.Join(lines, "\n"))}))
	}
	for range 20 {
		edit()
	}
	pack := func() {
		cmd := exec.Command(git, "--git-dir="+repo.Dir, "-c", "gc.auto=0", "repack", "-a", "-d", "-f", "--depth=20", "-q")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git repack: %v: %s", err, out)
		}
	}
	pack()
	f := follow(t, server.URL+"/repo.git")
	mustFetch(t, f, all[19])
	for range 5 {
		edit()
		pack()
		mustFetch(t, f, all[len(all)-1])
	}
	got, err := f.Commits(t.Context(), all[0], all[len(all)-1])
	if err != nil || !slices.Equal(ids(got), all[1:]) {
		t.Errorf("Commits: got %v, %v; want %v", ids(got), err, all[1:])
	}
	wantFile(t, f, f.Head(), strings.Join(lines, "\n"))
}

func TestForcePush(t *testing.T) {
	repo := sourcetest.New(t)
	c1 := repo.Commit(sourcetest.Commit{Files: files("one")})
	c2 := repo.Commit(sourcetest.Commit{Files: files("two")})
	f := follow(t, repo.Dir)
	mustFetch(t, f, c2)
	other := repo.Commit(sourcetest.Commit{Parents: []string{}, Files: files("other")})
	mustFetch(t, f, other)
	if _, err := f.Commits(t.Context(), c2, other); !errors.Is(err, ErrNotDescendant) {
		t.Errorf("another history: got %v, want %v", err, ErrNotDescendant)
	}
	wantFile(t, f, c2, "two") // what was applied stays readable
	repo.SetBranch("main", c1)
	mustFetch(t, f, c1)
	if _, err := f.Commits(t.Context(), c2, c1); !errors.Is(err, ErrNotDescendant) {
		t.Errorf("moved back: got %v, want %v", err, ErrNotDescendant)
	}
	// An octopus whose last parent is the applied commit descends from it.
	octopus := repo.Commit(sourcetest.Commit{Parents: []string{other, c1, c2}, Files: files("all")})
	mustFetch(t, f, octopus)
	if got, err := f.Commits(t.Context(), c2, octopus); err != nil || !slices.Equal(ids(got), []string{other, octopus}) {
		t.Errorf("octopus: got %v, %v; want %v", ids(got), err, []string{other, octopus})
	}
}

func TestDeletedBranch(t *testing.T) {
	repo := sourcetest.New(t)
	c1 := repo.Commit(sourcetest.Commit{Files: files("one")})
	f := follow(t, repo.Dir)
	mustFetch(t, f, c1)
	repo.DeleteBranch("main")
	repo.SetBranch("trunk", c1)
	if _, err := f.Fetch(t.Context()); !errors.Is(err, ErrNoBranch) {
		t.Errorf("got %v, want %v", err, ErrNoBranch)
	}
	if s := f.Status(); s.Head != c1 || !errors.Is(s.Err, ErrNoBranch) || s.Failing.IsZero() || s.Fetched.IsZero() {
		t.Errorf("got status %+v; want head %s, failing for want of the branch", s, c1)
	}
	wantFile(t, f, c1, "one")
	repo.SetBranch("main", c1)
	mustFetch(t, f, c1)
	if s := f.Status(); s.Err != nil || !s.Failing.IsZero() {
		t.Errorf("got status %+v; want no failure", s)
	}
}

// A tree that no policy may have is fetched all the same: to refuse it is for
// whoever builds it, who can say why.
func TestRefusedTreeIsFetched(t *testing.T) {
	repo := sourcetest.New(t)
	link := repo.TreeObject(sourcetest.Entry{Mode: "120000", Name: "x", ID: repo.Object("blob", []byte("/etc/shadow"))})
	c := repo.Commit(sourcetest.Commit{Tree: link})
	f := follow(t, repo.Dir)
	mustFetch(t, f, c)
	if _, err := f.Tree(c); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v, want a refusal of the symbolic link", err)
	}
	c2 := repo.Commit(sourcetest.Commit{Files: files("mended")})
	mustFetch(t, f, c2)
}

// Whatever happens to the store on disk, the next fetch mends it, and nothing
// false is served meanwhile.
func TestDamagedStore(t *testing.T) {
	repo := sourcetest.New(t)
	repo.Commit(sourcetest.Commit{Files: files("one")})
	head := repo.Commit(sourcetest.Commit{Files: files("two")})
	state := filepath.Join(t.TempDir(), "state")
	mustFetch(t, followIn(t, repo.Dir, state), head)
	fetched := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(fetched, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	var paths []string
	filepath.WalkDir(fetched, func(p string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			rel, _ := filepath.Rel(fetched, p)
			paths = append(paths, rel)
		}
		return nil
	})
	if len(paths) < 4 {
		t.Fatalf("got files %q; want a pack, its index, HEAD and a reference", paths)
	}
	mends := 0
	try := func(name string, harm func(dir string) error) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.CopyFS(dir, os.DirFS(fetched)); err != nil {
			t.Fatal(err)
		}
		if err := harm(dir); err != nil {
			t.Fatal(err)
		}
		f := followIn(t, repo.Dir, dir)
		if f.Head() == "" {
			mends++
		} else {
			wantFile(t, f, f.Head(), "two")
		}
		if got, err := f.Fetch(t.Context()); err != nil || got != head {
			t.Fatalf("%s: Fetch: got %s, %v; want %s", name, got, err, head)
		}
		wantFile(t, f, head, "two")
		if got, err := f.Commits(t.Context(), "", head); err != nil || len(got) != 2 {
			t.Fatalf("%s: Commits: got %v, %v; want 2", name, ids(got), err)
		}
	}
	for _, p := range paths {
		data, err := os.ReadFile(filepath.Join(fetched, p))
		if err != nil {
			t.Fatal(err)
		}
		write := func(data []byte) func(dir string) error {
			return func(dir string) error {
				path := filepath.Join(dir, p)
				os.Remove(path) // it may be read-only
				return os.WriteFile(path, data, 0o600)
			}
		}
		try("no "+p, func(dir string) error { return os.Remove(filepath.Join(dir, p)) })
		try("empty "+p, write(nil))
		try("half "+p, write(data[:len(data)/2]))
		for range 8 {
			bad := slices.Clone(data)
			i := rand.IntN(len(bad))
			bad[i] ^= 1 << rand.IntN(8)
			try(fmt.Sprintf("byte %d of %s", i, p), write(bad))
		}
	}
	if mends == 0 {
		t.Error("no damage was noticed")
	}
	try("crash between renames", func(dir string) error {
		return os.Rename(filepath.Join(dir, "git"), filepath.Join(dir, "git.old"))
	})
	try("crash in a clone", func(dir string) error {
		return os.CopyFS(filepath.Join(dir, "git.new"), os.DirFS(filepath.Join(dir, "git")))
	})

	t.Run("while it runs", func(t *testing.T) {
		f := follow(t, repo.Dir)
		mustFetch(t, f, head)
		packs, _ := filepath.Glob(filepath.Join(f.store.current(), "objects", "pack", "*.pack"))
		for _, p := range packs {
			os.Chmod(p, 0o600)
			if err := os.WriteFile(p, []byte("PACK"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.Tree(head); err == nil {
			t.Skip("the pack was still held in memory")
		}
		mustFetch(t, f, head)
		wantFile(t, f, head, "two")
	})
}

// After many fetches there are few packs.
func TestPacksAreGathered(t *testing.T) {
	repo := sourcetest.New(t)
	lim := usualLimits
	lim.packs = 5
	f, err := newFollower(Config{Remote: repo.Dir, Branch: "main", Dir: t.TempDir()}, lim)
	if err != nil {
		t.Fatal(err)
	}
	first := ""
	const fetches = 8
	for i := range fetches {
		c := repo.Commit(sourcetest.Commit{Files: files(fmt.Sprint(i))})
		if first == "" {
			first = c
		}
		mustFetch(t, f, c)
	}
	if n := f.store.packs(); n != 3 { // the sixth fetch gathered, two followed
		t.Errorf("got %d packs after %d fetches, want 3", n, fetches)
	}
	if got, err := f.Commits(t.Context(), first, f.Head()); err != nil || len(got) != fetches-1 {
		t.Errorf("got %d commits, %v; want %d", len(got), err, fetches-1)
	}
}

// Random histories against git rev-list.
func TestCommitsAsGitDoes(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed: NOT COMPARED with git rev-list")
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	repo := sourcetest.New(t)
	var all []string
	for i := range 40 {
		parents := []string{}
		for range 1 + rnd.IntN(3) {
			if n := len(all); n > 0 {
				if p := all[max(0, n-1-rnd.IntN(6))]; !slices.Contains(parents, p) {
					parents = append(parents, p)
				}
			}
		}
		all = append(all, repo.Commit(sourcetest.Commit{Branch: "-", Parents: parents, Message: fmt.Sprint(i)}))
	}
	head := repo.Commit(sourcetest.Commit{Branch: "main", Parents: all[len(all)-12:]})
	f := follow(t, repo.Dir)
	mustFetch(t, f, head)
	run := func(args ...string) (string, error) {
		cmd := exec.Command(git, append([]string{"--git-dir=" + repo.Dir}, args...)...)
		out, err := cmd.Output()
		return string(out), err
	}
	out, err := run("rev-list", head)
	if err != nil {
		t.Fatal(err)
	}
	all = strings.Fields(out) // some are on no way to the head, and were not fetched
	for range 50 {
		from, to := all[rnd.IntN(len(all))], all[rnd.IntN(len(all))]
		_, notAncestor := run("merge-base", "--is-ancestor", from, to)
		got, err := f.Commits(t.Context(), from, to)
		if notAncestor != nil {
			if !errors.Is(err, ErrNotDescendant) {
				t.Errorf("seed %d: Commits(%s, %s): got %v, want %v", seed, from, to, err, ErrNotDescendant)
			}
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: Commits(%s, %s): %v", seed, from, to, err)
		}
		out, _ := run("rev-list", from+".."+to)
		want := strings.Fields(out)
		place := make(map[string]int)
		for i, c := range got {
			_, parents, _ := commit.Links(c.Bytes)
			for _, p := range parents {
				if slices.Contains(want, p) {
					if _, ok := place[p]; !ok {
						t.Errorf("seed %d: %s comes before its parent %s", seed, c.Hash, p)
					}
				}
			}
			place[c.Hash] = i
		}
		if slices.Sort(want); !slices.Equal(slices.Sorted(maps.Keys(place)), want) || len(got) != len(want) {
			t.Errorf("seed %d: Commits(%s, %s): got %v, want git's %v", seed, from, to, ids(got), want)
		}
	}
}

// Readers and a fetch at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	repo := sourcetest.New(t)
	first := repo.Commit(sourcetest.Commit{Files: files("0")})
	f := follow(t, repo.Dir)
	mustFetch(t, f, first)
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				head := f.Head()
				if _, err := f.Tree(head); err != nil {
					t.Errorf("Tree: %v", err)
					return
				}
				if _, err := f.Commits(t.Context(), first, head); err != nil {
					t.Errorf("Commits: %v", err)
					return
				}
				f.Status()
			}
		})
	}
	for i := range 8 {
		mustFetch(t, f, repo.Commit(sourcetest.Commit{Files: files(fmt.Sprint(i))}))
	}
	f.mu.Lock()
	f.damaged = true
	f.mu.Unlock()
	mustFetch(t, f, repo.Head("main"))
	cancel()
	readers.Wait()
}
