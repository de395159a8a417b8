package stun

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A udp door asks the kernel to which of the machine's addresses each request was
// sent, and sends the answer from there: from another the NAT of the node would
// not let it in.
type udp struct {
	c    *net.UDPConn
	in   [128]byte // control messages of a request; one of each family needs 72
	out4 []byte    // one control message, to be filled
	out6 []byte
	way  []byte // the one that the last request's answer is sent with, or nil
}

// control asks for it.
func control(_, _ string, raw syscall.RawConn) error {
	var err4, err6 error
	if err := raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return err
	}
	if err4 != nil && err6 != nil { // a socket has one family, or both
		return os.NewSyscallError("setsockopt IP_PKTINFO", err4)
	}
	return nil
}

func openUDP(c *net.UDPConn) door { return newUDP(c) }

func newUDP(c *net.UDPConn) *udp {
	return &udp{c: c, out4: unix.PktInfo4(&unix.Inet4Pktinfo{}), out6: unix.PktInfo6(&unix.Inet6Pktinfo{})}
}

func (d *udp) read(b []byte) (int, netip.AddrPort, error) {
	n, oobn, _, from, err := d.c.ReadMsgUDPAddrPort(b, d.in[:])
	if err != nil {
		return 0, from, err
	}
	d.way = d.reply(d.in[:oobn])
	return n, from, nil
}

func (d *udp) write(b []byte, to netip.AddrPort) error {
	_, _, err := d.c.WriteMsgUDPAddrPort(b, d.way, to)
	return err
}

// reply makes of a request's control messages the one that its answer is sent
// with; nil if they say nothing of use, and the kernel chooses the address. The interface is
// kept for link-local addresses only: for others the routing table says the way.
//
//	struct in_pktinfo   interface 4 · local address 4 · destination 4
//	struct in6_pktinfo  destination 16 · interface 4
func (d *udp) reply(in []byte) []byte {
	for len(in) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(in)
		if err != nil {
			return nil
		}
		in = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) == unix.SizeofInet4Pktinfo:
			copy(d.out4[unix.CmsgLen(0)+4:], data[4:8])
			return d.out4
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) == unix.SizeofInet6Pktinfo:
			info := d.out6[unix.CmsgLen(0):][:unix.SizeofInet6Pktinfo]
			copy(info, data)
			ip := netip.AddrFrom16([16]byte(data))
			if ip.IsMulticast() {
				return nil
			}
			if !ip.IsLinkLocalUnicast() {
				clear(info[16:])
			}
			return d.out6
		}
	}
	return nil
}
