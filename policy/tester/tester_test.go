package tester_test

import (
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/tester"
)

const policy = `package network

network: {name: "acme", domain: "acme.mesh"}
groups: {
	accounting: ["alice@acme.example", {member: "bob@acme.example", until: "2027-01-01T00:00:00Z"}]
	engineering: ["dave@acme.example", "frank@acme.example"]
	nobody: []
}
tags: {accounting: {}, build: {}}
rules: web: {from: ["group:accounting"], to: ["tag:accounting"], allow: ["tcp/80", "tcp/443"]}
rules: own: {from: ["autogroup:member"], to: ["autogroup:self"], allow: ["tcp/22"]}
rules: deploy: {from: ["tag:build"], to: ["tag:accounting"], allow: ["tcp/2222"], until: "2026-12-01T00:00:00Z"}
`

var at = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// run gives what each failed assertion of the tests says.
func run(t *testing.T, tests string, inv *reach.Inventory) (*tester.Result, []string) {
	t.Helper()
	p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(policy)}, "t.cue": {Data: []byte("package network\n\n" + tests + "\n")}})
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
	r := tester.Run(p, c, inv, at)
	var out []string
	for _, test := range r.Tests {
		for _, f := range test.Failures {
			out = append(out, fmt.Sprintf("%s: %s: %s", f.Place, f.Kind, f.Text))
		}
	}
	return r, out
}

func TestAssertions(t *testing.T) {
	inventory := &reach.Inventory{Nodes: []reach.Admitted{{Name: "ledger-1", Tags: []string{"accounting"}}, {Name: "laptop", User: "dave@acme.example"}}}
	for _, c := range []struct {
		name  string
		tests string
		inv   *reach.Inventory
		want  []string
	}{
		{name: "allow holds", tests: `tests: t: allow: [{from: "group:accounting", to: "tag:accounting", on: ["tcp/80", "tcp/443"]}]`},
		{name: "allow: every member must", tests: `tests: t: allow: [{from: ["group:accounting", "dave@acme.example"], to: "tag:accounting", on: ["tcp/80"]}]`,
			want: []string{`t.cue:3:19: allow: group:accounting, dave@acme.example must reach tag:accounting on tcp/80, but dave@acme.example cannot, on tcp/80`}},
		{name: "allow: every port must", tests: `tests: t: allow: [{from: "alice@acme.example", to: "tag:accounting", on: ["tcp/80-81"]}]`,
			want: []string{`t.cue:3:19: allow: alice@acme.example must reach tag:accounting on tcp/80-81, but alice@acme.example cannot, on tcp/81`}},
		{name: "allow: every destination must", tests: `tests: t: allow: [{from: "alice@acme.example", to: ["tag:accounting", "tag:build"], on: ["tcp/80"]}]`,
			want: []string{`t.cue:3:19: allow: alice@acme.example must reach tag:accounting, tag:build on tcp/80, but alice@acme.example cannot reach tag:build, on tcp/80`}},
		{name: "deny holds", tests: `tests: t: deny: [{from: "group:engineering", to: "tag:accounting"}]`},
		{name: "deny: no port may", tests: `tests: t: deny: [{from: "group:accounting", to: "tag:accounting"}]`,
			want: []string{`t.cue:3:18: deny: group:accounting must not reach tag:accounting, but group:accounting (2 people) would, on tcp/80, tcp/443, by p.cue:10 "web"`}},
		{name: "deny on a port that is closed", tests: `tests: t: deny: [{from: "group:accounting", to: "tag:accounting", on: ["tcp/81-442"]}]`},
		{name: "deny on a range that touches", tests: `tests: t: deny: [{from: "group:accounting", to: "tag:accounting", on: ["tcp/81-443"]}]`,
			want: []string{`t.cue:3:18: deny: group:accounting must not reach tag:accounting, but group:accounting (2 people) would, on tcp/443, by p.cue:10 "web"`}},
		{name: "deny between a user's own nodes", tests: `tests: t: deny: [{from: "dave@acme.example", to: "dave@acme.example"}]`,
			want: []string{`t.cue:3:18: deny: dave@acme.example must not reach dave@acme.example, but dave@acme.example would, on tcp/22, by p.cue:11 "own"`}},
		{name: "only holds", tests: `tests: t: only: [{from: ["group:accounting", "tag:build"], to: "tag:accounting"}]`},
		{name: "only: nobody else may", tests: `tests: t: only: [{from: "group:accounting", to: "tag:accounting"}]`,
			want: []string{`t.cue:3:18: only: only group:accounting may reach tag:accounting, but tag:build would, on tcp/2222, by p.cue:12 "deploy"`}},
		{name: "only: users whom the policy does not name count", tests: `tests: t: only: [{from: "group:accounting", to: "autogroup:member"}]`,
			want: []string{
				`t.cue:3:18: only: only group:accounting may reach autogroup:member, but group:engineering, any other user (2 people) would reach autogroup:self, on tcp/22, by p.cue:11 "own"`,
			}},
		{name: "only from nobody", tests: `tests: t: only: [{from: "group:nobody", to: "tag:build"}]`},
		{name: "at a later time", tests: `tests: t: {allow: [{from: "alice@acme.example", to: "tag:accounting", on: ["tcp/80"], at: "2027-01-01T00:00:00Z"}], deny: [{from: ["bob@acme.example", "tag:build"], to: "tag:accounting", at: "2027-01-01T00:00:00Z"}]}`},
		{name: "a moment before", tests: `tests: t: deny: [{from: "bob@acme.example", to: "tag:accounting", at: "2026-12-31T23:59:59Z"}]`,
			want: []string{`t.cue:3:18: deny: bob@acme.example must not reach tag:accounting, but bob@acme.example would, on tcp/80, tcp/443, by p.cue:10 "web"`}},
		{name: "nobody is in from", tests: `tests: t: deny: [{from: "group:nobody", to: "tag:accounting"}]`,
			want: []string{`t.cue:3:18: deny: no node is group:nobody, so that this asserts nothing (allowEmpty: true if that is meant)`}},
		{name: "nobody is in to", tests: `tests: t: only: [{from: "group:accounting", to: "group:nobody"}]`,
			want: []string{`t.cue:3:18: only: no node is group:nobody, so that this asserts nothing (allowEmpty: true if that is meant)`}},
		{name: "nobody, and meant", tests: `tests: t: deny: [{from: "group:nobody", to: "tag:accounting", allowEmpty: true}]`},
		{name: "nobody left at that time", tests: `tests: t: allow: [{from: "group:nobody", to: "tag:accounting", on: ["tcp/80"], allowEmpty: true}]`},
		{name: "a user whom only the test names", tests: `tests: t: deny: [{from: "mallory@elsewhere.example", to: "tag:accounting"}]`},
		{name: "a node of the inventory", inv: inventory, tests: `tests: t: {deny: [{from: "dave@acme.example", to: "tag:accounting"}], only: [{from: "dave@acme.example", to: "dave@acme.example"}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, got := run(t, c.tests, c.inv)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("failures (-want +got):\n%s", d)
			}
			if want := len(c.want) == 0; r.OK() != want {
				t.Errorf("OK: got %t, want %t", r.OK(), want)
			}
		})
	}
}

// TestEmptyTestDoesNotPass gives the tester what the schema refuses.
func TestEmptyTestDoesNotPass(t *testing.T) {
	r := tester.Run(&model.Policy{Tests: []model.Test{{Name: "t"}}}, &reach.Compiled{}, nil, at)
	if r.OK() || len(r.Tests[0].Failures) != 1 || r.Tests[0].Failures[0].Text != "asserts nothing" {
		t.Errorf("a test without assertions: got %+v, want a failure", r)
	}
}

func TestCounts(t *testing.T) {
	r, failures := run(t, `tests: {
	a: {allow: [{from: "alice@acme.example", to: "tag:accounting", on: ["tcp/80"]}], deny: [{from: "tag:build", to: "tag:build"}]}
	b: {deny: [{from: "alice@acme.example", to: "tag:accounting"}, {from: "bob@acme.example", to: "tag:accounting"}]}
}`, nil)
	if len(r.Tests) != 2 || r.Assertions != 4 || r.Failed != 1 || len(failures) != 2 {
		t.Errorf("got %d tests, %d assertions, %d failed, %d failures; want 2, 4, 1, 2", len(r.Tests), r.Assertions, r.Failed, len(failures))
	}
}

func TestZeroTestsDoNotPass(t *testing.T) {
	if r, _ := run(t, "", nil); r.OK() {
		t.Errorf("a policy without tests: got OK, want not")
	}
}

// TestCounterexampleIsOne takes each failure's pair of nodes and port and asks
// about it alone.
func TestCounterexampleIsOne(t *testing.T) {
	r, _ := run(t, `tests: t: deny: [{from: "*", to: "*"}]`, nil)
	if len(r.Tests[0].Failures) < 3 {
		t.Fatalf("got %d failures, want one for each rule at least", len(r.Tests[0].Failures))
	}
	p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(policy)}})
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
	for _, f := range r.Tests[0].Failures {
		if !c.Judge(f.Pairs.From, f.Pairs.To, f.Pairs.Target, at).Allowed {
			t.Errorf("%s: counterexample %+v: got refused, want allowed", f.Text, f.Pairs)
		}
	}
}
