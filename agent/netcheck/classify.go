package netcheck

import (
	"net/netip"
	"slices"
)

// shared is the address space between carrier-grade NATs and their customers
// (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// classify reads the package's table. Results are one family's, answered and
// honest, and at least one.
func classify(results []Result, local []netip.AddrPort) Behaviour {
	own := func(r Result) bool { return slices.Contains(local, r.Seen) }
	if !slices.ContainsFunc(results, func(r Result) bool { return !own(r) }) {
		return None
	}
	var differ, twoAddrs, portsDiffer, portsAgree bool
	for i, a := range results {
		for _, b := range results[:i] {
			same := a.Seen == b.Seen
			differ = differ || !same
			switch {
			case a.Addr.Addr() != b.Addr.Addr():
				twoAddrs = true
			case same:
				portsAgree = true
			default:
				portsDiffer = true
			}
		}
	}
	switch {
	case portsDiffer:
		return AddressAndPortDependent
	case differ && portsAgree:
		return AddressDependent
	case differ:
		return EndpointDependent
	case twoAddrs:
		return EndpointIndependent
	case portsAgree:
		return NotPortDependent
	}
	return Unknown
}

// lie is why a server cannot have seen an address; empty if it can.
func lie(server, seen netip.AddrPort, local []netip.AddrPort) string {
	a, s := seen.Addr(), server.Addr()
	switch {
	case slices.Contains(local, seen):
		return ""
	case a.Is4() != s.Is4():
		return "of the other family"
	case seen.Port() == 0:
		return "without a port"
	case a.IsUnspecified():
		return "unspecified"
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "multicast or broadcast"
	case a.IsLoopback() && !s.IsLoopback():
		return "loopback"
	case a.IsLinkLocalUnicast() && !s.IsLinkLocalUnicast():
		return "link-local"
	case !public(a) && public(s):
		return "of a private network, from a server that is not in one"
	}
	return ""
}

func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}
