package lint_test

import (
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/lint"
	"github.com/writmesh/writ/policy/reach"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func run(t *testing.T, text string, change func(*lint.Question)) (out []string) {
	t.Helper()
	tree := fstest.MapFS{"p.cue": {Data: []byte(text)}}
	p, err := model.Load(tree)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := compile.Leaves(p)
	if err != nil {
		t.Fatal(err)
	}
	c, err := reach.Read(leaves)
	if err != nil {
		t.Fatal(err)
	}
	q := lint.Question{Policy: p, Compiled: c, Tree: tree, At: now}
	if change != nil {
		change(&q)
	}
	for _, f := range lint.Run(q) {
		text := fmt.Sprintf("%d %s: %s", f.Place.Line, f.ID, f.Text)
		for _, a := range f.Also {
			text += fmt.Sprintf(" also %d", a.Line)
		}
		out = append(out, text)
	}
	return out
}

// sound is a policy of which there is nothing to say; line 9 is the first after it.
const sound = `package network
network: {name: "acme", domain: "acme.mesh", prefix4: "100.64.0.0/10"}
groups: {staff: ["alice@acme.example", "bob@acme.example"], it: ["erin@acme.example"]}
tags: {web: {owners: ["group:it"]}, router: {}}
services: http: ["tcp/80"]
hosts: erp: "10.20.0.5"
routes: "10.20.0.0/16": via: ["tag:router"]
rules: {"s-web": {from: ["group:staff"], to: ["tag:web"], allow: ["service:http"]}, "s-erp": {from: ["group:staff"], to: ["host:erp"], allow: ["tcp/443"]}}
`

func TestRun(t *testing.T) {
	for _, x := range []struct {
		name, more string
		change     func(*lint.Question)
		want       []string
	}{
		{name: "sound"},
		{name: "shadowed", more: `rules: narrow: {from: ["alice@acme.example"], to: ["tag:web"], allow: ["tcp/80"]}`,
			want: []string{`9 shadowed: rule "narrow" gives nothing that "s-web" does not give also 8`}},
		{name: "shadowed through a route", more: `rules: narrow: {from: ["alice@acme.example"], to: ["10.20.0.5"], allow: ["tcp/443"]}`,
			want: []string{`9 shadowed: rule "narrow" gives nothing that "s-erp" does not give also 8`}},
		{name: "not shadowed: it lasts longer", more: `rules: wide: {from: ["group:staff"], to: ["tag:web"], allow: ["tcp/80-81"], until: "2027-01-01T00:00:00Z"}`},
		{name: "nobody in the group", more: "groups: none: []\nrules: r: {from: [\"group:none\"], to: [\"tag:web\"], allow: [\"tcp/1\"]}",
			want: []string{`10 dead: rule "r" gives nothing: nobody is in group:none`}},
		{name: "nobody beside somebody", more: "groups: none: []\nrules: r: {from: [\"group:it\", \"group:none\"], to: [\"tag:web\"], allow: [\"tcp/1\"]}",
			want: []string{`10 empty-selector: rule "r": nobody is in group:none`}},
		{name: "no route", more: `rules: r: {from: ["group:it"], to: ["10.99.0.1"], allow: ["tcp/1"]}`,
			want: []string{`9 dead: rule "r" gives nothing: no route to 10.99.0.1 is approved`}},
		{name: "no exit node", more: `rules: r: {from: ["group:it"], to: ["autogroup:internet"], allow: ["tcp/1"]}`,
			want: []string{`9 dead: rule "r" gives nothing: no exit node is approved`}},
		{name: "excepted whole", more: `rules: r: {from: {any: ["erin@acme.example"], except: ["group:it"]}, to: ["tag:web"], allow: ["tcp/1"]}`,
			want: []string{`9 dead: rule "r" gives nothing: its exceptions leave nobody, or no route to it is approved`}},
		{name: "unused", more: "groups: g: [\"x@acme.example\"]\ntags: t: {}\nhosts: h: \"10.20.0.9\"\nservices: s: [\"tcp/1\"]\npostures: p: {os: \"linux\"}",
			want: []string{`9 unused-group: nothing names group:g`, `10 unused-tag: nothing names tag:t`, `11 unused-host: nothing names host:h`,
				`12 unused-service: nothing names service:s`, `13 unused-posture: nothing names posture:p`}},
		{name: "used by tests and guards alone", more: `groups: {tested: ["x@acme.example"], excepted: ["y@acme.example"], asked: ["z@acme.example"], askedfor: ["z@acme.example"]}
services: probe: ["tcp/9"]
tests: t: deny: [{from: {any: ["group:tested"], except: ["group:excepted"]}, to: "tag:web", on: ["service:probe"]}]`,
			change: func(q *lint.Question) {
				q.Tree.(fstest.MapFS)["guard/g.rego"] = &fstest.MapFile{Data: []byte("package guard.g\n\nrequire_approval contains {\"team\": \"group:asked\"} if true")}
			},
			want: []string{`9 unused-group: nothing names group:askedfor`}},
		{name: "broad", more: `rules: r: {from: ["*"], to: ["*"], allow: ["tcp/9"]}`,
			want: []string{`9 broad: rule "r" is from every node to every node`}},
		{name: "broad in ports", more: `rules: r: {from: ["*"], to: ["tag:router"], allow: ["*"]}`,
			want: []string{`9 broad: rule "r" is from every node, on all ports`}},
		{name: "broad in people", more: "", change: func(q *lint.Question) { q.Broad = 1 },
			want: []string{`8 broad: rule "s-web" is for 2 people, more than 1`, `8 broad: rule "s-erp" is for 2 people, more than 1`}},
		{name: "not broad in people", change: func(q *lint.Question) { q.Broad = 2 }},
		{name: "ended and ending", more: `rules: r: {from: ["group:it"], to: ["tag:web"], allow: ["tcp/2"], until: "2026-11-22T12:00:00Z"}
groups: staff2: ["group:staff", {member: "carol@acme.example", until: "2026-12-01T00:00:00Z"}]
rules: q: {from: ["group:staff2"], to: ["tag:web"], allow: ["tcp/3"]}`, change: func(q *lint.Question) { q.Soon = 30 * 24 * time.Hour },
			want: []string{`9 ended: rule "r" ended 2026-11-22 12:00 UTC`, `10 expires: the membership of carol@acme.example in group:staff2 ends 2026-12-01 00:00 UTC`}},
		{name: "ignored", more: "// lint:ignore broad the status page is for everybody\nrules: r: {from: [\"*\"], to: [\"*\"], allow: [\"tcp/9\"]}"},
		{name: "ignored without a reason", more: "// lint:ignore broad\nrules: r: {from: [\"*\"], to: [\"*\"], allow: [\"tcp/9\"]}",
			want: []string{`9 ignore: lint:ignore broad says no reason`, `10 broad: rule "r" is from every node to every node`}},
		{name: "ignores nothing", more: "// lint:ignore broad it was\nrules: r: {from: [\"group:it\"], to: [\"tag:web\"], allow: [\"tcp/9\"]}",
			want: []string{`9 ignore: lint:ignore broad ignores nothing`}},
		{name: "capabilities", more: `rules: r: {from: ["group:staff"], to: ["tag:web"], capabilities: {"acme.example/cap/x": [1]}}`},
	} {
		t.Run(x.name, func(t *testing.T) {
			if d := cmp.Diff(x.want, run(t, sound+x.more, x.change)); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
		})
	}
}
