package node

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/coordinator/key"
)

// nowhere sends nothing.
type nowhere struct{}

func (nowhere) Send(key.NodeID, [][]byte) error { return nil }

// calling is as much of a plane as nodes call that WireGuard has no state for.
func calling(t *testing.T) *plane {
	t.Helper()
	p := &plane{calls: newCalls()}
	var err error
	if p.bind, err = bind.New(bind.Config{Sender: nowhere{}, Unknown: p.unknown}); err != nil {
		t.Fatal(err)
	}
	return p
}

// first is a first message that can be told from others.
func first(mark byte) []byte {
	pkt := make([]byte, initiationSize)
	pkt[0], pkt[initiationSize-1] = initiation, mark
	return pkt
}

// data is a data message of a session.
func data() []byte {
	pkt := make([]byte, 1312)
	pkt[0] = 4
	return pkt
}

// all takes who waits, in order.
func (c *calls) all() (out []call) {
	for {
		next, ok := c.next()
		if !ok {
			return out
		}
		out = append(out, next)
	}
}

// A node's first message is not lost however it meets the netmap that makes the
// node a peer.
func TestFirstMessageMeetsItsNetmap(t *testing.T) {
	id, pkt := key.NodeID{9}, first(1)
	homes := map[key.NodeID][]string{id: nil}
	for round := range 40_000 {
		p := calling(t)
		var both sync.WaitGroup
		start := make(chan struct{})
		both.Go(func() { <-start; p.bind.Deliver(id, pkt) })
		both.Go(func() { <-start; p.meet(homes) })
		close(start)
		both.Wait()
		got := p.calls.all()
		if len(got) != 1 || got[0].from != id || !bytes.Equal(got[0].first, pkt) || got[0].wish {
			t.Fatalf("round %d: waiting are %+v, want the node's first message, once", round, got)
		}
	}
}

// However many packets a peer sends, another's first message waits beside them.
func TestDataTakesNoOnesPlace(t *testing.T) {
	p := calling(t)
	loud, quiet := key.NodeID{1}, key.NodeID{2}
	p.meet(map[key.NodeID][]string{loud: nil, quiet: nil})
	for range 1000 {
		p.bind.Deliver(loud, data())
	}
	p.bind.Deliver(quiet, first(1))
	p.bind.Deliver(loud, first(2))
	p.bind.Deliver(loud, first(3))
	got := p.calls.all()
	if len(got) != 2 {
		t.Fatalf("%d wait, want 2: %+v", len(got), got)
	}
	if c := got[0]; c.from != loud || !c.wish || !bytes.Equal(c.first, first(3)) {
		t.Errorf("the loud peer's call is %+v, want the wish for a session and its newest first message", c)
	}
	if c := got[1]; c.from != quiet || c.wish || !bytes.Equal(c.first, first(1)) {
		t.Errorf("the quiet peer's call is %+v, want its first message alone", c)
	}
}

// All nodes whose messages were kept may become peers with one netmap.
func TestAllThatCalledEarlyAreMet(t *testing.T) {
	p := calling(t)
	homes := make(map[key.NodeID][]string)
	for i := range maxEarly {
		var id key.NodeID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		homes[id] = nil
		p.bind.Deliver(id, first(byte(i)))
	}
	p.meet(homes)
	seen := make(map[key.NodeID]bool)
	for _, c := range p.calls.all() {
		seen[c.from] = c.first != nil && c.first[initiationSize-1] == byte(binary.BigEndian.Uint32(c.from[:]))
	}
	if len(seen) != maxEarly {
		t.Errorf("%d nodes are answered, want %d", len(seen), maxEarly)
	}
	for id, its := range seen {
		if !its {
			t.Errorf("node %x waits without the message that it sent", id[:4])
		}
	}
}

// What is no packet of WireGuard calls nobody.
func TestNoiseIsNoCall(t *testing.T) {
	p := calling(t)
	id := key.NodeID{1}
	p.meet(map[key.NodeID][]string{id: nil})
	short := first(0)[:initiationSize-1]
	for _, pkt := range [][]byte{{0}, {4}, {9, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 1312), short} {
		p.bind.Deliver(id, pkt)
		if got := p.calls.all(); len(got) != 0 {
			t.Errorf("%d bytes of type %d: waiting are %+v, want nobody", len(pkt), pkt[0], got)
		}
	}
}

// Calls against a model: a list of peers, each with what it said.
func TestCallsModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	c := newCalls()
	var want []call
	for step := range 20_000 {
		id := key.NodeID{byte(r.IntN(6))}
		at := -1
		for i := range want {
			if want[i].from == id {
				at = i
			}
		}
		switch kind := r.IntN(5); kind {
		case 0, 1, 2:
			if at < 0 {
				want, at = append(want, call{from: id}), len(want)
			}
			if kind == 0 {
				want[at].first = first(byte(step))
				c.heard(id, first(byte(step)))
			} else {
				want[at].wish = true
				c.heard(id, data())
			}
		default:
			select {
			case <-c.ready:
			default:
				if len(want) > 0 {
					t.Fatalf("step %d: %d wait and nobody is told", step, len(want))
				}
			}
			got, ok := c.next()
			if ok != (len(want) > 0) {
				t.Fatalf("step %d: somebody waits: %v, want %v", step, ok, len(want) > 0)
			}
			if !ok {
				continue
			}
			if w := want[0]; got.from != w.from || got.wish != w.wish || !bytes.Equal(got.first, w.first) {
				t.Fatalf("step %d: got %+v, want %+v", step, got, w)
			}
			want = want[1:]
		}
	}
}
