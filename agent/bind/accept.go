package bind

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// markSize is what a mark takes at the end of a buffer: a sum (8 bytes), the
	// peer's number (4), the packet's length (2) and what carried it (1). WireGuard's
	// buffers are 64 KiB, and so no packet reaches there.
	markSize = 16

	// copiesLength is how many packets are remembered so that their copies are
	// known: at 100,000 packets a second those of 40 ms, and some of those of a
	// tenth of a second. One copy in a few hundred milliseconds is enough to see
	// that a path works.
	copiesLength = 4096

	// copyFor is how long after a keepalive its copy may come, or WireGuard accept
	// it. For other packets it is one to two seconds, because they keep a counter
	// of seconds only.
	copyFor = time.Second
)

// A mark is what a receive function leaves behind a data packet for Accepted.
type mark struct {
	sum    uint64
	number uint32
	size   uint16
	way    way // plus one; zero: nobody's
}

func (m mark) write(buf []byte, size int) {
	if len(buf) < size+markSize {
		return
	}
	at := buf[len(buf)-markSize:]
	binary.LittleEndian.PutUint64(at, m.sum)
	binary.LittleEndian.PutUint32(at[8:], m.number)
	binary.LittleEndian.PutUint16(at[12:], m.size)
	at[14] = byte(m.way)
}

// readMark reads it from a buffer that may have been cut short since.
func readMark(buf []byte) mark {
	buf = buf[:cap(buf)]
	if len(buf) < markSize {
		return mark{}
	}
	at := buf[len(buf)-markSize:]
	return mark{
		sum:    binary.LittleEndian.Uint64(at),
		number: binary.LittleEndian.Uint32(at[8:]),
		size:   binary.LittleEndian.Uint16(at[12:]),
		way:    way(at[14]),
	}
}

// copies are the last packets that came and that WireGuard accepted, by their
// sums, each sum at one place. A sum's last 16 bits are zero; in accepted they are
// the second in which it was.
type copies struct {
	seen, counted [ways][copiesLength]atomic.Uint64
	accepted      [copiesLength]atomic.Uint64
}

func place(sum uint64) uint64 { return (sum >> 16) % copiesLength }

// second is the time in seconds, modulo 2¹⁶.
func (b *Bind) second() uint16 { return uint16(time.Since(b.made) / time.Second) }

// arrived takes note of a data packet that came by w in p's name, and that is
// about to be given to WireGuard in buf.
func (b *Bind) arrived(buf []byte, size int, p *peer, w way, second uint16) {
	pkt := buf[:size]
	if size == device.MessageKeepaliveSize {
		mark{}.write(buf, size)
		p.keepalives.arrived(p, pkt, w)
		return
	}
	sum := (maphash.Bytes(b.seed, pkt) + uint64(p.number)*0x9e3779b97f4a7c15) &^ 0xffff
	mark{sum, p.number, uint16(size), w + 1}.write(buf, size)
	c, i := b.copies, place(sum)
	c.seen[w][i].Store(sum)
	if a := c.accepted[i].Load(); a&^0xffff == sum && second-uint16(a) <= 1 {
		c.count(p, sum, w, size)
	}
}

// count counts a packet once for each way.
func (c *copies) count(p *peer, sum uint64, w way, size int) {
	if c.counted[w][place(sum)].Swap(sum) != sum {
		p.received[w].add(1, size)
	}
}

// Accepted says that WireGuard authenticated packets by the key of id. The
// buffers are those that a receive function filled, from the same beginning; the
// packets in them may have been decrypted and cut. It keeps nothing of them.
func (b *Bind) Accepted(id key.NodeID, bufs [][]byte) {
	b.mu.RLock()
	p := b.peers[id]
	b.mu.RUnlock()
	if p == nil {
		return
	}
	c, second := b.copies, uint64(b.second())
	for _, buf := range bufs {
		m := readMark(buf)
		if m.way == 0 || m.way > ways || m.number != p.number {
			continue // a stranger's, or one that claimed to be somebody else's
		}
		w := m.way - 1
		i := place(m.sum)
		c.accepted[i].Store(m.sum | second)
		c.count(p, m.sum, w, int(m.size))
		if other := 1 - w; c.seen[other][i].Load() == m.sum {
			c.count(p, m.sum, other, int(m.size))
		}
	}
}

// AcceptedKeepalive says that WireGuard authenticated a keepalive by the key of
// id.
func (b *Bind) AcceptedKeepalive(id key.NodeID) {
	b.mu.RLock()
	p := b.peers[id]
	b.mu.RUnlock()
	if p != nil {
		p.keepalives.accepted(p)
	}
}

// keepalives are the last packets of that length of one peer. WireGuard does not
// say which of them it accepted: if there are some by both ways, one of which may
// be forged, it counts for both. So whoever forges by one way gets no more counted
// than truly comes by the other, and at the same time.
type keepalives struct {
	mu   sync.Mutex
	last [ways]keepalive // guarded by mu
}

type keepalive struct {
	msg     [device.MessageKeepaliveSize]byte
	when    time.Time
	counted bool
}

func (k *keepalives) arrived(p *peer, pkt []byte, w way) {
	now := time.Now()
	came := keepalive{msg: [device.MessageKeepaliveSize]byte(pkt), when: now}
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := &k.last[w]; was.counted && was.msg == came.msg {
		return // sent again
	}
	if o := &k.last[1-w]; o.counted && o.msg == came.msg && now.Sub(o.when) < copyFor {
		came.counted = true
		p.received[w].add(1, len(pkt))
	}
	k.last[w] = came
}

func (k *keepalives) accepted(p *peer) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.last {
		if l := &k.last[w]; !l.counted && !l.when.IsZero() && now.Sub(l.when) < copyFor {
			l.counted = true
			p.received[w].add(1, len(l.msg))
		}
	}
}
