//go:build linux

package router

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	n := 10_000 / scale
	if testing.Short() {
		n = 500
	}
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

	// With Watch, Set need not read what it knows.
	ctx, stop := context.WithCancel(t.Context())
	events, ended := make(chan Event, 100), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(e Event) { events <- e }) }()
	must(t, netlink.RuleDel(ourRule(unix.AF_INET)))
	if e := <-events; e != (Event{Ours: true}) {
		t.Errorf("after a rule was removed: %s, want ours alone", e)
	}
	step("repair", s)
	step("watched, one peer less", less)
	step("watched, one peer more", s)
	if _, ok := output(t, "nft", "add", "table", "inet", "other"); ok {
		step("watched, others changed nftables", s)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ends with %v, want %v", err, context.Canceled)
	}
	must(t, r.Close())

	r = routerFor(t, Config{}) // finds the unreachable routes of all
	step("after a restart", s)
	must(t, r.Close())
	must(t, Cleanup(t.Context()))
}
