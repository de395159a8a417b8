package model

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// TestPrefixSet compares the set with a look at each of its prefixes.
func TestPrefixSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Prefix {
		if r.IntN(2) == 0 {
			a := netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(3))})
			return netip.PrefixFrom(a, 8+r.IntN(25)).Masked()
		}
		b := [16]byte{0: 0xfd, 7: byte(r.IntN(3)), 15: byte(r.IntN(3))}
		return netip.PrefixFrom(netip.AddrFrom16(b), r.IntN(129)).Masked()
	}
	for range 3000 {
		var routes []Route
		for range r.IntN(6) {
			routes = append(routes, Route{Prefix: random()})
		}
		set, p := newPrefixSet(routes), random()
		want := false
		for _, route := range routes {
			want = want || route.Prefix.Overlaps(p)
		}
		if got := set.overlaps(p); got != want {
			t.Fatalf("%v overlaps %s: %t, want %t", routes, p, got, want)
		}
	}
}

// TestDays compares ranges of days with walking from the first to the last.
func TestDays(t *testing.T) {
	for i, first := range weekdays {
		for j, last := range weekdays {
			text, want := first+"-"+last, acl.Days(0)
			for k := i; ; k++ {
				want |= 1 << time.Weekday((k%7+1)%7) // the list begins on Monday
				if k%7 == j {
					break
				}
			}
			if i == j {
				text = first
			}
			if got, err := parseDays(text); got != want || err != nil {
				t.Errorf("%s: %v, %v, want %v", text, got.Names(), err, want.Names())
			}
		}
	}
}

// TestManyExceptions holds that two long lists are not multiplied.
func TestManyExceptions(t *testing.T) {
	var users, others strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&users, "\"user%d@acme.example\",", i)
		fmt.Fprintf(&others, "\"other%d@acme.example\",", i)
	}
	refused(t, files(map[string]string{"a.cue": smallest + "rules: r: {from: {any: [" + users.String() + "], except: [" + others.String() + "]}, to: [\"*\"], allow: [\"*\"]}\n"}),
		`a.cue:4:12: rule "r": more than 200000 pairs of a selector and an exception up to here; except a group`)
}

// TestDeepGroups looks into a chain of groups as long as a policy may have.
func TestDeepGroups(t *testing.T) {
	var text strings.Builder
	text.WriteString(smallest + "tags: t: {}\nenrolment: e: {key: \"enrol:aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq\", tags: [\"tag:t\"], names: [\"e\"]}\n")
	const n = 5000
	text.WriteString("tags: {\n")
	for i := range n {
		fmt.Fprintf(&text, "\tt%d: {}\n", i)
	}
	text.WriteString("}\ngroups: {\n")
	for i := range n {
		fmt.Fprintf(&text, "\tg%d: [\"tag:t%d\", \"group:g%d\"]\n", i, i, i+1)
	}
	fmt.Fprintf(&text, "\tg%d: [{claim: {name: \"groups\", value: \"eng\"}}]\n}\n", n)
	text.WriteString("routes: \"10.0.0.0/8\": via: [\"group:g0\"]\nrules: r: {from: {any: [\"*\"], except: [\"group:g0\"]}, to: [\"*\"], allow: [\"*\"]}\n")
	_, err := Load(files(map[string]string{"a.cue": text.String()}))
	if err == nil || !strings.Contains(err.Error(), `rule "r": except group:g0: who is in it by claim:groups=eng would escape`) {
		t.Errorf("%.300v, want a problem with the claim at the end", err)
	}
}
