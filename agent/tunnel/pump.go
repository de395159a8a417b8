package tunnel

import (
	"context"
	"errors"
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

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
