package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

// A verdict is one thing that a report judged: what JUnit and TAP show a list of.
type verdict struct {
	suite, name string
	place       model.Place
	failures    []item   // none: it passed
	output      []string // said beside it
}

// verdicts are everything that was judged, also what passed. There is always
// one: a list of none would pass where nothing was looked at.
func (r *Report) verdicts() []verdict {
	var out []verdict
	switch {
	case r.Unknown != "":
		v := verdict{suite: r.Verb, name: "the policy loads"}
		for _, i := range r.items() {
			if i.level == errorLevel {
				v.failures = append(v.failures, i)
			}
		}
		return []verdict{v}
	case r.Check != nil:
		v := verdict{suite: "check", name: "the policy is sound", failures: problems(r.Check.Problems, "policy/problem", errorLevel)}
		for _, w := range r.Check.Warnings {
			v.output = append(v.output, strings.Split("warning: "+w.String(), "\n")...)
		}
		return []verdict{v}
	case r.Test != nil:
		out = r.Test.verdicts()
	case r.Lint != nil:
		out = r.Lint.verdicts()
	}
	if d := r.Difference; d != nil {
		// A difference is no failure. What changes is said beside.
		v := verdict{suite: "diff", name: "difference"}
		for _, i := range differenceItems(d) {
			line := i.text
			if i.place.File != "" {
				line = fmt.Sprintf("%s: %s", placeText(i.place), line)
				if i.base {
					line = "was " + line
				}
			}
			v.output = append(v.output, line)
		}
		if d.Empty() {
			v.output = []string{noDifference}
		}
		out = append(out, v)
	}
	return out
}

func (t *Test) verdicts() (out []verdict) {
	items := t.items()
	if len(t.Tests.Tests) == 0 {
		i := slices.IndexFunc(items, func(i item) bool { return i.id == "test/none" })
		out = append(out, verdict{suite: "tests", name: "there are tests", failures: items[i : i+1]})
	}
	for _, test := range t.Tests.Tests {
		v := verdict{suite: "tests", name: test.Name, place: test.Place}
		for _, f := range test.Failures {
			v.failures = append(v.failures, item{id: "test/" + f.Kind, place: f.Place, also: f.Rules, text: f.Text})
		}
		out = append(out, v)
	}
	if t.Tests.Coverage != nil {
		v := verdict{suite: "tests", name: "coverage"}
		for _, i := range items {
			switch {
			case i.id != "coverage":
			case i.level == errorLevel:
				v.failures = append(v.failures, i)
			default:
				v.output = append(v.output, fmt.Sprintf("%s: %s", placeText(i.place), i.text))
			}
		}
		out = append(out, v)
	}
	for _, g := range t.GuardTests {
		v := verdict{suite: "rego", name: g.Name, place: g.Place, output: g.Output}
		if !g.Passed {
			v.failures = []item{guardTest(g)}
		}
		out = append(out, v)
	}
	// A guard that spoke is one verdict; what it only warns of, or asks for,
	// does not fail it.
	guards := map[string]int{}
	for _, i := range items {
		name, ok := cutAny(i.id, "guard/", "approval/")
		if !ok || i.id == "guard/test" {
			continue
		}
		at, known := guards[name]
		if !known {
			at = len(out)
			guards[name] = at
			out = append(out, verdict{suite: "guards", name: name, place: i.place})
		}
		if i.level == errorLevel {
			out[at].failures = append(out[at].failures, i)
		} else {
			out[at].output = append(out[at].output, fmt.Sprintf("%s: %s", placeText(i.place), i.text))
		}
	}
	return out
}
