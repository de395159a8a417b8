package frame

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// count is the node id 000102…1f of the vectors.
func count() (n key.NodeID) {
	for i := range n {
		n[i] = byte(i)
	}
	return n
}

const countHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// transport is the shortest WireGuard transport message.
func transport(n int) []byte { return append([]byte{4}, make([]byte, n-1)...) }

// parsed is a frame read and taken apart.
type parsed struct {
	t      Type
	fields []any
}

func parse(t Type, body []byte) (p parsed, err error) {
	p.t = t
	set := func(v ...any) { p.fields = v }
	switch t {
	case Hello:
		v, papers, e := ParseHello(body)
		set(v, string(papers))
		err = e
	case Papers:
		set(string(body))
		err = within(Papers, body)
	case Send:
		dst, pkt, e := ParseSend(body)
		set(dst, string(pkt))
		err = e
	case Recv:
		src, pkt, e := ParseRecv(body)
		set(src, string(pkt))
		err = e
	case Ping:
		tok, e := ParsePing(body)
		set(tok)
		err = e
	case Pong:
		tok, e := ParsePong(body)
		set(tok)
		err = e
	case Welcome:
		v, until, e := ParseWelcome(body)
		set(v, until.Unix())
		err = e
	case Refuse:
		r, e := ParseRefusal(body)
		if e == nil {
			set(r.Kind, r.Text)
		}
		err = e
	case Gone:
		n, e := ParseGone(body)
		set(n)
		err = e
	case Here:
		n, e := ParseHere(body)
		set(n)
		err = e
	case Drain:
		a, s, e := ParseDrain(body)
		set(a, s)
		err = e
	default:
		err = errors.New("no such type")
	}
	return p, err
}

// appendFrame is parse's inverse.
func appendFrame(b []byte, p parsed) []byte {
	f := p.fields
	switch p.t {
	case Hello:
		return AppendHello(b, f[0].(uint16), []byte(f[1].(string)))
	case Papers:
		return AppendPapers(b, []byte(f[0].(string)))
	case Send:
		return AppendSend(b, f[0].(key.NodeID), []byte(f[1].(string)))
	case Recv:
		return AppendRecv(b, f[0].(key.NodeID), []byte(f[1].(string)))
	case Ping:
		return AppendPing(b, f[0].(uint64))
	case Pong:
		return AppendPong(b, f[0].(uint64))
	case Welcome:
		return AppendWelcome(b, f[0].(uint16), time.Unix(f[1].(int64), 0))
	case Refuse:
		return AppendRefusal(b, &Refusal{f[0].(Kind), f[1].(string)})
	case Gone:
		return AppendGone(b, f[0].(key.NodeID))
	case Here:
		return AppendHere(b, f[0].(key.NodeID))
	case Drain:
		return AppendDrain(b, f[0].(time.Duration), f[1].(time.Duration))
	}
	panic("no such type")
}

// Written down by hand from the package comment, one or more per frame.
var vectors = []struct {
	frame parsed
	from  Side
	hex   string
}{
	{parsed{Hello, []any{uint16(1), "papers"}}, Node, "01 00000008 0001 706170657273"},
	{parsed{Papers, []any{"new"}}, Node, "02 00000003 6e6577"},
	{parsed{Send, []any{count(), string(transport(32))}}, Node, "03 00000040" + countHex + "04000000" + strings.Repeat("00", 28)},
	{parsed{Ping, []any{uint64(0x0102030405060708)}}, Node, "04 00000008 0102030405060708"},
	{parsed{Welcome, []any{uint16(1), int64(1795356000)}}, Relay, "21 0000000a 0001 000000006b02f560"},
	{parsed{Refuse, []any{Ended, "on Friday"}}, Relay, "22 0000000a 03 6f6e20467269646179"},
	{parsed{Refuse, []any{NotReady, ""}}, Relay, "22 00000001 01"},
	{parsed{Recv, []any{count(), DiscoMagic + "x"}}, Relay, "23 00000027" + countHex + "77726974640178"},
	{parsed{Gone, []any{count()}}, Relay, "24 00000020" + countHex},
	{parsed{Drain, []any{time.Second, 250 * time.Millisecond}}, Relay, "25 00000008 000003e8 000000fa"},
	{parsed{Pong, []any{uint64(0x0102030405060708)}}, Relay, "26 00000008 0102030405060708"},
	{parsed{Here, []any{count()}}, Relay, "a7 00000020" + countHex},
}

// losable are the types that an older receiver skips, and why that harms nobody.
var losable = map[Type]bool{
	Here: true, // a hint to repeat sooner; without it the node repeats later
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	seen := map[Type]bool{}
	for _, v := range vectors {
		want := unhex(t, v.hex)
		seen[v.frame.t] = true
		if got := appendFrame([]byte("before"), v.frame); string(got) != "before"+string(want) {
			t.Errorf("append %v:\n got %x\nwant %x", v.frame.t, got[6:], want)
		}
		typ, body, err := NewReader(bufio.NewReader(bytes.NewReader(want)), v.from).Next()
		if err != nil {
			t.Errorf("read %v: %v", v.frame.t, err)
			continue
		}
		got, err := parse(typ, body)
		if err != nil || !reflect.DeepEqual(got, v.frame) {
			t.Errorf("parse %v: got %v, %v; want %v", v.frame.t, got, err, v.frame)
		}
	}
	for i := range 256 {
		if r, ok := rules(Type(i)); ok && !seen[Type(i)] {
			t.Errorf("no vector for %s", r.name)
		}
		if _, ok := rules(Type(i)); ok && byte(i)&ignorable != 0 && !losable[Type(i)] {
			t.Errorf("type 0x%02x is known and says that it may be skipped; older receivers would lose it silently", i)
		}
	}
}

// TestDefects reads each file of testdata/defect: who sends, which layer must
// object (the envelope, the body, or the stream), the exact error, the bytes.
func TestDefects(t *testing.T) {
	files, err := filepath.Glob("testdata/defect/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no defects", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			head, data, ok := strings.Cut(string(raw), "\n\n")
			if !ok {
				t.Fatal("no empty line")
			}
			h := map[string]string{}
			for _, line := range strings.Split(head, "\n") {
				k, v, _ := strings.Cut(line, ": ")
				h[k] = v
			}
			from := Node
			if h["from"] == "relay" {
				from = Relay
			}
			typ, body, err := NewReader(bufio.NewReader(bytes.NewReader(unhex(t, data))), from).Next()
			layer := "envelope"
			if errors.Is(err, io.ErrUnexpectedEOF) {
				layer = "stream"
			}
			if err == nil {
				layer = "body"
				_, err = parse(typ, body)
			}
			if err == nil {
				t.Fatal("nobody objects")
			}
			if layer != h["objects"] {
				t.Errorf("objects: %s, want %s", layer, h["objects"])
			}
			var d *Defect
			if errors.As(err, &d) != (layer != "stream") {
				t.Errorf("%T: a Defect exactly where the sender is at fault", err)
			}
			if layer == "stream" {
				err = io.ErrUnexpectedEOF // the text around it names the frame
			}
			if err.Error() != h["error"] {
				t.Errorf("error:\n got %q\nwant %q", err, h["error"])
			}
		})
	}
}

// session is every vector of one side, with frames to be skipped between them.
func session(t testing.TB, from Side) (stream []byte, want []parsed) {
	for _, v := range vectors {
		if v.from != from {
			continue
		}
		stream = append(stream, 0xfe, 0, 0, 0, 3, 'x', 'y', 'z')
		stream = append(stream, unhex(t, v.hex)...)
		want = append(want, v.frame)
	}
	long := parsed{Send, []any{count(), string(transport(MaxPacket))}}
	if from == Relay {
		long.t = Recv
	} else {
		papers := parsed{Papers, []any{strings.Repeat("p", MaxPapers)}}
		stream = appendFrame(stream, papers)
		want = append(want, papers)
	}
	stream = appendFrame(stream, long)
	stream = append(stream, 0x80, 0, 1, 0, 2)
	stream = append(stream, make([]byte, MaxBody)...)
	return appendFrame(stream, long), append(want, long, long)
}

func TestFramesSplitAnywhere(t *testing.T) {
	for _, from := range []Side{Node, Relay} {
		stream, want := session(t, from)
		for name, r := range map[string]io.Reader{
			"whole":   bytes.NewReader(stream),
			"bytes":   iotest.OneByteReader(bytes.NewReader(stream)),
			"halves":  iotest.HalfReader(bytes.NewReader(stream)),
			"eofdata": iotest.DataErrReader(bytes.NewReader(stream)),
		} {
			for _, size := range []int{16, 4096, 32 << 10, 128 << 10} {
				fr := NewReader(bufio.NewReaderSize(r, size), from)
				for i, w := range want {
					typ, body, err := fr.Next()
					if err != nil {
						t.Fatalf("%v %s %d: frame %d: %v", from, name, size, i, err)
					}
					if got, err := parse(typ, body); err != nil || !reflect.DeepEqual(got, w) {
						t.Fatalf("%v %s %d: frame %d: got %v, %v; want %v", from, name, size, i, got.t, err, w.t)
					}
				}
				if _, _, err := fr.Next(); err != io.EOF {
					t.Errorf("%v %s %d: end: got %v, want io.EOF", from, name, size, err)
				}
				r = bytes.NewReader(stream)
			}
		}
	}
}

func TestTruncatedAtEachByte(t *testing.T) {
	for _, v := range vectors {
		whole := unhex(t, v.hex)
		for n := 1; n < len(whole); n++ {
			_, _, err := NewReader(bufio.NewReader(bytes.NewReader(whole[:n])), v.from).Next()
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v cut at %d: got %v, want unexpected EOF", v.frame.t, n, err)
			}
		}
	}
}

func TestAnnouncedLengthIsNotAllocated(t *testing.T) {
	stream := []byte{byte(Hello), 0, 1, 0, 2, 0, 1, 'p'}
	body, err := NewReader(bufio.NewReaderSize(bytes.NewReader(stream), 16), Node).body(MaxBody)
	if err != io.EOF || cap(body) > 4096 {
		t.Errorf("got %d bytes allocated for 3 that arrived, %v; want few, and the end", cap(body), err)
	}
}

func TestRefusalTextIsMadeFit(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain", "plain"},
		{"two\nlines\x1b[2J", "two lines [2J"},
		{"bad \xff byte", "bad \uFFFD byte"},
		{strings.Repeat("é", 200), strings.Repeat("é", 127)},
	} {
		b := AppendRefusal(nil, &Refusal{Busy, c.in})
		r, err := ParseRefusal(b[HeaderSize:])
		if err != nil || r.Text != c.want {
			t.Errorf("%q: got %q, %v; want %q", c.in, r, err, c.want)
		}
	}
}

func TestDrainAndWelcomeAreCutToWhatFits(t *testing.T) {
	after, spread, err := ParseDrain(AppendDrain(nil, -time.Second, 48*time.Hour)[HeaderSize:])
	if err != nil || after != 0 || spread != time.Hour {
		t.Errorf("drain: got %v, %v, %v; want 0s, 1h", after, spread, err)
	}
	for _, c := range []struct {
		in   time.Time
		want int64
	}{{time.Time{}, 0}, {time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), maxUntil}} {
		_, until, err := ParseWelcome(AppendWelcome(nil, 1, c.in)[HeaderSize:])
		if err != nil || until.Unix() != c.want {
			t.Errorf("welcome until %v: got %v, %v; want %d", c.in, until.Unix(), err, c.want)
		}
	}
}

func TestClassify(t *testing.T) {
	of := func(first byte, n int) []byte { return append([]byte{first}, make([]byte, n-1)...) }
	disco := []byte(DiscoMagic)
	for _, c := range []struct {
		name string
		p    []byte
		want Class
	}{
		{"initiation", of(1, 148), Urgent},
		{"initiation short", of(1, 147), Foreign},
		{"response", of(2, 92), Urgent},
		{"response long", of(2, 93), Foreign},
		{"cookie", of(3, 64), Urgent},
		{"cookie as response", of(3, 92), Foreign},
		{"keepalive", of(4, 32), Bulk},
		{"transport", of(4, 1452), Bulk},
		{"transport unpadded", of(4, 1453), Bulk},
		{"transport longest", of(4, MaxPacket), Bulk},
		{"transport too long", of(4, MaxPacket+1), Foreign},
		{"transport short", of(4, 31), Foreign},
		{"type 0", of(0, 148), Foreign},
		{"type 5", of(5, 148), Foreign},
		{"reserved byte 1", append([]byte{4, 1, 0, 0}, make([]byte, 60)...), Foreign},
		{"reserved byte 3", append([]byte{4, 0, 0, 1}, make([]byte, 60)...), Foreign},
		{"empty", nil, Foreign},
		{"disco magic alone", disco, Foreign},
		{"disco short", append(disco, 1), Urgent},
		{"disco long", append(disco, make([]byte, 1200)...), Urgent},
		{"disco other version", append([]byte("writd\x02"), make([]byte, 1200)...), Foreign},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), Foreign},
	} {
		if got := Classify(c.p); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	dst, packet := count(), transport(1452)
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(1000, func() {
		buf = AppendSend(buf[:0], dst, packet)
		buf = AppendRecv(buf[:0], dst, packet)
	}); n != 0 {
		t.Errorf("append: %v allocations per packet, want 0", n)
	}
	stream := bytes.Repeat(AppendSend(AppendSend(nil, dst, packet), dst, transport(MaxPacket)), 4)
	src := bytes.NewReader(nil)
	fr := NewReader(bufio.NewReaderSize(src, 4096), Node)
	if n := testing.AllocsPerRun(1000, func() {
		src.Reset(stream)
		for range 8 {
			_, body, err := fr.Next()
			if err != nil {
				t.Fatal(err)
			}
			if _, p, err := ParseSend(body); err != nil || Classify(p) != Bulk {
				t.Fatal("not what was sent", err)
			}
		}
	}); n != 0 {
		t.Errorf("read: %v allocations per 8 packets, want 0", n)
	}
}

// FuzzReader: whatever arrives, reading does not panic, takes no more than was
// sent, and every frame accepted has exactly one encoding.
func FuzzReader(f *testing.F) {
	for _, from := range []Side{Node, Relay} {
		stream, _ := session(f, from)
		f.Add(byte(from), stream[:200])
	}
	files, _ := filepath.Glob("testdata/defect/*")
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		_, data, _ := strings.Cut(string(raw), "\n\n")
		f.Add(byte(Node), unhex(f, data))
		f.Add(byte(Relay), unhex(f, data))
	}
	f.Fuzz(func(t *testing.T, side byte, stream []byte) {
		from := Node
		if side == byte(Relay) {
			from = Relay
		}
		fr := NewReader(bufio.NewReaderSize(bytes.NewReader(stream), 64), from)
		rest := stream
		for {
			typ, body, err := fr.Next()
			if err != nil {
				return
			}
			// Skip, by another route than the Reader's, what it skipped.
			for Type(rest[0])&ignorable != 0 && !losable[Type(rest[0])] {
				rest = rest[HeaderSize+binary.BigEndian.Uint32(rest[1:]):]
			}
			frame := rest[:HeaderSize+len(body)]
			rest = rest[len(frame):]
			if Type(frame[0]) != typ || !bytes.Equal(frame[HeaderSize:], body) {
				t.Fatalf("%v frame is not what the stream holds here", typ)
			}
			p, err := parse(typ, body)
			if err != nil {
				continue
			}
			if got := appendFrame(nil, p); !bytes.Equal(got, frame) {
				t.Fatalf("%v:\n read %x\nwrote %x", typ, frame, got)
			}
		}
	})
}

// FuzzHello is the first thing an unknown client is heard with.
func FuzzHello(f *testing.F) {
	f.Add([]byte("\x00\x01papers"))
	f.Add([]byte("\x00\x00papers"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, papers, err := ParseHello(body)
		if err != nil {
			return
		}
		if v == 0 || len(papers) == 0 || len(papers) > MaxPapers {
			t.Fatalf("accepted version %d, %d bytes of papers", v, len(papers))
		}
		if got := AppendHello(nil, v, papers); !bytes.Equal(got[HeaderSize:], body) {
			t.Fatalf("read %x, wrote %x", body, got[HeaderSize:])
		}
	})
}

func BenchmarkReader(b *testing.B) {
	stream := bytes.Repeat(AppendSend(nil, count(), transport(1452)), 100)
	src := bytes.NewReader(stream)
	fr := NewReader(bufio.NewReaderSize(src, 4096), Node)
	b.SetBytes(1452)
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			src.Reset(stream)
		}
		if _, _, err := fr.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRecv(b *testing.B) {
	src, packet, buf := count(), transport(1452), make([]byte, 0, 2048)
	b.SetBytes(1452)
	for b.Loop() {
		buf = AppendRecv(buf[:0], src, packet)
	}
}
