package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each case is a module that go test itself runs: what the events look like is
// then the toolchain's word and not this test's.
func TestRun(t *testing.T) {
	tests := []struct {
		name   string
		source string
		ci     string
		want   int
		totals string // without the time
	}{
		{
			name:   "all pass",
			source: `func TestA(t *testing.T) { t.Run("sub", func(*testing.T) {}) }`,
			want:   0,
			totals: "1 packages, 2 tests passed, 0 failed, 0 skipped, 0 fuzz targets with 0 seeds",
		},
		{
			name:   "one fails",
			source: `func TestA(t *testing.T) { t.Error("no") }; func TestB(*testing.T) {}`,
			want:   1,
			totals: "1 packages, 1 tests passed, 1 failed, 0 skipped, 0 fuzz targets with 0 seeds",
		},
		{
			name:   "does not compile",
			source: `func TestA(t *testing.T) { undefined() }`,
			want:   1,
			totals: "1 packages, 0 tests passed, 0 failed, 0 skipped, 0 fuzz targets with 0 seeds",
		},
		{
			name:   "exits early",
			source: `func TestA(t *testing.T) { go panic("gone"); select {} }`,
			want:   1,
		},
		{
			name:   "nothing runs",
			source: `var _ testing.TB`,
			want:   1,
			totals: "0 packages, 0 tests passed, 0 failed, 0 skipped, 0 fuzz targets with 0 seeds",
		},
		{
			name:   "a skip is told",
			source: `func TestA(t *testing.T) { t.Skip("needs root") }; func TestB(*testing.T) {}`,
			want:   0,
			totals: "1 packages, 1 tests passed, 0 failed, 1 skipped, 0 fuzz targets with 0 seeds",
		},
		{
			name:   "a skip under CI fails",
			source: `func TestA(t *testing.T) { t.Skip("needs root") }; func TestB(*testing.T) {}`,
			ci:     "true",
			want:   1,
		},
		{
			name: "seeds are counted",
			source: `func FuzzA(f *testing.F) {
				f.Add(1); f.Add(2)
				f.Fuzz(func(t *testing.T, _ int) { t.Run("below", func(*testing.T) {}) })
			}`,
			want:   0,
			totals: "1 packages, 5 tests passed, 0 failed, 0 skipped, 1 fuzz targets with 2 seeds",
		},
		{
			name:   "a fuzz target without seeds fails",
			source: `func FuzzA(f *testing.F) { f.Fuzz(func(*testing.T, int) {}) }`,
			want:   1,
			totals: "1 packages, 1 tests passed, 0 failed, 0 skipped, 1 fuzz targets with 0 seeds",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "go.mod", "module example.com/m\n\ngo 1.24\n")
			write(t, dir, "a_test.go", "package m\n\nimport \"testing\"\n\n"+tt.source+"\n")
			t.Chdir(dir)
			t.Setenv("CI", tt.ci)

			if got := run("label", "totals", nil); got != tt.want {
				t.Errorf("run = %d, want %d", got, tt.want)
			}
			b, err := os.ReadFile("totals")
			if err != nil {
				t.Fatal(err)
			}
			got, _, _ := strings.Cut(strings.TrimPrefix(string(b), "label: "), " seeds,")
			if got += " seeds"; tt.totals != "" && got != tt.totals {
				t.Errorf("totals = %q, want %q", got, tt.totals)
			}
		})
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The last word of a test that never ended is printed, not lost.
func TestUnfinishedOutput(t *testing.T) {
	var b strings.Builder
	tl := newTally(&b)
	err := tl.read(strings.NewReader(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: gone\n"}
not an event
{"Action":"fail","Package":"p","Elapsed":1}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"panic: gone\n", "not an event\n", "FAIL p"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("printed %q, want it to contain %q", b.String(), want)
		}
	}
	if got := tl.problems(false); !slices.Contains(got, "p") {
		t.Errorf("problems = %q, want the package p among them", got)
	}
}

// A line longer than any buffer is one event.
func TestLongLine(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	tl := newTally(io.Discard)
	err := tl.read(strings.NewReader(`{"Action":"output","Package":"p","Test":"TestA","Output":"` + long + `\n"}` + "\n" +
		`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if tl.passed != 1 {
		t.Errorf("passed = %d, want 1", tl.passed)
	}
}
