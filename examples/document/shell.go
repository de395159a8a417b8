package document

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// blockTime bounds a block of commands, whose slowest start a daemon.
const blockTime = time.Minute

// A Shell is one bash that runs blocks in order, in an empty home.
type Shell struct {
	Home string

	dir      string // where scripts and what they print lie
	n        int    // of scripts
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

// NewShell starts a shell that finds programs in these directories before those
// of $PATH. It is started by start; nil starts it here. It and what it started
// end with the test.
func NewShell(t testing.TB, start func(*exec.Cmd) error, path ...string) *Shell {
	t.Helper()
	s := &Shell{dir: t.TempDir(), Home: t.TempDir()}
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
	bash.Dir = s.Home
	bash.Env = []string{"HOME=" + s.Home, "PATH=" + strings.Join(append(path, os.Getenv("PATH")), ":"), "TMPDIR=" + s.dir,
		"LC_ALL=C.UTF-8", "NO_COLOR=1", "GIT_CONFIG_NOSYSTEM=1"}
	bash.ExtraFiles = []*os.File{reportsEnd, commandsEnd}
	bash.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(bash); err != nil {
		t.Fatal(err)
	}
	reportsEnd.Close()
	commandsEnd.Close()
	t.Cleanup(func() {
		commands.Close()
		// The group is bash and what it started; what the document ends has ended.
		_ = syscall.Kill(-bash.Process.Pid, syscall.SIGKILL)
		_ = bash.Wait()
		reports.Close()
	})
	return s
}

// A Result is what became of a script.
type Result struct {
	Out, Errs string
	Exits     []string // "LINE: CODE" of each command that did not exit 0
}

// Run runs a script and waits for its end.
func (s *Shell) Run(t testing.TB, script string) (r Result) {
	t.Helper()
	s.n++
	name := filepath.Join(s.dir, fmt.Sprint(s.n))
	// The last command's exit is its own, and not the script's.
	if err := os.WriteFile(name+".sh", []byte(script+"\n:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.deadline(time.Now().Add(blockTime)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(s.commands, name); err != nil {
		t.Fatal(err)
	}
	r.Exits = []string{}
	for s.reports.Scan() {
		if s.reports.Text() == "through" {
			for ext, into := range map[string]*string{".out": &r.Out, ".err": &r.Errs} {
				b, err := os.ReadFile(name + ext)
				if err != nil {
					t.Fatal(err)
				}
				*into = string(b)
			}
			return r
		}
		r.Exits = append(r.Exits, s.reports.Text())
	}
	t.Fatalf("the shell does not come back: %v\n%s\n%s", s.reports.Err(), script, s.Logs())
	return r
}

// Logs is the end of what the daemons logged, to *.log in the home or in a
// directory there.
func (s *Shell) Logs() string {
	var out strings.Builder
	for _, pattern := range []string{"*.log", "*/*.log"} {
		names, _ := filepath.Glob(filepath.Join(s.Home, pattern))
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(name), strings.Join(lines[max(0, len(lines)-12):], "\n"))
		}
	}
	return out.String()
}
