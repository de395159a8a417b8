package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// A path that loses what is as long as a full packet of data, and tells nobody, is
// not used; whoever asks is told why. It is used when it has become wide enough.
func TestNarrowPathIsNotUsed(t *testing.T) {
	for seed := range uint64(3) {
		w, a, b := pair(t, seed)
		w.width = DefaultDataSize - 1
		_, toB := a.stream(b, 10*time.Millisecond)
		_, toA := b.stream(a, 10*time.Millisecond)
		if w.run(time.Minute, func() bool { return a.choice[b.id].Direct.IsValid() || b.choice[a.id].Direct.IsValid() }) {
			t.Fatalf("seed %d: direct after %v by a path that data does not pass", seed, w.since())
		}
		if d := max(outage(b, toB, w.begin), outage(a, toA, w.begin)); d != 0 {
			t.Errorf("seed %d: nothing arrived for %v, want no loss", seed, d)
		}
		want := "packets of 1340 bytes are lost on the way to 203.0.113.2:" + portOf(b) + ", shorter ones pass"
		if why := a.verdict(b).Why; why != want {
			t.Errorf("seed %d: why %q, want %q", seed, why, want)
		}
		pinged := a.sent
		w.run(10*time.Minute, nil)
		if n := a.sent - pinged; n > 200 {
			t.Errorf("seed %d: %d pings in ten minutes, want one in 10 s and a few", seed, n)
		}
		w.width = DefaultDataSize
		if !w.run(12*time.Second, bothDirect(a, b)) {
			t.Errorf("seed %d: not direct 12 s after the path became wide: %q", seed, a.verdict(b).Why)
		}
	}
}

// One direction is enough for a path to be useless, and the other side says so.
func TestPathNarrowOneWay(t *testing.T) {
	w, a, b := pair(t, 1)
	w.width, w.wide = DefaultDataSize-1, b
	a.stream(b, 10*time.Millisecond)
	b.stream(a, 10*time.Millisecond)
	if w.run(time.Minute, func() bool { return a.choice[b.id].Direct.IsValid() || b.choice[a.id].Direct.IsValid() }) {
		t.Fatalf("direct after %v by a path that data passes one way only", w.since())
	}
	to := "203.0.113.2:" + portOf(b)
	if why, want := a.verdict(b).Why, "packets of 1340 bytes are lost on the way to "+to+", shorter ones pass"; why != want {
		t.Errorf("a: why %q, want %q", why, want)
	}
	if why, want := b.verdict(a).Why, ": answers, but the peer's own pings have no answer"; !strings.HasSuffix(why, want) {
		t.Errorf("b: why %q, want it to end in %q", why, want)
	}
}

// A path in use that becomes narrow is noticed by its pings, though short packets
// still pass both ways: those that acknowledge, and those that open connections.
func TestPathBecomesNarrow(t *testing.T) {
	for seed := range uint64(10) {
		w, a, b := pair(t, seed)
		b.small = true
		toB, _ := talk(t, w, a, b)
		w.run(time.Duration(w.rand.IntN(4000))*time.Millisecond, nil)
		begin := w.now
		w.width = DefaultDataSize - 1
		w.run(20*time.Second, nil)
		// A heartbeat is lost, and another.
		if d, most := outage(b, toB, begin), heartbeat+heartbeat/10+2*minWait+100*time.Millisecond; d == 0 || d > most {
			t.Errorf("seed %d: nothing arrived for %v, want some time and at most %v", seed, d, most)
		}
		if v := a.verdict(b); v.State != Relayed {
			t.Errorf("seed %d: %v after 20 s, want by relay", seed, v.State)
		}
	}
}

// How long pings are follows from the length of data, and the words from both.
func TestPingsAreAsLongAsData(t *testing.T) {
	id, at4, at6 := key.NodeID{1}, netip.MustParseAddrPort("203.0.113.9:4242"), netip.MustParseAddrPort("[2001:db8::9]:4242")
	for _, test := range []struct {
		data, long int
		at         netip.AddrPort
		packet     int
	}{
		{0, 1312, at4, 1340},
		{0, 1312, at6, 1360},
		{1452, 1452, at4, 1480},
		{9000, 9000, at6, 9048},
		{1, shortSize, at4, shortSize + 28},
		{1 << 20, disco.MaxPacket, at4, disco.MaxPacket + 28},
	} {
		e := New(Config{DataSize: test.data})
		now := time.Unix(1_700_000_000, 0)
		e.SetPeers(now, []Peer{{ID: id, Static: []netip.AddrPort{test.at}}})
		e.Wake(now, id)
		longest := 0
		for range 600 { // a minute, in which short pings are answered
			for _, a := range e.Take() {
				s, ok := a.(Send)
				p, ping := s.Msg.(*disco.Ping)
				if !ok || !ping {
					continue
				}
				if longest = max(longest, messageSize(p)); p.Padding == 0 && test.long > shortSize {
					e.Receive(now, id, s.To, &disco.Pong{Tx: p.Tx})
				}
			}
			now = now.Add(100 * time.Millisecond)
			e.Advance(now)
		}
		if longest != test.long {
			t.Errorf("data of %d: pings of %d bytes at most, want %d", test.data, longest, test.long)
		}
		want := fmt.Sprintf("packets of %d bytes are lost on the way to %v, shorter ones pass", test.packet, test.at)
		if why := e.Verdict(id).Why; test.long > shortSize && why != want {
			t.Errorf("data of %d: why %q, want %q", test.data, why, want)
		}
	}
}
