package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writmesh/writ/cue/model"
)

// testSuffix ends the stem of a file of tests.
const testSuffix = "_test"

// testPrefix begins the name of a rule that is a test.
const testPrefix = "test_"

// Tests are what became of the tests of guards and generators.
type Tests struct {
	Tests    []Test    `json:"tests"` // by place
	Failed   int       `json:"failed"`
	Coverage *Coverage `json:"coverage,omitempty"` // where it was asked for
}

// OK reports whether no test failed. There may be none: a file of tests without a
// test is a problem of [CheckTests].
func (t *Tests) OK() bool { return t == nil || t.Failed == 0 }

// A Test is one rule test_NAME.
type Test struct {
	Name    string      `json:"name"` // "guard/star_test.rego: test_NAME" is File and Name
	Place   model.Place `json:"place"`
	Passed  bool        `json:"passed"`
	Failure string      `json:"failure,omitempty"` // what was not as it must be; one line
	Output  []string    `json:"output,omitempty"`  // print statements: "place: text"
}

// A testProgram is the modules of one kind and their tests.
type testProgram struct {
	program
	tests []*module // sorted by file
}

// compileTests checks the tests of one kind, and with them what they test.
func (k *kind) compileTests(files map[string][]byte) (*testProgram, error) {
	modules, tests, err := k.load(files)
	if err != nil {
		return nil, err
	}
	var problems model.Problems
	packages := packagesOf(slices.Concat(modules, tests))
	used := names(slices.Concat(modules, tests))
	for _, m := range tests {
		m.checkTest(used, &problems)
		m.checkReferences(packages, &problems)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	parsed := make(map[string]*ast.Module)
	for _, m := range slices.Concat(modules, tests) {
		parsed[m.file] = m.parsed.Copy()
	}
	compiler, err := k.compileModules(parsed, false)
	if err != nil {
		return nil, err
	}
	for _, m := range tests {
		m.checkOthers(compiler, packages, &problems)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return &testProgram{program{k, modules, compiler}, tests}, nil
}

// checkTest sees that a file of tests has some, and that each will be run.
func (m *module) checkTest(used map[string]bool, problems *model.Problems) {
	if !m.isPackage() {
		problems.Add(place(m.parsed.Package.Location, m.file), "this is package %s; the tests in %s are package %s.%s",
			packageName(m.parsed), m.file, m.kind.dir, m.pkg)
	}
	n := 0
	for _, rule := range m.parsed.Rules {
		at := place(rule.Location, m.file)
		name, simple := ruleName(rule)
		switch {
		case strings.HasPrefix(name, testPrefix):
			n++
			if !simple || rule.Head.RuleKind() != ast.SingleValue || rule.Default {
				problems.Add(at, "%s must be written %q", name, name+" if { … }")
			}
		case !used[name]:
			*problems = append(*problems, model.Problem{
				Place:   at,
				Message: fmt.Sprintf("nothing refers to rule %s", name),
				Hint:    "a test is a rule " + testPrefix + "NAME",
			})
		}
	}
	if n == 0 {
		problems.Add(place(m.parsed.Package.Location, m.file), "no test in this file: a test is a rule %sNAME", testPrefix)
	}
}

// byKind are files of guards and of generators.
func byKind(files map[string][]byte) map[*kind]map[string][]byte {
	out := make(map[*kind]map[string][]byte)
	for file, b := range files {
		k := guardKind
		if strings.HasPrefix(file, generateKind.dir+"/") {
			k = generateKind
		}
		if out[k] == nil {
			out[k] = make(map[string][]byte)
		}
		out[k][file] = b
	}
	return out
}

// CheckTests checks the tests of guards and generators, given by path together
// with what they test. The error is [model.Problems].
func CheckTests(files map[string][]byte) error {
	var problems model.Problems
	for k, files := range byKind(files) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(files)), isTestFile) {
			continue
		}
		if _, err := k.compileTests(files); err != nil {
			var ps model.Problems
			if !errors.As(err, &ps) {
				return err
			}
			problems = append(problems, ps...)
		}
	}
	return problems.Err()
}

func isTestFile(file string) bool { return strings.HasSuffix(file, testSuffix+".rego") }

// RunTests runs the tests of guards and generators, given by path together with
// what they test. A test passes if its rule is true: one that is undefined, that
// has another value, or in which a function errs, fails. Each sees the input that
// it makes with "with", and no other. The error is [model.Problems] if the tests
// cannot be run at all.
func RunTests(ctx context.Context, files map[string][]byte, coverage bool) (*Tests, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errSlow)
	defer cancel()
	out := &Tests{Tests: []Test{}}
	var seen *tracer
	if coverage {
		seen, out.Coverage = newTracer(), &Coverage{Files: []FileCoverage{}}
	}
	kinds := byKind(files)
	for _, k := range []*kind{guardKind, generateKind} {
		p, err := k.compileTests(kinds[k])
		if err != nil {
			return nil, err
		}
		for _, m := range p.tests {
			if err := p.run(ctx, m, seen, out); err != nil {
				return nil, err
			}
		}
		if coverage {
			for _, m := range p.modules {
				out.Coverage.add(seen.of(m))
			}
		}
	}
	for _, t := range out.Tests {
		if !t.Passed {
			out.Failed++
		}
	}
	return out, nil
}

// run runs the tests of one file.
func (p *testProgram) run(ctx context.Context, m *module, seen *tracer, out *Tests) error {
	ran := make(map[string]bool)
	for _, rule := range m.parsed.Rules {
		name, _ := ruleName(rule)
		if !strings.HasPrefix(name, testPrefix) || ran[name] {
			continue
		}
		ran[name] = true
		e, err := p.over(ctx, nil)
		if err != nil {
			return fmt.Errorf("test %ss: %w", m.kind.noun, err)
		}
		t := Test{Name: name, Place: place(rule.Location, m.file)}
		value, err := e.evaluate(ctx, m, name, true, nil)
		if err == nil {
			// Without the index every rule is looked at, also those that the index
			// would have left out: what coverage counts.
			var plain any
			plain, err = e.evaluate(ctx, m, name, false, seen.asTracer())
			if err == nil && fmt.Sprint(plain) != fmt.Sprint(value) {
				err = m.problem("%s differs with and without the rule index: this is a defect of the engine", name)
			}
		}
		e.close(ctx)
		var problems model.Problems
		switch {
		case err != nil && (!errors.As(err, &problems) || ctx.Err() != nil):
			return err
		case err != nil:
			t.Failure = problems[0].Place.String() + ": " + problems[0].Message
		case value == nil:
			t.Failure = "undefined: something in it does not hold"
		case value != true:
			t.Failure = "is " + text(value) + ", want true"
		default:
			t.Passed = true
		}
		t.Output = e.printed
		if len(t.Output) == 0 {
			t.Output = nil
		}
		if len(out.Tests) == maxTests {
			return m.problem("more than %d tests of Rego", maxTests)
		}
		out.Tests = append(out.Tests, t)
	}
	return nil
}
