package rego

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writmesh/writ/cue/model"
)

// rulesRule is what is read of a generator.
const rulesRule = "rules"

// generatorInput is what generators look at: the policy as it is written, and
// nothing that is not in it.
type generatorInput struct {
	Network *model.Policy `json:"network"`
}

// Generators are compiled generators. They do not change.
type Generators struct{ program }

// CompileGenerators checks generators, given by path. The error is
// [model.Problems].
func CompileGenerators(files map[string][]byte) (*Generators, error) {
	p, err := generateKind.compile(files)
	if err != nil {
		return nil, err
	}
	return &Generators{*p}, nil
}

// checkGenerator sees that a generator has rules, of their kind.
func checkGenerator(m *module, problems *model.Problems) {
	found := false
	for _, rule := range m.parsed.Rules {
		name, _ := ruleName(rule)
		if name != rulesRule {
			continue
		}
		found = true
		head := rule.Head
		if len(head.Args) != 0 || len(head.Ref()) != 2 || head.RuleKind() != ast.SingleValue || rule.Else != nil || rule.Default {
			problems.Add(place(rule.Location, m.file), "%s must be written %q", name, name+"[NAME] := {…} if { … }")
		}
	}
	if !found {
		*problems = append(*problems, model.Problem{
			Place:   place(m.parsed.Package.Location, m.file),
			Message: fmt.Sprintf("generator %s has no rules", m.name),
			Hint:    "rules[NAME] := {…} if { … }",
		})
	}
}

// Yield runs every generator over a policy and returns what they yield, sorted by
// name. The warnings name generators that yield nothing. The error is
// [model.Problems] if a generator is at fault.
func (g *Generators) Yield(ctx context.Context, network *model.Policy) (rules []model.Computed, warnings model.Problems, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errSlow)
	defer cancel()
	document, err := generateKind.document(generatorInput{network})
	if err != nil {
		return nil, nil, fmt.Errorf("generate: %w", err)
	}
	e, err := g.over(ctx, document)
	if err != nil {
		return nil, nil, fmt.Errorf("generate: %w", err)
	}
	defer e.close(ctx)
	y := &yield{places: make(map[model.Place]bool), rules: make(map[string]model.Computed)}
	y.note(document)
	for _, m := range g.modules {
		value, err := e.ask(ctx, m, placed(rulesRule))
		if err != nil {
			return nil, nil, err
		}
		items, _ := value.([]any)
		if len(items) == 0 {
			warnings.Add(model.Place{File: m.file}, "generator %s yields no rule", m.name)
		}
		for _, item := range items {
			y.add(m, item)
		}
		if len(y.rules) > maxComputed {
			return nil, nil, m.problem("more than %d computed rules", maxComputed)
		}
		if y.size > maxTotal {
			return nil, nil, m.problem("the computed rules are larger than %d bytes", maxTotal)
		}
	}
	if err := y.problems.Err(); err != nil {
		return nil, nil, err
	}
	for _, r := range y.rules {
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b model.Computed) int { return strings.Compare(a.Name, b.Name) })
	return rules, warnings, nil
}

// A yield is what generators have yielded so far.
type yield struct {
	places   map[model.Place]bool // in the input
	rules    map[string]model.Computed
	size     int
	problems model.Problems
}

// note takes up the places in a part of the input.
func (y *yield) note(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			y.note(item)
		}
	case map[string]any:
		for name, item := range v {
			if name == "place" {
				if p, ok := asPlace(item); ok {
					y.places[p] = true
					continue
				}
			}
			y.note(item)
		}
	}
}

// add takes one item of rules: [[name, rule], line, column].
func (y *yield) add(m *module, value any) {
	triple, _ := value.([]any)
	if len(triple) != 3 {
		y.problems.Add(model.Place{File: m.file}, "rules yields %s", text(value))
		return
	}
	at := model.Place{File: m.file, Line: integer(triple[1]), Col: integer(triple[2])}
	pair, _ := triple[0].([]any)
	if len(pair) != 2 {
		y.problems.Add(at, "rules yields %s", text(triple[0]))
		return
	}
	name, ok := pair[0].(string)
	if !ok || !oneLine(name) {
		y.problems.Add(at, "rules yields %s as a rule's name, want one line of text of 1 to %d bytes", text(pair[0]), maxText)
		return
	}
	rule, ok := pair[1].(map[string]any)
	if !ok {
		y.problems.Add(at, "rule %q: rules yields %s, want an object with the fields of a rule", name, text(pair[1]))
		return
	}
	c := model.Computed{Name: name, Place: at}
	if origin, ok := rule["origin"]; ok {
		if c.Origin, ok = y.origin(origin); !ok {
			y.problems = append(y.problems, model.Problem{
				Place:   at,
				Message: fmt.Sprintf("rule %q: origin is %s, which is no place of the input", name, text(origin)),
				Hint:    "copy the place of what the rule is made of, or a list of places",
			})
			return
		}
		delete(rule, "origin")
	}
	b, err := json.Marshal(rule) // sorted
	if err != nil {
		y.problems.Add(at, "rule %q: %v", name, err)
		return
	}
	c.Rule = b
	y.size += len(b) + len(name)
	before, ok := y.rules[name]
	switch {
	case !ok:
		y.rules[name] = c
	case string(before.Rule) == string(c.Rule) && before.Place.File == at.File:
		// The same rule for several reasons: all of them are its origin.
		first, _ := minmaxPlace(before.Place, at)
		before.Place = first
		before.Origin = slices.Compact(slices.SortedFunc(slices.Values(slices.Concat(before.Origin, c.Origin)), model.Place.Compare))
		y.rules[name] = before
	default:
		first, second := minmaxPlace(before.Place, at)
		p := model.Problem{Place: second, Message: fmt.Sprintf("rule %q is computed twice, differently", name), Hint: "make what it is computed from a part of its name"}
		if string(before.Rule) == string(c.Rule) {
			p.Message = fmt.Sprintf("rule %q is computed twice", name)
		}
		if first != second {
			p.Also = []model.Place{first}
		}
		y.problems = append(y.problems, p)
	}
}

func minmaxPlace(a, b model.Place) (first, second model.Place) {
	if b.Compare(a) < 0 {
		return b, a
	}
	return a, b
}

// origin reads a place of the input, or a list of them.
func (y *yield) origin(v any) (origin []model.Place, ok bool) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, item := range list {
		p, ok := asPlace(item)
		if !ok || !y.places[p] {
			return nil, false
		}
		origin = append(origin, p)
	}
	slices.SortFunc(origin, model.Place.Compare)
	return slices.Compact(origin), len(origin) > 0
}

// generate is the handler's part: generators and their tests compiled, their
// rules read as written ones are.
func generate(ctx context.Context, files map[string][]byte, network *model.Policy) (rules []model.Rule, warnings model.Problems, err error) {
	if network == nil {
		return nil, nil, errors.New("generate: no policy")
	}
	g, err := CompileGenerators(files)
	if err != nil {
		return nil, nil, err
	}
	computed, warnings, err := g.Yield(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	rules, more, err := network.Computed(computed)
	return rules, append(warnings, more...), err
}
