package proxy

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// A client is an accepted connection whose first byte can be looked at, and
// which can be closed by several hands.
type client struct {
	net.Conn

	first  [1]byte
	unread int // bytes of first that Read has not handed out; owned by the reader

	closeOnce sync.Once
	closeErr  error
}

// peek is the first byte that the client sends, or 0 when there is none. It
// comes before any Read.
func (c *client) peek() byte {
	n, err := c.Conn.Read(c.first[:])
	if n != 1 || err != nil {
		return 0
	}
	c.unread = 1
	return c.first[0]
}

// Read reads what peek has read, and then the rest.
func (c *client) Read(b []byte) (int, error) {
	if c.unread > 0 && len(b) > 0 {
		c.unread = 0
		b[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(b)
}

// Close closes the connection, once.
func (c *client) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.Conn.Close() })
	return c.closeErr
}

// abort resets the connection, if it is not closed.
func (c *client) abort() {
	c.closeOnce.Do(func() { c.closeErr = reset(c.Conn) })
}

// CloseWrite ends the outgoing half.
func (c *client) CloseWrite() error { return closeWrite(c.Conn) }

// Reset is the connection's, or nil, which is never ready.
func (c *client) Reset() <-chan struct{} { return resetOf(c.Conn) }

// reset closes conn so that its peer sees a reset: with nothing lingering, TCP
// has no other way to close. Connections of another kind are closed.
func reset(conn net.Conn) error {
	switch c := conn.(type) {
	case *client:
		c.abort()
		return nil
	case interface{ SetLinger(sec int) error }:
		// An error means that the connection is gone already.
		_ = c.SetLinger(0)
	}
	return conn.Close()
}

var errNoHalves = errors.New("connection has no halves to close")

func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errNoHalves
}

// resetOf is closed when conn has failed as a whole, if conn can tell.
func resetOf(conn net.Conn) <-chan struct{} {
	if c, ok := conn.(interface{ Reset() <-chan struct{} }); ok {
		return c.Reset()
	}
	return nil
}

// isResourceError reports whether the machine is out of something that others
// will give back, or a client left before it was accepted.
func isResourceError(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
