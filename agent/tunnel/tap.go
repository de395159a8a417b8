package tunnel

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
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

// A tap is the tun.Device that WireGuard sees: the real one, with both filters
// and both injections.
type tap struct {
	tun.Device // Events, File, Name, BatchSize are the device's

	// set at construction
	mtu     int // 0: the device's
	in, out func(pkt []byte) bool
	source  interface {
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

	refusedIn, refusedOut, injectFull atomic.Uint64
}

func newTap(dev tun.Device, mtu int, in, out func([]byte) bool) *tap {
	t := &tap{Device: dev, mtu: mtu, in: in, out: out, inwards: make(chan []byte, injectLength)}
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

// Read hands out injected packets first, then what the device sends and Out
// allows. A refused packet stays in the batch with size 0, which WireGuard
// skips; a batch of nothing else is not worth waking it for.
func (t *tap) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if n := t.takeOutwards(bufs, sizes, offset); n > 0 {
			return n, nil
		}
		n, err := t.source.Read(bufs, sizes, offset)
		passed, refused := 0, uint64(0)
		for i := range n {
			switch {
			case sizes[i] == 0:
			case t.out(bufs[i][offset : offset+sizes[i]]):
				passed++
			default:
				sizes[i] = 0
				refused++
			}
		}
		if refused > 0 {
			t.refusedOut.Add(refused)
		}
		if passed > 0 || err != nil {
			return n, err
		}
	}
}

// Write passes on what In allows, moving it together within bufs.
func (t *tap) Write(bufs [][]byte, offset int) (int, error) {
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

// A pump reads a device that cannot be interrupted, in a goroutine, so that
// whoever reads the pump can be. Two batches go round: one is filled while the
// other is emptied.
type pump struct {
	// set at construction
	dev         tun.Device
	interrupted chan struct{} // holds one token
	empty, full chan *pumped
	ended       chan struct{} // closed when run returns
}

// A pumped is one batch as the device returned it.
type pumped struct {
	bufs  [][]byte
	sizes []int
	n     int
	err   error
}

// pumpBuffer is what wireguard-go gives a device to read a packet into.
const pumpBuffer = 1<<16 - 1

func newPump(dev tun.Device) *pump {
	p := &pump{
		dev:         dev,
		interrupted: make(chan struct{}, 1),
		empty:       make(chan *pumped, 2),
		full:        make(chan *pumped, 2),
		ended:       make(chan struct{}),
	}
	size := dev.BatchSize()
	for range 2 {
		b := &pumped{bufs: make([][]byte, size), sizes: make([]int, size)}
		for i := range b.bufs {
			b.bufs[i] = make([]byte, headroom+pumpBuffer)
		}
		p.empty <- b
	}
	return p
}

// run reads until the device is closed. Nothing in it blocks for longer: the
// channels hold every batch there is.
func (p *pump) run(ctx context.Context) {
	defer close(p.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-p.empty:
			b.n, b.err = p.dev.Read(b.bufs, b.sizes, headroom)
			err := b.err // b is the reader's once it is handed over
			p.full <- b
			if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
				return
			}
		}
	}
}

// Interrupt makes one Read return.
func (p *pump) Interrupt() {
	select {
	case p.interrupted <- struct{}{}:
	default:
	}
}

// Read copies a batch of the device's.
func (p *pump) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	var b *pumped
	select {
	case b = <-p.full:
	case <-p.interrupted:
		return 0, nil
	case <-p.ended:
		select {
		case b = <-p.full:
		default:
			return 0, os.ErrClosed
		}
	}
	n := min(b.n, len(bufs))
	for i := range n {
		sizes[i] = 0
		if pkt := b.bufs[i][headroom : headroom+b.sizes[i]]; len(pkt) <= len(bufs[i])-offset {
			sizes[i] = copy(bufs[i][offset:], pkt)
		}
	}
	err := b.err
	p.empty <- b
	return n, err
}
