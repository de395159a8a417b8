package model

import (
	"bytes"
	"regexp"
)

// unmergedStart is how Git begins what it could not merge.
var unmergedStart = regexp.MustCompile(`^<{7}( |\r?$)`)

// unmerged are the conflicts that a merge left in files. It is asked about files
// with problems only: what the markers look like to CUE is no help, but in a text
// of several lines they are text.
func unmerged(sources []source) (ps Problems) {
	for _, src := range sources {
		line := 0
		for text := range bytes.Lines(src.text) {
			line++
			if unmergedStart.Match(bytes.TrimSuffix(text, []byte("\n"))) {
				ps = append(ps, Problem{Place: Place{src.name, line, 1}, Message: "a merge conflict that is not resolved",
					Hint: "keep what is to stand between <<<<<<< and >>>>>>>, and remove these lines and ======="})
			}
		}
	}
	return ps
}
