package model

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/writmesh/writ/coordinator/acl"
)

func loaded(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Load(files(map[string]string{"a.cue": smallest + text}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWith adds computed rules: they meet the same checks as written ones, and
// the policy they are added to stays as it is.
func TestWith(t *testing.T) {
	p := loaded(t, `
groups: it: ["erin@acme.example"]
services: web: ["tcp/443", "tcp/80"]
rules: written: {from: ["group:it"], to: ["*"], allow: ["icmp"]}
`)
	before := *p
	at := Place{File: "generate/web.rego", Line: 3, Col: 1}
	rule := func(name, from, port string) Rule {
		sel, err := acl.ParseSelector(from)
		if err != nil {
			t.Fatal(err)
		}
		return Rule{
			Name: name, From: []Ref{{Selector: sel, Place: at}}, To: []Ref{{Selector: acl.Selector{Kind: acl.KindAny}, Place: at}},
			Allow: []PortRef{{port, at}}, Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Place: at,
		}
	}
	q, err := p.With(rule("computed", "group:it", "service:web"))
	if err != nil {
		t.Fatal(err)
	}
	if len(q.Rules) != 2 || q.Rules[0].Name != "computed" || q.Rules[1].Name != "written" {
		t.Fatalf("rules %v, want computed and written", q.Rules)
	}
	want := []acl.Ports{{Range: acl.RangePorts, Proto: acl.TCP, First: 80, Last: 80}, {Range: acl.RangePorts, Proto: acl.TCP, First: 443, Last: 443}}
	if diff := cmp.Diff(want, q.Rules[0].Ports); diff != "" {
		t.Errorf("ports: want -, got +:\n%s", diff)
	}
	for _, row := range []struct {
		rule Rule
		want string
	}{
		{rule("computed", "group:itt", "icmp"), `generate/web.rego:3:1: rule "computed": unknown group "itt"; did you mean "it"?`},
		{rule("computed", "tag:x", "icmp"), `generate/web.rego:3:1: rule "computed": unknown tag "x"`},
		{rule("computed", "*", "service:webb"), `generate/web.rego:3:1: rule "computed": unknown service "webb"; did you mean "web"?`},
		{rule("computed", "*", "tcp/0"), `generate/web.rego:3:1: rule "computed": "tcp/0": port 0 is not a port`},
		{rule("computed", "autogroup:self", "icmp"), `generate/web.rego:3:1: rule "computed": autogroup:self stands in "to" only`},
		{rule("written", "*", "icmp"), "generate/web.rego:3:1: rule \"written\" is written twice\n    also a.cue:7:8\n    hint: a name is written in one place"},
	} {
		q, err := p.With(row.rule)
		if q != nil || err == nil || err.Error() != row.want {
			t.Errorf("With(%s) = %v\n%v\nwant\n%s", row.rule.Name, q, err, row.want)
		}
	}
	if diff := cmp.Diff(&before, p, equal); diff != "" {
		t.Errorf("With changed its policy:\n%s", diff)
	}
}

func TestMatches(t *testing.T) {
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{"ledger-1", "ledger-1", true},
		{"ledger-1", "ledger-12", false},
		{"ledger-*", "ledger-", true},
		{"ledger-*", "ledger-12", true},
		{"ledger-*", "edger-12", false},
		{"*", "x", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "ac", false},
		{"ab*ba", "aba", false},
		{"*-db-*", "eu-db-1", true},
		{"*-db-*", "eu-web-1", false},
	} {
		if got := matches(row.pattern, row.name); got != row.want {
			t.Errorf("matches(%q, %q) = %v, want %v", row.pattern, row.name, got, row.want)
		}
	}
}

func TestNearest(t *testing.T) {
	for _, row := range []struct{ name, want string }{
		{"form", "from"}, {"fro", "from"}, {"From", "from"}, {"allwo", "allow"},
		{"x", "to"}, {"", ""}, {"something", ""}, {"from", ""},
	} {
		known := []string{"from", "to", "allow", "until", "why"}
		if row.name == "x" {
			row.want = "" // one letter of two is no likeness
		}
		if got := nearest(row.name, known); got != row.want {
			t.Errorf("nearest(%q) = %q, want %q", row.name, got, row.want)
		}
	}
}

func TestProblemsSorted(t *testing.T) {
	at := func(file string, line int) Place { return Place{file, line, 1} }
	ps := Problems{
		{Place: at("b.cue", 1), Message: "x"},
		{Place: at("a.cue", 10), Message: "y", Also: []Place{at("z", 1), at("c", 1), at("z", 1)}, Hint: "h"},
		{Place: at("a.cue", 2), Message: "z"},
		{Place: at("b.cue", 1), Message: "x"},
		{Place: Place{File: "a.cue"}, Message: "w"},
		{Message: "v"},
	}
	const want = `policy: v
a.cue: w
a.cue:2:1: z
a.cue:10:1: y
    also c:1:1
    also z:1:1
    hint: h
b.cue:1:1: x`
	if got := ps.Err().Error(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if err := (Problems{}).Err(); err != nil {
		t.Errorf("no problems are the error %v", err)
	}
}
