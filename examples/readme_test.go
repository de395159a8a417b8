package examples

import (
	"bufio"
	"context"
	"fmt"
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
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/deptest"
)

// README.md is tried as it stands. Its blocks mean:
//
//	```sh          commands, run in order by one shell, in an empty home
//	# exits N      at the end of a line: how that command exits; others exit 0
//	```text        after commands: what they print
//	<!-- until it shows -->   before commands: it takes a moment until they
//	               print that, so they are repeated
//	<!-- demo -->  before a block: what the demo prints
//
// Keys, commits, times, ports and the order of leases differ each time and are
// not compared. UPDATE=1 writes what is printed into README.md.

const (
	// blockTime bounds a block of commands, whose slowest start a daemon.
	blockTime = time.Minute
	// demoTime bounds the demo.
	demoTime = 3 * time.Minute
)

// A block is a fenced part of a document.
type block struct {
	language string
	begin    int // index of the first line between the fences
	lines    []string
	until    bool // repeated until it shows what it should
	demo     bool
}

// blocks finds the fenced parts of a document.
func blocks(lines []string) (found []block) {
	var b *block
	for i, l := range lines {
		switch {
		case b == nil && strings.HasPrefix(l, "```"):
			b = &block{language: strings.TrimPrefix(l, "```"), begin: i + 1}
			if i > 0 {
				b.until = lines[i-1] == "<!-- until it shows -->"
				b.demo = lines[i-1] == "<!-- demo -->"
			}
		case b != nil && l == "```":
			b.lines = lines[b.begin:i]
			found = append(found, *b)
			b = nil
		}
	}
	return found
}

// varying is what differs from run to run, and what stands for it.
var varying = []struct {
	is *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`\b(net|nid|idpub|enrol):[a-z2-7]{52}\b`), "$1:KEY"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`100\.64\.0\.[0-9]+`), "100.64.0.N"},
	{regexp.MustCompile(`\bfd[0-9a-f]{2}(:[0-9a-f]{0,4}){2,7}`), "IPV6"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2} UTC)?`), "DATE"},
	{regexp.MustCompile(`\(1, [0-9]{10}\)`), "(1, SEQ)"},
	{regexp.MustCompile(`\b[0-9a-f]{7}\b`), "COMMIT"},
	{regexp.MustCompile(`\b[0-9]+(\.[0-9]+)? ?(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`(\S) {2,}`), "$1 "}, // columns follow the widths of all these
	{regexp.MustCompile(`(?m) +$`), ""},
}

func normalise(text string) string {
	for _, v := range varying {
		text = v.is.ReplaceAllString(text, v.by)
	}
	return strings.TrimRight(text, "\n")
}

func TestNormaliseKeepsWhatMatters(t *testing.T) {
	const one = "  enforced on 4 of 4 nodes     131 ms\n  merged as 4dff601 until 2026-11-30 23:59 UTC\n"
	for _, other := range []string{
		"  enforced on 4 of 4 nodes      9 ms\n  merged as 00ff601 until 2027-01-31 23:59 UTC\n",
	} {
		if got, want := normalise(other), normalise(one); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, other := range []string{
		strings.Replace(one, "4 of 4", "3 of 4", 1),
		strings.Replace(one, "merged", "reverted", 1),
		strings.Replace(one, "131 ms", "", 1),
		strings.Replace(one, "  enforced", " enforced", 1),
		strings.Replace(one, "\n", "\n\n", 1),
	} {
		if got := normalise(other); got == normalise(one) {
			t.Errorf("%q is taken for %q", other, one)
		}
	}
}

// A document is README.md and what is to be written into it.
type document struct {
	path  string
	lines []string
	fresh map[int][]string // by the index of a block's first line
}

func openDocument(t *testing.T, name string) *document {
	t.Helper()
	path := filepath.Join(deptest.Root(t), name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &document{path: path, lines: strings.Split(string(b), "\n"), fresh: map[int][]string{}}
}

// shows compares what was printed with the document, or notes it for update.
func (d *document) shows(t *testing.T, b block, printed string) {
	t.Helper()
	for l := range strings.SplitSeq(printed, "\n") {
		if n := utf8.RuneCountInString(l); n > 80 {
			t.Errorf("%d columns, want at most 80: %q", n, l)
		}
	}
	if os.Getenv("UPDATE") != "" {
		d.fresh[b.begin] = strings.Split(strings.TrimRight(printed, "\n"), "\n")
		return
	}
	want, got := normalise(strings.Join(b.lines, "\n")), normalise(printed)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("README.md:%d: the block is not what is printed (-README +printed; UPDATE=1 writes it):\n%s\nprinted:\n%s", b.begin+1, diff, printed)
	}
}

// update writes the blocks that changed in anything that matters.
func (d *document) update(t *testing.T) {
	if os.Getenv("UPDATE") == "" || t.Failed() {
		return
	}
	found := blocks(d.lines)
	slices.Reverse(found)
	for _, b := range found {
		lines, ok := d.fresh[b.begin]
		if ok && normalise(strings.Join(lines, "\n")) != normalise(strings.Join(b.lines, "\n")) {
			d.lines = slices.Concat(d.lines[:b.begin], lines, d.lines[b.begin+len(b.lines):])
		}
	}
	if err := os.WriteFile(d.path, []byte(strings.Join(d.lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

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
	for _, p := range []string{"policy", "sync", "coordinator", "agent", "relay"} {
		name := "writ-" + p
		if p == "policy" {
			name = p
		}
		if err := os.Symlink(filepath.Join(short, p), filepath.Join(installed, name)); err != nil {
			t.Fatal(err)
		}
	}
	return short, installed
}

func TestREADME(t *testing.T) {
	short, installed := programs(t)
	readme := openDocument(t, "README.md")
	t.Run("demo", func(t *testing.T) { readme.tryDemo(t, short) })
	t.Run("commands", func(t *testing.T) { readme.tryCommands(t, installed) })
	readme.update(t)
}

func (d *document) tryDemo(t *testing.T, bin string) {
	all := blocks(d.lines)
	i := slices.IndexFunc(all, func(b block) bool { return b.demo })
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
	d.shows(t, all[i], string(out))
	left, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("the demo left %v behind", left)
	}
}

func (d *document) tryCommands(t *testing.T, bin string) {
	all := blocks(d.lines)
	sh := startShell(t, bin)
	ports := freePorts(t, all)
	tried := 0
	for i, b := range all {
		if b.language != "sh" {
			continue
		}
		tried++
		script := strings.Join(b.lines, "\n")
		for port, free := range ports {
			script = strings.ReplaceAll(script, port, free)
		}
		var shown *block
		if i+1 < len(all) && all[i+1].language == "text" && all[i+1].begin <= b.begin+len(b.lines)+2 {
			shown = &all[i+1]
		}
		began := time.Now()
		r := sh.run(t, i, script)
		for b.until && (shown == nil || normalise(r.out) != normalise(strings.Join(shown.lines, "\n"))) && time.Since(began) < d.patience() {
			r = sh.run(t, i, script)
		}
		if diff := cmp.Diff(expectedExits(b.lines), r.exits); diff != "" {
			t.Fatalf("README.md:%d: exit codes by line of the block (-README +got):\n%s\n%s%s\n%s", b.begin+1, diff, r.out, r.errs, sh.logs())
		}
		if shown != nil {
			for port, free := range ports {
				r.out = strings.ReplaceAll(r.out, free, port)
			}
			d.shows(t, *shown, r.out)
		}
		if t.Failed() {
			t.Fatalf("standard error:\n%s\n%s", r.errs, sh.logs())
		}
	}
	if tried == 0 {
		t.Fatal("README.md has no commands")
	}
}

// patience is how long a block is repeated: a while in a test, and long enough
// for things to settle when it is written anew.
func (d *document) patience() time.Duration {
	if os.Getenv("UPDATE") != "" {
		return 2 * time.Second
	}
	return 30 * time.Second
}

var exitsComment = regexp.MustCompile(`# exits ([0-9]+)`)

// expectedExits are the lines of a block that do not exit 0, as "LINE: CODE".
func expectedExits(lines []string) []string {
	exits := []string{}
	for i, l := range lines {
		if m := exitsComment.FindStringSubmatch(l); m != nil {
			exits = append(exits, fmt.Sprintf("%d: %s", i+1, m[1]))
		}
	}
	return exits
}

// freePorts gives each loopback port of the commands one that is free.
func freePorts(t *testing.T, all []block) map[string]string {
	t.Helper()
	ports := map[string]string{}
	for _, b := range all {
		if b.language != "sh" {
			continue
		}
		for _, addr := range regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindAllString(strings.Join(b.lines, "\n"), -1) {
			if ports[addr] != "" {
				continue
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close() // not before all are chosen
			ports[addr] = l.Addr().String()
		}
	}
	return ports
}

// A shell is one bash that runs blocks in order.
type shell struct {
	dir      string // where scripts and what they print lie
	home     string
	commands *os.File
	reports  *bufio.Scanner
	deadline func(time.Time) error
}

// driver runs the scripts whose names come on 4, and says on 3 which command
// exited with what, and when a script is through.
const driver = `
set -E -o pipefail
trap 'echo "$LINENO: $?" >&3' ERR
while IFS= read -r -u 4 name; do
	source "$name.sh" > "$name.out" 2> "$name.err" < /dev/null
	echo through >&3
done
`

func startShell(t *testing.T, bin string) *shell {
	t.Helper()
	s := &shell{dir: t.TempDir(), home: t.TempDir()}
	reports, reportsEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	commandsEnd, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.commands, s.reports, s.deadline = commands, bufio.NewScanner(reports), reports.SetReadDeadline
	bash := exec.Command("bash", "--noprofile", "--norc", "-c", driver)
	bash.Dir = s.home
	bash.Env = []string{"HOME=" + s.home, "PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + s.dir,
		"LC_ALL=C.UTF-8", "NO_COLOR=1", "GIT_CONFIG_NOSYSTEM=1"}
	bash.ExtraFiles = []*os.File{reportsEnd, commandsEnd}
	bash.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := bash.Start(); err != nil {
		t.Fatal(err)
	}
	reportsEnd.Close()
	commandsEnd.Close()
	t.Cleanup(func() {
		commands.Close()
		// The group is bash and what it started; what README.md ends has ended.
		_ = syscall.Kill(-bash.Process.Pid, syscall.SIGKILL)
		_ = bash.Wait()
		reports.Close()
	})
	return s
}

// A result is what became of a block.
type result struct {
	out, errs string
	exits     []string // "LINE: CODE" of each command that did not exit 0
}

// run runs a block and waits for its end.
func (s *shell) run(t *testing.T, n int, script string) (r result) {
	t.Helper()
	name := filepath.Join(s.dir, fmt.Sprint(n))
	// The last command's exit is its own, and not the block's.
	if err := os.WriteFile(name+".sh", []byte(script+"\n:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.deadline(time.Now().Add(blockTime)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(s.commands, name); err != nil {
		t.Fatal(err)
	}
	r.exits = []string{}
	for s.reports.Scan() {
		if s.reports.Text() == "through" {
			for ext, into := range map[string]*string{".out": &r.out, ".err": &r.errs} {
				b, err := os.ReadFile(name + ext)
				if err != nil {
					t.Fatal(err)
				}
				*into = string(b)
			}
			return r
		}
		r.exits = append(r.exits, s.reports.Text())
	}
	t.Fatalf("the shell does not come back: %v\n%s\n%s", s.reports.Err(), script, s.logs())
	return r
}

// logs is the end of what the daemons logged.
func (s *shell) logs() string {
	var out strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.home, "*", "*.log"))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(name), strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
	return out.String()
}
