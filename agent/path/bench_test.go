package path

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// engineOf is an engine with n peers, of which some are awake, each with a direct
// path that carries data.
func engineOf(n, awake int) (*Engine, *time.Time, *uint64) {
	now := time.Unix(1_700_000_000, 0)
	var count uint64
	e := New(Config{Traffic: func(key.NodeID) Traffic { return Traffic{DirectSent: count, DirectReceived: count} }})
	var peers []Peer
	for i := range n {
		peers = append(peers, Peer{ID: numbered(i)})
	}
	e.SetPeers(now, peers)
	for i := range awake {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 1)
		e.Wake(now, peers[i].ID)
		e.Receive(now, peers[i].ID, netip.AddrPort{}, &disco.Endpoints{List: []disco.Endpoint{{Addr: at, Kind: disco.Interface}}})
		answer(e, now, e.Take())
		now = now.Add(20 * time.Millisecond) // the budget
		e.Advance(now)
	}
	return e, &now, &count
}

// answer has every ping answered as it should be.
func answer(e *Engine, now time.Time, actions []Action) {
	for _, a := range actions {
		if s, ok := a.(Send); ok {
			if p, ok := s.Msg.(*disco.Ping); ok {
				e.Receive(now, s.Peer, s.To, &disco.Pong{Tx: p.Tx, Proved: true})
			}
		}
	}
}

// One second of a node's life; other peers sleep.
func BenchmarkSecond(b *testing.B) {
	for _, awake := range []int{0, 10, 200} {
		b.Run(fmt.Sprintf("peers=10000/direct=%d", awake), func(b *testing.B) {
			e, now, count := engineOf(10_000, awake)
			for b.Loop() {
				for end := now.Add(time.Second); ; {
					at, ok := e.Next()
					if !ok || at.After(end) {
						*now = end
						break
					}
					*count++
					*now = at
					e.Advance(at)
					answer(e, at, e.Take())
				}
			}
		})
	}
}

func BenchmarkSetPeers(b *testing.B) {
	e, now, _ := engineOf(10_000, 10)
	var peers []Peer
	for i := range 10_000 {
		peers = append(peers, Peer{ID: numbered(i)})
	}
	for b.Loop() {
		e.SetPeers(*now, peers)
	}
}

// Sleeping peers cost no time: nothing is due, and Advance does nothing.
func TestSleepingPeersAreNotTouched(t *testing.T) {
	e, now, _ := engineOf(10_000, 0)
	if at, ok := e.Next(); ok {
		t.Errorf("something is due at %v", at)
	}
	if n := testing.AllocsPerRun(100, func() { *now = now.Add(time.Second); e.Advance(*now) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if len(e.schedule) != 0 || len(e.awake) != 0 {
		t.Errorf("%d in the schedule, %d awake; want none", len(e.schedule), len(e.awake))
	}
}
