package netstack

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// errnos is what the kernel would have said. gVisor's connections report their
// errors as the text of a tcpip.Error, so the text is the key.
var errnos = map[string]syscall.Errno{
	(&tcpip.ErrConnectionRefused{}).String():         syscall.ECONNREFUSED,
	(&tcpip.ErrConnectionReset{}).String():           syscall.ECONNRESET,
	(&tcpip.ErrConnectionAborted{}).String():         syscall.ECONNABORTED,
	(&tcpip.ErrAborted{}).String():                   syscall.ECONNABORTED,
	(&tcpip.ErrHostUnreachable{}).String():           syscall.EHOSTUNREACH,
	(&tcpip.ErrHostDown{}).String():                  syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String():        syscall.ENETUNREACH,
	(&tcpip.ErrNoNet{}).String():                     syscall.ENETUNREACH,
	(&tcpip.ErrTimeout{}).String():                   syscall.ETIMEDOUT,
	(&tcpip.ErrPortInUse{}).String():                 syscall.EADDRINUSE,
	(&tcpip.ErrNoPortAvailable{}).String():           syscall.EADDRNOTAVAIL,
	(&tcpip.ErrBadLocalAddress{}).String():           syscall.EADDRNOTAVAIL,
	(&tcpip.ErrBadAddress{}).String():                syscall.EADDRNOTAVAIL,
	(&tcpip.ErrClosedForSend{}).String():             syscall.EPIPE,
	(&tcpip.ErrMessageTooLong{}).String():            syscall.EMSGSIZE,
	(&tcpip.ErrNotConnected{}).String():              syscall.ENOTCONN,
	(&tcpip.ErrAddressFamilyNotSupported{}).String(): syscall.EAFNOSUPPORT,
	(&tcpip.ErrInvalidEndpointState{}).String():      syscall.EINVAL,
}

// cause is the errno of a tcpip.Error, or else its text.
func cause(err tcpip.Error) error {
	if errno, ok := errnos[err.String()]; ok {
		return errno
	}
	return errors.New(err.String())
}

// withErrno puts the errno in the place of the text of a gVisor connection's
// error. Errors that say something else (a deadline, end of file) stay.
func withErrno(err error) error {
	if op, ok := err.(*net.OpError); ok && op.Err != nil {
		if errno, ok := errnos[op.Err.Error()]; ok {
			op.Err = errno
		}
	}
	return err
}

func opError(op, network string, addr fmt.Stringer, err error) error {
	return &net.OpError{Op: op, Net: network, Addr: textAddr{network, addr.String()}, Err: err}
}

// A textAddr is the address in an error.
type textAddr struct{ network, text string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.text }
