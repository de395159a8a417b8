//go:build !linux

package stun

import (
	"net"
	"syscall"
)

// openUDP leaves the choice of the source to the kernel: a server with several
// addresses needs a socket for each.
func openUDP(c *net.UDPConn) door { return &plain{pc: c} }

var control func(network, address string, c syscall.RawConn) error
