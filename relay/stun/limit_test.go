package stun

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

func newLimiter(sourceRate, sourceBurst, all, burst int) *limiter {
	return &limiter{seed: maphash.MakeSeed(), source: newQuota(sourceRate, sourceBurst), all: newQuota(all, burst)}
}

// TestLimitsLikeTokenBuckets compares one source with the token bucket of
// golang.org/x/time/rate, at random moments.
func TestLimitsLikeTokenBuckets(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		r, burst := 1+rng.IntN(50), 1+rng.IntN(100)
		l := newLimiter(r, burst, 1e6, 1e6)
		want := rate.NewLimiter(rate.Limit(r), burst)
		ip, start, now := netip.MustParseAddr("192.0.2.1"), time.Now(), time.Duration(0)
		for i := range 2000 {
			now += time.Duration(rng.Int64N(int64(2 * time.Second / time.Duration(r))))
			if i%500 == 0 {
				now += time.Minute
			}
			tokens := want.TokensAt(start.Add(now))
			if d := tokens - float64(int(tokens+0.5)); d > -1e-6 && d < 1e-6 {
				now += time.Microsecond // at the instant of a token, rounding decides
			}
			_, got := l.allow(ip, now)
			if w := want.AllowN(start.Add(now), 1); got != w {
				t.Fatalf("seed %d: rate %d, burst %d, request %d after %v: %v, want %v (%v tokens)", seed, r, burst, i, now, got, w, tokens)
			}
		}
	}
}

func TestSourcesAreApart(t *testing.T) {
	l := newLimiter(20, 3, 1000, 1000)
	ask := func(ip string, n int) (answered int) {
		for range n {
			if why, ok := l.allow(netip.MustParseAddr(ip), time.Second); ok {
				answered++
			} else if why != SourceRate {
				t.Fatalf("%s: %v, want %v", ip, why, SourceRate)
			}
		}
		return answered
	}
	for _, c := range []struct {
		ip   string
		want int
	}{
		{"192.0.2.1", 3}, {"::ffff:192.0.2.1", 0}, {"192.0.2.2", 3},
		{"2001:db8::1", 3}, {"2001:db8::2", 0}, {"2001:db8:0:1::2", 3},
		{"fe80::1%eth0", 3}, {"fe80::1%eth1", 0},
	} {
		if got := ask(c.ip, 10); got != c.want {
			t.Errorf("%s: %d of 10 answered, want %d", c.ip, got, c.want)
		}
	}
}

// TestLoudSourceLeavesTheRest: what one source asks too much does not count
// among what all may ask.
func TestLoudSourceLeavesTheRest(t *testing.T) {
	l := newLimiter(20, 5, 100, 20)
	loud, quiet := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	for range 1000 {
		l.allow(loud, 0)
	}
	if why, ok := l.allow(quiet, 0); !ok {
		t.Errorf("a quiet source: %v", why)
	}
	got := map[Drop]int{}
	ip := netip.MustParseAddr("10.0.0.0")
	for range 100 {
		ip = ip.Next()
		if why, ok := l.allow(ip, 0); !ok {
			got[why]++
		}
	}
	// 20 at once, of which six are gone. Two of the hundred may share a number.
	if got[Rate] < 85 || got[Rate] > 86 {
		t.Errorf("a hundred sources at once: %v, want 86 too many in all", got)
	}
}

// TestForgedSourcesLeaveRoom: 20,000 requests a second from addresses made up
// leave a node its own.
func TestForgedSourcesLeaveRoom(t *testing.T) {
	l := newLimiter(defaultSourceRate, defaultSourceBurst, 1e6, 1e6)
	rng := rand.New(rand.NewPCG(1, 2))
	node, refused := netip.MustParseAddr("192.0.2.1"), 0
	for i := range 10 * 20_000 {
		now := time.Duration(i) * time.Second / 20_000
		l.allow(netip.AddrFrom4([4]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), now)
		if i%2000 == 0 { // ten a second
			if _, ok := l.allow(node, now); !ok {
				refused++
			}
		}
	}
	if refused > 0 {
		t.Errorf("%d of 100 requests of a node refused, want 0", refused)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := newLimiter(defaultSourceRate, defaultSourceBurst, 1e6, 1e6)
	ip := netip.MustParseAddr("192.0.2.1")
	for i := 0; b.Loop(); i++ {
		l.allow(ip, time.Duration(i)*time.Millisecond)
	}
}
