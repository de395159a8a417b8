package packet

import (
	"encoding/binary"

	"github.com/writmesh/writ/coordinator/acl"
)

const (
	hopLimit = 64 // what hosts send; the packet takes one hop
	// MaxBuilt is the longest packet this package builds: the least that every
	// IPv6 link carries (RFC 8200 section 5), which an ICMPv6 error fills.
	MaxBuilt = 1280
	// maxError4 is how long an ICMP error may grow (RFC 1812 section 4.3.2.3).
	maxError4 = 576
)

// A Segment is a TCP segment without data or options.
type Segment struct {
	Src, Dst         Addr // of one family
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            TCPFlags
}

// Refuse is the reset that answers p, a TCP segment, as RFC 9293 section 3.10.7.1
// has it: its sequence number is the one that the sender of p expects.
func (p *Packet) Refuse() Segment {
	s := Segment{Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort, DstPort: p.SrcPort}
	if p.Flags.Has(ACK) {
		s.Seq, s.Flags = p.Ack, RST
		return s
	}
	s.Ack, s.Flags = p.Seq+p.SegLen(), RST|ACK
	return s
}

// SegLen is how far a TCP segment advances its sender's sequence number: its
// data, and one for SYN and FIN each.
func (p *Packet) SegLen() uint32 {
	n := p.DataLen()
	if p.Flags.Has(SYN) {
		n++
	}
	if p.Flags.Has(FIN) {
		n++
	}
	return n
}

// AppendSegment appends the packet that carries s.
func AppendSegment(dst []byte, s Segment) []byte {
	dst, at := appendHeader(dst, s.Src, s.Dst, acl.TCP, tcpHeader)
	dst = binary.BigEndian.AppendUint16(dst, s.SrcPort)
	dst = binary.BigEndian.AppendUint16(dst, s.DstPort)
	dst = binary.BigEndian.AppendUint32(dst, s.Seq)
	dst = binary.BigEndian.AppendUint32(dst, s.Ack)
	dst = append(dst, tcpHeader/4<<4, byte(s.Flags), 0, 0, 0, 0, 0, 0) // no window, checksum, no urgent data
	t := dst[at:]
	binary.BigEndian.PutUint16(t[16:], ^checksum(pseudo(s.Src, s.Dst, acl.TCP, len(t)), t))
	return dst
}

// AppendProhibited appends the ICMP or ICMPv6 error that tells the sender of b,
// parsed as p, that an administrator forbids it.
func AppendProhibited(dst []byte, p *Packet, b []byte) []byte {
	b = b[:p.End]
	if p.Version == 4 {
		quote := b[:min(len(b), maxError4-ipv4Header-icmpHeader)]
		dst, at := appendHeader(dst, p.Dst, p.Src, acl.ICMP, icmpHeader+len(quote))
		dst = append(dst, icmpUnreachable, icmpProhibited, 0, 0, 0, 0, 0, 0)
		dst = append(dst, quote...)
		binary.BigEndian.PutUint16(dst[at+2:], ^checksum(0, dst[at:]))
		return dst
	}
	quote := b[:min(len(b), MaxBuilt-ipv6Header-icmpHeader)]
	dst, at := appendHeader(dst, p.Dst, p.Src, acl.ICMPv6, icmpHeader+len(quote))
	dst = append(dst, icmp6Unreachable, icmp6Prohibited, 0, 0, 0, 0, 0, 0)
	dst = append(dst, quote...)
	t := dst[at:]
	binary.BigEndian.PutUint16(t[2:], ^checksum(pseudo(p.Dst, p.Src, acl.ICMPv6, len(t)), t))
	return dst
}

// appendHeader appends an IP header for a payload of n bytes, and says where
// the payload begins.
func appendHeader(dst []byte, from, to Addr, proto acl.Proto, n int) ([]byte, int) {
	if from.Is4() {
		at := len(dst)
		dst = append(dst, 0x45, 0)
		dst = binary.BigEndian.AppendUint16(dst, uint16(ipv4Header+n))
		dst = append(dst, 0, 0, 0x40, 0, hopLimit, byte(proto), 0, 0) // no identification, do not fragment
		dst = binary.BigEndian.AppendUint32(dst, uint32(from.lo))
		dst = binary.BigEndian.AppendUint32(dst, uint32(to.lo))
		binary.BigEndian.PutUint16(dst[at+10:], ^checksum(0, dst[at:]))
		return dst, len(dst)
	}
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	dst = append(dst, byte(proto), hopLimit)
	for _, a := range [...]Addr{from, to} {
		dst = binary.BigEndian.AppendUint64(dst, a.hi)
		dst = binary.BigEndian.AppendUint64(dst, a.lo)
	}
	return dst, len(dst)
}

// checksum continues the ones' complement sum (RFC 1071) over b.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pseudo is the sum over the pseudo-header of a transport's packet of n bytes.
func pseudo(from, to Addr, proto acl.Proto, n int) uint32 {
	var b [36]byte
	f, t := from.as16(), to.as16()
	if from.Is4() {
		copy(b[:], f[12:])
		copy(b[4:], t[12:])
	} else {
		copy(b[:], f[:])
		copy(b[16:], t[:])
	}
	return uint32(checksum(0, b[:])) + uint32(proto) + uint32(n)
}
