//go:build linux && (amd64 || arm64)

package sandbox

import "golang.org/x/sys/unix"

// allowed are the system calls that may be made with any arguments: what Go's
// runtime (and, race-built, the C library below it) needs to run with files that
// are already open.
var allowed = append([]uint32{
	// open files
	unix.SYS_READ, unix.SYS_READV, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_CLOSE,
	// memory
	unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	// threads
	unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETPID, unix.SYS_GETTID,
	// waiting
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RESTART_SYSCALL,
	// signals
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	// time, chance, and the process itself
	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY, unix.SYS_GETRANDOM,
	unix.SYS_GETRUSAGE, unix.SYS_UNAME, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
}, allowedHere...)

// A condition is on the low half of one argument: masked, it must be one of
// the values.
type condition struct {
	call   uint32
	arg    uint32
	mask   uint32
	values []uint32
}

// conditions are the system calls that may be made with some arguments.
func conditions(pid int) []condition {
	const all = 0xffffffff
	// A new thread, never a new process; and in no new namespace.
	const clone = unix.CLONE_THREAD | unix.CLONE_VM | unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID
	return []condition{
		{unix.SYS_CLONE, 0, clone, []uint32{unix.CLONE_THREAD | unix.CLONE_VM}},
		{unix.SYS_MMAP, 2, unix.PROT_EXEC, []uint32{0}},
		{unix.SYS_MPROTECT, 2, unix.PROT_EXEC, []uint32{0}},
		{unix.SYS_KILL, 0, all, []uint32{uint32(pid)}},
		{unix.SYS_TGKILL, 0, all, []uint32{uint32(pid)}},
		{unix.SYS_PRCTL, 0, all, []uint32{unix.PR_SET_VMA}}, // the runtime names its memory
		{unix.SYS_FCNTL, 1, all, []uint32{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL}},
	}
}

// Offsets in the kernel's struct seccomp_data. Arguments are 64 bits wide, and
// both architectures are little-endian: the low half comes first.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// program is the filter, for a process of that id.
func program(pid int) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		and  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	var p []unix.SockFilter
	emit := func(code uint16, k uint32, jt, jf uint8) {
		p = append(p, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	}
	errno := func(e uint32) uint32 { return unix.SECCOMP_RET_ERRNO | e }

	emit(load, offsetArch, 0, 0)
	emit(jeq, archHere, 1, 0)
	emit(ret, unix.SECCOMP_RET_KILL_PROCESS, 0, 0)
	emit(load, offsetCall, 0, 0)
	for _, call := range allowed {
		emit(jeq, call, 0, 1)
		emit(ret, unix.SECCOMP_RET_ALLOW, 0, 0)
	}
	// The C library asks for clone3 first, whose flags lie in memory where a
	// filter cannot see them, and takes this answer for an older kernel.
	emit(jeq, unix.SYS_CLONE3, 0, 1)
	emit(ret, errno(uint32(unix.ENOSYS)), 0, 0)
	for _, c := range conditions(pid) {
		emit(jeq, c.call, 0, uint8(3+2*len(c.values)))
		emit(load, offsetArgs+8*c.arg, 0, 0)
		emit(and, c.mask, 0, 0)
		for _, v := range c.values {
			emit(jeq, v, 0, 1)
			emit(ret, unix.SECCOMP_RET_ALLOW, 0, 0)
		}
		emit(ret, errno(uint32(unix.EPERM)), 0, 0)
	}
	emit(ret, errno(uint32(unix.EPERM)), 0, 0)
	return p
}
