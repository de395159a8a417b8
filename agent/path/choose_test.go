package path

import (
	"testing"
	"time"
)

// campus is a world with two hosts that can meet on their LAN or around the
// corner of their common NAT.
func campus(t *testing.T, seed uint64, lan, corner time.Duration) (w *world, a, b *host) {
	w = newWorld(t, seed)
	n := w.newNAT(home, "203.0.113.1")
	n.hairpin = true
	w.lanDelay, w.delay = lan, corner
	a = w.host("a", n, "192.168.1.2:4242")
	b = w.host("b", n, "192.168.1.3:4242")
	a.peers()
	return w, a, b
}

func TestSameLANWins(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := campus(t, seed, 3*time.Millisecond, 2*time.Millisecond)
		talk(t, w, a, b)
		if a.choice[b.id].Direct != b.addr || b.choice[a.id].Direct != a.addr {
			t.Errorf("seed %d: a uses %v, b uses %v; want their LAN addresses", seed, a.choice[b.id], b.choice[a.id])
		}
	}
}

func TestMuchBetterPathReplacesAnother(t *testing.T) {
	w, a, b := campus(t, 1, time.Millisecond, 20*time.Millisecond)
	toB, toA := talk(t, w, a, b)
	if a.choice[b.id].Direct != b.addr {
		t.Fatalf("a uses %v, want %v", a.choice[b.id], b.addr)
	}
	begin := w.now
	w.lanDelay, w.delay = 80*time.Millisecond, 4*time.Millisecond
	cornered := func() bool {
		return a.choice[b.id].Direct.Addr() == a.nat.outside && b.choice[a.id].Direct.Addr() == a.nat.outside
	}
	if w.run(dwell/2, cornered) {
		t.Errorf("another path after %v, before there were three comparisons", w.now.Sub(begin))
	}
	if !w.run(2*time.Minute, cornered) {
		t.Errorf("still %v after two minutes: %+v", a.choice[b.id], a.verdict(b).Candidates)
	}
	w.run(2*time.Second, nil)
	if d := max(outage(b, toB, begin), outage(a, toA, begin)); d != 0 {
		t.Errorf("nothing arrived for %v, want no loss", d)
	}
}

// What differs little is left alone: by less than 5 ms, or by less than a tenth.
func TestSlightlyBetterPathDoesNot(t *testing.T) {
	for _, test := range []struct{ lan, corner time.Duration }{
		{8 * time.Millisecond, 5 * time.Millisecond},
		{100 * time.Millisecond, 94 * time.Millisecond},
	} {
		w, a, b := campus(t, 1, test.lan, 4*test.lan)
		talk(t, w, a, b)
		before := len(a.verdict(b).Transitions)
		w.delay = test.corner
		w.run(10*time.Minute, nil)
		if n := len(a.verdict(b).Transitions); n != before {
			t.Errorf("LAN %v, corner %v: %d changes, want none: %+v", test.lan, test.corner, n-before, a.verdict(b).Transitions)
		}
	}
}

// Three comparisons in a row are not enough for a path that is new.
func TestPathIsKeptForAWhile(t *testing.T) {
	w, a, b := campus(t, 1, 40*time.Millisecond, 50*time.Millisecond)
	a.stream(b, 10*time.Millisecond)
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Fatal("no direct path after 5 s")
	}
	w.run(2*choosing, nil)
	p := a.engine.peers[b.id]
	used := p.using
	other := p.candidates[0]
	if other == used {
		other = p.candidates[1]
	}
	if !other.proved() {
		t.Fatalf("%v is not proved", other.addr)
	}
	other.rtt = used.rtt / 4
	for range betterTimes + 1 {
		p.compare(other)
	}
	if p.using != used {
		t.Errorf("another path %v after the first", w.now.Sub(p.upgraded))
	}
	w.run(dwell, nil)
	other.rtt = used.rtt / 4
	p.compare(other)
	if p.using != other {
		t.Errorf("the same path %v after the first, want the better one", w.now.Sub(p.upgraded))
	}
}

// When the path in use dies, another that works takes over without the relay's
// being the only one.
func TestStandbyTakesOver(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := campus(t, seed, time.Millisecond, 10*time.Millisecond)
		toB, toA := talk(t, w, a, b)
		w.run(time.Duration(w.rand.IntN(4000))*time.Millisecond, nil)
		begin := w.now
		w.noLAN = true
		w.run(5*time.Second, nil)
		if a.choice[b.id].Direct.Addr() != a.nat.outside || b.choice[a.id].Direct.Addr() != a.nat.outside || !bothDirect(a, b)() {
			t.Errorf("seed %d: a uses %v, b uses %v; want the NAT's outside", seed, a.choice[b.id], b.choice[a.id])
		}
		if d := max(outage(b, toB, begin), outage(a, toA, begin)); d > 620*time.Millisecond {
			t.Errorf("seed %d: nothing arrived for %v, want at most 620 ms", seed, d)
		}
	}
}

// Both sides start at once, with traffic, before relay and STUN servers answer.
func TestBothStart(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed)
		late := func(n int) time.Duration { return time.Duration(w.rand.IntN(n)) * time.Millisecond }
		a := w.host("a", w.newNAT(home, "203.0.113.1"), "192.168.1.2:4242")
		b := w.host("b", w.newNAT(home, "203.0.113.2"), "192.168.2.2:4242")
		for _, h := range w.hosts {
			h.unknown = true
			h.boot()
		}
		w.relayDown = true
		_, toB := a.stream(b, 10*time.Millisecond)
		_, toA := b.stream(a, 10*time.Millisecond)
		for _, h := range w.hosts {
			w.after(late(300), func() { h.unknown = false; h.discover() })
		}
		w.after(late(300), func() {
			w.relayDown = false
			for i, h := range w.hosts {
				h.engine.RelayUp(w.now)
				h.engine.Here(w.now, w.hosts[1-i].id)
				h.drain()
			}
		})
		if !w.run(700*time.Millisecond, bothDirect(a, b)) {
			t.Errorf("seed %d: not direct 700 ms after the start; a %+v", seed, a.verdict(b))
		}
		w.run(2*time.Second, nil)
		if d := max(outage(b, toB, w.begin), outage(a, toA, w.begin)); d > 500*time.Millisecond {
			t.Errorf("seed %d: nothing arrived for %v, want at most 500 ms", seed, d)
		}
	}
}

// An endpoint from the policy needs no relay, and answers from there are enough
// for both.
func TestStaticEndpointNeedsNoRelay(t *testing.T) {
	w := newWorld(t, 1)
	a := w.host("a", w.newNAT(kind{name: "APD/APD", translates: true, mapping: portDependent, filtering: portDependent}, "203.0.113.1"), "192.168.1.2:4242")
	b := w.host("b", nil, "203.0.113.9:4242")
	w.relayDown = true
	a.static = append(a.static, b.addr)
	a.peers()
	a.stream(b, 10*time.Millisecond)
	if !w.run(time.Second, bothDirect(a, b)) {
		t.Errorf("not direct after 1 s: a %+v, b %+v", a.verdict(b), b.verdict(a))
	}
	if k := a.verdict(b).Candidates[0].Kind; k != "static" {
		t.Errorf("kind %q, want static", k)
	}
}
