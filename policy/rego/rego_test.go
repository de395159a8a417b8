package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/writmesh/writ/cue/model"
)

// testInput is testdata/input.json: a small policy, and a commit that gives bob
// access.
func testInput(t testing.TB) Input {
	t.Helper()
	b, err := os.ReadFile("testdata/input.json")
	if err != nil {
		t.Fatal(err)
	}
	var in Input
	if err := strict(b, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

// TestGuards runs each testdata/*.txtar: guards in, result or problems out.
// UPDATE=1 rewrites what is wanted.
func TestGuards(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tree, want, at := fstest.MapFS{}, "", -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want, at = string(f.Data), i
					continue
				}
				tree[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			got := outcome(t, tree)
			if os.Getenv("UPDATE") != "" {
				if at < 0 {
					archive.Files, at = append(archive.Files, txtar.File{Name: "want"}), len(archive.Files)
				}
				archive.Files[at].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// outcome is the result as indented JSON, or the problems.
func outcome(t *testing.T, tree fstest.MapFS) string {
	t.Helper()
	files, err := Files(tree)
	if err != nil {
		return err.Error() + "\n"
	}
	result, err := Evaluate(t.Context(), files, testInput(t))
	if err != nil {
		var problems model.Problems
		if !errors.As(err, &problems) {
			t.Errorf("an error without a place: %v", err)
		}
		return err.Error() + "\n"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(result); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// source is a guard of these lines, without its head.
func source(lines ...string) map[string][]byte {
	return map[string][]byte{"guard/g.rego": []byte("package guard.g\n\nchecked := 1\n\n" + strings.Join(lines, "\n"))}
}

// Comprehensions are nested as deep as the compiler bears, and no deeper: its time
// grows with each level by a factor.
func TestNestedComprehensions(t *testing.T) {
	for _, open := range []string{"[x | x := ", "{x | x := ", "{x: x | x := "} {
		shut := map[byte]string{'[': "]", '{': "}"}[open[0]]
		nested := func(n int) map[string][]byte {
			return source(`deny contains "x" if ` + strings.Repeat(open, n) + "input.commit.hash" + strings.Repeat(shut, n) + " == 1")
		}
		if _, err := Compile(nested(maxClosures)); err != nil && strings.Contains(err.Error(), "nested") {
			t.Errorf("%s %d deep: %v", open, maxClosures, err)
		}
		_, err := Compile(nested(40))
		if want := "comprehensions and every are nested more than 4 deep"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s 40 deep: got %v, want %s", open, err, want)
		}
	}
	_, err := Compile(source("deny contains \"x\" if {\n\t" + strings.Repeat("every x in input.commit.parents {\n", 5) + "x == 1" + strings.Repeat("}", 5) + "\n}"))
	if err == nil || !strings.Contains(err.Error(), "nested more than 4 deep") {
		t.Errorf("every: got %v, want it refused", err)
	}
}
