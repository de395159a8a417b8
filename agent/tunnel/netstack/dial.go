package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections a listener holds that nobody accepted yet.
const backlog = 256

// errNetwork is the answer to a network that the stack does not speak.
var errNetwork = errors.New("network is none of tcp, tcp4, tcp6, udp, udp4, udp6")

// parse reads "ip:port". An empty host, allowed for listeners only, is every
// address of the node.
func parse(network, addr string, emptyHost bool) (netip.AddrPort, error) {
	family := strings.TrimPrefix(strings.TrimPrefix(network, "tcp"), "udp")
	if len(family) == len(network) || family != "" && family != "4" && family != "6" {
		return netip.AddrPort{}, errNetwork
	}
	if port, ok := strings.CutPrefix(addr, ":"); ok && emptyHost {
		addr = "[::]:" + port
		if family == "4" {
			addr = "0.0.0.0:" + port
		}
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.AddrPort{}, errors.New("not an address and a port")
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	switch {
	case ap.Addr().Zone() != "":
		return netip.AddrPort{}, errors.New("address has a zone")
	case family == "4" && !ap.Addr().Is4(), family == "6" && !ap.Addr().Is6():
		return netip.AddrPort{}, errors.New("address is of the other family")
	}
	return ap, nil
}

func full(ap netip.AddrPort) tcpip.FullAddress {
	a := tcpip.FullAddress{NIC: nic, Port: ap.Port()}
	if !ap.Addr().IsUnspecified() {
		a.Addr = tcpip.AddrFromSlice(ap.Addr().AsSlice())
	}
	return a
}

// Dial connects to addr, an IP address and a port.
func (d *Device) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := parse(network, addr, false)
	if err != nil {
		return nil, opError("dial", network, textAddr{network, addr}, err)
	}
	if strings.HasPrefix(network, "udp") {
		remote := full(ap)
		c, err := gonet.DialUDP(d.stack, nil, &remote, protocolOf(ap.Addr()))
		if err != nil {
			return nil, withErrno(err)
		}
		return c, nil
	}
	c, err := d.dialTCP(ctx, ap)
	if err != nil {
		return nil, opError("dial", network, ap, err)
	}
	return c, nil
}

func (d *Device) dialTCP(ctx context.Context, ap netip.AddrPort) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	wq := new(waiter.Queue)
	ep, err := d.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(ap.Addr()), wq)
	if err != nil {
		return nil, cause(err)
	}
	entry, done := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	err = ep.Connect(full(ap))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err()
		case <-done:
		}
		err = ep.LastError()
	}
	if err != nil {
		ep.Close()
		return nil, cause(err)
	}
	return newConn(wq, ep), nil
}

// Listen accepts TCP connections at addr, one of the node's addresses and a
// port. Without a host it is every address of the node.
func (d *Device) Listen(network, addr string) (net.Listener, error) {
	ap, err := parse(network, addr, true)
	if err == nil && !strings.HasPrefix(network, "tcp") {
		err = errors.New("network is none of tcp, tcp4, tcp6")
	}
	if err == nil && !d.isOwn(ap.Addr()) {
		err = syscall.EADDRNOTAVAIL
	}
	if err != nil {
		return nil, opError("listen", network, textAddr{network, addr}, err)
	}
	fail := func(err tcpip.Error) (net.Listener, error) {
		return nil, opError("listen", network, ap, cause(err))
	}
	wq := new(waiter.Queue)
	ep, terr := d.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(ap.Addr()), wq)
	if terr != nil {
		return fail(terr)
	}
	ep.SocketOptions().SetV6Only(network == "tcp6")
	if terr := ep.Bind(full(ap)); terr != nil {
		ep.Close()
		return fail(terr)
	}
	if terr := ep.Listen(backlog); terr != nil {
		ep.Close()
		return fail(terr)
	}
	local, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return fail(terr)
	}
	return &listener{
		ep:     ep,
		wq:     wq,
		addr:   net.TCPAddrFromAddrPort(netip.AddrPortFrom(ap.Addr(), local.Port)),
		closed: make(chan struct{}),
	}, nil
}

// ListenPacket receives UDP datagrams at addr, one of the node's addresses and a
// port. Without a host it is every address of the node.
func (d *Device) ListenPacket(network, addr string) (net.PacketConn, error) {
	ap, err := parse(network, addr, true)
	if err == nil && !strings.HasPrefix(network, "udp") {
		err = errors.New("network is none of udp, udp4, udp6")
	}
	if err == nil && !d.isOwn(ap.Addr()) {
		err = syscall.EADDRNOTAVAIL
	}
	if err != nil {
		return nil, opError("listen", network, textAddr{network, addr}, err)
	}
	local := full(ap)
	c, err := gonet.DialUDP(d.stack, &local, nil, protocolOf(ap.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, withErrno(err))
	}
	return c, nil
}

// isOwn reports whether a listener may listen there. The stack itself would take
// any address on its interface's word.
func (d *Device) isOwn(a netip.Addr) bool {
	return a.IsUnspecified() || slices.Contains(d.addrs, a)
}

// source is the node's own address of a's family.
func (d *Device) source(a netip.Addr) (netip.Addr, bool) {
	for _, own := range d.addrs {
		if own.Is4() == a.Is4() {
			return own, true
		}
	}
	return netip.Addr{}, false
}
