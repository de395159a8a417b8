package output

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

// GitHub refuses a run with more results than this.
const maxResults = 25_000

type sarifText struct {
	Text string `json:"text"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifArtifact struct {
	URI       string `json:"uri"`
	URIBaseID string `json:"uriBaseId"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifLocation struct {
	ID       int           `json:"id,omitempty"`
	Physical sarifPhysical `json:"physicalLocation"`
}

type sarifRule struct {
	ID    string    `json:"id"`
	Short sarifText `json:"shortDescription"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
	Related   []sarifLocation `json:"relatedLocations,omitempty"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifNotification struct {
	Level   string    `json:"level"`
	Message sarifText `json:"message"`
}

type sarifInvocation struct {
	Successful    bool                `json:"executionSuccessful"`
	Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Invocations []sarifInvocation `json:"invocations"`
	Results     []sarifResult     `json:"results"`
}

// SARIF writes a log of version 2.1.0 with one run. Files are named relative to
// the repository's top, as GitHub wants them. Regions are lines: columns here
// count bytes, for which SARIF has no word. Messages are plain text, in which
// SARIF reads brackets as links: those of the policy are escaped.
//
// GitHub wants a place for each result. What was only in the base stands at its
// file as a whole, and what has no place at that of the network.
//
// Results beyond 25,000, of which the weightiest are kept, are left out, and a
// notification says how many.
func SARIF(w io.Writer, r *Report) error {
	var run sarifRun
	run.Tool.Driver = sarifDriver{Name: "policy", Version: r.Version, Rules: []sarifRule{}}
	run.Results = []sarifResult{}
	invocation := sarifInvocation{Successful: r.Unknown == ""}
	items := r.items()
	if left := len(items) - maxResults; left > 0 {
		items = items[:maxResults]
		invocation.Notifications = append(invocation.Notifications, sarifNotification{"warning", sarifText{fmt.Sprintf("%d more results are left out", left)}})
	}
	levels := map[level]string{errorLevel: "error", warningLevel: "warning", noteLevel: "note"}
	index := map[string]int{}
	for _, i := range items {
		at, ok := index[i.id]
		if !ok {
			at = len(index)
			index[i.id] = at
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{visible(i.id), sarifText{sarifMessage(means(i.id))}})
		}
		text := i.full()
		if i.base {
			text += fmt.Sprintf(" (was %s)", placeText(i.place))
		}
		result := sarifResult{RuleID: visible(i.id), RuleIndex: at, Level: levels[i.level], Message: sarifText{sarifMessage(text)}}
		switch {
		case i.place.File == "":
			result.Locations = sarifLocations(r, []model.Place{{File: anyFile}}, 0)
		case i.base:
			result.Locations = sarifLocations(r, []model.Place{{File: i.place.File}}, 0)
		default:
			result.Locations = sarifLocations(r, []model.Place{i.place}, 0)
			result.Related = sarifLocations(r, i.also, 1)
		}
		run.Results = append(run.Results, result)
	}
	run.Invocations = []sarifInvocation{invocation}
	log := struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}{"https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json", "2.1.0", []sarifRun{run}}
	b, err := json.MarshalIndent(log, "", "  ")
	if err != nil {
		return fmt.Errorf("write SARIF: %w", err)
	}
	return write(w, "SARIF", string(b)+"\n")
}

// sarifLocations are places with numbers from a first; zero: without numbers.
func sarifLocations(r *Report, places []model.Place, first int) (out []sarifLocation) {
	for _, p := range slices.Compact(slices.Clone(places)) {
		if p.File == "" {
			continue
		}
		l := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{pathURI(r.Head.File(p.File)), "%SRCROOT%"}}}
		if p.Line > 0 {
			l.Physical.Region = &sarifRegion{p.Line}
		}
		if first > 0 {
			l.ID = first + len(out)
		}
		out = append(out, l)
	}
	return out
}

// pathURI is a slash-separated path as a relative reference: what a URI does not
// hold is percent-encoded, and so is a colon, before which a scheme would be read.
func pathURI(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(p), ":", "%3A")
	}
	return strings.Join(parts, "/")
}

// sarifMessage escapes what SARIF reads in a plain message: [text](link), and
// {0} for arguments.
func sarifMessage(s string) string {
	return strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, "{", "{{", "}", "}}").Replace(visible(s))
}
