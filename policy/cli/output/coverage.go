package output

import (
	"fmt"
	"strings"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/rego"
)

// A Covered is what tests bear witness to, beside what is in the tests' result.
type Covered struct {
	GuardCoverage *rego.Coverage `json:"guardCoverage,omitempty"` // lines of guards and generators, by their tests
	Threshold     int            `json:"threshold,omitempty"`     // percent of rules that must be witnessed
}

// Cover adds to a report what the tests of a policy bear witness to, where that was
// asked for. The report passes where it is at least the threshold, in percent of
// rules.
func (t *Test) Cover(r *build.Result, threshold int) {
	if c := r.Tests.Coverage; c != nil {
		t.Covered = Covered{r.GuardCoverage, threshold}
		t.Passed = t.Passed && t.enough()
	}
}

// enough reports whether the tests bear witness to as many rules as they must.
func (t *Test) enough() bool {
	return t.Tests.Coverage == nil || t.Tests.Coverage.Percent() >= t.Threshold
}

// coverage says what tests bear witness to, and which rules they do not.
func (t *Text) coverage(r Test) {
	c := r.Tests.Coverage
	if c == nil {
		return
	}
	m := good
	percent := fmt.Sprintf("%d %%", c.Percent())
	if !r.enough() {
		m, percent = bad, fmt.Sprintf("%d %%, want %d %%", c.Percent(), r.Threshold)
	}
	text := fmt.Sprintf("tests witness %d of %s (%s)", c.RulesWitnessed, plural(c.Rules, "rule", "rules"), percent)
	if c.Cells > 0 {
		text += fmt.Sprintf(" and %d %% of the access", percentOf(c.CellsWitnessed, c.Cells))
	}
	t.marked(m, "%s", text)
	for _, rule := range c.Unwitnessed {
		t.hung(fmt.Sprintf("%s: rule %q has no witness", rule.Place, rule.Name), 2, 4)
	}
	if g := r.GuardCoverage; g != nil && g.Lines > 0 {
		t.marked(notice, "tests of guards reach %d of %d lines", g.Covered, g.Lines)
		for _, f := range g.Files {
			if len(f.Uncovered) > 0 {
				var lines []string
				for _, n := range f.Uncovered {
					lines = append(lines, fmt.Sprint(n))
				}
				t.hung(fmt.Sprintf("%s: not lines %s", f.File, strings.Join(lines, ", ")), 2, 4)
			}
		}
	}
}

// percentOf is rounded down, and does not overflow.
func percentOf(n, of uint64) uint64 { return uint64(float64(n) / float64(of) * 100) }
