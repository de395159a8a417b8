package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// ref reads one selector.
func (d *decoder) ref(v *value, what string) (Ref, bool) {
	err := checkASCII("selector", v.str)
	var sel acl.Selector
	if err == nil {
		sel, err = acl.ParseSelector(v.str)
	}
	switch {
	case err != nil:
		p := Problem{Place: v.place, Message: fmt.Sprintf("%s: %s%s", what, clean(err.Error()), didYouMean(d.meant(v.str)))}
		if strings.Contains(v.str, "*") && strings.Contains(v.str, "@") {
			p.Hint = `patterns stand in the "members" of identity; name users, a group or autogroup:member`
		}
		d.problems = append(d.problems, p)
		return Ref{}, false
	case sel.Kind == acl.KindClaim:
		d.problems = append(d.problems, Problem{Place: v.place, Message: fmt.Sprintf("%s: a claim is no selector: it stands in groups only", what),
			Hint: `make a group of it: groups: NAME: [{claim: {name: "groups", value: "eng"}}]`})
		return Ref{}, false
	}
	return Ref{Selector: sel, Place: v.place}, true
}

// meant is the selector that a text which is none was probably meant to be, empty
// where none is near.
func (d *decoder) meant(s string) string {
	kind, name, ok := strings.Cut(s, ":")
	switch {
	case ok && kind == "autogroup":
		return nearest(s, []string{"autogroup:member", "autogroup:tagged", "autogroup:self", "autogroup:internet"})
	case ok:
		if kind = nearest(kind, []string{"group", "tag", "node", "host", "autogroup"}); kind != "" && name != "" {
			return kind + ":" + name
		}
		return ""
	case d.root == nil:
		return ""
	}
	for _, b := range [][2]string{{"groups", "group:"}, {"tags", "tag:"}, {"hosts", "host:"}, {"nodes", "node:"}} {
		if block := d.root.field(b[0]); block != nil && block.field(s) != nil {
			return b[1] + s
		}
	}
	return ""
}

// ends reads one side of a rule or a test: a selector, a difference, or a list of
// both.
func (d *decoder) ends(v *value, what, field string) []Ref {
	switch v.kind {
	case kindStruct:
		return d.difference(v, what)
	case kindList:
		d.notEmpty(v, what, quoteName(field))
	}
	return d.refs(v, what)
}

// refs reads selectors and, where the schema allows any, differences. What is
// written twice counts once.
func (d *decoder) refs(v *value, what string) (refs []Ref) {
	if v == nil {
		return nil
	}
	items := v.items
	if v.kind == kindString {
		items = []*value{v}
	}
	seen := map[string]Place{}
	for _, item := range items {
		var some []Ref
		if item.kind == kindStruct {
			some = d.difference(item, what)
		} else if ref, ok := d.ref(item, what); ok {
			some = []Ref{ref}
		}
		for _, ref := range some {
			key := ref.String()
			if before, ok := seen[key]; ok {
				d.twice(ref.Place, before, what, key)
				continue
			}
			seen[key] = ref.Place
			refs = append(refs, ref)
		}
	}
	return refs
}

// maxExceptions is how many exceptions the selectors of a policy may have together:
// each selector of a difference has all of its exceptions in JSON, so that two long
// lists would multiply.
const maxExceptions = 200_000

// difference reads {any: …, except: …}: as many Refs as any has, with the same
// Except.
func (d *decoder) difference(v *value, what string) (refs []Ref) {
	d.notEmpty(v.field("any"), what, `"any"`)
	d.notEmpty(v.field("except"), what, `"except"`)
	var except []Exception
	for _, r := range d.refs(v.field("except"), what) {
		except = append(except, Exception{r.Selector, r.Place})
	}
	slices.SortStableFunc(except, func(a, b Exception) int { return strings.Compare(a.Selector.String(), b.Selector.String()) })
	any := d.refs(v.field("any"), what)
	if d.exceptions += len(any) * len(except); d.exceptions > maxExceptions {
		d.problems.Add(v.place, "%s: more than %d pairs of a selector and an exception up to here; except a group", what, maxExceptions)
		return nil
	}
	for _, r := range any {
		r.Except = except
		refs = append(refs, r)
	}
	return refs
}

// twice warns of a thing that is listed twice.
func (d *decoder) twice(at, before Place, what, thing string) {
	d.warnings = append(d.warnings, Problem{Place: at, Also: []Place{before}, Message: fmt.Sprintf("%s: %s is written twice", what, thing)})
}

// String is the selector, and what it excepts.
func (r Ref) String() string {
	if len(r.Except) == 0 {
		return r.Selector.String()
	}
	names := make([]string, 0, len(r.Except))
	for _, e := range r.Except {
		names = append(names, e.Selector.String())
	}
	return r.Selector.String() + " except " + strings.Join(names, ", ")
}

// principals reads a list of users and groups, and of tags where they may own.
func (d *decoder) principals(v *value, what string, tags bool) (out []Ref) {
	for _, r := range d.refs(v, what) {
		switch k := r.Selector.Kind; {
		case k == acl.KindUser, k == acl.KindGroup, k == acl.KindTag && tags:
			out = append(out, r)
		case tags:
			d.problems.Add(r.Place, "%s: an owner is a user, a group or a tag, not %s", what, r.Selector)
		default:
			d.problems.Add(r.Place, "%s: want a user or a group, not %s", what, r.Selector)
		}
	}
	return out
}

// tags reads the tags that a node bears.
func (d *decoder) tags(v *value, what string) (out []Ref) {
	for _, r := range d.refs(v, what) {
		if r.Selector.Kind != acl.KindTag {
			d.problems.Add(r.Place, "%s: %s is not a tag", what, r.Selector)
			continue
		}
		out = append(out, r)
	}
	return out
}

// via reads which nodes may forward.
func (d *decoder) via(v *value, what string) (out []Ref) {
	d.notEmpty(v, what, `"via"`)
	for _, r := range d.refs(v, what) {
		switch r.Selector.Kind {
		case acl.KindUser, acl.KindGroup, acl.KindTag, acl.KindNode, acl.KindMember, acl.KindTagged:
			out = append(out, r)
		default:
			d.problems.Add(r.Place, "%s: want users, groups, tags, nodes, autogroup:member or autogroup:tagged, not %s", what, r.Selector)
		}
	}
	return out
}
