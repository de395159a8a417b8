package rego

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writmesh/writ/cue/model"
)

// What is formatted is formatted to itself, and means the same.
func TestFormat(t *testing.T) {
	paths, err := filepath.Glob("../../examples/*/guard/*.rego")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no modules: %v", err)
	}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Format(path, source); err != nil || string(got) != string(source) {
			t.Errorf("%s is not formatted, %v:\n%s", path, err, got)
		}
	}
	ugly := "package   guard.g\nchecked:=1\n# why\ndeny contains   \"x\" if {input.commit.hash==\"1\"\n}"
	want := "package guard.g\n\nchecked := 1\n\n# why\ndeny contains \"x\" if input.commit.hash == \"1\"\n"
	got, err := Format("guard/g.rego", []byte(ugly))
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestFormatRefuses(t *testing.T) {
	for source, want := range map[string]string{
		"package guard.g\n\ndeny contains":   "guard/g.rego:3:",
		"":                                   "guard/g.rego:",
		strings.Repeat("#", maxFile+1):       "guard/g.rego: larger than 1048576 bytes",
		"package guard.g\n\nx := http.send(": "guard/g.rego:3:",
	} {
		out, err := Format("guard/g.rego", []byte(source))
		var problems model.Problems
		if !errors.As(err, &problems) || !strings.HasPrefix(err.Error(), want) || out != nil {
			t.Errorf("%.30q: got %q, %v; want %s", source, out, err, want)
		}
	}
}
