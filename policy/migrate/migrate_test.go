package migrate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func entries(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteLeavesAllOrNothing(t *testing.T) {
	r := &Result{Files: []File{{"a.cue", []byte("a")}, {"b.cue", []byte("b")}}}
	parent := t.TempDir()
	dir := filepath.Join(parent, "new", "deep")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"a.cue", "b.cue"}) {
		t.Errorf("a missing directory: got %v", got)
	}
	if got := entries(t, filepath.Join(parent, "new")); !slices.Equal(got, []string{"deep"}) {
		t.Errorf("beside it: got %v, want deep alone", got)
	}
	if err := r.Write(dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("again: got %v, want that it is not empty", err)
	}
	repo := filepath.Join(parent, "repo")
	if err := os.MkdirAll(filepath.Join(repo, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	bad := &Result{Files: append(slices.Clone(r.Files), File{"a.cue", []byte("twice")})}
	if err := bad.Write(repo); err == nil {
		t.Error("a file twice: got no error")
	}
	if got := entries(t, repo); !slices.Equal(got, []string{".git"}) {
		t.Errorf("after a failure: got %v, want .git alone", got)
	}
	if err := r.Write(repo); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, repo); !slices.Equal(got, []string{".git", "a.cue", "b.cue"}) {
		t.Errorf("a repository: got %v", got)
	}
}

// With Partial, what is left out never widens access.
func TestPartialNeverWidens(t *testing.T) {
	for _, test := range []struct{ name, src string }{
		{"posture", `{"postures": {"posture:a": ["ip:country == 'DE'"]}, "acls": [{"action": "accept", "src": ["a@b.example"], "dst": ["*:*"], "srcPosture": ["posture:a"]}]}`},
		{"default posture", `{"postures": {"posture:a": ["ip:country == 'DE'"]}, "defaultSrcPosture": ["posture:a"], "acls": [{"action": "accept", "src": ["a@b.example"], "dst": ["*:*"]}]}`},
		{"via", `{"tagOwners": {"tag:r": []}, "grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": ["tag:r"]}]}`},
		{"source", `{"acls": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["*:*"]}]}`},
		{"ipset", `{"ipsets": {"ipset:a": ["10.0.0.0/8", "remove autogroup:internet"]}, "acls": [{"action": "accept", "src": ["*"], "dst": ["ipset:a:*"]}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Tailscale([]byte(test.src), Options{File: "f"}); err == nil || !strings.Contains(err.Error(), "cannot be carried over") {
				t.Errorf("without Partial: got %v, want that it cannot be carried over", err)
			}
			r, err := Tailscale([]byte(test.src), Options{File: "f", Partial: true})
			if err != nil {
				t.Fatal(err)
			}
			p, _ := loadResult(t, r)
			if len(p.Rules) > 0 {
				t.Errorf("got %d rules, want none:\n%s", len(p.Rules), all(r))
			}
			if len(r.NotCarried) == 0 || !strings.Contains(all(r), "// not carried over: ") {
				t.Errorf("it is not told that something was left out:\n%s", all(r))
			}
		})
	}
}
