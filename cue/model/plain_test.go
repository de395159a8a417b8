package model

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"cuelang.org/go/cue/cuecontext"
)

// parsed is the syntax of a tree, nil where it is refused.
func parsed(fsys fs.FS) *syntax {
	sources, _, err := readFiles(fsys)
	if err != nil {
		return nil
	}
	s, err := parseFiles(sources)
	if err != nil {
		return nil
	}
	return s
}

// print is v in words, one line for each value.
func (v *value) print(to *strings.Builder, path string) {
	fmt.Fprintf(to, "%s %s %q %t %s at %s\n", path, v.kind, v.str, v.yes, v.json, v.place)
	for i, item := range v.items {
		item.print(to, fmt.Sprintf("%s[%d]", path, i))
	}
	for _, f := range v.fields {
		f.value.print(to, path+"."+f.name)
	}
}

func printed(v *value) string {
	var b strings.Builder
	v.print(&b, "")
	return b.String()
}

// asCUE compares each way of reading a tree with the longest, in which CUE
// evaluates all and unifies it with the schema. It reports which were taken.
func asCUE(t interface {
	Errorf(string, ...any)
	Helper()
}, fsys fs.FS) (quick, complete bool) {
	t.Helper()
	s := parsed(fsys)
	if s == nil {
		return false, false
	}
	want, err := parsed(fsys).longest()
	got, quick := s.quick()
	if quick && err != nil {
		t.Errorf("read quickly, but CUE says: %v", err)
	} else if quick {
		if diff := cmp.Diff(printed(want), printed(got)); diff != "" {
			t.Errorf("read quickly: CUE -, here +:\n%s", diff)
		}
	}
	got, gotErr := s.slow()
	if fmt.Sprint(gotErr) != fmt.Sprint(err) {
		t.Errorf("read slowly: %v, want %v", gotErr, err)
	} else if err == nil {
		if diff := cmp.Diff(printed(want), printed(got)); diff != "" {
			t.Errorf("read slowly: the schema -, here +:\n%s", diff)
		}
	}
	return quick, err == nil
}

// longest is slow without its short cut.
func (s *syntax) longest() (*value, error) {
	ctx := cuecontext.New()
	v, err := s.built(ctx)
	if err != nil {
		return nil, err
	}
	return s.unified(ctx, v, s.own(v))
}

// TestQuickIsCUE reads every archive of the tests, and policies that are plain
// data in every notation there is for it, both ways.
func TestQuickIsCUE(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("testdata: %d archives, %v", len(archives), err)
	}
	quick := 0
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fsys, _ := archiveFS(ar)
			if q, _ := asCUE(t, fsys); q {
				quick++
			}
		})
	}
	if quick < 5 {
		t.Errorf("%d archives were read quickly, want some", quick)
	}
	examples, err := fs.Glob(os.DirFS("../../examples"), "*/network.cue")
	if err != nil || len(examples) == 0 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, name := range examples {
		dir, err := fs.Sub(os.DirFS("../../examples"), filepath.Dir(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { asCUE(t, dir) })
	}
}

// TestPlainNotations holds what is plain data and what is CUE's.
func TestPlainNotations(t *testing.T) {
	for _, c := range []struct {
		name, text string
		quick      bool
	}{
		{"struct", `groups: {a: ["a@x.example"]}`, true},
		{"one line", `groups: a: ["a@x.example"]`, true},
		{"quoted label", `groups: "a": ["a@x.example"]`, true},
		{"escaped label", `groups: "\u0061": ["a@x.example"]`, true},
		{"raw label", `groups: #"a"#: ["a@x.example"]`, true},
		{"raw text", `groups: a: [#"a@x.example"#]`, true},
		{"long text", "groups: a: [\"\"\"\n\ta@x.example\n\t\"\"\"]", true},
		{"escaped text", `groups: a: ["\u0061@x.example"]`, true},
		{"slash", `groups: a: ["a@x.ex\/ample"]`, true},
		{"members", `groups: a: [{member: "a@x.example", until: "2030-01-01T00:00:00Z"}, "b@x.example"]`, true},
		{"blocks", "groups: a: []\ngroups: {b: []}\ngroups: {}", true},
		{"comments", "// one\ngroups: {\n// two\na: [ // three\n\"a@x.example\", // four\n// five\n]\n// six\n}\n// seven", true},
		{"nothing", ``, true},
		{"a bool", `network: literalAddresses: true`, true},
		{"a test", `tests: t: only: [{to: "*", from: ["*"], allowEmpty: false}]`, true},
		{"prefix", `network: prefix4: "10.0.0.0/8"`, true},
		{"capability", `rules: r: {from: ["*"], to: ["*"], allow: ["*"], capabilities: {"x.example/y": {b: [1, -2, "<é>", null, true, {}], a: "\""}, "x.example/z": 7}}`, true},
		{"capability's numbers", `rules: r: {from: ["*"], to: ["*"], allow: ["*"], capabilities: "x.example/y": [1.50, 1e3, 0x10, 1_000, 1Ki]}`, false},
		{"capability's doubles", `rules: r: {from: ["*"], to: ["*"], allow: ["*"], capabilities: "x.example/y": {a: 1, a: 1}}`, false},
		{"capability's bytes", `rules: r: {from: ["*"], to: ["*"], allow: ["*"], capabilities: "x.example/y": 'abc'}`, false},
		{"bytes", `groups: a: ['a@x.example']`, false},
		{"wrong kind", `groups: a: "a@x.example"`, false},
		{"number", `groups: a: [1]`, false},
		{"unknown field", `grups: a: []`, false},
		{"reference", "groups: a: []\ngroups: b: groups.a", false},
		{"sum", `groups: a: ["a" + "@x.example"]`, false},
		{"interpolation", `groups: a: ["a@\(network.domain)"]`, false},
		{"parentheses", `groups: a: (["a@x.example"])`, false},
		{"alternatives", `groups: a: [*"a@x.example" | "b@x.example"]`, false},
		{"conjunction", `groups: {a: []} & {a: []}`, false},
		{"ellipsis", `groups: a: ["a@x.example", ...]`, false},
		{"open struct", `groups: {a: [], ...}`, false},
		{"embedding", `groups: {{a: []}}`, false},
		{"computed label", `groups: ("a"): []`, false},
		{"label with a value", `groups: "\(network.name)": []`, false},
		{"pattern", `groups: [string]: [...string]`, false},
		{"definition", "#g: []\ngroups: a: #g", false},
		{"hidden", "_g: []\ngroups: a: _g", false},
		{"let", "let g = []\ngroups: a: g", false},
		{"comprehension", `groups: {for n in ["a"] {(n): []}}`, false},
		{"condition", `if true {groups: a: []}`, false},
		{"twice in a list", `groups: a: [{member: "a@x.example", member: "a@x.example"}]`, false},
		{"two kinds", "groups: a: []\ngroups: null", false},
		{"missing field", `rules: r: from: ["*"]`, false},
		{"composed letter", "tests: \"caf\u00e9\": deny: [{from: \"*\", to: \"*\"}]", true},
		{"letter and accent", "tests: \"cafe\u0301\": deny: [{from: \"*\", to: \"*\"}]", false},
		{"closed", `groups: close({a: []})`, false},
		{"required", `groups: a!: []`, false},
		{"alias", `X=groups: a: []`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if quick, _ := asCUE(t, files(map[string]string{"a.cue": smallest, "b.cue": "package network\n\n" + c.text + "\n"})); quick != c.quick {
				t.Errorf("read quickly: %t, want %t", quick, c.quick)
			}
		})
	}
}

// TestComplete holds that the schema's defaults and closedness have their say
// where CUE is needed.
func TestComplete(t *testing.T) {
	for name, text := range map[string]string{
		"default used":      `groups: a: ["a@\(network.prefix4).example"]`,
		"default by name":   `groups: {for k, v in network {(k): []}}`,
		"closed network":    "#N: {name: string, domain: string}\nnetwork: #N",
		"closed rule":       "#R: {from: [...string], to: [...string], allow: [...string]}\nrules: r: #R & {from: [\"*\"], to: [\"*\"], allow: [\"*\"]}",
		"own default":       `rules: r: {from: ["*"], to: ["*"], allow: *["tcp/1"] | [...string]}`,
		"default of a kind": `rules: r: {from: ["*"], to: ["*"], allow: ["*"], why: *1 | "x"}`,
		"pattern":           "rules: [string]: why: string\nrules: r: {from: [\"*\"], to: [\"*\"], allow: [\"*\"], why: \"x\"}",
		"pattern's need":    "rules: [string]: why: string\nrules: r: {from: [\"*\"], to: [\"*\"], allow: [\"*\"]}",
		"definition in it":  `rules: r: {#x: 1, from: ["*"], to: ["*"], allow: ["tcp/\(#x)"]}`,
		"scalar in it":      `rules: r: {from: ["*"], to: ["*"], allow: [{"*", #a: 1}]}`,
		"open list":         `rules: r: {from: ["*", ...], to: ["*"], allow: ["*"]}`,
		"prefix by default": `network: prefix4: *"10.0.0.0/8" | string`,
		"bound":             `network: prefix4: =~"^10"`,
		"absent":            `if network.prefix4 == _|_ {groups: a: []}`,
		"absent until":      "rules: r: {from: [\"*\"], to: [\"*\"], allow: [\"*\"]}\nif rules.r.until == _|_ {groups: a: []}",
	} {
		t.Run(name, func(t *testing.T) {
			asCUE(t, files(map[string]string{"a.cue": smallest, "b.cue": "package network\n\n" + text + "\n"}))
		})
	}
}

// TestSchemaIsShape holds that the schema says nothing that its shape does not:
// which kinds a value may have, which fields, which of them must be there. A
// value of the shape satisfies the schema then.
func TestSchemaIsShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawShape(t, policyShape(), nil)
		text := "package network\n" + strings.TrimSuffix(strings.TrimPrefix(v, "{"), "}")
		asCUE(t, files(map[string]string{"a.cue": text}))
		if s := parsed(files(map[string]string{"a.cue": text})); s != nil {
			if _, err := s.longest(); err != nil {
				t.Fatalf("the schema refuses what has its shape: %v\n%s", err, text)
			}
		} else {
			t.Fatalf("does not parse:\n%s", text)
		}
	})
}

// drawShape writes some value of the shape.
func drawShape(t *rapid.T, s *shape, path []string) string {
	if s.opaque {
		return rapid.SampledFrom([]string{`"x"`, `1`, `{a: [null, true]}`, `[]`}).Draw(t, "opaque")
	}
	words := rapid.SampledFrom([]string{"a", "b@x.example", "group:a", "*", "2030-01-01T00:00:00Z", "", "é\u200d", `\"\\`})
	switch k := rapid.SampledFrom(s.kinds).Draw(t, "kind"); k {
	case kindString:
		return `"` + words.Draw(t, "text") + `"`
	case kindBool:
		return fmt.Sprint(rapid.Bool().Draw(t, "bool"))
	case kindNumber:
		return fmt.Sprint(rapid.IntRange(-9, 9).Draw(t, "number"))
	case kindList:
		var b strings.Builder
		for range rapid.IntRange(0, 2).Draw(t, "items") {
			b.WriteString(drawShape(t, s.elem, append(path, "0")) + ", ")
		}
		return "[" + b.String() + "]"
	case kindStruct:
		var b strings.Builder
		b.WriteByte('{')
		names := make([]string, 0, len(s.fields))
		for name := range s.fields {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			must := false
			for _, r := range s.required {
				must = must || r == name
			}
			if must || rapid.IntRange(0, 2).Draw(t, name) == 0 {
				fmt.Fprintf(&b, "%s: %s\n", name, drawShape(t, s.fields[name], append(path, name)))
			}
		}
		if s.any != nil {
			for n := range rapid.IntRange(0, 2).Draw(t, "others") {
				fmt.Fprintf(&b, "%q: %s\n", fmt.Sprintf("n-%d", n), drawShape(t, s.any, append(path, "n")))
			}
		}
		return b.String() + "}"
	default:
		t.Fatalf("%s: no value of kind %s can be written", pathText(path), k)
		return ""
	}
}
