package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/policy/reach"
)

// A sentence is one change of access in words.
type sentence struct {
	id     string // the sort of item
	mark   mark
	text   string // "bob@acme.example gains tcp/80 on tag:accounting"
	when   string // until when, and on which conditions; empty: always
	causes []string
}

// The two sides of a sentence: who, and what.
func who(c reach.Change) string {
	from := strings.Join(c.From, ", ")
	if n := len(c.People); n > 0 && hides(from) {
		from += fmt.Sprintf(" (%s)", plural(n, "person", "people"))
	}
	return from
}

// owners says whose nodes a change is about, where it is not everybody's.
func owners(c reach.Change) string {
	switch c.Owner {
	case "same":
		return "of the same user"
	case "other":
		return "of other users"
	}
	return ""
}

// doors are the ports of a change, and what it tells applications.
func doors(c reach.Change) []string {
	out := slices.Clone(c.Ports)
	for _, text := range c.Capabilities {
		out = append(out, "capability "+text)
	}
	return out
}

func what(c reach.Change, counted bool) string {
	to := strings.Join(c.To, ", ")
	if whose := owners(c); whose != "" {
		to += " " + whose
	}
	if counted {
		to += fmt.Sprintf(" (%s)", plural(len(c.Nodes), "node", "nodes"))
	}
	return to
}

// hides reports whether words do not say how many people they are for.
func hides(from string) bool {
	return strings.Contains(from, "group:") || strings.HasPrefix(from, "*")
}

// tell puts a change into words.
func tell(c reach.Change, gained, counted bool) sentence {
	s := sentence{id: "access/gained", mark: gain}
	verb := "gain"
	if !gained {
		s.id, s.mark, verb = "access/lost", loss, "lose"
	}
	partly := ""
	switch {
	case conditional(c): // gained or lost as far as conditions differ
		partly, verb = ", and "+verb+"s some of it", "keep"
	case c.Kept:
		s.id, s.mark, verb = "access/kept", kept, "keep"
	}
	from := strings.Join(c.From, ", ")
	if len(c.From) == 1 && !strings.Contains(from, ":") && !strings.Contains(from, " ") {
		verb += "s"
	} else {
		partly = strings.Replace(partly, "s some", " some", 1)
	}
	s.text = fmt.Sprintf("%s %s %s on %s%s", who(c), verb, strings.Join(doors(c), ", "), what(c, counted), partly)
	s.when = when(c, gained)
	for _, cause := range c.Causes {
		place := cause.Place
		if cause.Base {
			place = "was " + place
		}
		if !slices.Contains(s.causes, place) {
			s.causes = append(s.causes, place)
		}
	}
	return s
}

// when says until when a change gives or gave access, and on which conditions.
func when(c reach.Change, gained bool) string {
	var out []string
	if c.Kept {
		out = moved(c)
		c.When, c.Posture = unlessMoved(c.When, c.BeforeWhen), unlessMoved(c.Posture, c.BeforePosture)
	}
	switch {
	case c.Kept, c.Until.IsZero():
	case !gained:
		out = append(out, "would have ended "+reach.Moment(c.Until))
	default:
		out = append(out, end(c.Until))
	}
	if len(c.When) > 0 {
		out = append(out, hours(c.When))
	}
	if len(c.Posture) > 0 {
		out = append(out, posture(c.Posture))
	}
	if c.By == "inventory" {
		out = append(out, "by the inventory alone")
	}
	return strings.Join(out, "; ")
}

// moved says what of kept access is another now than before: its end, its hours,
// and what the source must report.
func moved(c reach.Change) (out []string) {
	add := func(now, before string) { out = append(out, "now "+now+", before "+before) }
	if !slices.Equal(c.When, c.BeforeWhen) {
		add(hours(c.When), hours(c.BeforeWhen))
	}
	if !slices.Equal(c.Posture, c.BeforePosture) {
		add(posture(c.Posture), posture(c.BeforePosture))
	}
	switch {
	case !c.Until.Equal(c.Before):
		add(end(c.Until), end(c.Before))
	case !c.Until.IsZero():
		out = append(out, end(c.Until))
	}
	return out
}

// unlessMoved is a condition that stays what it was.
func unlessMoved(now, before []string) []string {
	if slices.Equal(now, before) {
		return now
	}
	return nil
}

func hours(when []string) string {
	if len(when) == 0 {
		return "at any time"
	}
	return strings.Join(when, " or ")
}

func posture(conditions []string) string {
	if len(conditions) == 0 {
		return "whatever is reported"
	}
	return "where " + strings.Join(conditions, " or ")
}

// conditional reports whether kept access has other hours or postures than before,
// so that there are times or nodes for which it is gained or lost, and not merely
// another end.
func conditional(c reach.Change) bool {
	return c.Kept && !(slices.Equal(c.When, c.BeforeWhen) && slices.Equal(c.Posture, c.BeforePosture))
}

// A division is a difference by what it means to those whom it is about.
type division struct {
	gained, lost []reach.Change
	wider        []reach.Change // kept, and gained under some conditions
	narrower     []reach.Change // kept, and lost under some conditions
	ends         []reach.Change // kept, with another end
}

func divide(d *reach.Difference) (out division) {
	for _, side := range []struct {
		changes       []reach.Change
		whole, partly *[]reach.Change
	}{{d.Gained, &out.gained, &out.wider}, {d.Lost, &out.lost, &out.narrower}} {
		for _, c := range side.changes {
			switch {
			case conditional(c):
				*side.partly = append(*side.partly, c)
			case c.Kept:
				out.ends = append(out.ends, c)
			default:
				*side.whole = append(*side.whole, c)
			}
		}
	}
	return out
}

// other is kept access under other conditions, each change once: what is wider and
// narrower at the same time is told on both sides of a difference.
func (v division) other() []reach.Change {
	out := slices.Clone(v.wider)
	for _, c := range v.narrower {
		if !slices.ContainsFunc(v.wider, func(w reach.Change) bool {
			return tell(w, true, true).text == tell(c, true, true).text && when(w, true) == when(c, true)
		}) {
			out = append(out, c)
		}
	}
	return out
}

// people are the users that changes are about, and nodes those of the inventory
// that are reached, each once.
func people(changes []reach.Change) int {
	return count(changes, func(c reach.Change) []string { return c.People })
}

func nodes(changes []reach.Change) int {
	return count(changes, func(c reach.Change) []string { return c.Nodes })
}

func count(changes []reach.Change, of func(reach.Change) []string) int {
	seen := map[string]bool{}
	for _, c := range changes {
		for _, name := range of(c) {
			seen[name] = true
		}
	}
	return len(seen)
}

const noTests = "0 tests: a policy without tests does not pass"

const noDifference = "no effective access change"

// cutAny takes away the first of the prefixes that a text has.
func cutAny(s string, prefixes ...string) (rest string, found bool) {
	for _, p := range prefixes {
		if rest, found = strings.CutPrefix(s, p); found {
			return rest, true
		}
	}
	return s, false
}

// admissionEffect says in a few words what entries about admission and trust come
// to. What lets nodes in or out is told apart from whom they trust.
func admissionEffect(list []reach.Admission) (out []string) {
	var in, gone bool
	admins := map[string]int{}
	trust := map[string]bool{}
	for _, a := range list {
		switch {
		case a.Kind == "admins":
			admins[a.Change]++
		case a.Effect == reach.LetsIn:
			in = true
		case a.Effect == reach.PutsOut:
			gone = true
		default:
			trust[a.Kind] = true
		}
	}
	switch {
	case in && gone:
		out = append(out, "nodes are let in and put out")
	case in:
		out = append(out, "nodes are let in")
	case gone:
		out = append(out, "nodes are put out")
	}
	for _, c := range []struct{ change, one, more string }{
		{reach.Added, "an administrator is added", "administrators are added"},
		{reach.Removed, "an administrator is removed", "administrators are removed"},
	} {
		switch n := admins[c.change]; {
		case n == 1:
			out = append(out, c.one)
		case n > 1:
			out = append(out, fmt.Sprintf("%d %s", n, c.more))
		}
	}
	if len(trust) == 1 {
		for kind := range trust {
			if text, ok := trustWords[kind]; ok {
				return append(out, text)
			}
		}
	}
	if len(trust) > 0 {
		out = append(out, "whom the network trusts changes")
	}
	return out
}

// trustWords are what changes where all that changes is of one kind.
var trustWords = map[string]string{
	"route": "who may forward traffic changes",
	"exit":  "who may forward to the internet changes",
	"team":  "what teams may write changes",
	"guard": "guards change",
	"test":  "tests say less",
}
