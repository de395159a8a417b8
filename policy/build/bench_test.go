package build_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source"
)

// company is a policy of so many users in groups of twenty, with a tag for every
// hundred of them, a rule for every ten, two tests and a guard. Its first group
// has one member more where joined says so.
func company(b *testing.B, users int, joined string) source.Tree {
	b.Helper()
	var groups, rules strings.Builder
	groups.WriteString("package network\n\ngroups: {\n")
	for g := range users / 20 {
		fmt.Fprintf(&groups, "\t\"team-%d\": [\n", g)
		for u := range 20 {
			fmt.Fprintf(&groups, "\t\t\"user%d@acme.example\",\n", g*20+u)
		}
		if g == 0 && joined != "" {
			fmt.Fprintf(&groups, "\t\t%q,\n", joined)
		}
		groups.WriteString("\t]\n")
	}
	groups.WriteString("}\n")
	rules.WriteString("package network\n\ntags: {\n")
	for t := range users / 100 {
		fmt.Fprintf(&rules, "\t\"service-%d\": owners: [\"group:team-%d\"]\n", t, t)
	}
	rules.WriteString("}\nservices: web: [\"tcp/80\", \"tcp/443\"]\n")
	for r := range users / 10 {
		fmt.Fprintf(&rules, "rules: \"rule-%d\": {\n\tfrom: [\"group:team-%d\"]\n\tto: [\"tag:service-%d\"]\n\tallow: [\"service:web\", \"icmp\"]\n\twhy: \"OPS-%d\"\n}\n",
			r, r%(users/20), r%(users/100), r)
	}
	guard, err := os.ReadFile(example + "/guard/ticket.rego")
	if err != nil {
		b.Fatal(err)
	}
	return source.Tree{FS: fstest.MapFS{
		"network.cue":       {Data: []byte("package network\n\nnetwork: {name: \"acme\", domain: \"acme.mesh\"}\n")},
		"groups.cue":        {Data: []byte(groups.String())},
		"rules.cue":         {Data: []byte(rules.String())},
		"guard/ticket.rego": {Data: guard},
		"tests.cue": {Data: []byte(`package network

tests: "a team reaches its service": {
	allow: [{from: "group:team-0", to: "tag:service-0", on: ["tcp/443"]}]
	deny: [{from: "group:team-1", to: "tag:service-0"}]
}
`)},
	}}
}

// BenchmarkBuild walks from a tree to the verdict as CI and sync do, the child
// process included: of the example, and of a company in which one membership
// differs from the base.
func BenchmarkBuild(b *testing.B) {
	b.Run("example", func(b *testing.B) {
		tree, err := source.Dir(example)
		if err != nil {
			b.Fatal(err)
		}
		base, err := build.Build(b.Context(), build.Request{Tree: tree})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			r, err := build.Build(b.Context(), build.Request{Tree: tree, Base: base})
			if err != nil {
				b.Fatal(err)
			}
			if !r.Tests.OK() || len(r.Denied()) > 0 {
				b.Fatalf("tests %+v, guards %+v", r.Tests, r.Guards)
			}
		}
	})
	for _, users := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			base, err := build.Check(b.Context(), build.Request{Tree: company(b, users, "")})
			if err != nil {
				b.Fatal(err)
			}
			head := company(b, users, "user40@acme.example")
			var r *build.Result
			for b.Loop() {
				if r, err = build.Build(b.Context(), build.Request{Tree: head, Base: base}); err != nil {
					b.Fatal(err)
				}
			}
			if !r.Tests.OK() || r.Difference.Empty() || len(r.Difference.Lost) > 0 {
				b.Fatalf("tests %+v, difference %+v, want access gained and none lost", r.Tests, r.Difference)
			}
			b.ReportMetric(float64(len(r.Leaves)), "leaves")
		})
	}
}

// BenchmarkCheck walks as far as the leaves: no tests, difference or guards.
func BenchmarkCheck(b *testing.B) {
	for _, users := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			tree := company(b, users, "")
			var r *build.Result
			for b.Loop() {
				var err error
				if r, err = build.Check(b.Context(), build.Request{Tree: tree}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(r.Leaves)), "leaves")
		})
	}
}
