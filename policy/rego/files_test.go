package rego

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFiles(t *testing.T) {
	small := &fstest.MapFile{Data: []byte("package guard.a")}
	many := fstest.MapFS{}
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("guard/g%04d.rego", i)] = small
	}
	whole := fstest.MapFS{}
	for i := range maxTotal/maxFile + 1 {
		whole[fmt.Sprintf("guard/g%d.rego", i)] = &fstest.MapFile{Data: bytes.Repeat([]byte("#"), maxFile)}
	}
	for _, v := range []struct {
		name string
		tree fstest.MapFS
		want string // files, or the problem
	}{
		{"nothing", fstest.MapFS{}, ""},
		{"guards and tests", fstest.MapFS{"guard/a.rego": small, "guard/a_test.rego": small, "guard/README.md": small, "rules.cue": small, ".git/x.rego": small, ".x.rego": small}, "guard/a.rego guard/a_test.rego"},
		{"a link", fstest.MapFS{"guard/a.rego": {Mode: fs.ModeSymlink, Data: []byte("/etc/passwd")}}, "guard/a.rego: not a regular file"},
		{"a large file", fstest.MapFS{"guard/a.rego": {Data: make([]byte, maxFile+1)}}, "guard/a.rego: larger than 1048576 bytes"},
		{"too many", many, "guard/g1000.rego: more than 1000 Rego files"},
		{"too much", whole, "guard/g8.rego: the Rego files together are larger than 8388608 bytes"},
	} {
		files, err := Files(v.tree)
		got := strings.Join(slices.Sorted(maps.Keys(files)), " ")
		if err != nil {
			got = err.Error()
		}
		if got != v.want {
			t.Errorf("%s: got %s, want %s", v.name, got, v.want)
		}
	}
}

// A tree that breaks while it is read is an error that names the file.
func TestFilesOfABrokenTree(t *testing.T) {
	_, err := Files(broken{fstest.MapFS{"guard/a.rego": {}}})
	if want := "guard/a.rego: input/output error"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

type broken struct{ fstest.MapFS }

func (b broken) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".rego") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("input/output error")}
	}
	return b.MapFS.Open(name)
}
