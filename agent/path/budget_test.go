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
	if lim := blindBurst + blindRate*s; float64(pings) > lim || pings < 100 {
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
	p := new(peer)
	for i := range c {
		c[i] = &candidate{peer: p, addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))}
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

// Peers take turns: one with much to ping does not keep another waiting. Nor do
// first pings without end keep repetitions waiting.
func TestPeersTakeTurns(t *testing.T) {
	now := time.Unix(1, 0)
	l := line{budget: fullBucket(pingBurst, now)}
	greedy, modest := new(peer), new(peer)
	wait := func(p *peer, port uint16, u urgency) {
		l.join(&candidate{peer: p, addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}, u)
	}
	for i := range uint16(6) {
		wait(greedy, 100+i, first)
		wait(greedy, 200+i, repeat)
	}
	wait(modest, 1, first)
	wait(modest, 2, first)
	wait(modest, 3, repeat)
	var got []uint16
	for x := l.next(now); x != nil; x = l.next(now) {
		got = append(got, x.addr.Port())
		if len(got) == 4 {
			wait(greedy, 0, inUse)
		}
	}
	if want := "[100 1 101 200 0 2 102 103 3 104 105 201 202 203 204 205]"; fmt.Sprint(got) != want {
		t.Errorf("order %v, want %v", got, want)
	}
	if at := l.ready(); !at.IsZero() {
		t.Errorf("an empty line has the time %v", at)
	}
}

// Peers that lie together, and have pings sent without end, do not keep an honest
// one waiting.
func TestLiarsDoNotStarveAnother(t *testing.T) {
	w, a, b := pair(t, 1)
	const liars = 40
	for i := range liars {
		a.absent = append(a.absent, numbered(i))
	}
	a.peers()
	lie := func(round int) {
		for i, id := range a.absent {
			m := &disco.Endpoints{}
			for j := range disco.MaxEndpoints {
				m.List = append(m.List, disco.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i), byte(j)}), uint16(1+round)), Kind: disco.Reflexive})
			}
			a.engine.Wake(w.now, id)
			a.engine.Receive(w.now, id, netip.AddrPort{}, m)
			a.drain()
		}
	}
	var rounds func()
	n := 0
	rounds = func() {
		lie(n)
		n++
		w.after(100*time.Millisecond, rounds)
	}
	rounds()
	w.run(10*time.Second, nil)
	a.stream(b, 10*time.Millisecond)
	b.stream(a, 10*time.Millisecond)
	if !w.run(time.Second, bothDirect(a, b)) {
		t.Fatalf("not direct after 1 s: %q", a.verdict(b).Why)
	}
	w.run(time.Second, nil)
	w.blocked = true
	if !w.run(5*time.Second, func() bool { return a.verdict(b).State == Relayed && b.verdict(a).State == Relayed }) {
		t.Fatalf("%v and %v 5 s after the block, want relay", a.verdict(b).State, b.verdict(a).State)
	}
	w.run(10*time.Second, nil)
	w.blocked = false
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Errorf("not direct 5 s after the block: %q", a.verdict(b).Why)
	}
}

// An address that never answers is not pinged more than its schedule's, whatever
// a peer says.
func TestOneAddressHasABudget(t *testing.T) {
	liar, victim := key.NodeID{1}, netip.MustParseAddrPort("198.51.100.1:53")
	e := New(Config{})
	now := time.Unix(1_700_000_000, 0)
	e.SetPeers(now, []Peer{{ID: liar}})
	pinged, size := 0, 0
	for i := range 200 * 10 {
		other := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 101, 1}), uint16(1+i))
		e.Receive(now, liar, netip.AddrPort{}, &disco.Endpoints{List: []disco.Endpoint{{Addr: victim, Kind: disco.Reflexive}, {Addr: other, Kind: disco.Reflexive}}})
		e.Here(now, liar)
		now = now.Add(10 * time.Millisecond)
		e.Advance(now)
		for _, a := range e.Take() {
			if s, ok := a.(Send); ok && s.To == victim {
				pinged++
				size = max(size, shortSize+s.Msg.(*disco.Ping).Padding)
			}
		}
	}
	if pinged < 5 || pinged > 8+20 {
		t.Errorf("%d pings in 20 s, want some and at most 28", pinged)
	}
	if size != shortSize {
		t.Errorf("pings of %d bytes to an address that never answered, want %d", size, shortSize)
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
