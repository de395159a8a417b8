package rego

import (
	"fmt"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
)

// many is the tests' input with a thousand rules.
func many(b *testing.B) Input {
	in := testInput(b)
	network := *in.Network
	few := network.Rules
	network.Rules = nil
	for i := range 1000 {
		r := few[i%len(few)]
		r.Name = fmt.Sprintf("rule-%d", i)
		network.Rules = append(network.Rules, r)
	}
	in.Network = &network
	return in
}

// BenchmarkGuards compiles the example's guards and runs them over a policy of a
// thousand rules.
func BenchmarkGuards(b *testing.B) {
	files, in := examples(b), many(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Evaluate(b.Context(), files, in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPlainOPA asks OPA's own front door for the same: no schema, places or
// doubled evaluation.
func BenchmarkPlainOPA(b *testing.B) {
	files, in := examples(b), many(b)
	b.ReportAllocs()
	for b.Loop() {
		document, err := in.document()
		if err != nil {
			b.Fatal(err)
		}
		options := []func(*rego.Rego){rego.Query("data.guard"), rego.Input(document)}
		for file, source := range files {
			options = append(options, rego.Module(file, string(source)))
		}
		set, err := rego.New(options...).Eval(b.Context())
		if err != nil || len(set) == 0 {
			b.Fatalf("%v, %v", set, err)
		}
	}
}
