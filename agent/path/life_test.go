package path

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// home is the usual home router.
var home = kind{name: "EI/APD", translates: true, mapping: independent, filtering: portDependent}

// pair is a world with two hosts behind home routers.
func pair(t testing.TB, seed uint64) (w *world, a, b *host) {
	w = newWorld(t, seed)
	a = w.host("a", w.newNAT(home, "203.0.113.1"), "192.168.1.2:4242")
	b = w.host("b", w.newNAT(home, "203.0.113.2"), "192.168.2.2:4242")
	a.peers()
	return w, a, b
}

// talk has both hosts send 100 packets a second until they go directly.
func talk(t testing.TB, w *world, a, b *host) (toB, toA map[uint64]time.Time) {
	t.Helper()
	_, toB = a.stream(b, 10*time.Millisecond)
	_, toA = b.stream(a, 10*time.Millisecond)
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Fatalf("no direct path after 5 s; a: %q, b: %q", a.verdict(b).Why, b.verdict(a).Why)
	}
	w.run(10*time.Second, nil)
	return toB, toA
}

// outage is the longest time in which what was sent after begin did not arrive,
// judged by when it was sent.
func outage(to *host, sent map[uint64]time.Time, begin time.Time) time.Duration {
	var lost []time.Time
	var arrived []time.Time
	for n, at := range sent {
		if at.Before(begin) || to.w.now.Sub(at) < time.Second {
			continue
		}
		if _, ok := to.got[n]; ok {
			arrived = append(arrived, at)
		} else {
			lost = append(lost, at)
		}
	}
	slices.SortFunc(arrived, time.Time.Compare)
	var longest time.Duration
	last := begin
	for _, at := range append(arrived, to.w.now.Add(-time.Second)) {
		if len(lost) > 0 {
			longest = max(longest, at.Sub(last))
		}
		last = at
	}
	if len(lost) == 0 {
		return 0
	}
	return longest
}

func TestBlockedPathFallsBackAndReturns(t *testing.T) {
	for seed := range uint64(20) {
		w, a, b := pair(t, seed)
		w.delay = time.Duration(1+w.rand.IntN(60)) * time.Millisecond
		toB, toA := talk(t, w, a, b)
		w.run(time.Duration(w.rand.IntN(4000))*time.Millisecond, nil) // any phase of heartbeats and polls

		begin := w.now
		w.blocked = true
		relayed := func() bool { return a.choice[b.id].Relay && b.choice[a.id].Relay }
		if !w.run(575*time.Millisecond+w.delay, relayed) {
			t.Errorf("seed %d, delay %v: not by relay 575 ms and a delay after the block: a %v, b %v", seed, w.delay, a.choice[b.id], b.choice[a.id])
		}
		w.run(5*time.Second, nil)
		if a.verdict(b).State != Relayed || b.verdict(a).State != Relayed {
			t.Errorf("seed %d: 5 s after the block a is %v, b is %v; want relay", seed, a.verdict(b).State, b.verdict(a).State)
		}
		w.run(time.Duration(w.rand.IntN(60_000))*time.Millisecond, nil)
		if d := max(outage(b, toB, begin), outage(a, toA, begin)); d == 0 || d > 600*time.Millisecond+w.delay {
			t.Errorf("seed %d, delay %v: nothing arrived for %v after the block, want some loss and at most 600 ms and a delay", seed, w.delay, d)
		}

		begin = w.now
		w.blocked = false
		if !w.run(5*time.Second, bothDirect(a, b)) {
			t.Errorf("seed %d: no direct path 5 s after the block ended; a: %q, b: %q", seed, a.verdict(b).Why, b.verdict(a).Why)
		}
		w.run(2*time.Second, nil)
		if d := max(outage(b, toB, begin), outage(a, toA, begin)); d != 0 {
			t.Errorf("seed %d: nothing arrived for %v when the path came back, want no loss", seed, d)
		}
	}
}

// Who only answers has nothing to miss while the path is blocked: it notices when
// questions come by relay.
// A path may be blocked the moment it is taken.
func TestPathBlockedSoon(t *testing.T) {
	for seed := range uint64(40) {
		w, a, b := pair(t, seed)
		w.delay = time.Duration(1+w.rand.IntN(60)) * time.Millisecond
		a.stream(b, 10*time.Millisecond)
		b.stream(a, 10*time.Millisecond)
		if !w.run(5*time.Second, bothDirect(a, b)) {
			t.Fatalf("seed %d: no direct path after 5 s", seed)
		}
		w.run(time.Duration(w.rand.IntN(2500))*time.Millisecond, nil)
		w.blocked = true
		relayed := func() bool { return a.choice[b.id].Relay && b.choice[a.id].Relay }
		// The pong of a path that is new is waited for longer: its round trip has
		// been measured a few times only.
		if most := 600*time.Millisecond + 4*w.delay; !w.run(most, relayed) {
			t.Errorf("seed %d, delay %v: not by relay %v after the block: a %v, b %v", seed, w.delay, most, a.choice[b.id], b.choice[a.id])
		}
	}
}

func TestBlockedPathUnderQuestionsAndAnswers(t *testing.T) {
	for seed := range uint64(20) {
		w, a, b := pair(t, seed)
		b.echo = true
		_, questions := a.stream(b, 10*time.Millisecond)
		if !w.run(5*time.Second, bothDirect(a, b)) {
			t.Fatalf("seed %d: no direct path after 5 s", seed)
		}
		w.run(10*time.Second+time.Duration(w.rand.IntN(4000))*time.Millisecond, nil)
		before := len(b.verdict(a).Transitions)
		begin := w.now
		w.blocked = true
		w.run(5*time.Second, nil)
		answers := make(map[uint64]time.Time)
		for n, at := range questions {
			answers[n-1] = at
		}
		// 600 ms until the questions go by relay, a look at the traffic until the
		// answers do.
		if d, most := outage(a, answers, begin), 600*time.Millisecond+pollFlowing+2*w.relayDelay; d == 0 || d > most {
			t.Errorf("seed %d: no answer for %v after the block, want some time and at most %v; b: %v", seed, d, most, b.verdict(a).Transitions[before:])
		}
	}
}

// A path that carries data is doubted because of data by relay once, and again
// only when data came directly in between: that pings pass and data does not is
// for the suspicion to find.
func TestDataByRelayIsDoubtedOnce(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	w.dataBlocked = true
	w.run(2*suspectAfter, nil)
	var doubts int
	for _, tr := range a.verdict(b).Transitions {
		if tr.To == Doubted {
			doubts++
		}
	}
	if doubts > 1 {
		t.Errorf("doubted %d times while pings pass, want once at most: %v", doubts, a.verdict(b).Transitions)
	}
}

func TestPathBlockedOneWay(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := pair(t, seed)
		toB, _ := talk(t, w, a, b)
		w.run(time.Duration(w.rand.IntN(4000))*time.Millisecond, nil)
		begin := w.now
		w.block = func(from, to *host) bool { return from == a }
		w.run(10*time.Second, nil)
		// The peer misses the data, pings, and says that it has no proof any more.
		if d := outage(b, toB, begin); d > 700*time.Millisecond {
			t.Errorf("seed %d: nothing arrived for %v, want at most 700 ms", seed, d)
		}
	}
}

func TestOneWayStream(t *testing.T) {
	w, a, b := pair(t, 1)
	_, sent := a.stream(b, 10*time.Millisecond)
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Fatal("no direct path after 5 s")
	}
	var dual time.Duration
	for range 600 {
		w.run(time.Second, nil)
		if a.verdict(b).State != Direct {
			dual += time.Second
		}
	}
	// Suspected once, for want of answers, until WireGuard's keepalive comes.
	if dual == 0 || dual > 16*time.Second {
		t.Errorf("of 600 s, %v were not direct alone; want one suspicion of at most 16 s", dual)
	}
	begin := w.now
	w.blocked = true
	w.run(5*time.Second, nil)
	if d := outage(b, sent, begin); d > time.Second {
		t.Errorf("nothing arrived for %v after the block, want at most 1 s", d)
	}
}

// A stream that nothing answers, not even keepalives, is suspected ever more
// rarely.
func TestUnansweredStream(t *testing.T) {
	w, a, b := pair(t, 1)
	b.keepalive = true // for ever about to come
	a.stream(b, 10*time.Millisecond)
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Fatal("no direct path after 5 s")
	}
	var dual int
	for range 1800 {
		w.run(time.Second, nil)
		if a.verdict(b).State != Direct {
			dual++
		}
	}
	if dual == 0 || dual > 120 {
		t.Errorf("of half an hour, %d s were not direct alone; want a few suspicions of 15 s, at most 120 s", dual)
	}
}

func TestPingsPassAndDataDoesNot(t *testing.T) {
	w, a, b := pair(t, 1)
	toB, toA := talk(t, w, a, b)
	begin := w.now
	w.dataBlocked = true
	if !w.run(10*time.Second, func() bool { return a.verdict(b).State == Relayed && b.verdict(a).State == Relayed }) {
		t.Fatalf("10 s after data was blocked a is %v, b is %v; want relay", a.verdict(b).State, b.verdict(a).State)
	}
	if d := max(outage(b, toB, begin), outage(a, toA, begin)); d > 4*time.Second {
		t.Errorf("nothing arrived for %v, want at most 4 s", d)
	}
	if why := a.verdict(b).Why; why != "pings pass to 203.0.113.2:"+portOf(b)+", WireGuard does not: by relay for 1m0s more" {
		t.Errorf("why: %q", why)
	}
	// Barred for a minute, tried again, barred for two.
	var tried []time.Duration
	last := a.verdict(b).State
	bars := w.now
	for range 300 * 4 {
		w.run(250*time.Millisecond, nil)
		s := a.verdict(b).State
		if last == Relayed && s == Direct {
			tried = append(tried, w.now.Sub(bars).Round(time.Second))
		}
		last = s
	}
	if len(tried) != 2 || tried[0] < time.Minute || tried[1]-tried[0] < 2*time.Minute {
		t.Errorf("tried again after %v, want after a minute and after two more", tried)
	}
	w.dataBlocked = false
	if !w.run(11*time.Minute, bothDirect(a, b)) {
		t.Error("never direct again")
	}
	w.run(time.Minute, nil)
	if !bothDirect(a, b)() {
		t.Errorf("a is %v, b is %v a minute later, want direct", a.verdict(b).State, b.verdict(a).State)
	}
}

func portOf(h *host) string {
	for f, outer := range h.nat.maps {
		if f.inner == h.addr {
			return outer.String()[len("203.0.113.2:"):]
		}
	}
	return ""
}

func TestDataBlockedUnderAOneWayStream(t *testing.T) {
	w, a, b := pair(t, 1)
	_, sent := a.stream(b, 10*time.Millisecond)
	w.run(60*time.Second, nil)
	if !bothDirect(a, b)() {
		t.Fatalf("a is %v, b is %v, want direct", a.verdict(b).State, b.verdict(a).State)
	}
	begin := w.now
	w.dataBlocked = true
	w.run(time.Minute, nil)
	// Only the missing keepalives show it.
	if d := outage(b, sent, begin); d > 26*time.Second {
		t.Errorf("nothing arrived for %v, want at most 26 s", d)
	}
}

func TestLossyPathIsSentByBoth(t *testing.T) {
	w, a, b := pair(t, 3)
	talk(t, w, a, b)
	w.loss = 0.35
	if !w.run(2*time.Minute, func() bool { return a.verdict(b).State == Lossy }) {
		t.Fatalf("a is %v two minutes after losses began, want lossy", a.verdict(b).State)
	}
	var both int
	for range 120 {
		w.run(time.Second, nil)
		if c := a.choice[b.id]; c.Relay {
			both++
		}
	}
	if both < 110 {
		t.Errorf("by relay as well in %d of 120 s, want nearly all", both)
	}
	w.loss = 0
	if !w.run(time.Minute, bothDirect(a, b)) {
		t.Errorf("a is %v, b is %v a minute after the losses ended", a.verdict(b).State, b.verdict(a).State)
	}
}

// A few lost packets do not matter.
func TestFewLossesStayDirect(t *testing.T) {
	var direct int
	for seed := range uint64(4) {
		w, a, b := pair(t, seed)
		talk(t, w, a, b)
		w.loss = 0.03
		for range 600 {
			w.run(time.Second, nil)
			if a.direct(b) {
				direct++
			}
		}
	}
	if direct < 2360 {
		t.Errorf("direct alone in %d of 2400 s at a loss of 3%%, want at least 2360", direct)
	}
}

func TestPeerRoams(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := pair(t, seed)
		toB, toA := talk(t, w, a, b)
		begin := w.now
		b.nat = w.newNAT(home, "203.0.113.77")
		w.run(100*time.Millisecond, nil)
		b.engine.Moved(w.now)
		b.drain()
		w.run(150*time.Millisecond, nil) // netcheck
		b.discover()
		if !w.run(2*time.Second, func() bool {
			return bothDirect(a, b)() && a.choice[b.id].Direct.Addr() == b.nat.outside
		}) {
			t.Errorf("seed %d: not direct to the new address after 2 s: a %+v", seed, a.verdict(b))
		}
		w.run(2*time.Second, nil)
		if d := max(outage(b, toB, begin), outage(a, toA, begin)); d > 700*time.Millisecond {
			t.Errorf("seed %d: nothing arrived for %v, want at most 700 ms", seed, d)
		}
	}
}

// The NAT forgot its mappings, and nobody tells the nodes.
func TestNATRestarts(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := pair(t, seed)
		toB, toA := talk(t, w, a, b)
		begin := w.now
		old := b.nat
		b.nat = w.newNAT(home, "203.0.113.2")
		if !w.run(3*time.Second, func() bool { return bothDirect(a, b)() && a.choice[b.id].Direct != old.maps[flow{inner: b.addr}] }) {
			t.Errorf("seed %d: not direct 3 s after the NAT restarted; a: %+v", seed, a.verdict(b))
		}
		w.run(2*time.Second, nil)
		if d := max(outage(b, toB, begin), outage(a, toA, begin)); d > 700*time.Millisecond {
			t.Errorf("seed %d: nothing arrived for %v, want at most 700 ms", seed, d)
		}
	}
}

// A peer that begins anew at another port is not sent to at the old one: nothing
// would say so, for half a second.
func TestPeerBeginsAnew(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := pair(t, seed)
		talk(t, w, a, b)
		old := a.verdict(b).Choice.Direct
		b.addr = addr(b.addr.Addr().String() + ":5353")
		b.boot()
		a.engine.Restarted(w.now, b.id)
		a.drain()
		if v := a.verdict(b); v.Choice != (Choice{Relay: true}) || v.State != Relayed {
			t.Fatalf("seed %d: got %v by %+v, want by relay alone", seed, v.State, v.Choice)
		}
		if !w.run(time.Second, bothDirect(a, b)) {
			t.Errorf("seed %d: not direct after 1 s: a %+v, b %+v", seed, a.verdict(b), b.verdict(a))
		}
		if v := a.verdict(b); v.Choice.Direct == old {
			t.Errorf("seed %d: direct to %v again, which is gone", seed, old)
		}
	}
}

func TestPeerRestarts(t *testing.T) {
	for _, test := range []struct {
		name  string
		both  bool
		ports bool // other ports
		here  bool // the relay tells
	}{
		{"same port", false, false, true},
		{"other port", false, true, true},
		{"same port, the relay does not tell", false, false, false},
		{"other port, the relay does not tell", false, true, false},
		{"both", true, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for seed := range uint64(10) {
				w, a, b := pair(t, seed)
				talk(t, w, a, b)
				for _, h := range []*host{b, a}[:1+btoi(test.both)] {
					if test.ports {
						h.addr = addr(h.addr.Addr().String() + ":5353")
					}
					h.boot()
				}
				if test.here {
					w.after(20*time.Millisecond, func() {
						a.engine.Here(w.now, b.id)
						a.drain()
						b.engine.Here(w.now, a.id)
						b.drain()
					})
				}
				if !w.run(2*time.Second, bothDirect(a, b)) {
					t.Errorf("seed %d: not direct after 2 s: a %+v, b %+v", seed, a.verdict(b), b.verdict(a))
				}
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Both start, one connects to the relay only later: what was sent to it before is
// lost.
func TestPeerComesLater(t *testing.T) {
	w, a, b := pair(t, 1)
	w.relayDown = true
	a.stream(b, 10*time.Millisecond)
	w.run(10*time.Second, nil)
	w.relayDown = false
	a.engine.Here(w.now, b.id)
	a.drain()
	if !w.run(200*time.Millisecond, bothDirect(a, b)) {
		t.Errorf("not direct 200 ms after the peer came: %+v", a.verdict(b))
	}
}

func TestSilenceEndsInSleep(t *testing.T) {
	for seed := range uint64(20) {
		w, a, b := pair(t, seed)
		if seed%2 == 1 {
			w.blocked = true // or every ping is in vain
		}
		w.loss = float64(seed%5) / 10
		stop, _ := a.stream(b, 100*time.Millisecond)
		w.run(20*time.Second, nil)
		stop()
		asleep := func() bool { return a.verdict(b).State == Asleep && b.verdict(a).State == Asleep }
		if !w.run(4*time.Minute, asleep) {
			t.Errorf("seed %d: 4 minutes after the traffic a is %v, b is %v; want asleep", seed, a.verdict(b).State, b.verdict(a).State)
		}
		pinged := a.sent + b.sent
		w.run(time.Hour, nil)
		if n := a.sent + b.sent; n != pinged || !asleep() {
			t.Errorf("seed %d: %d pings in an hour of sleep, want none", seed, n-pinged)
		}
		if _, ok := a.engine.Next(); ok {
			t.Errorf("seed %d: a sleeping engine has a timer", seed)
		}
		// What is remembered makes the next time quick.
		if seed == 0 {
			a.data(b, 1)
			if !w.run(200*time.Millisecond, bothDirect(a, b)) {
				t.Errorf("not direct 200 ms after sleep: %+v", a.verdict(b))
			}
		}
	}
}

func TestTrafficAfterARest(t *testing.T) {
	w, a, b := pair(t, 1)
	a.nat.timeout, b.nat.timeout = 30*time.Second, 30*time.Second
	stop, _ := a.stream(b, 100*time.Millisecond)
	stopBack, _ := b.stream(a, 100*time.Millisecond)
	w.run(10*time.Second, nil)
	stop()
	stopBack()
	if w.run(100*time.Second, nil); a.verdict(b).State != Resting {
		t.Fatalf("a is %v after 100 s of silence, want resting", a.verdict(b).State)
	}
	begin := w.now
	_, sent := a.stream(b, 10*time.Millisecond)
	if !w.run(3*time.Second, bothDirect(a, b)) {
		t.Errorf("not direct after 3 s: a %+v, b %+v", a.verdict(b), b.verdict(a))
	}
	w.run(2*time.Second, nil)
	if d := outage(b, sent, begin); d != 0 {
		t.Errorf("nothing arrived for %v after the rest, want no loss", d)
	}
}

func TestProbeSaysRelayAndDirect(t *testing.T) {
	w, a, b := pair(t, 1)
	a.engine.Probe(w.now, b.id)
	a.drain()
	w.run(time.Second, nil)
	if len(a.pongs) != 1 || a.pongs[0].From.IsValid() || a.pongs[0].RTT != 50*time.Millisecond {
		t.Fatalf("pongs %+v, want one by relay after 50 ms", a.pongs)
	}
	a.engine.Probe(w.now, b.id)
	a.drain()
	w.run(time.Second, nil)
	if len(a.pongs) != 3 || a.pongs[1].From != a.choice[b.id].Direct || a.pongs[1].RTT != 20*time.Millisecond {
		t.Errorf("pongs %+v, want another two, the first of them directly after 20 ms", a.pongs)
	}
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
