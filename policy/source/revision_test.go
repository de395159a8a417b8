package source

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

// gitIn runs the git program, which is the truth about what a revision means.
func gitIn(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed: not compared with it")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_DIR="+dir)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func TestResolveAsGitDoes(t *testing.T) {
	repo := sourcetest.New(t)
	c1 := repo.Commit(sourcetest.Commit{})
	c2 := repo.Commit(sourcetest.Commit{})
	side := repo.Commit(sourcetest.Commit{Branch: "team/side", Parents: []string{c1}})
	merge := repo.Commit(sourcetest.Commit{Parents: []string{c2, side}})
	tag := repo.Object("tag", []byte("object "+c2+"\ntype commit\ntag v1\ntagger A <a@b> 1 +0000\n\nm\n"))
	repo.SetReference("refs/tags/v1", tag)
	repo.SetReference("refs/tags/light", c1)
	repo.SetReference("refs/tags/main", c1) // ambiguous with the branch; the tag wins
	repo.SetReference("refs/remotes/origin/main", c2)
	repo.SetReference("refs/tags/tree", repo.TreeObject())
	r, err := Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, rev := range []string{
		"HEAD", "@", "main", "heads/main", "refs/heads/main", "team/side", "v1", "tags/v1", "light", "origin/main",
		merge, merge[:7], merge[:8], merge[:4], c2[:9], tag, tag[:10], strings.ToUpper(c2[:9]),
		"HEAD~1", "HEAD~2", "HEAD~0", "HEAD~", "HEAD^", "HEAD^2", "HEAD^0", "HEAD^2~1", "HEAD^^", "HEAD~~", "@^2^", merge[:7] + "^2",
		"HEAD~3", "HEAD^3", "HEAD~99", "nothing", "refs/heads/none", "tree", "0000000", strings.Repeat("0", 40),
		"heads/../heads/main", "HEAD ", "",
	} {
		want, gitErr := gitIn(t, repo.Dir, "rev-parse", "--verify", "--quiet", rev+"^{commit}")
		got, err := r.Resolve(rev)
		if (err != nil) != (gitErr != nil) || err == nil && got != want {
			t.Errorf("Resolve(%q): got %s, %v; want git's %s, %v", rev, got, err, want, gitErr)
		}
		if err != nil && !errors.Is(err, ErrUnknownRevision) {
			t.Errorf("Resolve(%q): got %v, want %v", rev, err, ErrUnknownRevision)
		}
	}
	// What Git understands and this does not is refused.
	for _, rev := range []string{"HEAD@{0}", ":/change", "main..v1", "v1^{}", "v1^{tree}", "HEAD:a", "-h", "HEAD^-", "~1", "^", strings.Repeat("a", maxRevision+1), "HEAD~99999999999999999999"} {
		if got, err := r.Resolve(rev); !errors.Is(err, ErrUnknownRevision) {
			t.Errorf("Resolve(%q): got %s, %v; want %v", rev, got, err, ErrUnknownRevision)
		}
	}
}

func TestAmbiguousAbbreviation(t *testing.T) {
	repo := sourcetest.New(t)
	byPrefix := make(map[string]string)
	for i := range 5000 { // two of them begin with the same four digits, all but surely
		id := repo.Commit(sourcetest.Commit{Branch: "-", Parents: []string{}, Message: fmt.Sprint(i)})
		other, ok := byPrefix[id[:4]]
		if !ok {
			byPrefix[id[:4]] = id
			continue
		}
		r, err := Open(repo.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Resolve(id[:4]); !errors.Is(err, ErrUnknownRevision) || !strings.Contains(err.Error(), "2 commits begin so") {
			t.Errorf("got %s, %v; want it to be ambiguous", got, err)
		}
		for _, id := range []string{id, other} {
			if got, err := r.Resolve(id[:12]); err != nil || got != id {
				t.Errorf("Resolve(%s): got %s, %v; want %s", id[:12], got, err, id)
			}
		}
		return
	}
	t.Fatal("no two commits begin alike")
}

// Random histories, with crossed merges, against git merge-base --all.
func TestMergeBaseAsGitDoes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	repo := sourcetest.New(t)
	when := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 40 {
		var parents []string
		for range 1 + rnd.IntN(2) {
			if n := len(ids); n > 0 && rnd.IntN(12) > 0 {
				if p := ids[max(0, n-1-rnd.IntN(5))]; !slices.Contains(parents, p) {
					parents = append(parents, p)
				}
			}
		}
		if parents == nil {
			parents = []string{}
		}
		ids = append(ids, repo.Commit(sourcetest.Commit{Branch: "-", Parents: parents, Message: fmt.Sprint(i), When: when.Add(time.Duration(i/3) * time.Minute)}))
	}
	r, err := Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var several int
	for range 60 {
		a, b := ids[rnd.IntN(len(ids))], ids[rnd.IntN(len(ids))]
		out, _ := gitIn(t, repo.Dir, "merge-base", "--all", a, b)
		want := strings.Fields(out)
		if len(want) > 1 {
			several++
		}
		got, err := r.MergeBase(a, b)
		if len(want) == 0 {
			if !errors.Is(err, ErrNoMergeBase) {
				t.Errorf("seed %d: merge base of %s and %s: got %s, %v; want %v", seed, a, b, got, err, ErrNoMergeBase)
			}
			continue
		}
		if err != nil || !slices.Contains(want, got) {
			t.Errorf("seed %d: merge base of %s and %s: got %s, %v; want one of %s", seed, a, b, got, err, want)
		}
		if back, err := r.MergeBase(b, a); err != nil || back != got {
			t.Errorf("seed %d: merge base of %s and %s depends on their order: %s and %s (%v)", seed, a, b, got, back, err)
		}
	}
	t.Logf("%d of 60 pairs have several merge bases", several)
}

func FuzzResolve(f *testing.F) {
	repo := sourcetest.New(f)
	a := repo.Commit(sourcetest.Commit{})
	repo.Commit(sourcetest.Commit{})
	r, err := Open(repo.Dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"HEAD", "main~1", "~1", "^", "@{", "refs/../x", a[:7], "HEAD^{}", "\x00", "a b", "HEAD^2147483648"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rev string) {
		if id, err := r.Resolve(rev); err == nil {
			if _, err := r.Commit(id); err != nil {
				t.Errorf("%q resolves to %s, which is no commit: %v", rev, id, err)
			}
		}
	})
}
