package model

import (
	"slices"
	"strings"
	"sync"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"
)

// defaults are what the schema adds to a value that satisfies it: fields with a
// default, where they are not written.
type defaults struct {
	value  *value // of a field that is not written; nil: none
	fields map[string]*defaults
	any    *defaults // of a struct's other fields
	elem   *defaults // of a list
}

// policyDefaults are the schema's, read once: they hold no CUE values.
var policyDefaults = sync.OnceValue(func() *defaults { return defaultsOf(schema(cuecontext.New())) })

// defaultsOf reads the defaults of a schema's value; nil where there are none.
func defaultsOf(v cue.Value) *defaults {
	v = cue.Dereference(v)
	d := &defaults{}
	if op, args := v.Expr(); op == cue.OrOp {
		for _, a := range args {
			d.add(defaultsOf(a))
		}
		return d.orNil()
	}
	switch v.IncompleteKind() {
	case cue.StructKind:
		for it, err := v.Fields(cue.Optional(true)); err == nil && it.Next(); {
			inner := defaultsOf(it.Value())
			if it.FieldType()&(cue.OptionalConstraint|cue.RequiredConstraint) == 0 {
				if def := (&reader{}).read(it.Value(), []string{""}, Place{}); def.kind != kindNone {
					if inner == nil {
						inner = &defaults{}
					}
					inner.value = def
				}
			}
			if inner != nil {
				if d.fields == nil {
					d.fields = map[string]*defaults{}
				}
				d.fields[it.Selector().Unquoted()] = inner
			}
		}
		if a := v.LookupPath(cue.MakePath(cue.AnyString)); a.Exists() {
			d.any = defaultsOf(a)
		}
	case cue.ListKind:
		if e := v.LookupPath(cue.MakePath(cue.AnyIndex)); e.Exists() {
			d.elem = defaultsOf(e)
		}
	}
	return d.orNil()
}

// add takes up those of an alternative. Alternatives differ in kind, so that
// nothing is in two of them.
func (d *defaults) add(o *defaults) {
	if o == nil {
		return
	}
	if o.fields != nil {
		d.fields = o.fields
	}
	if o.any != nil {
		d.any = o.any
	}
	if o.elem != nil {
		d.elem = o.elem
	}
}

func (d *defaults) orNil() *defaults {
	if d.fields == nil && d.any == nil && d.elem == nil {
		return nil
	}
	return d
}

// names appends the names of all fields on the way to a default.
func (d *defaults) names(to map[string]bool) {
	if d == nil {
		return
	}
	for name, f := range d.fields {
		to[name] = true
		f.names(to)
	}
	d.any.names(to)
	d.elem.names(to)
}

// apply adds to v what is not written.
func (d *defaults) apply(v *value) {
	if d == nil {
		return
	}
	switch v.kind {
	case kindList:
		for _, item := range v.items {
			d.elem.apply(item)
		}
	case kindStruct:
		for _, f := range v.fields {
			if known, ok := d.fields[f.name]; ok {
				known.apply(f.value)
			} else {
				d.any.apply(f.value)
			}
		}
		for name, f := range d.fields {
			if f.value != nil && v.field(name) == nil {
				i, _ := slices.BinarySearchFunc(v.fields, name, func(f field, n string) int { return strings.Compare(f.name, n) })
				v.fields = slices.Insert(v.fields, i, field{name, f.value.placed(v.place)})
			}
		}
	}
}

// placed is a copy of v that stands at the place.
func (v *value) placed(at Place) *value {
	out := *v
	out.place, out.fields, out.items = at, nil, nil
	for _, f := range v.fields {
		out.fields = append(out.fields, field{f.name, f.value.placed(at)})
	}
	for _, item := range v.items {
		out.items = append(out.items, item.placed(at))
	}
	return &out
}
