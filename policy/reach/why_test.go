package reach_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
)

// written is a policy as its author writes it; each line has one name.
const written = `package network

network: {name: "acme", domain: "acme.mesh"}
groups: {
	accounting: [
		"alice@acme.example",
		"group:controllers",
		{member: "bob@acme.example", until: "2026-12-31T18:00:00Z"},
	]
	controllers: [
		"carol@acme.example",
		"tag:robot",
	]
	engineering: [
		"dave@acme.example",
		"frank@acme.example",
	]
}
tags: {accounting: {}, robot: {}, build: {}}
services: web: ["tcp/80", "service:tls"]
services: tls: ["tcp/443"]
rules: {
	web: {
		from: ["group:accounting"]
		to: ["tag:accounting"]
		allow: ["service:web", "icmp"]
	}
	old: {
		from: ["group:engineering"]
		to: ["tag:accounting"]
		allow: ["tcp/22"]
		until: "2026-01-01T00:00:00Z"
	}
}
`

func compiled(t *testing.T, text string) (*model.Policy, *reach.Compiled) {
	t.Helper()
	p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(text)}})
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
	return p, c
}

func user(email string) reach.Node { return reach.Node{User: email} }
func tagged(tags ...string) reach.Node {
	return reach.Node{Tags: tags}
}

func steps(list []reach.Step) (out []string) {
	for _, s := range list {
		out = append(out, fmt.Sprintf("%d %s", s.Place.Line, s.Text))
	}
	return out
}

func TestExplain(t *testing.T) {
	p, c := compiled(t, written)
	tcp := func(port uint16) acl.Target { return acl.Target{Proto: acl.TCP, Port: port} }
	for _, x := range []struct {
		name                 string
		from, to             reach.Node
		target               acl.Target
		chain, misses, facts []string
	}{
		{name: "direct member", from: user("alice@acme.example"), to: tagged("accounting"), target: tcp(80), chain: []string{
			`23 rule "web"`, `24 from group:accounting`, `6 alice@acme.example is in group:accounting`, `25 to tag:accounting`, `26 allows service:web`, `20 service:web holds tcp/80`}},
		{name: "service in a service", from: user("alice@acme.example"), to: tagged("accounting"), target: tcp(443), chain: []string{
			`23 rule "web"`, `24 from group:accounting`, `6 alice@acme.example is in group:accounting`, `25 to tag:accounting`, `26 allows service:web`,
			`20 service:web holds service:tls`, `21 service:tls holds tcp/443`}},
		{name: "nested group", from: user("carol@acme.example"), to: tagged("accounting"), target: acl.Target{Proto: acl.ICMPv6, Echo: true}, chain: []string{
			`23 rule "web"`, `24 from group:accounting`, `11 carol@acme.example is in group:controllers`,
			`7 group:controllers is in group:accounting`, `25 to tag:accounting`, `26 allows icmp`}},
		{name: "a tag in a group", from: tagged("build", "robot"), to: tagged("accounting"), target: tcp(80), chain: []string{
			`23 rule "web"`, `24 from group:accounting`, `12 tag:robot is in group:controllers`,
			`7 group:controllers is in group:accounting`, `25 to tag:accounting`, `26 allows service:web`, `20 service:web holds tcp/80`}},
		{name: "wrong source", from: user("dave@acme.example"), to: tagged("accounting"), target: tcp(80),
			misses: []string{`23 "web" is for group:accounting`}, facts: []string{`15 dave@acme.example is in group:engineering`}},
		{name: "wrong destination", from: user("alice@acme.example"), to: tagged("build"), target: tcp(80),
			misses: []string{`23 "web" is to tag:accounting`}, facts: []string{`6 alice@acme.example is in group:accounting`}},
		{name: "wrong port", from: user("alice@acme.example"), to: tagged("accounting"), target: tcp(81),
			misses: []string{`23 "web" is for service:web, icmp`}, facts: []string{`6 alice@acme.example is in group:accounting`}},
		{name: "too late", from: user("dave@acme.example"), to: tagged("accounting"), target: tcp(22),
			misses: []string{`28 "old" ended 2026-01-01 00:00 UTC`}, facts: []string{`15 dave@acme.example is in group:engineering`}},
		{name: "two things wrong", from: user("dave@acme.example"), to: tagged("build"), target: tcp(80),
			facts: []string{`15 dave@acme.example is in group:engineering`}},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := reach.Explain(p, c, x.from, x.to, x.target, now)
			if want := c.Judge(x.from, x.to, x.target, now).Allowed; w.Allowed != want || w.Allowed != (x.chain != nil) {
				t.Errorf("allowed: got %t, want %t", w.Allowed, want)
			}
			var misses []string
			for _, m := range w.Misses {
				misses = append(misses, fmt.Sprintf("%d %q %s", m.Place.Line, m.Rule, m.Text))
			}
			if d := cmp.Diff(x.chain, steps(w.Chain)); d != "" {
				t.Errorf("chain (-want +got):\n%s", d)
			}
			if d := cmp.Diff(x.misses, misses); d != "" {
				t.Errorf("misses (-want +got):\n%s", d)
			}
			if d := cmp.Diff(x.facts, steps(w.Facts)); d != "" {
				t.Errorf("facts (-want +got):\n%s", d)
			}
		})
	}
}

// TestCauses changes one thing in the policy and asks where the difference comes
// from.
func TestCauses(t *testing.T) {
	for _, x := range []struct {
		name     string
		old, new string // replaced in the policy
		want     []string
	}{
		{name: "a member more", old: `"dave@acme.example",`, new: `"dave@acme.example", "gina@acme.example",`}, // the rule has ended
		{name: "a direct member", old: `"alice@acme.example",`, new: `"alice@acme.example", "gina@acme.example",`,
			want: []string{`gained by gina@acme.example: p.cue:6 gina@acme.example is in group:accounting`}},
		{name: "a member of an inner group", old: `"carol@acme.example",`, new: `"carol@acme.example", "gina@acme.example",`,
			want: []string{`gained by gina@acme.example: p.cue:11 gina@acme.example is in group:controllers`}},
		{name: "a member less", old: "\t\t\"alice@acme.example\",\n", new: "",
			want: []string{`lost by alice@acme.example: p.cue:6 alice@acme.example is in group:accounting (before)`}},
		{name: "a port more", old: `"icmp"]`, new: `"icmp", "tcp/22"]`,
			want: []string{`gained by bob@acme.example: p.cue:23 rule web`, `gained by group:accounting except bob@acme.example: p.cue:23 rule web`}}, // Bob until his membership ends
		{name: "a service's port less", old: `"tcp/80", `, new: ``,
			want: []string{`lost by bob@acme.example: p.cue:20 service:web holds tcp/80 (before)`, `lost by group:accounting except bob@acme.example: p.cue:20 service:web holds tcp/80 (before)`}},
		{name: "a rule renewed", old: `until: "2026-01-01T00:00:00Z"`, new: `until: "2028-01-01T00:00:00Z"`,
			want: []string{`gained by group:engineering: p.cue:28 rule old`}},
		{name: "a membership longer", old: `until: "2026-12-31T18:00:00Z"`, new: `until: "2027-12-31T18:00:00Z"`,
			want: []string{`gained by bob@acme.example: p.cue:8 bob@acme.example is in group:accounting until 2027-12-31 18:00 UTC`}},
		{name: "a group elsewhere", old: `"group:controllers",`, new: ``,
			want: []string{`lost by group:controllers: p.cue:7 group:controllers is in group:accounting (before)`}},
	} {
		t.Run(x.name, func(t *testing.T) {
			base, baseC := compiled(t, written)
			if strings.Count(written, x.old) != 1 {
				t.Fatalf("%q is %d times in the policy, want once", x.old, strings.Count(written, x.old))
			}
			head, headC := compiled(t, strings.Replace(written, x.old, x.new, 1))
			d := reach.Equal(baseC, headC, now)
			var got []string
			for _, side := range []struct {
				changes []reach.Change
				verb    string
				gained  bool
			}{{d.Gained, "gained", true}, {d.Lost, "lost", false}} {
				for _, ch := range side.changes {
					for _, c := range reach.Causes(ch, base, head, now, baseC, headC, side.gained) {
						text := fmt.Sprintf("%s by %s: %s %s", side.verb, strings.Join(ch.From, ", "), c.Place, c.What)
						if c.Base {
							text += " (before)"
						}
						got = append(got, text)
					}
				}
			}
			slices.Sort(got)
			if d := cmp.Diff(x.want, got); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
		})
	}
}

// TestNamesAreFew: what people would say, and not a list of everybody. That the
// words mean exactly the nodes is the oracle's to test.
func TestNamesAreFew(t *testing.T) {
	_, c := compiled(t, written)
	inv := &reach.Inventory{Nodes: []reach.Admitted{{Name: "laptop", User: "dave@acme.example"}, {Name: "ledger-1", Tags: []string{"accounting"}}}}
	for _, x := range []struct {
		from string
		inv  *reach.Inventory
		not  string
		want []string
	}{
		{from: "group:engineering", want: []string{"group:engineering"}},
		{from: "group:engineering", inv: inv, want: []string{"group:engineering"}},
		{from: "autogroup:tagged", want: []string{"autogroup:tagged"}},
		{from: "tag:accounting", inv: inv, want: []string{"tag:accounting"}},
		{from: "*", want: []string{"*"}},
		{from: "group:accounting", want: []string{"group:accounting"}},
		{from: "*", not: "group:accounting", want: []string{"* except group:accounting"}},
		{from: "dave@acme.example", inv: inv, not: "node:laptop", want: []string{"other nodes of dave@acme.example"}},
		{from: "node:laptop", inv: inv, want: []string{"laptop"}},
	} {
		ref := model.Ref{Selector: sel(x.from)}
		if x.not != "" {
			ref.Except = []model.Exception{{Selector: sel(x.not)}}
		}
		q := reach.Question{From: []model.Ref{ref}, To: []model.Ref{{Selector: sel("node:laptop")}}, At: now}
		w := reach.NewWorld(c, x.inv, []reach.Question{q})
		if got := w.Name(q.From, now); !slices.Equal(got, x.want) {
			t.Errorf("%s but %q: got %q, want %q", x.from, x.not, got, x.want)
		}
	}
}
