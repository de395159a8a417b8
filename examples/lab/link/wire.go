package link

import (
	"container/heap"
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// MaxFrame is the longest frame carried: an Ethernet header and a packet of the
// largest size that IPv4 has.
const MaxFrame = 14 + 65535

// maxUnderWay is how many frames one direction holds: a tenth of a second of
// full frames at a gigabit per second. A frame beyond it is lost as an overflow.
const maxUnderWay = 8192

// A Wire joins two ports, of which each Read yields a frame and each Write takes
// one, as a TAP device does.
type Wire struct {
	there, back *direction
	ports       [2]io.ReadWriteCloser
	cancel      context.CancelFunc
	done        sync.WaitGroup
}

// Join carries frames from a to b and from b to a until Close.
func Join(a, b io.ReadWriteCloser, there, back Shape) (*Wire, error) {
	if err := errors.Join(there.Check(), back.Check()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Wire{there: newDirection(a, b, there), back: newDirection(b, a, back), ports: [2]io.ReadWriteCloser{a, b}, cancel: cancel}
	for _, d := range []*direction{w.there, w.back} {
		w.done.Go(d.read)
		w.done.Go(func() { d.deliver(ctx) })
	}
	return w, nil
}

// Counts are those from a to b, and from b to a.
func (w *Wire) Counts() (there, back Counts) { return w.there.counts(), w.back.counts() }

// Close closes both ports and returns when nothing moves any more. Frames under
// way are lost.
func (w *Wire) Close() error {
	w.cancel()
	err := errors.Join(w.ports[0].Close(), w.ports[1].Close())
	w.done.Wait()
	return err
}

// direction is one direction of a wire. Two goroutines share it: one reads
// frames, the other delivers them when they arrive.
type direction struct {
	from io.Reader
	to   io.Writer
	wake chan struct{} // holds one token while the earliest arrival may have changed

	mu  sync.Mutex // guards the fields below
	way *Way
	due arrivals
	n   uint64 // frames that were put in due, to keep those of one instant in order
}

func newDirection(from io.Reader, to io.Writer, s Shape) *direction {
	return &direction{from: from, to: to, wake: make(chan struct{}, 1), way: NewWay(s)}
}

func (d *direction) counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.way.Counts
}

func (d *direction) read() {
	buf := make([]byte, MaxFrame)
	for {
		n, err := d.from.Read(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		if len(d.due) >= maxUnderWay {
			d.way.Counts.Overflown++
			d.mu.Unlock()
			continue
		}
		at, ok := d.way.Send(time.Now(), n)
		if ok {
			heap.Push(&d.due, arrival{at: at, n: d.n, frame: append([]byte(nil), buf[:n]...)})
			d.n++
		}
		first := ok && d.due[0].n == d.n-1
		d.mu.Unlock()
		if first {
			select {
			case d.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (d *direction) deliver(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var frame []byte
		d.mu.Lock()
		wait := time.Duration(-1)
		if len(d.due) > 0 {
			if wait = time.Until(d.due[0].at); wait <= 0 {
				frame = heap.Pop(&d.due).(arrival).frame
			}
		}
		d.mu.Unlock()
		if frame != nil {
			// An interface that is down takes no frame, and the frame is lost, as
			// on any wire that leads to one.
			_, _ = d.to.Write(frame)
			if ctx.Err() != nil {
				return
			}
			continue
		}
		var arrived <-chan time.Time
		if wait >= 0 {
			timer.Reset(wait)
			arrived = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-arrived:
		}
	}
}

type arrival struct {
	at    time.Time
	n     uint64
	frame []byte
}

// arrivals is a heap, the earliest on top.
type arrivals []arrival

func (a arrivals) Len() int { return len(a) }
func (a arrivals) Less(i, j int) bool {
	if a[i].at.Equal(a[j].at) {
		return a[i].n < a[j].n
	}
	return a[i].at.Before(a[j].at)
}
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)   { *a = append(*a, x.(arrival)) }
func (a *arrivals) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = arrival{}
	*a = old[:len(old)-1]
	return last
}
