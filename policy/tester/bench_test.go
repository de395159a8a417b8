package tester_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/policytest"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/tester"
)

// BenchmarkRun asks 5,000 assertions of a company, without coverage and with it.
func BenchmarkRun(b *testing.B) {
	for _, rules := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			p, err := model.Load(policytest.Company(rules, rules/10, rules, 5000))
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
			at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
			for name, run := range map[string]func(*model.Policy, *reach.Compiled, *reach.Inventory, time.Time) *tester.Result{
				"run": tester.Run, "cover": tester.Cover,
			} {
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						if r := run(p, c, nil, at); !r.OK() || r.Assertions < 4900 {
							b.Fatalf("got %d assertions, %d tests failed", r.Assertions, r.Failed)
						}
					}
				})
			}
		})
	}
}
