package acl

import (
	"net/netip"
	"slices"
	"time"
)

// A Route is what nodes may forward to if they offer it, and who may then reach
// what is behind them. What a node offers and no route approves grants nothing.
type Route struct {
	// Prefix approves every prefix in it but the default route: 0.0.0.0/0 means any
	// subnet, never an exit node. Zero for Exit.
	Prefix netip.Prefix `json:"prefix,omitzero"`
	// Exit approves the default routes, through which only the internet is reached.
	Exit bool       `json:"exit,omitempty"`
	Via  []Selector `json:"via"` // nodes that any of these selects

	// Inbound is what may reach the addresses behind: each To is a prefix within
	// Prefix, or autogroup:internet for Exit.
	Inbound []Inbound `json:"inbound"`
}

// Approves reports whether the node may forward to a prefix that it offers.
func (r *Route) Approves(node *Subject, offered netip.Prefix, at time.Time) bool {
	if !offered.IsValid() || offered != offered.Masked() {
		return false
	}
	fits := r.Exit
	if offered.Bits() > 0 {
		fits = !r.Exit && r.Prefix.IsValid() && r.Prefix.Bits() <= offered.Bits() && r.Prefix.Contains(offered.Addr())
	}
	return fits && slices.ContainsFunc(r.Via, func(s Selector) bool { return s.Selects(node, nil, at) })
}

// notPublic are the addresses that are not the internet's, whoever forwards to
// them (IANA special-purpose address registries).
var notPublic = func() (out []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "224.0.0.0/3",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// global6 is where IPv6 addresses of the internet are from (RFC 4291 section 2.4
// and the IANA registry).
var global6 = netip.MustParsePrefix("2000::/3")

// Public reports whether an address is the internet's.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	if a.Is6() {
		return global6.Contains(a) && !netip.MustParsePrefix("2001:db8::/32").Contains(a)
	}
	return a.IsValid() && !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}
