package natlab

import (
	"fmt"
	"testing"
	"testing/synctest"
)

// rounds are enough for every path there is: the longest way to one needs three,
// and a chase of ports doubles what is known in each.
const rounds = 6

func compare(t *testing.T, w func() *World, want Class) {
	synctest.Test(t, func(t *testing.T) {
		w := w()
		defer w.Close()
		a, b := meet(t, w, rounds)
		got := Relay
		if len(a) > 0 {
			got = Direct
		}
		if got != want {
			t.Errorf("got %s by %v, want %s\n%s", got, a, want, w.Log())
		}
		if (len(a) > 0) != (len(b) > 0) {
			t.Errorf("a proved %v and b proved %v, want both or neither\n%s", a, b, w.Log())
		}
	})
}

// Every mapping with every filtering, on both sides, and hosts without a NAT:
// the rule and the model were written separately, and agree.
func TestExpectedOfEveryBehaviour(t *testing.T) {
	kinds := []Kind{KindNamed("open"), KindNamed("firewall"), KindNamed("blocked")}
	for _, m := range Behaviours {
		for _, f := range Behaviours {
			kinds = append(kinds, one(fmt.Sprintf("%s mapping, %s filtering", m, f), m, f, RandomPort))
		}
	}
	pairs(t, kinds)
}

func TestExpectedOfKinds(t *testing.T) {
	if len(Kinds) < 10 {
		t.Errorf("got %d kinds, want at least 10", len(Kinds))
	}
	pairs(t, Kinds)
}

// A double NAT of any two behaves as the stricter of both, but for the
// combination that behind names, which does no worse.
func TestExpectedOfDoubleNAT(t *testing.T) {
	const (
		ei = EndpointIndependent
		ad = AddressDependent
	)
	type double struct {
		Kind
		odd bool // the combination that behind names
	}
	var singles, doubles []double
	for _, m := range Behaviours {
		for _, f := range Behaviours {
			inner := one(fmt.Sprintf("%s mapping, %s filtering", m, f), m, f, RandomPort)
			singles = append(singles, double{Kind: inner})
			for _, om := range Behaviours {
				for _, of := range Behaviours {
					outer := NAT{Mapping: om, Filtering: of, Ports: RandomPort}
					k := inner.behind(outer)
					k.Name += fmt.Sprintf(" inside %s mapping, %s filtering", om, of)
					k.Layers = append(k.Layers[:1:1], outer)
					doubles = append(doubles, double{k, m == ei && f == ad && om != ei && of == ei})
				}
			}
		}
	}
	run := func(a, b double) {
		if (a.odd || b.odd) && Expected(a.Kind, b.Kind) == Relay {
			return
		}
		t.Run(fmt.Sprintf("%s and %s", a, b), func(t *testing.T) {
			compare(t, func() *World { return Pair(3, a.Kind, b.Kind) }, Expected(a.Kind, b.Kind))
		})
	}
	for i, a := range doubles {
		for _, b := range singles {
			run(a, b)
		}
		// Of the double ones one pair in twenty, others for each a: all of
		// them agree, which takes long to see each time.
		for j := i % 20; j < len(doubles); j += 20 {
			run(a, doubles[j])
		}
	}
}

func TestExpectedWithIPv6(t *testing.T) {
	var kinds []Kind
	for _, name := range []string{"open", "apd-apd", "carrier-apd", "blocked"} {
		kinds = append(kinds, KindNamed(name), KindNamed(name).WithIPv6())
	}
	pairs(t, kinds)
}

func pairs(t *testing.T, kinds []Kind) {
	counts := make(map[Class]int)
	for i, a := range kinds {
		for j, b := range kinds {
			want := Expected(a, b)
			counts[want]++
			if Expected(b, a) != want {
				t.Errorf("Expected(%s, %s) is %s and the other way round it is not", a, b, want)
			}
			t.Run(fmt.Sprintf("%s and %s", a, b), func(t *testing.T) {
				compare(t, func() *World { return Pair(uint64(i*len(kinds)+j), a, b) }, want)
			})
		}
	}
	if counts[Direct] == 0 || counts[Relay] == 0 {
		t.Errorf("got %v, want pairs of both classes", counts)
	}
	t.Logf("%d pairs: %d direct, %d by relay", len(kinds)*len(kinds), counts[Direct], counts[Relay])
}

// Some pairs by name, each for the sentence beside it.
func TestExpectedByHand(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want Class
		why  string
	}{
		{"home", "home", Direct, "both open by sending"},
		{"home", "carrier", Direct, "two NATs in a row are as good as the stricter one"},
		{"apd-apd", "open", Direct, "one side can be reached by anybody"},
		{"apd-apd", "firewall", Relay, "the firewall looks at ports, and those are new for every remote"},
		{"apd-apd", "ei-ad", Direct, "the filter looks at addresses only"},
		{"apd-apd", "home", Relay, "nobody knows the port that the other's filter needs"},
		{"apd-apd", "apd-apd", Relay, "nobody knows a port"},
		{"apd-ei", "apd-ei", Relay, "every answer comes from a new port, for ever"},
		{"apd-ei", "ad-ei", Direct, "the chase of ports ends at the one that keeps its own"},
		{"blocked", "open", Relay, "no UDP"},
	} {
		if got := Expected(KindNamed(c.a), KindNamed(c.b)); got != c.want {
			t.Errorf("Expected(%s, %s): got %s, want %s: %s", c.a, c.b, got, c.want, c.why)
		}
	}
}

func TestSameNAT(t *testing.T) {
	for _, hairpin := range []bool{true, false} {
		for _, m := range Behaviours {
			for _, f := range Behaviours {
				shared := NAT{Mapping: m, Filtering: f, Ports: RandomPort, Hairpin: hairpin}
				for _, a := range []string{"open", "firewall", "home", "ei-ei", "apd-ei", "apd-apd", "blocked"} {
					for _, b := range []string{"open", "home", "ei-ei", "ad-ei", "apd-apd"} {
						a, b := KindNamed(a), KindNamed(b)
						t.Run(fmt.Sprintf("hairpin %t, %s mapping, %s filtering, %s and %s", hairpin, m, f, a, b), func(t *testing.T) {
							compare(t, func() *World { return SameNAT(7, shared, a, b) }, ExpectedBehind(shared, a, b))
						})
					}
				}
			}
		}
	}
}

// On one LAN no NAT stands between the nodes.
func TestSameLAN(t *testing.T) {
	for _, k := range Kinds {
		t.Run(k.Name, func(t *testing.T) {
			compare(t, func() *World { return SameLAN(7, k) }, Direct)
		})
	}
}
