//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a child that ends with the test.
func start(t *testing.T, limits Limits) *Child {
	t.Helper()
	c, err := Start(t.Context(), limits)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func TestCallsAreAnswered(t *testing.T) {
	c := start(t, Limits{})
	for _, request := range []string{"", "a", strings.Repeat("long ", 1<<20)} {
		got, err := c.Call(t.Context(), "echo", []byte(request))
		if err != nil || string(got) != request {
			t.Fatalf("echo of %d bytes: got %d bytes, %v", len(request), len(got), err)
		}
	}
	for range 3 { // an error leaves the child alive
		_, err := c.Call(t.Context(), "fail", []byte("rules.cue:3:1: no"))
		var callErr *CallError
		if !errors.As(err, &callErr) || err.Error() != "rules.cue:3:1: no" || callErr.Handler != "fail" {
			t.Fatalf("fail: got %v", err)
		}
	}
	if _, err := c.Call(t.Context(), "nothing", nil); err == nil || err.Error() != `no handler named "nothing"` {
		t.Errorf("nothing: got %v", err)
	}
}

func TestChildStartsWithNothing(t *testing.T) {
	t.Setenv("WRIT_SECRET", "hunter2")
	t.Setenv("TZ", "Asia/Tokyo")
	// A file that exec does not close, as a careless parent of ours may leave.
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	c := start(t, Limits{})
	got, err := c.Call(t.Context(), "environment", nil)
	// The directory cannot even be asked for.
	want := `[] ["writ-sandbox"] true "getwd: operation not permitted"`
	if err != nil || string(got) != want {
		t.Errorf("environment: got %s, %v; want %s", got, err, want)
	}
	if got, err := c.Call(t.Context(), "zone", nil); err != nil || string(got) != "UTC" {
		t.Errorf("zone: got %s, %v; want UTC", got, err)
	}
	// The child held the only other writing end.
	unix.Close(p[1])
	r := os.NewFile(uintptr(p[0]), "inherited")
	defer r.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the inherited pipe: got %d, %v; want its end", n, err)
	}
}

var forbidden = []string{
	"tcp", "udp", "listen", "unix", "pair", "exec", "become", "fork", "read", "write", "remove",
	"list", "signal", "setuid", "unlimit", "ptrace", "code", "start", "truncate",
}

func TestForbidden(t *testing.T) {
	c := start(t, Limits{})
	for _, name := range forbidden {
		_, err := c.Call(t.Context(), name, nil)
		switch {
		case err == nil:
			t.Errorf("%s: succeeded", name)
		case name == "start":
			// It is refused before it is tried: a child has no Main behind it.
			if !strings.Contains(err.Error(), ErrUnconfined.Error()) {
				t.Errorf("%s: got %v, want a refusal", name, err)
			}
		case !strings.Contains(err.Error(), "operation not permitted"):
			t.Errorf("%s: got %v, want operation not permitted", name, err)
		}
	}
	if got, err := c.Call(t.Context(), "echo", []byte("alive")); err != nil || string(got) != "alive" {
		t.Errorf("after all attempts: got %q, %v", got, err)
	}
}

// TestUnprivileged runs the tests of confinement again as a user without any
// rights, parent and child.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this process is unprivileged, so the other tests have shown it")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestForbidden|TestChildStartsWithNothing|TestMemory)$", "-test.v")
	cmd.Env = []string{"HOME=/nonexistent"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") != 3 {
		t.Errorf("as uid %d: %v\n%s", nobody, err, out)
	}
}

// failure calls the handler and asserts how that ends the child.
func failure(t *testing.T, c *Child, name string, kind error, text string) *Failure {
	t.Helper()
	_, err := c.Call(t.Context(), name, nil)
	var f *Failure
	if !errors.As(err, &f) || !errors.Is(err, kind) || f.Text != text {
		var printed string
		if f != nil {
			printed = f.Output
		}
		t.Fatalf("%s: got %v; want %v: %s\n%s", name, err, kind, text, printed)
	}
	if _, again := c.Call(t.Context(), "echo", nil); again == nil {
		t.Errorf("%s: the child answers after %v", name, err)
	}
	return f
}

func TestMemory(t *testing.T) {
	failure(t, start(t, Limits{Memory: 256 << 20}), "memory", ErrMemory, "policy evaluation used more than 256 MiB of memory")
}

func TestStack(t *testing.T) {
	failure(t, start(t, Limits{Memory: 256 << 20}), "stack", ErrMemory, "policy evaluation nested too deeply: its stack grew past 64 MiB")
}

func TestProcessorTime(t *testing.T) {
	t.Parallel()
	failure(t, start(t, Limits{CPU: time.Second}), "spin", ErrCPU, "policy evaluation used more than 1s of processor time")
}

func TestWallTime(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"block", "spin"} {
		c := start(t, Limits{Wall: 2 * time.Second})
		failure(t, c, name, ErrWall, "policy evaluation took longer than 2s")
	}
}

// A handler that minds its context ends a little before it would be killed, and
// may say where it was.
func TestContextEndsBeforeTheWall(t *testing.T) {
	t.Parallel()
	c := start(t, Limits{Wall: 2 * time.Second})
	_, err := c.Call(t.Context(), "wait", nil)
	if err == nil || err.Error() != "context deadline exceeded" {
		t.Fatalf("wait: got %v", err)
	}
}

func TestPanic(t *testing.T) {
	f := failure(t, start(t, Limits{}), "panic", ErrCrashed, "policy evaluation crashed: panic in panic: boom")
	if !strings.Contains(f.Output, "main_test.go") {
		t.Errorf("output has no stack:\n%s", f.Output)
	}
	f = failure(t, start(t, Limits{}), "panic elsewhere", ErrCrashed, "policy evaluation crashed: panic: far away")
	if !strings.Contains(f.Output, "goroutine ") {
		t.Errorf("output has no stack:\n%s", f.Output)
	}
	failure(t, start(t, Limits{}), "exit", ErrCrashed, "policy evaluation crashed: exit status 0")
}

func TestOutputIsBounded(t *testing.T) {
	c := start(t, Limits{})
	got, err := c.Call(t.Context(), "spam", nil) // 16 MiB
	if err != nil || string(got) != "spoken" {
		t.Fatalf("spam: got %q, %v", got, err)
	}
	if n := len(c.output.String()); n < headSize || n > headSize+tailSize+16 {
		t.Errorf("kept %d bytes, want %d at most", n, headSize+tailSize+16)
	}
}

func TestFramesAreBounded(t *testing.T) {
	c := start(t, Limits{Frame: 1 << 20})
	if _, err := c.Call(t.Context(), "echo", make([]byte, 1<<20+1)); err == nil ||
		err.Error() != "sandbox echo: request of 1048577 bytes is over the limit of 1048576" {
		t.Errorf("request: got %v", err)
	}
	if _, err := c.Call(t.Context(), "huge", nil); err == nil ||
		err.Error() != "huge: response of 2097152 bytes is over the limit of 1048576" {
		t.Errorf("response: got %v", err)
	}
	if _, err := c.Call(t.Context(), "verbose", nil); err == nil || len(err.Error()) > maxText+8 {
		t.Errorf("error text: got %d bytes", len(err.Error()))
	}
	if got, err := c.Call(t.Context(), "echo", make([]byte, 1<<20)); err != nil || len(got) != 1<<20 {
		t.Errorf("exactly the limit: got %d bytes, %v", len(got), err)
	}
	// A child that was taken over is not believed.
	failure(t, c, "lie", ErrCrashed, "policy evaluation crashed: malformed frame: length 4294967295, limit 1048576")
	failure(t, start(t, Limits{}), "chatter", ErrCrashed, "policy evaluation crashed: frame of type 99 in answer to a call")
}

func TestConcurrentChildren(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		c := start(t, Limits{})
		for j := range 4 { // several goroutines share each
			wg.Go(func() {
				want := fmt.Sprint(i, j)
				if got, err := c.Call(t.Context(), "echo", []byte(want)); err != nil || string(got) != want {
					t.Errorf("echo: got %q, %v; want %q", got, err, want)
				}
			})
		}
	}
	wg.Wait()
}

func TestContextKills(t *testing.T) {
	cause := errors.New("the pull request was closed")
	ctx, cancel := context.WithCancelCause(t.Context())
	c, err := Start(ctx, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel(cause)
	if _, err := c.Call(t.Context(), "block", nil); !errors.Is(err, cause) {
		t.Errorf("after Start's context: got %v, want %v", err, cause)
	}

	c = start(t, Limits{})
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := c.Call(ctx, "block", nil); !errors.Is(err, cause) {
		t.Errorf("after the call's context: got %v, want %v", err, cause)
	}
	if _, err := Start(ctx, Limits{}); err == nil {
		t.Errorf("Start under an ended context succeeded")
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := c.Call(t.Context(), "echo", nil); err == nil {
		t.Error("a closed child answers")
	}
}

func TestWithoutMain(t *testing.T) {
	hooked.Store(false)
	defer hooked.Store(true)
	_, err := Start(t.Context(), Limits{})
	want := "sandbox: this program does not call sandbox.Main: refusing to evaluate policy without it"
	if err == nil || err.Error() != want || !errors.Is(err, ErrUnconfined) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// again runs one test in a process of its own, which finds the variable set.
func again(name, variable string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = []string{variable + "=1"}
	return cmd
}

// TestWithoutSeccomp has a filter answer seccomp as a kernel without it does.
func TestWithoutSeccomp(t *testing.T) {
	if os.Getenv("WRIT_SANDBOX_WITHOUT") == "" {
		if out, err := again("TestWithoutSeccomp", "WRIT_SANDBOX_WITHOUT").CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	err := filterCalls([]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetCall},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SECCOMP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(t.Context(), Limits{})
	want := "sandbox: filter system calls (seccomp): function not implemented: refusing to evaluate policy without it"
	if c != nil || !errors.Is(err, ErrUnconfined) || err.Error() != want {
		t.Errorf("got %v, %v; want %s", c, err, want)
	}
}

// TestStricterLimits starts a child where its parent may open fewer files and
// use less processor time than the child would allow itself.
func TestStricterLimits(t *testing.T) {
	if os.Getenv("WRIT_SANDBOX_STRICTER") == "" {
		if out, err := again("TestStricterLimits", "WRIT_SANDBOX_STRICTER").CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Prlimit(0, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 10, Max: 10}, nil); err != nil {
		t.Fatal(err)
	}
	if err := dropRoot(); err != nil { // root may raise what it lowered
		t.Fatal(err)
	}
	c := start(t, Limits{})
	if got, err := c.Call(t.Context(), "echo", []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	var cpu unix.Rlimit
	if err := unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_CPU, nil, &cpu); err != nil || cpu.Max != 10 {
		t.Errorf("processor time: got %d s, %v; want 10", cpu.Max, err)
	}
}

// TestOrphan kills a parent while its child is busy, and waits for the child
// to go.
func TestOrphan(t *testing.T) {
	if os.Getenv("WRIT_SANDBOX_PARENT") != "" {
		c := start(t, Limits{})
		fmt.Printf("child %d\n", c.cmd.Process.Pid)
		c.Call(t.Context(), "spin", nil)
		return
	}
	parent := again("TestOrphan", "WRIT_SANDBOX_PARENT")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	lines, line := bufio.NewReader(stdout), ""
	for !strings.HasPrefix(line, "child ") {
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "child ")))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Skipf("pidfd_open: %v", err)
	}
	defer unix.Close(fd)
	parent.Process.Kill()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("the child lives 10 s after its parent: %d, %v", n, err)
		}
		return
	}
}

// A child started by hand explains itself and does nothing.
func TestByHand(t *testing.T) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{marker}, Env: []string{}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitRefused || string(out) != "writ-sandbox is started by another program, not by hand\n" {
		t.Errorf("got %v, %q", err, out)
	}
}
