package tester

import (
	"fmt"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// texts are refs as they are written: those with the same exceptions together.
func texts(refs []model.Ref) string {
	type set struct{ of, except []string }
	var sets []*set
	for _, r := range refs {
		var except []string
		for _, x := range r.Except {
			except = append(except, x.Selector.String())
		}
		if n := len(sets); n == 0 || join(sets[n-1].except) != join(except) {
			sets = append(sets, &set{except: except})
		}
		last := sets[len(sets)-1]
		last.of = append(last.of, r.Selector.String())
	}
	var out []string
	for _, s := range sets {
		text := join(s.of)
		if len(s.except) > 0 {
			if text += " except " + join(s.except); len(sets) > 1 {
				text = "(" + text + ")"
			}
		}
		out = append(out, text)
	}
	return join(out)
}

func portTexts(ports []acl.Ports) string {
	var out []string
	for _, p := range ports {
		out = append(out, p.String())
	}
	if len(out) == 0 {
		return "every port"
	}
	return join(out)
}

// people names who a finding is about, with a count where a group hides it.
func people(f reach.Finding) string {
	text := join(f.From)
	if len(f.People) > 0 && strings.Contains(text, "group:") {
		return fmt.Sprintf("%s (%s)", text, plural(len(f.People), "person", "people"))
	}
	return text
}

// which says which of the destinations a finding is about, where it is not all
// that the test names.
func which(f reach.Finding, to []model.Ref) string {
	if got := join(f.To); got != texts(to) {
		return " reach " + got
	}
	return ""
}

// conditions says when, and of which sources, a finding is true.
func conditions(f reach.Finding) string {
	text := ""
	if len(f.When) > 0 {
		text += ", " + strings.Join(f.When, " and ")
	}
	if len(f.Posture) > 0 {
		text += ", where " + strings.Join(f.Posture, ", or ")
	}
	return text
}

// example is one flow in words.
func example(p reach.Pair, reaches string) string {
	from, to := end(p.From), end(p.To)
	if from == "" || to == "" {
		return ""
	}
	return fmt.Sprintf("%s %s %s on %s", from, reaches, to, p.Target)
}

// end names a node and, where it is a person's, the person.
func end(n reach.Node) string {
	if n.Name != "" && n.User != "" && !n.Stranger {
		return n.User + " on " + n.Name
	}
	return n.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func join(words []string) string { return strings.Join(words, ", ") }
