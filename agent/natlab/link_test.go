package natlab

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// flow sends count packets from x to y, every gap one, and returns the numbers
// of those that arrive, in order, and after what time each did.
func flow(t *testing.T, x, y Link, count int, gap time.Duration, size int) (n *Net, order []int, after []time.Duration) {
	t.Helper()
	n, cx, cy := two(t, x, y)
	sent := make([]time.Time, count)
	go func() {
		for i := range count {
			sent[i] = time.Now()
			payload := make([]byte, size)
			copy(payload, fmt.Sprintf("%06d", i))
			cx.WriteToUDPAddrPort(payload, netip.AddrPortFrom(addrY, 1000))
			time.Sleep(gap)
		}
	}()
	b := make([]byte, 2000)
	for {
		cy.SetReadDeadline(time.Now().Add(time.Minute))
		if _, _, err := cy.ReadFromUDPAddrPort(b); err != nil {
			return n, order, after
		}
		var i int
		fmt.Sscanf(string(b[:6]), "%d", &i)
		order = append(order, i)
		after = append(after, time.Since(sent[i]))
	}
}

// A binomial count lies within five standard deviations of its mean in all but
// one of two million runs, and the seed is fixed besides.
func near(t *testing.T, what string, got, of int, share float64) {
	t.Helper()
	mean, deviation := float64(of)*share, math.Sqrt(float64(of)*share*(1-share))
	if math.Abs(float64(got)-mean) > 5*deviation {
		t.Errorf("%s: got %d of %d, want %.0f ± %.0f", what, got, of, mean, 5*deviation)
	}
}

func TestLoss(t *testing.T) {
	for _, c := range []struct{ out, in, want float64 }{
		{0, 0, 0}, {1, 0, 1}, {0, 1, 1},
		{0.1, 0, 0.1}, {0, 0.1, 0.1}, {0.3, 0.5, 0.65}, // 1 - 0.7×0.5
	} {
		synctest.Test(t, func(t *testing.T) {
			const count = 5000
			n, order, _ := flow(t, Link{Loss: c.out}, Link{Loss: c.in}, count, time.Millisecond, 10)
			near(t, fmt.Sprintf("loss %v and %v", c.out, c.in), count-len(order), count, c.want)
			if got, want := n.Dropped(Lost), count-len(order); got != want {
				t.Errorf("loss %v and %v: counted %d, want %d", c.out, c.in, got, want)
			}
		})
	}
}

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 2000
		_, order, after := flow(t, Link{Delay: 10 * time.Millisecond, Jitter: 40 * time.Millisecond}, Link{}, count, 100*time.Millisecond, 10)
		if len(order) != count {
			t.Fatalf("got %d packets, want %d", len(order), count)
		}
		late := 0
		for i, a := range after {
			a -= leastDelay // of the other link
			if a < 10*time.Millisecond || a > 50*time.Millisecond {
				t.Fatalf("packet %d took %s, want 10 to 50 ms", i, a)
			}
			if a > 30*time.Millisecond {
				late++
			}
		}
		near(t, "later than the middle", late, count, 0.5)
	})
	// Sent faster than they jitter, they keep their order.
	synctest.Test(t, func(t *testing.T) {
		_, order, _ := flow(t, Link{Jitter: 40 * time.Millisecond}, Link{Jitter: 40 * time.Millisecond}, 1000, time.Millisecond, 10)
		for i, got := range order {
			if got != i {
				t.Fatalf("at %d: got packet %d, want them in order", i, got)
			}
		}
	})
}

func TestReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 5000
		_, order, after := flow(t, Link{Delay: 10 * time.Millisecond, Reorder: 0.05}, Link{}, count, time.Millisecond, 10)
		if len(order) != count {
			t.Fatalf("got %d packets, want %d", len(order), count)
		}
		held := 0
		for _, a := range after {
			switch a - leastDelay {
			case 10 * time.Millisecond:
			case 20 * time.Millisecond:
				held++
			default:
				t.Fatalf("a packet took %s, want 10 or 20 ms", a)
			}
		}
		near(t, "held back", held, count, 0.05)
		overtaken := 0
		for i := 1; i < count; i++ {
			if order[i] < order[i-1] {
				overtaken++
			}
		}
		if overtaken == 0 {
			t.Error("no packet was overtaken")
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 972 bytes of payload make 1000 of IP: 8 ms each at 1 Mbit/s. Of a burst,
		// ten thousand bytes are kept.
		const count = 50
		n, order, after := flow(t, Link{Rate: 1_000_000, Queue: 10_000}, Link{}, count, 0, 972)
		if want := 10; len(order) != want {
			t.Fatalf("got %d packets, want %d", len(order), want)
		}
		for i, a := range after {
			if want := time.Duration(i+1)*8*time.Millisecond + 2*leastDelay; a != want {
				t.Errorf("packet %d took %s, want %s", i, a, want)
			}
		}
		if got, want := n.Dropped(QueueFull), count-len(order); got != want {
			t.Errorf("counted %d drops, want %d", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// Slower than the rate, nothing waits.
		_, order, after := flow(t, Link{Rate: 1_000_000, Queue: 1}, Link{}, 50, 8*time.Millisecond, 972)
		if len(order) != 50 || after[49] != 8*time.Millisecond+2*leastDelay {
			t.Errorf("got %d packets, the last after %s; want 50 after 8 ms each", len(order), after[len(after)-1])
		}
	})
}

// What is over the MTU of a link further on is lost without a word.
func TestMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{}, Link{MTU: 1400})
		send(t, x, string(make([]byte, 1400-28)), netip.AddrPortFrom(addrY, 1000))
		if got, _ := next(t, y); len(got) != 1400-28 {
			t.Errorf("at the MTU: got %d bytes, want %d", len(got), 1400-28)
		}
		send(t, x, string(make([]byte, 1400-27)), netip.AddrPortFrom(addrY, 1000))
		if got, _ := next(t, y); got != "" {
			t.Errorf("over the MTU: got %d bytes, want nothing", len(got))
		}
		if got := n.Drops()[Drop{"y", TooBig}]; got != 1 {
			t.Errorf("got %d drops at y, want 1", got)
		}
		y.host.interfaces[0].SetLink(Link{})
		send(t, x, string(make([]byte, 1400)), netip.AddrPortFrom(addrY, 1000))
		if got, _ := next(t, y); len(got) != 1400 {
			t.Errorf("by another link: got %d bytes, want 1400", len(got))
		}
	})
}
