package stun

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	pion "github.com/pion/stun/v3"
)

// The tests of this file compare with pion/stun, which reads and writes all of
// STUN: what is taken here, pion takes and understands in the same way; and what
// pion takes is refused here only for a reason that stands in a function below,
// and whenever it stands there.

// pionRequest reads a request: it is one if pion can take it apart.
func pionRequest(p []byte) (tx [TxSize]byte, ok bool) {
	m := &pion.Message{Raw: bytes.Clone(p)}
	if m.Decode() != nil || m.Type != pion.BindingRequest {
		return tx, false
	}
	return m.TransactionID, true
}

// pionAnswer makes an answer.
func pionAnswer(t testing.TB, tx [TxSize]byte, to netip.AddrPort) []byte {
	m, err := pion.Build(pion.NewTransactionIDSetter(tx), pion.BindingSuccess,
		&pion.XORMappedAddress{IP: net.IP(to.Addr().AsSlice()), Port: int(to.Port())})
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// pionResponse reads an answer: it is one if it has an address, and a
// fingerprint that is right, if any.
func pionResponse(p []byte) (tx [TxSize]byte, addr netip.AddrPort, ok bool) {
	m := &pion.Message{Raw: bytes.Clone(p)}
	if m.Decode() != nil || m.Type != pion.BindingSuccess {
		return tx, addr, false
	}
	var x pion.XORMappedAddress
	if x.GetFrom(m) != nil {
		return tx, addr, false
	}
	if m.Contains(pion.AttrFingerprint) && pion.Fingerprint.Check(m) != nil {
		return tx, addr, false
	}
	ip, _ := netip.AddrFromSlice(x.IP)
	return m.TransactionID, netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), true
}

// strictForm is why a datagram that pion takes apart is not STUN here, or
// nothing. Pion reads from a stream, where more may follow; what comes with a
// datagram is all of it.
func strictForm(p []byte) string {
	switch m, size := p[0]>>6, int(binary.BigEndian.Uint16(p[2:])); {
	case m != 0:
		return "bits before the type"
	case size != len(p)-20:
		return "bytes behind the message"
	}
	return ""
}

// strictRequest is why a request that pion takes is not answered, or nothing.
func strictRequest(p []byte, from netip.AddrPort) string {
	if len(p) > 548 {
		return "long"
	}
	if why := strictForm(p); why != "" {
		return why
	}
	m := &pion.Message{Raw: bytes.Clone(p)}
	m.Decode()
	if slices.ContainsFunc(m.Attributes, func(a pion.RawAttribute) bool { return a.Type.Required() }) {
		return "must be understood"
	}
	if len(p) < 20+4+4+from.Addr().BitLen()/8 {
		return "short"
	}
	return ""
}

// strictResponse is why a response that pion takes is refused, or nothing.
func strictResponse(p []byte) string {
	if len(p) > 512 {
		return "long"
	}
	if why := strictForm(p); why != "" {
		return why
	}
	m := &pion.Message{Raw: bytes.Clone(p)}
	m.Decode()
	mapped := 0
	for i, a := range m.Attributes {
		switch a.Type {
		case pion.AttrXORMappedAddress:
			mapped++
			// Pion fills up what is missing of an address.
			if len(a.Value) != 8 && len(a.Value) != 20 || a.Value[1] == 2 && len(a.Value) == 8 {
				return "cut address"
			}
		case pion.AttrFingerprint:
			// Pion sums up all but the last eight bytes, wherever it found the value.
			if i != len(m.Attributes)-1 {
				return "fingerprint not last"
			}
		case pion.AttrMappedAddress, pion.AttrMessageIntegrity:
		default:
			if a.Type.Required() {
				return "must be understood"
			}
		}
	}
	if mapped != 1 {
		return "two addresses"
	}
	_, addr, _ := pionResponse(p)
	if ip := addr.Addr(); addr.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() || ip.String() == "255.255.255.255" {
		return "nobody's address"
	}
	return ""
}

var pionFrom = []netip.AddrPort{
	netip.MustParseAddrPort("203.0.113.9:4242"), netip.MustParseAddrPort("[2001:db8::9]:65535"),
}

// sameAnswer compares what is answered to p; it returns what came of it for each
// of pionFrom.
func sameAnswer(t testing.TB, p []byte) (came []string) {
	var a Answerer
	for _, from := range pionFrom {
		got, err := a.Answer(p, from)
		why := "not for pion"
		tx, ok := pionRequest(p)
		if ok {
			why = strictRequest(p, from)
		}
		if (err == nil) != (why == "") {
			t.Fatalf("%x from %v: %v, pion takes it: %v, reason against: %q", p, from, err, ok, why)
		}
		if err == nil {
			if want := pionAnswer(t, tx, from); !bytes.Equal(got, want) {
				t.Fatalf("%x from %v:\n got %x\nwant %x", p, from, got, want)
			}
			sameResponse(t, got)
		}
		came = append(came, why)
	}
	return came
}

// sameResponse compares how p is read as a response.
func sameResponse(t testing.TB, p []byte) (came string) {
	id, addr, err := ParseResponse(p)
	came = "not for pion"
	wantID, want, ok := pionResponse(p)
	if ok {
		came = strictResponse(p)
	}
	if (err == nil) != (came == "") {
		t.Fatalf("%x: %v, pion takes it: %v, reason against: %q", p, err, ok, came)
	}
	if err == nil && (id != wantID || addr != want) {
		t.Fatalf("%x: got %x %v, want %x %v", p, id, addr, wantID, want)
	}
	return came
}

// TestRequestLikePion: for random transaction ids.
func TestRequestLikePion(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var tx [TxSize]byte
		for i := range tx {
			tx[i] = byte(rng.Uint32())
		}
		m, err := pion.Build(pion.NewTransactionIDSetter(tx), pion.BindingRequest, pion.NewSoftware("writ, room to answer"))
		if err != nil {
			t.Fatal(err)
		}
		if got := Request(tx); !bytes.Equal(got, m.Raw) {
			t.Fatalf("got %x, want %x", got, m.Raw)
		}
	}
}

// TestVectorsLikePion compares on every datagram of the tests and of testdata,
// on all of their prefixes, and with each byte changed in each bit.
func TestVectorsLikePion(t *testing.T) {
	for _, p := range datagrams(t) {
		sameAnswer(t, p)
		sameResponse(t, p)
		for i := range p {
			sameAnswer(t, p[:i:i])
			sameResponse(t, p[:i:i])
			for bit := range 8 {
				q := bytes.Clone(p)
				q[i] ^= 1 << bit
				sameAnswer(t, q)
				sameResponse(t, q)
			}
		}
	}
}

// message makes a message that may be anything near to what is taken.
func message(rng *rand.Rand) []byte {
	pick := func(of ...int) int { return of[rng.IntN(len(of))] }
	p := binary.BigEndian.AppendUint16(nil, uint16(pick(0x0001, 0x0001, 0x0101, 0x0101, 0x0101, 0x0111, 0x0011, 0x0003, 0xc101, 0x4001)))
	p = append(p, 0, 0, 0x21, 0x12, 0xa4, 0x42)
	for range TxSize {
		p = append(p, byte(rng.Uint32()))
	}
	add := func(kind int, value []byte) {
		p = binary.BigEndian.AppendUint16(p, uint16(kind))
		p = binary.BigEndian.AppendUint16(p, uint16(len(value)))
		p = append(p, value...)
		for len(p)%4 != 0 {
			p = append(p, byte(rng.Uint32())) // padding may be anything
		}
	}
	for range pick(0, 1, 1, 1, 2, 2, 3) {
		switch pick(0, 0, 0, 0, 1, 2, 3, 4) {
		case 0:
			family := pick(1, 1, 1, 2, 2, 0, 3)
			n := map[int]int{1: 8, 2: 20}[family]
			if n == 0 || rng.IntN(8) == 0 {
				n = rng.IntN(24)
			}
			value := make([]byte, max(n, 4))
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
			binary.BigEndian.PutUint16(value, uint16(family))
			switch pick(0, 0, 0, 0, 1, 2, 3) {
			case 1:
				copy(value[4:], p[4:20]) // ::, 0.0.0.0
			case 2:
				copy(value[2:], p[4:6]) // port 0
			case 3: // ::ffff:0.0.0.0/96
				copy(value[4:], p[4:14])
				for i := 14; i < min(16, len(value)); i++ {
					value[i] = ^p[i]
				}
			}
			add(pick(0x0020, 0x0020, 0x0020, 0x8020), value[:n])
		case 1:
			add(pick(0x0001, 0x0006, 0x0008, 0x0024, 0x001c, 0x7fff), make([]byte, pick(0, 4, 8, 20)))
		case 2:
			add(pick(0x8000, 0x8022, 0x802c, 0xffff), make([]byte, rng.IntN(40)))
		case 3:
			add(0x8028, make([]byte, pick(0, 3, 4, 4, 5)))
		case 4:
			add(0x8022, make([]byte, pick(440, 480, 550)))
		}
	}
	length := func() { binary.BigEndian.PutUint16(p[2:], uint16(len(p)-20)) }
	if rng.IntN(4) == 0 {
		p = append(p, 0x80, 0x28, 0, 4, 0, 0, 0, 0)
		length()
		binary.BigEndian.PutUint32(p[len(p)-4:], pion.FingerprintValue(p[:len(p)-8])^uint32(pick(0, 0, 0, 1)))
	}
	length()
	switch rng.IntN(12) {
	case 0:
		p = p[:rng.IntN(len(p)+1)]
	case 1:
		p = append(p, make([]byte, 1+rng.IntN(8))...)
	case 2:
		p[rng.IntN(len(p))] ^= 1 << rng.IntN(8)
	case 3: // the attributes end elsewhere than the message
		binary.BigEndian.PutUint16(p[2:], uint16(rng.IntN(len(p))))
	}
	return p
}

// TestRandomLikePion compares on messages of attributes put together at random,
// and wants each of the reasons at work.
func TestRandomLikePion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	answers, responses := map[string]int{}, map[string]int{}
	for range 20_000 {
		p := message(rng)
		for _, why := range sameAnswer(t, p) {
			answers[why]++
		}
		responses[sameResponse(t, p)]++
	}
	// Chance finds no fingerprint that is right for pion before the last attribute.
	responses[sameResponse(t, earlyFingerprint(t))]++
	t.Logf("requests: %v; responses: %v", fmt.Sprint(answers), fmt.Sprint(responses))
	for _, why := range []string{"", "not for pion", "long", "bits before the type", "bytes behind the message", "must be understood", "short"} {
		if answers[why] == 0 {
			t.Errorf("no request with outcome %q", why)
		}
	}
	for _, why := range []string{"", "not for pion", "long", "bits before the type", "bytes behind the message", "must be understood", "cut address", "fingerprint not last", "two addresses", "nobody's address"} {
		if responses[why] == 0 {
			t.Errorf("no response with outcome %q", why)
		}
	}
}

// earlyFingerprint is a response whose fingerprint pion finds right although an
// attribute of eight bytes follows: the value is chosen so that the checksum of
// everything up to and with itself is that value. A checksum is linear in what it
// sums up, so the value is the solution of 32 equations; it is found bit by bit.
func earlyFingerprint(t testing.TB) []byte {
	p := unhex(t, `0101001c 2112a442 000102030405060708090a0b
		00200008 0001 0326 e1baa563
		80280004 00000000
		80220004 00000000`)
	const at = 20 + 12 + 4
	// off is what has to be zero for the value v.
	off := func(v uint32) uint32 {
		binary.BigEndian.PutUint32(p[at:], v)
		return pion.FingerprintValue(p[:len(p)-8]) ^ v
	}
	zero := off(0)
	var rows [32]struct{ sum, v uint32 } // by the highest bit of sum
	for i := range 32 {
		sum, v := off(1<<i)^zero, uint32(1)<<i
		for bit := 31; bit >= 0; bit-- {
			if sum>>bit&1 == 0 {
				continue
			}
			if rows[bit].sum == 0 {
				rows[bit].sum, rows[bit].v = sum, v
				break
			}
			sum, v = sum^rows[bit].sum, v^rows[bit].v
		}
	}
	rest, v := zero, uint32(0)
	for bit := 31; bit >= 0; bit-- {
		if rest>>bit&1 == 1 {
			rest, v = rest^rows[bit].sum, v^rows[bit].v
		}
	}
	if off(v) != 0 {
		t.Fatalf("no fingerprint is its own: %08x is left", off(v))
	}
	return p
}

// FuzzLikePion compares on whatever is thought of.
func FuzzLikePion(f *testing.F) {
	seeds(f)
	f.Add(earlyFingerprint(f))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		f.Add(message(rng))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		sameAnswer(t, p)
		sameResponse(t, p)
	})
}
