package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// The bytes of RFC 1928.
const (
	socksVersion = 5

	methodNone    = 0x00
	methodRefused = 0xff

	commandConnect = 1

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4

	replyConnected          = 0x00
	replyFailure            = 0x01
	replyDenied             = 0x02
	replyNetworkUnreachable = 0x03
	replyHostUnreachable    = 0x04
	replyRefused            = 0x05
	replyCommand            = 0x07
	replyAddressType        = 0x08
)

// A socksError is a request that is answered with a code of its own.
type socksError struct {
	code byte
	text string
}

func (e *socksError) Error() string { return e.text }

// readGreeting reads a client's methods (RFC 1928 section 3), and reports
// whether it can do without authentication.
func readGreeting(r io.Reader) (ok bool, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, err
	}
	if head[0] != socksVersion {
		return false, fmt.Errorf("version %d, want %d", head[0], socksVersion)
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return false, err
	}
	for _, m := range methods {
		if m == methodNone {
			return true, nil
		}
	}
	return false, nil
}

// readRequest reads a request (section 4). It reads exactly what belongs to it:
// a client may send the first bytes of its connection without waiting for the
// reply. A *socksError is to be answered; after any other error nothing sensible
// can be.
func readRequest(r io.Reader) (host string, port uint16, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", 0, err
	}
	if head[0] != socksVersion {
		return "", 0, fmt.Errorf("version %d, want %d", head[0], socksVersion)
	}
	if head[2] != 0 {
		return "", 0, fmt.Errorf("reserved byte %d, want 0", head[2])
	}
	size := 0
	switch head[3] {
	case addressIPv4:
		size = 4
	case addressIPv6:
		size = 16
	case addressName:
		var length [1]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return "", 0, err
		}
		size = int(length[0])
	default:
		return "", 0, &socksError{replyAddressType, fmt.Sprintf("address type %d", head[3])}
	}
	rest := make([]byte, size+2)
	if _, err := io.ReadFull(r, rest); err != nil {
		return "", 0, err
	}
	if head[1] != commandConnect {
		return "", 0, &socksError{replyCommand, fmt.Sprintf("command %d", head[1])}
	}
	host = string(rest[:size])
	if head[3] != addressName {
		addr, _ := netip.AddrFromSlice(rest[:size])
		host = addr.String()
	}
	if host, err = checkHost(host); err != nil {
		return "", 0, &socksError{replyFailure, err.Error()}
	}
	port = binary.BigEndian.Uint16(rest[size:])
	if port == 0 {
		return "", 0, &socksError{replyFailure, "port 0"}
	}
	return host, port, nil
}

// reply is the answer to a request (section 6), with the address that the
// connection comes from, if it is known.
func reply(code byte, local net.Addr) []byte {
	ap := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if tcp, ok := local.(*net.TCPAddr); ok && tcp != nil && tcp.AddrPort().IsValid() {
		ap = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap().WithZone(""), tcp.AddrPort().Port())
	}
	kind := byte(addressIPv4)
	if ap.Addr().Is6() {
		kind = addressIPv6
	}
	b := append([]byte{socksVersion, code, 0, kind}, ap.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

// replyTo is the code for a connection that could not be made.
func replyTo(err error) byte {
	var own *socksError
	var name *net.DNSError
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, ErrDenied):
		return replyDenied
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return replyRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return replyNetworkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), isTimeout(err), errors.As(err, &name):
		return replyHostUnreachable
	}
	return replyFailure
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.As(err, &ne) && ne.Timeout()
}

// socks serves one SOCKS connection.
func (s *Server) socks(ctx context.Context, c *client) {
	refuse := func(err error) {
		s.log.Debug("socks request refused", "error", err)
		c.SetWriteDeadline(time.Now().Add(s.limit.request))
		// The client learns it from the code or from the end of the connection.
		_, _ = c.Write(reply(replyTo(err), nil))
	}
	ok, err := readGreeting(c)
	if err != nil {
		s.log.Debug("socks greeting refused", "error", err)
		return
	}
	c.SetWriteDeadline(time.Now().Add(s.limit.request))
	if !ok {
		_, _ = c.Write([]byte{socksVersion, methodRefused})
		return
	}
	if _, err := c.Write([]byte{socksVersion, methodNone}); err != nil {
		return
	}
	host, port, err := readRequest(c)
	if err != nil {
		refuse(fmt.Errorf("socks request: %w", err))
		return
	}
	conn, err := s.connect(ctx, host, port)
	if err != nil {
		refuse(err)
		return
	}
	c.SetWriteDeadline(time.Now().Add(s.limit.request))
	if _, err := c.Write(reply(replyConnected, conn.LocalAddr())); err != nil {
		reset(conn)
		return
	}
	if err := join(ctx, c, conn, nil, s.limit); err != nil {
		s.log.Debug("proxied connection ended", "host", host, "port", port, "error", err)
	}
}
