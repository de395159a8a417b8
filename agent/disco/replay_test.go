package disco

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// slowWindow says what window must: it remembers everything.
type slowWindow struct {
	boot, counter uint64
	seen          map[uint64]bool
}

func (w *slowWindow) take(boot, counter uint64) bool {
	if boot < w.boot {
		return false
	}
	if boot > w.boot {
		w.boot, w.counter, w.seen = boot, 0, map[uint64]bool{}
	}
	if w.seen[counter] || counter+windowSize <= w.counter {
		return false
	}
	if w.seen == nil {
		w.seen = map[uint64]bool{}
	}
	w.seen[counter] = true
	w.counter = max(w.counter, counter)
	return true
}

func TestWindowAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		var fast window
		var slow slowWindow
		boot, at := uint64(1), uint64(1)
		for step := range 3000 {
			switch r.IntN(1000) {
			case 0:
				boot, at = boot+uint64(r.IntN(3)), 1
			case 1:
				at += uint64(r.IntN(3 * windowSize))
			}
			at += uint64(r.IntN(3))
			c := at
			switch r.IntN(4) {
			case 0:
				c = max(1, at-min(at, uint64(r.IntN(2*windowSize))))
			case 1:
				c = at + uint64(r.IntN(windowSize+64))
			}
			b := boot
			if r.IntN(50) == 0 {
				b = max(1, b-uint64(r.IntN(2)))
			}
			if got, want := fast.take(b, c), slow.take(b, c); got != want {
				t.Fatalf("seed %d, step %d: boot %d, counter %d: got %v, want %v", seed, step, b, c, got, want)
			}
		}
	}
}

func TestWindowEdges(t *testing.T) {
	const top = math.MaxUint64
	type step struct {
		boot, counter uint64
		want          bool
	}
	for name, steps := range map[string][]step{
		"the last in the window":         {{1, 5000, true}, {1, 5000 - windowSize + 1, true}, {1, 5000 - windowSize + 1, false}},
		"the first below it":             {{1, 5000, true}, {1, 5000 - windowSize, false}},
		"a jump of the window":           {{1, 1, true}, {1, 1 + windowSize, true}, {1, 1, false}, {1, 2, true}},
		"a jump of one less":             {{1, 1, true}, {1, windowSize, true}, {1, 1, false}, {1, 2, true}},
		"the highest counter":            {{1, top, true}, {1, top, false}, {1, top - 1, true}, {1, 1, false}},
		"from the lowest to the highest": {{1, 1, true}, {1, top, true}, {1, 1, false}, {1, top - windowSize + 1, true}},
		"a higher boot begins anew":      {{1, 9, true}, {2, 9, true}, {2, 9, false}, {1, 10, false}},
		"the highest boot":               {{top, 1, true}, {top - 1, 2, false}, {top, 1, false}},
	} {
		var w window
		for i, s := range steps {
			if got := w.take(s.boot, s.counter); got != s.want {
				t.Errorf("%s: step %d, boot %d, counter %d: got %v, want %v", name, i, s.boot, s.counter, got, s.want)
			}
		}
	}
}

func TestReplays(t *testing.T) {
	b := newBench(t)
	a, z := b.fromA(t), b.fromB(t)
	var packets [][]byte
	for range 10 {
		p, err := a.Seal(&Ping{Tx: tx})
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, p)
	}
	for _, i := range []int{3, 1, 9, 0, 8} { // any order, once each
		if _, err := z.Open(packets[i]); err != nil {
			t.Errorf("packet %d: %v", i, err)
		}
		if m, err := z.Open(packets[i]); m != nil || err != Replay {
			t.Errorf("packet %d again: got %+v, %v, want %v", i, m, err, Replay)
		}
	}
	// A starts again; what it sent before is over.
	b2 := b
	b2.started = b.started.Add(time.Second)
	p, err := b2.fromA(t).Seal(&Ping{Tx: tx})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Open(p); err != nil {
		t.Errorf("first message of a new start: %v", err)
	}
	if m, err := z.Open(packets[5]); m != nil || err != Replay {
		t.Errorf("unseen message of the start before: got %+v, %v, want %v", m, err, Replay)
	}
}

// A forged packet does not move the window.
func TestForgedIsNotRemembered(t *testing.T) {
	b := newBench(t)
	a, z := b.fromA(t), b.fromB(t)
	p, err := a.seal(&Ping{Tx: tx}, 1<<40, nonceOf(1))
	if err != nil {
		t.Fatal(err)
	}
	p[len(p)-1] ^= 1
	if _, err := z.Open(p); err != Forged {
		t.Fatalf("got %v, want %v", err, Forged)
	}
	for c := range uint64(3) {
		p, err := a.seal(&Ping{Tx: tx}, c+1, nonceOf(byte(c)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Open(p); err != nil {
			t.Errorf("counter %d: %v", c+1, err)
		}
	}
}

// A pair made again, in one run of the node, is understood by the same peer; the
// pair before it is over once it has been heard.
func TestPairMadeAgain(t *testing.T) {
	b := newBench(t)
	s := NewSelf(b.kA, b.network, b.idA, b.started)
	z := b.fromB(t)
	var began uint64
	for round := range 5 {
		if z.Began() != began {
			t.Errorf("pair %d: begins at %d before its first message, want %d", round, z.Began(), began)
		}
		p, err := s.Pair(b.kB.Public(), b.idB)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			packet, err := p.Seal(&Ping{Tx: tx})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := z.Open(packet); err != nil {
				t.Errorf("pair %d, message %d: %v", round, n, err)
			}
		}
		if z.Began() <= began {
			t.Errorf("pair %d: begins at %d, want after %d", round, z.Began(), began)
		}
		began = z.Began()
	}
}

// A node whose clock was behind when it started is not understood by a peer that
// has seen it before, until its clock is set.
func TestClockSet(t *testing.T) {
	b := newBench(t)
	z := b.fromB(t)
	say := func(p *Pair) error {
		packet, err := p.Seal(&Ping{Tx: tx})
		if err != nil {
			t.Fatal(err)
		}
		_, err = z.Open(packet)
		return err
	}
	pair := func(started time.Time) (*Self, *Pair) {
		s := NewSelf(b.kA, b.network, b.idA, started)
		p, err := s.Pair(b.kB.Public(), b.idB)
		if err != nil {
			t.Fatal(err)
		}
		return s, p
	}
	_, before := pair(b.started)
	if err := say(before); err != nil {
		t.Fatal(err)
	}
	s, p := pair(b.started.AddDate(-40, 0, 0))
	if err := say(p); ReasonOf(err) != Replay {
		t.Errorf("forty years behind: got %v, want a replay", err)
	}
	s.ClockSet(b.started.Add(time.Minute))
	s.Renew(p)
	for range 3 {
		if err := say(p); err != nil {
			t.Errorf("after the clock was set: %v", err)
		}
	}
	s.ClockSet(b.started) // never back
	s.Renew(p)
	if err := say(p); err != nil {
		t.Errorf("after the clock was set back: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	b := newBench(t)
	a, z := b.fromA(t), b.fromB(t)
	const workers, each = 4, windowSize / 8
	packets := make(chan []byte, 2*workers*each)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				p, err := a.Seal(&Ping{Tx: tx})
				if err != nil {
					t.Error(err)
					return
				}
				packets <- p
				packets <- p
				if _, err := z.Open(<-packets); err != nil && err != Replay {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := a.sent.Load(); got != workers*each {
		t.Errorf("counter: got %d, want %d", got, workers*each)
	}
}
