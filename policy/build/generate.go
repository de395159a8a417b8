package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/sandbox"
)

// generate adds to the policy the rules that the tree's generators compute from
// it. The leaves depend on them, and they on the files alone.
func (r *Result) generate(ctx context.Context, child *sandbox.Child) error {
	var err error
	if r.generatorFiles, err = rego.GeneratorFiles(r.Tree.FS); err != nil || len(r.generatorFiles) == 0 {
		return err
	}
	rules, warnings, err := rego.Generate(ctx, child, r.generatorFiles, r.Policy)
	if err != nil {
		return err
	}
	network, err := r.Policy.WithComputed(rules)
	if err != nil {
		return err
	}
	// Problems sort themselves when they are an error.
	errors.As(append(network.Warnings, warnings...).Err(), &network.Warnings)
	r.Policy = network
	return nil
}

// testRego runs the tests of the tree's guards and generators.
func (r *Result) testRego(ctx context.Context, child *sandbox.Child) error {
	files := maps.Clone(r.guardFiles)
	maps.Copy(files, r.generatorFiles)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(files)), func(name string) bool { return strings.HasSuffix(name, "_test.rego") }) {
		return nil
	}
	tests, err := rego.Try(ctx, child, files, true)
	if err != nil {
		return err
	}
	r.GuardTests, r.GuardCoverage = tests.Tests, tests.Coverage
	return nil
}

// FailedGuardTests are the tests of guards and generators that did not pass.
func (r *Result) FailedGuardTests() (out []rego.Test) {
	for _, t := range r.GuardTests {
		if !t.Passed {
			out = append(out, t)
		}
	}
	return out
}

// maxOrigins is how many places a cause lists of what a rule is computed from.
const maxOrigins = 4

// withOrigins adds to the causes of a change the places of what its computed
// rules are made of, where the rule itself is a cause. Base says that the rules
// are the old policy's.
func withOrigins(c *reach.Change, p *model.Policy, base bool) {
	if p == nil {
		return
	}
	text := func(at model.Place) string { return fmt.Sprintf("%s:%d", at.File, at.Line) }
	for _, name := range c.Rules {
		i, ok := slices.BinarySearchFunc(p.Rules, name, func(r model.Rule, n string) int { return strings.Compare(r.Name, n) })
		if !ok || len(p.Rules[i].Origin) == 0 {
			continue
		}
		rule := p.Rules[i]
		if !slices.ContainsFunc(c.Causes, func(k reach.Cause) bool { return k.Base == base && k.Place == text(rule.Place) }) {
			continue
		}
		for _, at := range rule.Origin[:min(len(rule.Origin), maxOrigins)] {
			k := reach.Cause{Place: text(at), What: "rule " + name + " is computed from it", Base: base}
			if !slices.ContainsFunc(c.Causes, func(o reach.Cause) bool { return o.Place == k.Place && o.Base == base }) {
				c.Causes = append(c.Causes, k)
			}
		}
	}
}
