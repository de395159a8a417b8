//go:build lab

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// bin is where the programs are: $WRIT_BIN, or a temporary directory that they
// are built into.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "lab: ****************************************************************")
		fmt.Fprintln(os.Stderr, "lab: NOTHING RUNS: network namespaces need root (sudo make lab)")
		fmt.Fprintln(os.Stderr, "lab: ****************************************************************")
		return 1
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "lab: %v (.ci/setup.sh test installs it)\n", err)
			return 1
		}
	}
	var err error
	if bin = os.Getenv("WRIT_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "lab-bin"); err == nil {
			defer os.RemoveAll(bin)
			cmd := exec.Command("go", "build", "-o", bin+"/", "../../policy", "../../sync", "../../coordinator", "../../relay", "../../agent")
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			err = cmd.Run()
		}
	} else {
		bin, err = filepath.Abs(bin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	code := m.Run()
	table.print()
	return code
}

// table is what make lab prints: a scenario when it has ended, and the sum at the
// end.
var table rows

type rows struct {
	mu   sync.Mutex
	rows []*row
}

// row is one scenario.
type row struct {
	scenario, expected, got string
	began                   time.Time
	took                    time.Duration
	ended, failed           bool
}

func (r *rows) begin(scenario, expected string) *row {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &row{scenario: scenario, expected: expected, began: time.Now()}
	r.rows = append(r.rows, n)
	return n
}

func (r *rows) end(n *row, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.ended, n.failed, n.took = true, failed, time.Since(n.began)
	fmt.Println(n)
}

// String is the scenario in two or three lines.
func (r *row) String() string {
	mark := "ok  "
	if r.failed {
		mark = "FAIL"
	}
	text := fmt.Sprintf("%s  %-66s %5.1f s\n", mark, r.scenario, r.took.Seconds())
	switch {
	case r.failed && r.got == "":
		return text + fmt.Sprintf("        want  %s\n        got   see above\n", r.expected)
	case r.got == "" || r.got == r.expected:
		return text + fmt.Sprintf("        %s\n", r.expected)
	}
	return text + fmt.Sprintf("        want  %s\n        got   %s\n", r.expected, r.got)
}

func (r *rows) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := 0
	for _, n := range r.rows {
		if !n.ended || n.failed {
			failed++
		}
	}
	if len(r.rows) > 0 {
		fmt.Printf("%d scenarios, %d failed\n", len(r.rows), failed)
	}
}
