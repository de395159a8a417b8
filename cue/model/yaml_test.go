package model

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cuelang.org/go/cue/ast"
)

// TestYAML holds that YAML gives what the same data gives in CUE, with its own
// places.
func TestYAML(t *testing.T) {
	p, err := Load(files(map[string]string{"a.cue": smallest, "data/people.yaml": "# people\r\n" + `
groups:
  payments:
  - ted@acme.example   # a comment
  - "quoted@acme.example"
  - {member: 'bob@acme.example', until: 2030-01-01T00:00:00Z}
  -
    member: carol@acme.example
  empty: []
tags: {payments: {owners: ["group:payments"]}}
services:
  web: [tcp/80, tcp/443]
rules:
  r:
    from: ["group:payments"]
    to: ["tag:payments"]
    allow: [service:web]
    why: >-
      because
      it is so
    capabilities:
      acme.example/x: {n: -3, yes: yes, on: true, off: null, t: 2030-01-01}
tests:
  t:
    allow:
      - from: group:payments
        to: tag:payments
        on: [tcp/80]
`, "data/none.yml": "# nothing\n"}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range p.Groups {
		for _, m := range g.Members {
			got = append(got, fmt.Sprintf("%s %s %d", m.Selector, m.Place, m.Until.Unix()))
		}
	}
	r := p.Rules[0]
	got = append(got, r.Place.String(), r.Why, string(r.Capabilities["acme.example/x"]), r.From[0].Place.String())
	want := []string{
		"bob@acme.example data/people.yaml:7:5 1893456000",
		"carol@acme.example data/people.yaml:9:5 -62135596800",
		"quoted@acme.example data/people.yaml:6:5 -62135596800",
		"ted@acme.example data/people.yaml:5:5 -62135596800",
		"data/people.yaml:15:3", "because it is so", `{"n":-3,"off":null,"on":true,"t":"2030-01-01","yes":"yes"}`, "data/people.yaml:16:12",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestBadYAML(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"syntax":            {"groups:\n  a: [x\n", "not YAML: did not find expected ',' or ']'"},
		"tab":               {"groups:\n\ta: []\n", "data/a.yaml:2:1: not YAML: found character that cannot start any token"},
		"list":              {"- a\n", "data/a.yaml:1:1: a data file is one mapping with the fields of a policy"},
		"text":              {"hello\n", "data/a.yaml:1:1: a data file is one mapping"},
		"second document":   {"groups: {}\n---\ngroups: {}\n", ": a second document; a data file has one"},
		"anchor":            {"groups: {a: &x [b@x.example]}\n", "data/a.yaml:1:13: an anchor (&x): data stands where it is used"},
		"anchor of a map":   {"groups: &x {a: []}\n", "data/a.yaml:1:9: an anchor (&x)"},
		"anchor at the top": {"&x groups: {a: []}\n", "data/a.yaml:1:1: a key is a text, without anchor, tag or merge"},
		"anchored document": {"&x\ngroups: {a: []}\n", "an anchor (&x)"},
		"alias":             {"x: &x []\ngroups: {a: *x}\n", "data/a.yaml:1:4: an anchor (&x)"},
		"tag":               {"groups: {a: !!binary aGVsbG8=}\n", "data/a.yaml:1:13: a tag (!!binary): data is what it looks like"},
		"own tag":           {"groups: {a: !include x.yaml}\n", "data/a.yaml:1:13: a tag (!include)"},
		"tagged map":        {"groups: !!omap {a: []}\n", "data/a.yaml:1:9: a tag (!!omap)"},
		"merge":             {"groups: {<<: {a: []}}\n", "data/a.yaml:1:10: a key is a text, without anchor, tag or merge"},
		"key that is a map": {"groups: {{a: b}: []}\n", "data/a.yaml:1:10: a key is a text"},
		"number as a key":   {"groups: {2026: []}\n", "data/a.yaml:1:10: the key 2026 is no text; write it in quotes"},
		"octal":             {"groups: {a: [0o17]}\n", `data/a.yaml:1:14: "0o17" is read as different numbers by different programs`},
		"sexagesimal":       {"groups: {a: [.inf]}\n", `data/a.yaml:1:14: ".inf" is read as different numbers`},
		"number":            {"groups: {a: [22]}\n", "data/a.yaml:1:14: groups.a[0]: want"},
		"twice":             {"groups: {a: []}\n\"groups\": {a: []}\n", "data/a.yaml:2:12: groups.a is written twice"},
		"twice in a list":   {"groups: {a: [{member: a@x.example, member: b@x.example}]}\n", "conflicting values"},
		"unknown field":     {"grups: {}\n", `data/a.yaml:1:1: unknown field "grups"; did you mean "groups"?`},
		"definition":        {"\"#x\": 1\n", `data/a.yaml:1:1: unknown field "#x"`},
		"interpolation":     {`groups: {a: ["\\(network.name)@x.example"]}` + "\n", `data/a.yaml:1:14: group "a":`},
		"deep":              {"groups: " + strings.Repeat("[", 5000) + "\n", "data/a.yaml:1:1008: nested more than 1000 deep"},
		"deep blocks":       {strings.Repeat("- ", 5000) + "a\n", "data/a.yaml:1:2001: nested more than 1000 deep"},
		"deep indentation":  {"groups:\n" + indented(3000), "nested more than 1000 deep"},
		"UTF-16":            {"\xff\xfeg\x00", "data/a.yaml: the file is UTF-16; save it as UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Load(files(map[string]string{"a.cue": smallest, "data/a.yaml": c.text}))
			var ps Problems
			if p != nil || !errors.As(err, &ps) {
				t.Fatalf("Load = %v, %v; want problems", p, err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got:\n%.500s\nwant:\n%s", err, c.want)
			}
		})
	}
}

func indented(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i+1) + "a:\n")
	}
	return b.String()
}

// TestYAMLLaughs holds that aliases are refused before they stand for anything.
func TestYAMLLaughs(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9))
	}
	refused(t, files(map[string]string{"a.cue": smallest, "data/a.yaml": b.String()}),
		"data/a.yaml:1:5: an anchor (&a0): data stands where it is used")
}

// FuzzYAML holds that any text is read or refused with a place in it, and that what
// JSON means as JSON it means as YAML.
func FuzzYAML(f *testing.F) {
	for _, text := range []string{
		"groups:\n  a: [x@x.example]\n", "a: &x 1\nb: *x\n", "{}", "- a", "a: |\n  b\n", "? a\n: b\n", "\"\\u0000\": 1", "a: !!str 1",
		`{"groups": {"a": ["b@x.example", {"member": "c@x.example"}]}}`, "a: -0\nb: 1e3\nc: 0x1\n", "%YAML 1.1\n---\na: b\n...\n", "é: ü\n  ", "a: \xff",
		"a:\n  - b\n -c", "<<: {a: 1}", "2001-01-01: x", "~: x", "\ufeffa: b", "a: b\u2028c: d",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseYAML("a.yaml", text)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) != 1 || ps[0].Place.File != "a.yaml" && !ps[0].Place.IsZero() {
				t.Fatalf("%v is not one problem with a place", err)
			}
			return
		}
		asJSON, err := parse(source{"a.yaml", text, inJSON})
		if err != nil {
			return
		}
		yaml, okYAML := (&plain{}).read([]*ast.File{file})
		json, okJSON := (&plain{}).read([]*ast.File{asJSON})
		if okYAML && okJSON && !same(yaml, json) {
			t.Errorf("%q: as YAML\n%s\nas JSON\n%s", text, printed(yaml), printed(json))
		}
	})
}
