package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"
	cuejson "cuelang.org/go/encoding/json"
)

// maxNodes is how much syntax is evaluated. Sixteen megabytes of names in
// lists are below it; sixteen megabytes of "{}," are not.
const maxNodes = 2_000_000

// maxItems is how many items one list or struct may be written with. CUE's
// evaluator takes time quadratic in it: a few seconds at this number, and at
// 50,000 more than the child process has.
const maxItems = 20_000

// parseFiles parses every file and refuses what its syntax alone shows to be
// wrong.
func parseFiles(sources []source) (s *syntax, err error) {
	var ps Problems
	s = &syntax{sources: sources, names: map[string]bool{}, labels: map[string][]Place{}, hidden: map[string]Place{}, used: map[string]bool{}}
	x := index{labels: s.labels, declared: s.hidden, used: s.used}
	nodes := 0
	for _, src := range sources {
		if src.notation != inYAML { // which looks itself, while it reads
			if at, deep := tooDeep(src.name, src.text); deep {
				ps.Add(at, "nested more than %d deep", maxNesting)
				continue
			}
		}
		f, err := parse(src)
		if err != nil {
			ps = append(ps, parseProblem(src, err))
			continue
		}
		s.names[src.name] = true
		s.files = append(s.files, f)
		ps = append(ps, checkSyntax(src, f, &x, &nodes)...)
		if team := teamOf(src.name); team != "" {
			ps = append(ps, checkTeamFile(f, team)...)
		}
		if nodes > maxNodes {
			ps.Add(Place{File: src.name}, "more than %d syntax nodes up to here", maxNodes)
			return nil, ps.Err()
		}
		x.decls(f.Decls, nil, indexed)
	}
	ps = append(ps, x.problems...)
	ps = append(ps, x.twice()...)
	unused, warnings := x.unused()
	s.warnings = warnings
	return s, append(ps, unused...).Err()
}

func parse(src source) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("CUE cannot parse this file: %v", r)
		}
	}()
	switch src.notation {
	case inCUE:
		return parser.ParseFile(src.name, src.text, parser.ParseComments)
	case inYAML:
		return parseYAML(src.name, src.text)
	}
	var any json.RawMessage
	if err := json.Unmarshal(src.text, &any); err != nil {
		return nil, err
	}
	expr, err := cuejson.Extract(src.name, src.text)
	if err != nil {
		return nil, err
	}
	top, ok := expr.(*ast.StructLit)
	if !ok {
		return nil, cueerrors.Newf(expr.Pos(), "a data file is one JSON object with the fields of a policy")
	}
	return &ast.File{
		Filename: src.name,
		Decls:    append([]ast.Decl{&ast.Package{Name: ast.NewIdent("network")}}, top.Elts...),
	}, nil
}

// parseProblem is the first error: those after it are mostly its echo.
func parseProblem(src source, err error) Problem {
	p := Problem{Place: Place{File: src.name}, Message: clean(err.Error())}
	var bad *json.SyntaxError
	if errors.As(err, &bad) {
		p.Place = lineOf(src.name, src.text, max(0, min(int(bad.Offset)-1, len(src.text)-1)))
		p.Message = "not JSON: " + p.Message
		return p
	}
	var told Problems
	if errors.As(err, &told) {
		return told[0]
	}
	if list := cueerrors.Errors(err); len(list) > 0 {
		format, args := list[0].Msg()
		if text := clean(fmt.Sprintf(format, args...)); text != "" { // another's error has none
			p.Message = text
		}
		if at := placeOf(list[0].Position()); at.File == src.name {
			p.Place = at
		}
	}
	return p
}

// checkSyntax refuses what is no part of a policy although it is CUE, counts
// nodes, and notes which hidden names are used.
func checkSyntax(src source, f *ast.File, x *index, nodes *int) Problems {
	var ps Problems
	if name := f.PackageName(); name == "" {
		ps = append(ps, Problem{Place: Place{src.name, 1, 1}, Message: "no package clause", Hint: "a file of policy begins with: package network"})
	} else if name != "network" {
		ps.Add(packagePlace(f), "package %s: a policy is written in package network", name)
	}
	labels := map[*ast.Ident]bool{}
	ast.Walk(f, func(n ast.Node) bool {
		if *nodes++; *nodes > maxNodes {
			return false
		}
		switch n := n.(type) {
		case *ast.ListLit:
			if len(n.Elts) > maxItems {
				ps.Add(placeOf(n.Pos()), "a list of %d items: at most %d", len(n.Elts), maxItems)
			}
		case *ast.StructLit:
			if len(n.Elts) > maxItems {
				ps.Add(placeOf(n.Pos()), "a struct of %d fields: at most %d", len(n.Elts), maxItems)
			}
		case *ast.ImportDecl:
			ps.Add(placeOf(n.Pos()), "imports are not allowed in a policy")
			return false
		case *ast.Attribute:
			ps.Add(placeOf(n.Pos()), "attributes (%s) are not allowed in a policy", quoteName(n.Text))
		case *ast.Field:
			for _, a := range n.Attrs {
				ps.Add(placeOf(a.Pos()), "attributes (%s) are not allowed in a policy", quoteName(a.Text))
			}
			if id := labelIdent(n.Label); id != nil {
				labels[id] = true
			}
		case *ast.Ident:
			if !labels[n] {
				x.used[n.Name] = true
			}
		}
		return true
	}, nil)
	return ps
}

func packagePlace(f *ast.File) Place {
	for _, d := range f.Decls {
		if p, ok := d.(*ast.Package); ok {
			return placeOf(p.Pos())
		}
	}
	return Place{File: f.Filename}
}

// labelIdent is the identifier that a field declares, nil when its label is
// something else.
func labelIdent(l ast.Label) *ast.Ident {
	switch l := l.(type) {
	case *ast.Ident:
		return l
	case *ast.Alias:
		if id, ok := l.Expr.(*ast.Ident); ok {
			return id
		}
	}
	return nil
}

// An index is what the syntax shows of where things are written.
type index struct {
	labels   map[string][]Place // of every path whose labels are literal
	declared map[string]Place   // hidden fields and definitions
	used     map[string]bool    // identifiers that are referred to
	problems Problems
}

// A scope is how the index sees what it walks over.
type scope uint8

const (
	indexed   scope = iota // paths are those of the policy
	unknown                // part of the policy, at paths that the syntax does not show
	templated              // a definition or hidden field: part of the policy where it is used
)

func (x *index) decls(decls []ast.Decl, path []string, in scope) {
	for _, d := range decls {
		switch d := d.(type) {
		case *ast.Field:
			x.field(d, path, in)
		case *ast.EmbedDecl:
			x.expr(d.Expr, path, in)
		case *ast.Comprehension:
			x.expr(d, path, in)
		case *ast.LetClause:
			x.expr(d.Expr, nil, templated)
		}
	}
}

func (x *index) field(f *ast.Field, path []string, in scope) {
	name, isIdent, err := ast.LabelName(f.Label)
	if err != nil { // a pattern or a computed name
		if in == indexed {
			in = unknown
		}
		x.expr(f.Value, nil, in)
		return
	}
	at := placeOf(f.Label.Pos())
	if isIdent && (strings.HasPrefix(name, "_") || strings.HasPrefix(name, "#")) {
		if _, ok := x.declared[name]; !ok {
			x.declared[name] = at
		}
		x.expr(f.Value, nil, templated)
		return
	}
	if f.Constraint != token.ILLEGAL && in != templated {
		x.problems = append(x.problems, Problem{
			Place:   at,
			Message: fmt.Sprintf("field %s has no effect here", quoteName(name+f.Constraint.String())),
			Hint:    `"?" and "!" are for definitions; write ` + quoteName(name),
		})
		return
	}
	path = append(slices.Clip(path), name)
	if in == indexed {
		key := strings.Join(path, "\x00")
		x.labels[key] = append(x.labels[key], at)
	}
	x.expr(f.Value, path, in)
}

func (x *index) expr(e ast.Expr, path []string, in scope) {
	switch e := e.(type) {
	case *ast.StructLit:
		x.decls(e.Elts, path, in)
	case *ast.ParenExpr:
		x.expr(e.X, path, in)
	case *ast.Alias:
		x.expr(e.Expr, path, in)
	case *ast.Comprehension:
		x.expr(e.Value, path, in)
		if e.Fallback != nil {
			x.expr(e.Fallback.Body, path, in)
		}
	case *ast.UnaryExpr:
		x.expr(e.X, path, in)
	case *ast.BinaryExpr:
		switch e.Op {
		case token.AND:
			x.expr(e.X, path, in)
			x.expr(e.Y, path, in)
		case token.OR: // alternatives: one of them is the policy
			in = max(in, unknown)
			x.expr(e.X, nil, in)
			x.expr(e.Y, nil, in)
		}
	case *ast.ListLit:
		in = max(in, unknown)
		for _, item := range e.Elts {
			x.expr(item, nil, in)
		}
	}
}

// twice tells what is written in more than one place. Blocks may be opened as
// often as one likes, so that a policy can be split over files; what has a name
// of its own is written once.
func (x *index) twice() Problems {
	var ps Problems
	for key, places := range x.labels {
		if len(places) < 2 {
			continue
		}
		path := strings.Split(key, "\x00")
		depth := entryDepth(path)
		if len(path) < depth || len(path) > depth && len(x.labels[strings.Join(path[:depth], "\x00")]) > 1 {
			continue // a block, or inside something that is told as a whole
		}
		slices.SortFunc(places, Place.Compare)
		ps = append(ps, Problem{
			Place:   places[1],
			Message: pathText(path) + " is written twice",
			Also:    append(slices.Clone(places[:1]), places[2:min(len(places), 1+maxAlso)]...),
			Hint:    "a name is written in one place",
		})
	}
	return ps
}

// entryDepth is how many labels name the thing that path is or is in: a rule has
// two. Shorter paths are blocks.
func entryDepth(path []string) int {
	switch {
	case path[0] == "admins":
		return 1
	case path[0] == "network" && len(path) > 1 && path[1] == "coordinators":
		return 3
	default:
		return 2
	}
}

// unused tells hidden fields and definitions that nothing refers to: one that
// is named like a field of the schema was meant to be that field.
func (x *index) unused() (problems, warnings Problems) {
	var names []string
	policyShape().names(&names)
	for name, at := range x.declared {
		if x.used[name] {
			continue
		}
		bare := strings.TrimLeft(name, "_#")
		message := quoteName(name) + " is never used, and has no effect"
		if slices.Contains(names, bare) {
			problems.Add(at, "%s; did you mean %q?", message, bare)
		} else if near := nearest(bare, names); near != "" {
			problems.Add(at, "%s%s", message, didYouMean(near))
		} else {
			warnings.Add(at, "%s", message)
		}
	}
	return problems, warnings
}

// names appends the names of all fields of s and below.
func (s *shape) names(to *[]string) {
	for name, f := range s.fields {
		*to = append(*to, name)
		f.names(to)
	}
	for _, inner := range []*shape{s.any, s.elem} {
		if inner != nil {
			inner.names(to)
		}
	}
}
