package output

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/policy/rego"
)

// TestJSONIsAsDocumented: each object has the fields that the package comment
// names, in its order, and no others.
func TestJSONIsAsDocumented(t *testing.T) {
	source, err := os.ReadFile("output.go")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(source), "\n//\t       ", " ")
	documented := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t(check|test|diff|lint|all) +\{([^}]*)\}`).FindAllStringSubmatch(text, -1) {
		documented[m[1]] = regexp.MustCompile(`[, ]+`).Split(m[2], -1)
	}
	whole := said("text")
	whole.Test.GuardCoverage = guardLines()
	checked := Check{Network: "acme"}
	for verb, r := range map[string]*Report{
		"check": {Check: &checked}, "test": {Test: whole.Test}, "diff": {Difference: whole.Difference},
		"lint": {Lint: &Lint{Findings: []LintFinding{}}}, "all": {Unknown: "why"},
	} {
		var b bytes.Buffer
		if err := Write(&b, "json", r); err != nil {
			t.Fatal(err)
		}
		var got []string
		d := json.NewDecoder(&b)
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			got = append(got, key.(string))
			if key == "version" && string(value) != "1" {
				t.Errorf("%s: version: got %s, want 1", verb, value)
			}
		}
		if got[0] != "version" {
			t.Errorf("%s: begins with %q, want version", verb, got[0])
		}
		want := slices.Sorted(slices.Values(documented[verb]))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got fields %q, want as documented %q", verb, got, want)
		}
	}
}

func guardLines() *rego.Coverage {
	return &rego.Coverage{Files: []rego.FileCoverage{{File: "guard/star.rego", Lines: 4, Covered: 3, Uncovered: []int{7}}}, Lines: 4, Covered: 3}
}
