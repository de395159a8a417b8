package reach

import (
	"net/netip"
	"slices"
)

// A prefixIndex finds which prefixes of a list contain an address, in one look for
// each length that there is among them.
type prefixIndex struct {
	by   map[netip.Prefix][]int32
	bits [2][]int // lengths of IPv4 and of IPv6 prefixes
}

func newPrefixIndex[T any](list []T, prefix func(T) netip.Prefix) *prefixIndex {
	x := &prefixIndex{by: make(map[netip.Prefix][]int32, len(list))}
	for i, t := range list {
		p := prefix(t).Masked()
		if !p.IsValid() {
			continue
		}
		if f := familyIndex(p.Addr()); !slices.Contains(x.bits[f], p.Bits()) {
			x.bits[f] = append(x.bits[f], p.Bits())
		}
		x.by[p] = append(x.by[p], int32(i))
	}
	return x
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// containing are the prefixes that contain the address, by their place in the list,
// rising.
func (x *prefixIndex) containing(a netip.Addr) (out []int32) {
	for _, bits := range x.bits[familyIndex(a)] {
		if p, err := a.Prefix(bits); err == nil {
			out = append(out, x.by[p]...)
		}
	}
	slices.Sort(out)
	return out
}

// contains reports whether some prefix contains the address.
func (x *prefixIndex) contains(a netip.Addr) bool {
	return slices.ContainsFunc(x.bits[familyIndex(a)], func(bits int) bool {
		p, err := a.Prefix(bits)
		return err == nil && len(x.by[p]) > 0
	})
}

func itself(p netip.Prefix) netip.Prefix { return p }
