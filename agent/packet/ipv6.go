package packet

import (
	"encoding/binary"

	"github.com/writmesh/writ/coordinator/acl"
)

// Limits of an IPv6 extension header chain. A packet that a host sends has one
// or two short ones; RFC 8504 section 5.3 lets a node drop what is longer than
// it cares to read.
const (
	MaxChain      = 8   // headers
	MaxChainBytes = 512 // of them together
)

func (p *Packet) parse6(b []byte, quoted bool) Refusal {
	if len(b) < ipv6Header {
		return Truncated
	}
	total := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
	if quoted {
		total = min(len(b), ipv6Header+maxReassembled)
	}
	switch {
	case total > len(b):
		return Truncated
	case total < len(b):
		return Trailing
	}
	p.Version = 6
	p.Src = addr16(b[8:24])
	p.Dst = addr16(b[24:40])
	p.End = uint32(total)
	if p.Src.Is4() || p.Dst.Is4() {
		return MappedAddress
	}

	next, at := b[6], ipv6Header
	for n := 0; ; n++ {
		switch next {
		case protoHopByHop, protoDestination, protoRouting, protoFragment:
		default:
			p.Proto = acl.Proto(next)
			p.Transport, p.Payload = uint32(at), uint32(at)
			if p.Proto == acl.ICMP {
				return WrongFamily
			}
			return p.transport(b[at:total], quoted)
		}
		if n == MaxChain {
			return LongChain
		}
		rest := b[at:total]
		if len(rest) < 8 {
			return p.short()
		}
		length := 8
		if next != protoFragment {
			length += int(rest[1]) * 8
		}
		if at+length > ipv6Header+MaxChainBytes {
			return LongChain
		}
		if length > len(rest) {
			return p.short()
		}
		header := rest[:length]
		at += length
		switch next {
		case protoHopByHop:
			if n != 0 {
				return BadChain
			}
			if r := options6(header[2:]); r != Whole {
				return r
			}
		case protoDestination:
			if r := options6(header[2:]); r != Whole {
				return r
			}
		case protoRouting:
			if header[2] == routingDeprecated0 || header[3] != 0 {
				return RoutingHeader
			}
		case protoFragment:
			if p.Fragment {
				return BadChain
			}
			frag := binary.BigEndian.Uint16(header[2:])
			if frag&^6 == 0 {
				break // atomic (RFC 6946): whole
			}
			p.Proto = acl.Proto(header[0])
			p.Transport, p.Payload = uint32(at), uint32(at)
			p.FragID = binary.BigEndian.Uint32(header[4:])
			if r := p.fragment(frag&^7, frag&1 != 0, quoted); r != Whole || p.Later() {
				return r
			}
		}
		next = header[0]
	}
}

// short is the refusal of a packet that ends inside its header chain: all of
// the chain belongs into the first fragment (RFC 7112).
func (p *Packet) short() Refusal {
	if p.Fragment {
		return TinyFragment
	}
	return Truncated
}

// options6 walks the options of a hop-by-hop or destination header (RFC 8200
// section 4.2).
func options6(o []byte) Refusal {
	for len(o) > 0 {
		if o[0] == 0 { // Pad1
			o = o[1:]
			continue
		}
		if len(o) < 2 || 2+int(o[1]) > len(o) {
			return BadOptions
		}
		switch o[0] {
		case optionJumbo:
			return Jumbogram
		case optionHomeAddress:
			return SourceRoute // it replaces the source address (RFC 6275 section 6.3)
		}
		o = o[2+int(o[1]):]
	}
	return Whole
}
