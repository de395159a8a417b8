package router

import (
	"maps"
	"net/netip"
	"slices"
)

// route is one route of Table, as far as it is ours.
type route struct {
	dst    netip.Prefix
	kind   routeKind
	metric int
	link   int        // index of the interface; 0 for an unreachable route
	src    netip.Addr // the sender's address; the zero Addr for an unreachable route
}

type routeKind uint8

const (
	device routeKind = iota + 1
	unreachable
	otherKind // a route of our protocol that this package never makes
)

func (k routeKind) String() string {
	switch k {
	case device:
		return "device"
	case unreachable:
		return "unreachable"
	}
	return "other"
}

// routes returns the routes of a state. Without a link (0) there are only the
// unreachable ones; a family without an own address has none to the device,
// since a packet without the node's source would be dropped by the peer.
func (s State) routes(link int) map[route]bool {
	want := make(map[route]bool, 2*len(s.Peers)+1)
	if s.Prefix6.IsValid() {
		want[route{dst: s.Prefix6, kind: unreachable, metric: unreachableMetric}] = true
	}
	src4, src6 := s.own(true), s.own(false)
	for _, a := range s.Peers {
		dst := netip.PrefixFrom(a, a.BitLen())
		if !s.inPrefix(a) {
			want[route{dst: dst, kind: unreachable, metric: unreachableMetric}] = true
		}
		src := src6
		if a.Is4() {
			src = src4
		}
		if link != 0 && src.IsValid() {
			want[route{dst: dst, kind: device, metric: deviceMetric, link: link, src: src}] = true
		}
	}
	return want
}

// routesWith returns the routes of a state with a link for which IPv6 may be off.
func (s State) routesWith(link int, off6 bool) map[route]bool {
	want := s.routes(link)
	if off6 {
		maps.DeleteFunc(want, func(r route, _ bool) bool { return r.kind == device && r.src.Is6() })
	}
	return want
}

// routeChanges says what is to be removed and added to get from have to want, in
// order. Unreachable routes that are not wanted are of addresses that were a
// peer's: they stay, up to maxDeparted.
func routeChanges(want, have map[route]bool) (remove, add []route) {
	var departed []route
	for r := range have {
		switch {
		case want[r]:
		case r.kind == unreachable && r.metric == unreachableMetric && r.dst.Bits() != 0:
			departed = append(departed, r)
		default:
			remove = append(remove, r)
		}
	}
	if len(departed) > maxDeparted {
		slices.SortFunc(departed, compareRoutes)
		remove = append(remove, departed[maxDeparted:]...)
	}
	for r := range want {
		if !have[r] {
			add = append(add, r)
		}
	}
	slices.SortFunc(remove, compareRoutes)
	slices.SortFunc(add, compareRoutes)
	return remove, add
}

// compareRoutes puts unreachable routes first: there is no instant at which an
// address is routed to the device alone.
func compareRoutes(a, b route) int {
	if a.kind != b.kind {
		return int(b.kind) - int(a.kind)
	}
	if c := a.dst.Addr().Compare(b.dst.Addr()); c != 0 {
		return c
	}
	if c := a.dst.Bits() - b.dst.Bits(); c != 0 {
		return c
	}
	return a.metric - b.metric
}

// sets are the contents of the nftables sets.
type sets struct {
	mesh4, mesh6 map[netip.Addr]bool // peers and own; of IPv6 only what lies outside Prefix6
	own4, own6   map[netip.Addr]bool
}

func (s State) sets() sets {
	out := sets{
		mesh4: make(map[netip.Addr]bool, len(s.Peers)), mesh6: make(map[netip.Addr]bool),
		own4: make(map[netip.Addr]bool), own6: make(map[netip.Addr]bool),
	}
	put := func(a netip.Addr) {
		switch {
		case a.Is4():
			out.mesh4[a] = true
		case !s.inPrefix(a):
			out.mesh6[a] = true
		}
	}
	for _, a := range s.Peers {
		put(a)
	}
	for _, a := range s.Addresses {
		put(a)
		if a.Is4() {
			out.own4[a] = true
		} else {
			out.own6[a] = true
		}
	}
	return out
}

// without returns the addresses of a that b lacks, sorted.
func without(a, b map[netip.Addr]bool) []netip.Addr {
	var out []netip.Addr
	for x := range a {
		if !b[x] {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
