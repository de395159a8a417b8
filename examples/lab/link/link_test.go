package link

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// near fails unless a share of n is within five standard deviations of want.
func near(t *testing.T, what string, got uint64, n int, want float64) {
	t.Helper()
	share, sigma := float64(got)/float64(n), math.Sqrt(want*(1-want)/float64(n))
	if math.Abs(share-want) > 5*sigma {
		t.Errorf("%s: got %d of %d (%.4f), want %.4f ± %.4f", what, got, n, share, want, 5*sigma)
	}
}

// send sends n frames of size bytes, one each step, and returns the arrivals in
// the order of sending; the zero time is a frame that is lost.
func send(w *Way, n, size int, step time.Duration) (at []time.Time) {
	for i := range n {
		a, ok := w.Send(start.Add(time.Duration(i)*step), size)
		if !ok {
			a = time.Time{}
		}
		at = append(at, a)
	}
	return at
}

func TestLoss(t *testing.T) {
	const n = 100_000
	for _, loss := range []float64{0, 0.01, 0.3, 1} {
		w := NewWay(Shape{Loss: loss, Seed: 1})
		send(w, n, 100, time.Millisecond)
		near(t, "lost", w.Counts.Lost, n, loss)
		if got := w.Counts.Passed + w.Counts.Lost; got != n {
			t.Errorf("loss %g: got %d frames in all, want %d", loss, got, n)
		}
	}
}

func TestDelayAndJitter(t *testing.T) {
	const n = 50_000
	w := NewWay(Shape{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Seed: 2})
	var sum time.Duration
	last := time.Time{}
	// A frame each 20 ms: none has to wait for the one before it.
	for i, at := range send(w, n, 100, 20*time.Millisecond) {
		d := at.Sub(start.Add(time.Duration(i) * 20 * time.Millisecond))
		if d < 20*time.Millisecond || d > 30*time.Millisecond {
			t.Fatalf("frame %d takes %s, want 20 to 30 ms", i, d)
		}
		if at.Before(last) {
			t.Fatalf("frame %d arrives before the one sent earlier", i)
		}
		last, sum = at, sum+d
	}
	if mean := sum / n; mean < 24900*time.Microsecond || mean > 25100*time.Microsecond {
		t.Errorf("mean delay: got %s, want 25 ms", mean)
	}
	// A frame each microsecond: jitter is much more than that, and they keep
	// their order all the same.
	w = NewWay(Shape{Jitter: 10 * time.Millisecond, Seed: 2})
	last = time.Time{}
	for i, at := range send(w, 1000, 100, time.Microsecond) {
		if at.Before(last) {
			t.Fatalf("frame %d arrives before the one sent earlier", i)
		}
		last = at
	}
}

func TestReorder(t *testing.T) {
	const n = 100_000
	w := NewWay(Shape{Delay: 50 * time.Millisecond, Reorder: 0.05, Seed: 3})
	at := send(w, n, 100, time.Millisecond)
	near(t, "overtook", w.Counts.Overtook, n, 0.05)
	inverted := uint64(0)
	latest := time.Time{}
	for _, a := range at {
		if a.Before(latest) {
			inverted++
		} else {
			latest = a
		}
	}
	if inverted != w.Counts.Overtook {
		t.Errorf("got %d frames before an earlier one, and %d counted", inverted, w.Counts.Overtook)
	}
}

// What passes in a second is the rate, and what is offered beyond it is dropped
// once the queue is full.
func TestRate(t *testing.T) {
	const rate, size = 10_000_000, 1250 // a thousand frames a second
	w := NewWay(Shape{Rate: rate, Queue: 25 * size})
	at := send(w, 3000, size, 500*time.Microsecond) // twice the rate, for 1.5 s
	inSecond, worst := 0, time.Duration(0)
	for i, a := range at {
		if a.IsZero() {
			continue
		}
		if a.Before(start.Add(time.Second)) {
			inSecond++
		}
		worst = max(worst, a.Sub(start.Add(time.Duration(i)*500*time.Microsecond)))
	}
	if inSecond < 998 || inSecond > 1000 {
		t.Errorf("got %d frames in a second, want 1000", inSecond)
	}
	if worst < 24*time.Millisecond || worst > 25*time.Millisecond {
		t.Errorf("the longest wait: got %s, want 25 ms, which is the queue", worst)
	}
	if w.Counts.Overflown < 1400 {
		t.Errorf("got %d frames overflown, want some 1475", w.Counts.Overflown)
	}
}

func TestSeed(t *testing.T) {
	shape := Shape{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.2, Reorder: 0.1, Seed: 7}
	a, b := send(NewWay(shape), 1000, 100, time.Millisecond), send(NewWay(shape), 1000, 100, time.Millisecond)
	for i := range a {
		if !a[i].Equal(b[i]) {
			t.Fatalf("frame %d: %s and %s with the same seed", i, a[i], b[i])
		}
	}
	shape.Seed++
	same := 0
	for i, c := range send(NewWay(shape), 1000, 100, time.Millisecond) {
		if c.Equal(a[i]) {
			same++
		}
	}
	if same > 900 {
		t.Errorf("%d of 1000 frames fare alike with another seed", same)
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []Shape{{Delay: -1}, {Jitter: -1}, {Loss: 1.1}, {Loss: -0.1}, {Reorder: 2}, {Reorder: -1}, {Rate: -1}, {Queue: -1}} {
		if _, err := Join(newPort(), newPort(), s, Shape{}); err == nil {
			t.Errorf("%+v: got no error", s)
		}
	}
}

// port is the end of a wire in memory.
type port struct {
	in, out chan []byte // as the wire reads and writes
	once    sync.Once
	closed  chan struct{}
}

func newPort() *port {
	return &port{in: make(chan []byte, 100), out: make(chan []byte, 100), closed: make(chan struct{})}
}

func (p *port) Read(b []byte) (int, error) {
	select {
	case f := <-p.in:
		return copy(b, f), nil
	case <-p.closed:
		return 0, io.EOF
	}
}

func (p *port) Write(b []byte) (int, error) {
	select {
	case p.out <- bytes.Clone(b):
		return len(b), nil
	case <-p.closed:
		return 0, errors.New("closed")
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func TestWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPort(), newPort()
		w, err := Join(a, b, Shape{Delay: 30 * time.Millisecond}, Shape{Delay: 5 * time.Millisecond, Loss: 0})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range byte(10) {
			a.in <- []byte{i}
		}
		b.in <- []byte("back")
		if got := <-a.out; string(got) != "back" || time.Since(began) != 5*time.Millisecond {
			t.Errorf("got %q after %s, want back after 5 ms", got, time.Since(began))
		}
		for i := range byte(10) {
			if got := <-b.out; !bytes.Equal(got, []byte{i}) || time.Since(began) != 30*time.Millisecond {
				t.Errorf("got %v after %s, want %d after 30 ms", got, time.Since(began), i)
			}
		}
		there, back := w.Counts()
		if there.Passed != 10 || back.Passed != 1 {
			t.Errorf("counts: got %+v and %+v, want 10 and 1 passed", there, back)
		}
		a.in <- []byte("under way")
		synctest.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A frame that overtakes is delivered though the timer runs for a later one.
func TestWireOvertaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPort(), newPort()
		w, err := Join(a, b, Shape{Delay: time.Second, Reorder: 0.5, Seed: 4}, Shape{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		began := time.Now()
		for i := range byte(40) {
			a.in <- []byte{i}
		}
		early := 0
		for range 40 {
			<-b.out
			if time.Since(began) == 0 {
				early++
			}
		}
		if early < 10 || early > 30 {
			t.Errorf("got %d of 40 frames at once, want some 20", early)
		}
		if got := time.Since(began); got != time.Second {
			t.Errorf("the last arrives after %s, want 1 s", got)
		}
	})
}
