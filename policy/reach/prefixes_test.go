package reach

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPrefixIndexLooksAtEach compares the index with a look at each prefix.
func TestPrefixIndexLooksAtEach(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 127, 128, 255}), 4, 4).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "6") {
			b = append(b, make([]byte, 12)...)
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			a := addr.Draw(t, "addr")
			return netip.PrefixFrom(a, rapid.IntRange(0, 33).Draw(t, "bits")%(a.BitLen()+1))
		}), 0, 8).Draw(t, "prefixes")
		x := newPrefixIndex(list, itself)
		for range 20 {
			a := addr.Draw(t, "asked")
			var want []int32
			for i, p := range list {
				if p.Contains(a) {
					want = append(want, int32(i))
				}
			}
			if got := x.containing(a); !slices.Equal(got, want) || x.contains(a) != (len(want) > 0) {
				t.Fatalf("%s in %v: got %v, want %v", a, list, got, want)
			}
		}
	})
}
