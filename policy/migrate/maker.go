package migrate

import (
	"fmt"
	"slices"
	"strings"
)

// A maker is what imports have in common: the draft, and what stands in its way.
type maker struct {
	trouble
	draft draft

	groupNames, tagNames, hostNames, postureNames, ruleNames *names

	testNames map[string]int
	anyPort   bool // service:any-port is used
}

func newMaker(o Options) *maker {
	return &maker{
		trouble: trouble{opt: o}, draft: draft{name: o.Name, domain: o.Domain},
		groupNames: newNames("group"), tagNames: newNames("tag"), hostNames: newNames("host"),
		postureNames: newNames("posture"), ruleNames: newNames("rule"), testNames: map[string]int{},
	}
}

// anyPort is the service of all ports of TCP and UDP, and ping.
const anyPort = "any-port"

// result writes the draft, or says why there is none.
func (t *maker) result() (*Result, error) {
	if err := t.err(); err != nil {
		return nil, err
	}
	if t.anyPort {
		t.draft.services = append(t.draft.services, service{
			name: anyPort, comments: []string{"Every port of TCP and UDP, and ping."}, ports: []string{"proto/6", "proto/17", "icmp"},
		})
	}
	if len(t.draft.tests) == 0 {
		t.draft.tests = []test{t.first()}
	}
	files, err := t.draft.files(t.notCarried)
	if err != nil {
		return nil, err
	}
	return &Result{Files: files, NotCarried: t.left()}, nil
}

// object is the members of a field that is an object, if it is there.
func (t *maker) object(v *value, what string) []member {
	if v.absent() {
		return nil
	}
	if v.kind != '{' {
		t.bad(v.place, "", "%s: want an object", what)
		return nil
	}
	return v.members
}

// array is the entries of a field that is a list, if it is there.
func (t *maker) array(v *value, what string) []*value {
	if v.absent() {
		return nil
	}
	if v.kind != '[' {
		t.bad(v.place, "", "%s: want a list", what)
		return nil
	}
	return v.items
}

// texts are the entries of a list that are texts; others are told.
func (t *maker) texts(v *value, what string) []*value {
	var out []*value
	for _, item := range t.array(v, what) {
		if item.kind != '"' {
			t.bad(item.place, "", "%s: want texts in the list", what)
			continue
		}
		item.str = strings.TrimSpace(item.str)
		out = append(out, item)
	}
	return out
}

// notes keeps what was said of an entry that gives nothing.
func (t *maker) notes(text string, comments []string) {
	t.draft.notes = append(t.draft.notes, append(slices.Clone(comments), text))
}

func (t *maker) add(r rule, name string) {
	r.name = t.ruleNames.unique(name)
	t.draft.rules = append(t.draft.rules, r)
}

// addTest names a test by its comment's first line, if it is short.
func (t *maker) addTest(x test, name string, comments []string) {
	x.name = clean(name)
	if len(comments) > 0 && comments[0] != "" && len(comments[0]) <= maxTitle {
		x.name = strings.TrimRight(comments[0], ".:")
	}
	t.testNames[x.name]++
	if n := t.testNames[x.name]; n > 1 {
		x.name = fmt.Sprintf("%s (%d)", x.name, n)
		t.testNames[x.name]++
	}
	t.draft.tests = append(t.draft.tests, x)
}

// maxFirst bounds the test that a policy without tests begins with.
const maxFirst = 20

// first is the test of a policy that had none: that its rules give what they say.
func (t *maker) first() test {
	none := "There were no tests"
	if len(t.notCarried[fileTests]) > 0 {
		none = "No test is carried over"
	}
	x := test{name: "as imported", comments: []string{
		none + ". These say what the rules say; write what must stay true,",
		"and above all what must never be.",
	}}
	for _, r := range t.draft.rules {
		to := slices.DeleteFunc(slices.Clone(r.to), func(s string) bool { return s == "autogroup:internet" })
		if len(r.posture) > 0 || len(r.allow) == 0 || len(to) == 0 || to[0] == "autogroup:self" || len(x.allow) == maxFirst {
			continue
		}
		x.allow = append(x.allow, assertion{fromList: r.from, toList: to, on: r.allow, allowEmpty: true})
	}
	var from, to []string
	for _, r := range t.draft.rules {
		from, to = appendNew(from, r.from...), appendNew(to, r.to...)
	}
	switch {
	case len(x.allow) > 0:
	case len(from) == 0:
		x.comments[0] = none + ", and no rules. Write what must stay true,"
		x.deny = []assertion{{from: "*", to: "*", allowEmpty: true}}
	case slices.Equal(to, []string{"autogroup:internet"}):
		x.deny = []assertion{{from: "*", to: "*", allowEmpty: true}}
	default: // each rule has a condition, or is about people's own nodes
		x.only = []assertion{{fromList: from, to: "*", allowEmpty: true}}
	}
	return x
}
