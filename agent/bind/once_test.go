package bind

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"
)

// numbered is a handshake message whose authenticated part has a number.
func numbered(typ uint32, size int, n uint64) []byte {
	m := message(typ, size)
	binary.LittleEndian.PutUint64(m[12:], n)
	return m
}

// What may be altered by who cannot forge a handshake makes no new message of it.
func TestCopies(t *testing.T) {
	for _, c := range []struct {
		name       string
		typ        uint32
		size       int
		from, past int // what is authenticated
	}{
		{"initiation", 1, 148, 8, 116},
		{"response", 2, 92, 12, 60},
		{"cookie", 3, 64, 4, 64},
	} {
		var o once
		o.init()
		m := message(c.typ, c.size)
		if _, ok := o.first(m); !ok {
			t.Fatalf("%s: the first was refused", c.name)
		}
		for i := 4; i < c.size; i++ {
			p := append([]byte(nil), m...)
			p[i] ^= 1
			_, ok := o.first(p)
			if want := i >= c.from && i < c.past; ok != want {
				t.Errorf("%s, byte %d altered: let through is %t, want %t", c.name, i, ok, want)
			}
		}
	}
}

func TestOnceForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o once
		o.init()
		let := func(what string, n uint64, want bool) uint64 {
			t.Helper()
			sum, ok := o.first(numbered(1, 148, n))
			if ok != want {
				t.Errorf("%s: let through is %t, want %t", what, ok, want)
			}
			return sum
		}
		let("first", 1, true)
		time.Sleep(onceFor - time.Millisecond)
		let("copy within the time", 1, false)
		time.Sleep(time.Millisecond)
		let("copy after it", 1, true)
		o.undo(let("one that was dropped after all", 2, true))
		let("its copy", 2, true)
		time.Sleep(onceFor)

		// As many as are remembered, and one more.
		for i := range uint64(onceLength) {
			let("many", 100+i, true)
		}
		let("more than are remembered", 99, false)
		for i := range uint64(onceLength) {
			let("copies of many", 100+i, false)
		}
		time.Sleep(onceFor)
		for i := range uint64(3 * onceLength) {
			if i%onceLength == 0 {
				time.Sleep(onceFor)
			}
			let("later", 1<<20+i, true)
		}
		if len(o.ring) != onceLength || len(o.at) > onceLength {
			t.Errorf("%d and %d remembered, want at most %d", len(o.ring), len(o.at), onceLength)
		}
	})
}

// By relay: a message that found the queue full may come again.
func TestRepeatedByRelay(t *testing.T) {
	b := newBind(t, Config{})
	know(t, b, node(1))
	m := message(1, 148)
	b.Deliver(node(1), m) // closed
	recv := open(t, b)
	b.Deliver(node(1), m)
	b.Deliver(node(1), m)
	b.Deliver(node(1), message(4, 64))
	b.Deliver(node(1), message(4, 64)) // copies of data are WireGuard's business
	buf := newBatch()
	if n, err := recv(buf.bufs, buf.sizes, buf.eps); n != 3 || err != nil {
		t.Errorf("received %d, %v; want 3", n, err)
	}
	if s := b.Stats(); s.Repeated != 1 || s.Closed != 1 {
		t.Errorf("got %+v, want 1 repeated, 1 closed", s)
	}
}
