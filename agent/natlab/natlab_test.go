package natlab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// One seed gives one world, to the microsecond: two sites that probe each other
// at once through lossy, jittery links and NATs that choose ports at random.
func TestOneSeedOneWorld(t *testing.T) {
	run := func(seed uint64) (log string) {
		synctest.Test(t, func(t *testing.T) {
			w := Pair(seed, KindNamed("apd-ad"), KindNamed("ad-ei"))
			defer w.Close()
			poor := Link{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2, Reorder: 0.1}
			for _, s := range []Site{w.A, w.B} {
				s.Interface.SetLink(poor)
				s.Routers[0].Outer().SetLink(poor)
			}
			meet(t, w, rounds)
			log = w.Log()
		})
		return log
	}
	first := run(11)
	for range 5 {
		if again := run(11); again != first {
			t.Fatalf("one seed, two worlds:\n%s\n%s", first, again)
		}
	}
	if other := run(12); other == first {
		t.Error("seeds 11 and 12 made the same world")
	}
	if !strings.Contains(first, string(Lost)) {
		t.Errorf("nothing was lost:\n%s", first)
	}
}

// The world goes on in virtual time only: an hour of it is no time at all, and
// Close leaves nothing behind, or the bubble would not end.
func TestCloseLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{Delay: time.Hour}, Link{})
		send(t, x, "slow", netip.AddrPortFrom(addrY, 1000))
		send(t, y, "fast", netip.AddrPortFrom(addrX, 1000))
		n.Close()
		n.Close()
		time.Sleep(24 * time.Hour)
		if got := n.Drops(); len(got) != 0 {
			t.Errorf("after Close: got drops %v, want none", got)
		}
	})
}

func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, KindNamed("home"), KindNamed("open")))
		w.Describe(func(payload []byte) string {
			if string(payload) == "?" {
				return "question"
			}
			return ""
		})
		s := reflector(t, w.Servers[0])
		seen := seenFrom(t, listen(t, w.A.Host, 41641), s)
		send(t, listen(t, w.B.Host, 9), "nobody asked", seen)
		time.Sleep(time.Second)
		if got := w.Log(); got != golden {
			t.Errorf("got\n%s\nwant\n%s", got, golden)
		}
	})
}

// The times add up by hand: 0.5 ms for each end of a LAN, 10 ms for each way
// between a site and the Internet, 5 ms for a server's.
const golden = `natlab: seed 5
  +0.001000  a        ──▶ a-router  192.168.1.2:41641 → 192.0.2.1:3478   question
  +0.016000  a-router ──▶ server1   203.0.113.16:41641 → 192.0.2.1:3478  question  new mapping of 192.168.1.2:41641
  +0.031000  server1  ──▶ a-router  192.0.2.1:3478 → 203.0.113.16:41641  18 B
  +0.032000  a-router ──▶ a         192.0.2.1:3478 → 192.168.1.2:41641   18 B
  +0.052000  b        ──▶ a-router  203.0.113.32:9 → 203.0.113.16:41641  12 B
  +0.052000  a-router ──✗           203.0.113.32:9 → 203.0.113.16:41641  12 B  filtered: nothing was sent to that remote by this mapping
dropped at a-router: 1 × filtered: nothing was sent to that remote by this mapping
`

// A log of any length ends with the end, and says what it left out.
func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, _ := two(t, Link{}, Link{})
		const sent = logged + 100
		for i := range sent {
			send(t, x, fmt.Sprint(i), netip.AddrPortFrom(addrY, uint16(1+i%1000))) // all but a few to no socket
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		drops := n.Dropped(NoSocket)
		if got, want := n.log.total, uint64(sent+drops); got != want {
			t.Fatalf("got %d entries, want %d", got, want)
		}
		lines := strings.Split(n.Log(), "\n")
		if got, want := lines[1], fmt.Sprintf("(%d earlier hops left out)", sent+drops-logged); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := len(lines), 2+logged+1+1; got != want { // the drops, and the end
			t.Errorf("got %d lines, want %d", got, want)
		}
	})
}

// Outside a bubble it runs in real time.
func TestRealTime(t *testing.T) {
	_, x, y := two(t, Link{Delay: time.Millisecond}, Link{Delay: time.Millisecond})
	start := time.Now()
	send(t, x, "hello", netip.AddrPortFrom(addrY, 1000))
	if got, _ := next(t, y); got != "hello" {
		t.Errorf("got %q, want hello", got)
	}
	if took := time.Since(start); took < 2*time.Millisecond {
		t.Errorf("it took %s, want at least 2ms", took)
	}
}
