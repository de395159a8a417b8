package natlab

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// maxPayload is the longest datagram that an IPv4 packet can hold.
const maxPayload = 65535 - 20 - 8

// receiveBuffer is how many bytes may wait to be read: Linux's usual default,
// 208 KiB. Each packet counts a little more than its payload, so that empty ones
// end too.
const receiveBuffer, perPacket = 208 << 10, 256

// A Conn is a UDP socket. It is safe for concurrent use, and has the methods of
// *net.UDPConn that programs use, with their meaning. Addresses of IPv4 are plain,
// never mapped into IPv6.
type Conn struct {
	// set at construction
	host  *Host
	local netip.AddrPort

	mu      sync.Mutex
	changed sync.Cond // of mu: something below is different
	// guarded by mu
	closed        bool
	waiting       []received
	bytes         int // of waiting
	readDeadline  time.Time
	writeDeadline time.Time
	alarm         *time.Timer // wakes readers at readDeadline; nil without one
}

type received struct {
	from    netip.AddrPort
	payload []byte
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(h *Host, local netip.AddrPort) *Conn {
	c := &Conn{host: h, local: local}
	c.changed.L = &c.mu
	return c
}

// deliver puts a packet in the receive buffer.
func (c *Conn) deliver(p packet) Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return NoSocket
	}
	cost := len(p.payload) + perPacket
	if c.bytes+cost > receiveBuffer {
		return BufferFull
	}
	c.bytes += cost
	c.waiting = append(c.waiting, received{p.src, p.payload})
	// Several may read, and SetReadDeadline may be for one that waits: all look.
	c.changed.Broadcast()
	return ""
}

// ReadFromUDPAddrPort reads one packet. What does not fit in b is lost.
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.closed {
			return 0, netip.AddrPort{}, c.fail("read", net.ErrClosed)
		}
		if !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline) {
			return 0, netip.AddrPort{}, c.fail("read", os.ErrDeadlineExceeded)
		}
		if len(c.waiting) > 0 {
			r := c.waiting[0]
			c.waiting[0] = received{}
			c.waiting = c.waiting[1:]
			c.bytes -= len(r.payload) + perPacket
			return copy(b, r.payload), r.from, nil
		}
		c.changed.Wait()
	}
}

// WriteToUDPAddrPort sends one packet. It never blocks. It fails where the host
// knows no way to the address or the packet is over the MTU of the first link;
// what happens further on it cannot know.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.mu.Lock()
	closed, deadline := c.closed, c.writeDeadline
	c.mu.Unlock()
	if closed {
		return 0, c.fail("write", net.ErrClosed)
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	}
	if err := c.host.send(c, b, to); err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: udpAddr(to), Err: err}
	}
	return len(b), nil
}

// ReadFrom is ReadFromUDPAddrPort for net.PacketConn.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is WriteToUDPAddrPort for net.PacketConn; the address is a
// *net.UDPAddr.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || u == nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: to, Err: errAddress}
	}
	return c.WriteToUDPAddrPort(b, u.AddrPort())
}

// LocalAddr is a *net.UDPAddr.
func (c *Conn) LocalAddr() net.Addr { return udpAddr(c.local) }

// Close frees the port. Reads that wait end with net.ErrClosed.
func (c *Conn) Close() error {
	c.host.unbind(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.waiting, c.bytes = nil, 0
	c.stopAlarm()
	c.changed.Broadcast()
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends reads at t, those that wait already too.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.readDeadline = t
	c.stopAlarm()
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		c.alarm = time.AfterFunc(wait, c.wake)
	}
	c.changed.Broadcast()
	return nil
}

// SetWriteDeadline lets writes fail from t on.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.writeDeadline = t
	return nil
}

func (c *Conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
}

// stopAlarm is called with mu held.
func (c *Conn) stopAlarm() {
	if c.alarm != nil {
		c.alarm.Stop()
		c.alarm = nil
	}
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Addr: c.LocalAddr(), Err: err}
}
