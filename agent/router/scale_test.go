//go:build linux

package router

import (
	"net/netip"
	"testing"
	"time"
)

// bigState is a network of n peers with two addresses each.
func bigState(n int) State {
	s := aState()
	s.Peers = nil
	for i := range n {
		s.Peers = append(s.Peers, netip.AddrFrom4([4]byte{100, 65 + byte(i>>16), byte(i >> 8), byte(i)}))
		a := s.Addresses[1].As16()
		a[10], a[13], a[14], a[15] = 1, byte(i>>16), byte(i>>8), byte(i)
		s.Peers = append(s.Peers, netip.AddrFrom16(a))
	}
	return s
}

// A network of 10,000 nodes fits, and what changes costs by what changes.
func TestTenThousandPeers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const n = 10_000
	tunFor(t, "writ0")
	r := routerFor(t, Config{})
	step := func(name string, s State) {
		t.Helper()
		start := time.Now()
		must(t, r.Set(t.Context(), s))
		t.Logf("%s: %v", name, time.Since(start).Round(time.Millisecond))
		want, err := s.checked()
		must(t, err)
		have, _, err := r.k.routes()
		must(t, err)
		for w := range want.routes(linkIndex(t, "writ0")) {
			if !have[w] {
				t.Fatalf("%s: there is no %s route to %s", name, w.kind, w.dst)
			}
		}
	}
	s := bigState(n)
	step("from nothing", s)
	step("no change", s)
	less := s
	less.Peers = s.Peers[2:]
	step("one peer less", less)
	step("one peer more", s)
	must(t, r.Close())

	r = routerFor(t, Config{}) // finds the unreachable routes of all
	step("after a restart", s)
	must(t, r.Close())
	must(t, Cleanup(t.Context()))
}
