package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/sandbox"
)

// HandlerName is how the functions of this package that take a child call
// [Handler].
const HandlerName = "rego"

// A request is what travels to the child.
type request struct {
	Do       string            `json:"do"`
	Files    map[string][]byte `json:"files"`
	Input    *Input            `json:"input,omitempty"`    // to judge
	Network  *model.Policy     `json:"network,omitempty"`  // to generate from
	Coverage bool              `json:"coverage,omitempty"` // of tests
}

// What a request may ask for.
const (
	doCheck    = "check"    // guards and their tests
	doJudge    = "judge"    // a policy and a difference by guards
	doGenerate = "generate" // rules; and check the generators' tests
	doTest     = "test"     // guards and generators
)

// A response is what travels back: problems, or what was asked for.
type response struct {
	Result   *Result        `json:"result,omitempty"`
	Tests    *Tests         `json:"tests,omitempty"`
	Rules    []model.Rule   `json:"rules,omitempty"`
	Warnings model.Problems `json:"warnings,omitempty"` // of computed rules
	Problems model.Problems `json:"problems,omitempty"`
}

// Handler serves the functions of this package that take a child, inside it.
func Handler(ctx context.Context, message []byte) ([]byte, error) {
	var req request
	if err := strict(message, &req); err != nil {
		return nil, fmt.Errorf("read the request for Rego: %w", err)
	}
	var res response
	if err := res.serve(ctx, req); err != nil && !errors.As(err, &res.Problems) {
		return nil, err
	}
	if len(res.Problems) > 0 {
		res = response{Problems: res.Problems}
	}
	return json.Marshal(res)
}

func (res *response) serve(ctx context.Context, req request) error {
	switch req.Do {
	case doCheck:
		if _, err := Compile(req.Files); err != nil {
			return err
		}
		return CheckTests(req.Files)
	case doJudge:
		if req.Input == nil {
			return errors.New("judge: no input")
		}
		guards, err := Compile(req.Files)
		if err == nil {
			res.Result, err = guards.Evaluate(ctx, *req.Input)
		}
		return err
	case doGenerate:
		if err := CheckTests(req.Files); err != nil {
			return err
		}
		var err error
		res.Rules, res.Warnings, err = generate(ctx, req.Files, req.Network)
		return err
	case doTest:
		var err error
		res.Tests, err = RunTests(ctx, req.Files, req.Coverage)
		return err
	default:
		return fmt.Errorf("asked to %q", req.Do)
	}
}

// Judge evaluates guards in the child. The error is [model.Problems] if a guard
// is at fault, and the sandbox's if it did not end by itself.
func Judge(ctx context.Context, child *sandbox.Child, files map[string][]byte, input Input) (*Result, error) {
	res, err := ask(ctx, child, "evaluate guards", request{Do: doJudge, Files: files, Input: &input})
	if err == nil && res.Result == nil {
		err = errors.New("evaluate guards: the child answers with neither result nor problems")
	}
	return res.Result, err
}

// Check compiles guards and their tests in the child, and says what is wrong with
// them.
func Check(ctx context.Context, child *sandbox.Child, files map[string][]byte) error {
	_, err := ask(ctx, child, "check guards", request{Do: doCheck, Files: files})
	return err
}

// Generate has generators yield rules in the child, which are read there as
// written rules are: [model.Policy.With] makes them part of the policy. Warnings
// are what a person should look at. The error is as Judge's.
func Generate(ctx context.Context, child *sandbox.Child, files map[string][]byte, network *model.Policy) (rules []model.Rule, warnings model.Problems, err error) {
	res, err := ask(ctx, child, "generate rules", request{Do: doGenerate, Files: files, Network: network})
	return res.Rules, res.Warnings, err
}

// Try runs the tests of guards and generators in the child. The error is as
// Judge's.
func Try(ctx context.Context, child *sandbox.Child, files map[string][]byte, coverage bool) (*Tests, error) {
	res, err := ask(ctx, child, "test guards", request{Do: doTest, Files: files, Coverage: coverage})
	if err == nil && res.Tests == nil {
		err = errors.New("test guards: the child answers with neither results nor problems")
	}
	return res.Tests, err
}

func ask(ctx context.Context, child *sandbox.Child, what string, req request) (res response, err error) {
	message, err := json.Marshal(req)
	if err != nil {
		return res, fmt.Errorf("%s: %w", what, err)
	}
	answer, err := child.Call(ctx, HandlerName, message)
	var failure *sandbox.Failure
	if errors.As(err, &failure) {
		what += " of " + evaluated(req) // one of these took too much; which, nobody is left to say
	}
	if err != nil {
		return res, fmt.Errorf("%s: %w", what, err)
	}
	if err := strict(answer, &res); err != nil {
		return res, fmt.Errorf("%s: read the child's answer: %w", what, err)
	}
	return res, res.Problems.Err()
}

// evaluated names the files whose rules a request evaluates, a few of many.
func evaluated(req request) string {
	const most = 3
	var names []string
	for _, name := range slices.Sorted(maps.Keys(req.Files)) {
		if req.Do == doTest || !strings.HasSuffix(name, "_test.rego") {
			names = append(names, name)
		}
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// strict decodes JSON that has no other fields and nothing after it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one value")
	}
	return nil
}
