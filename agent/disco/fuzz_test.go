package disco

import (
	"bytes"
	"os"
	"testing"
)

// FuzzOpen gives a receiver any packet.
func FuzzOpen(f *testing.F) {
	_, list := vectors(f)
	for _, v := range list {
		f.Add(v.packet)
	}
	seedDefects(f, func(d defect) {
		if d.packet != nil {
			f.Add(d.packet)
		}
	})
	b := newBench(f)
	known := map[string]bool{} // what A did seal
	for _, v := range list {
		known[string(v.packet)] = true
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		before := bytes.Clone(packet)
		_, peeked := Peek(packet)
		m, err := b.fromB(t).Open(packet)
		if !bytes.Equal(before, packet) {
			t.Fatal("the packet was modified")
		}
		if (m == nil) != (ReasonOf(err) != 0) {
			t.Fatalf("got %+v and %v", m, err)
		}
		if r := ReasonOf(err); peeked == (r == NotDisco || r == Short || r == Long) {
			t.Fatalf("peek says %v, open %v", peeked, err)
		}
		if err == nil && !known[string(packet)] {
			t.Fatalf("%x opens, and A did not seal it", packet)
		}
	})
}

// FuzzBody gives a receiver any message under a good seal, as a hostile peer
// can. What is understood has one encoding, and that is it.
func FuzzBody(f *testing.F) {
	_, list := vectors(f)
	for _, v := range list {
		f.Add(v.plain[0], v.plain[innerSize:])
	}
	seedDefects(f, func(d defect) {
		if d.packet == nil {
			f.Add(d.plain[0], d.plain[innerSize:])
		}
	})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		m, err := parseBody(kind, body)
		if err != nil {
			if r := ReasonOf(err); m != nil || r != Type && r != Malformed {
				t.Fatalf("got %+v and %v", m, err)
			}
			return
		}
		again, err := appendBody(nil, m)
		if err != nil || !bytes.Equal(again, body) || typeOf(m) != kind {
			t.Fatalf("%+v:\n got %x, %v\nwant %x", m, again, err, body)
		}
	})
}

func seedDefects(f *testing.F, add func(defect)) {
	files, err := os.ReadDir("testdata/defect")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		add(readDefect(f, file.Name()))
	}
}
