package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/writmesh/writ/policy/policytest"
)

// BenchmarkCold is the command as people start it, on a policy of 10,000 users,
// 1,000 groups, 10,000 rules and 5,000 assertions: a process that has seen nothing,
// and the same once the answer is kept. "peak-MB" is of the process itself; the one
// that evaluates needs about as much.
func BenchmarkCold(b *testing.B) {
	dir := b.TempDir()
	b.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	if err := os.CopyFS(filepath.Join(dir, "policy"), policytest.Company(10_000, 1000, 10_000, 5000)); err != nil {
		b.Fatal(err)
	}
	// Under this name the program of the tests is the command; see TestMain.
	program := filepath.Join(dir, "bin", "policy")
	self, err := os.Executable()
	if err := errors.Join(err, os.Mkdir(filepath.Dir(program), 0o755), os.Symlink(self, program)); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"check", []string{"check", "--no-cache"}}, {"check/kept", []string{"check"}},
		{"test", []string{"test", "--no-cache"}}, {"test/kept", []string{"test"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			run := func() int64 {
				cmd := exec.CommandContext(b.Context(), program, append(c.args, filepath.Join(dir, "policy"))...)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
			}
			var most int64
			run() // which keeps the answer
			for b.Loop() {
				most = max(most, run())
			}
			b.ReportMetric(float64(most)/1024, "peak-MB")
		})
	}
}
