//go:build lab

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Program is one of this module's programs on a host. It can be killed and
// started again.
type Program struct {
	Name string

	host *Host
	args []string
	log  *tail

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil: it does not run
	ended chan struct{} // closed when cmd has ended
}

// program makes a program of bin/, without starting it.
func (h *Host) program(name, program string, args ...string) *Program {
	p := &Program{Name: name, host: h, args: append([]string{filepath.Join(bin, program)}, args...), log: newTail()}
	h.l.mu.Lock()
	h.l.programs = append(h.l.programs, p)
	h.l.mu.Unlock()
	return p
}

// Start starts the program.
func (p *Program) Start() {
	p.host.l.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.host.l.t.Fatalf("%s runs already", p.Name)
	}
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.host.l.dir}
	cmd.Dir = p.host.l.dir
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// The thread that starts it lives until the namespace is closed: a test that
	// panics or is killed takes its programs along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(p.log, "--- %s starts\n", p.Name)
	p.host.l.must(p.host.Do(cmd.Start))
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		err := cmd.Wait()
		fmt.Fprintf(p.log, "--- %s ends: %v\n", p.Name, err)
		close(ended)
	}()
}

// Kill ends the program as kill -9 does. A program that does not run is left so.
func (p *Program) Kill() { p.end(syscall.SIGKILL, within) }

// Stop asks the program to end, and fails the test if it does not.
func (p *Program) Stop() {
	p.host.l.t.Helper()
	if !p.end(syscall.SIGTERM, within) {
		p.host.l.t.Fatalf("%s does not end within %s of SIGTERM", p.Name, within)
	}
}

func (p *Program) end(sig syscall.Signal, limit time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return true
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended by itself
	select {
	case <-p.ended:
		p.cmd = nil
		return true
	case <-time.After(limit):
		return false
	}
}

// WaitLog waits until the program has logged a line with that text since it was
// last started.
func (p *Program) WaitLog(text string) {
	p.host.l.t.Helper()
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.host.l.t.Context(), within)
	defer cancel()
	for {
		found, changed := p.log.has(text)
		if found {
			return
		}
		select {
		case <-changed:
		case <-ended:
			if found, _ := p.log.has(text); !found {
				p.host.l.t.Fatalf("%s ended before it logged %q", p.Name, text)
			}
		case <-ctx.Done():
			p.host.l.t.Fatalf("%s does not log %q within %s", p.Name, text, within)
		}
	}
}

// once runs a program of bin/ to its end, anywhere, and returns what it printed.
func (l *Lab) once(program string, args ...string) string {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Env = []string{"HOME=" + l.dir}
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// tailSize is how much of a program's log is kept, in bytes.
const tailSize = 256 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{}
}

func newTail() *tail { return &tail{changed: make(chan struct{})} }

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	close(t.changed)
	t.changed = make(chan struct{})
	return len(b), nil
}

// has looks for text after the last start.
func (t *tail) has(text string) (bool, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := max(0, bytes.LastIndex(t.text, []byte(" starts\n")))
	return bytes.Contains(t.text[from:], []byte(text)), t.changed
}

// last are the last n lines.
func (t *tail) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.SplitAfter(t.text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], nil))
}
