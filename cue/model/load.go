// Package model is a policy repository in Go, and the only way from CUE to it.
//
// It is for everything that reads policy. [Load] takes a tree of files and
// gives a [Policy], or [Problems]: each with the file, line and column of the
// policy where it is, in words its author knows. It needs no clock, network or
// environment, and the same files give the same Policy and the same Problems in
// any order.
//
// # Flow
//
//	files      the tree is walked in sorted order; what does not belong is named
//	syntax     each file is parsed; imports, attributes, names written twice
//	           and fields that look as if they did something are refused
//	value      all files are one CUE value; the user's own errors are told
//	shape      compared with the schema, field by field
//	schema     unified with the schema, which gives defaults and has the last word
//	decode     texts become selectors, ports, keys, prefixes and times
//	check      names exist, nothing contradicts itself ([Policy.Check])
//
// A stage with problems is the last one, so that one mistake is not told twice.
//
// # Files
//
//	*.cue              in any folder: "package network". *_test.cue and
//	                   *_tool.cue are like any other
//	data/**/*.json     plain data with the same fields, for bulk lists
//	guard/**/*.rego    left to package rego
//	trust/             left to package trust
//	cue.mod/           left to editors
//	.name              files and folders are not read; policy in them is a problem
//
// JSON elsewhere, and YAML anywhere, is not read, and a warning says so (in
// data/ it is a problem). Computed rules (generate/) are not enforced by this
// version and refused. A symbolic link, a device or the like is a problem.
//
// # Limits
//
//	2,000 files, 16 MiB together      a network of 100,000 users needs 4 MiB
//	2,000,000 syntax nodes            over all files, before evaluation
//	20,000 items                      in one list or struct as written
//	1,000 tokens of nesting           brackets, operators, labels and selectors
//	                                  on the way to one token; the parser and
//	                                  the evaluator recurse over them
//	200 problems                      more are counted, not listed
//
// CUE has no way to stop an evaluation that takes too long or too much memory.
// Load therefore runs in a child process with limits (policy/sandbox), and a
// Policy, its warnings and Problems survive JSON unchanged.
//
// # Refused
//
// Syntax errors; a missing or other package clause; imports; attributes
// (@if, @embed and the like); UTF-16 and invalid UTF-8; a name written in two
// places; optional fields ("until?: …") outside definitions, which would be
// dropped in silence; a hidden field or definition that is never used and named
// like a field of the schema; values that are not definite; fields and kinds
// that the schema does not have; constructs that this version does not enforce,
// by name; texts that do not parse; names that nothing defines; cycles; times
// before 2000 or after 9999, which other formats cannot hold.
package model

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/build"
	"cuelang.org/go/cue/cuecontext"
)

// maxProblems is how many problems are listed. A person reads fewer, and a
// policy of nothing but mistakes must not make an answer larger than itself.
const maxProblems = 200

// policyShape is the schema's shape, read once: it holds no CUE values.
var policyShape = sync.OnceValue(func() *shape { return shapeOf(schema(cuecontext.New())) })

// Load reads the policy in fsys and checks it. The error is Problems unless
// fsys itself cannot be read.
func Load(fsys fs.FS) (*Policy, error) {
	p, err := load(fsys)
	var ps Problems
	if errors.As(err, &ps) && len(ps) > maxProblems {
		rest := len(ps) - maxProblems
		ps = append(slices.Clip(ps[:maxProblems]), Problem{
			Place:   ps[maxProblems].Place,
			Message: fmt.Sprintf("%d more problems from here on", rest),
		})
		err = ps
	}
	return p, err
}

func load(fsys fs.FS) (*Policy, error) {
	sources, warnings, err := readFiles(fsys)
	if err != nil {
		return nil, err
	}
	syntax, err := parseFiles(sources)
	if err != nil {
		return nil, err
	}
	v, err := evaluate(syntax)
	if err != nil {
		return nil, err
	}
	d := decoder{warnings: append(warnings, syntax.warnings...)}
	p := d.policy(v)
	if err := d.problems.Err(); err != nil {
		return nil, err
	}
	p.Warnings = d.warnings
	if err := p.Check(); err != nil {
		return nil, err
	}
	return p, nil
}

// evaluate makes one value of the files, of the schema's shape and with its
// defaults. A panic of the evaluator on a policy is told as a problem: it is
// somebody's mistake, but the policy is not to be accepted.
func evaluate(s *syntax) (out *value, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, Problems{{Message: fmt.Sprintf("CUE cannot evaluate this policy: %v", r)}}
		}
	}()
	in := build.NewContext().NewInstance("", nil)
	for _, f := range s.files {
		if err := in.AddSyntax(f); err != nil {
			return nil, s.told(err, nil).Err()
		}
	}
	if err := in.Complete(); err != nil {
		return nil, s.told(err, nil).Err()
	}
	ctx := cuecontext.New()
	v := ctx.BuildInstance(in)
	if err := v.Validate(); err != nil {
		return nil, s.told(err, nil).Err()
	}

	own := (&reader{files: s.names, labels: s.labels}).read(v, nil, Place{})
	places := map[string]Place{}
	own.note(nil, places)
	c := &checker{}
	c.check(own, policyShape(), nil)

	u := v.Unify(schema(ctx))
	if err := u.Validate(cue.Concrete(true)); err != nil {
		c.problems = append(c.problems, s.told(err, func(path []string) (Place, bool) {
			return nearestPlace(places, path), c.covers(path)
		})...)
		if len(c.problems) == 0 {
			c.problems.Add(Place{}, "%s", clean(err.Error()))
		}
	}
	if err := c.problems.Err(); err != nil {
		return nil, err
	}
	// What was incomplete without the schema's defaults is looked at now, and
	// the decoder may rely on the shape.
	out = (&reader{files: s.names, labels: s.labels, places: places}).read(u, nil, Place{})
	c = &checker{whole: true}
	c.check(out, policyShape(), nil)
	return out, c.problems.Err()
}

// covers reports whether a problem was told at path, above it or below it.
func (c *checker) covers(path []string) bool {
	p := strings.Join(path, "\x00")
	return slices.ContainsFunc(c.paths, func(q string) bool {
		return p == q || p == "" || strings.HasPrefix(p, q+"\x00") || strings.HasPrefix(q, p+"\x00")
	})
}

// nearestPlace is the place of path or of the nearest thing it is in.
func nearestPlace(places map[string]Place, path []string) Place {
	for n := len(path); n > 0; n-- {
		if p := places[strings.Join(path[:n], "\x00")]; !p.IsZero() {
			return p
		}
	}
	return Place{}
}

// A syntax is the parsed files and what their syntax alone shows.
type syntax struct {
	files    []*ast.File
	names    map[string]bool    // of the files
	labels   map[string][]Place // where each path is written, as far as the syntax shows
	hidden   map[string]Place   // where hidden fields and definitions are written
	warnings Problems
}
