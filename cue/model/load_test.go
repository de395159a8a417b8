package model

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

// equal compares models: netip's types are comparable but have unexported
// fields, and keys and times have an Equal.
var equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

// wantFile is the last file of each archive: what Load says about the others.
const wantFile = "want"

// TestLoad loads the files of each archive in testdata. "want" is the problems,
// or the warnings and the model. UPDATE=1 rewrites it.
func TestLoad(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("testdata: %d archives, %v", len(archives), err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fsys, want := archiveFS(ar)
			p, err := Load(fsys)
			got := dump(t, p, err)
			if os.Getenv("UPDATE") != "" {
				ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == wantFile })
				ar.Files = append(ar.Files, txtar.File{Name: wantFile, Data: []byte(got)})
				if err := os.WriteFile(name, txtar.Format(ar), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			for range 3 {
				again, errAgain := Load(shuffled{fsys})
				if got2 := dump(t, again, errAgain); got2 != got {
					t.Errorf("files in another order:\n%s", cmp.Diff(got, got2))
				}
			}
			roundTrip(t, p, err)
		})
	}
}

func archiveFS(ar *txtar.Archive) (fsys fstest.MapFS, want string) {
	fsys = fstest.MapFS{}
	for _, f := range ar.Files {
		if f.Name == wantFile {
			want = string(f.Data)
			continue
		}
		fsys[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
	}
	return fsys, want
}

func dump(t *testing.T, p *Policy, err error) string {
	t.Helper()
	if err != nil {
		if p != nil {
			t.Errorf("a policy beside the error %v", err)
		}
		var ps Problems
		if !errors.As(err, &ps) {
			t.Fatalf("%v is no Problems", err)
		}
		return ps.Error() + "\n"
	}
	out := ""
	for _, w := range p.Warnings {
		out += "warning: " + w.String() + "\n"
	}
	q := *p
	q.Warnings = nil
	b, err := json.MarshalIndent(&q, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return out + placeJSON.ReplaceAllString(string(b), `"$1:$2:$3"`) + "\n"
}

// placeJSON is a place in indented JSON, which takes five lines.
var placeJSON = regexp.MustCompile(`\{\s*"file": "([^"]*)",\s*"line": (\d+),\s*"col": (\d+)\s*\}`)

// roundTrip sends what Load gave through JSON, as the child process does.
func roundTrip(t *testing.T, p *Policy, err error) {
	t.Helper()
	if err != nil {
		want := err.(Problems)
		b, err := json.Marshal(want)
		var got Problems
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("problems through JSON: %v, want -, got +:\n%s", err, diff)
		}
		return
	}
	b, err := json.Marshal(p)
	got := new(Policy)
	if err == nil {
		err = json.Unmarshal(b, got)
	}
	if diff := cmp.Diff(p, got, equal); err != nil || diff != "" {
		t.Errorf("policy through JSON: %v, want -, got +:\n%s", err, diff)
	}
	if err := got.Check(); err != nil {
		t.Errorf("checked again: %v", err)
	}
	if diff := cmp.Diff(p, got, equal); diff != "" {
		t.Errorf("checked again, want -, got +:\n%s", diff)
	}
}

// shuffled lists folders in random order.
type shuffled struct{ fs.FS }

func (s shuffled) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(s.FS, name)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list, err
}
