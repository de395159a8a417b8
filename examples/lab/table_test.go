//go:build lab

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
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

// table is what make lab prints at its end.
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
}

func (r *rows) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	slices.SortStableFunc(r.rows, func(a, b *row) int { return strings.Compare(a.order(), b.order()) })
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n    \tscenario\texpected\tgot\ttime")
	for _, n := range r.rows {
		mark, got := "ok", n.got
		switch {
		case !n.ended || n.failed:
			mark = "FAIL"
			if got == "" {
				got = "(see above)"
			}
		case got == "" || got == n.expected:
			got = "the same"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f s\n", mark, n.scenario, n.expected, got, n.took.Seconds())
	}
	w.Flush()
}

// order puts what the laboratory shows of itself after what it shows of Writ.
func (r *row) order() string {
	if strings.HasPrefix(r.scenario, "laboratory:") {
		return "~" + r.scenario
	}
	return strings.ToLower(r.scenario)
}
