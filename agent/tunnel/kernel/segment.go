package kernel

import (
	"encoding/binary"
)

// The kernel's struct virtio_net_hdr, see the package comment.
const (
	headerLength = 10

	needsChecksum = 1

	gsoNone = 0
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoUDP  = 5

	// maxPacket is the longest packet: what its length fields can say.
	maxPacket = 1<<16 - 1
)

const (
	tcpChecksum = 16 // offset in the header
	udpChecksum = 6
	udpLength   = 8 // of the header

	flagFIN = 0x01
	flagPSH = 0x08
	flagCWR = 0x80

	protocolTCP = 6
	protocolUDP = 17
)

// A superpacket is what one read returned, and how far it was handed out. The
// zero value holds nothing.
type superpacket struct {
	packet []byte // the read buffer's; nil: nothing is left
	whole  bool   // packet is to be handed out as it is

	// for packets to be cut
	v6        bool
	protocol  byte
	transport int // where the transport header begins
	payload   int // where the payload begins
	next      int // the first byte of the payload not handed out yet
	segment   int // payload of each packet
}

// parse takes what a read returned, header first, and may change it. It is false
// for what the package comment says is refused.
func (s *superpacket) parse(b []byte) bool {
	*s = superpacket{}
	if len(b) <= headerLength || len(b) > headerLength+maxPacket {
		return false
	}
	flags, gso := b[0], b[1]
	segment := int(binary.NativeEndian.Uint16(b[4:]))
	start := int(binary.NativeEndian.Uint16(b[6:]))
	at := start + int(binary.NativeEndian.Uint16(b[8:]))
	pkt := b[headerLength:]
	if gso == gsoNone {
		if flags&needsChecksum != 0 {
			if at+2 > len(pkt) {
				return false
			}
			binary.BigEndian.PutUint16(pkt[at:], final(sum(pkt[start:], 0)))
		}
		s.packet, s.whole = pkt, true
		return true
	}

	ip := ipHeader(pkt)
	v6 := pkt[0]>>4 == 6
	if ip == 0 || start < ip || !v6 && start != ip || segment == 0 {
		return false
	}
	header := udpLength
	switch {
	case gso == gsoTCP4 && !v6, gso == gsoTCP6 && v6:
		if len(pkt) < start+20 || at != start+tcpChecksum {
			return false
		}
		header = int(pkt[start+12]>>4) * 4
		if header < 20 {
			return false
		}
		s.protocol = protocolTCP
	case gso == gsoUDP:
		if at != start+udpChecksum {
			return false
		}
		s.protocol = protocolUDP
	default:
		return false
	}
	if len(pkt) <= start+header {
		return false
	}
	s.packet, s.v6 = pkt, v6
	s.transport, s.payload, s.next, s.segment = start, start+header, start+header, segment
	return true
}

// ipHeader is the length of the fixed header of IPv6, or of IPv4's with its
// options; 0 when pkt is neither or too short.
func ipHeader(pkt []byte) int {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		if n := int(pkt[0]&15) * 4; n >= 20 && n <= len(pkt) {
			return n
		}
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return 40
	}
	return 0
}

// take writes the next packet to out and returns its length; false when nothing
// is left. A packet longer than out is skipped: length 0.
func (s *superpacket) take(out []byte) (n int, ok bool) {
	switch {
	case s.packet == nil:
		return 0, false
	case s.whole:
		pkt := s.packet
		s.packet = nil
		if len(pkt) > len(out) {
			return 0, true
		}
		return copy(out, pkt), true
	}
	in, from := s.packet, s.next
	to := min(from+s.segment, len(in))
	if s.next = to; to == len(in) {
		s.packet = nil
	}
	n = s.payload + to - from
	if n > len(out) {
		return 0, true
	}
	out = out[:n]
	copy(out, in[:s.payload])
	copy(out[s.payload:], in[from:to])

	// The sum of the pseudo header: addresses, protocol, length.
	var pseudo uint64
	if s.v6 {
		binary.BigEndian.PutUint16(out[4:], uint16(n-40))
		pseudo = sum(out[8:40], 0)
	} else {
		binary.BigEndian.PutUint16(out[2:], uint16(n))
		id := binary.BigEndian.Uint16(out[4:])
		binary.BigEndian.PutUint16(out[4:], id+uint16((from-s.payload)/s.segment))
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], ^fold(sum(out[:s.transport], 0)))
		pseudo = sum(out[12:20], 0)
	}
	pseudo = addWord(uint16(s.protocol), addWord(uint16(n-s.transport), pseudo))

	l4 := out[s.transport:]
	field := udpChecksum
	if s.protocol == protocolTCP {
		field = tcpChecksum
		seq := binary.BigEndian.Uint32(l4[4:])
		binary.BigEndian.PutUint32(l4[4:], seq+uint32(from-s.payload))
		if from != s.payload {
			l4[13] &^= flagCWR // said once (RFC 3168)
		}
		if to != len(in) {
			l4[13] &^= flagFIN | flagPSH // of the end
		}
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	l4[field], l4[field+1] = 0, 0
	binary.BigEndian.PutUint16(l4[field:], final(sum(l4, pseudo)))
	return n, true
}
