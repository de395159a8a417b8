// Command gotest runs go test, prints one line for each package and everything
// about what went wrong, and ends with totals.
//
//	gotest [-label name] [-totals file] -- [go test arguments]
//
// Beyond go test itself it fails when nothing ran, when a fuzz target has no
// seed (its decoder then is not tried at all), and, with CI=true in the
// environment, when a test was skipped. It exits 0 when all is well, 1 when
// something failed, 2 when go test could not be run.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	label := flag.String("label", "test", "the `name` that the totals bear")
	totals := flag.String("totals", "", "append the totals to this `file`")
	flag.Parse()
	os.Exit(run(*label, *totals, flag.Args()))
}

func run(label, totals string, args []string) int {
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
		return 2
	}
	t := newTally(os.Stdout)
	readErr := t.read(out)
	err = cmd.Wait()

	problems := t.problems(os.Getenv("CI") == "true")
	if readErr != nil {
		problems = append(problems, "read the output of go test: "+readErr.Error())
	}
	if err != nil {
		problems = append(problems, "go test: "+err.Error())
	}
	line := fmt.Sprintf("%s: %s, %.1f s", label, t, time.Since(start).Seconds())
	fmt.Println(line)
	for _, s := range t.skipped {
		fmt.Printf("  SKIPPED %s\n", s)
	}
	for _, p := range problems {
		fmt.Printf("  FAIL %s\n", p)
	}
	if totals != "" {
		if err := appendLine(totals, line); err != nil {
			fmt.Fprintf(os.Stderr, "gotest: %v\n", err)
			return 2
		}
	}
	if len(problems) > 0 {
		return 1
	}
	return 0
}

func appendLine(name, line string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// An event is one line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string // empty: about the package
	Elapsed     float64
	Output      string
	FailedBuild string
}

// A name is one test of one package; an empty test means the package itself.
type name struct{ pkg, test string }

// A tally counts what the events of one run of go test say.
type tally struct {
	w io.Writer

	packages, passed, failed int
	skipped                  []string // with the reason given

	seeds  map[name]int    // inputs tried, by fuzz target
	output map[name]string // of what has not ended, and of build errors
	counts map[string]int  // tests ended, by package
	broken []name          // failed, in the order of failing
}

func newTally(w io.Writer) *tally {
	return &tally{
		w:      w,
		seeds:  make(map[name]int),
		output: make(map[name]string),
		counts: make(map[string]int),
	}
}

// read takes events until the stream ends. What is not an event is printed.
func (t *tally) read(r io.Reader) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(t.w, "%s", line)
			} else {
				t.event(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) event(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.w, e.Output)
	case "output":
		t.output[n] += e.Output
	case "run":
		if target, _, ok := strings.Cut(e.Test, "/"); isFuzz(e.Test) {
			root := name{e.Package, target}
			if _, known := t.seeds[root]; !known {
				t.seeds[root] = 0
			}
			// A seed is a child of its target; what a seed runs below itself
			// is none.
			if ok && strings.Count(e.Test, "/") == 1 {
				t.seeds[root]++
			}
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.packageEnded(e)
		} else {
			t.testEnded(n, e)
		}
	}
}

func isFuzz(test string) bool { return strings.HasPrefix(test, "Fuzz") }

func (t *tally) testEnded(n name, e event) {
	t.counts[n.pkg]++
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped = append(t.skipped, fmt.Sprintf("%s %s: %s", n.pkg, n.test, reason(t.output[n])))
	case "fail":
		t.failed++
		t.broken = append(t.broken, n)
		fmt.Fprint(t.w, t.output[n])
	}
	delete(t.output, n)
}

// reason is what a skipped test said, without the lines of the testing package.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

func (t *tally) packageEnded(e event) {
	if e.Action == "fail" {
		// A panic or a deadline ends the process before the test reports: what
		// the unfinished tests wrote is where the cause stands.
		var left []name
		for n := range t.output {
			if n.pkg == e.Package {
				left = append(left, n)
			}
		}
		slices.SortFunc(left, func(a, b name) int { return strings.Compare(a.test, b.test) })
		for _, n := range left {
			fmt.Fprint(t.w, t.output[n])
		}
		t.broken = append(t.broken, name{pkg: e.Package})
	}
	for n := range t.output {
		if n.pkg == e.Package {
			delete(t.output, n)
		}
	}
	switch {
	case e.Action == "fail":
		fmt.Fprintf(t.w, "FAIL %-60s %7.2f s\n", e.Package, e.Elapsed)
		t.packages++
	case t.counts[e.Package] > 0:
		fmt.Fprintf(t.w, "ok   %-60s %7.2f s %5d tests\n", e.Package, e.Elapsed, t.counts[e.Package])
		t.packages++
	default:
		fmt.Fprintf(t.w, "--   %-60s no tests\n", e.Package)
	}
}

// problems is every reason why the run does not count as passed.
func (t *tally) problems(strict bool) []string {
	var p []string
	for _, n := range t.broken {
		if n.test == "" {
			p = append(p, n.pkg)
		} else {
			p = append(p, n.pkg+" "+n.test)
		}
	}
	if t.passed+t.failed == 0 {
		p = append(p, "no test ran")
	}
	for n, seeds := range t.seeds {
		if seeds == 0 {
			p = append(p, n.pkg+" "+n.test+": the fuzz target has no seed")
		}
	}
	if strict && len(t.skipped) > 0 {
		p = append(p, fmt.Sprintf("%d tests skipped, and CI=true allows none", len(t.skipped)))
	}
	slices.Sort(p)
	return slices.Compact(p)
}

// String is the totals; subtests and seeds count as tests.
func (t *tally) String() string {
	seeds := 0
	for _, n := range t.seeds {
		seeds += n
	}
	return fmt.Sprintf("%d packages, %d tests passed, %d failed, %d skipped, %d fuzz targets with %d seeds",
		t.packages, t.passed, t.failed, len(t.skipped), len(t.seeds), seeds)
}
