package reach_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
)

// TestNothingIsMissingWherePackageACLAllows: a rule lacks nothing exactly where
// what it compiles to allows the flow by itself, as package acl judges.
func TestNothingIsMissingWherePackageACLAllows(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	allowed, denied := 0, 0
	for range 40 {
		text := randomPolicy(rng)
		p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(text)}})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		leaves, err := compile.Leaves(p)
		if err != nil {
			t.Fatal(err)
		}
		c, err := reach.Read(leaves)
		if err != nil {
			t.Fatal(err)
		}
		x := reach.NewExplainer(p, c, nil)
		at := time.Date(2026, 11, 22, rng.IntN(24), 0, 0, 0, time.UTC).AddDate(0, 0, rng.IntN(7))
		var ends []reach.Party
		for _, s := range []string{"*", "10.1.0.0/16", "10.2.0.0/16", "autogroup:internet"} {
			sel, err := acl.ParseSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, x.Parties(sel, at)...)
		}
		for range 400 {
			from, to := ends[rng.IntN(len(ends))], ends[rng.IntN(len(ends))]
			from.Reports = []map[string]string{nil, {"os": "linux"}, {"os": "macos", "custom:a": "1"}}[rng.IntN(3)]
			target := []acl.Target{{Proto: acl.TCP, Port: 80}, {Proto: acl.TCP, Port: 443}, {Proto: acl.ICMP, Echo: true}}[rng.IntN(3)]
			any := false
			for _, r := range p.Rules {
				req, inbound := x.Ask(from, to, target, at)
				want := !from.Nowhere() && !to.Nowhere() && acl.Judge(only(r.Name, inbound), req).Allowed
				if got, lacks := x.Holds(r.Name, from, to, target, at); got != want {
					t.Fatalf("%s to %s on %s at %s: rule %s holds %t, lacks %q, want %t\n%s", from, to, target, at, r.Name, got, lacks, want, text)
				}
				any = any || want
			}
			if got := x.Judge(from, to, target, at).Allowed; got != any {
				t.Fatalf("%s to %s on %s: judged %t, want %t\n%s", from, to, target, got, any, text)
			}
			if any {
				allowed++
			} else {
				denied++
			}
		}
	}
	if allowed < 100 || denied < 100 {
		t.Errorf("%d allowed and %d denied: want 100 of each, or this says little", allowed, denied)
	}
}

func only(rule string, in []acl.Inbound) (out []acl.Inbound) {
	for _, i := range in {
		i.Grants = slices.DeleteFunc(slices.Clone(i.Grants), func(g acl.Grant) bool { return g.Rule != rule })
		out = append(out, i)
	}
	return out
}

func randomPolicy(rng *rand.Rand) string {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	quoted := func(n int, list ...string) string {
		var out []string
		for range n {
			if s := fmt.Sprintf("%q", pick(list...)); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	var b strings.Builder
	b.WriteString(`package network
network: {name: "n", domain: "n.mesh", prefix4: "100.64.0.0/10"}
tags: {a: {}, b: {}, r: {}}
hosts: h: "10.1.2.0/24"
routes: "10.1.0.0/16": via: ["tag:r"]
routes: "10.2.0.0/16": via: ["group:g0", "tag:r"]
exit: via: ["tag:a"]
postures: p: {os: "linux"}
postures: q: {os: ["linux", "macos"], "custom:a": "*"}
groups: {
`)
	for g := range 3 {
		until := ""
		if rng.IntN(3) == 0 {
			until = fmt.Sprintf(`, {member: "u3@n.example", until: "2026-11-%dT00:00:00Z"}`, 20+rng.IntN(9))
		}
		inner := ""
		if g > 0 {
			inner = fmt.Sprintf(`, "group:g%d"`, g-1)
		}
		fmt.Fprintf(&b, "\tg%d: [\"u%d@n.example\", \"tag:%s\"%s%s]\n", g, g, pick("a", "b"), inner, until)
	}
	b.WriteString("}\nrules: {\n")
	for i := range 6 {
		from := quoted(2, "group:g0", "group:g1", "group:g2", "u0@n.example", "u3@n.example", "tag:a", "tag:b", "autogroup:member", "*", "10.1.0.0/16", "host:h")
		if rng.IntN(2) == 0 {
			from = fmt.Sprintf("{any: %s, except: %s}", from, quoted(1, "group:g1", "u0@n.example", "tag:b", "u3@n.example"))
		}
		to := quoted(2, "tag:a", "tag:b", "group:g0", "host:h", "10.2.0.0/16", "autogroup:internet", "*", "autogroup:tagged", "10.1.2.128/25")
		switch rng.IntN(4) {
		case 0:
			to = `["autogroup:self"]`
		case 1:
			to = fmt.Sprintf("{any: %s, except: %s}", quoted(1, "*", "autogroup:tagged", "10.1.0.0/16"), quoted(1, "tag:a", "host:h"))
		}
		fmt.Fprintf(&b, "\tr%d: {from: %s, to: %s, allow: %s", i, from, to, quoted(2, "tcp/80", "tcp/443", "icmp", "*"))
		if rng.IntN(4) == 0 {
			fmt.Fprintf(&b, `, until: "2026-11-%dT00:00:00Z"`, 20+rng.IntN(9))
		}
		if rng.IntN(4) == 0 {
			fmt.Fprintf(&b, `, hours: [{days: ["mon-fri"], from: "08:00", to: "18:00", zone: "Europe/Berlin"}]`)
		}
		if rng.IntN(4) == 0 {
			fmt.Fprintf(&b, ", posture: %s", quoted(2, "p", "q"))
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
