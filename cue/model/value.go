package model

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/token"
)

// A kind is what sort of value a value is.
type kind uint8

const (
	kindNone kind = iota // incomplete or in error
	kindNull
	kindBool
	kindNumber
	kindString
	kindBytes
	kindList
	kindStruct
)

func (k kind) String() string {
	return [...]string{"no definite value", "null", "true or false", "a number", "a string", "bytes", "a list", "a struct"}[k]
}

func kindOf(k cue.Kind) kind {
	switch k {
	case cue.NullKind:
		return kindNull
	case cue.BoolKind:
		return kindBool
	case cue.IntKind, cue.FloatKind, cue.NumberKind:
		return kindNumber
	case cue.StringKind:
		return kindString
	case cue.BytesKind:
		return kindBytes
	case cue.ListKind:
		return kindList
	case cue.StructKind:
		return kindStruct
	default:
		return kindNone
	}
}

// A value is what CUE evaluated, with places and without CUE.
type value struct {
	kind   kind
	str    string  // of a string
	yes    bool    // of a bool
	fields []field // of a struct; sorted by name
	items  []*value
	json   json.RawMessage // of what is opaque: canonical, and the others are empty
	place  Place
}

type field struct {
	name  string
	value *value
}

// field is the field's value, nil when there is none.
func (v *value) field(name string) *value {
	i, ok := slices.BinarySearchFunc(v.fields, name, func(f field, n string) int { return strings.Compare(f.name, n) })
	if !ok {
		return nil
	}
	return v.fields[i].value
}

// describe is the value for a person, short.
func (v *value) describe() string {
	switch v.kind {
	case kindString:
		return "the string " + quoteName(v.str)
	case kindBool:
		return strconv.FormatBool(v.yes)
	default:
		return v.kind.String()
	}
}

// maxDepth is how deep a value is read. The schema's deepest value, an item of
// a difference in a test, is at depth 8; what is deeper is opaque, or unknown at a
// higher place, and said so there.
const maxDepth = 8

// A reader turns CUE values into values.
type reader struct {
	files  map[string]bool    // of the policy; positions elsewhere are the schema's
	labels map[string][]Place // from the syntax, by path joined with NUL
	places map[string]Place   // of a value read before; nil for none
}

func (r *reader) read(v cue.Value, path []string, parent Place) *value {
	out := &value{place: r.place(v, path, parent)}
	if r.places != nil {
		if p, ok := r.places[strings.Join(path, "\x00")]; ok {
			out.place = p
		}
	}
	if d, ok := v.Default(); ok {
		v = d
	}
	k := kindOf(v.Kind())
	if len(path) > maxDepth {
		return out
	}
	if opaque(path) {
		if b, err := v.MarshalJSON(); err == nil {
			out.json, out.kind = canonicalJSON(b), k
		}
		return out
	}
	switch k {
	case kindString:
		out.str, _ = v.String()
	case kindBool:
		out.yes, _ = v.Bool()
	case kindList:
		it, err := v.List()
		if err != nil {
			return out
		}
		for i := 0; it.Next(); i++ {
			out.items = append(out.items, r.read(it.Value(), append(slices.Clip(path), strconv.Itoa(i)), out.place))
		}
	case kindStruct:
		it, err := v.Fields()
		if err != nil {
			return out
		}
		for it.Next() {
			name := it.Selector().Unquoted()
			out.fields = append(out.fields, field{name, r.read(it.Value(), append(slices.Clip(path), name), out.place)})
		}
		slices.SortFunc(out.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	}
	out.kind = k
	return out
}

// place is where the value at path is written: its label where the syntax
// shows one, else what CUE knows, else where its parent is written.
func (r *reader) place(v cue.Value, path []string, parent Place) Place {
	if len(path) == 0 {
		return Place{}
	}
	if at := r.labels[strings.Join(path, "\x00")]; len(at) > 0 {
		return at[0]
	}
	if p := placeOf(v.Pos()); r.files[p.File] {
		return p
	}
	return parent
}

// note fills into places where v and everything in it is written.
func (v *value) note(path []string, places map[string]Place) {
	places[strings.Join(path, "\x00")] = v.place
	for i, item := range v.items {
		item.note(append(slices.Clip(path), strconv.Itoa(i)), places)
	}
	for _, f := range v.fields {
		f.value.note(append(slices.Clip(path), f.name), places)
	}
}

func placeOf(p token.Pos) Place {
	if !p.IsValid() {
		return Place{}
	}
	pos := p.Position()
	return Place{File: pos.Filename, Line: pos.Line, Col: pos.Column}
}
