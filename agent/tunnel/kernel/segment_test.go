package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A flow is what a packet is made of, and what a superpacket is. The packets of
// these tests are written by gVisor's encoders, which know nothing of cutting.
type flow struct {
	v6, udp bool
	options int // bytes of TCP or IPv4 options, a multiple of 4
	id      uint16
	seq     uint32
	flags   header.TCPFlags
	payload []byte
}

func (f flow) gso() byte {
	switch {
	case f.udp:
		return gsoUDP
	case f.v6:
		return gsoTCP6
	}
	return gsoTCP4
}

func (f flow) ip() int {
	switch {
	case f.v6:
		return 40
	case f.udp:
		return 20 + f.options
	}
	return 20
}

func (f flow) transport() int {
	if f.udp {
		return 8
	}
	return 20 + f.options
}

// packet writes f as one packet. Its checksum is whole, or of the pseudo header
// only, as the kernel leaves it when it asks for the rest.
func (f flow) packet(whole bool) []byte {
	ip, l4 := f.ip(), f.transport()
	pkt := make([]byte, ip+l4+len(f.payload))
	segment := pkt[ip:]
	copy(segment[l4:], f.payload)
	protocol := header.TCPProtocolNumber
	if f.udp {
		protocol = header.UDPProtocolNumber
	}
	src, dst := tcpip.AddrFrom4([4]byte{100, 64, 0, 1}), tcpip.AddrFrom4([4]byte{100, 64, 0, 2})
	if f.v6 {
		src = tcpip.AddrFrom16([16]byte{0: 0xfd, 15: 1})
		dst = tcpip.AddrFrom16([16]byte{0: 0xfd, 15: 2})
		header.IPv6(pkt).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(segment)), TransportProtocol: protocol, HopLimit: 64,
			TrafficClass: 3, SrcAddr: src, DstAddr: dst,
		})
	} else {
		h := header.IPv4(pkt)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(pkt)), ID: f.id, TTL: 64, TOS: 3, Flags: header.IPv4FlagDontFragment,
			Protocol: uint8(protocol), SrcAddr: src, DstAddr: dst,
		})
		pkt[0] = 4<<4 | byte(ip/4)
		for i := 20; i < ip; i++ {
			pkt[i] = 1 // no operation
		}
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(pkt[:ip], 0))
	}
	pseudo := header.PseudoHeaderChecksum(protocol, src, dst, uint16(len(segment)))
	at := tcpChecksum
	if f.udp {
		at = udpChecksum
		header.UDP(segment).Encode(&header.UDPFields{SrcPort: 1000, DstPort: 2000, Length: uint16(len(segment))})
	} else {
		header.TCP(segment).Encode(&header.TCPFields{
			SrcPort: 1000, DstPort: 2000, SeqNum: f.seq, AckNum: 77, DataOffset: uint8(l4),
			Flags: f.flags, WindowSize: 500,
		})
		for i := 20; i < l4; i++ {
			segment[i] = 1
		}
	}
	sum := pseudo
	if whole {
		if sum = ^checksum.Checksum(segment, pseudo); sum == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(segment[at:], sum)
	return pkt
}

// cut is what the packets of f are when each carries size bytes.
func (f flow) cut(size int) (packets [][]byte) {
	rest := f.payload
	for i := 0; len(rest) > 0; i++ {
		p := f
		p.payload = rest[:min(size, len(rest))]
		rest = rest[len(p.payload):]
		p.id += uint16(i)
		p.seq += uint32(i * size)
		if i > 0 {
			p.flags &^= flagCWR
		}
		if len(rest) > 0 {
			p.flags &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		packets = append(packets, p.packet(true))
	}
	return packets
}

// withHeader is what a read returns.
func withHeader(flags, gso byte, segment, start, offset int, pkt []byte) []byte {
	b := make([]byte, headerLength, headerLength+len(pkt))
	b[0], b[1] = flags, gso
	binary.NativeEndian.PutUint16(b[2:], uint16(len(pkt))) // not to be believed
	binary.NativeEndian.PutUint16(b[4:], uint16(segment))
	binary.NativeEndian.PutUint16(b[6:], uint16(start))
	binary.NativeEndian.PutUint16(b[8:], uint16(offset))
	return append(b, pkt...)
}

func (f flow) read(segment int) []byte {
	offset := tcpChecksum
	if f.udp {
		offset = udpChecksum
	}
	return withHeader(needsChecksum, f.gso(), segment, f.ip(), offset, f.packet(false))
}

func randomFlow(rng *rand.Rand) (f flow, segment int) {
	f = flow{
		v6: rng.IntN(2) == 0, udp: rng.IntN(2) == 0, options: 4 * rng.IntN(6),
		id: uint16(rng.Uint32()), seq: rng.Uint32(), flags: header.TCPFlags(rng.Uint32()),
	}
	segment = 1 + rng.IntN(2000)
	size := 1 + rng.IntN(min(65000-100, segment*140))
	f.payload = make([]byte, size)
	for i := range f.payload {
		f.payload[i] = byte(rng.Uint32())
	}
	return f, segment
}

// Each packet is exactly the one that gVisor's encoders write for its part.
func TestSegments(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, maxPacket)
	for range 300 {
		f, segment := randomFlow(rng)
		what := fmt.Sprintf("seed %d: v6 %v udp %v options %d, %d bytes in segments of %d", seed, f.v6, f.udp, f.options, len(f.payload), segment)
		var s superpacket
		if !s.parse(f.read(segment)) {
			t.Fatalf("%s: refused", what)
		}
		for i, want := range f.cut(segment) {
			n, ok := s.take(out)
			if !ok || !bytes.Equal(out[:n], want) {
				t.Fatalf("%s: packet %d:\n got %x %v\nwant %x", what, i, out[:n], ok, want)
			}
		}
		if n, ok := s.take(out); ok {
			t.Fatalf("%s: one more packet, of %d bytes", what, n)
		}
	}
}

// A packet of one segment gets the rest of its checksum, and nothing else.
func TestChecksumOfOnePacket(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, maxPacket)
	for _, f := range []flow{
		{payload: []byte("odd")}, {udp: true, payload: []byte("even")}, {v6: true, udp: true, options: 8}, {v6: true, payload: make([]byte, 1240)},
		// The payload makes the sum zero, which UDP cannot say.
		{udp: true, payload: zeroSum(t)},
	} {
		f.id = uint16(rng.Uint32())
		offset := tcpChecksum
		if f.udp {
			offset = udpChecksum
		}
		for _, c := range []struct {
			flags byte
			in    []byte
			want  []byte
		}{{needsChecksum, f.packet(false), f.packet(true)}, {0, f.packet(true), f.packet(true)}} {
			var s superpacket
			if !s.parse(withHeader(c.flags, gsoNone, 0, f.ip(), offset, c.in)) {
				t.Fatalf("%+v: refused", f)
			}
			if n, ok := s.take(out); !ok || !bytes.Equal(out[:n], c.want) {
				t.Errorf("%+v:\n got %x %v\nwant %x", f, out[:n], ok, c.want)
			}
			if _, ok := s.take(out); ok {
				t.Errorf("%+v: two packets", f)
			}
		}
	}
}

// zeroSum is a payload with which the checksum of a datagram over IPv4 is zero,
// which it writes as ffff.
func zeroSum(t *testing.T) []byte {
	for n := range 1 << 16 {
		p := []byte{byte(n >> 8), byte(n)}
		if pkt := (flow{udp: true, payload: p}).packet(true); pkt[26] == 0xff && pkt[27] == 0xff {
			return p
		}
	}
	t.Fatal("no payload makes the sum zero")
	return nil
}

func TestSuperpacketsRefused(t *testing.T) {
	tcp, udp := flow{payload: make([]byte, 3000)}, flow{v6: true, udp: true, payload: make([]byte, 3000)}
	change := func(f flow, how func(b []byte)) []byte {
		b := f.read(1000)
		how(b)
		return b
	}
	put := func(b []byte, at int, v uint16) { binary.NativeEndian.PutUint16(b[at:], v) }
	for name, b := range map[string][]byte{
		"empty":                     {},
		"header only":               make([]byte, headerLength),
		"too long":                  make([]byte, headerLength+maxPacket+1),
		"segment of nothing":        change(tcp, func(b []byte) { put(b, 4, 0) }),
		"checksum behind the end":   withHeader(needsChecksum, gsoNone, 0, 19, 0, make([]byte, 20)),
		"checksum far behind":       withHeader(needsChecksum, gsoNone, 0, 65535, 65535, make([]byte, 20)),
		"checksum elsewhere":        change(tcp, func(b []byte) { put(b, 8, 6) }),
		"transport inside IPv4":     change(tcp, func(b []byte) { put(b, 6, 12) }),
		"transport behind IPv4":     change(tcp, func(b []byte) { put(b, 6, 24) }),
		"transport inside IPv6":     change(udp, func(b []byte) { put(b, 6, 8) }),
		"transport behind the end":  change(udp, func(b []byte) { put(b, 6, 40000) }),
		"TCP over the wrong IP":     change(tcp, func(b []byte) { b[1] = gsoTCP6 }),
		"UDP as TCP over IPv4":      change(udp, func(b []byte) { b[1] = gsoTCP4 }),
		"unknown gso type":          change(tcp, func(b []byte) { b[1] = 3 }),
		"congestion bit":            change(tcp, func(b []byte) { b[1] |= 0x80 }),
		"version of IP":             change(tcp, func(b []byte) { b[headerLength] = 0x55 }),
		"short IPv4 header":         change(tcp, func(b []byte) { b[headerLength] = 0x44 }),
		"short TCP header":          change(tcp, func(b []byte) { b[headerLength+20+12] = 0x40 }),
		"TCP header behind the end": tcp.read(1000)[:headerLength+20+19],
		"no payload":                tcp.read(1000)[:headerLength+40],
		"IPv4 cut off":              tcp.read(1000)[:headerLength+19],
		"IPv6 cut off":              udp.read(1000)[:headerLength+39],
	} {
		var s superpacket
		if s.parse(b) {
			t.Errorf("%s: taken", name)
		}
		if n, ok := s.take(make([]byte, 100)); ok {
			t.Errorf("%s: a packet of %d bytes", name, n)
		}
	}
}

// What does not fit is skipped, and what follows is not.
func TestSegmentLongerThanBuffer(t *testing.T) {
	f := flow{payload: make([]byte, 2100)}
	var s superpacket
	if !s.parse(f.read(1000)) {
		t.Fatal("refused")
	}
	small := make([]byte, 200)
	for _, want := range []int{0, 0, 140} {
		if n, ok := s.take(small); n != want || !ok {
			t.Errorf("got %d, %v; want %d", n, ok, want)
		}
	}
}

func TestNoAllocationPerSegment(t *testing.T) {
	b := flow{payload: make([]byte, 60000)}.read(1400)
	in, out := bytes.Clone(b), make([]byte, 2000)
	var s superpacket
	if n := testing.AllocsPerRun(20, func() {
		copy(in, b)
		s.parse(in)
		for {
			if _, ok := s.take(out); !ok {
				break
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations per superpacket, want 0", n)
	}
}

// slowSum is the sum of RFC 1071, word by word.
func slowSum(b []byte) uint16 {
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32()) | byte(rng.IntN(2)*255)
		}
		if got, want := fold(sum(b, 0)), slowSum(b); got != want {
			t.Errorf("sum of %d bytes: got %04x, want %04x", n, got, want)
		}
		even := n / 3 &^ 1
		if got, want := fold(sum(b[even:], sum(b[:even], 0))), slowSum(b); got != want {
			t.Errorf("sum of %d bytes in two parts: got %04x, want %04x", n, got, want)
		}
		if got, want := fold(addWord(0xfe01, sum(b, 0))), slowSum(append([]byte{0xfe, 1}, b...)); got != want {
			t.Errorf("sum of %d bytes and a word: got %04x, want %04x", n, got, want)
		}
	}
}

// Whatever a read returns, each packet handed out is one of IP whose lengths are
// its own and whose checksums gVisor finds right, and together they carry the
// payload.
func FuzzSuperpacket(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 20 {
		fl, segment := randomFlow(rng)
		fl.payload = fl.payload[:min(len(fl.payload), 4000)]
		f.Add(fl.read(segment))
	}
	f.Add(withHeader(needsChecksum, gsoNone, 0, 20, 6, flow{udp: true, payload: []byte("x")}.packet(false)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s superpacket
		if !s.parse(bytes.Clone(b)) {
			return
		}
		cut := s
		out := make([]byte, maxPacket)
		var carried []byte
		for {
			n, ok := s.take(out)
			if !ok {
				break
			}
			pkt := out[:n]
			if cut.whole {
				if n != len(b)-headerLength {
					t.Fatalf("got %d bytes of %d", n, len(b)-headerLength)
				}
				continue
			}
			if n <= cut.payload || n > cut.payload+cut.segment {
				t.Fatalf("a packet of %d bytes, headers %d, segments of %d", n, cut.payload, cut.segment)
			}
			carried = append(carried, pkt[cut.payload:]...)
			var src, dst []byte
			if cut.v6 {
				if got := int(binary.BigEndian.Uint16(pkt[4:])); got != n-40 {
					t.Fatalf("length %d, want %d", got, n-40)
				}
				src, dst = pkt[8:24], pkt[24:40]
			} else {
				if h := header.IPv4(pkt); int(h.TotalLength()) != n || !h.IsChecksumValid() {
					t.Fatalf("IPv4 header %s", hex.EncodeToString(pkt[:cut.transport]))
				}
				src, dst = pkt[12:16], pkt[16:20]
			}
			l4 := pkt[cut.transport:]
			pseudo := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(cut.protocol),
				tcpip.AddrFromSlice(src), tcpip.AddrFromSlice(dst), uint16(len(l4)))
			if got := checksum.Checksum(l4, pseudo); got != 0xffff {
				t.Fatalf("sum of the segment is %04x, want ffff", got)
			}
		}
		if !cut.whole && !bytes.Equal(carried, b[headerLength+cut.payload:]) {
			t.Fatal("the packets do not carry the payload")
		}
	})
}

func BenchmarkSegments(b *testing.B) {
	from := flow{payload: make([]byte, 40*1380)}.read(1380)
	in, out := bytes.Clone(from), make([]byte, 2000)
	b.SetBytes(int64(len(from)))
	for b.Loop() {
		copy(in, from[:64])
		var s superpacket
		s.parse(in)
		for {
			if _, ok := s.take(out); !ok {
				break
			}
		}
	}
}
