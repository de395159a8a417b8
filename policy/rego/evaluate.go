package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writmesh/writ/cue/model"
)

// Evaluate compiles the files and runs them over the input.
func Evaluate(ctx context.Context, files map[string][]byte, input Input) (*Result, error) {
	g, err := Compile(files)
	if err != nil {
		return nil, err
	}
	return g.Evaluate(ctx, input)
}

// Evaluate runs every guard over the input. The error is [model.Problems] if a
// guard is at fault.
func (g *Guards) Evaluate(ctx context.Context, input Input) (*Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errSlow)
	defer cancel()
	document, err := input.document()
	if err != nil {
		return nil, fmt.Errorf("encode the guards' input: %w", err)
	}
	e, err := g.over(ctx, document)
	if err != nil {
		return nil, fmt.Errorf("evaluate guards: %w", err)
	}
	defer e.close(ctx)
	result := &Result{Deny: []Finding{}, Warn: []Finding{}, Approvals: []Approval{}, Checked: make(map[string]int), Printed: []string{}}
	var problems model.Problems
	for _, guard := range g.modules {
		r := &run{evaluation: e, guard: guard, document: document, result: result}
		if err := r.all(ctx); err != nil {
			var ps model.Problems
			if !errors.As(err, &ps) {
				return nil, err
			}
			problems = append(problems, ps...)
		}
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	result.Printed = e.printed
	slices.SortFunc(result.Deny, Finding.compare)
	slices.SortFunc(result.Warn, Finding.compare)
	slices.SortFunc(result.Approvals, Approval.compare)
	result.Deny = slices.Compact(result.Deny)
	result.Warn = slices.Compact(result.Warn)
	result.Approvals = slices.Compact(result.Approvals)
	return result, nil
}

// document is the input as the guards see it.
func (in Input) document() (any, error) { return guardKind.document(in) }

// A run is one guard over one input.
type run struct {
	*evaluation
	guard    *module
	document any
	result   *Result
}

// all evaluates the guard's rules and adds what they say to the result.
func (r *run) all(ctx context.Context) error {
	checked, err := r.ask(ctx, r.guard, checkedRule)
	if err != nil {
		return err
	}
	n, err := r.count(checked)
	if err != nil {
		return err
	}
	r.result.Checked[r.guard.name] = n
	var problems model.Problems
	for _, verdict := range verdicts {
		if !r.guard.asks[verdict] {
			continue
		}
		value, err := r.ask(ctx, r.guard, placed(verdict))
		if err != nil {
			return err
		}
		items, _ := value.([]any)
		for _, item := range items {
			if err := r.add(verdict, item); err != nil {
				problems = append(problems, *err)
			}
		}
	}
	if n := len(r.result.Deny) + len(r.result.Warn) + len(r.result.Approvals); n > maxFindings {
		problems = nil
		problems.Add(model.Place{File: r.guard.file}, "the guards find more than %d things", maxFindings)
	}
	return problems.Err()
}

func (r *run) problem(format string, args ...any) error { return r.guard.problem(format, args...) }

// count is the value of checked.
func (r *run) count(value any) (int, error) {
	number, ok := value.(json.Number)
	n, err := number.Int64()
	if value == nil {
		return 0, r.problem("checked of guard %s is undefined", r.guard.name)
	}
	if !ok || err != nil || n < 0 || n > 1<<31-1 {
		return 0, r.problem("checked of guard %s is not a count: %s", r.guard.name, text(value))
	}
	if n == 0 && !r.nothingThere() {
		return 0, r.problem("guard %s inspected nothing", r.guard.name)
	}
	return int(n), nil
}

// nothingThere reports whether the guard reads lists, and all of them are empty.
func (r *run) nothingThere() bool {
	lists := 0
	for _, ref := range r.guard.reads {
		value := r.document
		for _, term := range ref[1:] {
			object, ok := value.(map[string]any)
			name, isName := term.Value.(ast.String)
			if !ok || !isName {
				break // inside a list
			}
			value = object[string(name)]
		}
		switch v := value.(type) {
		case []any:
			if len(v) > 0 {
				return false
			}
			lists++
		case map[string]any:
			return false
		}
	}
	return lists > 0
}

// add takes one item that a verdict's rule yields: [item, line, column].
func (r *run) add(verdict string, value any) *model.Problem {
	triple, ok := value.([]any)
	if !ok || len(triple) != 3 {
		return &model.Problem{Place: model.Place{File: r.guard.file}, Message: fmt.Sprintf("%s yields %s", verdict, text(value))}
	}
	rule := model.Place{File: r.guard.file, Line: integer(triple[1]), Col: integer(triple[2])}
	wrong := func(format string, args ...any) *model.Problem {
		return &model.Problem{Place: rule, Message: verdict + " " + fmt.Sprintf(format, args...)}
	}
	about := rule
	fields := []string{"msg"}
	if verdict == "require_approval" {
		fields = []string{"team", "reason"}
	}
	object, ok := triple[0].(map[string]any)
	if s, isString := triple[0].(string); isString && fields[0] == "msg" {
		object, ok = map[string]any{"msg": s}, true
	}
	if !ok {
		return wrong("yields %s, want an object with %s", text(triple[0]), strings.Join(fields, " and "))
	}
	texts := make([]string, len(fields))
	for name := range object {
		if name != "place" && !slices.Contains(fields, name) {
			return wrong("yields an object with the field %q; it may have %s and place", name, strings.Join(fields, ", "))
		}
	}
	for i, name := range fields {
		s, _ := object[name].(string)
		if !oneLine(s) {
			return wrong("yields %s as %s, want one line of text of 1 to %d bytes", text(object[name]), name, maxText)
		}
		texts[i] = s
	}
	if p, ok := object["place"]; ok {
		if about, ok = asPlace(p); !ok {
			return wrong("yields %s as place, want one from the input", text(p))
		}
	}
	switch verdict {
	case "deny":
		r.result.Deny = append(r.result.Deny, Finding{r.guard.name, texts[0], about, rule})
	case "warn":
		r.result.Warn = append(r.result.Warn, Finding{r.guard.name, texts[0], about, rule})
	default:
		r.result.Approvals = append(r.result.Approvals, Approval{r.guard.name, texts[0], texts[1], about, rule})
	}
	return nil
}

// asPlace reads a place that a guard copied from the input.
func asPlace(v any) (p model.Place, ok bool) {
	b, err := json.Marshal(v)
	if err != nil {
		return p, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if d.Decode(&p) != nil || !oneLine(p.File) || p.Line < 0 || p.Col < 0 {
		return p, false
	}
	return p, true
}

func integer(v any) int {
	number, _ := v.(json.Number)
	n, _ := number.Int64()
	return int(n)
}

// oneLine reports whether s can be printed as a line of its own.
func oneLine(s string) bool {
	return s != "" && len(s) <= maxText && strings.TrimSpace(s) != "" &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) })
}

// text is a value in an error message.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "something"
	}
	const most = 120
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "") + "…"
	}
	return string(b)
}
