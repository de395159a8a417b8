package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A stage is the temporary directory and the processes that run in it.
type stage struct {
	dir, bin string

	mu    sync.Mutex
	procs []*process
}

// A process is a daemon of the demo. Its log is a file.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// start runs a daemon. It dies with the demo, whatever becomes of that.
func (s *stage) start(name, program string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(s.dir, name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd = exec.Command(filepath.Join(s.bin, program), args...)
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Dir = s.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w (is it built? run make build)", name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	s.mu.Lock()
	s.procs = append(s.procs, p)
	s.mu.Unlock()
	return p, nil
}

// kill ends a process as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// end asks a process to end, and insists after two seconds.
func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(2*time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	<-p.done
}

func (s *stage) close() {
	var ends sync.WaitGroup
	for _, p := range s.procs {
		ends.Go(p.end)
	}
	ends.Wait()
}

// tails shows the end of every log.
func (s *stage) tails() {
	for _, p := range s.procs {
		b, err := os.ReadFile(p.log)
		if err != nil || len(b) == 0 {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		fmt.Fprintf(os.Stderr, "\n--- %s\n%s\n", p.name, bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
	}
}

// run runs a command to its end and gives what it printed and its exit code.
func (s *stage) run(ctx context.Context, dir, program string, args ...string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", 0, context.Cause(ctx)
	case errors.As(err, &exit):
		return string(b), exit.ExitCode(), nil
	case err != nil:
		return "", 0, fmt.Errorf("%s: %w", program, err)
	}
	return string(b), 0, nil
}

// must runs a command that has to succeed and gives its output's one line.
func (s *stage) must(ctx context.Context, program string, args ...string) (string, error) {
	out, code, err := s.run(ctx, s.dir, program, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s %s: exit %d: %s", program, strings.Join(args, " "), code, out)
	}
	return strings.TrimSpace(out), err
}

// port finds a free port of loopback. Somebody else might take it before it is
// used; then what was to listen there says so and the demo fails.
func port() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// path is a file of the stage.
func (s *stage) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// write makes a file that only this user reads.
func (s *stage) write(name, content string) error {
	path := s.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}
