package build_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/sandbox"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/policy/source/sourcetest"
)

// tree is a policy of these files.
func tree(files map[string]string) source.Tree {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return source.Tree{FS: out}
}

// exampleFiles are the example's, by path.
func exampleFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(example), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(example, name))
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func mustBuild(t *testing.T, req build.Request) *build.Result {
	t.Helper()
	r, err := build.Build(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shuffledFS lists its directories in another order every time.
type shuffledFS struct {
	fs.FS
	r *rand.Rand
}

func (s shuffledFS) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(s.FS, name)
	s.r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	return entries, err
}

// TestSameFilesSameBytes builds the same files from a directory, from a Git
// commit, and from a file system that lists them in any order.
func TestSameFilesSameBytes(t *testing.T) {
	files := exampleFiles(t)
	dir, err := source.Dir(example)
	if err != nil {
		t.Fatal(err)
	}
	repo := sourcetest.New(t)
	repo.Commit(sourcetest.Commit{Files: files})
	r, err := source.Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := r.Tree("main")
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]source.Tree{"commit": revision}
	for i, name := range []string{"shuffled", "shuffled otherwise", "shuffled again"} {
		trees[name] = source.Tree{FS: shuffledFS{tree(files).FS, rand.New(rand.NewPCG(uint64(i), 1))}}
	}
	want := mustBuild(t, build.Request{Tree: dir})
	for name, tree := range trees {
		got := mustBuild(t, build.Request{Tree: tree})
		if got.Hashed.Root() != want.Hashed.Root() || got.Source != want.Source {
			t.Errorf("%s: got tree %s of source %s, want %s of %s", name, got.Hashed.Root(), got.Source, want.Hashed.Root(), want.Source)
		}
		if len(got.Leaves) != len(want.Leaves) {
			t.Fatalf("%s: got %d leaves, want %d", name, len(got.Leaves), len(want.Leaves))
		}
		for i, l := range got.Leaves {
			if l.Name != want.Leaves[i].Name || !bytes.Equal(l.Data, want.Leaves[i].Data) {
				t.Errorf("%s: got leaf %s %s, want %s %s", name, l.Name, l.Data, want.Leaves[i].Name, want.Leaves[i].Data)
			}
		}
	}
}

// TestVerdictIsTimed: a commit is judged at its own time, whatever the clock.
func TestVerdictIsTimed(t *testing.T) {
	repo := sourcetest.New(t)
	when := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	repo.Commit(sourcetest.Commit{Files: exampleFiles(t), When: when})
	r, err := source.Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := r.Tree("main")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustBuild(t, build.Request{Tree: revision}); !got.At.Equal(when) || !got.Difference.At.Equal(when) {
		t.Errorf("got judged at %s and %s, want %s", got.At, got.Difference.At, when)
	}
	other := when.Add(time.Hour)
	if got := mustBuild(t, build.Request{Tree: revision, At: other}); !got.At.Equal(other) {
		t.Errorf("got judged at %s, want %s", got.At, other)
	}
}

const openRule = `package network

rules: open: {from: ["group:accounting"], to: ["tag:accounting"], allow: ["*"], why: "test"}
`

func TestGuardsOfTheBaseStillJudge(t *testing.T) {
	base := exampleFiles(t)
	for _, c := range []struct {
		name   string
		base   map[string]string // files beside the example's, of both
		change map[string]string // "" removes the file
		want   []string          // "guard: message", with " (base)" for the base's
	}{
		{name: "unchanged", change: map[string]string{"open.cue": openRule},
			want: []string{`star: rule "open" opens every port of tag:accounting`}},
		{name: "removed", change: map[string]string{"open.cue": openRule, "guard/star.rego": ""},
			want: []string{`star: rule "open" opens every port of tag:accounting (base)`}},
		{name: "disarmed", change: map[string]string{"open.cue": openRule, "guard/star.rego": strings.Replace(base["guard/star.rego"], `"*"`, `"nothing"`, 1)},
			want: []string{`star: rule "open" opens every port of tag:accounting (base)`}},
		{name: "moved", change: map[string]string{"open.cue": openRule, "guard/star.rego": "", "guard/moon.rego": strings.Replace(base["guard/star.rego"], "guard.star", "guard.moon", 1)},
			want: []string{`moon: rule "open" opens every port of tag:accounting`, `star: rule "open" opens every port of tag:accounting (base)`}},
		{name: "what it refers to changed",
			base: map[string]string{
				"guard/list.rego": "package guard.list\n\nchecked := 1\n\nforbidden := {\"*\"}\n\ndeny contains \"nothing is forbidden\" if count(forbidden) == 0\n",
				"guard/uses.rego": "package guard.uses\n\nchecked := count(input.network.rules)\n\ndeny contains msg if {\n\tsome rule in input.network.rules\n\tsome a in rule.allow\n\ta.text in data.guard.list.forbidden\n\tmsg := sprintf(\"rule %q is forbidden\", [rule.name])\n}\n",
			},
			change: map[string]string{"open.cue": openRule, "guard/star.rego": "",
				"guard/list.rego": "package guard.list\n\nchecked := 1\n\nforbidden := {\"icmp4\"}\n\ndeny contains \"nothing is forbidden\" if count(forbidden) == 0\n"},
			want: []string{`star: rule "open" opens every port of tag:accounting (base)`, `uses: rule "open" is forbidden (base)`}},
		{name: "its test removed", base: map[string]string{"guard/star_test.rego": "package guard.star_test\n\ntest_x if true\n"},
			change: map[string]string{"guard/star_test.rego": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := maps.Clone(base)
			maps.Copy(old, c.base)
			files := maps.Clone(old)
			for name, text := range c.change {
				if files[name] = text; text == "" {
					delete(files, name)
				}
			}
			head := mustBuild(t, build.Request{Tree: tree(files), Base: mustBuild(t, build.Request{Tree: tree(old)})})
			var got []string
			for _, f := range head.Denied() {
				text := f.Guard + ": " + f.Message
				if f.Base {
					text += " (base)"
				}
				got = append(got, text)
			}
			slices.Sort(got)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("denied (-want +got):\n%s", d)
			}
		})
	}
}

func TestProblemsOfBothKindsSortedByPlace(t *testing.T) {
	files := exampleFiles(t)
	files["a.cue"] = "package network\n\nrules: bad: {from: [\"group:nobody\"], to: [\"*\"], allow: [\"icmp\"]}\n"
	files["guard/b.rego"] = "package guard.b\n\nchecked := 1\n\ndeny contains \"no\" if input.netwrok\n"
	files["z.cue"] = "package network\n\ngroups: zoo: [\"group:lions\"]\n"
	_, err := build.Build(t.Context(), build.Request{Tree: tree(files)})
	var ps model.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v, want problems", err)
	}
	var got []string
	for _, p := range ps {
		got = append(got, p.Place.String()+": "+p.Message)
	}
	want := []string{
		`a.cue:3:21: rule "bad": unknown group "nobody"`,
		`guard/b.rego:5:23: undefined ref: input.netwrok`,
		`z.cue:3:15: group "zoo": unknown group "lions"`,
	}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d: got %q, want %q", i, got[i], want[i])
		}
	}
}

// TestBombsEnd: what would never end, or take all memory, is told as a limit, or
// as a problem of the policy; and nothing of it stays behind.
func TestBombsEnd(t *testing.T) {
	numbers := strings.Repeat("0,", 3000)
	for name, files := range map[string]map[string]string{
		"CUE": {"bomb.cue": "package network\n\n_n: [" + numbers + "]\n_x: [for a in _n for b in _n for c in _n {a + b + c}]\ngroups: {for i, v in _x {\"g\\(i)\": []}}\n"},
		"Rego": {"guard/bomb.rego": `package guard.bomb

checked := 1

deny contains "no" if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	some c in numbers.range(1, 100000)
	a * b == c + 0.5
}
`},
	} {
		t.Run(name, func(t *testing.T) {
			all := exampleFiles(t)
			maps.Copy(all, files)
			_, err := build.Build(t.Context(), build.Request{Tree: tree(all), Limits: sandbox.Limits{CPU: time.Second, Wall: 3 * time.Second}})
			var failure *sandbox.Failure
			var problems model.Problems
			switch {
			case errors.As(err, &failure):
				if failure.Kind == sandbox.ErrCrashed || !strings.HasPrefix(failure.Error(), "policy evaluation ") {
					t.Errorf("got %v (%v), want the limit that ended it", err, failure.Kind)
				}
			case errors.As(err, &problems):
			default:
				t.Errorf("got %v, want a limit or problems", err)
			}
			t.Log(err)
		})
	}
}

func TestBuildStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := build.Build(ctx, build.Request{Tree: tree(exampleFiles(t))}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestOriginsKeepTheCommitThatChangedARule follows one rule through a commit that
// moves it and one that changes what it means.
func TestOriginsKeepTheCommitThatChangedARule(t *testing.T) {
	repo := sourcetest.New(t)
	files := exampleFiles(t)
	commit := func(author string) build.Request {
		t.Helper()
		id := repo.Commit(sourcetest.Commit{Files: files, Author: author})
		r, err := source.Open(repo.Dir)
		if err != nil {
			t.Fatal(err)
		}
		revision, err := r.Tree(id)
		if err != nil {
			t.Fatal(err)
		}
		return build.Request{Tree: revision}
	}
	check := func(o *build.Origins, rule, place, commit, author string) {
		t.Helper()
		got := o.Rules[rule]
		if got.Place != place || got.Commit != commit || got.Author != author {
			t.Errorf("origin of %s: got %s, %s by %s, want %s, %s by %s", rule, got.Place, got.Commit, got.Author, place, commit, author)
		}
	}
	first := mustBuild(t, commit("Alice <alice@acme.example>"))
	one := first.Origins(nil)
	check(one, "accounting-web", "rules.cue:6", first.Tree.Commit.Hash, "alice@acme.example")

	files["rules.cue"] = "// Moved by a line.\n" + files["rules.cue"]
	second := mustBuild(t, commit("Bob <bob@acme.example>"))
	b, err := one.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := build.ParseOrigins(b)
	if err != nil {
		t.Fatal(err)
	}
	two := second.Origins(read)
	check(two, "accounting-web", "rules.cue:7", first.Tree.Commit.Hash, "alice@acme.example")

	files["rules.cue"] = strings.Replace(files["rules.cue"], `"tcp/80"`, `"tcp/81"`, 1)
	third := mustBuild(t, commit("Carol <carol@acme.example>"))
	three := third.Origins(two)
	check(three, "accounting-web", "rules.cue:7", third.Tree.Commit.Hash, "carol@acme.example")
	check(three, "it-ping", "rules.cue:15", first.Tree.Commit.Hash, "alice@acme.example")
}

// TestOriginsOfRulesBehindRoutes: what a rule gives behind a router is of the commit
// that last changed it, which may be one that moved a host or approved a route.
func TestOriginsOfRulesBehindRoutes(t *testing.T) {
	repo := sourcetest.New(t)
	files := exampleFiles(t)
	files["routes.cue"] = "package network\n\ntags: office: {}\nhosts: erp: \"10.20.0.5\"\nroutes: \"10.20.0.0/16\": via: [\"tag:office\"]\nrules: erp: {from: [\"group:accounting\"], to: [\"host:erp\"], allow: [\"tcp/1433\"], why: \"ERP-1\"}\n"
	var before *build.Origins
	origin := func() (commit, rule string) {
		t.Helper()
		id := repo.Commit(sourcetest.Commit{Files: files})
		r, err := source.Open(repo.Dir)
		if err != nil {
			t.Fatal(err)
		}
		revision, err := r.Tree(id)
		if err != nil {
			t.Fatal(err)
		}
		before = mustBuild(t, build.Request{Tree: revision}).Origins(before)
		return revision.Commit.Hash, before.Rules["erp"].Commit
	}
	first, got := origin()
	if got != first {
		t.Errorf("new rule: got commit %s, want %s", got, first)
	}
	files["routes.cue"] += "\n// Nothing else.\n"
	if _, got = origin(); got != first {
		t.Errorf("a comment: got commit %s, want %s", got, first)
	}
	files["routes.cue"] = strings.Replace(files["routes.cue"], "10.20.0.5", "10.20.0.6", 1)
	moved, got := origin()
	if got != moved {
		t.Errorf("another host: got commit %s, want %s", got, moved)
	}
	files["routes.cue"] = strings.Replace(files["routes.cue"], "10.20.0.0/16", "10.20.0.0/24", 1)
	if routed, got := origin(); got != routed {
		t.Errorf("another route: got commit %s, want %s", got, routed)
	}
}
