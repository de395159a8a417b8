package examples

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/deptest"
	"github.com/writmesh/writ/examples/document"
)

// README.md is tried as it stands; package document says what its blocks mean.
// Those of a machine, which the notes before them name, are tried by
// examples/lab.

// demoTime bounds the demo.
const demoTime = 3 * time.Minute

// programs builds the programs by their short names and links them by the names
// they are installed by.
func programs(t *testing.T) (short, installed string) {
	t.Helper()
	if testing.Short() {
		t.Skip("short: this builds and runs every program")
	}
	for _, p := range []string{"bash", "git", "ssh-keygen", "curl"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("README.md IS NOT TRIED: %v", err)
		}
	}
	short, installed = t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", short+"/",
		"./policy", "./sync", "./coordinator", "./agent", "./relay", "./examples/demo")
	build.Dir = deptest.Root(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	document.Install(t, short, installed)
	return short, installed
}

func TestREADME(t *testing.T) {
	short, installed := programs(t)
	readme := document.Open(t, "README.md", filepath.Join(deptest.Root(t), "README.md"))
	t.Run("demo", func(t *testing.T) { tryDemo(t, readme, short) })
	t.Run("commands", func(t *testing.T) { tryCommands(t, readme, installed) })
	readme.Update(t)
}

func tryDemo(t *testing.T, readme *document.Document, bin string) {
	all := readme.Blocks()
	i := slices.IndexFunc(all, func(b document.Block) bool { return b.Demo })
	if i < 0 {
		t.Fatal("README.md does not show the demo")
	}
	ctx, cancel := context.WithTimeout(t.Context(), demoTime)
	defer cancel()
	demo := exec.CommandContext(ctx, filepath.Join(bin, "demo"), "-bin", bin)
	demo.Cancel = func() error { return demo.Process.Signal(syscall.SIGTERM) }
	demo.WaitDelay = 10 * time.Second
	temporary := t.TempDir()
	demo.Env = append(os.Environ(), "TMPDIR="+temporary)
	var complaints strings.Builder
	demo.Stderr = &complaints
	out, err := demo.Output()
	if err != nil {
		t.Fatalf("demo: %v\n%s\n%s", err, out, complaints.String())
	}
	readme.Shows(t, all[i], string(out))
	left, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("the demo left %v behind", left)
	}
}

func tryCommands(t *testing.T, readme *document.Document, bin string) {
	var commands []document.Block
	for _, b := range readme.Blocks() {
		if b.Language == "sh" && b.On == "" {
			commands = append(commands, b)
		}
	}
	if len(commands) == 0 {
		t.Fatal("README.md has no commands")
	}
	sh := document.NewShell(t, nil, bin)
	put, take := freePorts(t, commands)
	for _, b := range commands {
		readme.Try(t, sh, b, put, take)
	}
}

// freePorts puts for each loopback port of the commands one that is free, and
// takes that out again.
func freePorts(t *testing.T, commands []document.Block) (put, take *strings.Replacer) {
	t.Helper()
	var there, back []string
	for _, b := range commands {
		for _, addr := range regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindAllString(strings.Join(b.Lines, "\n"), -1) {
			if slices.Contains(there, addr) {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close() // not before all are chosen
			there = append(there, addr, l.Addr().String())
			back = append(back, l.Addr().String(), addr)
		}
	}
	return strings.NewReplacer(there...), strings.NewReplacer(back...)
}
