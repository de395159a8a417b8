package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// didYouMean is the name that fewest changed letters make of the word, as a
// question, or nothing where most letters would change.
func didYouMean(word string, names []string) string {
	best, least := "", (len(word)+1)/2+1
	for _, n := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is how many bytes to insert, delete or change (Levenshtein). Of long
// words it is their lengths' sum: nobody meant another.
func distance(a, b string) int {
	const most = 256
	if len(a) > most || len(b) > most {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// keys are the sorted keys of a map.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
