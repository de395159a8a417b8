package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// maxConditions and maxPostures bound what every new flow is judged by.
const (
	maxConditions = 32 // of a posture
	maxPostures   = 16 // of a rule
)

func (d *decoder) posture(name string, v *value) Posture {
	d.name("posture", name, v)
	what := subject("posture", name)
	p := Posture{Name: name, Place: v.place}
	if len(v.fields) == 0 {
		d.problems.Add(v.place, "%s has no conditions: every node would meet it", what)
	}
	for _, f := range v.fields {
		if !d.attribute(f.name, f.value.place, what) {
			continue
		}
		p.Conditions = append(p.Conditions, d.conditions(f.name, f.value, what)...)
	}
	if len(p.Conditions) > maxConditions {
		d.problems.Add(v.place, "%s: %d conditions, at most %d", what, len(p.Conditions), maxConditions)
	}
	slices.SortFunc(p.Conditions, func(a, b acl.Condition) int {
		return cmp.Or(strings.Compare(a.Attr, b.Attr), strings.Compare(string(a.Op), string(b.Op)), slices.Compare(a.Values, b.Values))
	})
	return p
}

// attribute checks the name of one.
func (d *decoder) attribute(name string, at Place, what string) bool {
	err := checkASCII("attribute", name)
	if err == nil {
		if err = acl.CheckAttr(name); err != nil && !strings.HasPrefix(name, "custom:") {
			err = fmt.Errorf("unknown attribute %s: want os, osVersion, agentVersion or custom:NAME%s", quoteName(name),
				didYouMean(nearest(name, []string{"os", "osVersion", "agentVersion", "custom:" + name})))
		}
	}
	d.add(at, what, err)
	return err == nil
}

// conditions reads what is asked of one attribute.
func (d *decoder) conditions(attr string, v *value, what string) (out []acl.Condition) {
	items := v.items
	if v.kind == kindString {
		items = []*value{v}
	} else {
		d.notEmpty(v, what, attr)
	}
	in, not := acl.Condition{Attr: attr, Op: acl.OpIn}, acl.Condition{Attr: attr, Op: acl.OpNotIn}
	seen := map[string]Place{}
	for _, item := range items {
		if before, ok := seen[item.str]; ok {
			d.twice(item.place, before, what, attr+": "+quoteName(item.str))
			continue
		}
		seen[item.str] = item.place
		c, err := parseCondition(attr, item.str)
		if err != nil {
			d.problems.Add(item.place, "%s: %s: %s", what, attr, clean(err.Error()))
			continue
		}
		switch c.Op {
		case acl.OpIn:
			in.Values = append(in.Values, c.Values...)
		case acl.OpNotIn:
			not.Values = append(not.Values, c.Values...)
		default:
			out = append(out, c)
		}
		if attr == "os" && len(c.Values) > 0 && !slices.Contains(systems, c.Values[0]) {
			d.warnings.Add(item.place, "%s: os: no agent reports %s: they report %s%s", what, quoteName(c.Values[0]),
				strings.Join(systems, ", "), didYouMean(nearest(c.Values[0], slices.Clone(systems))))
		}
	}
	switch {
	case len(in.Values) > 0 && len(out)+len(not.Values) > 0, slices.ContainsFunc(out, isSet) && len(out)+len(not.Values) > 1:
		d.problems = append(d.problems, Problem{Place: v.place, Message: fmt.Sprintf("%s: %s mixes values with comparisons", what, attr),
			Hint: `write what it may be ("macos"), or what it must not and versions ("!windows", ">=14.2")`})
		return nil
	case len(in.Values) > 0:
		out = append(out, in)
	case len(not.Values) > 0:
		out = append(out, not)
	}
	for i := range out {
		slices.Sort(out[i].Values)
	}
	return out
}

func isSet(c acl.Condition) bool { return c.Op == acl.OpSet }

// systems are what agents report as "os".
var systems = []string{"android", "freebsd", "ios", "linux", "macos", "netbsd", "openbsd", "windows"}

// parseCondition reads one: "*", "!value", a comparison and a version, or a value.
func parseCondition(attr, s string) (c acl.Condition, err error) {
	c.Attr = attr
	text := s
	for _, op := range []acl.Op{acl.OpLeast, acl.OpMost, acl.OpMore, acl.OpLess} { // ">=" before ">"
		if rest, ok := strings.CutPrefix(s, string(op)); ok && c.Op == "" {
			c.Op, text = op, strings.TrimSpace(rest)
		}
	}
	switch {
	case s == "*":
		c.Op = acl.OpSet
		return c, nil
	case c.Op != "":
		if attr == "os" {
			return c, errors.New("a system is no version: write its name, and compare osVersion")
		}
	case strings.HasPrefix(s, "!"):
		c.Op, text = acl.OpNotIn, s[1:]
	case strings.HasPrefix(s, "="):
		return c, fmt.Errorf("%s: write the value without %q", quoteName(s), "=")
	default:
		c.Op = acl.OpIn
	}
	if strings.TrimSpace(text) != text || strings.Trim(text, "*!<>=") == "" && text != "" {
		return c, fmt.Errorf(`%s is no condition: want a value, "!value", ">=1.2" or "*"`, quoteName(s))
	}
	c.Values = []string{text}
	return c, c.Check()
}

// postureNames reads which postures a rule asks for.
func (d *decoder) postureNames(v *value, what string) (out []NameRef) {
	if v == nil {
		return nil
	}
	d.notEmpty(v, what, `"posture"`)
	if len(v.items) > maxPostures {
		d.problems.Add(v.place, "%s: %d postures, at most %d", what, len(v.items), maxPostures)
	}
	seen := map[string]Place{}
	for _, item := range v.items {
		if before, ok := seen[item.str]; ok {
			d.twice(item.place, before, what, "posture "+quoteName(item.str))
			continue
		}
		seen[item.str] = item.place
		out = append(out, NameRef{item.str, item.place})
	}
	return out
}

// reported reads what a test says that sources report.
func (d *decoder) reported(v *value, what string) map[string]string {
	if v == nil {
		return nil
	}
	if len(v.fields) == 0 {
		d.problems.Add(v.place, `%s: "posture" is empty; leave it out`, what)
		return nil
	}
	out := map[string]string{}
	for _, f := range v.fields {
		if !d.attribute(f.name, f.value.place, what) {
			continue
		}
		d.add(f.value.place, what, acl.CheckAttrValue(f.value.str))
		out[f.name] = f.value.str
	}
	return out
}
