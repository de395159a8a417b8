package output

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// GitLab writes a code quality report, which GitLab shows in a merge request's
// widget and beside its lines. Each entry needs a file and a line: what is about
// neither stands at the first line of the policy's directory.
//
// A fingerprint tells one finding from another and is the same in the reports of
// two commits, or else GitLab calls it new: it is made of the sort, the file and
// the words, and of how many of the kind there were before.
func GitLab(w io.Writer, r *Report) error {
	type lines struct {
		Begin int `json:"begin"`
	}
	type location struct {
		Path  string `json:"path"`
		Lines lines  `json:"lines"`
	}
	type entry struct {
		Description string   `json:"description"`
		CheckName   string   `json:"check_name"`
		Fingerprint string   `json:"fingerprint"`
		Severity    string   `json:"severity"`
		Location    location `json:"location"`
	}
	severity := map[level]string{errorLevel: "critical", warningLevel: "minor", noteLevel: "info"}
	out, seen := []entry{}, map[string]int{}
	for _, i := range r.items() {
		text, file, line := i.full(), r.Head.File(i.place.File), max(1, i.place.Line)
		if i.base {
			text += fmt.Sprintf(" (was %s)", placeText(i.place))
			line = 1
		}
		if file == "" {
			file = r.Head.File(anyFile)
		}
		key := i.id + "\x00" + file + "\x00" + text
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, seen[key]))
		seen[key]++
		out = append(out, entry{visible(text), visible(i.id), hex.EncodeToString(sum[:16]), severity[i.level], location{visible(file), lines{line}}})
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("write code quality report: %w", err)
	}
	return write(w, "code quality report", string(b)+"\n")
}
