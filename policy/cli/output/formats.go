package output

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Formats are the names of all formats, as flags have them.
var Formats = []string{"text", "json", "markdown", "github", "gitlab", "junit", "tap", "sarif", "html"}

// Write writes a report in one format.
func Write(w io.Writer, format string, r *Report) error {
	switch format {
	case "text":
		return NewText(w).Report(r)
	case "json":
		return JSON(w, r.json())
	case "markdown":
		return Markdown(w, r)
	case "github":
		return GitHub(w, r)
	case "gitlab":
		return GitLab(w, r)
	case "junit":
		return JUnit(w, r)
	case "tap":
		return TAP(w, r)
	case "sarif":
		return SARIF(w, r)
	case "html":
		return Page(w, r)
	}
	return fmt.Errorf("format %q: there are %s", format, strings.Join(Formats, ", "))
}

// Known reports whether there is such a format.
func Known(format string) bool { return slices.Contains(Formats, format) }

// Report writes whatever a report is about.
func (t *Text) Report(r *Report) error {
	switch {
	case r.Unknown != "":
		if len(r.Problems) > 0 {
			return t.Problems(r.Problems)
		}
		t.Line(r.Unknown)
		return t.err
	case r.Check != nil:
		return t.Check(*r.Check)
	case r.Test != nil:
		if err := t.Test(*r.Test); err != nil || r.Difference == nil {
			return err
		}
		return t.fewer(r.Difference)
	case r.Lint != nil:
		return t.Lint(*r.Lint)
	}
	return t.Difference(r.Difference)
}

// Lint writes the report of "policy lint".
func (t *Text) Lint(l Lint) error {
	if len(l.Findings) == 0 {
		t.marked(good, "nothing to find")
	}
	for _, i := range l.items() {
		m := notice
		switch i.level {
		case errorLevel:
			m = bad
		case noteLevel:
			m = mark{"·", "36"}
		}
		t.marked(m, "%s: %s (%s)", i.place, i.text, i.id[len("lint/"):])
		for _, p := range i.also {
			t.hung(fmt.Sprintf("also %s", p), 4, 6)
		}
		if i.hint != "" {
			t.hung(i.hint, 4, 6)
		}
	}
	return t.err
}
