package reach_test

import (
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/policytest"
	"github.com/writmesh/writ/policy/reach"
)

// BenchmarkWhy asks a loaded policy of a large company: 10,000 users in 1,000
// groups, 10,000 rules. "prepare" is what is done once.
func BenchmarkWhy(b *testing.B) {
	p, err := model.Load(policytest.Company(10_000, 1_000, 10_000, 10))
	if err != nil {
		b.Fatal(err)
	}
	leaves, err := compile.Leaves(p)
	if err != nil {
		b.Fatal(err)
	}
	c, err := reach.Read(leaves)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("rules=10000/prepare", func(b *testing.B) {
		for b.Loop() {
			reach.NewExplainer(p, c, nil)
		}
	})
	x := reach.NewExplainer(p, c, nil)
	tag := "tag:" + p.Tags[len(p.Tags)/2].Name
	var member acl.Selector
	var port acl.Target
	for _, r := range p.Rules { // one that reaches the tag
		if len(r.To) > 0 && r.To[0].Selector.String() == tag && r.Ports[0].Range == acl.RangePorts {
			member, port = r.From[0].Selector, acl.Target{Proto: r.Ports[0].Proto, Port: r.Ports[0].First}
		}
	}
	people := x.Parties(member, now)
	if len(people) == 0 {
		b.Fatalf("nobody is %s, want some", member)
	}
	ask := func(b *testing.B, from acl.Selector, target acl.Target, want bool) {
		for b.Loop() {
			w := x.Explain(x.Parties(from, now)[0], x.Parties(sel(tag), now)[0], target, now)
			if w.Allowed != want {
				b.Fatalf("allowed: got %t, want %t", w.Allowed, want)
			}
		}
	}
	b.Run("rules=10000/allow", func(b *testing.B) { ask(b, sel(people[0].Node.User), port, true) })
	b.Run("rules=10000/deny", func(b *testing.B) { ask(b, sel(people[0].Node.User), acl.Target{Proto: acl.TCP, Port: 7}, false) })
}
