package packet

import (
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// reading is what gVisor's headers say of a packet; ok is false where gVisor
// does not find a transport header.
type reading struct {
	src, dst         tcpip.Address
	proto            uint8
	later            bool
	srcPort, dstPort uint16
	seq, ack         uint32
	flags            uint8
	typ, code        uint8
}

// gvisorReads reads a packet that Parse called Whole. Any difference in lengths
// is fatal: gVisor must find as much as Parse did.
func gvisorReads(t *testing.T, b []byte) (r reading) {
	var payload []byte
	switch header.IPVersion(b) {
	case 4:
		h := header.IPv4(b)
		if !h.IsValid(len(b)) {
			t.Fatalf("gVisor refuses the IPv4 header of %x", b)
		}
		r.src, r.dst, r.proto = h.SourceAddress(), h.DestinationAddress(), h.Protocol()
		r.later = h.FragmentOffset() != 0
		payload = h.Payload()
	case 6:
		h := header.IPv6(b)
		if !h.IsValid(len(b)) {
			t.Fatalf("gVisor refuses the IPv6 header of %x", b)
		}
		r.src, r.dst = h.SourceAddress(), h.DestinationAddress()
		it := header.MakeIPv6PayloadIterator(header.IPv6ExtensionHeaderIdentifier(h.NextHeader()), buffer.MakeWithData(h.Payload()))
		defer it.Release()
		for {
			e, done, err := it.Next()
			if err != nil {
				t.Fatalf("gVisor refuses the header chain of %x: %v", b, err)
			}
			if done {
				// Its iterator says so of "no next header".
				r.proto = uint8(header.IPv6NoNextHeaderIdentifier)
				return r
			}
			if f, ok := e.(header.IPv6FragmentExtHdr); ok && f.FragmentOffset() != 0 {
				r.later = true
			}
			raw, ok := e.(header.IPv6RawPayloadHeader)
			if !ok {
				e.Release()
				continue
			}
			r.proto = uint8(raw.Identifier)
			payload = raw.Buf.Flatten()
			raw.Release()
			break
		}
	}
	if r.later {
		return r
	}
	switch acl.Proto(r.proto) {
	case acl.TCP:
		h := header.TCP(payload)
		r.srcPort, r.dstPort, r.seq, r.ack, r.flags = h.SourcePort(), h.DestinationPort(), h.SequenceNumber(), h.AckNumber(), uint8(h.Flags())
	case acl.UDP:
		h := header.UDP(payload)
		r.srcPort, r.dstPort = h.SourcePort(), h.DestinationPort()
	case acl.ICMP:
		h := header.ICMPv4(payload)
		r.typ, r.code = uint8(h.Type()), uint8(h.Code())
	case acl.ICMPv6:
		h := header.ICMPv6(payload)
		r.typ, r.code = uint8(h.Type()), uint8(h.Code())
	}
	return r
}

// FuzzParse holds Parse to three things on any bytes: it does not panic, what
// it calls whole it reads as gVisor's stack does, and what it builds in answer
// carries checksums that gVisor finds valid.
func FuzzParse(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var quoted Packet
		quoted.ParseQuoted(b)
		var p Packet
		if p.Parse(b) != Whole {
			return
		}
		if !(p.Transport <= p.Payload && p.Payload <= p.End && int(p.End) == len(b)) {
			t.Fatalf("%x: offsets %d %d %d of %d", b, p.Transport, p.Payload, p.End, len(b))
		}
		if p.Version == 6 && p.Proto == 253 {
			return // gVisor walks the header of RFC 3692 experiments; here it is a number
		}
		g := gvisorReads(t, b)
		got := reading{
			src: tcpip.AddrFromSlice(p.Src.Netip().AsSlice()), dst: tcpip.AddrFromSlice(p.Dst.Netip().AsSlice()),
			proto: uint8(p.Proto), later: p.Later(), srcPort: p.SrcPort, dstPort: p.DstPort, seq: p.Seq, ack: p.Ack,
			flags: uint8(p.Flags), typ: p.Type, code: p.Code,
		}
		if p.Src == (Addr{}) || p.Dst == (Addr{}) { // "::" is no address here
			got.src, got.dst = g.src, g.dst
		}
		if p.Proto == acl.SCTP { // gVisor has none
			got.srcPort, got.dstPort = 0, 0
		}
		if p.Later() { // gVisor names the last header of a chain, Parse the first
			got.proto = g.proto
		}
		if got != g {
			t.Fatalf("%x:\n   got %+v\ngVisor %+v", b, got, g)
		}
		if p.Later() {
			return
		}
		checkAnswer(t, AppendProhibited(nil, &p, b))
		if p.Proto == acl.TCP {
			checkAnswer(t, AppendSegment(nil, p.Refuse()))
		}
	})
}

// checkAnswer verifies every checksum of a packet that this package built.
func checkAnswer(t *testing.T, b []byte) {
	t.Helper()
	if header.IPVersion(b) == 4 {
		h := header.IPv4(b)
		if !h.IsValid(len(b)) || !h.IsChecksumValid() {
			t.Fatalf("%x: gVisor refuses the IPv4 header", b)
		}
		if h.Protocol() == uint8(header.ICMPv4ProtocolNumber) {
			if got := header.ICMPv4Checksum(header.ICMPv4(h.Payload()), 0); got != header.ICMPv4(h.Payload()).Checksum() {
				t.Fatalf("%x: ICMP checksum %04x, gVisor says %04x", b, header.ICMPv4(h.Payload()).Checksum(), got)
			}
			return
		}
		s := header.TCP(h.Payload())
		if !s.IsChecksumValid(h.SourceAddress(), h.DestinationAddress(), 0, 0) {
			t.Fatalf("%x: gVisor refuses the TCP checksum", b)
		}
		return
	}
	h := header.IPv6(b)
	if !h.IsValid(len(b)) {
		t.Fatalf("%x: gVisor refuses the IPv6 header", b)
	}
	if h.NextHeader() == uint8(header.ICMPv6ProtocolNumber) {
		m := header.ICMPv6(h.Payload())
		if got := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: h.SourceAddress(), Dst: h.DestinationAddress()}); got != m.Checksum() {
			t.Fatalf("%x: ICMPv6 checksum %04x, gVisor says %04x", b, m.Checksum(), got)
		}
		return
	}
	s := header.TCP(h.Payload())
	if !s.IsChecksumValid(h.SourceAddress(), h.DestinationAddress(), 0, 0) {
		t.Fatalf("%x: gVisor refuses the TCP checksum", b)
	}
}
