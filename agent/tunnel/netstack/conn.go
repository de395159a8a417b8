package netstack

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// keepaliveIdle is how long a silent connection is left alone before its peer
	// is probed: longer than a WireGuard session (two minutes), so that idle
	// connections do not keep every tunnel awake.
	keepaliveIdle = 5 * time.Minute
	// keepaliveInterval and keepaliveCount: a peer that is gone is noticed 80 s
	// after the first probe.
	keepaliveInterval = 20 * time.Second
	keepaliveCount    = 4
)

// A Conn is a TCP connection of the stack. It has what a *net.TCPConn has that
// forwarding needs: CloseRead, CloseWrite and SetLinger.
type Conn struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	entry waiter.Entry

	writeClosed atomic.Bool // CloseWrite was called
	resetOnce   sync.Once
	reset       chan struct{}
}

var _ net.Conn = (*Conn)(nil)

func newConn(wq *waiter.Queue, ep tcpip.Endpoint) *Conn {
	c := &Conn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, wq: wq, reset: make(chan struct{})}
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	// These three cannot fail for a TCP endpoint.
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	c.entry = waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) { c.check() })
	wq.EventRegister(&c.entry)
	c.check() // it may have happened before
	return c
}

// check closes reset once the connection has failed. It runs inside the stack,
// where no lock may be waited for. The stack calls a connection closed, not
// failed, when the reset comes after the peer's half was closed; one that ends in
// order cannot be closed before this side's half is.
func (c *Conn) check() {
	state := tcp.EndpointState(c.ep.State())
	if state == tcp.StateError || state == tcp.StateClose && !c.writeClosed.Load() {
		c.resetOnce.Do(func() { close(c.reset) })
	}
}

// Reset is closed when the connection has failed as a whole: reset by the peer
// or by a filter in between, or given up by the stack. A connection that is
// half-closed, or that has nobody reading, notices it here alone.
func (c *Conn) Reset() <-chan struct{} { return c.reset }

// Read reads. Its errors carry errnos.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	return n, withErrno(err)
}

// Write writes. Its errors carry errnos.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, withErrno(err)
}

// CloseWrite ends the outgoing half.
func (c *Conn) CloseWrite() error {
	c.writeClosed.Store(true)
	return withErrno(c.TCPConn.CloseWrite())
}

// SetLinger chooses what Close does with unsent data, as for a *net.TCPConn:
// negative sends it in the background, 0 discards it and resets the connection.
func (c *Conn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{
		Enabled: sec >= 0,
		Timeout: time.Duration(max(sec, 0)) * time.Second,
	})
	return nil
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.wq.EventUnregister(&c.entry)
	return c.TCPConn.Close()
}

// A listener accepts TCP connections.
type listener struct {
	// set at construction
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	addr *net.TCPAddr

	closeOnce sync.Once
	closed    chan struct{}
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		ep, wq, err := l.ep.Accept(nil)
		if err == nil {
			return newConn(wq, ep), nil
		}
		select {
		case <-l.closed:
			return nil, opError("accept", "tcp", l.addr, net.ErrClosed)
		default:
		}
		switch err.(type) {
		case *tcpip.ErrWouldBlock, *tcpip.ErrConnectionAborted, *tcpip.ErrConnectionReset:
		case *tcpip.ErrInvalidEndpointState:
			// The stack is gone.
			return nil, opError("accept", "tcp", l.addr, net.ErrClosed)
		default:
			return nil, opError("accept", "tcp", l.addr, cause(err))
		}
		select {
		case <-l.closed:
			return nil, opError("accept", "tcp", l.addr, net.ErrClosed)
		case <-ready:
		}
	}
}

// Close ends Accept. Connections that nobody accepted are reset.
func (l *listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		l.ep.Close()
	})
	return nil
}

// Addr is where the listener listens.
func (l *listener) Addr() net.Addr { return l.addr }
