package model

import (
	"net/netip"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

// prefix is what a selector of addresses selects, invalid for others.
func (c *check) prefix(s acl.Selector) netip.Prefix {
	switch s.Kind {
	case acl.KindPrefix:
		return s.Prefix()
	case acl.KindHost:
		if h := c.hosts[s.Name]; h != nil {
			return h.Prefix
		}
	}
	return netip.Prefix{}
}

// own reports whether all of p is inside the network's own prefix4. Which IPv6
// addresses its nodes have follows from its root, which a policy does not know.
func (c *check) own(p netip.Prefix) bool {
	own := c.p.Network.Prefix4
	return own.IsValid() && p.IsValid() && own.Bits() <= p.Bits() && own.Contains(p.Addr())
}

// isPinned reports whether p is the address of a pinned node.
func (c *check) isPinned(p netip.Prefix) bool { return p.IsSingleIP() && c.pinned[p.Addr()] }

// literalAddress refuses an address of the network itself that no pinned node
// has: which node holds it is not for Git to say. Hosts are told where they are
// written.
func (c *check) literalAddress(what string, s acl.Selector, at Place) {
	p := c.prefix(s)
	switch {
	case !c.own(p) || c.isPinned(p):
	case c.p.Network.LiteralAddresses:
		c.literal = append(c.literal, at)
	case s.Kind == acl.KindPrefix:
		c.problems = append(c.problems, Problem{Place: at, Message: what + ": " + c.notPinned(p), Hint: notPinnedHint})
	}
}

func (c *check) notPinned(p netip.Prefix) string {
	s := acl.PrefixSelector(p).String()
	if !p.IsSingleIP() {
		return s + " is inside the network's own prefix4, " + c.p.Network.Prefix4.String() + ": which nodes have these addresses is not written in a policy"
	}
	return s + " is inside the network's own prefix4, " + c.p.Network.Prefix4.String() + ", and no pinned node has it"
}

const notPinnedHint = "write who the nodes are: a user, a group, a tag or node:NAME"

func (c *check) checkHosts() {
	for _, h := range c.p.Hosts {
		if c.own(h.Prefix) && !c.isPinned(h.Prefix) && !c.p.Network.LiteralAddresses {
			c.problems = append(c.problems, Problem{Place: h.Place, Message: subject("host", h.Name) + ": " + c.notPinned(h.Prefix), Hint: notPinnedHint})
		}
	}
}

// warnLiteral says once what the network's literal addresses are worth.
func (c *check) warnLiteral() {
	if len(c.literal) == 0 {
		return
	}
	first := slices.MinFunc(c.literal, Place.Compare)
	c.warnings = append(c.warnings, Problem{Place: c.p.Network.Place, Also: []Place{first},
		Message: "network: agents enforce no rule about addresses that Git does not pin: such rules give nothing"})
}

// A prefixSet answers whether a prefix overlaps any of its own, in time that does
// not grow with their number but for a search.
type prefixSet struct {
	all     map[netip.Prefix]bool
	lengths map[int]bool // of which there are any
	addrs   []netip.Addr // their first addresses, sorted
}

func newPrefixSet(routes []Route) prefixSet {
	s := prefixSet{all: map[netip.Prefix]bool{}, lengths: map[int]bool{}}
	for _, r := range routes {
		if r.Prefix.IsValid() {
			s.all[r.Prefix] = true
			s.lengths[r.Prefix.Bits()] = true
			s.addrs = append(s.addrs, r.Prefix.Addr())
		}
	}
	slices.SortFunc(s.addrs, netip.Addr.Compare)
	return s
}

func (s prefixSet) overlaps(p netip.Prefix) bool {
	for bits := range s.lengths {
		if bits > p.Bits() {
			continue
		}
		if outer, err := p.Addr().Prefix(bits); err == nil && s.all[outer] {
			return true
		}
	}
	// One inside p begins at p's first address or after it.
	i, _ := slices.BinarySearchFunc(s.addrs, p.Addr(), netip.Addr.Compare)
	return i < len(s.addrs) && p.Contains(s.addrs[i])
}
