package tunnel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/writmesh/writ/coordinator/key"
)

// An interrupter is a tun.Device whose Read can be made to return without a
// packet: the Read that waits, or else the next one. Package netstack's is one.
// For any other device a pump stands in, at the price of a copy per packet.
type interrupter interface {
	Interrupt()
}

// headroom is what an injected packet leaves free before it: the kernel device
// writes its virtio header (10 bytes) there.
const headroom = 16

// A tap is the tun.Device that WireGuard sees: the real one, with both filters,
// both injections, what is held for peers that are not configured yet, and the
// gate before WireGuard.
type tap struct {
	tun.Device // Events, File, Name, BatchSize are the device's

	// set at construction
	mtu      int // 0: the device's
	in, out  func(pkt []byte) bool
	accepted func(id key.NodeID, bufs [][]byte) // nil: nobody is told
	source   interface {
		Read(bufs [][]byte, sizes []int, offset int) (int, error)
		interrupter
	}
	pump    *pump       // nil if the device is an interrupter
	inwards chan []byte // injected, with headroom

	outwards struct {
		sync.Mutex
		packets [][]byte
	}
	hasOutwards atomic.Bool // spares Read the lock

	routes          atomic.Pointer[routes] // whose an address is; never nil
	inGate, outGate *gate
	calls           callList
	released        atomic.Bool // something may be ready that is held

	// owned by Read, which WireGuard calls from one goroutine
	holding   []*member // those with held packets
	heldBytes int       // of them all
	passing   []*member // those with packets in the batch at work

	refusedIn, refusedOut, injectFull                  atomic.Uint64
	unrouted, heldCount, heldFull, heldLost, noSession atomic.Uint64
}

func newTap(dev tun.Device, mtu int, in, out func([]byte) bool) *tap {
	t := &tap{
		Device: dev, mtu: mtu, in: in, out: out, inwards: make(chan []byte, injectLength),
		inGate: newGate(true), outGate: newGate(false),
	}
	t.routes.Store(new(routes))
	t.calls.called = make(chan struct{}, 1)
	if src, ok := dev.(interface {
		tun.Device
		interrupter
	}); ok {
		t.source = src
	} else {
		t.pump = newPump(dev)
		t.source = t.pump
	}
	return t
}

// start runs the tap's goroutines until ctx ends and the device is closed.
func (t *tap) start(ctx context.Context, running *sync.WaitGroup) {
	if t.pump != nil {
		running.Go(func() { t.pump.run(ctx) })
	}
	running.Go(func() {
		bufs := make([][]byte, 1)
		for {
			select {
			case <-ctx.Done():
				return
			case bufs[0] = <-t.inwards:
				// An injected packet that the device does not take is lost, as any
				// packet may be.
				_, _ = t.Device.Write(bufs, headroom)
			}
		}
	})
}

// MTU is the configured one, or else the device's.
func (t *tap) MTU() (int, error) {
	if t.mtu > 0 {
		return t.mtu, nil
	}
	return t.Device.MTU()
}

// Close closes the device, and whatever waits at a gate.
func (t *tap) Close() error {
	t.inGate.close()
	t.outGate.close()
	return t.Device.Close()
}

// Read hands out packets that were held first, then injected ones, then what the
// device sends and Out allows. A packet that does not pass stays in the batch
// with size 0, which WireGuard skips; a batch of nothing else is not worth waking
// it for.
func (t *tap) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		t.outGate.wait()
		n := t.release(bufs, sizes, offset)
		if n == 0 {
			n = t.takeOutwards(bufs, sizes, offset)
			t.route(bufs[:n], sizes, offset)
		}
		var err error
		if n == 0 {
			n, err = t.source.Read(bufs, sizes, offset)
			t.judge(bufs[:n], sizes, offset)
			t.route(bufs[:n], sizes, offset)
		}
		passed := len(t.passing) > 0
		for _, m := range t.passing {
			t.outGate.enter(&m.out, m.passing)
			m.passing = 0
		}
		t.passing = t.passing[:0]
		if passed || err != nil {
			return n, err
		}
	}
}

// judge gives size 0 to what Out refuses.
func (t *tap) judge(bufs [][]byte, sizes []int, offset int) {
	refused := uint64(0)
	for i := range bufs {
		if sizes[i] > 0 && !t.out(bufs[i][offset:offset+sizes[i]]) {
			sizes[i] = 0
			refused++
		}
	}
	if refused > 0 {
		t.refusedOut.Add(refused)
	}
}

// route gives size 0 to what does not go into WireGuard now: it is nobody's, or
// held, or too much for a peer without a session.
func (t *tap) route(bufs [][]byte, sizes []int, offset int) {
	routes := t.routes.Load()
	var before []byte // the packet before, and whose it was
	var m *member
	for i := range bufs {
		if sizes[i] == 0 {
			continue
		}
		pkt := bufs[i][offset : offset+sizes[i]]
		if !sameDestination(before, pkt) {
			m = routes.to(pkt)
		}
		before = pkt
		switch {
		case m == nil:
			t.unrouted.Add(1)
			sizes[i] = 0
		case !m.ready():
			t.hold(m, pkt)
			sizes[i] = 0
		case !m.out.moving.Load() && !m.mayWait():
			t.noSession.Add(1)
			sizes[i] = 0
		default:
			t.pass(m)
		}
	}
}

// ready reports whether a packet for m may go into WireGuard, in its turn. It
// says that m is active before it looks whether m is configured, as sweep does
// the opposite in the opposite order: one of them notices the other.
func (m *member) ready() bool {
	if !m.active.Load() {
		m.active.Store(true)
	}
	return m.configured.Load() && len(m.held) == 0
}

// mayWait reports whether one more packet may go in for m, of which nothing comes
// out: it has no session.
func (m *member) mayWait() bool {
	if m.waiting < maxWaiting || m.waiting < maxStalled && m.out.moved.Load() {
		return true
	}
	now := time.Now()
	if now.Sub(m.lastTrickle) < trickle {
		return false
	}
	m.lastTrickle = now
	return true
}

// pass counts a packet of the batch for m.
func (t *tap) pass(m *member) {
	if m.passing == 0 {
		t.passing = append(t.passing, m)
	}
	m.passing++
	if m.out.moving.Load() {
		m.waiting = 0
	} else if m.waiting < maxStalled {
		m.waiting++
	}
}

// Write passes on what In allows, moving it together within bufs. WireGuard
// writes one peer's packets at a time.
func (t *tap) Write(bufs [][]byte, offset int) (int, error) {
	if len(bufs) > 0 {
		t.cameOut(bufs, offset)
	}
	passed := 0
	for i, b := range bufs {
		if len(b) > offset && t.in(b[offset:]) {
			bufs[passed], bufs[i] = b, bufs[passed]
			passed++
		}
	}
	if passed < len(bufs) {
		t.refusedIn.Add(uint64(len(bufs) - passed))
	}
	if passed == 0 {
		return len(bufs), nil
	}
	if _, err := t.Device.Write(bufs[:passed], offset); err != nil {
		return 0, err
	}
	return len(bufs), nil
}

// cameOut tells the gate and the Bind that a peer's packets have come out. WireGuard decrypts
// in place, so the message's header is still before the last of them.
func (t *tap) cameOut(bufs [][]byte, offset int) {
	last := bufs[len(bufs)-1]
	if offset < device.MessageTransportHeaderSize || len(last) <= offset {
		return
	}
	m := t.routes.Load().from(last[offset:])
	if m == nil {
		return
	}
	if !m.active.Load() {
		m.active.Store(true)
	}
	if t.accepted != nil {
		t.accepted(m.id, bufs)
	}
	t.inGate.leaveUpTo(&m.in, tag(last[offset-device.MessageTransportHeaderSize:]))
}

func (t *tap) injectIn(pkt []byte) bool {
	if len(pkt) == 0 {
		return false
	}
	select {
	case t.inwards <- append(make([]byte, headroom, headroom+len(pkt)), pkt...):
		return true
	default:
		t.injectFull.Add(1)
		return false
	}
}

func (t *tap) injectOut(pkt []byte) bool {
	if len(pkt) == 0 {
		return false
	}
	q := &t.outwards
	q.Lock()
	full := len(q.packets) == injectLength
	if !full {
		q.packets = append(q.packets, append([]byte(nil), pkt...))
		t.hasOutwards.Store(true)
	}
	q.Unlock()
	if full {
		t.injectFull.Add(1)
		return false
	}
	t.source.Interrupt()
	return true
}

func (t *tap) takeOutwards(bufs [][]byte, sizes []int, offset int) int {
	if !t.hasOutwards.Load() {
		return 0
	}
	q := &t.outwards
	q.Lock()
	defer q.Unlock()
	n := min(len(q.packets), len(bufs))
	for i, pkt := range q.packets[:n] {
		sizes[i] = 0
		if len(pkt) <= len(bufs[i])-offset {
			sizes[i] = copy(bufs[i][offset:], pkt)
		}
	}
	q.packets = q.packets[n:]
	if len(q.packets) == 0 {
		q.packets = nil
		t.hasOutwards.Store(false)
	}
	return n
}
