package compile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/compile/validate"
	"github.com/writmesh/writ/policy/reach"
)

// TestGolden compiles each policy of testdata and compares its leaves, without
// those of the network and the relays where they say nothing but names. With
// UPDATE=1 it writes them: read the difference.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 6 {
		t.Fatalf("testdata: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sources, want, at := map[string]string{}, "", -1
			for i, f := range archive.Files {
				if f.Name == "leaves" {
					want, at = string(f.Data), i
				} else {
					sources[f.Name] = string(f.Data)
				}
			}
			p := load(t, sources)
			got := leafText(t, p)
			valid(t, p)
			if os.Getenv("UPDATE") == "1" {
				archive.Files[at].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("leaves (-want +got):\n%s", d)
			}
		})
	}
}

func leafText(t *testing.T, p *model.Policy) string {
	t.Helper()
	list, err := compile.Leaves(p)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range list {
		if l.Name != "relays" {
			fmt.Fprintf(&b, "%s\n\t%s", l.Name, l.Data)
		}
	}
	text := b.String()
	for stands, key := range standIns {
		text = strings.ReplaceAll(text, key, stands)
	}
	return text
}

// valid compares the policy's leaves with the policy.
func valid(t *testing.T, p *model.Policy) {
	t.Helper()
	list, err := compile.Leaves(p)
	if err != nil {
		t.Fatal(err)
	}
	c, err := reach.Read(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Leaves(p, list, c); err != nil {
		t.Errorf("got %v, want leaves that mean what the policy does", err)
	}
}
