// Package prefix is set algebra over addresses, as lists of prefixes.
//
// A list stands for the addresses that are in any of its prefixes. Two prefixes
// are disjoint or one is in the other, so that no list grows by more than the
// length of an address for each prefix taken away. Prefixes are masked; results
// are sorted, merged, and each address is in one prefix only.
package prefix

import (
	"net/netip"
	"slices"
)

// Within reports whether all of p is in outer.
func Within(p, outer netip.Prefix) bool {
	return p.IsValid() && outer.IsValid() && outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

// Of is the single address as a prefix.
func Of(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Union is the addresses of all lists.
func Union(lists ...[]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, l := range lists {
		all = append(all, l...)
	}
	slices.SortFunc(all, compare)
	var out []netip.Prefix
	for _, p := range all {
		if !p.IsValid() || len(out) > 0 && Within(p, out[len(out)-1]) {
			continue
		}
		out = append(out, p)
		for len(out) > 1 { // two halves are one
			a, b := out[len(out)-2], out[len(out)-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
				break
			}
			whole := netip.PrefixFrom(a.Addr(), a.Bits()-1)
			if whole != whole.Masked() || !whole.Contains(b.Addr()) {
				break
			}
			out = append(out[:len(out)-2], whole)
		}
	}
	return out
}

// Intersect is the addresses of both lists.
func Intersect(a, b []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range a {
		for _, q := range b {
			switch {
			case Within(p, q):
				out = append(out, p)
			case Within(q, p):
				out = append(out, q)
			}
		}
	}
	return Union(out)
}

// Subtract is the addresses of a that are not of b.
func Subtract(a, b []netip.Prefix) []netip.Prefix {
	for _, q := range b {
		var left []netip.Prefix
		for _, p := range a {
			left = append(left, without(p, q)...)
		}
		a = left
	}
	return Union(a)
}

// without is p less q: itself, nothing, or the halves that q is not in.
func without(p, q netip.Prefix) (out []netip.Prefix) {
	if !p.Overlaps(q) {
		return []netip.Prefix{p}
	}
	for !Within(p, q) {
		lower, upper := halves(p)
		if Within(q, lower) {
			out, p = append(out, upper), lower
		} else {
			out, p = append(out, lower), upper
		}
	}
	return out
}

// halves are the two prefixes that make up one of more than one address.
func halves(p netip.Prefix) (lower, upper netip.Prefix) {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(a, p.Bits()+1)
}

// Range is the addresses from first to last; nothing where they are of two
// families or in the wrong order.
func Range(first, last netip.Addr) []netip.Prefix {
	if !first.IsValid() || first.BitLen() != last.BitLen() || last.Less(first) {
		return nil
	}
	var out []netip.Prefix
	for {
		p := Of(first)
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider != wider.Masked() || last.Less(Last(wider)) {
				break
			}
			p = wider
		}
		out = append(out, p)
		end := Last(p)
		if end == last {
			return out
		}
		first = end.Next()
	}
}

// Last is the last address in a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// compare puts IPv4 first, then lower addresses, then wider prefixes.
func compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
