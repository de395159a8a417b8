package localapi

import (
	"net"

	"golang.org/x/sys/unix"
)

func credentials(c *net.UnixConn) (who caller) {
	raw, err := c.SyscallConn()
	if err != nil {
		return who
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			who = caller{cred.Uid, true}
		}
	})
	return who
}
