package bind

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readLength is how many datagrams or trains are read in one call. Each has
	// a buffer of 64 KiB, of which short packets touch the first page: with eight
	// a call costs a tenth of what it carries.
	readLength = 8

	// readSize is more than any datagram or train.
	readSize = 1 << 16
)

// controlSize has room for what is said with a packet: its local address, and
// the length of a train's packets.
var controlSize = unix.CmsgSpace(unix.SizeofInet6Pktinfo) + unix.CmsgSpace(4)

// prepare sets the options of a socket that is about to be bound.
func prepare(network string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		s := int(fd)
		for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
			unix.SetsockoptInt(s, unix.SOL_SOCKET, o, socketBuffer) // as much as is allowed
		}
		if network == "udp4" {
			err = unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else if err = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err == nil {
			err = unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		}
		unix.SetsockoptInt(s, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // Linux 5.0 and later
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

func takesTrains(c *net.UDPConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	known := false
	err = rc.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		known = err == nil
	})
	return known && err == nil
}

// trainsRefused tells an interface that will never take a train from one that
// did not take this one: udp(7) says EIO for an interface without checksums.
func trainsRefused(err error) bool { return errors.Is(err, unix.EIO) }

func setMark(c *net.UDPConn, mark uint32) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

// control grows oob by a control message with room for size bytes, and returns
// those.
func control(oob []byte, level, kind int32, size int) (grown, body []byte) {
	at := len(oob)
	grown = oob[:at+unix.CmsgSpace(size)]
	clear(grown[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&grown[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return grown, grown[at+unix.CmsgLen(0):][:size]
}

// appendSource says which local address a packet leaves from. oob has room.
func appendSource(oob []byte, from *local) []byte {
	if from == nil {
		return oob
	}
	var body []byte
	if from.addr.Is4() {
		oob, body = control(oob, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		a := from.addr.As4()
		binary.NativeEndian.PutUint32(body, from.index)
		copy(body[4:], a[:])
		return oob
	}
	oob, body = control(oob, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	a := from.addr.As16()
	copy(body, a[:])
	binary.NativeEndian.PutUint32(body[16:], from.index)
	return oob
}

// appendSegment says how long a train's packets are. oob has room.
func appendSegment(oob []byte, length int) []byte {
	oob, body := control(oob, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(body, uint16(length))
	return oob
}

// parseControl is the local address that a packet came to, and the length of a
// train's packets: zero if it is none.
func parseControl(oob []byte) (to local, segment int) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return to, segment
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(body) >= unix.SizeofInet4Pktinfo:
			to = local{netip.AddrFrom4([4]byte(body[4:8])), binary.NativeEndian.Uint32(body)}
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(body) >= unix.SizeofInet6Pktinfo:
			to = local{netip.AddrFrom16([16]byte(body[:16])), binary.NativeEndian.Uint32(body[16:])}
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(body) >= 2:
			segment = int(binary.NativeEndian.Uint16(body))
		}
		oob = rest
	}
	return to, segment
}

// A reader reads a socket. One goroutine uses it.
type reader struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // recvmmsg, made once: a closure would be allocated for each call
	err  error                 // of recvmmsg

	// The last read: datagrams[next:count] wait, of the first of which the
	// bytes before at are taken.
	datagrams   []datagram
	next, count int
	at          int

	headers [readLength]mmsghdr
	vectors [readLength]unix.Iovec
}

// mmsghdr is struct mmsghdr of recvmmsg(2), which x/sys does not have.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A datagram is the buffers of one message.
type datagram struct {
	buf  []byte
	name [unix.SizeofSockaddrInet6]byte
	oob  []byte

	from    origin // of what was read
	size    int
	segment int
}

func (r *reader) init(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	r.raw = raw
	r.datagrams = make([]datagram, readLength)
	for i := range r.datagrams {
		d := &r.datagrams[i]
		d.buf, d.oob = make([]byte, readSize), make([]byte, controlSize)
		v, h := &r.vectors[i], &r.headers[i].hdr
		v.Base = &d.buf[0]
		v.SetLen(len(d.buf))
		h.Name, h.Iov, h.Control = &d.name[0], v, &d.oob[0]
		h.SetIovlen(1)
	}
	r.read = func(fd uintptr) bool {
		for {
			n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.headers[0])), readLength, 0, 0, 0)
			switch errno {
			case 0:
				r.count, r.err = int(n), nil
				return true
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				r.count, r.err = 0, os.NewSyscallError("recvmmsg", errno)
				return true
			}
		}
	}
	return nil
}

// fill waits for datagrams.
func (r *reader) fill() error {
	for i := range r.headers {
		h := &r.headers[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlSize)
	}
	r.next, r.count, r.at = 0, 0, 0
	if err := r.raw.Read(r.read); err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	for i := range r.count {
		h, d := &r.headers[i], &r.datagrams[i]
		d.size = int(h.n)
		d.from.to, d.segment = parseControl(d.oob[:min(int(h.hdr.Controllen), len(d.oob))])
		d.from.addr = parseName(d.name[:min(int(h.hdr.Namelen), len(d.name))])
		if d.segment == 0 {
			d.segment = d.size
		}
	}
	return nil
}

// parseName is the address in a struct sockaddr. The interface of a link-local
// address is left out: such an address is nobody's here.
func parseName(name []byte) netip.AddrPort {
	if len(name) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(name[2:])
	switch binary.NativeEndian.Uint16(name) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	case unix.AF_INET6:
		if len(name) >= unix.SizeofSockaddrInet6 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(name[8:24])), port)
		}
	}
	return netip.AddrPort{}
}

// receive waits for packets and copies as many as fit. Trains are taken apart;
// what is left of one is given next time. A packet longer than its buffer is
// left out.
func (s *socket) receive(bufs [][]byte, sizes []int, from []origin) (n int, err error) {
	r := &s.reader
	for r.next == r.count {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	for n < len(bufs) && r.next < r.count {
		d := &r.datagrams[r.next]
		pkt := d.buf[r.at:min(r.at+d.segment, d.size)]
		if len(pkt) > 0 && len(pkt) <= len(bufs[n]) {
			sizes[n], from[n] = copy(bufs[n], pkt), d.from
			n++
		}
		if r.at += len(pkt); r.at >= d.size {
			r.next, r.at = r.next+1, 0
		}
	}
	return n, nil
}
