package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
)

var (
	a4 = netip.MustParseAddr("100.64.0.1")
	b4 = netip.MustParseAddr("100.64.0.2")
	a6 = netip.MustParseAddr("fd7a::1")
	b6 = netip.MustParseAddr("fd7a::2")
)

func port(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// with returns b with the bytes from offset replaced.
func with(b []byte, offset int, v ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[offset:], v)
	return b
}

// ext is an IPv6 extension header of next header and body, padded with zeros to
// a multiple of eight bytes.
func ext(next byte, body ...byte) []byte {
	n := (2 + len(body) + 7) / 8 * 8
	h := make([]byte, n)
	h[0], h[1] = next, byte(n/8-1)
	copy(h[2:], body)
	return h
}

func chain(first byte, proto byte, payload []byte, headers ...[]byte) []byte {
	return packettest.IP(packettest.Header{Src: a6, Dst: b6, Proto: proto, First: first, Options: bytes.Join(headers, nil)}, payload)
}

// transport is the packet behind its IP header without options.
func transport(b []byte) []byte {
	if b[0]>>4 == 4 {
		return b[20:]
	}
	return b[40:]
}

func samples() map[string][]byte {
	m := map[string][]byte{}
	for _, f := range []struct {
		name string
		a, b netip.Addr
	}{{"v4", a4, b4}, {"v6", a6, b6}} {
		m[f.name+"/tcp"] = packettest.TCP(port(f.a, 40000), port(f.b, 443), packettest.SYN|packettest.ACK, 7, 9, 1, 2, 3)
		m[f.name+"/udp"] = packettest.UDP(port(f.a, 5353), port(f.b, 53), 1, 2)
		m[f.name+"/sctp"] = packettest.SCTP(port(f.a, 1), port(f.b, 2))
		m[f.name+"/ping"] = packettest.Ping(f.a, f.b, 77)
		m[f.name+"/error"] = packettest.Unreachable(f.a, f.b, packettest.UDP(port(f.b, 1), port(f.a, 2)))
		m[f.name+"/gre"] = packettest.Proto(f.a, f.b, 47, 1, 2, 3, 4)
		for i, frag := range packettest.Fragments(packettest.UDP(port(f.a, 1), port(f.b, 2), make([]byte, 100)...), 99, 48) {
			m[f.name+"/fragment"+string(rune('0'+i))] = frag
		}
	}
	tcp6 := transport(m["v6/tcp"])
	m["v4/options"] = packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{1, 148, 4, 0, 0}}, transport(m["v4/tcp"]))
	m["v6/hop-by-hop"] = chain(0, 6, tcp6, ext(6, 5, 2, 0, 0, 1, 0))
	m["v6/destination"] = chain(60, 6, tcp6, ext(6, 1, 4, 0, 0, 0, 0))
	m["v6/routing"] = chain(43, 6, tcp6, ext(6, 4, 0))
	m["v6/atomic"] = chain(44, 6, tcp6, []byte{6, 0, 0, 0, 1, 2, 3, 4})
	m["v6/three"] = chain(0, 6, tcp6, ext(60), ext(43), ext(6, 4, 0))
	return m
}

func TestParseReadsHeaders(t *testing.T) {
	for name, b := range samples() {
		var p Packet
		if r := p.Parse(b); r != Whole {
			t.Errorf("%s: %v, want whole", name, r)
		}
	}
	var p Packet
	p.Parse(samples()["v6/three"])
	want := Packet{
		Src: MustAddr("fd7a::1"), Dst: MustAddr("fd7a::2"), Seq: 7, Ack: 9, Transport: 64, Payload: 84, End: 87,
		SrcPort: 40000, DstPort: 443, Proto: acl.TCP, Version: 6, Flags: SYN | ACK,
	}
	if p != want {
		t.Errorf("three extension headers:\n got %+v\nwant %+v", p, want)
	}
	p.Parse(samples()["v4/fragment1"])
	want = Packet{
		Src: MustAddr("100.64.0.1"), Dst: MustAddr("100.64.0.2"), FragID: 99, Transport: 20, Payload: 20, End: 68,
		FragOffset: 48, Proto: acl.UDP, Version: 4, Fragment: true, More: true,
	}
	if p != want {
		t.Errorf("later fragment:\n got %+v\nwant %+v", p, want)
	}
	p.Parse(samples()["v6/ping"])
	if p.ICMP() != ICMPEchoRequest || p.EchoID != 77 {
		t.Errorf("ICMPv6 echo request behind an IPv6 header: kind %d id %d, want %d id 77", p.ICMP(), p.EchoID, ICMPEchoRequest)
	}
	p.Parse(samples()["v6/atomic"])
	if p.Fragment || p.DstPort != 443 {
		t.Errorf("atomic fragment: fragment %v port %d, want whole and 443", p.Fragment, p.DstPort)
	}
}

// Each row is one defect; the refusal says which check must object.
func TestParseRefuses(t *testing.T) {
	s := samples()
	tcp4, tcp6, udp4 := s["v4/tcp"], s["v6/tcp"], s["v4/udp"]
	long := make([][]byte, 0, MaxChain+1)
	for range MaxChain {
		long = append(long, ext(60))
	}
	long = append(long, ext(6))
	first4, later4 := s["v4/fragment0"], s["v4/fragment1"]
	for _, tt := range []struct {
		name string
		pkt  []byte
		want Refusal
	}{
		{"empty", nil, Truncated},
		{"version 5", with(tcp4, 0, 0x55), BadVersion},
		{"v4 header of 19 bytes", tcp4[:19], Truncated},
		{"v4 length beyond the buffer", tcp4[:len(tcp4)-1], Truncated},
		{"v4 bytes behind the length", append(bytes.Clone(tcp4), 0), Trailing},
		{"v4 length shorter than the header", with(tcp4, 2, 0, 19), Truncated},
		{"v4 header length 4", with(tcp4, 0, 0x44), BadHeaderLength},
		{"v4 header longer than the packet", with(packettest.Proto(a4, b4, 47), 0, 0x46), Truncated},
		{"v4 option of length 1", packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{7, 1, 0, 0}}, transport(tcp4)), BadOptions},
		{"v4 option past the header", packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{7, 5, 0, 0}}, transport(tcp4)), BadOptions},
		{"v4 option without length", packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{1, 1, 1, 7}}, transport(tcp4)), BadOptions},
		{"v4 loose source route", packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{131, 7, 4, 1, 2, 3, 4}}, transport(tcp4)), SourceRoute},
		{"v4 strict source route behind no-op", packettest.IP(packettest.Header{Src: a4, Dst: b4, Proto: 6, Options: []byte{1, 137, 7, 4, 1, 2, 3, 4}}, transport(tcp4)), SourceRoute},
		{"v4 ICMPv6", with(s["v4/ping"], 9, 58), WrongFamily},
		{"v6 ICMP", with(s["v6/ping"], 6, 1), WrongFamily},
		{"v4 TCP header cut short", packettest.Proto(a4, b4, 6, transport(tcp4)[:19]...), Truncated},
		{"v4 UDP header cut short", packettest.Proto(a4, b4, 17, transport(udp4)[:7]...), Truncated},
		{"v4 ICMP header cut short", packettest.Proto(a4, b4, 1, 8, 0, 0, 0, 0, 1, 0), Truncated},
		{"v4 SCTP header cut short", packettest.Proto(a4, b4, 132, make([]byte, 11)...), Truncated},
		{"TCP data offset 4", with(tcp4, 32, 0x40), BadTransport},
		{"TCP data offset beyond the packet", with(tcp4, 32, 0xf0), BadTransport},
		{"UDP length 7", with(udp4, 24, 0, 7), BadTransport},
		{"UDP length 0", with(udp4, 24, 0, 0), BadTransport},
		{"UDP length beyond the packet", with(udp4, 24, 0, 200), BadTransport},
		{"first fragment without all of the TCP header", with(with(tcp4[:36], 2, 0, 36), 6, 0x20, 0), TinyFragment},
		{"first fragment without all TCP options", with(with(packettest.TCP(port(a4, 1), port(b4, 2), packettest.ACK, 1, 1, 0, 0, 0, 0), 6, 0x20, 0), 32, 0x80), TinyFragment},
		{"first fragment not a multiple of eight", with(with(first4[:67], 2, 0, 67), 6, 0x20, 0), BadFragment},
		{"TCP fragment inside the TCP header", with(with(later4, 9, 6), 6, 0x20, 1), BadFragment},
		{"fragment past 65535 bytes", with(later4, 6, 0x1f, 0xff), BadFragment},
		{"fragment of no data", with(with(later4[:20], 2, 0, 20), 6, 0x20, 6), BadFragment},

		{"v6 header of 39 bytes", tcp6[:39], Truncated},
		{"v6 length beyond the buffer", tcp6[:len(tcp6)-1], Truncated},
		{"v6 bytes behind the length", append(bytes.Clone(tcp6), 0), Trailing},
		{"v6 source is IPv4-mapped", with(tcp6, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 100, 64, 0, 1), MappedAddress},
		{"v6 destination is IPv4-mapped", with(tcp6, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 100, 64, 0, 1), MappedAddress},
		{"v6 hop-by-hop second", chain(60, 6, transport(tcp6), ext(0), ext(6)), BadChain},
		{"v6 two fragment headers", chain(44, 17, make([]byte, 48), []byte{44, 0, 0, 1, 0, 0, 0, 1}, []byte{17, 0, 0, 1, 0, 0, 0, 1}), BadChain},
		{"v6 nine headers", chain(60, 6, transport(tcp6), long...), LongChain},
		{"v6 long headers", chain(60, 6, transport(tcp6), ext(60, make([]byte, 300)...), ext(6, make([]byte, 300)...)), LongChain},
		{"v6 header length overflows the packet", with(s["v6/destination"], 41, 40), Truncated},
		{"v6 header begins at the end", with(packettest.Proto(a6, b6, 59), 6, 60), Truncated},
		{"v6 routing type 0", chain(43, 6, transport(tcp6), ext(6, 0, 0)), RoutingHeader},
		{"v6 routing with segments left", chain(43, 6, transport(tcp6), ext(6, 4, 1)), RoutingHeader},
		{"v6 jumbogram", chain(0, 6, transport(tcp6), ext(6, 0xc2, 4, 0, 1, 0, 0)), Jumbogram},
		{"v6 home address", chain(60, 6, transport(tcp6), ext(6, append([]byte{0xc9, 16}, make([]byte, 20)...)...)), SourceRoute},
		{"v6 option past its header", chain(60, 6, transport(tcp6), ext(6, 5, 5, 0, 0, 0, 0)), BadOptions},
		{"v6 option without length", chain(60, 6, transport(tcp6), ext(6, 0, 0, 0, 0, 0, 5)), BadOptions},
		{"v6 first fragment without its chain", chain(44, 60, make([]byte, 4), []byte{60, 0, 0, 1, 0, 0, 0, 1}), BadFragment},
		{"v6 first fragment ends in its chain", chain(44, 60, with(make([]byte, 8), 0, 6, 9), []byte{60, 0, 0, 1, 0, 0, 0, 1}), TinyFragment},
		{"v6 TCP fragment inside the TCP header", chain(44, 6, make([]byte, 16), []byte{6, 0, 0, 9, 0, 0, 0, 1}), BadFragment},
	} {
		var p Packet
		if got := p.Parse(tt.pkt); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A header that this package does not know is its number: nothing behind it is
// a port, however much it looks like TCP.
func TestUnknownHeaderIsOnlyItsNumber(t *testing.T) {
	for _, proto := range []byte{50, 51, 59, 135, 139, 140, 253, 255} {
		var p Packet
		b := chain(proto, 6, transport(samples()["v6/tcp"]), ext(6))
		if r := p.Parse(b); r != Whole || p.Proto != acl.Proto(proto) || p.DstPort != 0 || p.Flags != 0 {
			t.Errorf("header %d: %v proto %v port %d flags %v, want whole, the number, no port", proto, r, p.Proto, p.DstPort, p.Flags)
		}
	}
	var p Packet
	p.Parse(packettest.Proto(a4, b4, 60, ext(6, make([]byte, 40)...)...))
	if p.Proto != 60 || p.DstPort != 0 {
		t.Errorf("IPv6 header number in IPv4: proto %v port %d, want 60 and none", p.Proto, p.DstPort)
	}
}

func TestParseQuoted(t *testing.T) {
	for name, b := range samples() {
		var whole, quoted Packet
		whole.Parse(b)
		if whole.Later() {
			continue
		}
		quoted.ParseQuoted(b[:whole.Transport+min(8, whole.End-whole.Transport)])
		if quoted.Src != whole.Src || quoted.Dst != whole.Dst || quoted.Proto != whole.Proto || quoted.SrcPort != whole.SrcPort ||
			quoted.DstPort != whole.DstPort || quoted.EchoID != whole.EchoID || quoted.Seq != whole.Seq {
			t.Errorf("%s: eight bytes quoted:\n got %+v\nwant %+v", name, quoted, whole)
		}
	}
	var p Packet
	if r := p.ParseQuoted(samples()["v4/tcp"][:27]); r != Truncated {
		t.Errorf("seven bytes quoted: %v, want %v", r, Truncated)
	}
}

func TestTCPFlagsValid(t *testing.T) {
	for f := range TCPFlags(64) {
		ends := f&(FIN|RST) != 0
		want := f&(SYN|ACK|RST) != 0 && !(f.Has(SYN) && ends) && !(f.Has(FIN) && !f.Has(ACK))
		if got := f.Valid(); got != want {
			t.Errorf("flags %06b: valid %v, want %v", f, got, want)
		}
	}
}

func TestAddr(t *testing.T) {
	for _, s := range []string{"100.64.0.1", "255.255.255.255", "fd7a::1", "::1", "::100.64.0.1"} {
		n := netip.MustParseAddr(s)
		a, ok := AddrFrom(n)
		if !ok || a.Netip() != n || a.Is4() != n.Is4() {
			t.Errorf("%s: got %v %v is4 %v", s, a, ok, a.Is4())
		}
		if m, _ := AddrFrom(netip.AddrFrom16(n.As16())); m != a {
			t.Errorf("%s mapped: got %v, want the same as unmapped", s, m)
		}
	}
	for s, want := range map[string]bool{"224.0.0.1": true, "239.255.255.255": true, "255.255.255.255": true, "ff02::1": true, "100.64.0.1": false, "fe80::1": false} {
		if got := MustAddr(s).IsMulticast(); got != want {
			t.Errorf("%s: multicast %v, want %v", s, got, want)
		}
	}
	if _, ok := AddrFrom(netip.Addr{}); ok {
		t.Error("the zero address is held")
	}
	if _, ok := AddrFrom(netip.IPv6Unspecified()); ok {
		t.Error(`"::" is held`)
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	s := samples()
	var p Packet
	var sum uint32
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range s {
			p.Parse(b)
			sum += p.End
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestAnswersParse(t *testing.T) {
	for name, b := range samples() {
		var p, q Packet
		if p.Parse(b); p.Later() {
			continue
		}
		answer := AppendProhibited(nil, &p, b)
		if r := q.Parse(answer); r != Whole || q.ICMP() != ICMPError || q.Src != p.Dst || q.Dst != p.Src {
			t.Errorf("%s: prohibited: %v %+v", name, r, q)
		}
		var quoted Packet
		if r := quoted.ParseQuoted(q.Quoted(answer)); r != Whole || quoted.Src != p.Src || quoted.DstPort != p.DstPort {
			t.Errorf("%s: quoted: %v %+v", name, r, quoted)
		}
		if len(answer) > MaxBuilt {
			t.Errorf("%s: answer of %d bytes, want at most %d", name, len(answer), MaxBuilt)
		}
	}
	big := packettest.UDP(port(a6, 1), port(b6, 2), make([]byte, 9000)...)
	var p Packet
	p.Parse(big)
	if got := len(AppendProhibited(nil, &p, big)); got != MaxBuilt {
		t.Errorf("error about 9,048 bytes: %d bytes, want %d", got, MaxBuilt)
	}
	big = packettest.UDP(port(a4, 1), port(b4, 2), make([]byte, 9000)...)
	p.Parse(big)
	if got := len(AppendProhibited(nil, &p, big)); got != 576 {
		t.Errorf("error about 9,028 bytes: %d bytes, want 576", got)
	}
}

func TestRefuse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags byte
		data  []byte
		want  Segment
	}{
		{"SYN", packettest.SYN, nil, Segment{Seq: 0, Ack: 101, Flags: RST | ACK}},
		{"SYN with data", packettest.SYN, []byte("hello"), Segment{Seq: 0, Ack: 106, Flags: RST | ACK}},
		{"data", packettest.ACK, []byte("hello"), Segment{Seq: 5000, Flags: RST}},
		{"FIN", packettest.FIN | packettest.ACK, nil, Segment{Seq: 5000, Flags: RST}},
	} {
		var p, q Packet
		p.Parse(packettest.TCP(port(a4, 40000), port(b4, 443), tt.flags, 100, 5000, tt.data...))
		tt.want.Src, tt.want.Dst, tt.want.SrcPort, tt.want.DstPort = p.Dst, p.Src, 443, 40000
		got := p.Refuse()
		if got != tt.want {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
		}
		b := AppendSegment(nil, got)
		want := packettest.TCP(port(b4, 443), port(a4, 40000), byte(got.Flags), got.Seq, got.Ack)
		// The test's packets have another window and may be fragmented.
		want = with(want, 6, 0x40, 0)
		want = with(want, 10, 0, 0)
		binary.BigEndian.PutUint16(want[10:], packettest.Sum(want[:20]))
		if r := q.Parse(b); r != Whole || !bytes.Equal(b[:34], want[:34]) {
			t.Errorf("%s: %v\n got %x\nwant %x", tt.name, r, b, want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	s := samples()
	for _, name := range []string{"v4/tcp", "v4/udp", "v6/tcp", "v6/udp", "v6/three"} {
		b.Run(name, func(b *testing.B) {
			var p Packet
			pkt := s[name]
			for b.Loop() {
				p.Parse(pkt)
			}
		})
	}
}
