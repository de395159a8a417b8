package model

import (
	"slices"
	"strconv"
	"strings"
)

// Nearest is the known name that a name was probably meant to be, empty where none
// is near.
func Nearest(name string, known []string) string { return nearest(name, slices.Clone(known)) }

// didYouMean is the end of a message about a name that is not known.
func didYouMean(near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + quoteName(near) + "?"
}

// nearest is the candidate that name was probably meant to be, empty when none
// is near. Of equally near ones it is the first by name.
func nearest(name string, candidates []string) string {
	// A quarter of the letters may be wrong, and one more: "from" for "form",
	// but not for "to".
	best, limit := "", 1+len(name)/4
	slices.Sort(candidates)
	for _, c := range candidates {
		if d := distance(name, c, limit); c != name && d < len(c) && d < len(name) && (d < limit || d == limit && best == "") {
			best, limit = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, drop, change or swap with their
// neighbour to come from a to b, without regard to case; any number above limit
// when it is more than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 100 {
		return limit + 1
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// quoteName quotes a name that somebody else wrote: characters that are
// invisible, or look like others, show as code points, and a long one is cut.
func quoteName(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
