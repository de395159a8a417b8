package compile_test

import (
	"testing"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/compile/validate"
	"github.com/writmesh/writ/policy/policytest"
	"github.com/writmesh/writ/policy/reach"
)

// BenchmarkCompile compiles a company of 10,000 users and rules, and compares
// the leaves with the policy.
func BenchmarkCompile(b *testing.B) {
	p, err := model.Load(policytest.Company(10_000, 1000, 10_000, 10))
	if err != nil {
		b.Fatal(err)
	}
	list, err := compile.Leaves(p)
	if err != nil {
		b.Fatal(err)
	}
	c, err := reach.Read(list)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("leaves", func(b *testing.B) {
		for b.Loop() {
			if _, err := compile.Leaves(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := reach.Read(list); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		for b.Loop() {
			if err := validate.Leaves(p, list, c); err != nil {
				b.Fatal(err)
			}
		}
	})
}
