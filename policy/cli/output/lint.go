package output

import "github.com/writmesh/writ/cue/model"

// A Lint is what "policy lint" reports.
type Lint struct {
	Findings []LintFinding `json:"findings"`
}

// A LintFinding is one thing in a policy that is allowed and should be looked at.
type LintFinding struct {
	ID    string        `json:"id"`    // of the check, which does not change: "shadowed"
	Level string        `json:"level"` // "error", "warning" or "note"
	Place model.Place   `json:"place"`
	Also  []model.Place `json:"also,omitempty"` // the other places that it is about
	Text  string        `json:"text"`
	Hint  string        `json:"hint,omitempty"`
}

func (l *Lint) items() (out []item) {
	for _, f := range l.Findings {
		i := item{level: warningLevel, id: "lint/" + f.ID, place: f.Place, also: f.Also, text: f.Text, hint: f.Hint}
		switch f.Level {
		case "error":
			i.level = errorLevel
		case "note":
			i.level = noteLevel
		}
		out = append(out, i)
	}
	return out
}

// verdicts are one for each check that found something, which fails it; or one
// that passes.
func (l *Lint) verdicts() (out []verdict) {
	at := map[string]int{}
	for _, i := range l.items() {
		n, ok := at[i.id]
		if !ok {
			n = len(out)
			at[i.id] = n
			out = append(out, verdict{suite: "lint", name: i.id[len("lint/"):]})
		}
		out[n].failures = append(out[n].failures, i)
	}
	if out == nil {
		out = []verdict{{suite: "lint", name: "nothing to find"}}
	}
	return out
}
