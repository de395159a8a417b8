package output

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// misses writes what a refusal comes nearest to, and what says so.
func (t *Text) misses(ms []reach.Miss) {
	for i, m := range ms {
		lead := "nearest: "
		if i > 0 {
			lead = "         "
		}
		t.hung(fmt.Sprintf("%s%s %q %s", lead, line(m.Place), m.Rule, m.Text), 0, 11)
		for _, s := range m.Steps {
			t.hung(fmt.Sprintf("%s  %s", line(s.Place), s.Text), 11, 13)
		}
	}
}

// A Reached is what "policy who" and "policy what" report.
type Reached struct {
	Question    string   `json:"question"` // "who" or "what"
	Subject     string   `json:"subject"`  // the selector asked about
	Port        string   `json:"port,omitempty"`
	Policy      string   `json:"policy"` // directory, or revision
	At          string   `json:"at"`
	Access      []Access `json:"access"`
	Assumptions []string `json:"assumptions,omitempty"`
}

// An Access is a set of pairs that have access.
type Access struct {
	From    []string  `json:"from"`
	To      []string  `json:"to"`
	Ports   []string  `json:"ports"`
	People  []string  `json:"people"`
	Nodes   []string  `json:"nodes"`
	When    []string  `json:"when,omitempty"`
	Posture []string  `json:"posture,omitempty"`
	Until   time.Time `json:"until,omitzero"`
	Rules   []RuleRef `json:"rules"`

	Capabilities []string `json:"capabilities,omitempty"`
}

// A RuleRef is a rule and where it stands.
type RuleRef struct {
	Rule  string      `json:"rule"`
	Place model.Place `json:"place"`
}

// Reached writes the report of "policy who" and "policy what".
func (t *Text) Reached(r Reached) error {
	on := ""
	if r.Port != "" {
		on = " on " + r.Port
	}
	switch {
	case len(r.Access) > 0:
	case r.Question == "who":
		t.hung(fmt.Sprintf("nobody reaches %s%s", r.Subject, on), 0, 2)
	default:
		t.hung(fmt.Sprintf("%s reaches nothing%s", r.Subject, on), 0, 2)
	}
	for _, a := range r.Access {
		from := strings.Join(a.From, ", ")
		if len(a.People) > 0 && grouped(from) {
			from += fmt.Sprintf(" (%s)", plural(len(a.People), "person", "people"))
		}
		to := strings.Join(a.To, ", ")
		if len(a.Nodes) > 0 {
			to += fmt.Sprintf(" (%s)", plural(len(a.Nodes), "node", "nodes"))
		}
		what := ""
		if len(a.Ports) > 0 {
			what = " on " + strings.Join(a.Ports, ", ")
		}
		if len(a.Capabilities) > 0 {
			what += " with " + strings.Join(a.Capabilities, ", ")
		}
		t.hung(fmt.Sprintf("%s → %s%s", from, to, what), 0, 2)
		if !a.Until.IsZero() {
			t.hung(end(a.Until), 2, 4)
		}
		if len(a.When) > 0 {
			t.hung("when "+strings.Join(a.When, " or "), 2, 4)
		}
		if len(a.Posture) > 0 {
			t.hung("posture "+strings.Join(a.Posture, " or "), 2, 4)
		}
		t.columns(rulePlaces(a.Rules))
	}
	for _, a := range r.Assumptions {
		t.marked(notice, "%s", a)
	}
	return t.err
}

// grouped reports whether words hide how many people they are.
func grouped(words string) bool {
	return strings.Contains(words, "group:") || strings.Contains(words, "*")
}

func rulePlaces(rules []RuleRef) (out [][2]string) {
	for _, r := range rules {
		out = append(out, [2]string{line(r.Place), fmt.Sprintf("rule %q", r.Rule)})
	}
	return out
}

// columns writes places, and beside them what stands there.
func (t *Text) columns(rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r[0]))
	}
	for _, r := range rows {
		t.hung(r[0]+strings.Repeat(" ", width-utf8.RuneCountInString(r[0])+2)+r[1], 2, width+4)
	}
}

// A Blame is what "policy blame" reports.
type Blame struct {
	To       string  `json:"to"`
	Port     string  `json:"port"`
	At       string  `json:"at"`
	Since    []Since `json:"since"`
	Commits  int     `json:"commits"`       // on the main line that were looked at
	Policies int     `json:"policies"`      // among them, of different content, that were asked
	Passed   int     `json:"passed"`        // that do not load and were passed over
	Cut      string  `json:"cut,omitempty"` // the oldest commit looked at, where there are older ones

	// Conditional is access that is not there now: at other hours, or for nodes that
	// report something else. It was not followed.
	Conditional []Access `json:"conditional,omitempty"`
}

// A Since is access that some have without interruption since a commit.
type Since struct {
	From  []string      `json:"from"`
	To    []string      `json:"to"`
	Given Given         `json:"given"`
	First *Given        `json:"first,omitempty"` // the first time ever, where it was interrupted since
	Open  bool          `json:"open,omitempty"`  // the oldest commit looked at has it already
	Cause []reach.Cause `json:"causes"`
}

// A Given is the commit that gave access; empty where none did, and it is not
// committed.
type Given struct {
	Commit  string `json:"commit"`
	Author  string `json:"author"`
	When    string `json:"when"`
	Subject string `json:"subject"` // first line of its message
}

func (g Given) text() string {
	if g.Commit == "" {
		return "now: no commit gives it"
	}
	return fmt.Sprintf("%s, %s by %s: %s", g.When, g.Commit[:min(len(g.Commit), 7)], g.Author, g.Subject)
}

// maxNames is how many names one line of people is worth.
const maxNames = 6

func some(names []string) string {
	if len(names) <= maxNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames-1], ", "), len(names)-maxNames+1)
}

// Blame writes the report of "policy blame".
func (t *Text) Blame(b Blame) error {
	if len(b.Since) == 0 {
		now := ""
		if len(b.Conditional) > 0 {
			now = " at " + b.At
		}
		t.hung(fmt.Sprintf("nobody asked about reaches %s on %s%s", b.To, b.Port, now), 0, 2)
		t.conditional(b.Conditional)
		return t.err
	}
	for _, s := range b.Since {
		t.hung(fmt.Sprintf("%s → %s on %s", some(s.From), some(s.To), b.Port), 0, 2)
		since := "since "
		if s.Open {
			since = "since before "
		}
		t.hung(since+s.Given.text(), 2, 4)
		var rows [][2]string
		for _, c := range s.Cause {
			text := c.What
			if c.Commit != "" && c.Commit != s.Given.Commit {
				text += fmt.Sprintf(" (%s by %s)", c.Commit[:min(len(c.Commit), 7)], c.Author)
			}
			if row := [2]string{c.Place, text}; !slices.Contains(rows, row) {
				rows = append(rows, row)
			}
		}
		t.columns(rows)
		if s.First != nil {
			t.hung("first "+s.First.text(), 2, 4)
		}
	}
	text := fmt.Sprintf("%s on the main line, %s asked", plural(b.Commits, "commit", "commits"), plural(b.Policies, "policy", "policies"))
	if b.Passed > 0 {
		text += fmt.Sprintf("; %d that do not load were passed over", b.Passed)
	}
	if b.Cut != "" {
		text += fmt.Sprintf("; nothing older than %s was looked at (--limit)", b.Cut[:min(len(b.Cut), 7)])
	}
	t.hung(text, 0, 2)
	t.conditional(b.Conditional)
	return t.err
}

// conditional writes access that blame did not follow, with what it takes.
func (t *Text) conditional(list []Access) {
	if len(list) == 0 {
		return
	}
	t.marked(notice, "not followed, for it is there under conditions; ask with --posture, or --at a time")
	for _, a := range list {
		t.hung(fmt.Sprintf("%s → %s", some(a.From), some(a.To)), 2, 4)
		if len(a.When) > 0 {
			t.hung("when "+strings.Join(a.When, " or "), 4, 6)
		}
		if len(a.Posture) > 0 {
			t.hung("posture "+strings.Join(a.Posture, " or "), 4, 6)
		}
		for _, r := range a.Rules {
			t.hung(fmt.Sprintf("%s  rule %q", line(r.Place), r.Rule), 4, 6)
		}
	}
}

// Formatted writes what "policy fmt" did: the files that it changed, or would.
func (t *Text) Formatted(files []string) error {
	for _, f := range files {
		t.Line(f)
	}
	return t.err
}
