package path

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

// kinds are the NATs of the matrix: every mapping with every filtering, and what
// is not a NAT.
var kinds = func() []kind {
	k := []kind{
		{name: "open"},
		{name: "firewall", filtering: portDependent},
		{name: "no UDP", noUDP: true},
	}
	short := [...]string{"EI", "AD", "APD"}
	for m := range short {
		for f := range short {
			k = append(k, kind{name: short[m] + "/" + short[f], translates: true, mapping: behaviour(m), filtering: behaviour(f)})
		}
	}
	return k
}()

// reaches says whether a packet of x gets through y's NAT when it is sent to the
// endpoint that a server sees of y, while y sends to where it knows x to be.
func reaches(x, y kind) bool {
	if y.mapping == independent {
		return y.filtering == independent || y.filtering == addressDependent || x.mapping == independent
	}
	return y.filtering == independent
}

// works says whether pings of x to y's endpoint lead to a path.
func works(x, y kind) bool {
	return reaches(x, y) &&
		(y.mapping == independent || x.filtering != portDependent && !(x.mapping == portDependent && y.mapping == portDependent))
}

// meets is the rule that decides the matrix; it knows nothing of the engine.
func meets(x, y kind) bool {
	return !x.noUDP && !y.noUDP && (works(x, y) || works(y, x))
}

var seeds = flag.Int("seeds", 2, "worlds for each pair of NATs and weather")

func TestEveryPairOfNATs(t *testing.T) {
	for i, x := range kinds {
		for j, y := range kinds {
			t.Run(x.name+" to "+y.name, func(t *testing.T) {
				for seed := range *seeds {
					seed += 1000*i + 100*j
					for _, weather := range []struct {
						delay, jitter, relay time.Duration
						loss                 float64
						within               time.Duration
					}{
						{10 * time.Millisecond, 0, 25 * time.Millisecond, 0, time.Second},
						{80 * time.Millisecond, 60 * time.Millisecond, 15 * time.Millisecond, 0.05, 6 * time.Second},
						{5 * time.Millisecond, 2 * time.Millisecond, 200 * time.Millisecond, 0.10, 10 * time.Second},
					} {
						w := newWorld(t, uint64(seed))
						w.delay, w.jitter, w.relayDelay, w.loss = weather.delay, weather.jitter, weather.relay, weather.loss
						a := w.host("a", w.newNAT(x, "203.0.113.1"), address(x, 1))
						b := w.host("b", w.newNAT(y, "203.0.113.2"), address(y, 2))
						a.peers()
						stop, _ := a.stream(b, 50*time.Millisecond)
						stopBack, _ := b.stream(a, 50*time.Millisecond)
						direct := w.run(weather.within, bothDirect(a, b))
						if !meets(x, y) {
							direct = w.run(20*time.Second, func() bool { return a.direct(b) || b.direct(a) })
						}
						// A pair that cannot meet does not try without end.
						if n, lim := a.sent+b.sent, int(300+15*w.since().Seconds()); n > lim {
							t.Errorf("%d pings in %v, want at most %d", n, w.since(), lim)
						}
						stop()
						stopBack()
						if direct != meets(x, y) {
							t.Fatalf("seed %d, %+v: direct %v, want %v; a: %q, b: %q", seed, weather, direct, meets(x, y), a.verdict(b).Why, b.verdict(a).Why)
						}
					}
				}
			})
		}
	}
}

// address is the address of a host behind a NAT of a kind.
func address(k kind, n int) string {
	if k.translates {
		return fmt.Sprintf("192.168.%d.2:4242", n)
	}
	return fmt.Sprintf("203.0.113.%d:4242", 100+n)
}
