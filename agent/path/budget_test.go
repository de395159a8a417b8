package path

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

func numbered(n int) (id key.NodeID) {
	binary.BigEndian.PutUint32(id[:], uint32(n)+1<<24)
	return id
}

// A thousand peers that wake at once, of which none answers, do not keep the path
// in use from being checked.
func TestManyWakingPeersLeaveThePathInUseAlone(t *testing.T) {
	w, a, b := pair(t, 1)
	for i := range 1000 {
		a.absent = append(a.absent, numbered(i))
	}
	a.peers()
	talk(t, w, a, b)
	pinged := a.sent
	var list []disco.Endpoint
	for i := range 5 {
		list = append(list, disco.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 99), Kind: disco.Interface})
	}
	for _, id := range a.absent {
		a.engine.Wake(w.now, id)
		a.engine.Receive(w.now, id, netip.AddrPort{}, &disco.Endpoints{List: list})
		a.drain()
	}
	before := len(a.verdict(b).Transitions)
	for range 30 {
		w.run(time.Second, nil)
	}
	if n := len(a.verdict(b).Transitions); n != before {
		t.Errorf("the path in use changed: %+v", a.verdict(b).Transitions)
	}
	if n := a.sent - pinged; n < 3000 || n > 3200 {
		t.Errorf("%d pings in 30 s, want the whole budget: 200 and 100 a second", n)
	}
	begin := w.now
	w.blocked = true
	if !w.run(600*time.Millisecond, func() bool { return a.choice[b.id].Relay }) {
		t.Errorf("not by relay %v after the block", w.now.Sub(begin))
	}
}

// What one peer says makes this node ping at most so much, wherever it points.
func TestLyingPeerHasABudget(t *testing.T) {
	liar := key.NodeID{1}
	e := New(Config{})
	now := time.Unix(1_700_000_000, 0)
	begin := now
	e.SetPeers(now, []Peer{{ID: liar}})
	var pings, pongs, told int
	for i := range 60 * 200 { // 200 messages a second for a minute
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), uint16(i)+1)
		switch i % 3 {
		case 0:
			e.Receive(now, liar, from, &disco.Ping{Tx: disco.TxID{byte(i)}, Proved: i%2 == 0})
		case 1:
			m := &disco.Endpoints{Reply: true}
			for j := range disco.MaxEndpoints {
				m.List = append(m.List, disco.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i), byte(j)}), 53), Kind: disco.Reflexive})
			}
			e.Receive(now, liar, netip.AddrPort{}, m)
		case 2:
			e.Here(now, liar)
		}
		now = now.Add(5 * time.Millisecond)
		e.Advance(now)
		for _, a := range e.Take() {
			if s, ok := a.(Send); ok {
				switch s.Msg.(type) {
				case *disco.Ping:
					pings++
				case *disco.Pong:
					pongs++
				default:
					told++
				}
			}
		}
		if i%200 == 0 {
			e.Wake(now, liar)
		}
	}
	s := now.Sub(begin).Seconds()
	if lim := peerBurst + peerRate*s; float64(pings) > lim || pings < 100 {
		t.Errorf("%d pings in %v s, want some and at most %v", pings, s, lim)
	}
	if lim := pongBurst + pongRate*s; float64(pongs) > lim || pongs < 100 {
		t.Errorf("%d pongs in %v s, want some and at most %v", pongs, s, lim)
	}
	if lim := announceBurst + announceRate*s; float64(told) > lim || told < 10 {
		t.Errorf("%d Endpoints in %v s, want some and at most %v", told, s, lim)
	}
}

// First pings go before repetitions, those of a path in use before both.
func TestUrgentPingsOvertake(t *testing.T) {
	var l line
	l.budget = fullBucket(pingBurst, time.Unix(1, 0))
	c := make([]*candidate, 6)
	for i := range c {
		c[i] = &candidate{addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))}
	}
	l.join(c[0], repeat)
	l.join(c[1], repeat)
	l.join(c[2], first)
	l.join(c[3], first)
	l.join(c[4], inUse)
	l.join(c[5], first)
	l.join(c[0], repeat) // waits already
	l.join(c[1], inUse)  // overtakes
	l.join(c[3], repeat) // keeps its place
	l.leave(c[5])
	var got []uint16
	for x := l.next(time.Unix(1, 0)); x != nil; x = l.next(time.Unix(1, 0)) {
		got = append(got, x.addr.Port())
	}
	if want := "[4 1 2 3 0]"; fmt.Sprint(got) != want {
		t.Errorf("order %v, want %v", got, want)
	}
	if !l.ready().IsZero() {
		t.Error("an empty line has a time")
	}
}

// A bucket gives its burst, then its rate, and is right about when.
func TestBucket(t *testing.T) {
	now := time.Unix(1, 0)
	b := fullBucket(5, now)
	var given int
	for b.take(now, 7, 5) {
		given++
	}
	for now.Before(time.Unix(11, 0)) {
		at := b.ready(7)
		if b.take(at.Add(-2*time.Microsecond), 7, 5) {
			t.Fatalf("a token %v before it is ready", time.Microsecond)
		}
		if !b.take(at, 7, 5) {
			t.Fatal("no token when it is ready")
		}
		now = at
		given++
	}
	if given < 74 || given > 76 {
		t.Errorf("%d tokens in 10 s, want 5 and 7 a second", given)
	}
}
