package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// A Computed is a rule that was not written in CUE, to be read as if it were.
type Computed struct {
	Name   string          `json:"name"`
	Rule   json.RawMessage `json:"rule"`  // an object with the fields of a rule
	Place  Place           `json:"place"` // of what made it
	Origin []Place         `json:"origin,omitempty"`
}

// Computed reads computed rules: by the schema's shape and defaults, and by the
// decoder, which are those of written rules. Names that the policy writes are
// refused, as are names that are there twice. What the rules refer to is checked
// by [Policy.With], where they become part of the policy. They come back sorted
// by name. The error is Problems; each has the place of its rule, and also those
// of its origin.
func (p *Policy) Computed(list []Computed) (rules []Rule, warnings Problems, err error) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Computed) int { return strings.Compare(a.Name, b.Name) })
	written := make(map[string]Place, len(p.Rules))
	for _, r := range p.Rules {
		written[r.Name] = r.Place
	}
	var problems Problems
	for i, c := range list {
		twice := Problem{Place: c.Place, Hint: "a name is written in one place"}
		if at, ok := written[c.Name]; ok {
			twice.Also, twice.Message = []Place{at}, subject("rule", c.Name)+" is computed here, and there already"
		} else if i > 0 && c.Name == list[i-1].Name {
			twice.Also, twice.Message = []Place{list[i-1].Place}, subject("rule", c.Name)+" is computed twice"
		} else {
			r, told, warned := c.rule()
			rules, warnings = append(rules, r), append(warnings, warned...)
			for _, p := range told {
				p.Also = slices.DeleteFunc(slices.Concat(p.Also, c.Origin), func(at Place) bool { return at == c.Place })
				problems = append(problems, p)
			}
			continue
		}
		problems = append(problems, twice)
	}
	if err := problems.Err(); err != nil {
		return nil, nil, err
	}
	return rules, warnings, nil
}

// rule reads the rule by itself.
func (c Computed) rule() (r Rule, problems, warnings Problems) {
	var text any
	d := json.NewDecoder(bytes.NewReader(c.Rule))
	d.UseNumber() // which are as they were written
	err := d.Decode(&text)
	if err == nil {
		if _, err = d.Token(); err == nil {
			err = errors.New("more than one value")
		} else if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		problems.Add(c.Place, "%s: not JSON: %s", subject("rule", c.Name), clean(err.Error()))
		return r, problems, nil
	}
	path := []string{"rules", c.Name}
	v := valueOf(text, path, c.Place)
	shape := &checker{whole: true}
	shape.check(v, policyShape().fields["rules"].any, path)
	if len(shape.problems) > 0 {
		return r, shape.problems, nil
	}
	if d := policyDefaults().fields["rules"]; d != nil {
		d.any.apply(v)
	}
	decode := decoder{}
	r = decode.rule(c.Name, v)
	r.Origin = slices.Clone(c.Origin)
	return r, decode.problems, decode.warnings
}

// valueOf is decoded JSON as the value at path. All of it stands in one place.
func valueOf(text any, path []string, at Place) *value {
	v := &value{place: at}
	switch text := text.(type) {
	case nil:
		v.kind = kindNull
	case bool:
		v.kind, v.yes = kindBool, text
	case json.Number:
		v.kind = kindNumber
	case string:
		v.kind, v.str = kindString, text
	case []any:
		v.kind = kindList
	case map[string]any:
		v.kind = kindStruct
	}
	if opaque(path) {
		if b, err := json.Marshal(text); err == nil {
			v.json = canonicalJSON(b)
		}
		v.str, v.yes = "", false
		return v
	}
	// What is deeper than the schema is unknown at a higher place, and said there.
	if len(path) > maxDepth {
		return v
	}
	switch text := text.(type) {
	case []any:
		for _, item := range text {
			v.items = append(v.items, valueOf(item, append(slices.Clip(path), ""), at))
		}
	case map[string]any:
		for name, item := range text {
			v.fields = append(v.fields, field{name, valueOf(item, append(slices.Clip(path), name), at)})
		}
		slices.SortFunc(v.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	}
	return v
}

// WithComputed is [Policy.With] for rules that [Policy.Computed] has read. A
// problem with one of them also names the places of its origin.
func (p *Policy) WithComputed(rules []Rule) (*Policy, error) {
	q, err := p.With(rules...)
	var problems Problems
	if !errors.As(err, &problems) {
		return q, err
	}
	for i := range problems {
		told := &problems[i]
		for _, r := range rules {
			if told.Place == r.Place && strings.HasPrefix(told.Message, subject("rule", r.Name)+":") {
				told.Also = slices.Concat(told.Also, r.Origin)
			}
		}
	}
	return nil, problems.Err()
}
