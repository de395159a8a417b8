package build

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

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
