package rego

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/sandbox"
)

// archives runs each archive of a directory: outcome of its files against what
// is wanted. UPDATE=1 rewrites that.
func archives(t *testing.T, pattern string, outcome func(t *testing.T, files map[string][]byte) (any, error)) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
			files := make(map[string][]byte)
			for _, f := range archive.Files {
				files[f.Name] = f.Data
			}
			got := ""
			if v, err := outcome(t, files); err != nil {
				got = err.Error() + "\n"
			} else {
				var b strings.Builder
				e := json.NewEncoder(&b)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				if err := e.Encode(v); err != nil {
					t.Fatal(err)
				}
				got = b.String()
			}
			archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(got)})
			now := txtar.Format(archive)
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(path, now, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(was) != string(now) {
				_, want, _ := strings.Cut(string(was), "-- want --\n")
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestGenerators runs each testdata/generate/*.txtar: generators in, rules or
// problems out.
func TestGenerators(t *testing.T) {
	archives(t, "testdata/generate/*.txtar", func(t *testing.T, files map[string][]byte) (any, error) {
		if err := CheckTests(files); err != nil {
			return nil, err
		}
		rules, warnings, err := generate(t.Context(), files, testInput(t).Network)
		return map[string]any{"rules": rules, "warnings": warnings}, err
	})
}

// TestTests runs each testdata/tests/*.txtar: guards, generators and their tests
// in; what became of the tests out.
func TestTests(t *testing.T) {
	archives(t, "testdata/tests/*.txtar", func(t *testing.T, files map[string][]byte) (any, error) {
		return RunTests(t.Context(), files, true)
	})
}

// The same policy gives the same rules, and the child gives what this process
// gives.
func TestGenerateIsDeterministic(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/generate/yields.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, ".rego") {
			files[f.Name] = f.Data
		}
	}
	network := testInput(t).Network
	first := ""
	say := func(rules []model.Rule, warnings model.Problems, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal([]any{rules, warnings})
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(b)
		}
		if string(b) != first {
			t.Fatalf("got %s, then %s", first, b)
		}
	}
	for range 5 {
		say(generate(t.Context(), files, network))
	}
	first = normal(t, first) // a model from JSON has no empty lists
	rules, warnings, err := Generate(t.Context(), child(t, sandbox.Limits{}), files, network)
	say(rules, warnings, err)
}

// Rules that are computed are part of the policy as written ones are.
func TestComputedRulesAreChecked(t *testing.T) {
	network := *testInput(t).Network
	network.Tags = []model.Tag{{Name: "accounting"}}
	generator := func(to string) map[string][]byte {
		return map[string][]byte{"generate/g.rego": fmt.Appendf(nil, "package generate.g\n\nrules[\"x\"] := {\"from\": [\"group:accounting\"], \"to\": [%q], \"allow\": [\"tcp/443\"], \"origin\": input.network.groups[0].place}", to)}
	}
	rules, _, err := generate(t.Context(), generator("tag:accounting"), &network)
	if err != nil {
		t.Fatal(err)
	}
	with, err := network.With(rules...)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(with.Rules, func(r model.Rule) bool { return r.Name == "x" })
	if at < 0 {
		t.Fatalf("got rules %+v, want x among them", with.Rules)
	}
	x := with.Rules[at]
	if want := (model.Place{File: "generate/g.rego", Line: 3, Col: 1}); x.Place != want || x.From[0].Place != want {
		t.Errorf("got place %v and %v, want %v", x.Place, x.From[0].Place, want)
	}
	if want := []model.Place{network.Groups[0].Place}; !slices.Equal(x.Origin, want) {
		t.Errorf("got origin %v, want %v", x.Origin, want)
	}
	if len(x.Ports) != 1 || x.Ports[0].String() != "tcp/443" {
		t.Errorf("got ports %v, want tcp/443", x.Ports)
	}
	if rules, _, err = generate(t.Context(), generator("tag:acounting"), &network); err != nil {
		t.Fatal(err)
	}
	_, err = network.With(rules...)
	if want := `generate/g.rego:3:1: rule "x": unknown tag "acounting"; did you mean "accounting"?`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTooManyComputedRules(t *testing.T) {
	for n, ok := range map[int]bool{maxComputed: true, maxComputed + 1: false} {
		files := map[string][]byte{"generate/g.rego": fmt.Appendf(nil, "package generate.g\n\nrules[sprintf(\"r%%d\", [n])] := {\"from\": [\"*\"]} if some n in numbers.range(1, %d)", n)}
		g, err := CompileGenerators(files)
		if err != nil {
			t.Fatal(err)
		}
		rules, _, err := g.Yield(t.Context(), testInput(t).Network)
		if want := "generate/g.rego: more than 20000 computed rules"; !ok && (err == nil || err.Error() != want) {
			t.Errorf("%d rules: got %v, want %s", n, err, want)
		} else if ok && (err != nil || len(rules) != n) {
			t.Errorf("%d rules: got %d, %v", n, len(rules), err)
		}
	}
}

// A generator that does not end is stopped by its name.
func TestGeneratorThatDoesNotEnd(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 0, errSlow)
	defer cancel()
	g, err := CompileGenerators(map[string][]byte{"generate/g.rego": []byte("package generate.g\n\nrules[\"x\"] := {}")})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = g.Yield(ctx, testInput(t).Network)
	if want := "generate/g.rego: generator g does not end: the generators together may take 10s"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzGenerate(f *testing.F) {
	paths, err := filepath.Glob("testdata/generate/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(string(file.Data))
		}
	}
	network := testInput(f).Network
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) > 1<<10 {
			return
		}
		files := map[string][]byte{"generate/x.rego": []byte(source)}
		g, err := CompileGenerators(files)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), maxTime)
		defer cancel()
		rules, _, err := g.Yield(ctx, network)
		if err != nil {
			return
		}
		read, _, err := network.Computed(rules)
		if err != nil {
			return
		}
		names := make(map[string]bool)
		for _, r := range read {
			names[r.Name] = true
		}
		if len(names) != len(rules) {
			t.Errorf("%d rules were yielded, these were read: %v", len(rules), slices.Sorted(maps.Keys(names)))
		}
	})
}

func normal(t *testing.T, s string) string {
	t.Helper()
	var rules []model.Rule
	var warnings model.Problems
	if err := json.Unmarshal([]byte(s), &[]any{&rules, &warnings}); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal([]any{rules, warnings})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
