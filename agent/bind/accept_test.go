package bind

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/agent/path"
)

// An arrival is a buffer as WireGuard has it.
func (b *Bind) arrival(p *peer, pkt []byte, w way) []byte {
	buf := make([]byte, device.MaxMessageSize)
	b.arrived(buf, copy(buf, pkt), p, w, b.second())
	return buf[:len(pkt)]
}

// decrypted is what WireGuard makes of it: the header stays, the rest is another,
// and shorter.
func decrypted(buf []byte) []byte {
	clear(buf[16:])
	return buf[: len(buf)-16 : cap(buf)]
}

// What counts, and for which way.
func TestAccepted(t *testing.T) {
	for _, size := range []int{device.MessageKeepaliveSize, 1312} {
		pkt := data(size, 7)
		altered := bytes.Clone(pkt)
		altered[size-3] ^= 1
		keepalive := size == device.MessageKeepaliveSize
		for _, c := range []struct {
			name  string
			steps func(b *Bind, p, other *peer, accept func(p *peer, buf []byte))
			want  path.Traffic
		}{
			{"made up", func(b *Bind, p, _ *peer, _ func(*peer, []byte)) {
				for i := range 3 {
					b.arrival(p, data(size, i), byRelay)
					b.arrival(p, data(size, i), byDirect)
				}
			}, path.Traffic{}},
			{"by relay", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byRelay))
			}, path.Traffic{RelayReceived: 1}},
			{"directly", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byDirect))
			}, path.Traffic{DirectReceived: 1}},
			{"a copy comes later", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byRelay))
				b.arrival(p, pkt, byDirect)
			}, path.Traffic{DirectReceived: 1, RelayReceived: 1}},
			{"a copy comes before the first is accepted", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				buf := b.arrival(p, pkt, byDirect)
				b.arrival(p, pkt, byRelay)
				accept(p, buf)
			}, path.Traffic{DirectReceived: 1, RelayReceived: 1}},
			{"sent again and again", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byDirect))
				for range 5 {
					b.arrival(p, pkt, byRelay)
					b.arrival(p, pkt, byDirect)
				}
			}, path.Traffic{DirectReceived: 1, RelayReceived: 1}},
			{"kept back, and sent much later", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byDirect))
				time.Sleep(2*time.Second + time.Millisecond)
				b.arrival(p, pkt, byRelay)
			}, path.Traffic{DirectReceived: 1}},
			{"an altered copy", func(b *Bind, p, _ *peer, accept func(*peer, []byte)) {
				accept(p, b.arrival(p, pkt, byRelay))
				b.arrival(p, altered, byDirect)
			}, path.Traffic{RelayReceived: 1}},
			{"a copy in another peer's name", func(b *Bind, p, other *peer, accept func(*peer, []byte)) {
				accept(other, b.arrival(other, pkt, byDirect))
				b.arrival(p, pkt, byRelay)
			}, path.Traffic{}},
		} {
			synctest.Test(t, func(t *testing.T) {
				b := newBind(t, Config{})
				know(t, b, node(1), node(2))
				c.steps(b, b.find(node(1)).peer, b.find(node(2)).peer, func(p *peer, buf []byte) {
					if keepalive {
						b.AcceptedKeepalive(p.id)
					} else {
						b.Accepted(p.id, [][]byte{decrypted(buf)})
					}
				})
				if got := b.Traffic(node(1)); got != c.want {
					t.Errorf("%d bytes, %s: got %+v, want %+v", size, c.name, got, c.want)
				}
				if got, want := b.Volume(node(1)), uint64(size); got.RelayReceived != c.want.RelayReceived*want || got.DirectReceived != c.want.DirectReceived*want {
					t.Errorf("%d bytes, %s: got %+v, want %d for each packet", size, c.name, got, want)
				}
			})
		}
	}
}

// A packet that came in one node's name, and that is another's by its key, counts
// for neither; nor does a stranger's, whatever the buffer held before.
func TestAcceptedOfAnother(t *testing.T) {
	b := newBind(t, Config{})
	know(t, b, node(1), node(2))
	buf := b.arrival(b.find(node(1)).peer, data(100, 1), byDirect)
	b.Accepted(node(2), [][]byte{buf})
	mark{}.write(buf[:cap(buf)], 100)
	b.Accepted(node(1), [][]byte{buf})
	b.Accepted(node(3), [][]byte{buf})
	b.Accepted(node(1), [][]byte{nil, make([]byte, 10), make([]byte, 100)})
	for n := range byte(3) {
		if got := b.Traffic(node(n + 1)); got != (path.Traffic{}) {
			t.Errorf("node %d: got %+v, want nothing", n+1, got)
		}
	}
}

// By one way keepalives are forged all the time: as many count as truly come by
// the other, and none once they stop.
func TestForgedKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBind(t, Config{})
		know(t, b, node(1))
		p := b.find(node(1)).peer
		for i := range 100 {
			b.arrival(p, data(32, 1000+i), byRelay)
			time.Sleep(100 * time.Millisecond)
			if i%50 == 0 {
				b.arrival(p, data(32, i), byDirect)
				b.AcceptedKeepalive(node(1))
			}
		}
		if got, want := b.Traffic(node(1)), (path.Traffic{DirectReceived: 2, RelayReceived: 2}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		time.Sleep(copyFor)
		b.AcceptedKeepalive(node(1))
		if got := b.Traffic(node(1)).RelayReceived; got != 2 {
			t.Errorf("an old one counts: %d, want 2", got)
		}
	})
}
