package tester_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/tester"
)

const language = `package network

network: {name: "acme", domain: "acme.mesh"}
groups: {
	eng: ["alice@acme.example", "bob@acme.example"]
	it: ["erin@acme.example"]
}
tags: {db: {}, office: {}, gate: {}, probe: {}}
hosts: {erp: "10.20.0.5", office: "10.20.0.0/16", lab: "192.168.7.0/24"}
routes: "10.20.0.0/16": via: ["tag:office"]
exit: via: ["tag:gate"]
postures: {
	managed: {os: "macos", "custom:encrypted": "true"}
	server: {os: "linux"}
}
rules: {
	erp: {from: {any: ["group:eng"], except: ["bob@acme.example"]}, to: ["host:erp"], allow: ["tcp/1433"]}
	out: {from: ["group:it"], to: ["autogroup:internet"], allow: ["tcp/443"]}
	back: {from: ["host:office"], to: ["tag:db"], allow: ["tcp/5432"]}
	day: {from: ["group:eng"], to: ["tag:db"], allow: ["tcp/22"], hours: [{days: ["mon-fri"], from: "09:00", to: "17:00", zone: "UTC"}]}
	kept: {from: ["group:it"], to: ["tag:db"], allow: ["tcp/443"], posture: ["managed", "server"]}
}
`

// ask gives what the failures of tests of the policy above say, each with its
// example.
func ask(t *testing.T, tests string, inv *reach.Inventory) (*tester.Result, []string) {
	t.Helper()
	p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(language)}, "t.cue": {Data: []byte("package network\n\n" + tests + "\n")}})
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
	r := tester.Cover(p, c, inv, at)
	var out []string
	for _, test := range r.Tests {
		for _, f := range test.Failures {
			out = append(out, fmt.Sprintf("%s: %s", f.Kind, f.Text), "  "+f.Example)
		}
	}
	return r, out
}

func TestWholeLanguage(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	offered := &reach.Inventory{Nodes: []reach.Admitted{
		{Name: "router", Tags: []string{"office"}, Routes: reach.Routes{Advertised: prefixes("10.20.0.0/24")}},
		{Name: "laptop", User: "alice@acme.example"},
	}}
	local := &reach.Inventory{Nodes: []reach.Admitted{
		{Name: "router", Tags: []string{"office"}, Routes: reach.Routes{Advertised: prefixes("10.20.0.0/16")}},
		{Name: "probe-1", Tags: []string{"probe"}, Local: []netip.Addr{netip.MustParseAddr("10.20.0.5")}},
	}}
	for _, c := range []struct {
		name  string
		tests string // of one test t
		inv   *reach.Inventory
		want  []string
	}{
		{name: "a host behind a route", tests: `allow: [{from: "alice@acme.example", to: "host:erp", on: ["tcp/1433"]}]`},
		{name: "an exception", tests: `deny: [{from: "bob@acme.example", to: "host:erp"}]`},
		{name: "an exception in a test", tests: `allow: [{from: {any: ["group:eng"], except: ["bob@acme.example"]}, to: "host:erp", on: ["tcp/1433"]}]`},
		{name: "a whole group", tests: `allow: [{from: "group:eng", to: "host:erp", on: ["tcp/1433"]}]`, want: []string{
			"allow: group:eng must reach host:erp on tcp/1433, but bob@acme.example cannot reach 10.20.0.5, on tcp/1433",
			"  bob@acme.example cannot reach 10.20.0.5 on tcp/1433"}},
		{name: "an address beside", tests: `deny: [{from: "group:eng", to: "10.20.0.6"}]`},
		{name: "a prefix around", tests: `deny: [{from: "group:eng", to: "host:office"}]`, want: []string{
			`deny: group:eng must not reach host:office, but alice@acme.example would reach 10.20.0.5, on tcp/1433, by p.cue:17 "erp"`,
			"  alice@acme.example would reach 10.20.0.5 on tcp/1433"}},
		{name: "only through a route", tests: `only: [{from: {any: ["group:eng"], except: ["bob@acme.example"]}, to: "host:erp"}]`},
		{name: "only others through a route", tests: `only: [{from: "group:it", to: "host:erp"}]`, want: []string{
			`only: only group:it may reach host:erp, but alice@acme.example would reach 10.20.0.5, on tcp/1433, by p.cue:17 "erp"`,
			"  alice@acme.example would reach 10.20.0.5 on tcp/1433"}},
		{name: "what no route approves", tests: `deny: [{from: "group:eng", to: "host:lab"}]`, want: []string{
			"deny: no approved route leads to host:lab, so that this asserts nothing (allowEmpty: true if that is meant)", "  "}},
		{name: "what is approved and not offered", tests: `deny: [{from: "group:eng", to: "10.20.9.0/24"}]`, inv: offered, want: []string{
			"deny: no approved route leads to 10.20.9.0/24, so that this asserts nothing (allowEmpty: true if that is meant)", "  "}},
		{name: "what is offered", tests: `allow: [{from: "alice@acme.example", to: "host:erp", on: ["tcp/1433"]}]`, inv: offered},
		{name: "sources behind a route", tests: `allow: [{from: "10.20.3.0/24", to: "tag:db", on: ["tcp/5432"]}]`},
		{name: "nodes are not behind", tests: `deny: [{from: "*", to: "tag:db", on: ["tcp/5432"]}]`},
		{name: "a node that is in the office, too", inv: local, tests: `only: [{from: "group:it", to: "tag:probe"}]`, want: []string{
			`only: only group:it may reach tag:probe, but alice@acme.example would reach 10.20.0.5, on tcp/1433, by p.cue:17 "erp"`,
			"  alice@acme.example would reach 10.20.0.5 on tcp/1433"}},
		{name: "the internet", tests: `allow: [{from: "group:it", to: "autogroup:internet", on: ["tcp/443"]}]
	only: [{from: "group:it", to: "autogroup:internet"}]`},
		{name: "the internet for others", tests: `allow: [{from: "group:eng", to: "autogroup:internet", on: ["tcp/443"]}]`, want: []string{
			"allow: group:eng must reach autogroup:internet on tcp/443, but group:eng (2 people) cannot, on tcp/443",
			"  alice@acme.example cannot reach autogroup:internet on tcp/443"}},
		{name: "at every hour", tests: `allow: [{from: "group:eng", to: "tag:db", on: ["tcp/22"]}]`, want: []string{
			"allow: group:eng must reach tag:db on tcp/22, but group:eng (2 people) cannot, on tcp/22; group:eng (2 people) would, on tcp/22, mon-fri 09:00-17:00 UTC, by p.cue:20 \"day\"",
			"  alice@acme.example cannot reach tag:db on tcp/22"}},
		{name: "at a working hour", tests: `allow: [{from: "group:eng", to: "tag:db", on: ["tcp/22"], at: "2026-11-23T12:00:00Z"}]`},
		{name: "at night", tests: `deny: [{from: "group:eng", to: "tag:db", on: ["tcp/22"], at: "2026-11-23T17:00:00Z"}]`},
		{name: "at no hour", tests: `deny: [{from: "group:eng", to: "tag:db", on: ["tcp/22"]}]`, want: []string{
			`deny: group:eng must not reach tag:db, but group:eng (2 people) would, on tcp/22, mon-fri 09:00-17:00 UTC, by p.cue:20 "day"`,
			"  alice@acme.example would reach tag:db on tcp/22"}},
		{name: "whatever is reported", tests: `allow: [{from: "group:it", to: "tag:db", on: ["tcp/443"]}]`, want: []string{
			"allow: group:it must reach tag:db on tcp/443, but erin@acme.example cannot, on tcp/443; erin@acme.example would, on tcp/443, where custom:encrypted in true and os in macos, or os in linux, by p.cue:21 \"kept\"",
			"  erin@acme.example cannot reach tag:db on tcp/443"}},
		{name: "by a managed node", tests: `allow: [{from: "group:it", to: "tag:db", on: ["tcp/443"], posture: {os: "macos", "custom:encrypted": "true"}}]`},
		{name: "by a server", tests: `allow: [{from: "group:it", to: "tag:db", on: ["tcp/443"], posture: os: "linux"}]`},
		{name: "by a node that is not", tests: `deny: [{from: "group:it", to: "tag:db", on: ["tcp/443"], posture: os: "macos"}]`},
		{name: "by any node", tests: `deny: [{from: "group:it", to: "tag:db", on: ["tcp/443"]}]`, want: []string{
			`deny: group:it must not reach tag:db, but erin@acme.example would, on tcp/443, where custom:encrypted in true and os in macos, or os in linux, by p.cue:21 "kept"`,
			"  erin@acme.example would reach tag:db on tcp/443"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, got := ask(t, "tests: t: {\n\t"+c.tests+"\n}", c.inv)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("failures (-want +got):\n%s", d)
			}
			if want := len(c.want) == 0; r.OK() != want {
				t.Errorf("OK: got %t, want %t", r.OK(), want)
			}
		})
	}
}

// TestAssumptionsAreSaid: what is not known is said, once.
func TestAssumptionsAreSaid(t *testing.T) {
	r, _ := ask(t, `tests: {
	a: only: [{from: {any: ["group:eng"], except: ["bob@acme.example"]}, to: "host:erp"}]
	b: only: [{from: {any: ["group:eng"], except: ["bob@acme.example"]}, to: "host:erp"}]
}`, nil)
	if !r.OK() || len(r.Assumptions) == 0 {
		t.Fatalf("without an inventory: got %+v, want assumptions", r)
	}
	if !slices.IsSorted(r.Assumptions) || len(slices.Compact(slices.Clone(r.Assumptions))) != len(r.Assumptions) {
		t.Errorf("got %q, want them sorted, each once", r.Assumptions)
	}
	if !strings.Contains(strings.Join(r.Assumptions, "\n"), "route") {
		t.Errorf("got %q, want one about the route", r.Assumptions)
	}
}

// TestCoverage: a rule is witnessed by a test that passes and is about it.
func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		tests string
		want  []string // without a witness
	}{
		{`t: allow: [{from: "alice@acme.example", to: "host:erp", on: ["tcp/1433"]}]`, []string{"back", "day", "kept", "out"}},
		{`t: only: [{from: "group:it", to: "autogroup:internet"}]`, []string{"back", "day", "erp", "kept"}},
		{`t: allow: [{from: "bob@acme.example", to: "host:erp", on: ["tcp/1433"]}]`, []string{"back", "day", "erp", "kept", "out"}},
		{`t: deny: [{from: "tag:probe", to: "tag:db"}]`, []string{"erp", "out"}},
	} {
		r, _ := ask(t, "tests: "+c.tests, nil)
		if r.Coverage == nil {
			t.Fatalf("%s: got no coverage, want one", c.tests)
		}
		var got []string
		for _, rule := range r.Coverage.Unwitnessed {
			if got = append(got, rule.Name); rule.Place.File != "p.cue" {
				t.Errorf("rule %s: got place %s, want one in p.cue", rule.Name, rule.Place)
			}
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: without a witness (-want +got):\n%s", c.tests, d)
		}
		if n := r.Coverage.RulesWitnessed; r.Coverage.Rules != 5 || n != 5-len(c.want) || r.Coverage.Percent() != n*20 {
			t.Errorf("%s: got %d of %d, %d %%; want %d of 5", c.tests, n, r.Coverage.Rules, r.Coverage.Percent(), 5-len(c.want))
		}
		if r.Coverage.CellsWitnessed > r.Coverage.Cells || r.Coverage.Cells == 0 {
			t.Errorf("%s: got %d of %d cells", c.tests, r.Coverage.CellsWitnessed, r.Coverage.Cells)
		}
	}
}

// TestAssertionsWithoutAPair: where no two ends can meet, an assertion says
// nothing, and fails.
func TestAssertionsWithoutAPair(t *testing.T) {
	const on = `, on: ["tcp/22"]}`
	for _, x := range []struct {
		test  string
		fails bool
	}{
		{`allow: [{from: "tag:db", to: "autogroup:self"` + on, true},
		{`deny: [{from: "tag:db", to: "autogroup:self"` + on, true},
		{`deny: [{from: "tag:db", to: "autogroup:self", allowEmpty: true` + on, false},
		{`deny: [{from: "group:eng", to: "autogroup:self"` + on, false},
		{`deny: [{from: ["tag:db", "group:eng"], to: "autogroup:self"` + on, false},
		{`allow: [{from: "node:one", to: "node:one"` + on, true},
		{`deny: [{from: "node:one", to: "node:one"` + on, true},
		{`deny: [{from: "node:one", to: "tag:db"` + on, false},
		{`deny: [{from: "node:one", to: "tag:one"` + on, false},
		{`allow: [{from: "host:four", to: "host:six"` + on, true},
		{`deny: [{from: "host:six", to: "host:four"` + on, true},
		{`deny: [{from: "host:four", to: "host:four"` + on, true},
		{`deny: [{from: "host:four", to: "host:part"` + on, false},
		{`only: [{from: "group:eng", to: "node:one"` + on, false},
		{`only: [{from: "tag:db", to: "autogroup:self"` + on, false},
	} {
		p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(`package network

network: {name: "acme", domain: "acme.mesh"}
groups: eng: ["alice@acme.example"]
tags: {db: {}, one: {}}
nodes: one: {key: "idpub:z3gbkb64dxoxffmvdquqrchqsww3sbcndnz5nfxg34df22b32t6a", tags: ["tag:one"]}
hosts: {four: "10.20.0.5", part: "10.20.0.0/24", six: "2001:db8:1::5"}
routes: {"10.20.0.0/16": via: ["tag:db"], "2001:db8:1::/64": via: ["tag:db"]}
rules: r: {from: ["group:eng"], to: ["tag:db"], allow: ["tcp/80"]}
tests: t: ` + x.test + `]
`)}})
		if err != nil {
			t.Fatalf("%s: %v", x.test, err)
		}
		leaves, err := compile.Leaves(p)
		if err != nil {
			t.Fatal(err)
		}
		c, err := reach.Read(leaves)
		if err != nil {
			t.Fatal(err)
		}
		r := tester.Run(p, c, nil, at)
		if r.OK() == x.fails {
			t.Errorf("%s: passes %t: %+v, want %t", x.test, r.OK(), r.Tests[0].Failures, !x.fails)
		}
		for _, f := range r.Tests[0].Failures {
			if !strings.Contains(f.Text, "asserts nothing") {
				t.Errorf("%s: got %q, want that it asserts nothing", x.test, f.Text)
			}
		}
	}
}
