package model

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// policyOf is a policy of these rules, as CUE writes them.
func policyOf(t testing.TB, rules string) *Policy {
	t.Helper()
	p, err := Load(fstest.MapFS{"network.cue": {Data: []byte(`package network

network: {name: "acme", domain: "acme.mesh"}
groups: eng: ["alice@acme.example"]
tags: {web: {}, db: {}}
postures: managed: os: ["linux"]
services: https: ["tcp/443"]
rules: {` + rules + `}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A computed rule is what the same rule is when it is written: JSON is CUE, so
// that the loader says what that is.
func TestComputedRuleIsAWrittenRule(t *testing.T) {
	for _, rule := range []string{
		`{"from": ["group:eng"], "to": ["tag:web"], "allow": ["tcp/443"]}`,
		`{"from": ["group:eng", "tag:db"], "to": ["tag:web"], "allow": ["service:https", "icmp"], "until": "2026-12-31T18:00:00Z", "why": "ENG-1"}`,
		`{"from": {"any": ["group:eng"], "except": ["alice@acme.example"]}, "to": ["tag:web"], "allow": ["tcp/80-90"], "owner": "group:eng"}`,
		`{"from": ["group:eng"], "to": ["tag:web"], "capabilities": {"acme.example/cap/x": {"b": [1, 2.50, 1e3, null], "a": "\\u003c<"}, "acme.example/cap/y": true}}`,
		`{"from": ["group:eng"], "to": ["tag:web"], "allow": ["icmp"], "hours": [{"days": ["mon-fri"], "from": "09:00", "to": "17:30", "zone": "Europe/Berlin"}], "posture": ["managed"]}`,
	} {
		written := policyOf(t, `x: `+rule).Rules
		base := policyOf(t, "")
		place := Place{"generate/g.rego", 3, 1}
		rules, _, err := base.Computed([]Computed{{Name: "x", Rule: json.RawMessage(rule), Place: place}})
		if err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		with, err := base.With(rules...)
		if err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		if got, want := placeless(t, with.Rules), placeless(t, written); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if at := with.Rules[0].Place; at != place {
			t.Errorf("got place %v, want %v", at, place)
		}
		if len(base.Rules) != 0 {
			t.Errorf("the policy itself has changed: %v", base.Rules)
		}
	}
}

// placeless is JSON of a value without the places in it.
func placeless(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var a any
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "place")
			for _, x := range v {
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		}
	}
	strip(a)
	if b, err = json.Marshal(a); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestComputedRuleIsRefused(t *testing.T) {
	base := policyOf(t, `here: {from: ["group:eng"], to: ["tag:web"], allow: ["icmp"]}`)
	at, origin := Place{"generate/g.rego", 3, 1}, Place{"groups.cue", 1, 2}
	good := json.RawMessage(`{"from": ["*"], "to": ["tag:web"], "allow": ["icmp"]}`)
	for _, c := range []struct {
		list []Computed
		want string
	}{
		{[]Computed{{Name: "here", Rule: good}}, `generate/g.rego:3:1: rule "here" is computed here, and there already`},
		{[]Computed{{Name: "x", Rule: good}, {Name: "x", Rule: good}}, `generate/g.rego:3:1: rule "x" is computed twice`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"form": ["*"], "to": ["tag:web"], "allow": ["icmp"]}`)}}, `generate/g.rego:3:1: unknown field "form" in rules.x; did you mean "from"?`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"from": ["*"], "allow": ["icmp"]}`)}}, `generate/g.rego:3:1: missing field "to" in rules.x`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"from": ["*"], "to": ["tag:web"], "allow": [80]}`)}}, `generate/g.rego:3:1: rules.x.allow[0]: want a string, not a number`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"from": ["*"], "to": ["tag:web"], "allow": ["icmp"]} {}`)}}, `generate/g.rego:3:1: rule "x": not JSON: more than one value`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`null`)}}, `generate/g.rego:3:1: rules.x: want {`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"from": `)}}, `generate/g.rego:3:1: rule "x": not JSON`},
		{[]Computed{{Name: "x", Rule: json.RawMessage(`{"from": ["*"], "to": ["tag:web"], "allow": ["tcp/0"]}`)}}, `generate/g.rego:3:1: rule "x": `},
		{[]Computed{{Name: "x y", Rule: good}}, `generate/g.rego:3:1: rule name "x y"`},
	} {
		for i := range c.list {
			c.list[i].Place, c.list[i].Origin = at, []Place{origin}
		}
		rules, _, err := base.Computed(c.list)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v; want %s", c.list[0].Rule, rules, err, c.want)
		}
	}
}

// Every problem is told, and rules come sorted.
func TestManyComputedRules(t *testing.T) {
	base := policyOf(t, "")
	var list []Computed
	for _, name := range []string{"c", "a", "b"} {
		list = append(list, Computed{Name: name, Rule: json.RawMessage(`{"from": ["*"], "to": ["tag:web"], "allow": ["icmp"]}`)})
	}
	rules, _, err := base.Computed(list)
	if err != nil || len(rules) != 3 || rules[0].Name != "a" || rules[2].Name != "c" {
		t.Errorf("got %v, %v; want a, b, c", rules, err)
	}
	list[0].Rule, list[2].Rule = json.RawMessage(`1`), json.RawMessage(`2`)
	_, _, err = base.Computed(list)
	if problems, ok := err.(Problems); !ok || len(problems) != 2 {
		t.Errorf("got %v, want two problems", err)
	}
}

func BenchmarkComputed(b *testing.B) {
	base := policyOf(b, "")
	var list []Computed
	for i := range 10_000 {
		list = append(list, Computed{Name: fmt.Sprintf("r%04d", i), Rule: json.RawMessage(`{"from": ["group:eng"], "to": ["tag:web"], "allow": ["tcp/443", "icmp"], "why": "x"}`)})
	}
	for b.Loop() {
		if _, _, err := base.Computed(list); err != nil {
			b.Fatal(err)
		}
	}
}
