package model

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkLoad loads a network of 10,000 users in 500 groups with 1,000 rules.
func BenchmarkLoad(b *testing.B) {
	var groups, rules strings.Builder
	groups.WriteString("package network\n\ngroups: {\n")
	for g := range 500 {
		fmt.Fprintf(&groups, "\t\"team-%d\": [\n", g)
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
	fsys := files(map[string]string{"network.cue": smallest, "groups.cue": groups.String(), "rules.cue": rules.String()})
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
