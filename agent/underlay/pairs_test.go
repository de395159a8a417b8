package underlay

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/natlab"
)

// few reports whether some pairs have to do: the race detector looks at goroutines,
// which are the same for each, and takes ten times as long.
func few() bool { return testing.Short() || raceEnabled }

// Every ordered pair of kinds ends as natlab's rule says, which knows of no
// engine: direct or by relay, while data flows.
func TestEveryPairOfKinds(t *testing.T) {
	kinds := append(natlab.Kinds[:len(natlab.Kinds):len(natlab.Kinds)], natlab.KindNamed("apd-apd").WithIPv6(), natlab.KindNamed("carrier").WithIPv6())
	if few() {
		kinds = []natlab.Kind{natlab.KindNamed("open"), natlab.KindNamed("home"), natlab.KindNamed("apd-apd"), natlab.KindNamed("blocked")}
	}
	for i, a := range kinds {
		for j, b := range kinds {
			t.Run(fmt.Sprintf("%s and %s", a, b), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					meet(t, natlab.Pair(uint64(i*len(kinds)+j), a, b), natlab.Expected(a, b), 0)
				})
			})
		}
	}
}

// meet has the nodes of a world talk, and checks by what.
func meet(t *testing.T, w *natlab.World, want natlab.Class, loss float64) (l *lab, a, b *node) {
	t.Helper()
	l, a, b = pair(t, w)
	l.relay.loss = loss
	l.stream(a, b, 50*time.Millisecond)
	if want == natlab.Direct {
		l.within("direct", 10*time.Second, bothDirect(a, b))
	}
	time.Sleep(8 * time.Second)
	synctest.Wait()
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		got := natlab.Relay
		if x[0].to(x[1]).Direct.IsValid() {
			got = natlab.Direct
		}
		if got != want {
			t.Errorf("%s reaches %s by %s, want %s", x[0].name, x[1].name, got, want)
		}
		if gap := x[0].longestGap(time.Now().Add(-8 * time.Second)); gap > 500*time.Millisecond {
			t.Errorf("%s got no data for %s, want some every 50 ms", x[0].name, gap)
		}
	}
	return l, a, b
}

// The same through lines that lose packets: slower, and for a while by relay, but
// never by a direct path where there is none.
func TestPairsThatLosePackets(t *testing.T) {
	names := []string{"open", "firewall", "ei-ad", "home", "ad-ei", "apd-apd", "carrier", "blocked"}
	seeds := 3
	if few() {
		names, seeds = []string{"open", "home", "apd-apd"}, 1
	}
	for _, x := range names {
		for _, y := range names {
			for seed := range seeds {
				t.Run(fmt.Sprintf("%s and %s, seed %d", x, y, seed), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						a, b := natlab.KindNamed(x), natlab.KindNamed(y)
						w := natlab.Pair(uint64(seed), a, b)
						// One and a half, three or five in a hundred each way, and up to 170 ms.
						loss := []float64{0.015, 0.03, 0.05}[seed]
						line := natlab.Link{Delay: []time.Duration{10, 40, 80}[seed] * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: loss / 2}
						for _, s := range []natlab.Site{w.A, w.B} {
							if len(s.Routers) == 0 {
								s.Interface.SetLink(line)
							} else {
								s.Routers[len(s.Routers)-1].Outer().SetLink(line)
							}
						}
						lossy(t, w, natlab.Expected(a, b), loss)
					})
				})
			}
		}
	}
}

func lossy(t *testing.T, w *natlab.World, want natlab.Class, loss float64) {
	l, a, b := pair(t, w)
	l.relay.set(func(r *relay) { r.loss, r.delay = loss, 50*time.Millisecond })
	l.stream(a, b, 50*time.Millisecond)
	if want == natlab.Relay {
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if a.to(b).Direct.IsValid() || b.to(a).Direct.IsValid() {
				t.Fatalf("a sends to %+v and b to %+v, want by relay alone", a.to(b), b.to(a))
			}
		}
		return
	}
	l.within("direct", 30*time.Second, bothDirect(a, b))
	const samples = 300
	direct := 0
	for range samples {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if bothDirect(a, b)() {
			direct++
		}
	}
	if direct < samples*9/10 {
		t.Errorf("direct in %d of %d samples, want nine of ten", direct, samples)
	}
}

// Nodes on one LAN use their addresses there.
func TestOneLAN(t *testing.T) {
	for _, k := range natlab.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := natlab.SameLAN(4, k)
				l, a, b := pair(t, w)
				l.stream(a, b, 50*time.Millisecond)
				l.within("direct", 2*time.Second, bothDirect(a, b))
				time.Sleep(5 * time.Second)
				synctest.Wait()
				for _, x := range [][2]*node{{a, b}, {b, a}} {
					if got, want := x[0].to(x[1]), x[1].host.Addrs()[0]; got.Direct.Addr() != want || got.Relay {
						t.Errorf("%s sends to %+v, want to %s alone", x[0].name, got, want)
					}
				}
			})
		})
	}
}

// Nodes behind one NAT that stands before their own.
func TestOneNAT(t *testing.T) {
	for _, hairpin := range []bool{true, false} {
		for _, k := range natlab.Kinds {
			t.Run(fmt.Sprintf("hairpin %t, %s and home", hairpin, k), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					home := natlab.KindNamed("home")
					shared := natlab.NAT{Filtering: natlab.AddressAndPortDependent, Hairpin: hairpin}
					meet(t, natlab.SameNAT(4, shared, k, home), natlab.ExpectedBehind(shared, k, home), 0)
				})
			})
		}
	}
}

// How long it takes two homes to meet, from the first packet and from the start.
func TestTwoHomesMeetQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home := natlab.KindNamed("home")
		began := time.Now()
		l, a, b := pair(t, natlab.Pair(1, home, home))
		known := func(n *node) bool { r, _ := n.u.Report(); return len(r.IPv4.Endpoints) > 0 }
		l.within("endpoints known", time.Second, func() bool { return known(a) && known(b) })
		// One round trip to a server: two times 15.5 ms.
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("endpoints were known after %s, want 50 ms at most", took)
		} else {
			t.Logf("endpoints known after %s", took)
		}
		time.Sleep(time.Second)
		l.stream(a, b, 10*time.Millisecond)
		// 20 ms by relay and 21 ms directly, each way.
		if took := l.within("direct", time.Second, bothOnlyDirect(a, b)); took > 150*time.Millisecond {
			t.Errorf("direct after %s, want 150 ms at most", took)
		} else {
			t.Logf("direct %s after the first packet", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		home := natlab.KindNamed("home")
		l, a, b := pair(t, natlab.Pair(1, home, home))
		l.stream(a, b, 10*time.Millisecond)
		if took := l.within("direct", time.Second, bothOnlyDirect(a, b)); took > 200*time.Millisecond {
			t.Errorf("traffic at the very start: direct after %s, want 200 ms at most", took)
		} else {
			t.Logf("direct %s after the start with traffic", took)
		}
	})
}
