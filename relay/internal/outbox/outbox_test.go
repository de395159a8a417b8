package outbox

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

func node(i int) (n key.NodeID) {
	binary.BigEndian.PutUint32(n[:], uint32(i))
	return n
}

// mark is a frame of n bytes that says whose it is and which.
func mark(flow, seq, n int) *Packet {
	p := Get(n)
	p.Frame = append(p.Frame, make([]byte, n)...)
	binary.BigEndian.PutUint32(p.Frame, uint32(n))
	binary.BigEndian.PutUint32(p.Frame[4:], uint32(flow))
	binary.BigEndian.PutUint32(p.Frame[8:], uint32(seq))
	return p
}

type marked struct{ flow, seq, n int }

// marks takes a batch apart again.
func marks(t *testing.T, batch []byte) (out []marked) {
	t.Helper()
	for len(batch) > 0 {
		n := int(binary.BigEndian.Uint32(batch))
		if n < 12 || n > len(batch) {
			t.Fatalf("a batch with a packet of %d bytes in %d", n, len(batch))
		}
		out = append(out, marked{int(binary.BigEndian.Uint32(batch[4:])), int(binary.BigEndian.Uint32(batch[8:])), n})
		batch = batch[n:]
	}
	return out
}

func box() (*Box, *Budget, *Counts) {
	budget, counts := NewBudget(64<<20), new(Counts)
	return New(budget, counts, 4096), budget, counts
}

// TestNothingIsLostUncounted drives a Box at random and checks what must hold
// after every step, whatever the policy of dropping: each packet is taken once
// or counted once, flows keep their order, limits hold, and the budget is
// exactly what waits.
func TestNothingIsLostUncounted(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, budget, counts := box()
		pushed, taken := 0, 0
		last := map[[2]int]int{} // (flow, class) -> newest sequence number taken
		var now time.Duration
		take := func() {
			batch, more := b.Take(nil, now)
			if !more {
				t.Fatal("a Box that is open says it is not")
			}
			if len(batch) > BatchSize {
				t.Fatalf("seed %d: a batch of %d bytes", seed, len(batch))
			}
			for _, m := range marks(t, batch) {
				id := [2]int{m.flow >> 1, m.flow & 1}
				if prev, ok := last[id]; ok && m.seq <= prev {
					t.Fatalf("seed %d: flow %v: %d after %d", seed, id, m.seq, prev)
				}
				last[id] = m.seq
				taken++
			}
		}
		for range 3000 {
			if r.IntN(8) == 0 {
				take()
			}
			if r.IntN(20) == 0 {
				now += time.Duration(r.IntN(300)) * time.Millisecond
			}
			flow, class, n := r.IntN(1+r.IntN(40)), frame.Bulk, 12+r.IntN(9000)
			if r.IntN(4) == 0 {
				class = frame.Urgent
			}
			if r.IntN(2) == 0 {
				n = 12 + r.IntN(100)
			}
			b.Push(mark(flow<<1|int(class&1), pushed, n), node(flow), class, now)
			pushed++
			if b.bulk.bytes > MaxBytes || b.urgent.bytes > urgentBytes {
				t.Fatalf("seed %d: %d bulk and %d urgent bytes wait", seed, b.bulk.bytes, b.urgent.bytes)
			}
			if got := int64(b.bulk.bytes + b.urgent.bytes); got != budget.Used() {
				t.Fatalf("seed %d: budget %d, waiting %d", seed, budget.Used(), got)
			}
		}
		for b.bulk.turn != nil || b.urgent.turn != nil {
			take()
		}
		if sum := taken + int(counts.Full.Load()+counts.Old.Load()+counts.Late.Load()); sum != pushed {
			t.Errorf("seed %d: %d taken or counted, %d pushed", seed, sum, pushed)
		}
		if budget.Used() != 0 || len(b.bulk.flows)+len(b.urgent.flows) != 0 {
			t.Errorf("seed %d: empty, but %d bytes and %d flows", seed, budget.Used(), len(b.bulk.flows)+len(b.urgent.flows))
		}
	}
}

// TestFloodTakesNothingFromOthers: one flow pushes ten times what the Box
// holds; the packets of a flow that stays under its share all arrive, soon.
func TestFloodTakesNothingFromOthers(t *testing.T) {
	for _, class := range []frame.Class{frame.Bulk, frame.Urgent} {
		b, _, counts := box()
		for i := range 4000 {
			b.Push(mark(1, i, 1400), node(1), class, 0)
			if i%400 == 0 {
				b.Push(mark(2, i, 1400), node(2), class, 0)
			}
		}
		batch, _ := b.Take(nil, 0)
		light := 0
		for _, m := range marks(t, batch) {
			if m.flow == 2 {
				light++
			}
		}
		// 11 packets of 1400 bytes fit a batch; the flows take turns.
		if light < 5 {
			t.Errorf("%v: %d packets of the light flow in the first batch, want 5", class, light)
		}
		for len(batch) > 0 {
			batch, _ = b.Take(nil, 0)
			for _, m := range marks(t, batch) {
				if m.flow == 2 {
					light++
				}
			}
		}
		if light != 10 {
			t.Errorf("%v: %d packets of the light flow arrived, want 10", class, light)
		}
		if counts.Full.Load() == 0 {
			t.Errorf("%v: the flood lost nothing", class)
		}
	}
}

func TestTurnsAreByBytes(t *testing.T) {
	b, _, _ := box()
	for i := range 200 {
		b.Push(mark(1, i, 9000), node(1), frame.Bulk, 0)
		for j := range 8 {
			b.Push(mark(2, i*8+j, 200), node(2), frame.Bulk, 0)
		}
	}
	sum := map[int]int{}
	for range 8 {
		batch, _ := b.Take(nil, 0)
		for _, m := range marks(t, batch) {
			sum[m.flow] += m.n
		}
	}
	if a, z := sum[1], sum[2]; a > z+12000 || z > a+12000 {
		t.Errorf("large packets got %d bytes, small ones %d; want the same within a packet", a, z)
	}
}

func TestUrgentGoesFirstAndTakesHalf(t *testing.T) {
	b, _, _ := box()
	for i := range 100 {
		b.Push(mark(1, i, 1400), node(1), frame.Bulk, 0)
	}
	for i := range 100 {
		b.Push(mark(2, i, 148), node(2), frame.Urgent, 0)
	}
	batch, _ := b.Take(nil, 0)
	var urgent, bulk int
	for i, m := range marks(t, batch) {
		if m.flow == 2 {
			if bulk > 0 && urgent < BatchSize/2-148 {
				t.Fatalf("packet %d: bulk before urgent", i)
			}
			urgent += m.n
		} else {
			bulk += m.n
		}
	}
	if urgent < BatchSize/2-148 || bulk < BatchSize/2-1400 {
		t.Errorf("%d urgent and %d bulk bytes, want about half each", urgent, bulk)
	}
}

func TestOverflowDropsTheOldest(t *testing.T) {
	b, _, counts := box()
	const n = 1000
	for i := range n {
		b.Push(mark(1, i, 1400), node(1), frame.Bulk, 0)
	}
	want := int(counts.Full.Load())
	if kept := MaxBytes / (2048 + overhead); want != n-kept {
		t.Errorf("%d dropped, want %d", want, n-kept)
	}
	batch, _ := b.Take(nil, 0)
	if m := marks(t, batch); m[0].seq != want {
		t.Errorf("first is %d, want %d: the oldest go", m[0].seq, want)
	}
}

func TestOldPacketsAreDropped(t *testing.T) {
	b, _, counts := box()
	b.Push(mark(1, 1, 100), node(1), frame.Bulk, 0)
	b.Push(mark(1, 2, 100), node(1), frame.Bulk, time.Millisecond)
	b.Push(mark(1, 3, 100), node(1), frame.Urgent, 0)
	batch, more := b.Take(nil, MaxAge+time.Millisecond)
	if m := marks(t, batch); !more || len(m) != 1 || m[0].seq != 2 {
		t.Errorf("got %v, %v; want packet 2 alone", m, more)
	}
	if counts.Old.Load() != 2 {
		t.Errorf("%d counted old, want 2", counts.Old.Load())
	}
}

func TestManyStalledBoxesShareTheBudget(t *testing.T) {
	const total = 8 << 20
	budget, counts := NewBudget(total), new(Counts)
	const boxes = 200
	for i := range boxes {
		b := New(budget, counts, 4096)
		for j := range 400 {
			b.Push(mark(1, j, 1400), node(1), frame.Bulk, 0)
		}
		if i < 10 {
			// As long as few are stalled they have their full share.
			if b.bulk.bytes < MaxBytes*9/10 {
				t.Errorf("Box %d holds %d bytes, want %d", i, b.bulk.bytes, MaxBytes)
			}
		}
		if b.bulk.bytes < floor-2*(2048+overhead) {
			t.Errorf("Box %d holds %d bytes, less than the floor", i, b.bulk.bytes)
		}
	}
	if got, most := budget.Used(), int64(total+boxes*floor); got > most {
		t.Errorf("%d bytes wait, at most %d", got, most)
	}
}

func TestControlIsBoundedAndFirst(t *testing.T) {
	b, _, _ := box()
	b.Push(mark(1, 0, 100), node(1), frame.Bulk, 0)
	ping := frame.AppendPong(nil, 7)
	n := 0
	for b.Control(ping) {
		n++
	}
	if n != 4096/len(ping) {
		t.Errorf("%d control frames wait, want %d", n, 4096/len(ping))
	}
	batch, _ := b.Take(nil, 0)
	if !bytes.HasPrefix(batch, bytes.Repeat(ping, n)) || len(marks(t, batch[n*len(ping):])) != 1 {
		t.Error("control frames are not first, or the packet is missing")
	}
	if !b.Control(ping) {
		t.Error("no control frame fits after all were taken")
	}
}

func TestCloseKeepsControlAndEndsWithFinal(t *testing.T) {
	b, budget, counts := box()
	b.Push(mark(1, 0, 100), node(1), frame.Bulk, 0)
	b.Push(mark(1, 1, 100), node(1), frame.Urgent, 0)
	b.Control([]byte("control"))
	b.Close([]byte("final"))
	b.Close([]byte("second"))
	if b.Push(mark(1, 2, 100), node(1), frame.Bulk, 0) != Late || b.Control([]byte("x")) {
		t.Error("a closed Box takes more")
	}
	select {
	case <-b.Closed():
	default:
		t.Error("Closed is open")
	}
	batch, more := b.Take(nil, 0)
	if string(batch) != "controlfinal" || !more {
		t.Errorf("got %q, %v; want control and final", batch, more)
	}
	if batch, more = b.Take(nil, 0); len(batch) != 0 || more {
		t.Errorf("got %q, %v; want the end", batch, more)
	}
	if counts.Late.Load() != 3 || budget.Used() != 0 {
		t.Errorf("%d counted late, %d bytes kept; want 3 and 0", counts.Late.Load(), budget.Used())
	}
}

// TestNoWakeIsLost has a writer that only ever sleeps on Ready.
func TestNoWakeIsLost(t *testing.T) {
	b, _, counts := box()
	const pushers, each = 4, 2000
	var wg sync.WaitGroup
	for i := range pushers {
		wg.Go(func() {
			for j := range each {
				b.Push(mark(i, j, 64), node(i), frame.Bulk, 0)
			}
		})
	}
	got, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for got+int(counts.Full.Load()) < pushers*each {
			<-b.Ready()
			for {
				batch, _ := b.Take(nil, 0)
				if len(batch) == 0 {
					break
				}
				got += len(batch) / 64
			}
		}
	}()
	wg.Wait()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the writer sleeps while packets wait")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	b, _, _ := box()
	buf := make([]byte, 0, BatchSize)
	src, pkt := node(1), make([]byte, 1452)
	pkt[0] = 4
	step := func() {
		for i := range 8 {
			p := Get(frame.HeaderSize + frame.NodeSize + len(pkt))
			p.Frame = frame.AppendRecv(p.Frame, src, pkt)
			b.Push(p, node(i%3), frame.Bulk, 0)
		}
		buf, _ = b.Take(buf[:0], 0)
	}
	for range 10 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 && !raceEnabled {
		t.Errorf("%v allocations per 8 packets, want 0", n)
	}
}

func BenchmarkPushTake(b *testing.B) {
	bx, _, _ := box()
	buf := make([]byte, 0, BatchSize)
	src, pkt := node(1), make([]byte, 1452)
	pkt[0] = 4
	b.SetBytes(1452)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := Get(frame.HeaderSize + frame.NodeSize + len(pkt))
		p.Frame = frame.AppendRecv(p.Frame, src, pkt)
		bx.Push(p, src, frame.Bulk, 0)
		if i%8 == 7 {
			buf, _ = bx.Take(buf[:0], 0)
		}
	}
}
