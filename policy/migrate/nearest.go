package migrate

import (
	"fmt"
	"maps"
	"slices"

	"github.com/writmesh/writ/cue/model"
)

// didYouMean asks whether the word was meant to be the nearest of the names; it is
// empty where none is near.
func didYouMean(word string, names []string) string {
	if near := model.Nearest(word, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// keys are the sorted keys of a map.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
