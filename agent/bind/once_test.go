package bind

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
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
		b, p := newBind(t, Config{}), new(peer)
		m := message(c.typ, c.size)
		if _, ok := b.first(p, m, byRelay); !ok {
			t.Fatalf("%s: the first was refused", c.name)
		}
		for i := 4; i < c.size; i++ {
			copied := append([]byte(nil), m...)
			copied[i] ^= 1
			p.once.handshakes[byDirect], p.once.cookies[byDirect] = ring{}, ring{}
			_, ok := b.first(p, copied, byDirect)
			if want := i >= c.from && i < c.past; ok != want {
				t.Errorf("%s, byte %d altered: let through is %t, want %t", c.name, i, ok, want)
			}
		}
	}
}

func TestOnceForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBind(t, Config{}), new(peer)
		let := func(what string, n uint64, w way, want bool) uint64 {
			t.Helper()
			sum, ok := b.first(p, numbered(1, 148, n), w)
			if ok != want {
				t.Errorf("%s: let through is %t, want %t", what, ok, want)
			}
			return sum
		}
		let("first", 1, byRelay, true)
		time.Sleep(onceFor - time.Millisecond)
		let("copy within the time", 1, byRelay, false)
		let("copy by the other way", 1, byDirect, false)
		time.Sleep(time.Millisecond)
		let("copy after it", 1, byDirect, true)
		p.once.undo(let("one that was dropped after all", 2, byRelay, true))
		let("its copy", 2, byDirect, true)
		time.Sleep(onceFor)

		// As many as are remembered, and one more; the other way has its own room.
		for w := range ways {
			for i := range uint64(maxHandshakes) {
				let("many", 100*uint64(w)+100+i, w, true)
			}
			let("more than are remembered", 99, w, false)
		}
		for w := range ways {
			for i := range uint64(maxHandshakes) {
				let("copies of many", 100*uint64(w)+100+i, 1-w, false)
			}
		}
		time.Sleep(onceFor)
		for i := range uint64(5 * maxHandshakes) {
			if i%maxHandshakes == 0 {
				time.Sleep(onceFor)
			}
			let("later", 1<<20+i, byRelay, true)
		}
		if got := len(p.once.handshakes[byRelay].last); got != maxHandshakes {
			t.Errorf("%d remembered, want %d", got, maxHandshakes)
		}
	})
}

// Junk in one node's name, as much as there may be, takes nothing from another
// node, nor from the same one by the other way; cookies take nothing from
// handshakes.
func TestHandshakeFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBind(t, Config{})
		know(t, b, node(1), node(2))
		recv := open(t, b)
		buf := newBatch()
		received := func() (total int) {
			b.Deliver(node(2), message(4, 32)) // so that there is one
			n, err := recv(buf.bufs, buf.sizes, buf.eps)
			if err != nil {
				t.Fatal(err)
			}
			return n - 1
		}
		for second := range uint64(3) {
			for i := range uint64(5000) {
				b.Deliver(node(1), numbered(1, 148, second<<32|i))
				b.Deliver(node(1), numbered(3, 64, second<<32|i))
			}
			if got := received(); got != maxHandshakes+maxCookies {
				t.Errorf("%d of the flood reached WireGuard in a second, want %d", got, maxHandshakes+maxCookies)
			}
			b.Deliver(node(2), numbered(1, 148, second<<32|1<<16))
			if got := received(); got != 1 {
				t.Errorf("second %d: another node's handshake was dropped", second)
			}
			p := b.find(node(1)).peer
			if _, ok := b.first(p, numbered(1, 148, second<<32|1<<17), byDirect); !ok {
				t.Errorf("second %d: the node's own handshake by UDP was dropped", second)
			}
			time.Sleep(onceFor)
		}
	})
}

// What has no valid first MAC is dropped, by WireGuard's own account of what is
// valid, and takes no room.
func TestForgedHandshakes(t *testing.T) {
	b := newBind(t, Config{})
	know(t, b, node(1))
	recv := open(t, b)
	own := key.NewWG().Public()
	b.SetKey(own)
	var generator device.CookieGenerator
	var checker device.CookieChecker
	generator.Init(own.Bytes())
	checker.Init(own.Bytes())
	for i := range uint64(100) {
		for _, m := range [][]byte{numbered(1, 148, i), numbered(2, 92, i)} {
			b.Deliver(node(1), m)
		}
	}
	if s := b.Stats(); s.Forged != 200 || s.Delivered != 0 {
		t.Errorf("got %+v, want 200 forged and none delivered", s)
	}
	want := 0
	for i, m := range [][]byte{numbered(1, 148, 1), numbered(2, 92, 2)} {
		generator.AddMacs(m)
		for _, at := range []int{-1, 4, 20, len(m) - 17, len(m) - 32, len(m) - 1} {
			p := append([]byte(nil), m...)
			p[12] = byte(at) // no copy of the last
			generator.AddMacs(p)
			if at >= 0 {
				p[at] ^= 1
			}
			if checker.CheckMAC1(p) {
				want++
			}
			b.Deliver(node(1), p)
			if got := int(b.Stats().Delivered); got != want {
				t.Fatalf("message %d, byte %d altered: %d delivered, want %d", i, at, got, want)
			}
		}
	}
	b.Deliver(node(1), message(3, 64)) // has no such MAC
	buf := newBatch()
	if n, err := recv(buf.bufs, buf.sizes, buf.eps); n != want+1 || err != nil {
		t.Errorf("received %d, %v; want %d", n, err, want+1)
	}
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
