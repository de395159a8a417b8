package stun

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pion "github.com/pion/stun/v3"

	"github.com/writmesh/writ/relay/frame"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tx(t testing.TB, s string) (id [TxSize]byte) {
	t.Helper()
	copy(id[:], unhex(t, s))
	return id
}

// Of RFC 5769, sections 2.1 to 2.4.
const (
	rfcTx      = "b7e7a701bc34d686fa87dfae"
	rfcRequest = `00010058 2112a442 b7e7a701bc34d686fa87dfae
		80220010 5354554e207465737420636c69656e74
		00240004 6e0001ff
		80290008 932ff9b151263b36
		00060009 6576746a3a68367659202020
		00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
		80280004 e57a3bcf`
	rfcResponse4 = `0101003c 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220
		00200008 0001a147e112a643
		00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
		80280004 c07d4c96`
	rfcResponse6 = `01010048 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220
		00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
		00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
		80280004 c8fb0b4c`
)

// The messages of the package comment, by hand.
const (
	request = `00010018 2112a442 000102030405060708090a0b
		80220014 777269742c20726f6f6d20746f20616e73776572`
	answer4 = `0101000c 2112a442 000102030405060708090a0b
		00200008 0001 0326 e1baa563` // 192.168.1.33:8756
	answer6 = `01010018 2112a442 000102030405060708090a0b
		00200014 0002 0326 0113a9fa 00010203 04050607 08090a0a` // [2001:db8::1]:8756
	countTx = "000102030405060708090a0b"
)

func TestRequestVector(t *testing.T) {
	got := Request(tx(t, countTx))
	if want := unhex(t, request); !bytes.Equal(got, want) || len(got) != RequestSize {
		t.Errorf("got %x, want %x of %d bytes", got, want, RequestSize)
	}
}

func TestAnswerVectors(t *testing.T) {
	var a Answerer
	for _, c := range []struct{ from, want string }{
		{"192.168.1.33:8756", answer4},
		{"[::ffff:192.168.1.33]:8756", answer4},
		{"[2001:db8::1]:8756", answer6},
	} {
		got, err := a.Answer(unhex(t, request), netip.MustParseAddrPort(c.from))
		if want := unhex(t, c.want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("to %s: got %x, %v; want %x", c.from, got, err, want)
		}
	}
}

func TestParseResponseVectors(t *testing.T) {
	for _, c := range []struct{ name, hex, tx, want string }{
		{"RFC 5769 2.2", rfcResponse4, rfcTx, "192.0.2.1:32853"},
		{"RFC 5769 2.3", rfcResponse6, rfcTx, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"},
		{"ours to IPv4", answer4, countTx, "192.168.1.33:8756"},
		{"ours to IPv6", answer6, countTx, "[2001:db8::1]:8756"},
	} {
		id, addr, err := ParseResponse(unhex(t, c.hex))
		if err != nil || id != tx(t, c.tx) || addr.String() != c.want {
			t.Errorf("%s: got %x %v, %v; want %s %s", c.name, id, addr, err, c.tx, c.want)
		}
	}
}

func TestIs(t *testing.T) {
	for name, p := range map[string][]byte{
		"our request": unhex(t, request), "RFC 5769's": unhex(t, rfcRequest), "an answer": unhex(t, answer6),
		"an error": unhex(t, "01110000 2112a442"+countTx),
	} {
		if !Is(p) {
			t.Errorf("%s is not taken for STUN", name)
		}
	}
	// What else arrives on the socket. The fields that a sender chooses freely
	// hold what looks most like STUN.
	wg := func(kind byte, n int) []byte {
		p := make([]byte, n)
		p[0] = kind
		binary.BigEndian.PutUint32(p[4:], cookie)
		return p
	}
	for name, p := range map[string][]byte{
		"initiation": wg(1, 148), "response": wg(2, 92), "cookie": wg(3, 64),
		"keepalive": wg(4, 32), "transport": wg(4, 1452),
		"disco": append([]byte(frame.DiscoMagic), make([]byte, 58)...),
		"short": unhex(t, request)[:19], "empty": nil, "cut": unhex(t, request)[:40],
		"longer": append(unhex(t, request), 0, 0, 0, 0),
	} {
		if Is(p) {
			t.Errorf("%s is taken for STUN", name)
		}
	}
}

// TestDefects reads each file of testdata/defect: who must object ("server" or
// "node"), to a datagram from where, the exact error, the bytes.
func TestDefects(t *testing.T) {
	files, err := filepath.Glob("testdata/defect/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no defects", err)
	}
	for _, name := range files {
		h, data := defect(t, name)
		switch h["objects"] {
		case "server":
			from := netip.MustParseAddrPort(h["from"])
			got, err := new(Answerer).Answer(data, from)
			var why Drop
			if !errors.As(err, &why) || why.String() != h["error"] || got != nil {
				t.Errorf("%s: got %x, %v; want %s", name, got, err, h["error"])
			}
		case "node":
			id, addr, err := ParseResponse(data)
			if err == nil || err.Error() != "read STUN response: "+h["error"] {
				t.Errorf("%s:\n got %v, %v\nwant %v", name, addr, err, h["error"])
			}
			if id != [TxSize]byte{} || addr.IsValid() {
				t.Errorf("%s: an error with %x %v", name, id, addr)
			}
		default:
			t.Errorf("%s: objects: %q", name, h["objects"])
		}
	}
}

func defect(t testing.TB, name string) (head map[string]string, data []byte) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	top, body, ok := strings.Cut(string(raw), "\n\n")
	if !ok {
		t.Fatalf("%s: no empty line", name)
	}
	head = map[string]string{}
	for line := range strings.SplitSeq(top, "\n") {
		k, v, _ := strings.Cut(line, ": ")
		head[k] = v
	}
	return head, unhex(t, body)
}

// TestAnswersAreNoLongerThanRequests: the general client's request of 20 bytes would
// be answered with more than it is, and so is not.
func TestAnswersAreNoLongerThanRequests(t *testing.T) {
	var a Answerer
	build := func(software string) []byte {
		m, err := pion.Build(pion.TransactionID, pion.BindingRequest)
		if err == nil && software != "" {
			err = pion.NewSoftware(software).AddTo(m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	for _, from := range []string{"192.0.2.1:4242", "[2001:db8::1]:4242"} {
		for n := range 64 {
			request := build(strings.Repeat("x", n))
			got, err := a.Answer(request, netip.MustParseAddrPort(from))
			if len(got) > len(request) {
				t.Errorf("%s: %d bytes answered with %d", from, len(request), len(got))
			}
			need := answerSize4
			if from[0] == '[' {
				need = answerSize6
			}
			if enough := len(request) >= need; enough != (err == nil) || !enough && err != Short {
				t.Errorf("%s: %d bytes: got %v, want an answer: %v", from, len(request), err, enough)
			}
		}
	}
}

func TestAnswerDoesNotAllocate(t *testing.T) {
	var a Answerer
	for _, c := range []struct{ name, hex string }{
		{"answered", request}, {"short", "00010000 2112a442" + countTx}, {"not STUN", "04000000 2112a442" + countTx + "0000"},
		{"attribute behind the message", "00010004 2112a442" + countTx + "80220004"}, {"unknown attribute", rfcRequest},
	} {
		p, from := unhex(t, c.hex), netip.MustParseAddrPort("[2001:db8::1]:4242")
		a.Answer(p, from)
		if n := testing.AllocsPerRun(100, func() { a.Answer(p, from) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
}

// TestParseResponseDoesNotAllocate: what a node reads well costs it nothing.
func TestParseResponseDoesNotAllocate(t *testing.T) {
	for _, s := range []string{answer4, answer6, rfcResponse4} {
		p := unhex(t, s)
		if n := testing.AllocsPerRun(100, func() { ParseResponse(p) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", s, n)
		}
	}
}

// datagrams are all datagrams of this file and of testdata.
func datagrams(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, s := range []string{rfcRequest, rfcResponse4, rfcResponse6, request, answer4, answer6} {
		all = append(all, unhex(t, s))
	}
	files, _ := filepath.Glob("testdata/defect/*")
	for _, name := range files {
		_, data := defect(t, name)
		all = append(all, data)
	}
	return all
}

func seeds(f *testing.F) {
	for _, data := range datagrams(f) {
		f.Add(data)
	}
}

// attributes takes a message apart by another route than the code does.
func attributes(p []byte) (types []uint16, values [][]byte, ok bool) {
	if !Is(p) {
		return nil, nil, false
	}
	for p = p[headerSize:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, nil, false
		}
		n := int(binary.BigEndian.Uint16(p[2:]))
		if n > len(p)-4 || (n+3)&^3 > len(p)-4 {
			return nil, nil, false
		}
		types, values = append(types, binary.BigEndian.Uint16(p)), append(values, p[4:4+n])
		p = p[4+(n+3)&^3:]
	}
	return types, values, true
}

// FuzzAnswer: whatever arrives, an answer is made for exactly the binding
// requests that the package comment says, is no longer, and is what a node reads
// back as the address it came from.
func FuzzAnswer(f *testing.F) {
	seeds(f)
	from4, from6 := netip.MustParseAddrPort("203.0.113.9:4242"), netip.MustParseAddrPort("[2001:db8::9]:4242")
	f.Fuzz(func(t *testing.T, p []byte) {
		types, _, ok := attributes(p)
		want := ok && len(p) <= maxRequest && binary.BigEndian.Uint16(p) == 1
		for _, a := range types {
			if a < 0x8000 || a == 0x8020 {
				want = false
			}
		}
		var a Answerer
		for _, from := range []netip.AddrPort{from4, from6} {
			got, err := a.Answer(p, from)
			fits := from.Addr().Is4() && len(p) >= 32 || len(p) >= 44
			if (err == nil) != (want && fits) {
				t.Fatalf("%x from %v: %v, want an answer: %v", p, from, err, want && fits)
			}
			if err != nil {
				continue
			}
			if len(got) > len(p) {
				t.Fatalf("%d bytes answered with %d", len(p), len(got))
			}
			id, addr, err := ParseResponse(got)
			if err != nil || !bytes.Equal(id[:], p[8:20]) || addr != from {
				t.Fatalf("the node reads %x %v, %v; want %x %v", id, addr, err, p[8:20], from)
			}
		}
	})
}

// FuzzParseResponse compares what is accepted with a reading by hand.
func FuzzParseResponse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		id, got, err := ParseResponse(p)
		if err != nil {
			if id != [TxSize]byte{} || got.IsValid() {
				t.Fatalf("an error with %x %v", id, got)
			}
			return
		}
		types, values, ok := attributes(p)
		if !ok || len(p) > 512 || p[0] != 1 || p[1] != 1 {
			t.Fatalf("accepted %x", p)
		}
		n := 0
		for i, a := range types {
			if a != 0x20 && a != 0x8020 {
				continue
			}
			n++
			v := bytes.Clone(values[i])
			for j := range v[2:4] {
				v[2+j] ^= p[4+j]
			}
			for j := range v[4:] {
				v[4+j] ^= p[4+j]
			}
			ip, _ := netip.AddrFromSlice(v[4:])
			if want := netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(v[2:])); got != want {
				t.Fatalf("got %v, want %v", got, want)
			}
			if len(v) != map[byte]int{1: 8, 2: 20}[v[1]] || v[0] != 0 {
				t.Fatalf("accepted a mapped address of family %d in %d bytes", v[1], len(v))
			}
		}
		if n != 1 || got.Port() == 0 || got.Addr().IsUnspecified() || got.Addr().IsMulticast() {
			t.Fatalf("accepted %d addresses, %v", n, got)
		}
	})
}
