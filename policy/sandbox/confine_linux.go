//go:build linux && (amd64 || arm64)

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nobody is the user and group a child of root becomes.
const nobody = 65534

// maxFiles is more than the child has open: five, and what the runtime waits
// with. It can open none.
const maxFiles = 16

func confinable() error { return nil }

// attributes give the child its own process group: a terminal's ^C reaches the
// parent, which then ends the child itself.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killed reports whether the process ended by a signal that nobody can catch,
// or by the one for processor time.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && (status.Signal() == syscall.SIGKILL || status.Signal() == syscall.SIGXCPU)
}

// residentPeak is how much memory the process had at its largest. Of the limit
// (which counts what was asked for, thread stacks included) Go's heap can touch
// more than half.
func residentPeak(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

// confine gives up, for the rest of this process's life, whatever evaluation
// does not need. On an error the process must not evaluate anything.
func confine(s setup) error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	if err := limit(s); err != nil {
		return err
	}
	if err := dropRoot(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	if err := filterCalls(program(os.Getpid())); err != nil {
		return err
	}
	// Trust the kernel's answer, then look.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err == nil {
		unix.Close(fd)
		return errors.New("the system-call filter lets a socket through")
	}
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the system-call filter answers a socket with: %w", err)
	}
	return nil
}

// closeInherited closes the files that came through exec. They are those above
// 4 without the close-on-exec mark: what this process opened itself has it.
func closeInherited() error {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 4 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// limit sets the resource limits, soft and hard alike: at the hard limit for
// processor time the kernel kills, and no signal can be handled.
func limit(s setup) error {
	memory := uint64(s.Memory)
	if raceBuilt {
		base, err := privateMemory()
		if err != nil {
			return fmt.Errorf("read the size of this process: %w", err)
		}
		memory = base + 6*memory
	}
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"memory", unix.RLIMIT_DATA, memory},
		{"processor time", unix.RLIMIT_CPU, s.CPU},
		{"open files", unix.RLIMIT_NOFILE, maxFiles},
		{"core", unix.RLIMIT_CORE, 0},
		{"file size", unix.RLIMIT_FSIZE, 0},
	} {
		var have unix.Rlimit
		if err := unix.Prlimit(0, l.resource, nil, &have); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
		value := min(l.value, have.Max) // a stricter limit from outside stays
		if err := unix.Prlimit(0, l.resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	return nil
}

// privateMemory is what RLIMIT_DATA counts of this process.
func privateMemory() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmData:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmData in /proc/self/status")
}

// dropRoot makes root nobody. In a user namespace without that user it does
// nothing: root there is an ordinary user outside, and the filter holds it.
func dropRoot() error {
	if os.Geteuid() != 0 {
		return nil
	}
	unmapped := func(err error) bool {
		return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
	}
	if err := syscall.Setgroups(nil); err != nil && !unmapped(err) {
		return fmt.Errorf("drop groups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil && !unmapped(err) {
		return fmt.Errorf("drop root's group: %w", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil && !unmapped(err) {
		return fmt.Errorf("drop root: %w", err)
	}
	return nil
}

// filterCalls puts the program before every system call of every thread.
func filterCalls(program []unix.SockFilter) error {
	// The no-new-privileges mark belongs to a thread; the filter's installation
	// passes both on to all others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("filter system calls (seccomp): %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("filter system calls (seccomp): thread %d cannot be filtered", thread)
	}
	return nil
}
