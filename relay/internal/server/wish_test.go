package server

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/internal/outbox"
)

// unconnected is a client as its reader sees it, without a connection.
func unconnected(s *Server, node key.NodeID) *conn {
	return &conn{
		s: s, node: node, box: outbox.New(s.budget, &s.queues, maxControl),
		gone: rate.NewLimiter(0, 0), here: rate.NewLimiter(hereRate, hereBurst),
		takeovers: rate.NewLimiter(rate.Inf, 1),
	}
}

func relay(t *testing.T) *Server {
	t.Helper()
	s, err := New(Config{Identity: key.NewIdentity()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestNothingFallsBetween: a node connects while another's packet for it is at
// hand. Either the packet finds the connection, or its sender is told; in no
// order both or neither.
func TestNothingFallsBetween(t *testing.T) {
	s := relay(t)
	a, b := unconnected(s, key.NodeID{1}), unconnected(s, key.NodeID{2})
	var found, told int
	for i := range 2000 {
		var d *conn
		var wished []*conn
		var both sync.WaitGroup
		do := []func(){
			func() { d = a.want(b.node) },
			func() { _, wished, _ = s.table.put(b, 0) },
		}
		both.Go(do[i%2]) // the second mostly begins first
		both.Go(do[1-i%2])
		both.Wait()
		switch {
		case d == b && len(wished) == 0:
			found++
		case d == nil && slices.Equal(wished, []*conn{a}):
			told++
		default:
			t.Fatalf("round %d: the packet found %p, %d told", i, d, len(wished))
		}
		s.table.remove(b)
		if n := s.table.wishes.Load(); n != 0 {
			t.Fatalf("round %d: %d wishes linked, want 0", i, n)
		}
	}
	t.Logf("%d packets found the connection, %d senders were told", found, told)
}

// TestWishesLikeASet compares the lists with a set of (who, whom, when), which
// forgets by looking at all of it.
func TestWishesLikeASet(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	s := relay(t)
	type pair struct{ by, node int }
	model := map[pair]time.Duration{}
	const clients, nodes = 8, 100 // some share a part of the table, ids being 0..99
	id := func(n int) key.NodeID { return key.NodeID{byte(n)} }
	made := make([]*conn, clients)
	order := make([][]int, clients) // whom each wished for, the oldest wish first
	for i := range made {
		made[i] = unconnected(s, key.NodeID{0xff, byte(i)})
	}
	for step := range 20_000 {
		by, node := rng.IntN(clients), rng.IntN(nodes)
		c := made[by]
		switch rng.IntN(20) {
		case 0: // the node comes and goes
			var want, got []int
			for i := range clients {
				p := pair{i, node}
				if at, ok := model[p]; ok && s.now()-at <= wishTime {
					want = append(want, i)
				}
				delete(model, p)
			}
			d := unconnected(s, id(node))
			_, wished, _ := s.table.put(d, s.now())
			s.table.remove(d)
			for _, w := range wished {
				got = append(got, slices.Index(made, w))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: node %d comes: told %v, want %v", step, node, got, want)
			}
		case 1: // the client leaves, and comes again
			c.forgetWishes()
			c.oldest = 0
			order[by] = nil
			for p := range model {
				if p.by == by {
					delete(model, p)
				}
			}
		case 2: // time passes
			s.start = s.start.Add(-time.Duration(rng.IntN(int(wishTime) / 4)))
			if rng.IntN(4) > 0 {
				continue
			}
			s.table.forget(s.now())
			for p, at := range model {
				if s.now()-at > wishTime {
					delete(model, p)
				}
			}
		default:
			c.want(id(node))
			model[pair{by, node}] = s.now()
			if !slices.Contains(order[by], node) {
				order[by] = append(order[by], node)
				if len(order[by]) > perClient {
					delete(model, pair{by, order[by][0]})
					order[by] = order[by][1:]
				}
			}
		}
		if got := s.table.wishes.Load(); got != int64(len(model)) {
			t.Fatalf("step %d: %d wishes linked, want %d", step, got, len(model))
		}
	}
	for _, c := range made {
		c.forgetWishes()
	}
	for i := range s.table.parts {
		if n := len(s.table.parts[i].wishes); n != 0 {
			t.Errorf("part %d: %d nodes still wished for, want 0", i, n)
		}
	}
}

// TestWishesInAllAreBounded: beyond the limit no wish is made, and the packet's
// sender is told gone all the same.
func TestWishesInAllAreBounded(t *testing.T) {
	s := relay(t)
	s.table.wishes.Store(maxWishes - 1)
	c := unconnected(s, key.NodeID{1})
	c.want(key.NodeID{2})
	c.want(key.NodeID{3})
	if n := s.table.wishes.Load(); n != maxWishes || s.counts.unwished.Load() != 1 {
		t.Errorf("%d wishes, %d not remembered; want %d and 1", n, s.counts.unwished.Load(), maxWishes)
	}
	c.want(key.NodeID{3}) // still no room
	c.forgetWishes()
	if n := s.table.wishes.Load(); n != maxWishes-1 {
		t.Errorf("%d wishes after the client left, want %d", n, maxWishes-1)
	}
}
