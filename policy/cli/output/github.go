package output

import (
	"fmt"
	"io"
	"strings"
)

// GitHub shows at most ten annotations of each level for a step, and says
// nothing of the others.
const maxAnnotations = 10

// GitHub writes workflow commands, one line each, that GitHub shows beside the
// lines of a pull request:
//
//	::error file=rules.cue,line=3,col=1,title=test/deny::what is wrong
//
// The weightiest come first. Where there are more of a level than GitHub shows,
// the last one says how many. A place that only the base had is named in the
// text.
func GitHub(w io.Writer, r *Report) error {
	names := map[level]string{errorLevel: "error", warningLevel: "warning", noteLevel: "notice"}
	items := r.items()
	total, written := map[level]int{}, map[level]int{}
	for _, i := range items {
		total[i.level]++
	}
	var b strings.Builder
	for _, i := range items {
		if written[i.level]++; written[i.level] > maxAnnotations {
			continue
		}
		if more := total[i.level] - maxAnnotations + 1; written[i.level] == maxAnnotations && more > 1 {
			text := fmt.Sprintf("and %d more, which GitHub does not show here", more)
			if r.Details != "" {
				text += "; all are at " + r.Details
			}
			fmt.Fprintf(&b, "::%s title=%s::%s\n", names[i.level], commandProperty("policy "+r.Verb), commandData(text))
			continue
		}
		fmt.Fprintf(&b, "::%s ", names[i.level])
		text := i.full()
		switch {
		case i.place.File == "":
		case i.base:
			text += fmt.Sprintf(" (was %s)", placeText(i.place))
		default:
			fmt.Fprintf(&b, "file=%s,", commandProperty(r.Head.File(i.place.File)))
			if i.place.Line > 0 {
				fmt.Fprintf(&b, "line=%d,", i.place.Line)
			}
			if i.place.Col > 0 {
				fmt.Fprintf(&b, "col=%d,", i.place.Col)
			}
		}
		fmt.Fprintf(&b, "title=%s::%s\n", commandProperty(i.id), commandData(text))
	}
	return write(w, "annotations", b.String())
}

// commandData escapes what stands behind the second "::" of a workflow command,
// as the runner's own toolkit does. A line's end would begin another command.
func commandData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(visible(s))
}

// commandProperty escapes the value of a property, which ends with a comma or
// the "::".
func commandProperty(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(commandData(s))
}

// write writes a whole report at once.
func write(w io.Writer, what, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write %s: %w", what, err)
	}
	return nil
}
