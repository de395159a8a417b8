package tester

import (
	"fmt"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// A runner asks one world about all tests.
type runner struct {
	world       *reach.World
	rules       map[string]model.Place
	users       map[string]bool // who exist; nil: anybody may
	coverage    *reach.Coverage // nil where it is not asked for
	assumptions []string
	test        Test // under way
}

func (r *runner) fail(f Failure) { r.test.Failures = append(r.test.Failures, f) }

// assert judges one assertion.
func (r *runner) assert(a assertion) {
	if a.err != nil {
		r.fail(Failure{Place: a.place, Kind: a.kind, Text: a.err.Error()})
		return
	}
	for _, ref := range slices.Concat(a.from, a.to) {
		if u := ref.Selector; u.Kind == acl.KindUser && r.users != nil && !r.users[u.Name] {
			r.fail(Failure{Place: ref.Place, Kind: a.kind, Text: fmt.Sprintf("the inventory has no user %s", u)})
			return
		}
	}
	from, to := r.world.Ends(a.q)
	if from == 0 && a.kind != "only" && !a.allowEmpty {
		r.empty(a, a.from)
		return
	}
	if to == 0 && !a.allowEmpty {
		r.empty(a, a.to)
		return
	}
	if !a.allowEmpty && !r.meet(a) {
		r.fail(Failure{Place: a.place, Kind: a.kind, Text: fmt.Sprintf("nothing passes from %s to %s, whatever rules say, so that this asserts nothing (allowEmpty: true if that is meant)", texts(a.from), texts(a.to))})
		return
	}
	failures := len(r.test.Failures)
	if a.kind == "allow" {
		missing := r.world.Missing(a.q)
		partly := ""
		if len(missing) > 0 {
			partly = r.partly(a)
		}
		for _, f := range missing {
			r.missing(a, f, partly)
		}
	} else {
		for _, f := range r.world.Reachable(a.q) {
			r.reachable(a, f)
		}
	}
	r.assumptions = append(r.assumptions, r.world.Assumptions(a.q)...)
	if a.kind != "allow" {
		r.assumptions = append(r.assumptions, r.world.Claims(a.q)...)
	}
	if r.coverage == nil || len(r.test.Failures) > failures {
		return
	}
	if a.kind == "allow" {
		r.coverage.Allow(a.q)
	} else {
		r.coverage.Bound(a.q)
	}
}

// meet reports whether there is a flow that the assertion is about: from any end,
// where it is about all but some.
func (r *runner) meet(a assertion) bool {
	q := a.q
	if a.kind == "only" {
		q.From, q.Outside = nil, false
	}
	return r.world.Meet(q)
}

// empty fails an assertion about ends of which there are none.
func (r *runner) empty(a assertion, refs []model.Ref) {
	none := "no node is"
	if slices.ContainsFunc(refs, func(r model.Ref) bool {
		return r.Selector.Kind == acl.KindPrefix || r.Selector.Kind == acl.KindHost || r.Selector.Kind == acl.KindInternet
	}) {
		none = "no approved route leads to"
		if slices.ContainsFunc(refs, func(r model.Ref) bool { return isNode(r.Selector) }) {
			none = "no node is, and no approved route leads to,"
		}
	}
	r.fail(Failure{Place: a.place, Kind: a.kind,
		Text: fmt.Sprintf("%s %s, so that this asserts nothing (allowEmpty: true if that is meant)", none, texts(refs))})
}

func isNode(s acl.Selector) bool {
	return s.Kind != acl.KindPrefix && s.Kind != acl.KindHost && s.Kind != acl.KindInternet
}

// partly says what of an allow that fails is given at some hours, or to sources
// that report something: what the author of the test may have had in mind.
func (r *runner) partly(a assertion) string {
	q := a.q
	q.Posture, q.Fixed = nil, false
	for _, f := range r.world.Reachable(q) {
		if len(f.When)+len(f.Posture) == 0 {
			continue
		}
		text := "; " + people(f) + " would" + which(f, a.to) + ", on " + join(f.Ports) + conditions(f)
		by, _ := r.by(f.Rules)
		return text + by
	}
	return ""
}

// by names rules with their places.
func (r *runner) by(rules []string) (text string, places []model.Place) {
	lead := ", by "
	for _, name := range rules {
		p, ok := r.rules[name]
		if !ok {
			continue
		}
		places = append(places, p)
		text += fmt.Sprintf("%s%s:%d %q", lead, p.File, p.Line, name)
		lead = " and "
	}
	return text, places
}

// missing fails an allow.
func (r *runner) missing(a assertion, f reach.Finding, partly string) {
	text := fmt.Sprintf("%s must reach %s on %s, but %s cannot%s, on %s%s",
		texts(a.from), texts(a.to), portTexts(a.ports), people(f), which(f, a.to), join(f.Ports), conditions(f)+partly)
	r.fail(Failure{Place: a.place, Kind: a.kind, Text: text, Example: example(f.Sample, "cannot reach"),
		Pairs: f.Sample, When: f.When, Posture: f.Posture})
}

// reachable fails a deny or an only.
func (r *runner) reachable(a assertion, f reach.Finding) {
	text := fmt.Sprintf("%s must not reach %s, but %s would%s", texts(a.from), texts(a.to), people(f), which(f, a.to))
	if a.kind == "only" {
		text = fmt.Sprintf("only %s may reach %s, but %s would%s", texts(a.from), texts(a.to), people(f), which(f, a.to))
	}
	out := Failure{Place: a.place, Kind: a.kind, Example: example(f.Sample, "would reach"), Pairs: f.Sample, When: f.When, Posture: f.Posture}
	by, places := r.by(f.Rules)
	out.Text, out.Rules = text+", on "+join(f.Ports)+conditions(f)+by, places
	r.fail(out)
}

// report is the coverage with the places of rules.
func (r *runner) report() *Coverage {
	got := r.coverage.Report()
	out := &Coverage{Rules: got.Rules, RulesWitnessed: got.RulesWitnessed, Cells: got.Cells, CellsWitnessed: got.CellsWitnessed, Unwitnessed: []Rule{}}
	for _, name := range got.Unwitnessed {
		out.Unwitnessed = append(out.Unwitnessed, Rule{name, r.rules[name]})
	}
	return out
}
