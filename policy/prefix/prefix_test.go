package prefix

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// The truth is a set of the 256 addresses of 10.0.0.0/24, one by one.
type set map[netip.Addr]bool

func all() (out []netip.Addr) {
	for i := range 256 {
		out = append(out, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	return out
}

func of(list []netip.Prefix) set {
	s := set{}
	for _, a := range all() {
		s[a] = slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return s
}

func random(r *rand.Rand) (out []netip.Prefix) {
	for range r.IntN(8) {
		p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))}).Prefix(24 + r.IntN(9))
		out = append(out, p)
	}
	return out
}

func check(t *testing.T, what string, got []netip.Prefix, want func(netip.Addr) bool) {
	t.Helper()
	in := of(got)
	for _, a := range all() {
		if in[a] != want(a) {
			t.Fatalf("%s: %v: %s in it: %t, want %t", what, got, a, in[a], want(a))
		}
	}
	for i, p := range got {
		if p != p.Masked() {
			t.Fatalf("%s: %v: %s is not masked", what, got, p)
		}
		for _, q := range got[i+1:] {
			if p.Overlaps(q) {
				t.Fatalf("%s: %v: %s and %s overlap", what, got, p, q)
			}
		}
	}
}

func TestAlgebra(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		a, b := random(r), random(r)
		x, y := of(a), of(b)
		check(t, "union", Union(a, b), func(i netip.Addr) bool { return x[i] || y[i] })
		check(t, "intersection", Intersect(a, b), func(i netip.Addr) bool { return x[i] && y[i] })
		check(t, "difference", Subtract(a, b), func(i netip.Addr) bool { return x[i] && !y[i] })
		first, last := all()[r.IntN(256)], all()[r.IntN(256)]
		check(t, "range", Range(first, last), func(i netip.Addr) bool { return !i.Less(first) && !last.Less(i) })
	}
}

func TestWholeFamilies(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	if got := Union([]netip.Prefix{v6, v4}); !slices.Equal(got, []netip.Prefix{v4, v6}) {
		t.Errorf("union of both families: got %v, want %v and %v", got, v4, v6)
	}
	if got := Subtract([]netip.Prefix{v6}, []netip.Prefix{netip.MustParsePrefix("::1/128")}); len(got) != 128 {
		t.Errorf("::/0 without ::1: got %d prefixes, want 128", len(got))
	}
	if got := Range(netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")); !slices.Equal(got, []netip.Prefix{v4}) {
		t.Errorf("all of IPv4 as a range: got %v, want %v", got, v4)
	}
	if got := Range(netip.MustParseAddr("::"), Last(v6)); !slices.Equal(got, []netip.Prefix{v6}) {
		t.Errorf("all of IPv6 as a range: got %v, want %v", got, v6)
	}
	if got := Range(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")); got != nil {
		t.Errorf("a range that runs backwards: got %v, want nothing", got)
	}
}
