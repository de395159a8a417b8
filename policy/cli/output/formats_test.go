package output

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/tester"
)

// hostile are texts as the author of a pull request might write them, to say in
// a report what the report does not say. EVIL must never stand outside of what is
// shown as text.
var hostile = []string{
	"EVIL",
	"a\n::error file=x::EVIL",
	"a\r\n##[error]EVIL",
	"::stop-commands::EVIL",
	"%0A::error::EVIL,line=1:",
	"a` | EVIL | `b",
	`a\| EVIL \`,
	"<script>EVIL()</script>",
	"<!-- EVIL -->",
	"-->EVIL<!--",
	"![EVIL](https://evil.example/x.png)",
	"@EVIL/team closes #1 EVIL",
	"```\nEVIL",
	"\"]\n  click a0 \"javascript:EVIL\"",
	"`EVIL **bold**`",
	"#quot;EVIL; %% EVIL",
	"]]></failure><failure message='EVIL'/>",
	"&quot;&lt;EVIL",
	"ok 1 - EVIL # SKIP",
	"\u202eLIVE EVIL",
	"\x1b[2JEVIL",
	"not \xff UTF-8 EVIL",
	"{0} [EVIL](1) {{EVIL}}",
	" EVIL ",
	"https://evil.example/EVIL www.EVIL.example",
	strings.Repeat("EVIL ", 300),
}

// said is a report in which a text stands wherever somebody's text may.
func said(text string) *Report {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	place := model.Place{File: text, Line: 3, Col: 7}
	change := reach.Change{
		From: []string{text, text + "2"}, To: []string{text}, Ports: []string{text}, Until: at, Rules: []string{text},
		People: []string{text}, Nodes: []string{text}, Causes: []reach.Cause{{Place: text + ":3", What: text, Author: text, Commit: text}, {Place: text, What: text, Base: true}},
	}
	return &Report{
		Verb: "test",
		Test: &Test{
			Tests: &tester.Result{
				Tests: []tester.Test{
					{Name: text, Place: place, Assertions: 1, Failures: []tester.Failure{{Place: place, Kind: "deny", Text: text, Rules: []model.Place{place}}}},
					{Name: text + "2", Place: place, Assertions: 1},
				},
				Assertions: 2, Failed: 1, Assumptions: []string{text},
				Coverage: &tester.Coverage{Rules: 2, RulesWitnessed: 1, Cells: 9, CellsWitnessed: 3, Unwitnessed: []tester.Rule{{Name: text, Place: place}}},
			},
			Guards:    []build.Finding{{Finding: rego.Finding{Guard: text, Message: text, Place: place}, Deny: true}, {Finding: rego.Finding{Guard: text, Message: text, Rule: place}, Base: true}},
			Approvals: []build.Approval{{Approval: rego.Approval{Guard: text, Team: text, Reason: text, Place: place}}},
			Warnings:  model.Problems{{Place: place, Message: text, Also: []model.Place{place}, Hint: text}},

			GuardTests: []rego.Test{{Name: text, Place: place, Failure: text, Output: []string{text}}, {Name: text, Passed: true}},
			Covered:    Covered{Threshold: 80},
		},
		Difference: &reach.Difference{
			At: at, Inventory: true, Gained: []reach.Change{change}, Lost: []reach.Change{change},
			Admission: []reach.Admission{{Kind: "guard", Name: text, Change: reach.Added, Text: text, Cause: reach.Cause{Place: text}}},
		},
		Base: Origin{Label: text, Link: "https://forge.example/blob/abc"}, Head: Origin{Label: text, Prefix: "net", Link: "https://forge.example/blob/def"},
		Details: "https://forge.example/run/1",
	}
}

// others are reports of the other verbs with the text in them.
func others(text string) []*Report {
	r := said(text)
	ps := model.Problems{{Place: model.Place{File: text, Line: 1}, Message: text, Hint: text}}
	return []*Report{
		r,
		{Verb: "diff", Difference: r.Difference, Base: r.Base, Head: r.Head},
		{Verb: "check", Check: &Check{Problems: ps, Warnings: ps}, Head: r.Head},
		{Verb: "check", Check: &Check{Network: text, Warnings: ps}, Head: r.Head},
		{Verb: "test", Unknown: text, Head: r.Head},
		{Verb: "test", Unknown: text, Problems: ps, Head: r.Head},
		{Verb: "lint", Lint: &Lint{Findings: []LintFinding{{ID: text, Level: "warning", Place: ps[0].Place, Text: text, Hint: text}}}, Head: r.Head},
	}
}

var controls = regexp.MustCompile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

func eachHostile(t *testing.T, format string, check func(t *testing.T, r *Report, text, out string)) {
	for i, text := range hostile {
		for j, r := range others(text) {
			t.Run(fmt.Sprintf("%d/%d", i, j), func(t *testing.T) {
				var b bytes.Buffer
				if err := Write(&b, format, r); err != nil {
					t.Fatal(err)
				}
				if !utf8.Valid(b.Bytes()) {
					t.Error("got text that is not UTF-8")
				}
				if controls.Match(b.Bytes()) {
					t.Errorf("got control or formatting characters in %q", shortened(b.String()))
				}
				check(t, r, text, b.String())
			})
		}
	}
}

func shortened(s string) string { return s[:min(len(s), 2000)] }

func TestTextShowsControlCharacters(t *testing.T) {
	eachHostile(t, "text", func(t *testing.T, _ *Report, _, out string) {
		if out == "" || !strings.HasSuffix(out, "\n") {
			t.Errorf("got %q, want lines", shortened(out))
		}
	})
}

// TestGitHubIsReadByARunner reads the commands as a runner does: a line that
// begins with "::", properties up to the next "::", data; %0A, %0D, %25, and in
// properties %3A and %2C are what they stand for.
func TestGitHubIsReadByARunner(t *testing.T) {
	command := regexp.MustCompile(`^::(error|warning|notice) ([^:]*)::(.*)$`)
	data := strings.NewReplacer("%0A", "\n", "%0D", "\r", "%25", "%")
	property := strings.NewReplacer("%0A", "\n", "%0D", "\r", "%3A", ":", "%2C", ",", "%25", "%")
	eachHostile(t, "github", func(t *testing.T, r *Report, text, out string) {
		want := r.items()
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if out == "" {
			lines = nil
		}
		if len(lines) != len(want) {
			t.Fatalf("got %d commands, want %d:\n%s", len(lines), len(want), shortened(out))
		}
		for i, line := range lines {
			m := command.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("line %d: got %q, want a command", i, shortened(line))
			}
			props := map[string]string{}
			for _, p := range strings.Split(m[2], ",") {
				k, v, _ := strings.Cut(p, "=")
				props[k] = property.Replace(v)
			}
			full := want[i].full()
			if want[i].base {
				full += " (was " + placeText(want[i].place) + ")"
			} else if file := props["file"]; file != visible(r.Head.File(want[i].place.File)) {
				t.Errorf("file: got %q, want %q", shortened(file), shortened(visible(r.Head.File(want[i].place.File))))
			}
			if got := data.Replace(m[3]); got != visible(full) {
				t.Errorf("data: got %q, want %q", shortened(got), shortened(visible(full)))
			}
			if got := props["title"]; got != visible(want[i].id) {
				t.Errorf("title: got %q, want %q", shortened(got), shortened(want[i].id))
			}
		}
	})
}

// TestGitHubShowsTheWeightiest: no more of each level than GitHub shows, and the
// last says how many are left out.
func TestGitHubShowsTheWeightiest(t *testing.T) {
	r := &Report{Verb: "check", Check: &Check{}, Details: "https://forge.example/run/1"}
	for i := range 25 {
		r.Check.Warnings = append(r.Check.Warnings, model.Problem{Place: model.Place{File: "a.cue", Line: i + 1}, Message: "w"})
		if i < 10 {
			r.Check.Problems = append(r.Check.Problems, model.Problem{Place: model.Place{File: "a.cue", Line: i + 1}, Message: "p"})
		}
	}
	var b bytes.Buffer
	if err := GitHub(&b, r); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 20 {
		t.Fatalf("got %d lines, want 20", len(lines))
	}
	for i, line := range lines {
		want := "::error file=a.cue,"
		switch {
		case i == 19:
			want = "::warning title=policy check::and 16 more, which GitHub does not show here; all are at https://forge.example/run/1"
		case i >= 10:
			want = "::warning file=a.cue,"
		}
		if !strings.HasPrefix(line, want) {
			t.Errorf("line %d: got %q, want %q", i, line, want)
		}
	}
}

func TestGitLabIsAList(t *testing.T) {
	seen := map[string]bool{}
	eachHostile(t, "gitlab", func(t *testing.T, r *Report, text, out string) {
		var got []struct {
			Description string `json:"description"`
			CheckName   string `json:"check_name"`
			Fingerprint string `json:"fingerprint"`
			Severity    string `json:"severity"`
			Location    struct {
				Path  string `json:"path"`
				Lines struct {
					Begin int `json:"begin"`
				} `json:"lines"`
			} `json:"location"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(r.items()) {
			t.Errorf("got %d entries, want %d", len(got), len(r.items()))
		}
		clear(seen)
		for _, e := range got {
			if e.Description == "" || e.CheckName == "" || e.Location.Path == "" || e.Location.Lines.Begin < 1 {
				t.Errorf("got an entry that lacks something: %+v", e)
			}
			if seen[e.Fingerprint] {
				t.Errorf("fingerprint %s is there twice", e.Fingerprint)
			}
			seen[e.Fingerprint] = true
			switch e.Severity {
			case "info", "minor", "major", "critical", "blocker":
			default:
				t.Errorf("severity: got %q", e.Severity)
			}
		}
	})
}

// TestJUnitIsXML: the document has the elements that the report has, and no
// others.
func TestJUnitIsXML(t *testing.T) {
	eachHostile(t, "junit", func(t *testing.T, r *Report, text, out string) {
		names, failures := []string{}, 0
		d := xml.NewDecoder(strings.NewReader(out))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			e, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			switch e.Name.Local {
			case "testsuites", "testsuite", "system-out":
			case "testcase":
				names = append(names, e.Attr[0].Value)
			case "failure":
				failures++
			default:
				t.Errorf("got element %q", e.Name.Local)
			}
		}
		want, bad := r.verdicts(), 0
		for i, v := range want {
			bad += len(v.failures)
			if i >= len(names) || names[i] != visible(v.name) {
				t.Fatalf("case %d: got %q, want %q", i, names, shortened(v.name))
			}
		}
		if len(names) != len(want) || failures != bad {
			t.Errorf("got %d cases and %d failures, want %d and %d", len(names), failures, len(want), bad)
		}
	})
}

// TestTAPIsRead reads a stream as consumers do: a version, a plan, a line for
// each test in order, blocks between "---" and "...", comments.
func TestTAPIsRead(t *testing.T) {
	line := regexp.MustCompile(`^(ok|not ok) ([0-9]+) - (.*)$`)
	directive := regexp.MustCompile(`(^|[^\\])#`)
	eachHostile(t, "tap", func(t *testing.T, r *Report, text, out string) {
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		want := r.verdicts()
		if lines[0] != "TAP version 14" || lines[1] != "1.."+strconv.Itoa(len(want)) {
			t.Fatalf("got %q, want a version and a plan of %d", lines[:2], len(want))
		}
		n, block := 0, false
		for _, l := range lines[2:] {
			switch m := line.FindStringSubmatch(l); {
			case block:
				block = l != "  ..."
				if text, ok := strings.CutPrefix(strings.TrimSpace(l), "message: "); ok {
					var s string
					if err := json.Unmarshal([]byte(text), &s); err != nil {
						t.Errorf("scalar %s: %v", text, err)
					}
				}
			case l == "  ---":
				block = true
			case strings.HasPrefix(l, "#"):
			case m == nil:
				t.Fatalf("got line %q", shortened(l))
			default:
				n++
				if m[2] != strconv.Itoa(n) || (m[1] == "ok") != (len(want[n-1].failures) == 0) {
					t.Errorf("got %q, want test %d", shortened(l), n)
				}
				if directive.MatchString(strings.ReplaceAll(m[3], `\\`, "")) {
					t.Errorf("got a directive in %q", shortened(m[3]))
				}
			}
		}
		if n != len(want) || block {
			t.Errorf("got %d tests (block open: %t), want %d", n, block, len(want))
		}
	})
}

// TestSARIFHasWhatIsRequired checks what the specification requires of a log, and
// GitHub of each result.
func TestSARIFHasWhatIsRequired(t *testing.T) {
	eachHostile(t, "sarif", func(t *testing.T, r *Report, text, out string) {
		var log struct {
			Version string `json:"version"`
			Runs    []struct {
				Tool struct {
					Driver struct {
						Name  string
						Rules []struct{ ID string }
					}
				}
				Results []struct {
					RuleID    string
					RuleIndex int
					Level     string
					Message   struct{ Text string }
					Locations []struct {
						PhysicalLocation struct {
							ArtifactLocation struct{ URI, URIBaseID string }
							Region           *struct{ StartLine int }
						}
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &log); err != nil {
			t.Fatal(err)
		}
		if log.Version != "2.1.0" || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name == "" {
			t.Fatalf("got %q", shortened(out))
		}
		run := log.Runs[0]
		items := r.items()
		if len(run.Results) != len(items) {
			t.Fatalf("got %d results, want %d", len(run.Results), len(items))
		}
		ids := map[string]bool{}
		for _, rule := range run.Tool.Driver.Rules {
			if ids[rule.ID] {
				t.Errorf("rule %q is there twice", rule.ID)
			}
			ids[rule.ID] = true
		}
		uri := regexp.MustCompile(`^[A-Za-z0-9._~!$&'()*+,;=@%/-]+$`)
		for i, res := range run.Results {
			if run.Tool.Driver.Rules[res.RuleIndex].ID != res.RuleID {
				t.Errorf("result %d: rule %q, but its index means %q", i, res.RuleID, run.Tool.Driver.Rules[res.RuleIndex].ID)
			}
			if regexp.MustCompile(`(^|[^\\])\[`).MatchString(strings.ReplaceAll(res.Message.Text, `\\`, "")) {
				t.Errorf("result %d: message may hold a link: %q", i, shortened(res.Message.Text))
			}
			if len(res.Locations) != 1 {
				t.Fatalf("result %d: got %d locations, want 1", i, len(res.Locations))
			}
			p := res.Locations[0].PhysicalLocation
			if p.ArtifactLocation.URIBaseID != "%SRCROOT%" || !uri.MatchString(p.ArtifactLocation.URI) {
				t.Errorf("result %d: location %+v", i, p.ArtifactLocation)
			}
			if p.Region != nil && p.Region.StartLine < 1 {
				t.Errorf("result %d: region %+v", i, p.Region)
			}
		}
	})
}

// TestSARIFKeepsToItsLimit: GitHub refuses larger runs whole.
func TestSARIFKeepsToItsLimit(t *testing.T) {
	r := &Report{Verb: "check", Check: &Check{Problems: make(model.Problems, maxResults+7)}}
	var b bytes.Buffer
	if err := SARIF(&b, r); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.String(), `"ruleId"`); got != maxResults {
		t.Errorf("got %d results, want %d", got, maxResults)
	}
	if !strings.Contains(b.String(), "7 more results are left out") {
		t.Error("does not say how many are left out")
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$")
	element = regexp.MustCompile("<code>([^<>`|\\\\]*)</code>")
	span    = regexp.MustCompile("`([^`\n|\\\\]+)`")
)

// shownAs takes code out of Markdown, as a reader of the specification would:
// code spans, which end at the next run of as many backticks, fenced blocks, and
// <code> elements, which hold only references. What is left is what may act.
func shownAs(t *testing.T, out string) (left string, code []string) {
	for _, m := range fence.FindAllStringSubmatch(out, -1) {
		code = append(code, m[1])
	}
	left = fence.ReplaceAllString(out, "")
	for _, m := range element.FindAllStringSubmatch(left, -1) {
		code = append(code, html.UnescapeString(m[1]))
	}
	left = element.ReplaceAllString(left, "§")
	for _, m := range span.FindAllStringSubmatch(left, -1) {
		code = append(code, m[1])
	}
	left = span.ReplaceAllString(left, "§")
	if strings.Contains(left, "`") || strings.Contains(left, "<code") {
		t.Errorf("code that does not end in %q", shortened(left))
	}
	return left, code
}

func TestMarkdownShowsTextAsText(t *testing.T) {
	address := regexp.MustCompile(`\]\(https://forge\.example/(blob/[a-z]+/)?[^()\s]*\)`)
	eachHostile(t, "markdown", func(t *testing.T, r *Report, text, out string) {
		if n := utf8.RuneCountInString(out); n > maxMarkdown {
			t.Errorf("got %d characters, want at most %d", n, maxMarkdown)
		}
		if !strings.HasPrefix(out, Marker+"\n") || strings.Count(out, "<!--") != strings.Count(stripped(out), "<!--")+1 && strings.Contains(stripped(out), "<!--") {
			t.Errorf("got %q, want it to begin with the marker", out[:60])
		}
		left, code := shownAs(t, out)
		left = address.ReplaceAllString(left, "](…)")
		if strings.Contains(left, "EVIL") || strings.Contains(left, "@") {
			t.Errorf("got somebody's text outside of code:\n%s", shortened(left))
		}
		if len(code) == 0 {
			t.Error("got no code at all")
		}
		// Every row of a table has as many cells as its head.
		columns := 0
		for line := range strings.Lines(left) {
			if !strings.HasPrefix(line, "|") {
				columns = 0
				continue
			}
			if n := strings.Count(line, "|"); columns == 0 {
				columns = n
			} else if n != columns {
				t.Errorf("got a row of %d marks, want %d: %s", n, columns, line)
			}
		}
	})
}

func stripped(s string) string { return strings.TrimPrefix(s, Marker) }

// TestCodeShowsEveryCharacter: what is shown is what was written.
func TestCodeShowsEveryCharacter(t *testing.T) {
	for _, text := range hostile {
		if visible(text) == "" {
			continue
		}
		_, got := shownAs(t, code(text))
		if len(got) != 1 || got[0] != visible(text) {
			t.Errorf("code(%q): got %q", shortened(text), got)
		}
	}
}

// TestMarkdownFitsAComment: the largest reports fit, and say what they leave out.
func TestMarkdownFitsAComment(t *testing.T) {
	long := strings.Repeat("x", 2000)
	r := said(long)
	c := r.Difference.Gained[0]
	c.From = nil
	for j := range 30 {
		c.From = append(c.From, fmt.Sprintf("%d-%s", j, long))
		c.Causes = append(c.Causes, c.Causes[0])
	}
	for i := range 500 {
		c.To = []string{fmt.Sprint(i), long}
		r.Difference.Gained = append(r.Difference.Gained, c)
		r.Difference.Lost = append(r.Difference.Lost, c)
		r.Difference.Admission = append(r.Difference.Admission, r.Difference.Admission[0])
		r.Test.Guards = append(r.Test.Guards, r.Test.Guards[0])
		r.Test.Approvals = append(r.Test.Approvals, build.Approval{Approval: rego.Approval{Guard: "g", Team: fmt.Sprint(i, long)}})
		r.Test.Warnings = append(r.Test.Warnings, r.Test.Warnings[0])
		r.Test.Tests.Tests = append(r.Test.Tests.Tests, r.Test.Tests.Tests[0])
	}
	for _, passed := range []bool{false, true} {
		r.Test.Passed = passed
		var b bytes.Buffer
		if err := Markdown(&b, r); err != nil {
			t.Fatal(err)
		}
		if n := utf8.RuneCount(b.Bytes()); n > maxMarkdown {
			t.Errorf("got %d characters, want at most %d", n, maxMarkdown)
		}
		if !strings.Contains(b.String(), "more, all in [the whole report](https://forge.example/run/1)") {
			t.Error("does not say where the rest is")
		}
	}
}

// TestMermaidLabels: a label between quotes holds neither quotes nor marks, and
// reads as what was written.
func TestMermaidLabels(t *testing.T) {
	node := regexp.MustCompile(`^  [ab][0-9]+\["([^"]*)"\]$`)
	edge := regexp.MustCompile(`^  a[0-9]+ (==>|-\.->|-->)\|"([^"]*)"\| b[0-9]+$`)
	style := regexp.MustCompile(`^  linkStyle [0-9,]+ stroke:#[0-9a-f]{6}$`)
	reference := regexp.MustCompile(`#([0-9]+);`)
	for _, text := range hostile {
		out, _ := Mermaid(said(text).Difference)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if lines[0] != "flowchart LR" {
			t.Fatalf("got %q", lines[0])
		}
		for i, line := range lines[1:] {
			label := ""
			if m := node.FindStringSubmatch(line); m != nil {
				label = m[1]
			} else if m := edge.FindStringSubmatch(line); m != nil {
				label = m[2]
			} else if !style.MatchString(line) {
				t.Errorf("line %d: got %q", i+1, shortened(line))
			}
			plain := reference.ReplaceAllString(label, "")
			if strings.ContainsAny(plain, "#;<>`%&[]{}|\\()*_\"'") {
				t.Errorf("line %d: marks in the label %q", i+1, shortened(label))
			}
		}
	}
}
