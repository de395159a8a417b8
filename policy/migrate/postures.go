package migrate

import (
	"regexp"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// condition takes a condition apart: "node:os == 'macos'", "custom:tier IN ['a', 'b']",
// "custom:edr IS SET".
var condition = regexp.MustCompile(`^([A-Za-z]+:[A-Za-z0-9_./-]+)\s*(==|!=|>=|<=|>|<|IN\b|NOT IN\b|IS SET\b|NOT SET\b|IS NOT SET\b)\s*(.*)$`)

// valuesOf takes apart what stands behind the comparison: one value, or a list.
var valuesOf = regexp.MustCompile(`'([^']*)'|"([^"]*)"|([A-Za-z0-9._+-]+)`)

func (t *tailscale) readPostures() {
	for _, m := range t.object(t.root.field("postures"), "postures") {
		name, ok := strings.CutPrefix(m.name, "posture:")
		if !ok || name == "" {
			t.bad(m.place, `write "posture:NAME"`, "postures: %q is not a posture", m.name)
			continue
		}
		p := posture{name: t.postureNames.name(name), comments: m.value.all()}
		fits := true
		for _, c := range t.texts(m.value, m.name) {
			fits = t.condition(&p, c, m.name) && fits
		}
		if len(p.attrs) == 0 && fits {
			t.unfitting(filePostures, m.place, "take it away", "%s: a posture without conditions", m.name)
			fits = false
		}
		t.postures[m.name] = fits
		if fits {
			t.draft.postures = append(t.draft.postures, p)
		}
	}
	t.standard = t.posture(t.root.field("defaultSrcPosture"), "defaultSrcPosture")
	t.noRules = t.standard == nil && !t.root.field("defaultSrcPosture").empty()
}

// attribute is what an attribute is called here, or nothing.
func attribute(there string) string {
	switch there {
	case "node:os":
		return "os"
	case "node:osVersion":
		return "osVersion"
	}
	if strings.HasPrefix(there, "custom:") && acl.CheckAttr(there) == nil {
		return there
	}
	return ""
}

// condition adds a condition to a posture; false where that was told.
func (t *tailscale) condition(p *posture, v *value, what string) bool {
	m := condition.FindStringSubmatch(v.str)
	if m == nil {
		t.bad(v.place, "write ATTRIBUTE COMPARISON VALUE, such as node:os == 'macos'", "%s: %q is not a condition", what, v.str)
		return false
	}
	attrName, op, rest := attribute(m[1]), m[2], strings.TrimSpace(m[3])
	if attrName == "" {
		hint := "nodes report os, osVersion, agentVersion and custom:NAME"
		if m[1] == "node:tsVersion" {
			hint = "it is the version of another program: write a posture with agentVersion"
		}
		t.unfitting(filePostures, v.place, hint, "%s: attribute %q", what, m[1])
		return false
	}
	var values []string
	for _, x := range valuesOf.FindAllStringSubmatch(rest, -1) {
		values = append(values, x[1]+x[2]+x[3])
	}
	list := strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]")
	inList := op == "IN" || op == "NOT IN"
	set := strings.HasSuffix(op, "SET")
	switch {
	case set != (rest == ""), inList != list, !inList && !set && len(values) != 1, inList && len(values) == 0:
		t.bad(v.place, "", "%s: %q: the value does not fit the comparison", what, v.str)
		return false
	case op == "NOT SET", op == "IS NOT SET":
		t.unfitting(filePostures, v.place, "a node could choose not to report it", "%s: %q", what, v.str)
		return false
	}
	written := make([]string, 0, len(values))
	for _, x := range values {
		if acl.CheckAttrValue(x) != nil || strings.ContainsAny(x[:1], "!<>*=") {
			t.unfitting(filePostures, v.place, "", "%s: %q: the value cannot be written", what, v.str)
			return false
		}
		switch op {
		case "!=", "NOT IN":
			x = "!" + x
		case ">=", "<=", ">", "<":
			if (acl.Condition{Attr: attrName, Op: acl.Op(op), Values: []string{x}}).Check() != nil {
				t.unfitting(filePostures, v.place, "versions are numbers with dots", "%s: %q: not a version", what, v.str)
				return false
			}
			x = op + x
		}
		written = append(written, x)
	}
	if op == "IS SET" {
		written = []string{"*"}
	}
	return t.attr(p, v, what, attrName, written)
}

// attr adds values of an attribute. Several kinds of conditions on one attribute
// cannot be said, nor can two lists of values.
func (t *tailscale) attr(p *posture, v *value, what, name string, values []string) bool {
	kind := func(s string) string {
		return strings.TrimRight(s[:1], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+ ")
	}
	i := slices.IndexFunc(p.attrs, func(a attr) bool { return a.name == name })
	if i < 0 {
		p.attrs = append(p.attrs, attr{name: name, values: values})
		return true
	}
	have := p.attrs[i].values
	was, is := strings.ContainsAny(have[0][:1], "<>"), strings.ContainsAny(values[0][:1], "<>")
	if was && is || have[0][0] == '!' && values[0][0] == '!' {
		for _, x := range values {
			if !slices.Contains(have, x) {
				have = append(have, x)
			}
		}
		p.attrs[i].values = have
		return true
	}
	if slices.Equal(have, values) || kind(values[0]) == "*" && kind(have[0]) != "*" {
		return true // whoever has a value reports it
	}
	t.unfitting(filePostures, v.place, "write a posture that says both at once", "%s: several conditions on %s", what, name)
	return false
}

// posture is the names here of the postures in a list, those that were carried
// over. It is nil where there are none.
func (t *tailscale) posture(v *value, what string) (out []string) {
	for _, p := range t.texts(v, what) {
		fits, there := t.postures[p.str]
		switch {
		case !there:
			t.bad(p.place, "postures are defined under postures", "%s: posture not found: %q%s", what, p.str, didYouMean(p.str, keys(t.postures)))
		case fits:
			if name := t.postureNames.name(strings.TrimPrefix(p.str, "posture:")); !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// version checks the version of an operating system.
func version(s string) error {
	return acl.Condition{Attr: "osVersion", Op: acl.OpLeast, Values: []string{s}}.Check()
}

// checkUser checks the address of a user.
func checkUser(s string) error {
	if s == "" {
		return acl.CheckUser("@")
	}
	return acl.CheckUser(s)
}
