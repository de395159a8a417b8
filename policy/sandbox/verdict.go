package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// verdict says why the child ended. It is called after done.
//
// Exit codes do not tell: Go exits 2 for a panic and when memory runs out. In
// order: our own reason for killing it, the processor time it used, what its
// runtime printed, the signal or code.
func (c *Child) verdict() error {
	c.mu.Lock()
	reason := c.reason
	c.mu.Unlock()
	printed := c.output.String()
	fail := func(kind error, format string, args ...any) error {
		return &Failure{Kind: kind, Text: "policy evaluation " + fmt.Sprintf(format, args...), Output: printed}
	}
	var failure *Failure
	switch {
	case errors.Is(reason, ErrWall):
		return fail(ErrWall, "took longer than %s", c.limits.Wall)
	case errors.As(reason, &failure):
		f := *failure
		if f.Output == "" {
			f.Output = printed
		}
		return &f
	}
	state := c.cmd.ProcessState
	if state == nil {
		return fail(ErrCrashed, "crashed: its end was not seen")
	}
	used := state.UserTime() + state.SystemTime()
	// The kernel kills by a clock that it reads a little apart from the figure
	// it reports.
	if killed(state) && reason == nil && used >= c.limits.CPU-500*time.Millisecond {
		return fail(ErrCPU, "used more than %s of processor time", c.limits.CPU)
	}
	cause, memory := diagnose(printed)
	// Denied memory in the wrong place, Go's runtime also dies of a nil pointer
	// of its own. A panic, on the other hand, is always what it says.
	if !memory && reason == nil && !strings.HasPrefix(cause, "panic: ") && !state.Success() &&
		residentPeak(state) >= c.limits.Memory/2 {
		memory, cause = true, ""
	}
	switch {
	case memory && strings.Contains(cause, "stack"):
		return fail(ErrMemory, "nested too deeply: its stack grew past %d MiB", stackLimit(c.limits.Memory)>>20)
	case memory:
		return fail(ErrMemory, "used more than %d MiB of memory", c.limits.Memory>>20)
	case reason != nil: // a context, or Close
		return fmt.Errorf("policy evaluation stopped: %w", reason)
	case cause != "":
		return fail(ErrCrashed, "crashed: %s", cause)
	default:
		return fail(ErrCrashed, "crashed: %s", state)
	}
}

// outOfMemory are the beginnings of what Go's runtime, and the race detector's,
// print when the kernel gives no more memory.
var outOfMemory = []string{
	"fatal error: runtime: out of memory",
	"fatal error: out of memory",
	"fatal error: runtime: cannot allocate memory",
	"fatal error: runtime: cannot map pages in arena address space",
	"fatal error: failed to reserve page summary memory",
	"fatal error: runtime.newosproc",
	"fatal error: stack overflow",
	"runtime: goroutine stack exceeds",
	"runtime: out of memory",
	"runtime: cannot allocate memory",
	"runtime: failed to create new OS thread",
	"runtime/cgo: pthread_create failed", // its stack is private memory, too
}

// diagnose finds in what a dying process printed the line that says why, and
// whether that is memory. Without such a line the cause is empty.
func diagnose(printed string) (cause string, memory bool) {
	for line := range strings.Lines(printed) {
		line = strings.TrimSpace(line)
		for _, prefix := range outOfMemory {
			if strings.HasPrefix(line, prefix) {
				return firstLine(line), true
			}
		}
		if strings.Contains(line, "ThreadSanitizer") &&
			(strings.Contains(line, "failed to allocate") || strings.Contains(line, "out of memory") || strings.Contains(line, "error code: 12")) {
			return firstLine(line), true
		}
		if cause == "" && (strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "SIG")) {
			cause = firstLine(line)
		}
	}
	return cause, false
}
