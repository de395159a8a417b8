// Package outbox holds what waits for one connection's writer: bounded in
// bytes and in time, fair between flows, and never a reason for anybody else to
// wait.
//
// A relay has one Box per client, with the sender's node id as flow; a client
// has one for its relay, with the destination's. Readers push and never block;
// one writer takes batches.
//
// # What leaves first
//
//  1. Control frames (welcome, pong, gone, …), in order.
//  2. Urgent packets (handshakes, probes), up to half of a batch while bulk
//     waits, so that a flood of them slows bulk by half and no more.
//  3. Bulk packets.
//
// Within 2 and 3 the flows take turns by bytes (deficit round robin, Shreedhar
// and Varghese 1995): a flow that sends a thousand times as much as another
// delays it by one turn.
//
// # What is dropped
//
//   - At the push: when a Box is over its limit, the oldest packet of the
//     longest flow, until it is within. The oldest, because in a queue that
//     overflows it is the one whose receiver has given up first.
//   - At the take: packets older than MaxAge, which is what bounds the delay
//     that a relay adds.
//
// The limit of a Box is what all Boxes of a Budget leave free, at most the
// Box's own limit and never under a floor (dynamic thresholds, Choudhury and
// Hahne 1998): one stalled client may use all of its share, ten thousand
// together do not exhaust the memory, and no flood can bring the limit of one
// that reads to nothing.
package outbox

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

const (
	// MaxBytes is one Box's limit: 40 ms of 100 Mbit/s, or what a path of
	// 100 ms round trip needs to keep 40 Mbit/s going while TCP recovers one
	// loss.
	MaxBytes = 512 << 10
	// floor is what a Box may hold however short memory is: one jumbo packet
	// and a few others, so that everybody's traffic moves.
	floor = 24 << 10
	// urgentBytes bounds the urgent packets of one Box. They are a few hundred
	// bytes each; two hundred waiting are a flood.
	urgentBytes = 64 << 10

	// MaxAge is how long a packet may wait. A connection whose TCP repairs one
	// loss stands still for a round trip, at most some 250 ms between
	// continents; packets that wait no longer than that should survive it,
	// or each loss outside would become a burst of losses inside. Beyond it
	// the sender's own timers have answered the delay (TCP's shortest is
	// 200 ms), and a late packet only makes the next ones later.
	MaxAge = 250 * time.Millisecond

	// BatchSize is one TLS record, and so one system call.
	BatchSize = 16 << 10
	// quantum is one turn of a flow: a packet of the usual MTU.
	quantum = 1500
	// overhead is charged for each packet beside its buffer.
	overhead = 128
)

// A Budget is memory that several Boxes share.
type Budget struct {
	total int64
	used  atomic.Int64
}

// NewBudget is a budget of so many bytes.
func NewBudget(total int64) *Budget { return &Budget{total: total} }

// Used is how many bytes wait in all Boxes, buffers counted whole.
func (b *Budget) Used() int64 { return b.used.Load() }

// Counts is what Boxes dropped. Boxes may share one.
type Counts struct {
	Full atomic.Uint64 // over the limit
	Old  atomic.Uint64 // waited longer than MaxAge
	Late atomic.Uint64 // the connection was closing
}

// A Box is one connection's queue. It is safe for concurrent use; Take has one
// caller at a time.
type Box struct {
	// set at construction
	budget   *Budget
	counts   *Counts
	maxCtl   int
	ready    chan struct{} // capacity 1; signalled when an empty Box gets something
	finished chan struct{} // closed by Close

	// guarded by mu
	mu      sync.Mutex
	control []byte
	final   []byte // the last frame, once closed
	urgent  lane
	bulk    lane
	waiting bool // the writer found nothing and waits for ready
	closed  bool
}

// New makes a Box whose control frames take at most maxControl bytes.
func New(budget *Budget, counts *Counts, maxControl int) *Box {
	return &Box{
		budget: budget, counts: counts, maxCtl: maxControl,
		ready: make(chan struct{}, 1), finished: make(chan struct{}),
		waiting: true,
	}
}

// Ready is signalled when there is something to take.
func (b *Box) Ready() <-chan struct{} { return b.ready }

// Closed is closed when the Box is.
func (b *Box) Closed() <-chan struct{} { return b.finished }

// An Outcome is what a push led to.
type Outcome byte

const (
	Queued  Outcome = iota // and nothing was dropped
	Dropped                // queued, and the oldest packets of the longest flow were dropped for it
	Late                   // not queued: the Box is closed
)

// Push queues p, a whole frame, behind the others of its flow. Now is the
// caller's clock, the one that Take gets. The Box owns p from here on.
func (b *Box) Push(p *Packet, flow key.NodeID, class frame.Class, now time.Duration) Outcome {
	p.at = now
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		p.Free()
		b.counts.Late.Add(1)
		return Late
	}
	l, limit := &b.bulk, min(MaxBytes, b.budget.total-b.budget.used.Load())
	if class == frame.Urgent {
		l, limit = &b.urgent, min(urgentBytes, limit)
	}
	f := l.push(flow, p)
	b.budget.used.Add(int64(p.charge()))
	outcome := Queued
	for int64(l.bytes) > max(limit, floor) {
		victim := l.longest(f)
		b.drop(l, victim)
		b.counts.Full.Add(1)
		if outcome = Dropped; victim == f {
			f = nil // it may be gone
		}
	}
	b.wake()
	b.mu.Unlock()
	return outcome
}

// Control queues a control frame. It is false, and the frame is not queued,
// when the Box is closed or too many wait already.
func (b *Box) Control(frame []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.control)+len(frame) > b.maxCtl {
		return false
	}
	b.control = append(b.control, frame...)
	b.wake()
	return true
}

// Close drops what waits, except control frames, and lets final, which may be
// nil, be the last frame taken. Later pushes are dropped. Closing twice does
// nothing.
func (b *Box) Close(final []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	b.final = final
	for _, l := range []*lane{&b.urgent, &b.bulk} {
		for l.turn != nil {
			b.drop(l, l.turn)
			b.counts.Late.Add(1)
		}
	}
	close(b.finished)
	b.wake()
}

// Take appends the next batch to buf, at most BatchSize bytes of packets. It
// appends nothing when nothing waits; Ready then says when to ask again. More
// is false when the Box is closed and everything was taken.
func (b *Box) Take(buf []byte, now time.Duration) (batch []byte, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.control) > 0 {
		buf = append(buf, b.control...)
		if b.control = b.control[:0]; cap(b.control) > 4096 {
			b.control = nil // papers went this way; they are rare
		}
	}
	if b.closed {
		buf = append(buf, b.final...)
		b.final = nil
		return buf, len(buf) > 0
	}
	half := BatchSize
	if b.bulk.turn != nil {
		half = BatchSize / 2
	}
	buf = b.fill(buf, &b.urgent, half, now)
	buf = b.fill(buf, &b.bulk, BatchSize, now)
	buf = b.fill(buf, &b.urgent, BatchSize, now)
	if len(buf) == 0 {
		b.waiting = true
	}
	return buf, true
}

// fill appends packets of l in turn until the next would pass limit.
func (b *Box) fill(buf []byte, l *lane, limit int, now time.Duration) []byte {
	for l.turn != nil {
		f := l.turn
		p := f.head
		if now-p.at > MaxAge {
			b.drop(l, f)
			b.counts.Old.Add(1)
			continue
		}
		if f.deficit <= 0 {
			f.deficit += quantum
			l.rotate()
			continue
		}
		if len(buf)+len(p.Frame) > limit && len(buf) > 0 {
			break
		}
		f.deficit -= len(p.Frame)
		buf = append(buf, p.Frame...)
		b.drop(l, f)
	}
	return buf
}

// drop frees the oldest packet of f.
func (b *Box) drop(l *lane, f *flow) {
	p := l.pop(f)
	b.budget.used.Add(-int64(p.charge()))
	p.Free()
}

func (b *Box) wake() {
	if b.waiting {
		b.waiting = false
		select {
		case b.ready <- struct{}{}:
		default:
		}
	}
}
