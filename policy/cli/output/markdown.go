package output

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
)

// Marker begins every report in Markdown, so that whoever keeps one comment up to
// date finds the one of before.
const Marker = "<!-- writ policy report -->"

const (
	// maxMarkdown is a little less than the 65,536 characters of a GitHub
	// comment: whoever posts it may put a line before it.
	maxMarkdown = 65_000
	// maxCell is how many characters of one text are shown.
	maxCell = 300
)

// Markdown writes a report as the one comment on a pull request: the verdict,
// then whom it gives access and takes it from, with a picture, then guards, tests
// and problems. It is shorter than what a comment may hold: as
// many rows of each table are left out as it takes, and each table says how many.
func Markdown(w io.Writer, r *Report) error {
	text := ""
	for _, rows := range []int{200, 100, 50, 25, 12, 6, 3, 1} {
		m := &markdown{r: r, rows: rows}
		if text = m.report(); utf8.RuneCountInString(text) <= maxMarkdown {
			return write(w, "Markdown", text)
		}
	}
	return fmt.Errorf("write Markdown: %d characters at the shortest, want at most %d", utf8.RuneCountInString(text), maxMarkdown)
}

// markdown is one attempt.
type markdown struct {
	r    *Report
	b    strings.Builder
	rows int // how many of each list are shown
}

func (m *markdown) line(format string, args ...any) {
	fmt.Fprintf(&m.b, format+"\n", args...)
}

func (m *markdown) report() string {
	r := m.r
	m.line("%s\n### %s\n", Marker, m.verdict())
	if r.Unknown != "" {
		m.unknown()
	}
	if r.Check != nil {
		m.check(r.Check)
	}
	if r.Difference != nil {
		m.difference(r.Difference)
	}
	if r.Test != nil {
		m.guards(r.Test)
		m.failures(r.Test)
		m.guardTests(r.Test)
		m.coverage(r.Test)
		m.problems("Warnings", r.Test.Warnings)
	}
	if r.Lint != nil {
		m.lint(r.Lint)
	}
	m.footer()
	return m.b.String()
}

// verdict is the first line, which many will read alone.
func (m *markdown) verdict() string {
	r := m.r
	switch {
	case r.Unknown != "":
		return "❌ Cannot tell: the policy does not load"
	case r.Check != nil && len(r.Check.Problems) > 0:
		return "❌ " + plural(len(r.Check.Problems), "problem", "problems") + " in the policy"
	case r.Check != nil:
		return "✅ The policy is sound"
	case r.Test != nil && !r.Test.Passed:
		return "❌ Must not be merged: " + strings.Join(m.against(r.Test), ", ")
	case r.Test != nil:
		text, effect := "✅ Tests pass", ""
		if teams := teams(r.Test); len(teams) > 0 {
			text = "⚠️ Needs approval by " + codes(teams)
		}
		if r.Difference != nil {
			effect = ": " + effectOf(r.Difference)
		}
		return text + effect
	case r.Lint != nil && len(r.Lint.Findings) == 0:
		return "✅ Lint finds nothing"
	case r.Lint != nil:
		return "⚠️ Lint finds " + plural(len(r.Lint.Findings), "thing", "things") + " to look at"
	case r.Difference.Empty():
		return "✅ No effective access change"
	}
	text := effectOf(r.Difference)
	return strings.ToUpper(text[:1]) + text[1:]
}

// against is what keeps a policy from passing.
func (m *markdown) against(t *Test) (out []string) {
	switch {
	case len(t.Tests.Tests) == 0:
		out = append(out, "it has no tests")
	case t.Tests.Failed > 0:
		out = append(out, fmt.Sprintf("%d of %s %s", t.Tests.Failed, plural(len(t.Tests.Tests), "test", "tests"), map[bool]string{true: "fails", false: "fail"}[t.Tests.Failed == 1]))
	}
	denied := 0
	for _, g := range t.Guards {
		if g.Deny {
			denied++
		}
	}
	if denied > 0 {
		out = append(out, "guards deny it "+plural(denied, "time", "times"))
	}
	failed := 0
	for _, g := range t.GuardTests {
		if !g.Passed {
			failed++
		}
	}
	if failed > 0 {
		out = append(out, plural(failed, "test of a guard fails", "tests of guards fail"))
	}
	if !t.enough() {
		out = append(out, "tests cover too few rules")
	}
	if len(out) == 0 {
		out = append(out, "it does not pass")
	}
	return out
}

// teams are those that guards ask approval of, each once.
func teams(t *Test) (out []string) {
	seen := map[string]bool{}
	for _, a := range t.Approvals {
		if !seen[a.Team] {
			seen[a.Team] = true
			out = append(out, cut(a.Team, maxLabel))
		}
	}
	return out
}

// effectOf is a difference in one line.
func effectOf(d *reach.Difference) string {
	if d.Empty() {
		return noDifference
	}
	var out []string
	v := divide(d)
	side := func(changes []reach.Change, verb, how string) {
		if len(changes) == 0 {
			return
		}
		if n := people(changes); n > 0 {
			if n > 1 {
				verb = strings.TrimSuffix(verb, "s")
			}
			out = append(out, plural(n, "person", "people")+" "+verb+" access"+how)
		} else {
			out = append(out, "access is "+map[string]string{"gains": "gained", "loses": "lost"}[verb]+how)
		}
	}
	side(v.gained, "gains", "")
	side(v.lost, "loses", "")
	side(v.wider, "gains", " under some conditions")
	side(v.narrower, "loses", " under some conditions")
	if len(v.ends) > 0 {
		out = append(out, "access ends at another time")
	}
	out = append(out, admissionEffect(d.Admission)...)
	if n := len(out); n > 2 {
		out[n-1] = "and " + out[n-1]
	} else if n == 2 {
		return out[0] + " and " + out[1]
	}
	return strings.Join(out, ", ")
}

// table writes a heading, and rows as far as they are shown.
func (m *markdown) table(heading string, columns []string, n int, row func(i int) []string) {
	if n == 0 {
		return
	}
	m.line("#### %s\n", heading)
	m.line("| %s |", strings.Join(columns, " | "))
	m.line("|%s", strings.Repeat(" --- |", len(columns)))
	for i := range min(n, m.rows) {
		m.line("| %s |", strings.Join(row(i), " | "))
	}
	m.line("")
	m.more(n - m.rows)
}

// list writes items as far as they are shown.
func (m *markdown) list(heading string, n int, entry func(i int) string) {
	if n == 0 {
		return
	}
	m.line("#### %s\n", heading)
	for i := range min(n, m.rows) {
		m.line("- %s", entry(i))
	}
	m.line("")
	m.more(n - m.rows)
}

func (m *markdown) more(n int) {
	if n > 0 {
		m.line("*and %d more%s*\n", n, m.whole())
	}
}

// whole says where everything is.
func (m *markdown) whole() string {
	if m.r.Details == "" {
		return ""
	}
	return ", all in " + link("the whole report", m.r.Details)
}

func (m *markdown) difference(d *reach.Difference) {
	if d.Empty() {
		m.line("No effective access change: whatever reached something still does, and nothing else.\n")
		return
	}
	v := divide(d)
	m.changes("Access gained", v.gained, true)
	m.changes("Access lost", v.lost, false)
	m.changes("Access kept, under other conditions", v.other(), true)
	m.changes("Access kept, with another end", v.ends, true)
	m.list("Who is let in, and whom the network trusts", len(d.Admission), func(i int) string {
		a := d.Admission[i]
		mark := map[string]string{reach.LetsIn: "➕", reach.PutsOut: "➖"}[a.Effect]
		if mark == "" {
			mark = "✳️"
		}
		return mark + " " + code(cut(a.Text, maxCell)) + m.cause(a.Cause, " — ")
	})
	if len(d.Lost) == 0 && len(v.gained) > 0 && !d.Out() {
		m.line("Nobody loses access.\n")
	} else if len(d.Gained) == 0 && len(v.lost) > 0 && !d.In() {
		m.line("Nobody gains access.\n")
	}
	if picture, more := Mermaid(d); picture != "" {
		m.line("<details open><summary>Picture of the changed access</summary>\n\n```mermaid\n%s```\n", picture)
		if more > 0 {
			m.line("*and %d more%s*\n", more, m.whole())
		}
		m.line("</details>\n")
	}
}

func (m *markdown) changes(heading string, changes []reach.Change, gained bool) {
	counts := []string{}
	if n := people(changes); n > 0 {
		counts = append(counts, plural(n, "person", "people"))
	}
	if n := nodes(changes); m.r.Difference.Inventory {
		counts = append(counts, plural(n, "node", "nodes"))
	}
	if len(counts) > 0 {
		heading += " (" + strings.Join(counts, ", ") + ")"
	}
	m.table(heading, []string{"who", "reaches", "on", "when", "because of"}, len(changes), func(i int) []string {
		c := changes[i]
		from, to := m.words(c.From), m.words(c.To)
		if n := len(c.People); n > 0 && hides(strings.Join(c.From, ", ")) {
			from += " (" + plural(n, "person", "people") + ")"
		}
		if m.r.Difference.Inventory {
			to += " (" + plural(len(c.Nodes), "node", "nodes") + ")"
		}
		var causes []string
		for i, cause := range c.Causes {
			if i == m.few() {
				causes = append(causes, fmt.Sprintf("and %d more", len(c.Causes)-i))
				break
			}
			causes = append(causes, m.cause(cause, ""))
		}
		when := when(c, gained)
		if when == "" {
			when = "always"
		} else {
			when = code(cut(when, maxCell))
		}
		if whose := owners(c); whose != "" {
			to += " " + whose
		}
		return []string{from, to, m.words(doors(c)), when, strings.Join(causes, "<br>")}
	})
}

// few is how many of the words of one cell are shown.
func (m *markdown) few() int { return min(12, m.rows) }

func (m *markdown) words(list []string) string {
	n := min(len(list), m.few())
	short := make([]string, n)
	for i, s := range list[:n] {
		short[i] = cut(s, maxCell)
	}
	text := codes(short)
	if more := len(list) - n; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// cause is a place in the policy, after a lead.
func (m *markdown) cause(c reach.Cause, lead string) string {
	if c.Place == "" {
		return ""
	}
	if c.Base {
		return lead + "was " + m.r.Base.linked(causePlace(c))
	}
	text := lead + m.r.Head.linked(causePlace(c))
	if c.Author != "" {
		text += " by " + code(cut(c.Author, maxLabel))
	}
	return text
}

func (m *markdown) guards(t *Test) {
	n := len(t.Approvals) + len(t.Guards)
	m.table("Guards", []string{"guard", "", "because", "place"}, n, func(i int) []string {
		if i < len(t.Approvals) {
			a := t.Approvals[i]
			return []string{code(cut(a.Guard, maxLabel)) + ofBase(a.Base), "⚠️ asks for approval by " + code(cut(a.Team, maxLabel)), code(cut(a.Reason, maxCell)), m.about(a.Place, a.Rule, a.Gone)}
		}
		g := t.Guards[i-len(t.Approvals)]
		says := "⚠️ warns"
		if g.Deny {
			says = "❌ denies"
		}
		return []string{code(cut(g.Guard, maxLabel)) + ofBase(g.Base), says, code(cut(g.Message, maxCell)), m.about(g.Place, g.Rule, g.Gone)}
	})
}

// about is the place that a guard speaks of, on the side where it is.
func (m *markdown) about(place, rule model.Place, gone bool) string {
	if p := about(place, rule); gone {
		return "was " + m.r.Base.linked(p)
	}
	return m.r.Head.linked(about(place, rule))
}

func (m *markdown) failures(t *Test) {
	type failure struct {
		name, text string
		place      model.Place
	}
	var all []failure
	for _, test := range t.Tests.Tests {
		for _, f := range test.Failures {
			all = append(all, failure{test.Name, f.Text, f.Place})
		}
	}
	if len(t.Tests.Tests) == 0 {
		m.line("#### Tests\n\n❌ %s.\n", noTests)
		return
	}
	if len(all) == 0 {
		m.line("✅ %s, %s.\n", plural(len(t.Tests.Tests), "test", "tests"), plural(t.Tests.Assertions, "assertion", "assertions"))
		return
	}
	m.table(fmt.Sprintf("Tests: %d of %d failed", t.Tests.Failed, len(t.Tests.Tests)), []string{"test", "what is wrong", "place"}, len(all), func(i int) []string {
		return []string{code(cut(all[i].name, maxCell)), code(cut(all[i].text, 2*maxCell)), m.r.Head.linked(all[i].place)}
	})
}

// coverage is what tests bear witness to, and what their answers rest on that is
// not known.
func (m *markdown) coverage(t *Test) {
	if c := t.Tests.Coverage; c != nil {
		mark := "✅"
		text := fmt.Sprintf("Tests bear witness to %d of %s", c.RulesWitnessed, plural(c.Rules, "rule", "rules"))
		if c.Cells > 0 {
			text += fmt.Sprintf(", and to %d %% of the access", percentOf(c.CellsWitnessed, c.Cells))
		}
		switch {
		case !t.enough():
			mark = "❌"
			text += fmt.Sprintf("; %d %% of the rules are too few, want %d %%", c.Percent(), t.Threshold)
		case c.RulesWitnessed < c.Rules:
			mark = "⚠️"
		}
		m.line("%s %s.\n", mark, text)
		m.list("Rules without a test", len(c.Unwitnessed), func(i int) string {
			return code(cut(c.Unwitnessed[i].Name, maxCell)) + " " + m.r.Head.linked(c.Unwitnessed[i].Place)
		})
		if g := t.GuardCoverage; g != nil && g.Lines > 0 {
			m.line("Tests of guards reach %d of %s.\n", g.Covered, plural(g.Lines, "line", "lines"))
		}
	}
	m.list("Assumed", len(t.Tests.Assumptions), func(i int) string { return code(cut(t.Tests.Assumptions[i], maxCell)) })
}

// guardTests are those of guards and generators.
func (m *markdown) guardTests(t *Test) {
	var failed []rego.Test
	for _, g := range t.GuardTests {
		if !g.Passed {
			failed = append(failed, g)
		}
	}
	if len(failed) == 0 && len(t.GuardTests) > 0 {
		m.line("✅ %s of guards.\n", plural(len(t.GuardTests), "test", "tests"))
	}
	m.table(fmt.Sprintf("Tests of guards: %d of %d failed", len(failed), len(t.GuardTests)), []string{"test", "what is wrong", "place"}, len(failed), func(i int) []string {
		return []string{code(cut(failed[i].Name, maxCell)), code(cut(failed[i].Failure, 2*maxCell)), m.r.Head.linked(failed[i].Place)}
	})
}

func (m *markdown) problems(heading string, ps model.Problems) {
	m.list(heading, len(ps), func(i int) string {
		p := ps[i]
		text := m.r.Head.linked(p.Place) + " " + code(cut(p.Message, 2*maxCell))
		if p.Hint != "" {
			text += " — " + code(cut(p.Hint, maxCell))
		}
		return text
	})
}

func (m *markdown) unknown() {
	if len(m.r.Problems) == 0 {
		m.line("%s\n", code(cut(m.r.Unknown, 4*maxCell)))
	}
	m.problems("Problems", m.r.Problems)
}

func (m *markdown) check(c *Check) {
	if len(c.Problems) == 0 {
		m.line("Network %s: %s, %s, %s.\n", code(cut(c.Network, maxLabel)), plural(c.Rules, "rule", "rules"), plural(c.Tests, "test", "tests"), plural(c.Guards, "guard", "guards"))
	}
	m.problems("Problems", c.Problems)
	m.problems("Warnings", c.Warnings)
}

func (m *markdown) lint(l *Lint) {
	m.table("Lint", []string{"check", "what", "place"}, len(l.Findings), func(i int) []string {
		f := l.Findings[i]
		text := code(cut(f.Text, maxCell))
		if f.Hint != "" {
			text += "<br>" + code(cut(f.Hint, maxCell))
		}
		return []string{code(cut(f.ID, maxLabel)), text, m.r.Head.linked(f.Place)}
	})
}

// footer says what was compared, so that a stale comment shows as one.
func (m *markdown) footer() {
	var out []string
	side := func(o Origin) string {
		if o.Commit != "" {
			return code(o.Commit[:min(12, len(o.Commit))])
		}
		return code(cut(o.Label, maxLabel))
	}
	switch {
	case m.r.Base.Label != "" && m.r.Head.Label != "":
		out = append(out, "Compared "+side(m.r.Head)+" with "+side(m.r.Base)+".")
	case m.r.Head.Label != "":
		out = append(out, "About "+side(m.r.Head)+".")
	}
	if d := m.r.Difference; d != nil {
		judged := "Judged at " + reach.Moment(d.At)
		if d.Inventory {
			judged += ", with an inventory of nodes"
		} else {
			judged += ", over every node that might exist"
		}
		out = append(out, judged+".")
	}
	if m.r.Details != "" {
		out = append(out, link("The whole report", m.r.Details)+".")
	}
	if len(out) > 0 {
		m.line("<sub>%s</sub>", strings.Join(out, " "))
	}
}
