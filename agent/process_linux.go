package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A process is one whose end can be waited for.
type process struct{ file *os.File } // nil where the kernel does not tell

// processBehind is the one that listens on a socket.
func processBehind(socket string) (p process) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return p // the call that follows says so
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return p
	}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || cred.Pid <= 0 { // 0: it is in another PID namespace
			return
		}
		if pidfd, err := unix.PidfdOpen(int(cred.Pid), 0); err == nil {
			p.file = os.NewFile(uintptr(pidfd), "the agent's process")
		}
	})
	return p
}

// ended waits for the end, where that can be done.
func (p process) ended(ctx context.Context, limit time.Duration) error {
	if p.file == nil {
		return nil
	}
	for began := time.Now(); ; {
		// A pidfd is readable once its process has ended.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.file.Fd()), Events: unix.POLLIN}}, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the agent's end: %w", err)
		case ctx.Err() != nil:
			return errNo{ctx.Err()}
		case time.Since(began) > limit:
			return errNo{fmt.Errorf("the agent was told to go down and still runs after %s", limit)}
		}
	}
}

func (p process) close() {
	if p.file != nil {
		p.file.Close()
	}
}
