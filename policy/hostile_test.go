package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/sandbox"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/policy/source/sourcetest"
)

// hostileLimits are a tenth of what a policy is given, so that what reaches a limit
// reaches it soon. "make soak" sets WRIT_SOAK, and gives what programs give: then a
// case takes up to half a minute.
var hostileLimits = func() sandbox.Limits {
	if os.Getenv("WRIT_SOAK") != "" {
		return sandbox.Limits{Memory: 1 << 30, CPU: 20 * time.Second, Wall: 30 * time.Second}
	}
	return sandbox.Limits{Memory: 384 << 20, CPU: 2 * time.Second, Wall: 5 * time.Second}
}()

// endless is what a case wants that ends by a limit, by name, or by a problem that
// the engine itself sees coming.
const endless = "\x00limit"

// ended reports whether err names the limit that ended an evaluation, or is a
// problem.
func ended(err error) bool {
	var failure *sandbox.Failure
	var problems model.Problems
	switch {
	case errors.As(err, &failure):
		return failure.Kind != sandbox.ErrCrashed && strings.HasPrefix(failure.Error(), "policy evaluation ")
	default:
		return errors.As(err, &problems)
	}
}

const hostileNetwork = `package network

network: {name: "acme", domain: "acme.mesh"}
groups: it: ["erin@acme.example"]
tags: {it: {}, erp: {}}
rules: ping: {from: ["group:it"], to: ["tag:it"], allow: ["icmp"]}
tests: ping: allow: [{from: "group:it", to: "tag:it", on: ["icmp"]}]
`

// treeOf is a small sound policy with these files beside it, or instead.
func treeOf(files map[string]string) source.Tree {
	out := fstest.MapFS{"network.cue": {Data: []byte(hostileNetwork), Mode: 0o644}}
	for name, text := range files {
		if out[name] = (&fstest.MapFile{Data: []byte(text), Mode: 0o644}); text == "" && name == "network.cue" {
			delete(out, name)
		}
	}
	return source.Tree{FS: out}
}

// cueFile has CUE beside the sound policy.
func cueFile(text string) map[string]string {
	return map[string]string{"x.cue": "package network\n\n" + text + "\n"}
}

// guardFile has a guard beside it.
func guardFile(body string) map[string]string {
	return map[string]string{"guard/x.rego": "package guard.x\n\nchecked := 1\n\n" + body + "\n"}
}

func ruleWith(from, to, allow string) map[string]string {
	return cueFile(fmt.Sprintf(`rules: r: {from: [%q], to: [%q], allow: [%q]}`, from, to, allow))
}

// A hostile case is named for its row in the list of bad inputs for a policy
// repository, B-P1 to B-P19. (B-P20, what a commit may be, is tested where commits
// are verified, in package sync/verify.)
type hostileCase struct {
	name  string
	files map[string]string
	want  []string // each is in what is said; endless: a limit. None: it is accepted
}

// hostileCases are those whose files are simply files.
func hostileCases() []hostileCase {
	laughs := "a0: [\"x\", \"x\", \"x\", \"x\", \"x\", \"x\", \"x\", \"x\", \"x\"]\n"
	for i := 1; i < 10; i++ {
		laughs += fmt.Sprintf("a%d: [%s]\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("a%d, ", i-1), 9), ", "))
	}
	numbers := strings.Repeat("0,", 3000)
	million := func(line string) map[string]string {
		files := map[string]string{}
		for f := range 10 {
			var b strings.Builder
			b.WriteString("package network\n\n")
			for i := range 100_000 {
				fmt.Fprintf(&b, line, f*100_000+i)
			}
			files[fmt.Sprintf("x%d.cue", f)] = b.String()
		}
		return files
	}
	nesting := func(depth int) string {
		groups := "groups: {g0: []\n"
		for i := 1; i <= depth; i++ {
			groups += fmt.Sprintf("g%d: [\"group:g%d\"]\n", i, i-1)
		}
		return groups + "}\n"
	}
	return []hostileCase{
		{"B-P1 no file", map[string]string{"network.cue": ""}, []string{"no .cue file"}},
		{"B-P1 empty file", map[string]string{"network.cue": "\n"}, []string{"network.cue:1:1: no package clause"}},
		{"B-P1 only comments", map[string]string{"network.cue": "// nothing\n// at all\n"}, []string{"network.cue:1:1: no package clause"}},
		{"B-P1 package alone", map[string]string{"network.cue": "package network\n"}, []string{`missing field "network"`}},

		{"B-P2 syntax error", cueFile("rules: {"), []string{"x.cue:3:10: expected '}'"}},
		{"B-P2 unresolved reference", cueFile("groups: a: nobody"), []string{`x.cue:3:12: groups.a: reference "nobody" not found`}},
		{"B-P2 incomplete value", cueFile("groups: a: [string]"), []string{"x.cue:3:13: groups.a[0]: no definite value"}},
		{"B-P2 conflict", cueFile("groups: a: [\"x@x.example\"] & [\"y@x.example\"]"), []string{"x.cue:3:", "conflicting values"}},

		{"B-P3 billion laughs", cueFile(laughs), []string{endless}},
		{"B-P4 doubling cycle", cueFile("A0: A & A, A: A0: A0: A, A"), []string{endless}},
		{"B-P4 disjunction of itself", cueFile("#x: {#x | {}}\ny: #x"), []string{endless}},
		{"B-P4 repeater", cueFile("repeater: L={L.a}"), []string{endless}},
		{"B-P5 list of itself", cueFile("x: [for a in x {a}, 1]"), []string{endless}},
		{"B-P5 struct of itself", cueFile("x: {for k, v in x {\"a\\(k)\": v}, b: 1}"), []string{endless}},
		{"B-P5 nested comprehensions", cueFile("_n: [" + numbers + "]\n_x: [for a in _n for b in _n for c in _n {a + b + c}]\ngroups: {for i, v in _x {\"g\\(i)\": []}}"), []string{endless}},
		{"B-P5 matchN", cueFile("#t: matchN(1, [null | int, [...#t], {[string]: #t}])\nx: #t & {a: [[[{b: 1}]]]}"), []string{endless}},
		{"B-P6 a million rules", million("rules: r%d: {from: [\"*\"], to: [\"*\"], allow: [\"*\"]}\n"), []string{"more than 16 MiB of policy"}},
		{"B-P6 a million items", cueFile("groups: g: [" + strings.Repeat("\"a@x\",", 1_000_000) + "]"), []string{"x.cue:3:12: a list of 1000000 items: at most "}},
		{"B-P6 many braces", cueFile("a: " + strings.Repeat("{", 100_000)), []string{"nested more than 1000 deep"}},
		{"B-P6 many files", func() map[string]string {
			files := map[string]string{}
			for i := range 2500 {
				files[fmt.Sprintf("x/%d.cue", i)] = "package network\n"
			}
			return files
		}(), []string{"more than 2000 files of policy"}},
		{"B-P7 a text times a billion", cueFile(`x: "x" * 1000000000`), []string{endless}},
		{"B-P7 a list times a million", cueFile("x: 12e82 - 1/222 + 5 * [5e5]"), []string{endless}},
		{"B-P7 a number of a billion digits", cueFile("x: 1e1000000000 + 1"), []string{endless}},
		{"B-P7 a range", cueFile("import \"list\"\nx: [for x in list.Range(0, 1e8, 1) {x}]"), []string{"x.cue:3:", "imports are not allowed in a policy"}},
		{"B-P8 import of a module", cueFile(`import "example.com/evil@v0"`), []string{"x.cue:3:1: imports are not allowed in a policy"}},
		{"B-P8 tool command", cueFile("import \"tool/exec\"\ncommand: x: exec.Run & {cmd: \"id\"}"), []string{"imports are not allowed in a policy"}},
		{"B-P8 embedded file", cueFile(`x: _ @embed(file="../../etc/passwd")`), []string{"x.cue:3:6: attributes (", "are not allowed in a policy"}},
		{"B-P8 extern", map[string]string{"x.cue": "@extern(wasm)\n\npackage network\n"}, []string{"x.cue:1:1: attributes ("}},
		{"B-P8 build tag", map[string]string{"x.cue": "@if(prod)\n\npackage network\n"}, []string{"x.cue:1:1: attributes ("}},

		{"B-P9 http.send", guardFile(`deny contains "x" if http.send({"method": "get", "url": "http://127.0.0.1"})`), []string{"guard/x.rego:5:", "http.send"}},
		{"B-P9 opa.runtime", guardFile(`deny contains "x" if opa.runtime().env`), []string{"guard/x.rego:5:", "opa.runtime"}},
		{"B-P9 lookup", guardFile(`deny contains "x" if net.lookup_ip_addr("example.com")`), []string{"guard/x.rego:5:", "net.lookup_ip_addr"}},
		{"B-P9 replaced", guardFile("f(_) := 1\ndeny contains \"x\" if f(1) with http.send as f"), []string{"guard/x.rego:6:", "http.send"}},
		{"B-P9 clock", guardFile(`deny contains "x" if time.now_ns() > 0`), []string{"guard/x.rego:5:", "time.now_ns"}},
		{"B-P9 random", guardFile(`deny contains "x" if rand.intn("x", 2) == 0`), []string{"guard/x.rego:5:", "rand.intn"}},
		{"B-P9 trace", guardFile(`deny contains "x" if trace("x")`), []string{"guard/x.rego:5:", "trace"}},
		{"B-P10 recursion", guardFile("deny contains \"x\" if a\na if b\nb if a"), []string{"guard/x.rego:6:", "recursive"}},
		{"B-P10 a range of a billion", guardFile(`deny contains "x" if count(numbers.range(1, 1000000000)) < 1`), []string{endless}},
		{"B-P10 a size of many digits", guardFile(`deny contains "x" if units.parse_bytes("1e100000000") < 1`), []string{endless}},
		{"B-P10 a glob", guardFile(`deny contains "x" if not glob.match(concat("", ["{" | some _ in numbers.range(1, 10000)]), [], "x")`), []string{endless, ""}},
		{"B-P10 a slow glob", guardFile(`deny contains "x" if glob.match(concat("", ["*a" | some _ in numbers.range(1, 40)]), [], concat("", ["a" | some _ in numbers.range(1, 2000)]))`), []string{endless, ""}},

		{"B-P11 unknown tag", ruleWith("group:it", "tag:ti", "icmp"), []string{`x.cue:3:`, `rule "r": unknown tag "ti"; did you mean "it"?`}},
		{"B-P11 group cycle", cueFile(`groups: {a: ["group:b"], b: ["group:c"], c: ["group:a"]}`), []string{"group cycle: group:a -> group:b -> group:c -> group:a"}},
		{"B-P11 groups 100 deep", cueFile(nesting(100)), nil},
		{"B-P11 empty group", cueFile(`groups: a: []`), nil},
		{"B-P11 a user in two groups", cueFile(`groups: {a: ["a@x.example"], b: ["a@x.example"]}`), nil},

		{"B-P12 every address", ruleWith("group:it", "0.0.0.0/0", "tcp/1"), nil},
		{"B-P12 host bits", ruleWith("group:it", "10.0.0.1/8", "tcp/1"), []string{"write 10.0.0.0/8"}},
		{"B-P12 IPv4 in IPv6", ruleWith("group:it", "::ffff:10.0.0.1", "tcp/1"), []string{"x.cue:3:37:", "write an IPv4 address"}},
		{"B-P12 zone", ruleWith("group:it", "fe80::1%eth0", "tcp/1"), []string{"x.cue:3:37:", "fe80::1%eth0"}},
		{"B-P12 no address", ruleWith("group:it", "256.1.1.1", "tcp/1"), []string{`x.cue:3:`, "256.1.1.1"}},
		{"B-P12 overlapping routes", cueFile(`routes: {"10.0.0.0/8": via: ["tag:it"], "10.1.0.0/16": via: ["tag:erp"]}`), nil},

		{"B-P13 port 0", ruleWith("group:it", "tag:it", "tcp/0"), []string{"x.cue:3:", "tcp/0"}},
		{"B-P13 port 65536", ruleWith("group:it", "tag:it", "tcp/65536"), []string{"x.cue:3:", "tcp/65536"}},
		{"B-P13 range backwards", ruleWith("group:it", "tag:it", "tcp/80-22"), []string{"x.cue:3:", "tcp/80-22"}},
		{"B-P13 protocol", ruleWith("group:it", "tag:it", "tcpp/80"), []string{"x.cue:3:", "tcpp"}},
		{"B-P13 ICMP with ports", ruleWith("group:it", "tag:it", "icmp/8"), []string{"x.cue:3:", "icmp/8"}},
		{"B-P13 protocol 300", ruleWith("group:it", "tag:it", "proto/300"), []string{"x.cue:3:", "300"}},

		{"B-P14 a name twice", cueFile(`groups: it: ["x@x.example"]`), []string{"x.cue:3:9: groups.it is written twice", "also network.cue:4:9"}},
		{"B-P14 a rule twice", cueFile(`rules: ping: {from: ["group:it"], to: ["tag:it"], allow: ["icmp"]}`), []string{"rules.ping is written twice"}},
		{"B-P14 a field twice", cueFile("rules: r: {from: [\"*\"], from: [\"*\"], to: [\"*\"], allow: [\"*\"]}"), []string{"rules.r.from is written twice"}},
		{"B-P14 deny", cueFile(`rules: r: {from: ["*"], to: ["*"], deny: ["*"]}`), []string{`x.cue:3:36: unknown field "deny" in rules.r`}},

		{"B-P15 Cyrillic", cueFile("groups: \"\u0430dmin\": []"), []string{"x.cue:3:9:", "U+0430", "names are ASCII"}},
		{"B-P15 right to left", cueFile("groups: a: [\"x\u202ecba@x.example\"]"), []string{"x.cue:3:13:", "U+202E"}},
		{"B-P15 zero width", cueFile("groups: a: [\"x\u200b@x.example\"]"), []string{"x.cue:3:13:", "U+200B"}},
		{"B-P15 NFC and NFD", cueFile("groups: {\"caf\u00e9\": [], \"cafe\u0301\": []}"), []string{"x.cue:3:", "caf"}},
		{"B-P15 NUL", cueFile("groups: a: [\"x\x00@x.example\"]"), []string{"x.cue:3:15: a NUL byte"}},
		{"B-P15 a name of 300 bytes", cueFile(`groups: "` + strings.Repeat("a", 300) + `": []`), []string{"x.cue:3:9: group name of 300 bytes: at most"}},
		{"B-P15 a comment that hides", cueFile("groups: a: [] // \u202e\u2066 }"), nil},

		{"B-P17 nobody is left", map[string]string{"network.cue": strings.Replace(hostileNetwork, `rules: ping`, `tests: "it is not locked out": allow: [{from: "group:it", to: "tag:erp", on: ["tcp/22"]}]`+"\nrules: ping", 1)}, []string{"test fails: it is not locked out"}},

		{"B-P18 a test that fails", cueFile(`tests: t: deny: [{from: "group:it", to: "tag:it"}]`), []string{"test fails: t"}},
		{"B-P18 a test of nodes that cannot be", cueFile(`tests: t: deny: [{from: "group:none", to: "tag:it"}]` + "\ngroups: none: []"), []string{"test fails: t"}},
		{"B-P18 a test of no such node", cueFile(`tests: t: deny: [{from: "node:nobody", to: "tag:it"}]`), []string{"test fails: t"}},
		{"B-P18 a test of unknown names", cueFile(`tests: t: deny: [{from: "group:ti", to: "tag:it"}]`), []string{`unknown group "ti"; did you mean "it"?`}},

		{"B-P19 YAML", map[string]string{"network.yaml": "network: {}\n"}, nil}, // with a warning
		{"B-P19 JSON as CUE", map[string]string{"x.cue": "{\"groups\": {\"a\": []}}\n"}, []string{"x.cue:1:1: no package clause"}},
		{"B-P19 UTF-16", map[string]string{"x.cue": "\xff\xfep\x00a\x00"}, []string{"x.cue: the file is UTF-16; save it as UTF-8"}},
		{"B-P19 byte order mark", map[string]string{"x.cue": "\ufeffpackage network\n", "data/a.json": "\ufeff{}", "data/b.yaml": "\ufeffgroups: {}\n"}, nil},
		{"B-P19 CR LF", map[string]string{"x.cue": "package network\r\n\r\ngroups: a: []\r\n", "data/a.json": "{\r\n}\r\n", "data/b.yaml": "groups:\r\n  b: []\r\n"}, nil},
	}
}

// judged builds the tree and says what is wrong with it.
func judged(t *testing.T, tree source.Tree, limits sandbox.Limits) error {
	t.Helper()
	r, err := build.Build(t.Context(), build.Request{Tree: tree, Limits: limits})
	if err != nil {
		return err
	}
	for _, test := range r.Tests.Tests {
		if len(test.Failures) > 0 {
			return errors.New("test fails: " + test.Name)
		}
	}
	return nil
}

// TestHostile builds what nobody should write. Each is refused, by name, or ends by
// a limit that is named; and what comes after it is built as ever.
func TestHostile(t *testing.T) {
	for _, c := range hostileCases() {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			c.check(t, judged(t, treeOf(c.files), hostileLimits))
			if took := time.Since(began); took > hostileLimits.Wall+5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	if err := judged(t, treeOf(nil), hostileLimits); err != nil {
		t.Errorf("the sound policy, afterwards: %v", err)
	}
}

func (c hostileCase) check(t *testing.T, err error) {
	t.Helper()
	if len(c.want) == 0 {
		if err != nil {
			t.Errorf("got %v, want it accepted", err)
		}
		return
	}
	if err == nil {
		if c.want[len(c.want)-1] != "" {
			t.Errorf("accepted, want %q", c.want)
		}
		return
	}
	for _, want := range c.want {
		if want == endless && !ended(err) || want != endless && !strings.Contains(err.Error(), want) {
			t.Errorf("got %.1000v, want %q", err, want)
		}
	}
	if text := err.Error(); strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 || r < ' ' && r != '\n' }) {
		t.Errorf("%q has characters that do not show", text)
	}
}

// TestHostileTrees are those that are no mere files: each is refused while it is
// read, in a second.
func TestHostileTrees(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(secret, []byte("package network\n\ngroups: secret: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string) error
		want string
	}{
		"B-P1 no such directory": {func(_ *testing.T, dir string) error { return os.RemoveAll(dir) }, "no such file or directory"},
		"B-P1 a file": {func(_ *testing.T, dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644))
		}, "not a directory"},
		"B-P6 a file of a GiB": {func(_ *testing.T, dir string) error {
			f, err := os.Create(filepath.Join(dir, "x.cue"))
			if err != nil {
				return err
			}
			return errors.Join(f.Truncate(1<<30), f.Close())
		}, `"x.cue": file is larger than 8388608 bytes`},
		"B-P6 a file of 64 MiB elsewhere": {func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "photo.jpg"), make([]byte, 64<<20), 0o644)
		}, `"photo.jpg": file is larger than 8388608 bytes`},
		"B-P16 link out of the tree": {func(_ *testing.T, dir string) error { return os.Symlink(secret, filepath.Join(dir, "x.cue")) }, `"x.cue": symbolic link`},
		"B-P16 link to a folder": {func(_ *testing.T, dir string) error {
			return os.Symlink(filepath.Dir(secret), filepath.Join(dir, "rules"))
		}, `"rules": symbolic link`},
		"B-P16 link within the tree":  {func(_ *testing.T, dir string) error { return os.Symlink("network.cue", filepath.Join(dir, "x.cue")) }, `"x.cue": symbolic link`},
		"B-P16 named pipe":            {func(_ *testing.T, dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x.cue"), 0o644) }, `"x.cue": named pipe`},
		"B-P16 twins":                 {func(_ *testing.T, dir string) error { return errors.Join(write(dir, "X.cue"), write(dir, "x.cue")) }, `collides with "X.cue"`},
		"B-P16 a name from elsewhere": {func(_ *testing.T, dir string) error { return write(dir, `..\x.cue`) }, "slash or backslash in a name"},
		"B-P16 a repository in it": {func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.Mkdir(filepath.Join(dir, "sub", ".git"), 0o755))
		}, `"sub": nested repository`},
		"B-P15 a name that turns round": {func(_ *testing.T, dir string) error { return write(dir, "x\u202eeuc.cue") }, "formatting character U+202E"},
		"B-P15 a name that ends a line": {func(_ *testing.T, dir string) error { return write(dir, "x\n.cue") }, "control or formatting character U+000A"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "policy")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "network.cue"), []byte(hostileNetwork), 0o644), c.make(t, dir)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			tree, err := source.Dir(dir)
			if err == nil {
				err = judged(t, tree, hostileLimits)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), strings.ReplaceAll(c.want, "\u202e", `\u202e`)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	// Root may read what nobody may; then it is a file like any other.
	t.Run("B-P16 unreadable", func(t *testing.T) {
		dir := t.TempDir()
		if err := errors.Join(write(dir, "x.cue"), os.Chmod(filepath.Join(dir, "x.cue"), 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Dir(dir); os.Getuid() != 0 && !errors.Is(err, fs.ErrPermission) || os.Getuid() == 0 && err != nil {
			t.Errorf("got %v, want that it may not be read", err)
		}
	})
}

func write(dir, name string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte("package network\n"), 0o644)
}

// TestHostileMillionFiles: a million files are refused whether they lie in a
// folder of Git, which is an object of thirty megabytes, or in any file system.
func TestHostileMillionFiles(t *testing.T) {
	t.Run("B-P6 in Git", func(t *testing.T) {
		repo := sourcetest.New(t)
		blob := repo.Object("blob", []byte("package network\n"))
		entries := make([]sourcetest.Entry, 1_000_000)
		for i := range entries {
			entries[i] = sourcetest.Entry{Mode: "100644", Name: fmt.Sprintf("%06d.cue", i), ID: blob}
		}
		repo.Commit(sourcetest.Commit{Tree: repo.TreeObject(entries...)})
		r, err := source.Open(repo.Dir)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = r.Tree("main")
		var refusal *source.Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("got %v, want a refusal", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		t.Log(err)
	})
	t.Run("B-P6 anywhere", func(t *testing.T) {
		began := time.Now()
		err := judged(t, source.Tree{FS: manyFiles(1_000_000)}, hostileLimits)
		if err == nil || !strings.Contains(err.Error(), "more than 10000 files") {
			t.Errorf("got %v, want more than 10000 files", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// manyFiles is a folder of so many files of one byte.
type manyFiles int

func (n manyFiles) Open(name string) (fs.File, error) {
	return fstest.MapFS{"x.cue": {Data: []byte("\n"), Mode: 0o644}}.Open("x.cue")
}

func (n manyFiles) ReadDir(string) ([]fs.DirEntry, error) {
	entries := make([]fs.DirEntry, n)
	for i := range entries {
		entries[i] = manyEntry(i)
	}
	return entries, nil
}

func (manyFiles) Stat(string) (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{"x": {Mode: fs.ModeDir}}, ".")
}

type manyEntry int

func (e manyEntry) Name() string             { return fmt.Sprintf("%07d.cue", int(e)) }
func (manyEntry) IsDir() bool                { return false }
func (manyEntry) Type() fs.FileMode          { return 0 }
func (manyEntry) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
