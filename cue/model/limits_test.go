package model

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

const smallest = "package network\n\nnetwork: {name: \"acme\", domain: \"acme.mesh\"}\n"

func files(texts map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range texts {
		fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return fsys
}

// refused loads fsys and wants exactly these problems, one per line.
func refused(t *testing.T, fsys fs.FS, want string) {
	t.Helper()
	p, err := Load(fsys)
	if p != nil {
		t.Errorf("a policy beside %v", err)
	}
	var ps Problems
	if !errors.As(err, &ps) {
		t.Fatalf("%v is no Problems, want %s", err, want)
	}
	if got := ps.Error(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestEncodings(t *testing.T) {
	refused(t, files(map[string]string{
		"a.cue":      smallest,
		"be.cue":     "\xfe\xff\x00p",
		"le.cue":     "\xff\xfep\x00",
		"nul.cue":    "package network\n\nx: \"\x00\"\n",
		"latin1.cue": "package network\n\nx: \"caf\xe9\"\n",
	}), `be.cue: the file is UTF-16; save it as UTF-8
latin1.cue:3:8: not UTF-8
le.cue: the file is UTF-16; save it as UTF-8
nul.cue:3:5: a NUL byte`)
}

func TestIrregularFiles(t *testing.T) {
	fsys := files(map[string]string{"a.cue": smallest})
	fsys["groups.cue"] = &fstest.MapFile{Data: []byte("/etc/shadow"), Mode: fs.ModeSymlink | 0o777}
	fsys["pipe"] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o644}
	refused(t, fsys, `groups.cue: not a regular file (L---------): a policy has no links, devices or the like
pipe: not a regular file (p---------): a policy has no links, devices or the like`)
}

func TestFileNames(t *testing.T) {
	refused(t, files(map[string]string{
		"a.cue":           smallest,
		"b\x1b[2J.cue":    smallest,
		"c\u202e/euc.cue": smallest,
		"notes\n.txt":     "not policy",
	}), `"b\x1b[2J.cue": the file's name has characters that do not show
"c\u202e/euc.cue": the file's name has characters that do not show`)
}

func TestTooManyFiles(t *testing.T) {
	fsys := files(map[string]string{"a.cue": smallest})
	for i := range maxFiles {
		fsys[fmt.Sprintf("b/%d.cue", i)] = &fstest.MapFile{Data: []byte("package network\n"), Mode: 0o644}
	}
	p, err := Load(fsys)
	if p != nil || err == nil || !strings.HasSuffix(err.Error(), ": more than 2000 files of policy") {
		t.Errorf("Load = %v, %v", p, err)
	}
}

func TestTooManyBytes(t *testing.T) {
	refused(t, files(map[string]string{"a.cue": smallest, "b.cue": "//" + strings.Repeat("x", maxBytes)}),
		"b.cue: more than 16 MiB of policy")
}

func TestTooManyNodes(t *testing.T) {
	list := "[" + strings.Repeat("{},", 10_000) + "],"
	refused(t, files(map[string]string{"a.cue": smallest + "x: [" + strings.Repeat(list, maxNodes/10_000) + "]"}),
		"a.cue: more than 2000000 syntax nodes up to here")
}

func TestTooManyItems(t *testing.T) {
	var groups strings.Builder
	groups.WriteString("{\"groups\": {\n")
	for i := range maxItems {
		fmt.Fprintf(&groups, "\"g%d\": [],\n", i)
	}
	refused(t, files(map[string]string{
		"a.cue":       smallest + "groups: g: [" + strings.Repeat("\"a@x.example\",", maxItems+1) + "]",
		"data/b.json": groups.String() + "\"b\": []}}",
	}), "a.cue:4:12: a list of 20001 items: at most 20000\ndata/b.json:1:12: a struct of 20001 fields: at most 20000")
}

// TestNesting nests by every means there is, deep enough to overflow the stack
// of a parser or evaluator that recurses.
func TestNesting(t *testing.T) {
	const n = 3_000_000
	long := func(head, s, tail string) string {
		return smallest + head + strings.Repeat(s, n/len(s)) + tail
	}
	for name, text := range map[string]string{
		"brackets":       long("a: ", "[", ""),
		"braces":         long("a: ", "{a:", ""),
		"labels":         long("", "a:", "1"),
		"unary":          long("a: ", "-", "1"),
		"binary":         long("a: ", "1+", "1"),
		"selectors":      long("a: b", ".a", ""),
		"indices":        long("a: b", "[0]", ""),
		"calls":          long("a: b", "()", ""),
		"interpolations": long("a: ", "\"\\(", ""),
		"comprehensions": long("a: [", "for x in y ", "{x}]"),
		"parentheses":    long("a: ", "(", ""),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Load(files(map[string]string{"a.cue": text}))
			if p != nil || err == nil || !strings.Contains(err.Error(), "nested more than 1000 deep") {
				t.Errorf("Load = %v, %.200v", p, err)
			}
		})
	}
	t.Run("json", func(t *testing.T) {
		p, err := Load(files(map[string]string{"a.cue": smallest, "data/a.json": strings.Repeat("[", n)}))
		if p != nil || err == nil || !strings.Contains(err.Error(), "data/a.json:1:1001: nested more than 1000 deep") {
			t.Errorf("Load = %v, %.200v", p, err)
		}
	})
}

// TestLongIsNotDeep holds that what is long only is taken.
func TestLongIsNotDeep(t *testing.T) {
	var text strings.Builder
	text.WriteString(smallest + "groups: g: [\"\\(network.name)@acme.example\",\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "\t\"user%d@acme.example\",\n", i)
	}
	text.WriteString("]\n")
	p, err := Load(files(map[string]string{"a.cue": text.String()}))
	if err != nil {
		t.Fatalf("%.300v", err)
	}
	if got := len(p.Groups[0].Members); got != 10_001 {
		t.Errorf("%d members, want 10001", got)
	}
}

func TestManyProblems(t *testing.T) {
	var text strings.Builder
	text.WriteString(smallest + "rules: {\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "r%d: {from: [\"*\"], to: [\"*\"], allow: [\"tcp/0\"]}\n", i)
	}
	text.WriteString("}\n")
	_, err := Load(files(map[string]string{"a.cue": text.String()}))
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != maxProblems+1 {
		t.Fatalf("%d problems, want %d", len(ps), maxProblems+1)
	}
	if got, want := ps[maxProblems].String(), "a.cue:205:"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ": 800 more problems from here on") {
		t.Errorf("last problem %q, want it at %s", got, want)
	}
}

// TestUnreadable holds that a tree that cannot be read is no empty policy.
func TestUnreadable(t *testing.T) {
	p, err := Load(broken{files(map[string]string{"a.cue": smallest})})
	var ps Problems
	if p != nil || !errors.Is(err, fs.ErrPermission) || errors.As(err, &ps) {
		t.Errorf("Load = %v, %v; want a permission error", p, err)
	}
}

// broken opens folders but no files.
type broken struct{ fstest.MapFS }

func (b broken) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".cue") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return b.MapFS.Open(name)
}
