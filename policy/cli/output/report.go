package output

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
)

// A Report is what a verb found out, in the one shape that every format is
// written from. Exactly one of Unknown, Check, Test, Difference and Lint says
// what the verb is about; Test may have a Difference beside it.
type Report struct {
	Verb    string // "check", "test", "diff" or "lint"
	Version string // of the program

	// Unknown is why it could not be told, with the problems of the tree that is
	// at fault, if one is.
	Unknown  string
	Problems model.Problems

	Check      *Check
	Test       *Test
	Difference *reach.Difference
	Lint       *Lint

	Base, Head Origin
	// Maps is the access before and after, which the page draws; nil where it
	// was not asked for.
	Maps *Maps
	// Details is the address where the whole report is found; empty: nowhere.
	Details string
}

// An Origin is where one side of a report comes from.
type Origin struct {
	Label  string // as people call it
	Commit string // its full hash, where it is one
	Prefix string // of the policy's directory within its repository, "" at the top
	Link   string // the address of the repository's files, without a slash at the end; empty: there is none
}

// File is a place's file as the repository calls it.
func (o Origin) File(file string) string {
	if file == "" {
		return ""
	}
	return path.Join(o.Prefix, file)
}

// Something reports whether there is something to report, which is exit code 1.
func (r *Report) Something() bool {
	switch {
	case r.Check != nil:
		return len(r.Check.Problems) > 0
	case r.Test != nil:
		return !r.Test.Passed
	case r.Lint != nil:
		return len(r.Lint.Findings) > 0
	case r.Difference != nil:
		return !r.Difference.Empty()
	}
	return false
}

// anyFile is where those formats that want a file for everything have what is
// about none.
const anyFile = "network.cue"

// A level says how much an item weighs.
type level int

const (
	errorLevel level = iota
	warningLevel
	noteLevel
)

// An item is one thing that a report says about one place: what annotations,
// SARIF and GitLab show a list of.
type item struct {
	level level
	id    string // of its sort, which does not change: "test/deny", "guard/star", "access/gained"
	base  bool   // the place is in the base, which no longer is
	place model.Place
	also  []model.Place
	text  string
	hint  string
}

// full is what an item says, in one line.
func (i item) full() string {
	text := i.text
	if i.hint != "" {
		text += "; " + i.hint
	}
	return text
}

// The sorts of items, with what each means. Guards and lint have more, one for
// each guard and each check.
var sorts = map[string]string{
	"unknown":         "it could not be told",
	"policy/problem":  "the policy is not sound",
	"policy/warning":  "the policy is sound, and may not do what it seems to",
	"test/none":       "a policy without tests does not pass",
	"test/allow":      "something that must be reachable is not",
	"test/deny":       "something is reachable that must not be",
	"test/only":       "something is reachable by others than it should be",
	"test/empty":      "a test asserts nothing",
	"guard/test":      "a test of a guard or of a generator fails",
	"coverage":        "too little is covered by tests",
	"access/gained":   "a change gives access, or more of it",
	"access/lost":     "a change takes access, or some of it",
	"access/kept":     "a change moves the end of access",
	"admission/in":    "a change lets nodes into the network",
	"admission/out":   "a change puts nodes out of the network",
	"admission/trust": "a change is about whom the network trusts",
}

// means is what a sort of item is about.
func means(id string) string {
	if text, ok := sorts[id]; ok {
		return text
	}
	if name, ok := strings.CutPrefix(id, "guard/"); ok {
		return "what the guard " + name + " says"
	}
	if name, ok := strings.CutPrefix(id, "approval/"); ok {
		return "an approval that the guard " + name + " asks for"
	}
	return strings.ReplaceAll(id, "/", ": ")
}

// items are everything that a report says, the weightiest first, each weight in
// the order in which the text has it.
func (r *Report) items() []item {
	var out []item
	if r.Unknown != "" && len(r.Problems) == 0 {
		out = append(out, item{id: "unknown", text: r.Unknown})
	}
	out = append(out, problems(r.Problems, "policy/problem", errorLevel)...)
	if c := r.Check; c != nil {
		out = append(out, problems(c.Problems, "policy/problem", errorLevel)...)
		out = append(out, problems(c.Warnings, "policy/warning", warningLevel)...)
	}
	if r.Test != nil {
		out = append(out, r.Test.items()...)
	}
	if r.Difference != nil {
		out = append(out, differenceItems(r.Difference)...)
	}
	if r.Lint != nil {
		out = append(out, r.Lint.items()...)
	}
	slices.SortStableFunc(out, func(a, b item) int { return int(a.level) - int(b.level) })
	return out
}

func problems(ps model.Problems, id string, l level) (out []item) {
	for _, p := range ps {
		out = append(out, item{level: l, id: id, place: p.Place, also: p.Also, text: p.Message, hint: p.Hint})
	}
	return out
}

func (t *Test) items() (out []item) {
	out = append(out, problems(t.Warnings, "policy/warning", warningLevel)...)
	if len(t.Tests.Tests) == 0 {
		out = append(out, item{id: "test/none", text: noTests})
	}
	for _, test := range t.Tests.Tests {
		for _, f := range test.Failures {
			out = append(out, item{id: "test/" + f.Kind, place: f.Place, also: f.Rules, text: fmt.Sprintf("%q: %s", test.Name, f.Text)})
		}
	}
	for _, g := range t.GuardTests {
		if !g.Passed {
			out = append(out, guardTest(g))
		}
	}
	if c := t.Tests.Coverage; c != nil {
		l := noteLevel
		if !t.enough() {
			out = append(out, item{id: "coverage", text: fmt.Sprintf("tests bear witness to %d %% of the rules, want %d %%", c.Percent(), t.Threshold)})
			l = warningLevel
		}
		for _, rule := range c.Unwitnessed {
			out = append(out, item{level: l, id: "coverage", place: rule.Place, text: fmt.Sprintf("no test bears witness to rule %q", rule.Name)})
		}
	}
	for _, g := range t.Guards {
		l, says := warningLevel, "warns"
		if g.Deny {
			l, says = errorLevel, "denies"
		}
		out = append(out, item{level: l, id: "guard/" + g.Guard, place: about(g.Place, g.Rule), base: g.Gone, text: fmt.Sprintf("guard %s %s%s: %s", g.Guard, says, ofBase(g.Base), g.Message)})
	}
	for _, a := range t.Approvals {
		out = append(out, item{level: warningLevel, id: "approval/" + a.Guard, place: about(a.Place, a.Rule), base: a.Gone, text: fmt.Sprintf("guard %s asks for approval by %s%s: %s", a.Guard, a.Team, ofBase(a.Base), a.Reason)})
	}
	return out
}

// guardTest is what a test of a guard that fails says.
func guardTest(g rego.Test) item {
	return item{id: "guard/test", place: g.Place, text: fmt.Sprintf("Rego test %s: %s", g.Name, g.Failure)}
}

func differenceItems(d *reach.Difference) (out []item) {
	add := func(c reach.Change, gained bool) {
		s := tell(c, gained, d.Inventory)
		i := item{level: noteLevel, id: s.id, text: s.text}
		if s.when != "" {
			i.text += " " + s.when
		}
		for n, cause := range c.Causes {
			p := causePlace(cause)
			switch {
			case n == 0:
				i.place, i.base = p, cause.Base
			case cause.Base == i.base:
				i.also = append(i.also, p)
			case i.base: // a place that is there is of more use than one that was
				i.place, i.base, i.also = p, false, nil
			}
		}
		out = append(out, i)
	}
	for _, c := range d.Gained {
		add(c, true)
	}
	for _, c := range d.Lost {
		add(c, false)
	}
	for _, a := range d.Admission {
		out = append(out, item{level: noteLevel, id: admissionSort(a), base: a.Cause.Base, place: causePlace(a.Cause), text: a.Text})
	}
	return out
}

func admissionSort(a reach.Admission) string {
	switch a.Effect {
	case reach.LetsIn:
		return "admission/in"
	case reach.PutsOut:
		return "admission/out"
	}
	return "admission/trust"
}

// causePlace is the place of a cause, which has it as text.
func causePlace(c reach.Cause) model.Place {
	file, line, ok := cutLast(c.Place, ':')
	if n, err := strconv.Atoi(line); ok && err == nil && n > 0 {
		return model.Place{File: file, Line: n}
	}
	return model.Place{File: c.Place}
}

// placeText is a place as people quote it: as much of it as there is.
func placeText(p model.Place) string {
	if p.Col == 0 && p.Line > 0 {
		return line(p)
	}
	return p.String()
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
