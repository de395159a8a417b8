package source

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

// A main line of four commits, the third a merge; times are a day apart.
func mainline(t *testing.T) (*Repository, []string) {
	repo := sourcetest.New(t)
	day := func(n int) time.Time { return time.Date(2026, 1, n, 12, 0, 0, 0, time.UTC) }
	files := func(rules, readme string) map[string]string {
		return map[string]string{"p/rules.cue": rules, "p/README.md": readme, "p/trust/root.json": readme, "other.cue": readme}
	}
	first := repo.Commit(sourcetest.Commit{Files: files("a", "1"), When: day(1)})
	side := repo.Commit(sourcetest.Commit{Parents: []string{first}, Files: files("b", "2"), When: day(2)})
	second := repo.Commit(sourcetest.Commit{Parents: []string{first}, Files: files("a", "3"), When: day(3)})
	merge := repo.Commit(sourcetest.Commit{Parents: []string{second, side}, Files: files("b", "4"), When: day(4)})
	last := repo.Commit(sourcetest.Commit{Parents: []string{merge}, Files: files("a", "5"), When: day(5)})
	repo.SetBranch("main", last)
	r, err := Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	r.sub = "p"
	return r, []string{last, merge, second, first}
}

func TestMainline(t *testing.T) {
	r, want := mainline(t)
	var got []string
	for c, err := range r.Mainline("main") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c.Hash)
	}
	if !slices.Equal(got, want) {
		t.Errorf("mainline: got %v, want %v", got, want)
	}
	for _, err := range r.Mainline("nothing") {
		if !errors.Is(err, ErrUnknownRevision) {
			t.Errorf("mainline of no revision: got %v, want %v", err, ErrUnknownRevision)
		}
	}
}

func TestAsOf(t *testing.T) {
	r, line := mainline(t)
	for _, x := range []struct {
		at   time.Time
		want string
	}{
		{time.Date(2026, 1, 9, 0, 0, 0, 0, time.UTC), line[0]},
		{time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC), line[0]},
		{time.Date(2026, 1, 5, 11, 59, 59, 0, time.UTC), line[1]},
		{time.Date(2026, 1, 2, 23, 0, 0, 0, time.UTC), line[3]}, // the side branch is not on the line
	} {
		c, err := r.AsOf("main", x.at)
		if err != nil || c.Hash != x.want {
			t.Errorf("as of %s: got %s, %v, want %s", x.at, c.Hash, err, x.want)
		}
	}
	if _, err := r.AsOf("main", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)); !errors.Is(err, ErrTooEarly) {
		t.Errorf("as of a year before: got %v, want %v", err, ErrTooEarly)
	}
}

// Only what a policy is made of counts, and only below the repository's place.
func TestPolicyHash(t *testing.T) {
	r, line := mainline(t)
	var hashes []string
	for _, id := range line {
		c, err := r.Commit(id)
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.PolicyHash(c)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h.String())
	}
	if hashes[0] != hashes[2] || hashes[2] != hashes[3] {
		t.Errorf("the same rules.cue: got %v, want the first, third and fourth equal", hashes)
	}
	if hashes[0] == hashes[1] {
		t.Error("another rules.cue: got the same hash, want another")
	}
}
