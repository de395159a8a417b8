//go:build lab && bench

package lab

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Measurements in the laboratory: "make bench-lab" runs them, one after the
// other, and prints their figures. They are not tests: they fail when something
// does not come about at all, never because it takes long.

// rounds is how often each thing is measured: $ROUNDS, or ten.
func rounds(t *testing.T) int {
	t.Helper()
	s := os.Getenv("ROUNDS")
	if s == "" {
		return 10
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("ROUNDS=%s: want a number from 1", s)
	}
	return n
}

// A series is one figure, measured again and again.
type series []float64

func (s series) median() float64 { return s.at(0.5) }

func (s series) at(part float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	x := part * float64(len(sorted)-1)
	below := int(x)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	return sorted[below] + (x-float64(below))*(sorted[below+1]-sorted[below])
}

// interval is where the median lies with a confidence of 95 % or more, whatever
// the distribution: between two of the figures, by the binomial distribution of
// how many of them fall short of it. With fewer than six it is all of them.
func (s series) interval() (low, high float64) {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n == 0 {
		return math.NaN(), math.NaN()
	}
	out := 0
	chance, below := math.Pow(0.5, float64(n)), 0.0
	for k := 0; k < n/2; k++ {
		if below += chance; 2*below > 0.05 {
			break
		}
		out = k
		chance *= float64(n-k) / float64(k+1)
	}
	return sorted[out], sorted[n-1-out]
}

// record appends figures to $FIGURES/NAME.csv, if that is asked for, so that
// they can be looked at one by one.
func record(t *testing.T, name, what string, s series) {
	t.Helper()
	dir := os.Getenv("FIGURES")
	if dir == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".csv"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := []string{time.Now().UTC().Format(time.RFC3339), what}
	for _, x := range s {
		line = append(line, strconv.FormatFloat(x, 'g', 6, 64))
	}
	w := csv.NewWriter(f)
	w.Write(line) // Flush's error is this one's, too
	if w.Flush(); w.Error() != nil {
		t.Fatal(w.Error())
	}
}

// say prints a line of the result at once: a run takes minutes.
func say(format string, args ...any) {
	fmt.Fprintln(os.Stdout, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// heading begins a table of times.
func headTimes() {
	say("\n%-64s %3s  %9s %9s %9s", "seconds from an event to what follows it", "n", "median", "least", "most")
}

// sayTimes prints a row of them.
func sayTimes(t *testing.T, what string, s series) {
	t.Helper()
	if len(s) == 0 {
		say("%-64s   0", what)
		return
	}
	say("%-64s %3d  %9.3f %9.3f %9.3f", what, len(s), s.median(), slices.Min(s), slices.Max(s))
	record(t, "times", what, s)
}

func TestInterval(t *testing.T) {
	for _, c := range []struct{ n, low, high int }{
		// Order statistics of the 95 % interval of a median, from tables of the
		// binomial distribution.
		{5, 1, 5}, {6, 1, 6}, {8, 1, 8}, {9, 2, 8}, {10, 2, 9}, {12, 3, 10}, {15, 4, 12}, {20, 6, 15}, {25, 8, 18}, {30, 10, 21},
	} {
		s := make(series, c.n)
		for i := range s {
			s[i] = float64(c.n - i)
		}
		if low, high := s.interval(); low != float64(c.low) || high != float64(c.high) {
			t.Errorf("interval of 1 to %d: got %v to %v, want %d to %d", c.n, low, high, c.low, c.high)
		}
	}
}
