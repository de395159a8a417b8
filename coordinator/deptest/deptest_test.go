package deptest

import (
	"slices"
	"strings"
	"testing"
)

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/b/...", "a/b", true},
		{"a/b/...", "a/b/c", true},
		{"a/b/...", "a/bc", false},
		{"a/b/...", "a", false},
	}
	for _, tt := range tests {
		if got := Matches(tt.pattern, tt.path); got != tt.want {
			t.Errorf("Matches(%q, %q) = %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
	}
}

// Load is tried on this package itself, whose imports stand above.
func TestLoad(t *testing.T) {
	got := Load(t, false, "./coordinator/deptest")
	if len(got) != 1 {
		t.Fatalf("Load returned %d packages, want 1", len(got))
	}
	p := got[0]
	if p.Name != "deptest" || Rel(p.ImportPath) != "coordinator/deptest" || !p.Own() || p.Standard {
		t.Errorf("Load = %+v, want this package", p)
	}
	if !slices.Contains(p.Imports, "os/exec") {
		t.Errorf("imports = %q, want os/exec among them", p.Imports)
	}
	if !slices.Contains(p.TestImports, "slices") {
		t.Errorf("test imports = %q, want slices among them", p.TestImports)
	}

	withDeps := Load(t, true, "./coordinator/deptest")
	i := slices.IndexFunc(withDeps, func(p Package) bool { return p.ImportPath == "os/exec" })
	if i < 0 || !withDeps[i].Standard {
		t.Errorf("with dependencies, os/exec is missing or not standard among %d packages", len(withDeps))
	}
}

func TestLoadNothing(t *testing.T) {
	if got := Load(t, false, "./coordinator/deptest/nothing/..."); len(got) != 0 {
		t.Errorf("Load of no package = %v, want none", got)
	}
}

func TestListProblems(t *testing.T) {
	linked := []Package{
		{ImportPath: "fmt", Standard: true},
		{ImportPath: Module + "/agent", Imports: []string{"fmt", "example.com/good/sub", "example.com/bad", "example.com/new"}},
		{ImportPath: "example.com/good/sub"},
		{ImportPath: "example.com/bad"},
		{ImportPath: "example.com/new"},
		{ImportPath: Module + "/policy/rego"},
	}
	l := List{
		Allowed: map[string]string{
			"agent/...":            "itself",
			"example.com/good/...": "it is good",
			"example.com/bad":      "somebody thought so",
		},
		Forbidden: map[string]string{
			"example.com/bad/...": "it is bad",
			"policy/...":          "agents do not read policy",
		},
	}
	want := []string{
		"example.com/bad is linked (imported by agent), and must not be: it is bad",
		"example.com/new is linked (imported by agent), and is not on the list",
		"policy/rego is linked (imported by ), and must not be: agents do not read policy",
	}
	got := l.problems(linked)
	if len(got) != len(want) {
		t.Fatalf("problems = %q, want %d", got, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d = %q, want it to begin %q", i, got[i], want[i])
		}
	}
}
