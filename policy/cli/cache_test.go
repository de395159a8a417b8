package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source"
)

// TestMain keeps answers of this package's tests apart from the user's.
func TestMain(m *testing.M) {
	build.Child()
	dir, err := os.MkdirTemp("", "writ-cli-test-")
	if err == nil {
		err = os.Setenv("XDG_CACHE_HOME", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// cached is a cache in a folder of the test's own.
func cached(t *testing.T) *cache {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	c := openCache()
	if c.dir == "" {
		t.Fatal("there is no cache")
	}
	return c
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func result(p *model.Policy) *build.Result { return &build.Result{At: noon, Policy: p} }

func keyOf(c *cache, verb string, files map[string]string, commit *source.Commit, inventory []byte) string {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return c.key(verb, source.Tree{FS: fsys, Commit: commit}, inventory)
}

// TestCacheKey holds that all that an answer depends on is in its name.
func TestCacheKey(t *testing.T) {
	c := cached(t)
	seen := map[string]string{}
	note := func(what, key string) {
		t.Helper()
		if before, ok := seen[key]; ok || key == "" {
			t.Errorf("%s has the key %q, as %s", what, key, before)
		}
		seen[key] = what
	}
	files := map[string]string{"a.cue": "a", "b.cue": "b"}
	note("the files", keyOf(c, "check", files, nil, nil))
	note("another verb", keyOf(c, "test", files, nil, nil))
	note("another content", keyOf(c, "check", map[string]string{"a.cue": "b", "b.cue": "b"}, nil, nil))
	note("another name", keyOf(c, "check", map[string]string{"a.cue": "a", "c.cue": "b"}, nil, nil))
	note("content moved", keyOf(c, "check", map[string]string{"a.cue": "b", "b.cue": "a"}, nil, nil))
	note("a commit", keyOf(c, "check", files, &source.Commit{Hash: "1"}, nil))
	note("another commit", keyOf(c, "check", files, &source.Commit{Hash: "2"}, nil))
	note("its message", keyOf(c, "check", files, &source.Commit{Hash: "2", Message: "x"}, nil))
	note("an inventory", keyOf(c, "check", files, nil, []byte("{}")))
	note("an empty inventory", keyOf(c, "check", files, nil, []byte{}))
	other := *c
	other.build = "another"
	note("another program", keyOf(&other, "check", files, nil, nil))
	if got, want := keyOf(c, "check", files, nil, nil), keyOf(openCache(), "check", files, nil, nil); got != want {
		t.Errorf("the same question: got %s, want %s", got, want)
	}
}

// TestCacheTime holds that an answer is given while nothing ends or begins.
func TestCacheTime(t *testing.T) {
	hour := func(h int) time.Time { return noon.Add(time.Duration(h) * time.Hour) }
	office := acl.Hours{{Days: acl.EveryDay, Start: 9 * 60, End: 14 * 60, Zone: "UTC"}}
	for name, c := range map[string]struct {
		policy model.Policy
		until  time.Time
	}{
		"for ever":    {model.Policy{}, time.Time{}},
		"past":        {model.Policy{Rules: []model.Rule{{Until: hour(-1)}}}, time.Time{}},
		"a rule":      {model.Policy{Rules: []model.Rule{{Until: hour(5)}, {Until: hour(3)}}}, hour(3)},
		"a member":    {model.Policy{Rules: []model.Rule{{Until: hour(5)}}, Groups: []model.Group{{Members: []model.Member{{Until: hour(4)}}}}}, hour(4)},
		"a key":       {model.Policy{Enrolment: []model.Enrolment{{Expires: hour(1)}}}, hour(1)},
		"hours":       {model.Policy{Rules: []model.Rule{{Hours: office}}}, hour(2)},
		"now it ends": {model.Policy{Rules: []model.Rule{{Until: noon}}}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			k := cached(t)
			k.put("x", result(&c.policy), "answer")
			for at, want := range map[time.Time]bool{
				noon: true, noon.Add(-time.Second): false, noon.Add(59 * time.Minute): true,
				hour(24 * 365): c.until.IsZero(),
			} {
				var got string
				if ok := k.get("x", at, &got); ok != want || ok && got != "answer" {
					t.Errorf("at %s: got %t %q, want %t", at, ok, got, want)
				}
			}
			if !c.until.IsZero() {
				var got string
				if !k.get("x", c.until.Add(-time.Second), &got) || k.get("x", c.until, &got) {
					t.Errorf("it does not end at %s", c.until)
				}
			}
		})
	}
}

// TestCacheDamage changes and cuts an entry at every byte: it is no answer then.
func TestCacheDamage(t *testing.T) {
	c := cached(t)
	c.put("x", result(&model.Policy{}), []string{"answer"})
	name := filepath.Join(c.dir, "x")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range whole {
		for what, b := range map[string][]byte{"changed": bytes.Replace(whole, whole[i:i+1], []byte{whole[i] ^ 1}, 1), "cut": whole[:i]} {
			if what == "changed" {
				b = bytes.Clone(whole)
				b[i] ^= 1
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.get("x", noon, &got) {
				t.Fatalf("%s at %d: got %q", what, i, got)
			}
		}
	}
	if err := os.WriteFile(name, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if !c.get("x", noon, &got) || len(got) != 1 {
		t.Errorf("whole again: got %q", got)
	}
	var other struct{ Another int }
	if c.get("x", noon, &other) {
		t.Error("an answer of another shape is taken")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := cached(t)
	for i := range maxEntries + 20 {
		c.put(fmt.Sprint("k", i), result(&model.Policy{}), i)
		when := noon.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(filepath.Join(c.dir, fmt.Sprint("k", i)), when, when); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) > maxEntries {
		t.Errorf("%d entries, %v; want at most %d", len(entries), err, maxEntries)
	}
	var got int
	if last := maxEntries + 19; !c.get(fmt.Sprint("k", last), noon, &got) || got != last {
		t.Errorf("the last entry: got %d", got)
	}
	c.put("large", result(&model.Policy{}), string(make([]byte, maxEntry)))
	if _, err := os.Stat(filepath.Join(c.dir, "large")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an answer above the limit is kept: %v", err)
	}
}

// TestCacheOfSomebodyElse holds that a folder which others may write is not used.
func TestCacheOfSomebodyElse(t *testing.T) {
	c := cached(t)
	if err := os.Chmod(c.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if got := openCache(); got.dir != "" {
		t.Errorf("%s is used, which everybody may write", got.dir)
	}
	if err := os.Remove(c.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), c.dir); err != nil {
		t.Fatal(err)
	}
	if got := openCache(); got.dir != "" {
		t.Errorf("%s is used, which is a link", got.dir)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", filepath.Join(t.TempDir(), "none"))
	if got := openCache(); got.dir != "" {
		t.Errorf("%s is made in a home that is not there", got.dir)
	}
}

func TestCacheAtOnce(t *testing.T) {
	c := cached(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				key := fmt.Sprint("k", n%3)
				c.put(key, result(&model.Policy{}), key)
				var got string
				if c.get(key, noon, &got) && got != key {
					t.Errorf("%d: got %q of %q", i, got, key)
				}
			}
		})
	}
	all.Wait()
}

// TestSecondAnswerIsKept asks twice about the example. The second time nothing can
// be evaluated any more, and the answer is the same in every byte; without the cache
// there is none.
func TestSecondAnswerIsKept(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "policy")
	if err := os.CopyFS(dir, os.DirFS("../../examples/accounting")); err != nil {
		t.Fatal(err)
	}
	inventory := filepath.Join(t.TempDir(), "inventory.json")
	if err := os.WriteFile(inventory, []byte(`{"nodes": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	run := func(ctx context.Context, args ...string) (string, int) {
		var out, errs bytes.Buffer
		code := Run(ctx, "devel", append(args, dir), &out, &errs)
		return out.String(), code
	}
	for _, verb := range [][]string{{"check", "--json"}, {"test", "--json"}, {"test", "--json", "--inventory", inventory}, {"test", "--json", "--coverage"}, {"test", "--coverage", "--coverage-threshold", "100"}} {
		if _, code := run(ended, verb...); code != unknown {
			t.Fatalf("%v: exit code %d before anything is kept, want %d", verb, code, unknown)
		}
		want, code := run(t.Context(), verb...)
		if want == "" || len(verb) > 1 && verb[1] == "--json" && !json.Valid([]byte(want)) || code == unknown {
			t.Fatalf("%v: exit code %d: %s", verb, code, want)
		}
		got, again := run(ended, verb...)
		if d := cmp.Diff(want, got); d != "" || again != code {
			t.Errorf("%v: exit codes %d and %d, first -, second +:\n%s", verb, code, again, d)
		}
		if _, code := run(ended, append(verb, "--no-cache")...); code != unknown {
			t.Errorf("%v --no-cache: exit code %d, want %d", verb, code, unknown)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "more.cue"), []byte("package network\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, code := run(ended, "check", "--json"); code != unknown {
		t.Errorf("with another file: exit code %d, want %d", code, unknown)
	}
}
