package sandbox

import "golang.org/x/sys/unix"

const archHere = unix.AUDIT_ARCH_X86_64

// allowedHere are the calls that only this architecture's table has.
var allowedHere = []uint32{unix.SYS_EPOLL_WAIT, unix.SYS_TIME}
