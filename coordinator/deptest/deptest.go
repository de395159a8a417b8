// Package deptest is for tests that say what a program may link.
//
// Load lists packages and what they import, as the go command sees them for the
// current platform. Allowed compares the outside packages that a program links
// with a list that gives a reason for each, so that a new one is a decision
// somebody made and not an accident of an import.
//
// The files of the module are looked at from the test's own process too: the
// test cache then knows that the result depends on them.
package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Module is the path of this module.
const Module = "github.com/writmesh/writ"

// A Package is what go list says of a package.
type Package struct {
	ImportPath   string
	Name         string
	Dir          string
	Standard     bool // part of Go itself
	GoFiles      []string
	TestGoFiles  []string // of the package
	XTestGoFiles []string // of its external test package
	Imports      []string
	TestImports  []string // of TestGoFiles
	XTestImports []string // of XTestGoFiles
}

// Own reports whether the package belongs to this module.
func (p Package) Own() bool { return Rel(p.ImportPath) != p.ImportPath }

// Rel is an import path without this module's path before it; a path outside
// this module is returned as it is.
func Rel(path string) string {
	if path == Module {
		return "."
	}
	return strings.TrimPrefix(path, Module+"/")
}

// Matches reports whether path is pattern, or, where the pattern ends in
// "/...", is that package or lies below it.
func Matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

// Root is the folder of go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("find go.mod: no folder above the test has one")
		}
		dir = parent
	}
}

// Load lists the packages that match the patterns, which are relative to the
// module's root; with deps, also all that they link. Packages that do not
// compile are listed with the imports they state. No match is an empty list.
func Load(t testing.TB, deps bool, patterns ...string) []Package {
	t.Helper()
	root := Root(t)
	touch(t, root)
	args := []string{"list", "-e", "-json=ImportPath,Name,Dir,Standard,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports"}
	if deps {
		args = append(args, "-deps")
	}
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(patterns, " "), err, stderr.String())
	}
	var all []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("read the output of go list: %v", err)
		}
		// A pattern that matches nothing is answered with itself.
		if !strings.HasPrefix(p.ImportPath, "./") {
			all = append(all, p)
		}
	}
}

// touch looks at every file that go list depends on. The go command reuses the
// result of a test while the files that the test's process opened or asked about
// are as they were; what a child process reads it does not see.
func touch(t testing.TB, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") || name == "go.mod" {
			// A file that went away between the listing and here is no error:
			// editors write so.
			if _, err := os.Stat(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk %s: %v", root, err)
	}
}

// A List is what a program may link beside Go itself and what it must not. Keys
// are import paths, this module's own relative to its root, and may end in
// "/..."; values are the reasons.
type List struct {
	// Allowed names every outside package, and every folder of this module, that
	// may be linked.
	Allowed map[string]string
	// Forbidden wins over Allowed. It repeats what is most important, so that
	// nobody adds such a line to Allowed without meeting it.
	Forbidden map[string]string
}

// Check compares what the packages that match the patterns link, tests not
// counted, with the list. It is not an error that an allowed package is not
// linked: other platforms may need it.
func (l List) Check(t testing.TB, patterns ...string) {
	t.Helper()
	for _, problem := range l.problems(Load(t, true, patterns...)) {
		t.Error(problem)
	}
}

func (l List) problems(linked []Package) []string {
	importers := make(map[string][]string)
	for _, p := range linked {
		for _, i := range p.Imports {
			importers[i] = append(importers[i], Rel(p.ImportPath))
		}
	}
	var found []string
	for _, p := range linked {
		if p.Standard || strings.HasPrefix(p.ImportPath, "vendor/") {
			continue
		}
		path := Rel(p.ImportPath)
		by := importers[p.ImportPath]
		slices.Sort(by)
		if pattern, why := match(l.Forbidden, path); pattern != "" {
			found = append(found, fmt.Sprintf("%s is linked (imported by %s), and must not be: %s", path, strings.Join(by, ", "), why))
		} else if pattern, _ := match(l.Allowed, path); pattern == "" {
			found = append(found, fmt.Sprintf("%s is linked (imported by %s), and is not on the list: do without it, or add it with a reason", path, strings.Join(by, ", ")))
		}
	}
	slices.Sort(found)
	return found
}

// match finds the entry for a path; an exact one before any pattern.
func match(list map[string]string, path string) (pattern, why string) {
	if why, ok := list[path]; ok {
		return path, why
	}
	for p, w := range list {
		if Matches(p, path) && len(p) > len(pattern) {
			pattern, why = p, w
		}
	}
	return pattern, why
}
