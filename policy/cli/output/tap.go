package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// TAP writes the Test Anything Protocol, version 14: a line for each thing
// judged, and for one that fails a YAML block with its places. Scalars in the
// block are JSON strings, which YAML reads as such.
func TAP(w io.Writer, r *Report) error {
	verdicts := r.verdicts()
	var b strings.Builder
	fmt.Fprintf(&b, "TAP version 14\n1..%d\n", len(verdicts))
	for n, v := range verdicts {
		result := "ok"
		if len(v.failures) > 0 {
			result = "not ok"
		}
		fmt.Fprintf(&b, "%s %d - %s\n", result, n+1, tapText(v.suite+": "+v.name))
		if len(v.failures) > 0 {
			b.WriteString("  ---\n  failures:\n")
			for _, f := range v.failures {
				fmt.Fprintf(&b, "    - at: %s\n      id: %s\n      message: %s\n", quoted(placeOf(r, f)), quoted(f.id), quoted(f.full()))
			}
			b.WriteString("  ...\n")
		}
		for _, line := range v.output {
			b.WriteString("# " + visible(line) + "\n")
		}
	}
	return write(w, "TAP", b.String())
}

func placeOf(r *Report, i item) string {
	p := i.place
	p.File = r.Head.File(p.File)
	return placeText(p)
}

// tapText escapes a description: '#' begins a directive such as "# SKIP".
func tapText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "#", `\#`).Replace(visible(s))
}

// quoted is a JSON string, which is YAML, too.
func quoted(s string) string {
	b, err := json.Marshal(visible(s))
	if err != nil { // a string is always written
		return `""`
	}
	return string(b)
}
