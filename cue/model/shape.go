package model

import (
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
)

//go:embed schema.cue
var schemaText string

// schemaFile is the schema's name in positions. It is no valid path of an
// fs.FS, so that no file of a policy is taken for the schema.
const schemaFile = "//schema.cue"

// schema compiles the schema. The text is fixed, so that an error is a defect
// that every test of this package meets.
func schema(ctx *cue.Context) cue.Value {
	return ctx.CompileString(schemaText, cue.Filename(schemaFile)).LookupPath(cue.ParsePath("#Policy"))
}

// A shape is what the schema says about one value, in a form that lets Go say
// what is wrong: CUE reports a misspelt field inside an alternative as two or
// three errors, none of which names the field it should have been.
type shape struct {
	opaque   bool              // any definite value will do; the others are empty
	kinds    []kind            // that a value may have
	fields   map[string]*shape // of a struct, by name
	required []string          // of these fields; sorted
	any      *shape            // of a struct's other fields; nil when there are none
	elem     *shape            // of a list
}

// shapeOf reads the shape of a schema's value. Alternatives differ in kind, so
// that their union is exact.
func shapeOf(v cue.Value) *shape {
	s := &shape{}
	s.add(v)
	return s
}

func (s *shape) add(v cue.Value) {
	v = cue.Dereference(v)
	if op, args := v.Expr(); op == cue.OrOp {
		for _, a := range args {
			s.add(a)
		}
		return
	}
	if v.IncompleteKind() == cue.TopKind {
		s.opaque = true
		return
	}
	k := kindOf(v.IncompleteKind())
	if !slices.Contains(s.kinds, k) {
		s.kinds = append(s.kinds, k)
	}
	switch k {
	case kindStruct:
		s.fields = map[string]*shape{}
		for it, err := v.Fields(cue.Optional(true)); err == nil && it.Next(); {
			name := it.Selector().Unquoted()
			s.fields[name] = shapeOf(it.Value())
			if it.FieldType()&cue.RequiredConstraint != 0 {
				s.required = append(s.required, name)
			}
		}
		slices.Sort(s.required)
		if a := v.LookupPath(cue.MakePath(cue.AnyString)); a.Exists() {
			s.any = shapeOf(a)
		}
	case kindList:
		s.elem = shapeOf(v.LookupPath(cue.MakePath(cue.AnyIndex)))
	}
}

// want names the kinds for a person.
func (s *shape) want() string {
	if s.opaque {
		return "any JSON value"
	}
	names := make([]string, 0, len(s.kinds))
	for _, k := range s.kinds {
		switch {
		case k == kindList && slices.Equal(s.elem.kinds, []kind{kindString}):
			names = append(names, "a list of strings")
		case k == kindStruct && len(s.required) > 0:
			names = append(names, "{"+s.required[0]+": …}")
		case k == kindStruct && len(s.fields) > 0:
			names = append(names, "{"+strings.Join(slices.Sorted(maps.Keys(s.fields)), ", ")+"}")
		default:
			names = append(names, k.String())
		}
	}
	return strings.Join(names, " or ")
}

// at is the shape of what is at path, nil where the schema has nothing.
func (s *shape) at(path []string) *shape {
	for _, label := range path {
		switch f := s.fields[label]; {
		case f != nil:
			s = f
		case s.any != nil:
			s = s.any
		case s.elem != nil:
			s = s.elem
		default:
			return nil
		}
	}
	return s
}

// A checker compares values with shapes. It is told nothing of meaning.
type checker struct {
	whole    bool // whether a value that is not there is a problem, or CUE's to tell
	problems Problems
	paths    []string // where a problem was found, so that CUE's own is not told as well
}

func (c *checker) add(path []string, p Problem) {
	c.problems = append(c.problems, p)
	c.paths = append(c.paths, strings.Join(path, "\x00"))
}

func (c *checker) check(v *value, s *shape, path []string) {
	if v.kind == kindNone && !c.whole || v.kind != kindNone && s.opaque {
		return
	}
	if !slices.Contains(s.kinds, v.kind) {
		p := Problem{Place: v.place, Message: fmt.Sprintf("%s: want %s, not %s", pathText(path), s.want(), v.describe())}
		if v.kind == kindString && slices.Contains(s.kinds, kindList) && slices.Contains(s.elem.kinds, kindString) {
			p.Hint = "write [" + quoteName(v.str) + "]"
		}
		for _, f := range v.fields {
			at := append(slices.Clip(path), f.name)
			if why := notEnforced(at); why != "" {
				p = Problem{Place: f.value.place, Message: fmt.Sprintf("%s is not enforced by this version: %s", pathText(at), why)}
			}
		}
		c.add(path, p)
		return
	}
	for i, item := range v.items {
		c.check(item, s.elem, append(slices.Clip(path), strconv.Itoa(i)))
	}
	if v.kind != kindStruct {
		return
	}
	var meant []string // fields that misspelt ones are taken for
	for _, f := range v.fields {
		at := append(slices.Clip(path), f.name)
		switch known := s.fields[f.name]; {
		case known != nil:
			c.check(f.value, known, at)
		case s.any != nil:
			c.check(f.value, s.any, at)
		default:
			message, near := unknownField(at, s)
			c.add(at, Problem{Place: f.value.place, Message: message, Hint: instead(at)})
			meant = append(meant, near)
		}
	}
	for _, name := range s.required {
		if v.field(name) == nil && !slices.Contains(meant, name) {
			p := Problem{Place: v.place, Message: fmt.Sprintf("missing field %q%s", name, inPath(path))}
			if len(path) == 0 {
				p.Hint = `every policy has network: {name: "acme", domain: "acme.mesh"}`
			}
			c.add(append(slices.Clip(path), name), p)
		}
	}
}

// unknownField says that the last label of path is no field of s, and which
// field it is taken for.
func unknownField(path []string, s *shape) (message, near string) {
	name := path[len(path)-1]
	if why := notEnforced(path); why != "" {
		return fmt.Sprintf("%s is not enforced by this version: %s", pathText(path), why), ""
	}
	if instead(path) == "" {
		near = nearest(name, slices.Collect(maps.Keys(s.fields)))
	}
	return fmt.Sprintf("unknown field %s%s%s", quoteName(name), inPath(path[:len(path)-1]), didYouMean(near)), near
}

func inPath(path []string) string {
	if len(path) == 0 {
		return ""
	}
	return " in " + pathText(path)
}

// pathText writes a path as people do: rules."accounting-web".from[0].
func pathText(path []string) string {
	var b strings.Builder
	for i, label := range path {
		switch {
		case isIndex(path, i):
			b.WriteString("[" + label + "]")
			continue
		case i > 0:
			b.WriteByte('.')
		}
		if plainLabel(label) {
			b.WriteString(label)
		} else {
			b.WriteString(quoteName(label))
		}
	}
	return cmp.Or(b.String(), "policy")
}

// isIndex tells the number of a list's item from a name made of digits: names
// stand in the second place, the items of lists after it.
func isIndex(path []string, i int) bool {
	if _, err := strconv.Atoi(path[i]); err != nil {
		return false
	}
	return i > 1 || i == 1 && path[0] == "admins"
}

// plainLabel reports whether CUE takes the label without quotes.
func plainLabel(s string) bool {
	for i, r := range s {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		digit := '0' <= r && r <= '9'
		if !letter && r != '_' && (i > 0 || r != '#') && (i == 0 || !digit) {
			return false
		}
	}
	return s != ""
}
