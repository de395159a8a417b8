// Package link is a wire between two network interfaces, in user space: it
// carries Ethernet frames with delay, jitter, loss, reordering and a limited
// rate, as the lines to people's homes do. It stands in for the kernel's netem,
// which many kernels are built without.
//
// A Way decides what becomes of each frame in one direction. It knows no clock:
// it is told when a frame comes and says when it arrives, or that it never does.
// What it decides by chance follows from its seed alone. A Wire moves real frames
// between two ports as two Ways decide.
//
//	frame ──► queue ──► transmitter ──► the line ──► the other port
//	         (Queue)      (Rate)       (Delay, Jitter,
//	                                    Loss, Reorder)
package link

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A Shape is how one direction of a wire is. The zero Shape delivers everything
// at once.
type Shape struct {
	Delay   time.Duration // how long the line is
	Jitter  time.Duration // up to this much is added to Delay, evenly; frames keep their order
	Loss    float64       // how many frames the line loses, 0 to 1
	Reorder float64       // how many frames overtake those under way, 0 to 1: the line's delay is not theirs
	Rate    int64         // of the transmitter, in bits per second; zero: without limit
	Queue   int           // bytes that may wait for the transmitter; zero: DefaultQueue
	Seed    uint64        // of chance
}

// DefaultQueue is a common home router's buffer: some forty full frames, which
// is a twentieth of a second at 10 Mbit/s.
const DefaultQueue = 64 << 10

// Check refuses a shape that no line has.
func (s Shape) Check() error {
	switch {
	case s.Delay < 0 || s.Jitter < 0:
		return fmt.Errorf("link: delay %s, jitter %s: want none below zero", s.Delay, s.Jitter)
	case s.Loss < 0 || s.Loss > 1 || s.Reorder < 0 || s.Reorder > 1:
		return fmt.Errorf("link: loss %g, reorder %g: want 0 to 1", s.Loss, s.Reorder)
	case s.Rate < 0 || s.Queue < 0:
		return fmt.Errorf("link: rate %d, queue %d: want none below zero", s.Rate, s.Queue)
	}
	return nil
}

// Counts are what became of the frames of one direction.
type Counts struct {
	Passed    uint64 // arrived, or on the line
	Overtook  uint64 // of those: before frames sent earlier
	Lost      uint64 // by the line
	Overflown uint64 // found the queue full
}

// A Way is one direction of a wire. It is not safe for concurrent use.
type Way struct {
	shape Shape
	rng   *rand.Rand
	free  time.Time // when the transmitter has sent what it was given
	last  time.Time // the latest arrival of a frame that keeps its order

	Counts Counts
}

// NewWay makes a direction of that shape, which Check has passed.
func NewWay(s Shape) *Way {
	if s.Queue == 0 {
		s.Queue = DefaultQueue
	}
	return &Way{shape: s, rng: rand.New(rand.NewPCG(s.Seed, 0x6c696e6b))}
}

// Send says when a frame of size bytes, given to the transmitter now, arrives.
// Calls are in the order of now.
func (w *Way) Send(now time.Time, size int) (arrives time.Time, ok bool) {
	sent := now
	if w.shape.Rate > 0 {
		if w.free.Before(now) {
			w.free = now
		}
		waiting := w.free.Sub(now).Seconds() * float64(w.shape.Rate) / 8
		if waiting+float64(size) > float64(w.shape.Queue) {
			w.Counts.Overflown++
			return time.Time{}, false
		}
		w.free = w.free.Add(time.Duration(float64(size) * 8 / float64(w.shape.Rate) * float64(time.Second)))
		sent = w.free
	}
	// Each frame draws the same numbers whatever becomes of it, so that one
	// property of a shape can change without moving the others' chances.
	lost, overtakes, jitter := w.rng.Float64(), w.rng.Float64(), w.rng.Float64()
	if lost < w.shape.Loss {
		w.Counts.Lost++
		return time.Time{}, false
	}
	w.Counts.Passed++
	if overtakes < w.shape.Reorder {
		if sent.Before(w.last) {
			w.Counts.Overtook++
		}
		return sent, true
	}
	arrives = sent.Add(w.shape.Delay + time.Duration(jitter*float64(w.shape.Jitter)))
	if arrives.Before(w.last) {
		arrives = w.last
	}
	w.last = arrives
	return arrives, true
}
