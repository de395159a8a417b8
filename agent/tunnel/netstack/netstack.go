// Package netstack is a TCP/IP stack inside the process, behind the tun.Device
// interface: how an agent without privileges, or a program that embeds one, has
// a mesh address.
//
// # Flow
//
//	Dial, Listen, Ping … → gVisor → link's queue → Read  → tunnel → WireGuard
//	Dial, Listen, Ping … ← gVisor ←               Write ← tunnel ← WireGuard
//
// Read hands out up to BatchSize packets in one call. Write may be called by
// several goroutines. Interrupt lets one Read return without a packet, so that
// the tunnel can slip one of its own in.
//
// gVisor can join TCP segments before they climb the stack (package gro), but
// then believes every checksum, also of the packets that were not joined. The
// checksums stay verified instead: a subnet router passes on what its LAN broke.
//
// # Limits
//
// The queue towards the mesh holds queueLength packets; what comes beyond is
// dropped and counted, as a network card would. The stack answers pings and, for
// closed ports, resets; it forwards nothing, accepts no packet for an address
// that is not its own, and sends nothing unasked (no router solicitations, no
// duplicate address detection, no multicast reports).
//
// Addresses are literals: names are the resolver's. Errors of TCP connections
// carry the errno that the kernel's would (ECONNREFUSED, ECONNRESET,
// EHOSTUNREACH, …), so that errors.Is works on both alike.
package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// nic is the number of the stack's only interface.
	nic tcpip.NICID = 1

	// minMTU is what IPv6 demands of every link (RFC 8200 section 5).
	minMTU = 1280
	// maxMTU is the largest MTU of a mesh.
	maxMTU = 9000

	// A TCP window of 4 MiB fills a path of 320 Mbit/s at 100 ms. Buffers start at
	// the defaults and grow when a connection needs them, so that a thousand idle
	// connections cost nothing.
	minBuffer     = 4 << 10
	defaultBuffer = 256 << 10
	maxBuffer     = 4 << 20
)

// Config is what a Device is made of.
type Config struct {
	// Addrs are the node's own addresses: at least one, IPv4 or IPv6.
	Addrs []netip.Addr

	// Routes are the prefixes that lie behind the device. Nil means every
	// address of the families in Addrs. Dialling anything else answers "network
	// is unreachable" at once.
	Routes []netip.Prefix

	// MTU is the device's, from 1280 to 9000.
	MTU int
}

// A Device is a TCP/IP stack with addresses of its own.
type Device struct {
	// set at construction
	stack  *stack.Stack
	link   *link
	addrs  []netip.Addr
	mtu    int
	events chan tun.Event

	closeOnce sync.Once
}

var _ tun.Device = (*Device)(nil)

// New makes a stack and brings its interface up.
func New(cfg Config) (*Device, error) {
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, fmt.Errorf("new netstack: mtu %d, want %d to %d", cfg.MTU, minMTU, maxMTU)
	}
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("new netstack: no address")
	}
	for _, a := range cfg.Addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return nil, fmt.Errorf("new netstack: address %s cannot be a node's", a)
		}
	}
	d := &Device{
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			HandleLocal:        true, // the node reaches its own address without the mesh
		}),
		link:   newLink(uint32(cfg.MTU)),
		addrs:  append([]netip.Addr(nil), cfg.Addrs...),
		mtu:    cfg.MTU,
		events: make(chan tun.Event, 1),
	}
	if err := d.configure(cfg); err != nil {
		d.Close()
		return nil, fmt.Errorf("new netstack: %w", err)
	}
	d.events <- tun.EventUp
	return d, nil
}

func (d *Device) configure(cfg Config) error {
	sack := tcpip.TCPSACKEnabled(true) // off unless asked for
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	recv := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &recv, &send} {
		if err := d.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set %T: %s", opt, err)
		}
	}
	if err := d.stack.CreateNIC(nic, d.link); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	routes := cfg.Routes
	for _, a := range d.addrs {
		err := d.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a),
			AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
		if cfg.Routes == nil {
			unspecified := netip.IPv6Unspecified()
			if a.Is4() {
				unspecified = netip.IPv4Unspecified()
			}
			routes = append(routes, netip.PrefixFrom(unspecified, 0))
		}
	}
	for _, p := range routes {
		p = p.Masked()
		if !p.IsValid() || p.Addr().Is4In6() {
			return errors.New("add route: not a prefix")
		}
		subnet, err := tcpip.NewSubnet(
			tcpip.AddrFromSlice(p.Addr().AsSlice()),
			tcpip.MaskFromBytes(mask(p)))
		if err != nil {
			return fmt.Errorf("add route %s: %w", p, err)
		}
		d.stack.AddRoute(tcpip.Route{Destination: subnet, NIC: nic})
	}
	return nil
}

func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// Addrs are the device's own addresses.
func (d *Device) Addrs() []netip.Addr { return append([]netip.Addr(nil), d.addrs...) }

// File is nil: there is no descriptor.
func (d *Device) File() *os.File { return nil }

// MTU is Config.MTU.
func (d *Device) MTU() (int, error) { return d.mtu, nil }

// Name is what logs call the device.
func (d *Device) Name() (string, error) { return "netstack", nil }

// Events holds EventUp from the beginning, and is closed by Close.
func (d *Device) Events() <-chan tun.Event { return d.events }

// BatchSize is how many packets one Read may hand out.
func (d *Device) BatchSize() int { return conn.IdealBatchSize }

// Dropped is how many packets towards the mesh found the queue full.
func (d *Device) Dropped() uint64 { return d.link.droppedCount() }

// Read waits for packets that the stack sends, and hands out as many as there
// are and fit. A packet that is longer than its buffer gets size 0.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	var batch [conn.IdealBatchSize]*stack.PacketBuffer
	n, ok := d.link.take(batch[:min(len(bufs), len(batch))])
	if !ok {
		return 0, os.ErrClosed
	}
	for i, pkt := range batch[:n] {
		sizes[i] = 0
		if room := bufs[i][min(offset, len(bufs[i])):]; pkt.Size() <= len(room) {
			for _, s := range pkt.AsSlices() {
				sizes[i] += copy(room[sizes[i]:], s)
			}
		}
		pkt.DecRef()
	}
	return n, nil
}

// Interrupt makes one Read, the one that waits or else the next, return without
// a packet if there is none.
func (d *Device) Interrupt() { d.link.interrupt() }

// Write gives packets to the stack. It copies them. What is no IP packet is
// ignored.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	if d.link.closed() {
		return 0, os.ErrClosed
	}
	for _, b := range bufs {
		if len(b) <= offset {
			continue
		}
		b = b[offset:]
		var protocol tcpip.NetworkProtocolNumber
		switch b[0] >> 4 {
		case 4:
			protocol = header.IPv4ProtocolNumber
		case 6:
			protocol = header.IPv6ProtocolNumber
		default:
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		d.link.deliver(protocol, pkt)
		pkt.DecRef()
	}
	return len(bufs), nil
}

// Close resets every connection, ends every listener and waits for the stack's
// goroutines. Read hands out what is left, and ends.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		// The resets of open connections are the last packets that Read hands out.
		d.stack.Close()
		d.link.close()
		d.stack.Wait()
		close(d.events)
	})
	return nil
}
