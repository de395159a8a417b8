package output

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// jsonVersion is the version of what the verbs write as JSON. Fields may be
// added without a new one; none changes its meaning or goes.
const jsonVersion = 1

// JSON writes a report as one indented object.
func JSON(w io.Writer, report any) error {
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// The objects that the verbs write. Each begins with its version.
type (
	checkJSON struct {
		Version int `json:"version"`
		*Check
	}
	testJSON struct {
		Version int `json:"version"`
		*Test
		Difference *reach.Difference `json:"difference,omitempty"` // to the base, where there is one
	}
	differenceJSON struct {
		Version int `json:"version"`
		*reach.Difference
	}
	lintJSON struct {
		Version int `json:"version"`
		*Lint
	}
	unknownJSON struct {
		Version  int            `json:"version"`
		Unknown  string         `json:"unknown"`  // why it could not be told
		Problems model.Problems `json:"problems"` // of the tree that is at fault
	}
)

// json is what a report is as an object.
func (r *Report) json() any {
	switch {
	case r.Unknown != "":
		return unknownJSON{jsonVersion, r.Unknown, full(r.Problems)}
	case r.Check != nil:
		return checkJSON{jsonVersion, r.Check}
	case r.Test != nil:
		return testJSON{jsonVersion, r.Test, r.Difference}
	case r.Lint != nil:
		return lintJSON{jsonVersion, r.Lint}
	}
	return differenceJSON{jsonVersion, r.Difference}
}
