package output

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

type junitFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

type junitCase struct {
	Name     string         `xml:"name,attr"`
	Class    string         `xml:"classname,attr"`
	File     string         `xml:"file,attr,omitempty"`
	Line     int            `xml:"line,attr,omitempty"`
	Failures []junitFailure `xml:"failure"`
	Output   string         `xml:"system-out,omitempty"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitSuites struct {
	XMLName  xml.Name      `xml:"testsuites"`
	Name     string        `xml:"name,attr"`
	Tests    int           `xml:"tests,attr"`
	Failures int           `xml:"failures,attr"`
	Suites   []*junitSuite `xml:"testsuite"`
}

// JUnit writes XML as test runners of Java do and most CI reads it: a suite for
// tests, guards, and so on, and a case for each thing judged. A case counts as
// failed once, however many failures it holds.
func JUnit(w io.Writer, r *Report) error {
	out := junitSuites{Name: "policy " + r.Verb}
	bySuite := map[string]*junitSuite{}
	for _, v := range r.verdicts() {
		s := bySuite[v.suite]
		if s == nil {
			s = &junitSuite{Name: v.suite}
			bySuite[v.suite] = s
			out.Suites = append(out.Suites, s)
		}
		c := junitCase{Name: visible(v.name), Class: "policy." + v.suite, File: visible(r.Head.File(v.place.File)), Line: v.place.Line, Output: visibleLines(v.output)}
		for _, f := range v.failures {
			c.Failures = append(c.Failures, junitFailure{visible(f.full()), visible(f.id), visible(fmt.Sprintf("%s: %s", placeText(f.place), f.full()))})
		}
		s.Tests++
		out.Tests++
		if len(c.Failures) > 0 {
			s.Failures++
			out.Failures++
		}
		s.Cases = append(s.Cases, c)
	}
	b, err := xml.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	return write(w, "JUnit", xml.Header+string(b)+"\n")
}

// visibleLines joins lines, each without control characters of its own.
func visibleLines(lines []string) string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = visible(l)
	}
	return strings.Join(out, "\n")
}
