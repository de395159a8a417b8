package source

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

// Random edits, branches and merges, against git blame. No line occurs twice, so
// that there is one answer.
func TestLastChangedAsGitDoes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	repo := sourcetest.New(t)
	n := 0
	fresh := func() string { n++; return fmt.Sprintf("line %d", n) }
	edit := func(lines []string) []string {
		lines = slices.Clone(lines)
		for range 1 + rnd.IntN(3) {
			i := rnd.IntN(len(lines))
			switch rnd.IntN(3) {
			case 0:
				lines = slices.Insert(lines, i, fresh(), fresh())
			case 1:
				lines[i] = fresh()
			case 2:
				if len(lines) > 5 {
					lines = slices.Delete(lines, i, i+1)
				}
			}
		}
		return lines
	}
	commit := func(lines []string, parents ...string) string {
		text := strings.Join(lines, "\n")
		if rnd.IntN(2) == 0 {
			text += "\n"
		}
		return repo.Commit(sourcetest.Commit{Parents: parents, Files: map[string]string{"d/rules.cue": text, "other": fmt.Sprint(rnd.Uint64())}})
	}
	var lines []string
	for range 12 {
		lines = append(lines, fresh())
	}
	head := commit(lines)
	for range 20 {
		before := head
		lines = edit(lines)
		head = commit(lines, before)
		if rnd.IntN(3) == 0 { // a merge whose branch added lines at the end
			branch := append(slices.Clone(lines), fresh(), fresh())
			side := commit(branch, before)
			lines = slices.Clone(branch)
			head = commit(lines, head, side)
		}
	}
	r, err := Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Blamer("main")
	if err != nil {
		t.Fatal(err)
	}
	out, err := gitIn(t, repo.Dir, "blame", "-s", "-l", "--root", "--no-abbrev", "main", "--", "d/rules.cue")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range strings.Split(out, "\n") {
		got, err := b.LastChanged("d/rules.cue", i+1)
		if err != nil || got.Commit != want[:40] {
			t.Errorf("seed %d: line %d: got %s, %v; want git's %s", seed, i+1, got.Commit, err, want)
		}
		if got.Email != "alice@acme.example" || got.When.IsZero() {
			t.Errorf("line %d: got origin %+v", i+1, got)
		}
	}
	for _, line := range []int{0, -1, len(lines) + 1} {
		if o, err := b.LastChanged("d/rules.cue", line); err == nil {
			t.Errorf("line %d: got %+v, want an error", line, o)
		}
	}
	for _, file := range []string{"none", "d", "d/rules.cue/x", "", "../x"} {
		if o, err := b.LastChanged(file, 1); err == nil {
			t.Errorf("file %q: got %+v, want an error", file, o)
		}
	}
}

// The length of a longest common subsequence by its recurrence, slowly.
func lcs(a, b []string) int {
	row := make([]int, len(b)+1)
	for _, x := range a {
		diagonal := 0
		for j, y := range b {
			above := row[j+1]
			if x == y {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

func FuzzCommonLines(f *testing.F) {
	f.Add("abcabba", "cbabac")
	f.Add("", "x")
	f.Add("aaaa", "aa")
	f.Add("abc", "abc")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := strings.Split(a[:min(len(a), 60)], ""), strings.Split(b[:min(len(b), 60)], "")
		same := commonLines(x, y)
		n, last := 0, -1
		for i, j := range same {
			if j < 0 {
				continue
			}
			if j <= last || j >= len(y) || x[i] != y[j] {
				t.Fatalf("%q and %q: %v is no common subsequence", x, y, same)
			}
			n, last = n+1, j
		}
		if want := lcs(x, y); n != want {
			t.Fatalf("%q and %q: got %d lines in common, want %d", x, y, n, want)
		}
	})
}
