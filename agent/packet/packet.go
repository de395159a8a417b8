// Package packet reads the headers of IP packets as a packet filter must: no
// allocation, no guessing, and a named refusal for whatever two parsers could
// read differently. It also builds the few packets a filter sends itself.
//
// It is not a network stack. It verifies no checksum (the stack that receives
// the packet does), reassembles nothing and reads nothing above the transport
// header.
//
// # What is read
//
//	Parse         a packet as it enters or leaves the tunnel
//	ParseQuoted   the beginning of a packet, as an ICMP error quotes it
//
//	IPv4          20 to 60 bytes of header (RFC 791); options are walked
//	IPv6          40 bytes (RFC 8200), then hop-by-hop options, destination
//	              options, routing and fragment headers, at most MaxChain of
//	              them in at most MaxChainBytes
//	TCP UDP SCTP  ports; of TCP also flags, sequence and acknowledgement
//	ICMP ICMPv6   type, code, and the identifier of echo messages
//
// Every other protocol, AH, ESP and headers unknown to this package included,
// is its number and nothing more: no byte behind it is read as a port.
//
// # Fragments
//
// A fragment at offset zero carries the whole transport header or is refused,
// so that ports are always read from the packet that is judged. Other fragments
// have no ports. An IPv6 fragment header that fragments nothing (RFC 6946) is
// passed over, and the packet is whole.
//
// # What is refused
//
// Each Refusal says one thing. The most important: a length that disagrees with
// the buffer in either direction, source routes, routing headers of type 0 or
// with segments left, a second fragment header, hop-by-hop options anywhere but
// first, jumbograms, home-address options, IPv4-mapped IPv6 addresses (RFC 4291
// section 2.5.5.2; one address would have two spellings), an ICMP of the wrong
// family, and fragments that reach past 65,535 bytes or begin inside a TCP
// header.
package packet

import (
	"encoding/binary"

	"github.com/writmesh/writ/coordinator/acl"
)

// Packet is what a packet's headers say. Its fields are meaningful only after
// Parse or ParseQuoted returned Whole.
type Packet struct {
	Src, Dst Addr

	Seq, Ack uint32 // TCP; zero in a quoted packet that does not reach so far
	FragID   uint32 // fragments only

	Transport uint32 // where the transport header, or a later fragment's data, begins
	Payload   uint32 // where the transport's payload begins; Transport if there is no header
	End       uint32 // where the packet ends

	SrcPort, DstPort uint16 // TCP, UDP, SCTP
	EchoID           uint16 // ICMP and ICMPv6 echo request and reply
	FragOffset       uint16 // in bytes; zero for a first fragment and a whole packet

	Proto      acl.Proto // in a later IPv6 fragment, the header that comes first in its original
	Version    uint8     // 4 or 6
	Flags      TCPFlags
	Type, Code uint8 // ICMP and ICMPv6
	Fragment   bool  // part of a larger packet: FragID is set
	More       bool  // a fragment with others behind it
}

// Later reports whether the packet is a fragment without transport header.
func (p *Packet) Later() bool { return p.FragOffset != 0 }

// DataLen is the number of bytes that the transport carries in this packet.
func (p *Packet) DataLen() uint32 { return p.End - p.Payload }

// TCPFlags are the control bits of a TCP header (RFC 9293 section 3.1).
type TCPFlags uint8

// The control bits that matter to a filter.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Has reports whether all of these bits are set.
func (f TCPFlags) Has(bits TCPFlags) bool { return f&bits == bits }

// Valid reports whether a host sends this combination: not both a beginning and
// an end, and something at all.
func (f TCPFlags) Valid() bool {
	switch f & (SYN | FIN | RST | ACK) {
	case SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, RST | FIN | ACK:
		return true
	default:
		return false
	}
}

// Types of ICMP messages (IANA).
const (
	icmpEchoReply      = 0
	icmpUnreachable    = 3
	icmpRedirect       = 5
	icmpEcho           = 8
	icmpTimeExceeded   = 11
	icmpParameter      = 12
	icmp6Unreachable   = 1
	icmp6PacketTooBig  = 2
	icmp6TimeExceeded  = 3
	icmp6Parameter     = 4
	icmp6Echo          = 128
	icmp6EchoReply     = 129
	icmp6Redirect      = 137
	icmpHeader         = 8 // an echo's or an error's header
	icmpProhibited     = 13
	icmp6Prohibited    = 1
	protoHopByHop      = 0
	protoRouting       = 43
	protoFragment      = 44
	protoDestination   = 60
	ipv4Header         = 20
	ipv6Header         = 40
	tcpHeader          = 20
	udpHeader          = 8
	sctpHeader         = 12
	quotedBytes        = 8 // of the transport, in the shortest quotation (RFC 792)
	maxReassembled     = 65535
	mappedPrefixLo     = 0xffff
	optionHomeAddress  = 0xc9
	optionJumbo        = 0xc2
	optionLooseRoute   = 131
	optionStrictRoute  = 137
	optionEnd          = 0
	optionNoOp         = 1
	routingDeprecated0 = 0
)

// An ICMPKind is what an ICMP message of either family is to a filter.
type ICMPKind uint8

// The kinds.
const (
	ICMPOther       ICMPKind = iota // neighbour discovery, timestamps and the rest; also a packet that is not ICMP
	ICMPEchoRequest                 // begins a flow
	ICMPEchoReply                   // answers one
	ICMPError                       // quotes a packet
	ICMPRedirect                    // tells of another router; a mesh has none
)

// ICMP says what kind of ICMP message the packet is.
func (p *Packet) ICMP() ICMPKind {
	switch p.Proto {
	case acl.ICMP:
		switch p.Type {
		case icmpEcho:
			return ICMPEchoRequest
		case icmpEchoReply:
			return ICMPEchoReply
		case icmpUnreachable, icmpTimeExceeded, icmpParameter:
			return ICMPError
		case icmpRedirect:
			return ICMPRedirect
		}
	case acl.ICMPv6:
		switch p.Type {
		case icmp6Echo:
			return ICMPEchoRequest
		case icmp6EchoReply:
			return ICMPEchoReply
		case icmp6Unreachable, icmp6PacketTooBig, icmp6TimeExceeded, icmp6Parameter:
			return ICMPError
		case icmp6Redirect:
			return ICMPRedirect
		}
	}
	return ICMPOther
}

// Quoted is the part of an ICMP error that quotes a packet. The packet must be
// an ICMPError, parsed from b.
func (p *Packet) Quoted(b []byte) []byte { return b[p.Payload:p.End] }

// Parse reads a whole packet. It never panics; b may be anything.
func (p *Packet) Parse(b []byte) Refusal { return p.parse(b, false) }

// ParseQuoted reads the beginning of a packet: the lengths that its headers
// claim may exceed b, and of the transport header eight bytes suffice.
func (p *Packet) ParseQuoted(b []byte) Refusal { return p.parse(b, true) }

func (p *Packet) parse(b []byte, quoted bool) Refusal {
	*p = Packet{}
	if len(b) == 0 {
		return Truncated
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b, quoted)
	case 6:
		return p.parse6(b, quoted)
	default:
		return BadVersion
	}
}

func (p *Packet) parse4(b []byte, quoted bool) Refusal {
	if len(b) < ipv4Header {
		return Truncated
	}
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if quoted {
		total = min(len(b), maxReassembled)
	}
	switch {
	case header < ipv4Header:
		return BadHeaderLength
	case total < header || total > len(b):
		return Truncated
	case total < len(b):
		return Trailing
	}
	p.Version = 4
	p.Proto = acl.Proto(b[9])
	p.Src = addr4(binary.BigEndian.Uint32(b[12:]))
	p.Dst = addr4(binary.BigEndian.Uint32(b[16:]))
	p.Transport, p.Payload, p.End = uint32(header), uint32(header), uint32(total)
	if header > ipv4Header {
		if r := options4(b[ipv4Header:header]); r != Whole {
			return r
		}
	}
	if frag := binary.BigEndian.Uint16(b[6:]); frag&0x3fff != 0 {
		p.FragID = uint32(binary.BigEndian.Uint16(b[4:]))
		if r := p.fragment(frag&0x1fff*8, frag&0x2000 != 0, quoted); r != Whole || p.Later() {
			return r
		}
	}
	if p.Proto == acl.ICMPv6 {
		return WrongFamily
	}
	return p.transport(b[header:total], quoted)
}

// options4 walks the options of an IPv4 header (RFC 791 section 3.1).
func options4(o []byte) Refusal {
	for len(o) > 0 {
		switch o[0] {
		case optionEnd:
			return Whole
		case optionNoOp:
			o = o[1:]
			continue
		case optionLooseRoute, optionStrictRoute:
			return SourceRoute
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return BadOptions
		}
		o = o[o[1]:]
	}
	return Whole
}

// fragment records that the packet is a fragment and checks where its data,
// which begins at p.Transport, would lie in the whole.
func (p *Packet) fragment(offset uint16, more, quoted bool) Refusal {
	p.Fragment, p.More, p.FragOffset = true, more, offset
	if quoted {
		return Whole // the quotation does not tell how long the fragment was
	}
	data := p.End - p.Transport
	switch {
	case data == 0, more && data%8 != 0, uint32(offset)+data > maxReassembled:
		return BadFragment
	case p.Proto == acl.TCP && 0 < offset && offset < tcpHeader:
		return BadFragment // RFC 3128: it would replace the flags that were judged
	}
	return Whole
}

// transport reads the header of p.Proto from t, the rest of the packet.
func (p *Packet) transport(t []byte, quoted bool) Refusal {
	need := 0
	switch p.Proto {
	case acl.TCP:
		need = tcpHeader
	case acl.UDP:
		need = udpHeader
	case acl.SCTP:
		need = sctpHeader
	case acl.ICMP, acl.ICMPv6:
		need = icmpHeader
	default:
		return Whole
	}
	if quoted {
		need = quotedBytes
	}
	if len(t) < need {
		if p.Fragment {
			return TinyFragment
		}
		return Truncated
	}
	switch p.Proto {
	case acl.TCP:
		p.SrcPort, p.DstPort = ports(t)
		p.Seq = binary.BigEndian.Uint32(t[4:])
		if len(t) < tcpHeader {
			return Whole // quoted
		}
		p.Ack = binary.BigEndian.Uint32(t[8:])
		p.Flags = TCPFlags(t[13])
		header := int(t[12]>>4) * 4
		switch {
		case header < tcpHeader:
			return BadTransport
		case header <= len(t):
			p.Payload += uint32(header)
		case quoted:
			p.Payload = p.End
		case p.Fragment:
			return TinyFragment
		default:
			return BadTransport
		}
	case acl.UDP:
		p.SrcPort, p.DstPort = ports(t)
		p.Payload += udpHeader
		length := int(binary.BigEndian.Uint16(t[4:]))
		if length < udpHeader || length > len(t) && !p.Fragment && !quoted {
			return BadTransport
		}
	case acl.SCTP:
		p.SrcPort, p.DstPort = ports(t)
		p.Payload += uint32(need)
	case acl.ICMP, acl.ICMPv6:
		p.Type, p.Code = t[0], t[1]
		p.Payload += icmpHeader
		if k := p.ICMP(); k == ICMPEchoRequest || k == ICMPEchoReply {
			p.EchoID = binary.BigEndian.Uint16(t[4:])
		}
	}
	return Whole
}

func ports(t []byte) (src, dst uint16) {
	return binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
}
