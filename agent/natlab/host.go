package natlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
)

// A Host is a node with sockets.
type Host struct {
	// set at construction
	net    *Net
	name   string
	number int
	self   *Interface // by which it reaches its own addresses

	// guarded by net.mu
	interfaces []*Interface
	conns      map[netip.AddrPort]*Conn // by local address; see ListenAddrPort for what the address may be
	next       uint16                   // where the search for a free port begins
	wake       chan struct{}            // closed at the next change of interfaces
}

// Ports that are given out to sockets that ask for none in particular (RFC 6335,
// section 6).
const firstEphemeral, lastEphemeral = 49152, 65535

// Host makes a host without interfaces.
func (n *Net) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, name: name, conns: make(map[netip.AddrPort]*Conn), wake: make(chan struct{})}
	h.number = n.register(name, h)
	h.self = n.attach(h, nil, Link{}, nil, func() {})
	h.next = uint16(firstEphemeral + n.stream(name+" ports").IntN(lastEphemeral-firstEphemeral+1))
	return h
}

// Name is what the host is called.
func (h *Host) Name() string { return h.name }

func (h *Host) index() int { return h.number }

// Attach gives the host an interface on a network.
func (h *Host) Attach(w *Network, link Link, addrs ...netip.Addr) *Interface {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	i := h.net.attach(h, w, link, addrs, h.moved)
	h.interfaces = append(h.interfaces, i)
	h.moved()
	return i
}

// Detach removes an interface for good.
func (h *Host) Detach(i *Interface) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	i.up = false
	i.release()
	h.interfaces = slices.DeleteFunc(h.interfaces, func(o *Interface) bool { return o == i })
	h.moved()
}

// moved wakes those who watch. The Net is locked.
func (h *Host) moved() {
	close(h.wake)
	h.wake = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of the host's
// interfaces or their addresses.
func (h *Host) Changed() <-chan struct{} {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.wake
}

// Addrs returns the addresses of the interfaces that are up, in the order in
// which they were attached.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	var all []netip.Addr
	for _, i := range h.interfaces {
		if i.up {
			all = append(all, i.addrs...)
		}
	}
	return all
}

// route chooses the interface and the source for a packet to dst from a socket
// bound to addr. The Net is locked.
func (h *Host) route(bound, dst netip.Addr) (*Interface, netip.Addr, error) {
	if dst.IsUnspecified() || dst.IsMulticast() || dst.IsLoopback() || dst.Zone() != "" {
		return nil, netip.Addr{}, syscall.ENETUNREACH
	}
	if bound.IsValid() && bound.Is4() != dst.Is4() {
		return nil, netip.Addr{}, syscall.EAFNOSUPPORT
	}
	var best *Interface
	var source netip.Addr
	longest := -1
	for _, i := range h.interfaces {
		src := i.source(dst)
		if bound.IsValid() && !bound.IsUnspecified() {
			if !i.has(bound) {
				continue
			}
			src = bound
		}
		if !i.up || !src.IsValid() {
			continue
		}
		if i.has(dst) {
			return h.self, dst, nil
		}
		bits := i.network.match(dst)
		if bits < 0 && i.network.gateway(dst) == nil {
			continue
		}
		if best == nil || bits > longest {
			best, source, longest = i, src, bits
		}
	}
	if best == nil {
		return nil, netip.Addr{}, syscall.ENETUNREACH
	}
	return best, source, nil
}

// send sends one packet from a socket.
func (h *Host) send(c *Conn, payload []byte, dst netip.AddrPort) error {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if !dst.IsValid() || dst.Port() == 0 {
		return os.NewSyscallError("sendto", syscall.EINVAL)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	i, src, err := h.route(c.local.Addr(), dst.Addr())
	if err != nil {
		return os.NewSyscallError("sendto", err)
	}
	p := packet{src: netip.AddrPortFrom(src, c.local.Port()), dst: dst, payload: slices.Clone(payload), last: h.name}
	if len(payload) > maxPayload || p.size() > i.link.mtu() {
		return os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}
	i.transmit(p, i == h.self)
	return nil
}

func (h *Host) receive(p packet, in *Interface) {
	// A host takes a packet only on the interface that has the address.
	if in != h.self && !in.has(p.dst.Addr()) {
		h.net.drop(h, p, NoRoute)
		return
	}
	c := h.conns[p.dst]
	if c == nil {
		c = h.conns[netip.AddrPortFrom(unspecified(p.dst.Addr()), p.dst.Port())]
	}
	if c == nil {
		c = h.conns[netip.AddrPortFrom(netip.Addr{}, p.dst.Port())]
	}
	if c == nil {
		h.net.drop(h, p, NoSocket)
		return
	}
	if why := c.deliver(p); why != "" {
		h.net.drop(h, p, why)
	}
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// ListenUDP opens a socket on a port, for both families and every address; port 0
// stands for a free one.
func (h *Host) ListenUDP(port uint16) (*Conn, error) {
	return h.ListenAddrPort(netip.AddrPortFrom(netip.Addr{}, port))
}

// ListenAddrPort opens a socket for one address of the host, for one family (the
// unspecified address of it), or for both (the zero Addr). Port 0 stands for a
// free one.
func (h *Host) ListenAddrPort(local netip.AddrPort) (*Conn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	port, err := h.bind(local)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: udpAddr(local), Err: err}
	}
	c := newConn(h, netip.AddrPortFrom(local.Addr(), port))
	h.conns[c.local] = c
	return c, nil
}

// bind checks an address for a socket and finds a port. The Net is locked.
func (h *Host) bind(local netip.AddrPort) (uint16, error) {
	if h.net.closed {
		return 0, net.ErrClosed
	}
	addr := local.Addr()
	if addr.IsValid() && !addr.IsUnspecified() {
		if !slices.ContainsFunc(h.interfaces, func(i *Interface) bool { return i.has(addr) }) {
			return 0, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
		}
	}
	if local.Port() != 0 {
		if !h.free(local) {
			return 0, os.NewSyscallError("bind", syscall.EADDRINUSE)
		}
		return local.Port(), nil
	}
	for range lastEphemeral - firstEphemeral + 1 {
		port := h.next
		h.next++
		if h.next < firstEphemeral { // after 65535
			h.next = firstEphemeral
		}
		if h.free(netip.AddrPortFrom(addr, port)) {
			return port, nil
		}
	}
	return 0, os.NewSyscallError("bind", syscall.EADDRINUSE)
}

// free reports whether no socket stands in the way of one at local. A socket of
// one address and one of every address may share a port: the former has its
// packets. The Net is locked.
func (h *Host) free(local netip.AddrPort) bool {
	for have := range h.conns {
		if have.Port() != local.Port() {
			continue
		}
		a, b := have.Addr(), local.Addr()
		if a == b || !a.IsValid() && b.IsUnspecified() || !b.IsValid() && a.IsUnspecified() {
			return false
		}
	}
	return true
}

// unbind takes a socket out of service. The Net is not locked.
func (h *Host) unbind(c *Conn) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.conns[c.local] == c {
		delete(h.conns, c.local)
	}
}

var errAddress = errors.New("address is no *net.UDPAddr")

func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if !a.Addr().IsValid() {
		return &net.UDPAddr{IP: net.IPv6unspecified, Port: int(a.Port())}
	}
	return net.UDPAddrFromAddrPort(a)
}

func (h *Host) String() string { return fmt.Sprintf("host %s", h.name) }
