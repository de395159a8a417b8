package outbox

import (
	"sync"
	"time"

	"github.com/writmesh/writ/relay/frame"
)

// A Packet is one frame that waits, in a buffer that is used again.
type Packet struct {
	Frame []byte // within the buffer; append to it, up to the size asked for

	// owned by the Box it waits in
	next *Packet
	at   time.Duration // when it was pushed

	size int // index of sizes
	buf  []byte
}

// sizes are the buffers there are: an acknowledgement inside WireGuard, a
// packet of the usual MTU with its envelope, and a jumbo one. A Box is charged
// for the buffer, not for the frame, so that its limit holds for real memory.
var sizes = [...]int{256, 2048, frame.HeaderSize + frame.NodeSize + frame.MaxPacket}

var packets [len(sizes)]sync.Pool

// Get is an empty packet with room for n bytes; n is at most that of the
// largest frame with a packet in it.
func Get(n int) *Packet {
	i := 0
	for i < len(sizes)-1 && n > sizes[i] {
		i++
	}
	if p, ok := packets[i].Get().(*Packet); ok {
		return p
	}
	p := &Packet{size: i, buf: make([]byte, sizes[i])}
	p.Frame = p.buf[:0]
	return p
}

// Free gives the packet back. Only who owns it may.
func (p *Packet) Free() {
	p.Frame = p.buf[:0]
	p.next = nil
	packets[p.size].Put(p)
}

func (p *Packet) charge() int { return sizes[p.size] + overhead }
