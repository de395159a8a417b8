// Package packettest makes packets for tests: sound ones from a description,
// and unsound ones by changing bytes of those. It shares no code with package
// packet, so that one checks the other.
package packettest

import (
	"encoding/binary"
	"net/netip"
)

// Flags of TCP, as the header has them.
const (
	FIN = 1
	SYN = 2
	RST = 4
	PSH = 8
	ACK = 16
)

// A Header is what an IP header says. The addresses decide the family.
type Header struct {
	Src, Dst netip.Addr
	Proto    byte
	Options  []byte // IPv4 options, padded here; or IPv6 extension headers, whose last next-header byte is Proto
	First    byte   // of the extension headers; unused without Options
}

// IP wraps a payload in a header.
func IP(h Header, payload []byte) []byte {
	if h.Src.Is4() {
		opts := append([]byte(nil), h.Options...)
		for len(opts)%4 != 0 {
			opts = append(opts, 0)
		}
		b := make([]byte, 20, 20+len(opts)+len(payload))
		b[0] = byte(0x40 | (5 + len(opts)/4))
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(opts)+len(payload)))
		b[8], b[9] = 64, h.Proto
		src, dst := h.Src.As4(), h.Dst.As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		b = append(b, opts...)
		binary.BigEndian.PutUint16(b[10:], Sum(b))
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(h.Options)+len(payload))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(h.Options)+len(payload)))
	b[6], b[7] = h.Proto, 64
	if len(h.Options) > 0 {
		b[6] = h.First
	}
	src, dst := h.Src.As16(), h.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	b = append(b, h.Options...)
	return append(b, payload...)
}

// TCP is a segment.
func TCP(src, dst netip.AddrPort, flags byte, seq, ack uint32, data ...byte) []byte {
	t := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	binary.BigEndian.PutUint16(t[14:], 65535)
	t = append(t, data...)
	binary.BigEndian.PutUint16(t[16:], transportSum(src.Addr(), dst.Addr(), 6, t))
	return IP(Header{Src: src.Addr(), Dst: dst.Addr(), Proto: 6}, t)
}

// UDP is a datagram.
func UDP(src, dst netip.AddrPort, data ...byte) []byte {
	t := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint16(t[4:], uint16(8+len(data)))
	t = append(t, data...)
	binary.BigEndian.PutUint16(t[6:], transportSum(src.Addr(), dst.Addr(), 17, t))
	return IP(Header{Src: src.Addr(), Dst: dst.Addr(), Proto: 17}, t)
}

// SCTP is a packet with a common header and no chunk.
func SCTP(src, dst netip.AddrPort) []byte {
	t := make([]byte, 12)
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	return IP(Header{Src: src.Addr(), Dst: dst.Addr(), Proto: 132}, t)
}

// ICMP is a message of the family of src; rest is bytes 4 to 8 of its header.
func ICMP(src, dst netip.Addr, typ, code byte, rest uint32, data ...byte) []byte {
	t := make([]byte, 8, 8+len(data))
	t[0], t[1] = typ, code
	binary.BigEndian.PutUint32(t[4:], rest)
	t = append(t, data...)
	proto := byte(58)
	if src.Is4() {
		proto = 1
		binary.BigEndian.PutUint16(t[2:], Sum(t))
	} else {
		binary.BigEndian.PutUint16(t[2:], transportSum(src, dst, proto, t))
	}
	return IP(Header{Src: src, Dst: dst, Proto: proto}, t)
}

// Ping is an echo request.
func Ping(src, dst netip.Addr, id uint16) []byte {
	typ := byte(128)
	if src.Is4() {
		typ = 8
	}
	return ICMP(src, dst, typ, 0, uint32(id)<<16|1)
}

// Pong is an echo reply.
func Pong(src, dst netip.Addr, id uint16) []byte {
	typ := byte(129)
	if src.Is4() {
		typ = 0
	}
	return ICMP(src, dst, typ, 0, uint32(id)<<16|1)
}

// Unreachable is the error port unreachable about a packet.
func Unreachable(src, dst netip.Addr, about []byte) []byte {
	if src.Is4() {
		return ICMP(src, dst, 3, 3, 0, about[:min(len(about), 28)]...)
	}
	return ICMP(src, dst, 1, 4, 0, about[:min(len(about), 1232)]...)
}

// Proto is a packet of a protocol without ports.
func Proto(src, dst netip.Addr, proto byte, data ...byte) []byte {
	return IP(Header{Src: src, Dst: dst, Proto: proto}, data)
}

// Fragments cuts a packet without options into fragments whose data is at most
// size bytes, a multiple of eight.
func Fragments(pkt []byte, id uint32, size int) (out [][]byte) {
	header := 20
	if pkt[0]>>4 == 6 {
		header = 40
	}
	data := pkt[header:]
	for at := 0; at < len(data); at += size {
		part := data[at:min(at+size, len(data))]
		more := at+size < len(data)
		word := uint16(at / 8)
		if header == 20 {
			if more {
				word |= 0x2000
			}
			b := append(append([]byte(nil), pkt[:20]...), part...)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			binary.BigEndian.PutUint16(b[4:], uint16(id))
			binary.BigEndian.PutUint16(b[6:], word)
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], Sum(b[:20]))
			out = append(out, b)
			continue
		}
		word <<= 3
		if more {
			word |= 1
		}
		ext := make([]byte, 8)
		ext[0] = pkt[6]
		binary.BigEndian.PutUint16(ext[2:], word)
		binary.BigEndian.PutUint32(ext[4:], id)
		b := append([]byte(nil), pkt[:40]...)
		b[6] = 44
		b = append(append(b, ext...), part...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		out = append(out, b)
	}
	return out
}

// Sum is the Internet checksum of b (RFC 1071), by its definition modulo 65535.
func Sum(b []byte) uint16 {
	var n uint64
	for i, c := range b {
		if i%2 == 0 {
			n += uint64(c) * 256
		} else {
			n += uint64(c)
		}
	}
	return uint16(65535 - n%65535) // the ones' complement of a sum modulo 65535
}

func transportSum(src, dst netip.Addr, proto byte, t []byte) uint16 {
	var b []byte
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(t)))
	b = append(b, 0, 0, 0, proto)
	return Sum(append(b, t...))
}
