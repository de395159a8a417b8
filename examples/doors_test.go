// Package examples holds policy repositories that run, and the demo.
//
// Its tests look at the tree as a whole, which no other package may do: what
// lies at the root, which folder imports which, by which door each heavy
// dependency enters, and that every package says what it is.
package examples

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/deptest"
)

// rootEntries is everything that may lie at the root beside files and folders
// whose names begin with a dot, and bin, which is built and ignored by Git.
var rootEntries = []string{
	"policy", "cue", "sync", "coordinator", "agent", "relay", "examples", "bin",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE",
	"SECURITY.md", "CHANGELOG.md", "BENCHMARKS.md",
}

func TestRootEntries(t *testing.T) {
	entries, err := os.ReadDir(deptest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(rootEntries, e.Name()) {
			t.Errorf("%s lies at the root, want only %s and dot-files", e.Name(), strings.Join(rootEntries, " "))
		}
	}
}

// A door is the only way in for a heavy dependency.
type door struct {
	outside []string // import paths; patterns
	doors   []string // packages of this module that may import them; patterns
	tests   bool     // any test may, too: to make what the code reads, or to compare with
	testsOf []string // the tests of these may, too; patterns
	why     string
}

var doors = []door{
	{
		outside: []string{"cuelang.org/go/...", "cuelabs.dev/go/..."},
		doors:   []string{"cue/model/..."},
		why:     "the rest of the program sees the model, never a CUE value",
	},
	{
		outside: []string{"github.com/open-policy-agent/opa/..."},
		doors:   []string{"policy/rego/..."},
		why:     "which built-ins exist, and that errors are strict, is decided in one place",
	},
	{
		outside: []string{"github.com/go-git/go-git/...", "github.com/go-git/go-billy/..."},
		doors:   []string{"policy/source/...", "sync/watch/...", "examples/demo/..."},
		tests:   true,
		why:     "everything behind it reads an fs.FS; limits on trees and transfers stand in one place",
	},
	{
		outside: []string{"github.com/hashicorp/go-memdb/...", "github.com/hashicorp/go-immutable-radix/..."},
		doors:   []string{"coordinator/internal/state/..."},
		why:     "what is read from the store must not be modified, which only its door can promise",
	},
	{
		outside: []string{"go.etcd.io/bbolt/..."},
		doors:   []string{"coordinator/internal/store/bolt/..."},
		why:     "the coordinator knows the store interface only",
	},
	{
		outside: []string{"go.etcd.io/etcd/..."},
		doors:   []string{"coordinator/internal/store/etcd/..."},
		why:     "the coordinator knows the store interface only",
	},
	{
		outside: []string{"golang.zx2c4.com/wireguard/...", "gvisor.dev/gvisor/..."},
		doors:   []string{"agent/tunnel/...", "agent/bind/..."},
		tests:   true,
		why:     "paths, filter and control know nodes and packets, not a WireGuard implementation",
	},
	{
		outside: []string{"github.com/vishvananda/netlink/...", "github.com/google/nftables/...", "github.com/mdlayher/netlink/..."},
		doors:   []string{"agent/router/..."},
		tests:   true,
		why:     "what of the kernel's network is ours, and is put back, is decided in one place",
	},
	{
		outside: []string{"github.com/tailscale/hujson/..."},
		doors:   []string{"policy/migrate/..."},
		why:     "it is the syntax of files that come from elsewhere; what is written here is CUE",
	},
	{
		outside: []string{"github.com/pion/..."},
		testsOf: []string{"relay/stun"},
		why:     "it brings DTLS along; two messages of STUN need none of it, and their tests compare with it",
	},
}

// in names who may import.
func (d door) in() string {
	in := slices.Clone(d.doors)
	for _, of := range d.testsOf {
		in = append(in, "the tests of "+of)
	}
	return strings.Join(in, " and ")
}

func TestDoors(t *testing.T) {
	used := make(map[int]bool)
	for _, p := range deptest.Load(t, false, "./...") {
		path := deptest.Rel(p.ImportPath)
		for i, d := range doors {
			if matchesAny(d.doors, path) {
				used[i] = used[i] || importsAny(p.Imports, d.outside) != ""
				continue
			}
			if got := importsAny(p.Imports, d.outside); got != "" {
				t.Errorf("%s imports %s; only %s may: %s", path, got, d.in(), d.why)
			}
			if d.tests {
				continue
			}
			got := importsAny(slices.Concat(p.TestImports, p.XTestImports), d.outside)
			if matchesAny(d.testsOf, path) {
				used[i] = used[i] || got != ""
				continue
			}
			if got != "" {
				t.Errorf("a test of %s imports %s; only %s may: %s", path, got, d.in(), d.why)
			}
		}
	}
	for i, d := range doors {
		if !used[i] {
			t.Logf("nothing enters by %s yet", d.in())
		}
	}
}

// A confined name changes what the whole process may do. It belongs in
// policy/sandbox, where the process is one that exists to be confined.
var confined = []string{
	"Setrlimit", "Prlimit", "RLIMIT_", "SYS_SECCOMP", "SECCOMP_", "PR_SET_SECCOMP",
	"PR_SET_NO_NEW_PRIVS", "CLONE_NEW",
}

func TestSandboxIsTheOnlyOne(t *testing.T) {
	for _, p := range deptest.Load(t, false, "./...") {
		path := deptest.Rel(p.ImportPath)
		if deptest.Matches("policy/sandbox/...", path) {
			continue
		}
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			if err != nil {
				continue // the compiler reports it better
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := sel.X.(*ast.Ident)
				if !ok || pkg.Name != "unix" && pkg.Name != "syscall" {
					return true
				}
				for _, prefix := range confined {
					if strings.HasPrefix(sel.Sel.Name, prefix) {
						t.Errorf("%s uses %s.%s; limits on a process are set in policy/sandbox alone", fset.Position(sel.Pos()), pkg.Name, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// words are the packages of the coordinator that hold what the programs say to
// each other, how each keeps what it was told, and follow, which is the client
// of the protocol that agents and relays share: one reader to attack, not two.
var words = []string{
	"coordinator/key/...", "coordinator/acl/...", "coordinator/leaf/...", "coordinator/trust/...",
	"coordinator/papers/...", "coordinator/netmap/...", "coordinator/wire/...",
	"coordinator/statefile/...", "coordinator/follow/...",
}

// arrows says, for each folder at the root, what its packages may import of the
// other folders. Examples may import everything, and nobody imports them.
var arrows = map[string][]string{
	"sync":        slices.Concat([]string{"policy/..."}, words),
	"policy":      slices.Concat([]string{"cue/..."}, words),
	"cue":         words,
	"coordinator": nil,
	"relay":       words,
	"agent":       slices.Concat([]string{"relay/frame/...", "relay/client/...", "relay/stun/..."}, words),
}

func TestArrows(t *testing.T) {
	for _, p := range deptest.Load(t, false, "./...") {
		path := deptest.Rel(p.ImportPath)
		from := folder(path)
		allowed, known := arrows[from]
		if from == "examples" {
			continue
		}
		if !known {
			t.Errorf("%s lies in %s, which is no folder of the design", path, from)
			continue
		}
		for _, i := range p.Imports {
			to := deptest.Rel(i)
			if to == i || folder(to) == from { // outside, or its own folder
				continue
			}
			if !matchesAny(allowed, to) {
				t.Errorf("%s imports %s; %s may import of other folders: %s", path, to, from, strings.Join(allowed, " "))
			}
		}
	}
}

// The words are for everybody, so they rest on words alone: otherwise what the
// coordinator needs for itself would reach the agent.
func TestWordsRestOnWords(t *testing.T) {
	for _, p := range deptest.Load(t, false, "./coordinator/...") {
		path := deptest.Rel(p.ImportPath)
		if !matchesAny(words, path) {
			continue
		}
		for _, i := range p.Imports {
			if to := deptest.Rel(i); to != i && !matchesAny(words, to) {
				t.Errorf("%s imports %s; want only %s", path, to, strings.Join(words, " "))
			}
		}
	}
}

// vague names say that nobody decided what a package is.
var vague = []string{"util", "utils", "common", "types", "helper", "helpers", "manager", "misc", "base", "shared"}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for _, p := range deptest.Load(t, false, "./...") {
		path := deptest.Rel(p.ImportPath)
		if path == "." {
			t.Error("there is a Go package at the root; want none")
		}
		if slices.Contains(vague, strings.TrimSuffix(p.Name, "_test")) {
			t.Errorf("%s is named %s; want the noun of the thing in it", path, p.Name)
		}
		commented, readable := false, true
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				readable = false // the compiler reports it better
				continue
			}
			// A generated file's comment is its generator's.
			if f.Doc != nil && !ast.IsGenerated(f) && strings.TrimSpace(f.Doc.Text()) != "" {
				commented = true
			}
		}
		if len(p.GoFiles) > 0 && readable && !commented && !allGenerated(p) {
			t.Errorf("%s has no package comment that touches its package clause", path)
		}
	}
}

// allGenerated reports whether a generator wrote the whole package: its
// specification then is what it was generated from.
func allGenerated(p deptest.Package) bool {
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil || !ast.IsGenerated(f) {
			return false
		}
	}
	return len(p.GoFiles) > 0
}

func folder(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return deptest.Matches(p, path) })
}

// importsAny returns the first import that a pattern matches, or nothing.
func importsAny(imports, patterns []string) string {
	for _, i := range imports {
		if matchesAny(patterns, i) {
			return i
		}
	}
	return ""
}
