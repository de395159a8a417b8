package model

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/build"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/parser"
)

// company is a network of 10,000 users in 500 groups with 1,000 rules.
func company() fstest.MapFS {
	var groups, rules strings.Builder
	groups.WriteString("package network\n\ngroups: {\n")
	for g := range 500 {
		fmt.Fprintf(&groups, "\t\t\"team-%d\": [\n", g)
		for u := range 20 {
			fmt.Fprintf(&groups, "\t\t\"user%d@acme.example\",\n", g*20+u)
		}
		groups.WriteString("\t]\n")
	}
	groups.WriteString("}\n")
	rules.WriteString("package network\n\ntags: {\n")
	for t := range 100 {
		fmt.Fprintf(&rules, "\t\"service-%d\": owners: [\"group:team-%d\"]\n", t, t)
	}
	rules.WriteString("}\nservices: web: [\"tcp/80\", \"tcp/443\"]\n")
	for r := range 1000 {
		fmt.Fprintf(&rules, "rules: \"rule-%d\": {\n\tfrom: [\"group:team-%d\"]\n\tto: [\"tag:service-%d\"]\n\tallow: [\"service:web\", \"icmp\"]\n\twhy: \"OPS-%d\"\n}\n", r, r%500, r%100, r)
	}
	return files(map[string]string{"network.cue": smallest, "groups.cue": groups.String(), "rules.cue": rules.String()})
}

// BenchmarkLoad loads the company's network: a checked Policy with its places.
func BenchmarkLoad(b *testing.B) {
	fsys := company()
	b.ReportAllocs()
	for b.Loop() {
		p, err := Load(fsys)
		if err != nil {
			b.Fatal(err)
		}
		if len(p.Groups) != 500 || len(p.Rules) != 1000 {
			b.Fatalf("%d groups and %d rules, want 500 and 1000", len(p.Groups), len(p.Rules))
		}
	}
}

// BenchmarkPlainCUE is what CUE alone takes for the same files: parsed, built,
// unified with the same schema, validated, and decoded into plain maps.
func BenchmarkPlainCUE(b *testing.B) {
	fsys := company()
	b.ReportAllocs()
	for b.Loop() {
		in := build.NewContext().NewInstance("", nil)
		for _, name := range []string{"groups.cue", "network.cue", "rules.cue"} {
			f, err := parser.ParseFile(name, fsys[name].Data, parser.ParseComments)
			if err == nil {
				err = in.AddSyntax(f)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if err := in.Complete(); err != nil {
			b.Fatal(err)
		}
		ctx := cuecontext.New()
		v := ctx.BuildInstance(in).Unify(schema(ctx))
		if err := v.Validate(cue.Concrete(true)); err != nil {
			b.Fatal(err)
		}
		var out map[string]any
		if err := v.Decode(&out); err != nil {
			b.Fatal(err)
		}
		if n := len(out["rules"].(map[string]any)); n != 1000 {
			b.Fatalf("%d rules, want 1000", n)
		}
	}
}
