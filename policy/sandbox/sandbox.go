// Package sandbox evaluates policy in a process that can do nothing else.
//
// CUE and Rego are languages, and what is written in them comes from whoever
// opens a pull request. Neither engine can be cancelled safely in the process
// it runs in: some inputs of twenty bytes never end, others ask for all memory
// there is. So the running program executes itself again, the child gives up
// everything but two pipes, and what it computes comes back as bytes. One
// child serves one build: load, generate and guard, one call after another.
//
// # Flow
//
//  1. The parent executes /proc/self/exe with argv[0] "writ-sandbox", an empty
//     environment, "/" as its directory, its own process group, and these
//     files: 0 is /dev/null, 1 and 2 are captured, 3 carries frames to the
//     child, 4 carries frames back.
//  2. The child's main calls [Main] before anything else. Seeing argv[0] it
//     never returns from there.
//  3. parent: setup, the limits. The child confines itself (below) and answers
//     ready, or refused with the reason. Nothing from outside is read before.
//  4. parent: call; child: answer or failed. Repeated, one at a time.
//  5. The parent kills the child when it is done with it. The child ends itself
//     when file 3 ends, also in the middle of a call: a parent that was killed
//     leaves nobody behind.
//
// # Confinement
//
// In this order, and each step must succeed:
//
//   - every inherited file above 4 is closed; the process is not dumpable;
//   - RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NOFILE, RLIMIT_CORE 0, RLIMIT_FSIZE 0;
//   - root becomes uid and gid 65534 without groups, unless its user namespace
//     has no such user (then the filter alone holds it);
//   - no new privileges, and a system-call filter over all threads. It lists
//     what Go's runtime needs (memory, threads, time, signals to itself, reading
//     and writing open files) and answers EPERM to the rest: no socket, no open,
//     no exec, no fork, no ptrace, no executable memory. A call through another
//     architecture's table kills the process.
//   - a socket is asked for, and must be refused.
//
// None of it needs root. Where it cannot be done (another system, another
// architecture, a kernel without seccomp) the package refuses to evaluate.
//
// The child does not read files, so its time zone is UTC and its results do
// not depend on the machine's zone database.
//
// # Envelope
//
//	bytes  what
//	4      length of what follows, big-endian; at least 1
//	1      type
//	n      body
//
// Types, which are never reused:
//
//	1 setup    JSON: memory, frame (bytes), cpu (seconds)
//	2 ready    empty
//	3 refused  text: why the child cannot be confined; it exits
//	4 call     1 byte length of name, name, 8 bytes of nanoseconds the call may
//	           take (big-endian), request
//	5 answer   response
//	6 failed   text of the handler's error
//	7 panicked text: the handler's panic and its stack; the child exits
//
// # Limits
//
// Memory 1 GiB, 20 s of processor time and 30 s of calls over the child's
// life, 64 MiB for a frame, 16+64 KiB kept of what the child prints (the
// beginning and the end). The one that was exceeded is named by the error:
// [ErrMemory], [ErrCPU], [ErrWall]; anything else that ends the child is
// [ErrCrashed].
//
// # What a decoder must reject
//
// A length of zero or over the limit; a type it does not expect in its state;
// a setup that is not JSON of exactly those fields; a call shorter than its
// head. The parent believes the child no more than it believes the policy: it
// reads only as much as has arrived, and takes answers for data.
package sandbox

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// A Handler computes a response from a request, inside the child. The context
// ends when the call's time is up; the process is killed shortly after.
type Handler func(ctx context.Context, request []byte) ([]byte, error)

// Limits are what one child may use. Zero fields take the default.
type Limits struct {
	Memory int64         // bytes of private memory; 1 GiB
	CPU    time.Duration // processor time, in whole seconds (rounded up); 20 s
	Wall   time.Duration // time in calls, the start included; 30 s
	Frame  int           // bytes of one request or response; 64 MiB
}

const (
	// defaultMemory leaves some 950 MB of heap. CUE takes 600 MB for 10,000 users and
	// 10,000 rules of which one file is not plain data.
	defaultMemory = 1 << 30
	// defaultCPU and defaultWall together end any evaluation within 31 s.
	defaultCPU  = 20 * time.Second
	defaultWall = 30 * time.Second
	// defaultFrame holds a source tree at its largest, and a model of 100,000
	// rules as JSON.
	defaultFrame = 64 << 20
	// minMemory is what Go's runtime, its threads' stacks and the linked engines
	// need, and as much again to evaluate in; less is raised to it.
	minMemory = 256 << 20
)

func (l Limits) withDefaults() Limits {
	if l.Memory <= 0 {
		l.Memory = defaultMemory
	}
	l.Memory = max(l.Memory, minMemory)
	if l.CPU <= 0 {
		l.CPU = defaultCPU
	}
	l.CPU = (l.CPU + time.Second - 1).Truncate(time.Second)
	if l.Wall <= 0 {
		l.Wall = defaultWall
	}
	if l.Frame <= 0 {
		l.Frame = defaultFrame
	}
	return l
}

// The limit that ended a child. A [Failure] wraps one of them.
var (
	ErrMemory  = errors.New("out of memory")
	ErrCPU     = errors.New("out of processor time")
	ErrWall    = errors.New("out of time")
	ErrCrashed = errors.New("crashed")
)

// ErrUnconfined says that this system cannot hold a child to its limits, or
// that the program has no [Main]: nothing is evaluated then.
var ErrUnconfined = errors.New("refusing to evaluate policy without it")

// A Failure says why a child ended before it answered.
type Failure struct {
	Kind   error  // ErrMemory, ErrCPU, ErrWall or ErrCrashed
	Text   string // for the policy's author
	Output string // the beginning and end of what the child printed; for a log
}

func (f *Failure) Error() string { return f.Text }
func (f *Failure) Unwrap() error { return f.Kind }

// A CallError is an error that the handler returned. The child lives on.
type CallError struct {
	Handler string
	Text    string
}

func (e *CallError) Error() string { return e.Text }

// marker is the child's argv[0]. Its environment is empty, so this is all that
// tells it what it is.
const marker = "writ-sandbox"

// hooked is set once Main has returned in a parent: a program without Main
// would run itself, not a child, when executed again.
var hooked atomic.Bool

// Main serves calls and exits if this process is a child, and returns at once
// if it is not. It comes first in the main of every program, and in TestMain of
// every test, that calls [Start].
func Main(handlers map[string]Handler) {
	if len(os.Args) != 1 || os.Args[0] != marker {
		hooked.Store(true)
		return
	}
	os.Exit(serve(handlers))
}
