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
//	teams      what is in a team's folder stays within its scope
//
// Files that are plain data (texts, lists and structs, no references) are read from
// their syntax without CUE's evaluator, to the same result: ten thousand rules take
// half a second, not more memory than there is.
//
// A stage with problems is the last one, so that one mistake is not told twice.
//
// # Files
//
//	*.cue              in any folder: "package network". *_test.cue and
//	                   *_tool.cue are like any other
//	teams/NAME/**.cue  a team's part: plain data, and only what a team may write
//	data/**/*.json     plain data with the same fields, for bulk lists
//	data/**/*.yaml     the same, also .yml
//	guard/**/*.rego    left to package rego
//	generate/**/*.rego left to package rego
//	trust/             left to package trust
//	cue.mod/           left to editors
//	.name              files and folders are not read; policy in them is a problem
//
// JSON and YAML elsewhere is not read, and a warning says so (under teams/ it is a
// problem). A symbolic link, a device or the like is a problem. Files may begin
// with a byte order mark and have lines that end in CR LF.
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
//	16 KiB of capabilities            of one rule: they go to every node it is about
//	200,000 exceptions                selectors of differences times their exceptions
//	16 windows, 16 postures           of one rule; 32 conditions of one posture: each
//	                                  new flow is judged by all of them
//
// CUE has no way to stop an evaluation that takes too long or too much memory.
// Load therefore runs in a child process with limits (policy/sandbox), and a
// Policy, its warnings and Problems survive JSON unchanged.
//
// # Refused
//
// Syntax errors; a missing or other package clause; imports; attributes
// (@if, @embed and the like); UTF-16 and invalid UTF-8; YAML with anchors, aliases,
// tags, merge keys, a second document, or numbers that JSON does not know; a name
// written in two places; what a team may not write; optional fields ("until?: …")
// outside definitions, which would be dropped in silence; a hidden field or
// definition that is never used and named like a field of the schema; values that
// are not definite; fields and kinds that the schema does not have; constructs that
// this version does not enforce, by name; texts that do not parse; names that nothing
// defines; cycles; exceptions that a node escapes by hiding something; addresses of
// the network itself that no pinned node has; times before 2000 or after 9999, which
// other formats cannot hold.
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
	var v *value
	if err == nil {
		v, err = evaluate(syntax)
	}
	if err != nil {
		if conflicts := unmerged(sources).Err(); conflicts != nil {
			err = conflicts
		}
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
	if err := p.checkTeams(syntax.names); err != nil {
		return nil, err
	}
	return p, nil
}

// evaluate makes one value of the files, of the schema's shape and with its
// defaults. Plain data is read without CUE; where there is anything to say about
// it, CUE says it.
func evaluate(s *syntax) (*value, error) {
	if v, ok := s.quick(); ok {
		return v, nil // in which no file depends on another
	}
	v, err := s.slow()
	if err == nil && slices.ContainsFunc(s.sources, func(src source) bool { return teamOf(src.name) != "" }) {
		err = s.teamsApart(v)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// quick is the value of files that are plain data and of the schema's shape.
func (s *syntax) quick() (*value, bool) {
	if slices.ContainsFunc(s.files, func(f *ast.File) bool { return !plainFile(f) }) {
		return nil, false
	}
	v, ok := (&plain{labels: s.labels}).read(s.files)
	if !ok {
		return nil, false
	}
	c := &checker{whole: true}
	if c.check(v, policyShape(), nil); len(c.problems) > 0 {
		return nil, false
	}
	policyDefaults().apply(v)
	return v, true
}

// slow is the value of files as CUE evaluates them. A panic of the evaluator on a
// policy is told as a problem: it is somebody's mistake, but the policy is not to
// be accepted.
func (s *syntax) slow() (out *value, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, Problems{{Message: fmt.Sprintf("CUE cannot evaluate this policy: %v", r)}}
		}
	}()
	ctx := cuecontext.New()
	v, err := s.built(ctx)
	if err != nil {
		return nil, err
	}
	own := s.own(v)
	if s.complete(ctx, v, own) {
		return own, nil
	}
	return s.unified(ctx, v, s.own(v))
}

// built is the files as one value of CUE.
func (s *syntax) built(ctx *cue.Context) (cue.Value, error) {
	in := build.NewContext().NewInstance("", nil)
	for _, f := range s.files {
		if err := in.AddSyntax(f); err != nil {
			return cue.Value{}, s.told(err, nil).Err()
		}
	}
	if err := in.Complete(); err != nil {
		return cue.Value{}, s.told(err, nil).Err()
	}
	v := ctx.BuildInstance(in)
	if err := v.Validate(); err != nil {
		return v, s.told(err, nil).Err()
	}
	return v, nil
}

// own is what v holds without the schema.
func (s *syntax) own(v cue.Value) *value {
	return (&reader{files: s.names, labels: s.labels}).read(v, nil, Place{})
}

// complete reports whether own, which v was read as, is what the schema makes of
// it, defaults included, and puts those in. It is false where only the whole
// schema can tell: something is missing, incomplete or wrong, or refers to what
// has a default.
//
// The shape says all that the schema does except for defaults, which a test
// holds. So only blocks with defaults are unified here: to do so with ten
// thousand rules takes as much time and memory again as to evaluate them.
func (s *syntax) complete(ctx *cue.Context, v cue.Value, own *value) bool {
	c := &checker{whole: true}
	if c.check(own, policyShape(), nil); len(c.problems) > 0 {
		return false
	}
	defaults := policyDefaults()
	names := map[string]bool{}
	defaults.names(names)
	for name := range names {
		if s.used[name] {
			return false
		}
	}
	for name := range defaults.fields {
		if own.field(name) == nil {
			return false
		}
		path := cue.MakePath(cue.Str(name))
		block := schema(ctx).LookupPath(path.Optional())
		if !block.Exists() {
			block = schema(ctx).LookupPath(path)
		}
		u := v.LookupPath(path).Unify(block)
		if u.Validate(cue.Concrete(true)) != nil {
			return false
		}
		was := own.field(name)
		places := map[string]Place{}
		was.note([]string{name}, places)
		is := (&reader{files: s.names, labels: s.labels, places: places}).read(u, []string{name}, Place{})
		c := &checker{whole: true}
		if c.check(is, policyShape().fields[name], []string{name}); len(c.problems) > 0 {
			return false
		}
		*was = *is
	}
	return true
}

// unified is the value of v and the schema together, or all that is wrong.
func (s *syntax) unified(ctx *cue.Context, v cue.Value, own *value) (*value, error) {
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
	out := (&reader{files: s.names, labels: s.labels, places: places}).read(u, nil, Place{})
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
	sources  []source
	files    []*ast.File
	names    map[string]bool    // of the files
	labels   map[string][]Place // where each path is written, as far as the syntax shows
	hidden   map[string]Place   // where hidden fields and definitions are written
	used     map[string]bool    // identifiers that are referred to
	warnings Problems
}
