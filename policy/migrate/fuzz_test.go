package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"

	"github.com/writmesh/writ/cue/model"
)

// seeds are the files of the semantic cases.
func seeds(f *testing.F, name string) {
	names, err := filepath.Glob("testdata/semantics/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, path := range names {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(b).Files {
			if file.Name == name {
				f.Add(file.Data, false)
				f.Add(file.Data, true)
				n++
			}
		}
	}
	if n == 0 {
		f.Fatalf("no seeds named %s", name)
	}
}

// imports checks that an import does not panic, that its errors are problems, and
// that what comes out loads.
func imports(t *testing.T, from func([]byte, Options) (*Result, error), src []byte, partial bool) {
	r, err := from(src, Options{File: "f", Users: "users.example", Partial: partial})
	if err != nil {
		var ps model.Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("got the error %v (%T), want problems", err, err)
		}
		return
	}
	files := fstest.MapFS{}
	for _, f := range r.Files {
		files[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	if _, err := model.Load(files); err != nil {
		t.Fatalf("what came out does not load: %v\n%s", err, all(r))
	}
}

func FuzzTailscale(f *testing.F) {
	seeds(f, "policy.hujson")
	f.Add([]byte("// only a comment"), true)
	f.Add([]byte(`{"groups": {"group:A B": [], "group:a-b": []}, "hosts": {"X_": "::1"}, /* a
	 * b */ "acls": [ // c
	]} // d`), true)
	f.Fuzz(func(t *testing.T, src []byte, partial bool) { imports(t, Tailscale, src, partial) })
}

func FuzzNetBird(f *testing.F) {
	seeds(f, "netbird.json")
	f.Add([]byte(`{"groups":[{"id":"1","name":"ä"},{"id":"2","name":"ö"}],"policies":[]}`), true)
	f.Fuzz(func(t *testing.T, src []byte, partial bool) { imports(t, NetBird, src, partial) })
}
