package model

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// listed is a group of n users, in each notation that a list may have.
func listed(n int) map[string]fstest.MapFS {
	var cue, yaml strings.Builder
	cue.WriteString("package network\n\ngroups: all: [\n")
	yaml.WriteString("groups:\n  all:\n")
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("user%05d@acme.example", i)
		cue.WriteString("\t\"" + users[i] + "\",\n")
		yaml.WriteString("  - " + users[i] + "\n")
	}
	cue.WriteString("]\n")
	text, err := json.Marshal(map[string]any{"groups": map[string]any{"all": users}})
	if err != nil {
		panic(err) // texts
	}
	return map[string]fstest.MapFS{
		"CUE":               files(map[string]string{"a.cue": smallest, "b.cue": cue.String()}),
		"CUE beside others": files(map[string]string{"a.cue": smallest + "_x: \"a@x.example\"\ngroups: one: [_x]\n", "b.cue": cue.String()}),
		"JSON":              files(map[string]string{"a.cue": smallest, "data/b.json": string(text)}),
		"YAML":              files(map[string]string{"a.cue": smallest, "data/b.yaml": yaml.String()}),
	}
}

// TestLists holds that a list is the same in every notation.
func TestLists(t *testing.T) {
	const n = 10_000
	var first []string
	for _, notation := range []string{"CUE", "CUE beside others", "JSON", "YAML"} {
		p, err := Load(listed(n)[notation])
		if err != nil {
			t.Fatalf("%s: %v", notation, err)
		}
		var got []string
		for _, m := range p.Groups[0].Members {
			got = append(got, m.Selector.String())
		}
		if first == nil {
			first = got
		}
		if d := cmp.Diff(first, got); len(got) != n || d != "" {
			t.Errorf("%s: %d members, first -, here +:\n%s", notation, len(got), d)
		}
	}
}

// BenchmarkList loads one group of 10,000 users.
func BenchmarkList(b *testing.B) {
	for _, notation := range []string{"CUE", "CUE beside others", "JSON", "YAML"} {
		fsys := listed(10_000)[notation]
		b.Run(notation, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Load(fsys); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
