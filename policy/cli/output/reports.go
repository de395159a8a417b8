package output

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// Check writes the report of "policy check".
func (t *Text) Check(c Check) error {
	if len(c.Problems) > 0 {
		return t.Problems(c.Problems)
	}
	t.warnings(c.Warnings)
	t.marked(good, "network %s: %s, %s, %s", c.Network,
		plural(c.Rules, "rule", "rules"), plural(c.Tests, "test", "tests"), plural(c.Guards, "guard", "guards"))
	return t.err
}

// Test writes the report of "policy test".
func (t *Text) Test(r Test) error {
	t.warnings(r.Warnings)
	all := fmt.Sprintf("%s, %s", plural(len(r.Tests.Tests), "test", "tests"), plural(r.Tests.Assertions, "assertion", "assertions"))
	switch {
	case len(r.Tests.Tests) == 0:
		t.marked(bad, noTests)
	case r.Tests.Failed > 0:
		t.marked(bad, "%d of %s", r.Tests.Failed, strings.Replace(all, ",", " failed,", 1))
	default:
		t.marked(good, "%s", all)
	}
	for _, test := range r.Tests.Tests {
		for _, f := range test.Failures {
			t.hung(fmt.Sprintf("%s: %q: %s", f.Place, test.Name, f.Text), 2, 4)
		}
	}
	failed := 0
	for _, g := range r.GuardTests {
		if !g.Passed {
			failed++
		}
	}
	switch n := plural(len(r.GuardTests), "Rego test", "Rego tests"); {
	case failed > 0:
		t.marked(bad, "%d of %s failed", failed, n)
	case len(r.GuardTests) > 0:
		t.marked(good, "%s", n)
	}
	for _, g := range r.GuardTests {
		if g.Passed {
			continue
		}
		t.hung(fmt.Sprintf("%s: %s: %s", g.Place, g.Name, g.Failure), 2, 4)
		for _, line := range g.Output {
			t.hung("printed at "+line, 4, 6)
		}
	}
	t.coverage(r)
	for _, f := range r.Guards {
		m, says := notice, "warns"
		if f.Deny {
			m, says = bad, "denies"
		}
		t.marked(m, "guard %s %s%s", f.Guard, says, ofBase(f.Base))
		t.hung(fmt.Sprintf("%s%s: %s", was(f.Gone), about(f.Place, f.Rule), f.Message), 2, 4)
	}
	for _, a := range r.Approvals {
		t.marked(notice, "guard %s asks for approval by %s%s", a.Guard, a.Team, ofBase(a.Base))
		t.hung(fmt.Sprintf("%s%s: %s", was(a.Gone), about(a.Place, a.Rule), a.Reason), 2, 4)
	}
	for _, a := range r.Tests.Assumptions {
		t.marked(notice, "assumed: %s", a)
	}
	return t.err
}

// fewer writes what tests of the base asserted, and none does any more.
func (t *Text) fewer(d *reach.Difference) error {
	for _, a := range d.Admission {
		if a.Kind == "test" {
			t.admission(a)
		}
	}
	return t.err
}

// about is the place that a guard speaks of, or else its own.
func about(place, rule model.Place) model.Place {
	if place.IsZero() {
		return rule
	}
	return place
}

// was stands before a place of the revision before.
func was(gone bool) string {
	if gone {
		return "was "
	}
	return ""
}

func ofBase(base bool) string {
	if base {
		return " (guard of the base)"
	}
	return ""
}

// causeColumn is where causes stand when what is before them leaves room.
const causeColumn = 37

// Difference writes the report of "policy diff".
func (t *Text) Difference(d *reach.Difference) error {
	if d.Empty() {
		t.raw(noDifference)
		return t.err
	}
	for _, c := range d.Gained {
		t.change(c, true, d.Inventory)
	}
	for _, c := range d.Lost {
		t.change(c, false, d.Inventory)
	}
	for _, a := range d.Admission {
		t.admission(a)
	}
	switch {
	case len(d.Lost) == 0 && len(d.Gained) == 0:
		t.raw("rules allow the same as before")
	case len(d.Lost) == 0 && !d.Out():
		t.raw("nobody loses access")
	case len(d.Gained) == 0 && !d.In():
		t.raw("nobody gains access")
	}
	return t.err
}

// admission writes one line about who is let in or put out, the place at its end
// where there is room, and below it otherwise.
func (t *Text) admission(a reach.Admission) {
	m := kept
	switch a.Effect {
	case reach.LetsIn:
		m = gain
	case reach.PutsOut:
		m = loss
	}
	place := a.Cause.Place
	if place != "" && a.Cause.Base {
		place = "was " + place
	}
	if n := utf8.RuneCountInString(visible(a.Text)); place != "" && n+2+utf8.RuneCountInString(visible(place)) <= Width-2 {
		t.raw(t.painted(m) + " " + visible(a.Text) + "  " + visible(place))
		return
	}
	t.marked(m, "%s", a.Text)
	if place != "" {
		t.hung(place, 2, 4)
	}
}

func (t *Text) change(c reach.Change, gained, counted bool) {
	s := tell(c, gained, counted)
	t.marked(s.mark, "%s", s.text)
	line := s.when
	if len(s.causes) > 0 {
		if line != "" {
			line += strings.Repeat(" ", max(2, causeColumn-2-utf8.RuneCountInString(line)))
		}
		line += strings.Join(s.causes, ", ")
	}
	if line != "" {
		t.hung(line, 2, 4)
	}
}

func end(until time.Time) string {
	if until.IsZero() {
		return "without end"
	}
	return "until " + reach.Moment(until)
}

// Why writes the report of "policy why".
func (t *Text) Why(w Why) error {
	if !w.Allowed {
		t.hung(fmt.Sprintf("no rule lets %s reach %s on %s", w.From, w.To, w.Port), 0, 2)
		t.misses(w.Misses)
		for _, f := range w.Facts {
			t.hung(fmt.Sprintf("%s (%s)", f.Text, line(f.Place)), 0, 2)
		}
		return t.err
	}
	text := fmt.Sprintf("%s reaches %s on %s", w.From, w.To, w.Port)
	if w.AllowedPairs < w.Pairs {
		t.hung(fmt.Sprintf("allowed for %d of %d pairs of nodes; not for %s", w.AllowedPairs, w.Pairs, w.Except), 0, 2)
	}
	if !w.Until.IsZero() {
		text += " " + end(w.Until)
	}
	t.hung(text, 0, 2)
	width := 0
	for _, s := range w.Chain {
		width = max(width, utf8.RuneCountInString(line(s.Place)))
	}
	for _, s := range w.Chain {
		place := line(s.Place)
		t.hung(place+strings.Repeat(" ", width-utf8.RuneCountInString(place)+2)+s.Text, 2, width+4)
	}
	return t.err
}

// line is a place without its column, as people quote it.
func line(p model.Place) string {
	if p.Line == 0 {
		return p.String()
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Item writes one labelled line. Values are not broken: keys and hashes are
// copied from them.
func (t *Text) Item(label, value string) {
	t.raw(fmt.Sprintf("  %-9s %s", visible(label), visible(value)))
}

// Verified and Refused end what is said of a signed document.
func (t *Text) Verified() { t.raw("  " + t.painted(good) + " verifies") }

// Refused says why a document does not verify.
func (t *Text) Refused(why string) {
	for i, line := range wrap("does not verify: "+why, Width-4, Width-6) {
		if i == 0 {
			t.raw("  " + t.painted(bad) + " " + line)
		} else {
			t.raw("      " + line)
		}
	}
}
