package model

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
	"golang.org/x/text/unicode/norm"
)

// Plain data is CUE that means what it says: literal labels, texts, numbers,
// lists and structs, without references, operators, definitions, comprehensions
// or constraints. Most of a large policy is nothing else, and CUE needs a
// kilobyte and ten microseconds for each value of it. It is read from the syntax
// tree here, and must give what CUE gives: places, too. A test compares the two.
//
// Whatever is not certain to be plain data is left to CUE, and so is everything
// about which there is something to say: no problem is told from here.
type plain struct {
	labels map[string][]Place // from the syntax, by path joined with NUL
	path   []byte             // of what is read, joined with NUL
}

// plainFile reports whether the file is plain data on the face of it. Texts and
// doubles are looked at when it is read.
func plainFile(f *ast.File) bool {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.Package, *ast.CommentGroup:
		case *ast.Field:
			if plainField(d) != nil {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// plainField is what of the field is no plain data; nil when all of it is.
func plainField(f *ast.Field) ast.Node {
	if f.Constraint != token.ILLEGAL || f.Alias != nil || len(f.Attrs) > 0 {
		return f
	}
	if _, ok := plainName(f.Label); !ok {
		return f.Label
	}
	return plainExpr(f.Value)
}

func plainExpr(e ast.Expr) ast.Node {
	switch e := e.(type) {
	case *ast.BasicLit:
		return nil
	case *ast.UnaryExpr:
		if lit, ok := e.X.(*ast.BasicLit); ok && e.Op == token.SUB && lit.Kind == token.INT {
			return nil
		}
	case *ast.ListLit:
		for _, item := range e.Elts {
			if not := plainExpr(item); not != nil {
				return not
			}
		}
		return nil
	case *ast.StructLit:
		for _, d := range e.Elts {
			f, ok := d.(*ast.Field)
			if _, comment := d.(*ast.CommentGroup); !ok && !comment {
				return d
			} else if comment {
				continue
			}
			if not := plainField(f); not != nil {
				return not
			}
		}
		return nil
	}
	return e
}

// plainName is the name that a label gives its field. A name that is not in the
// normal form into which CUE brings names is not plain.
func plainName(l ast.Label) (string, bool) {
	var name string
	switch l := l.(type) {
	case *ast.Ident:
		name = l.Name
		if strings.HasPrefix(name, "_") || strings.HasPrefix(name, "#") || strings.HasPrefix(name, "`") {
			return "", false
		}
	case *ast.BasicLit:
		if l.Kind != token.STRING {
			return "", false
		}
		var err error
		if name, err = literal.Unquote(l.Value); err != nil {
			return "", false
		}
	default:
		return "", false
	}
	return name, norm.NFC.IsNormalString(name)
}

// read is the value of files that are plainFile. It is false where CUE is to be
// asked.
func (p *plain) read(files []*ast.File) (*value, bool) {
	root := &value{kind: kindStruct}
	for _, f := range files {
		for _, d := range f.Decls {
			if field, ok := d.(*ast.Field); ok && !p.field(root, field, 0, true) {
				return nil, false
			}
		}
	}
	return root, join(root)
}

// field adds a field to a struct at depth; indexed is whether the syntax shows
// where its path is written.
func (p *plain) field(to *value, f *ast.Field, depth int, indexed bool) bool {
	if depth >= maxDepth {
		return false
	}
	name, ok := plainName(f.Label)
	if !ok {
		return false
	}
	n := len(p.path)
	if depth > 0 {
		p.path = append(p.path, 0)
	}
	p.path = append(p.path, name...)
	defer func() { p.path = p.path[:n] }()
	at := placeOf(f.Label.Pos())
	if indexed {
		if places := p.labels[string(p.path)]; len(places) > 0 {
			at = places[0]
		}
	}
	v, ok := p.expr(f.Value, at, depth+1, indexed)
	if !ok {
		return false
	}
	to.fields = append(to.fields, field{name, v})
	return true
}

func (p *plain) expr(e ast.Expr, at Place, depth int, indexed bool) (*value, bool) {
	out := &value{place: at}
	if depth == opaqueDepth && opaque(strings.Split(string(p.path), "\x00")) {
		return p.opaque(out, e)
	}
	switch e := e.(type) {
	case *ast.BasicLit:
		return out, out.scalar(e)
	case *ast.UnaryExpr:
		out.kind = kindNumber
	case *ast.ListLit:
		if depth >= maxDepth {
			return nil, false
		}
		out.kind = kindList
		for i, item := range e.Elts {
			n := len(p.path)
			p.path = append(p.path, 0)
			p.path = strconv.AppendInt(p.path, int64(i), 10)
			v, ok := p.expr(item, placeOf(item.Pos()), depth+1, false)
			p.path = p.path[:n]
			if !ok {
				return nil, false
			}
			out.items = append(out.items, v)
		}
	case *ast.StructLit:
		out.kind = kindStruct
		for _, d := range e.Elts {
			if f, ok := d.(*ast.Field); ok && !p.field(out, f, depth, indexed) {
				return nil, false
			}
		}
	}
	return out, true
}

// scalar fills in a text, a number, a truth value or null.
func (v *value) scalar(lit *ast.BasicLit) bool {
	switch lit.Kind {
	case token.STRING:
		v.kind = kindString
		s, err := literal.Unquote(lit.Value)
		v.str = s
		return err == nil && !strings.HasPrefix(strings.TrimLeft(lit.Value, "#"), "'") // which is bytes
	case token.INT, token.FLOAT:
		var info literal.NumInfo
		v.kind = kindNumber
		return literal.ParseNum(lit.Value, &info) == nil
	case token.TRUE, token.FALSE:
		v.kind, v.yes = kindBool, lit.Kind == token.TRUE
		return true
	case token.NULL:
		v.kind = kindNull
		return true
	}
	return false
}

// opaque is a value that the policy only passes on.
func (p *plain) opaque(out *value, e ast.Expr) (*value, bool) {
	text, ok := plainJSON(nil, e, 0)
	if !ok {
		return nil, false
	}
	var shallow value
	switch e := e.(type) {
	case *ast.BasicLit:
		if !shallow.scalar(e) {
			return nil, false
		}
	case *ast.UnaryExpr:
		shallow.kind = kindNumber
	case *ast.ListLit:
		shallow.kind = kindList
	case *ast.StructLit:
		shallow.kind = kindStruct
	}
	out.kind, out.json = shallow.kind, canonicalJSON(text)
	return out, out.json != nil
}

// plainJSON appends the expression as JSON. Numbers are those that every notation
// writes alike; fields that are written twice are CUE's to judge.
func plainJSON(to []byte, e ast.Expr, depth int) ([]byte, bool) {
	if depth > maxNesting {
		return nil, false
	}
	ok := true
	switch e := e.(type) {
	case *ast.BasicLit:
		switch e.Kind {
		case token.TRUE, token.FALSE, token.NULL:
			return append(to, e.Value...), true
		case token.INT:
			if len(e.Value) > 15 || strings.Trim(e.Value, "0123456789") != "" {
				return nil, false
			}
			return append(to, e.Value...), true
		case token.STRING:
			var v value
			if !v.scalar(e) {
				return nil, false
			}
			s, err := json.Marshal(v.str)
			return append(to, s...), err == nil
		}
		return nil, false
	case *ast.UnaryExpr:
		return plainJSON(append(to, '-'), e.X, depth)
	case *ast.ListLit:
		to = append(to, '[')
		for i, item := range e.Elts {
			if i > 0 {
				to = append(to, ',')
			}
			if to, ok = plainJSON(to, item, depth+1); !ok {
				return nil, false
			}
		}
		return append(to, ']'), true
	case *ast.StructLit:
		names := map[string]bool{}
		to = append(to, '{')
		for _, d := range e.Elts {
			f, isField := d.(*ast.Field)
			if !isField {
				continue
			}
			name, ok := plainName(f.Label)
			if !ok || names[name] {
				return nil, false
			}
			if len(names) > 0 {
				to = append(to, ',')
			}
			names[name] = true
			s, err := json.Marshal(name)
			if err != nil {
				return nil, false
			}
			if to, ok = plainJSON(append(append(to, s...), ':'), f.Value, depth+1); !ok {
				return nil, false
			}
		}
		return append(to, '}'), true
	}
	return nil, false
}

// join sorts the fields of v and of all in it, and makes one of structs that are
// written in several places. Anything else that is there twice is CUE's to judge.
func join(v *value) bool {
	slices.SortStableFunc(v.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	out := v.fields[:0]
	for _, f := range v.fields {
		if n := len(out); n > 0 && out[n-1].name == f.name {
			into := out[n-1].value
			if into.kind != kindStruct || f.value.kind != kindStruct || into.json != nil || f.value.json != nil {
				return false
			}
			into.fields = append(into.fields, f.value.fields...)
			continue
		}
		out = append(out, f)
	}
	clear(v.fields[len(out):])
	v.fields = out
	for _, f := range v.fields {
		if !join(f.value) {
			return false
		}
	}
	for _, item := range v.items {
		if !join(item) {
			return false
		}
	}
	return true
}

// opaqueDepth is how many labels lead to an opaque value.
const opaqueDepth = 4
