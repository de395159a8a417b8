package disco

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// A vector is one message of testdata/vectors.txt.
type vector struct {
	name          string
	counter       uint64
	plain, packet []byte
}

// vectors reads testdata/vectors.txt: what stands before the messages, and them.
func vectors(t testing.TB) (map[string]string, []vector) {
	t.Helper()
	f, err := os.Open("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := map[string]string{}
	var list []vector
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), " ")
		switch name {
		case "", "#":
		case "message":
			list = append(list, vector{name: value})
		case "counter":
			if list[len(list)-1].counter, err = strconv.ParseUint(value, 10, 64); err != nil {
				t.Fatal(err)
			}
		case "plain":
			list[len(list)-1].plain = unhex(t, value)
		case "packet":
			list[len(list)-1].packet = unhex(t, value)
		default:
			head[name] = value
		}
	}
	if len(list) < 7 {
		t.Fatalf("%d vectors, want 7", len(list))
	}
	return head, list
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// messages are what the vectors say, by name.
var messages = map[string]Message{
	"ping":               &Ping{Tx: tx},
	"ping_proved_padded": &Ping{Tx: tx, Proved: true, Padding: 20},
	"pong":               &Pong{Tx: tx, Src: addrPort("203.0.113.9:4242")},
	"pong_proved_v6":     &Pong{Tx: tx, Proved: true, Src: addrPort("[2001:db8::9]:51820")},
	"pong_by_relay":      &Pong{Tx: tx},
	"endpoints": &Endpoints{Reply: true, Mapping: MappingEndpointIndependent, List: []Endpoint{
		{addrPort("192.168.1.10:40001"), Interface},
		{addrPort("203.0.113.9:4242"), Reflexive},
		{addrPort("[2001:db8::9]:51820"), Static},
	}},
	"endpoints_empty": &Endpoints{Mapping: MappingBlocked},
}

var tx = TxID{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b}

// A bench is the two nodes of the vectors.
type bench struct {
	network  key.NetworkID
	idA, idB key.NodeID
	kA, kB   key.WGPrivate
	started  time.Time
}

func newBench(t testing.TB) bench {
	t.Helper()
	head, _ := vectors(t)
	private := func(s string) key.WGPrivate {
		public := key.NetworkID(unhex(t, s)).String() // the same encoding behind another prefix
		k, err := key.ParseWGPrivate("wgkey:" + strings.TrimPrefix(public, "net:"))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	micros, err := strconv.ParseInt(head["boot"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bench{
		network: key.NetworkID(unhex(t, head["network"])),
		idA:     key.NodeID(unhex(t, head["node-a"])), idB: key.NodeID(unhex(t, head["node-b"])),
		kA: private(head["private-a"]), kB: private(head["private-b"]),
		started: time.UnixMicro(micros - 1), // the first pair's boot is one more
	}
}

// fromA is A's pair with B, and fromB is B's with A.
func (b bench) fromA(t testing.TB) *Pair {
	t.Helper()
	p, err := NewSelf(b.kA, b.network, b.idA, b.started).Pair(b.kB.Public(), b.idB)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (b bench) fromB(t testing.TB) *Pair {
	t.Helper()
	p, err := NewSelf(b.kB, b.network, b.idB, b.started).Pair(b.kA.Public(), b.idA)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func nonceOf(n byte) (nonce [nonceSize]byte) {
	for i := range nonce {
		nonce[i] = n
	}
	return nonce
}

func TestVectors(t *testing.T) {
	b := newBench(t)
	head, list := vectors(t)
	a, z := b.fromA(t), b.fromB(t)
	if got := hex.EncodeToString(a.outTag[:]); got != head["tag"] || z.Tag() != a.outTag {
		t.Errorf("tag from A to B: got %s, and B expects %x, want %s", got, z.Tag(), head["tag"])
	}
	if a.Tag() != z.outTag || a.Tag() == z.Tag() {
		t.Errorf("tag from B to A: got %x and %x, want one tag, another than %s", a.Tag(), z.outTag, head["tag"])
	}
	for _, v := range list {
		m, ok := messages[v.name]
		if !ok {
			t.Errorf("vector %s: no message of that name here", v.name)
			continue
		}
		got, err := a.seal(m, v.counter, nonceOf(byte(v.counter)))
		if err != nil || !bytes.Equal(got, v.packet) {
			t.Errorf("seal %s:\n got %x, %v\nwant %x", v.name, got, err, v.packet)
		}
		opened, err := z.Open(v.packet)
		if err != nil || !reflect.DeepEqual(opened, m) {
			t.Errorf("open %s: got %+v, %v, want %+v", v.name, opened, err, m)
		}
		if tag, ok := Peek(v.packet); !ok || tag != z.Tag() {
			t.Errorf("peek %s: got %x, %v, want %x", v.name, tag, ok, z.Tag())
		}
		if got := frame.Classify(v.packet); got != frame.Urgent {
			t.Errorf("%s by relay is %s, want urgent", v.name, got)
		}
	}
}

func TestDefects(t *testing.T) {
	b := newBench(t)
	files, err := os.ReadDir("testdata/defect")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			d := readDefect(t, f.Name())
			seen[d.reason] = true
			packet := d.packet
			if packet == nil {
				packet = b.fromA(t).sealPlain(d.plain, nonceOf(9))
			}
			m, err := b.fromB(t).Open(packet)
			if m != nil || ReasonOf(err).String() != d.reason {
				t.Errorf("%s: got %+v, %v (%s), want %s", d.why, m, err, ReasonOf(err), d.reason)
			}
		})
	}
	for _, r := range Reasons() {
		if r != Replay && !seen[r.String()] { // replays need two packets: see replay_test.go
			t.Errorf("no defect has the reason %s", r)
		}
	}
	if len(files) < 48 {
		t.Errorf("%d defects, want 48", len(files))
	}
}

type defect struct {
	reason, why   string
	plain, packet []byte
}

// readDefect reads a file of testdata/defect: the reason expected, why, and a
// packet from A to B, or what is sealed in one, with zeros to add.
func readDefect(t testing.TB, name string) (d defect) {
	t.Helper()
	b, err := os.ReadFile("testdata/defect/" + name)
	if err != nil {
		t.Fatal(err)
	}
	pad := 0
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch k {
		case "reason":
			d.reason = v
		case "why":
			d.why = v
		case "pad":
			if pad, err = strconv.Atoi(v); err != nil {
				t.Fatal(err)
			}
		case "plain":
			d.plain = unhex(t, v)
		case "packet", "packet:":
			d.packet = append([]byte{}, unhex(t, v)...)
		default:
			t.Fatalf("line %q", line)
		}
	}
	d.plain = append(d.plain, make([]byte, pad)...)
	return d
}

func TestEveryBitIsSealed(t *testing.T) {
	b := newBench(t)
	_, list := vectors(t)
	z := b.fromB(t) // remembers nothing of what is forged
	for _, v := range list {
		for bit := range 8 * len(v.packet) {
			packet := bytes.Clone(v.packet)
			packet[bit/8] ^= 1 << (bit % 8)
			want := Forged
			switch {
			case bit/8 < len(Magic):
				want = NotDisco
			case bit/8 < headSize:
				want = Tag
			}
			if m, err := z.Open(packet); m != nil || err != want {
				t.Fatalf("%s, bit %d flipped: got %+v, %v, want %v", v.name, bit, m, err, want)
			}
		}
		for n := range v.packet {
			m, err := z.Open(v.packet[:n])
			if m != nil || ReasonOf(err) == 0 {
				t.Fatalf("%s, first %d bytes: got %+v, %v, want a reason", v.name, n, m, err)
			}
		}
	}
}

// What is meant for one node means nothing to any other, nor to its sender.
func TestOnlyThePeerUnderstands(t *testing.T) {
	b := newBench(t)
	packet, err := b.fromA(t).Seal(&Ping{Tx: tx})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.fromB(t).Open(packet); err != nil {
		t.Fatalf("B: %v", err)
	}
	pair := func(self key.WGPrivate, network key.NetworkID, id key.NodeID, peer key.WGPublic, peerID key.NodeID) *Pair {
		p, err := NewSelf(self, network, id, b.started).Pair(peer, peerID)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := key.NewWG()
	for name, p := range map[string]*Pair{
		"A itself":                          b.fromA(t),
		"another node":                      pair(other, b.network, key.NodeID{1}, b.kA.Public(), b.idA),
		"another node with B's id":          pair(other, b.network, b.idB, b.kA.Public(), b.idA),
		"another node with B's key":         pair(b.kB, b.network, key.NodeID{1}, b.kA.Public(), b.idA),
		"B in another network":              pair(b.kB, key.NetworkID{1}, b.idB, b.kA.Public(), b.idA),
		"B for another peer with A's key":   pair(b.kB, b.network, b.idB, b.kA.Public(), key.NodeID{1}),
		"B for A with another key":          pair(b.kB, b.network, b.idB, other.Public(), b.idA),
		"B for A, the ids the other way":    pair(b.kB, b.network, b.idA, b.kA.Public(), b.idB),
		"B for A, after A rotated its key":  pair(b.kB, b.network, b.idB, key.NewWG().Public(), b.idA),
		"A after it rotated its key, for B": pair(key.NewWG(), b.network, b.idA, b.kB.Public(), b.idB),
	} {
		if m, err := p.Open(packet); m != nil || err != Tag {
			t.Errorf("%s: got %+v, %v, want %v", name, m, err, Tag)
		}
		copy(packet[len(Magic):], p.inTag[:])
		if m, err := p.Open(packet); m != nil || err != Forged {
			t.Errorf("%s, with its tag: got %+v, %v, want %v", name, m, err, Forged)
		}
		copy(packet[len(Magic):], b.fromB(t).inTag[:])
	}
}

func TestPairRefuses(t *testing.T) {
	b := newBench(t)
	s := NewSelf(b.kA, b.network, b.idA, b.started)
	if _, err := s.Pair(b.kB.Public(), b.idA); err == nil {
		t.Error("a pair with itself")
	}
	if _, err := s.Pair(key.WGPublic{}, b.idB); err == nil {
		t.Error("a pair with the zero key")
	}
}

func TestSealRefuses(t *testing.T) {
	p := newBench(t).fromA(t)
	e := Endpoint{addrPort("192.0.2.1:1"), Interface}
	for name, m := range map[string]Message{
		"nil":                 nil,
		"negative padding":    &Ping{Padding: -1},
		"too much padding":    &Ping{Padding: MaxPadding + 1},
		"src without port":    &Pong{Src: addrPort("192.0.2.1:0")},
		"src unspecified":     &Pong{Src: addrPort("0.0.0.0:1")},
		"src with a zone":     &Pong{Src: addrPort("[fe80::1%eth0]:1")},
		"33 endpoints":        &Endpoints{List: make33(e)},
		"invalid address":     &Endpoints{List: []Endpoint{{netip.AddrPort{}, Interface}}},
		"unspecified address": &Endpoints{List: []Endpoint{{addrPort("[::]:1"), Interface}}},
		"mapped unspecified":  &Endpoints{List: []Endpoint{{addrPort("[::ffff:0.0.0.0]:1"), Interface}}},
		"port zero":           &Endpoints{List: []Endpoint{{addrPort("192.0.2.1:0"), Interface}}},
		"kind zero":           &Endpoints{List: []Endpoint{{Addr: e.Addr}}},
		"kind unknown":        &Endpoints{List: []Endpoint{{e.Addr, Static + 1}}},
		"mapping unknown":     &Endpoints{Mapping: MappingBlocked + 1},
	} {
		if b, err := p.Seal(m); err == nil {
			t.Errorf("%s: sealed in %d bytes", name, len(b))
		}
	}
}

func make33(e Endpoint) (list []Endpoint) {
	for range MaxEndpoints + 1 {
		list = append(list, e)
	}
	return list
}

// The longest of each, as a relay takes them and as the limits say.
func TestSizes(t *testing.T) {
	b := newBench(t)
	a, z := b.fromA(t), b.fromB(t)
	full := &Endpoints{}
	for i := range MaxEndpoints {
		full.List = append(full.List, Endpoint{netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(1+i)), Static})
	}
	for _, v := range []struct {
		m    Message
		want int
	}{
		{&Ping{}, 84},
		{&Ping{Padding: MaxPadding}, frame.MaxPacket},
		{&Pong{}, 84 + 18},
		{&Endpoints{}, 73},
		{full, 681},
	} {
		packet, err := a.Seal(v.m)
		if err != nil || len(packet) != v.want {
			t.Errorf("%T: got %d bytes, %v, want %d", v.m, len(packet), err, v.want)
		}
		if got := frame.Classify(packet); got != frame.Urgent {
			t.Errorf("%T by relay is %s, want urgent", v.m, got)
		}
		m, err := z.Open(packet)
		if err != nil || !reflect.DeepEqual(m, v.m) {
			t.Errorf("%T of %d bytes: got %+v, %v", v.m, len(packet), m, err)
		}
	}
}

// An IPv4 address has one form in a message, and comes out as IPv4.
func TestMappedAddressesAreIPv4(t *testing.T) {
	b := newBench(t)
	packet, err := b.fromA(t).Seal(&Pong{Src: addrPort("[::ffff:192.0.2.1]:7")})
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.fromB(t).Open(packet)
	if got, ok := m.(*Pong); err != nil || !ok || got.Src != addrPort("192.0.2.1:7") {
		t.Errorf("got %+v, %v, want 192.0.2.1:7", m, err)
	}
}

func TestReasonOf(t *testing.T) {
	for _, r := range Reasons() {
		if got := ReasonOf(fmt.Errorf("from somewhere: %w", r)); got != r || r.String() == "unknown" {
			t.Errorf("got %s, want %s", got, r)
		}
	}
	if got := ReasonOf(os.ErrNotExist); got != 0 {
		t.Errorf("another error: got %s, want none", got)
	}
}
