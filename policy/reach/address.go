package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// ula6 is where the IPv6 addresses of nodes are (RFC 4193 section 3.1). Which part
// of it is a network's, its policy does not say.
var ula6 = netip.MustParsePrefix("fd00::/8")

// An addrRange is the addresses from the first to the last, of one family.
type addrRange struct{ first, last netip.Addr }

func (r addrRange) contains(a netip.Addr) bool {
	return r.first.BitLen() == a.BitLen() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ownPrefixes finds out in which prefixes addresses of nodes matter: those of the
// network, where some prefix that is used selects nodes by their addresses. A
// grant that excepts "*" does not.
func (sp *space) ownPrefixes() {
	for s := range sp.used {
		if s.Kind == acl.KindPrefix {
			sp.prefixes = append(sp.prefixes, s)
		}
	}
	slices.SortFunc(sp.prefixes, func(a, b acl.Selector) int { return strings.Compare(a.Name, b.Name) })
	sp.where = newPrefixIndex(sp.prefixes, acl.Selector.Prefix)
	nodes := slices.Clone(sp.supposed) // that select nodes' own
	var ranges []netip.Prefix
	for _, side := range sp.sides {
		ranges = append(ranges, ula6)
		if side.policy.Prefix4.IsValid() {
			ranges = append(ranges, side.policy.Prefix4)
		}
		for _, in := range side.policy.Inbound {
			nodes = appendPrefixes(nodes, in.To)
			for i := range in.Grants {
				if g := &in.Grants[i]; !slices.Contains(g.Except, acl.Selector{Kind: acl.KindAny}) {
					nodes = appendPrefixes(nodes, g.From...)
				}
			}
		}
		for _, r := range side.policy.Routes {
			for _, in := range r.Inbound {
				for i := range in.Grants {
					if g := &in.Grants[i]; !slices.Contains(g.Except, acl.Selector{Kind: acl.KindAny}) {
						nodes = appendPrefixes(nodes, g.From...)
					}
				}
			}
		}
	}
	for _, p := range nodes {
		for _, r := range ranges {
			if p.Overlaps(r) && !slices.Contains(sp.own, r) {
				sp.own = append(sp.own, r)
			}
		}
	}
}

func appendPrefixes(list []netip.Prefix, sels ...acl.Selector) []netip.Prefix {
	for _, s := range sels {
		if s.Kind == acl.KindPrefix {
			list = append(list, s.Prefix())
		}
	}
	return list
}

// An approval is until when nodes may forward to a prefix.
type approval struct {
	prefix netip.Prefix
	until  [3]int64
}

// approvals are what is behind nodes, by prefix, and until when there are exit
// nodes, which are default routes: what nodes advertise and the policy approves, and
// what the inventory says is approved, whether or not it is advertised. Where no
// inventory of a side tells about routes, each route that somebody may forward to is
// taken as advertised whole.
func (sp *space) approvals() (list []approval, exit [3]int64) {
	byPrefix := map[netip.Prefix]*approval{}
	grant := func(side int, p netip.Prefix, until int64) {
		if byPrefix[p] == nil {
			byPrefix[p] = &approval{prefix: p}
		}
		a := &byPrefix[p].until[side]
		*a = max(*a, until)
	}
	for i, side := range sp.sides {
		if !side.inv.tellsRoutes() {
			members := sp.members(side.policy, i)
			for _, r := range side.policy.Routes {
				until := int64(0)
				for _, via := range r.Via {
					for _, m := range members[via] {
						until = max(until, m.until)
					}
				}
				if until > 0 {
					sp.assumed = true
					if r.Exit {
						exit[i] = max(exit[i], until)
					} else {
						grant(i, r.Prefix, until)
					}
				}
			}
			continue
		}
		for j := range side.inv.Nodes {
			a := &side.inv.Nodes[j]
			n := Node{Name: a.Name, User: a.User, Tags: a.tags()}
			if n.User == "" && len(n.Tags) == 0 {
				continue // it is nobody, and forwards nothing
			}
			offer := func(p netip.Prefix, until int64) {
				if until > 0 && p.Bits() == 0 {
					exit[i] = max(exit[i], until)
				} else if until > 0 {
					grant(i, p, until)
				}
			}
			for _, p := range a.Routes.Approved {
				offer(p.Masked(), forever)
			}
			for _, p := range a.Routes.Advertised {
				p = p.Masked()
				for k := range side.policy.Routes {
					offer(p, side.policy.approvedUntil(&side.policy.Routes[k], n, p))
				}
			}
		}
	}
	for _, a := range byPrefix {
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, b approval) int { return comparePrefixes(a.prefix, b.prefix) })
	return list, exit
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// tellsRoutes reports whether an inventory knows what nodes advertise.
func (inv *Inventory) tellsRoutes() bool {
	return inv != nil && slices.ContainsFunc(inv.Nodes, func(n Admitted) bool {
		return len(n.Routes.Advertised)+len(n.Routes.Approved) > 0
	})
}

// tellsLocal reports whether an inventory knows local addresses of nodes.
func (inv *Inventory) tellsLocal() bool {
	return inv != nil && slices.ContainsFunc(inv.Nodes, func(n Admitted) bool { return len(n.Local) > 0 })
}

// approvedUntil is until when a route approves that a node forwards to a prefix.
func (c *Compiled) approvedUntil(r *acl.Route, n Node, p netip.Prefix) (until int64) {
	sub := c.Subject(n)
	all := acl.Route{Prefix: r.Prefix, Exit: r.Exit, Via: []acl.Selector{{Kind: acl.KindAny}}}
	if !all.Approves(sub, p, moment(0)) {
		return 0
	}
	for _, via := range r.Via {
		if via.Kind != acl.KindGroup {
			if via.Selects(sub, nil, moment(0)) {
				return forever
			}
			continue
		}
		for _, m := range sub.Groups {
			if m.Group == via.Name {
				until = max(until, unix(m.Until))
			}
		}
	}
	return until
}

// addresses adds the classes of ends that are not nodes: what is behind approved
// routes, addresses of the network that only prefixes select, and the internet.
func (sp *space) addresses() {
	approvals, exit := sp.approvals()
	var cutters []netip.Prefix
	for _, a := range approvals {
		cutters = append(cutters, a.prefix)
	}
	if exit != [3]int64{} {
		sp.classes = append(sp.classes, class{kind: internetEnd, until: exit, rep: Node{Internet: true}})
	}
	for _, s := range sp.prefixes {
		cutters = append(cutters, s.Prefix())
	}
	locals := sp.locals()
	for a := range locals {
		cutters = append(cutters, netip.PrefixFrom(a, a.BitLen()))
	}
	cutters = append(cutters, sp.own...)
	held := sp.held()
	approved := newPrefixIndex(approvals, func(a approval) netip.Prefix { return a.prefix })
	supposed := newPrefixIndex(sp.supposed, itself)
	sp.local = map[netip.Addr]int32{}
	index := map[string]int{}
	for _, r := range cutRanges(cutters) {
		var c class
		c.family = family(r.first)
		c.within = sp.containing(r.first)
		own := sp.isOwn(r.first)
		c.kind = addressEnd
		for _, i := range approved.containing(r.first) {
			for side, u := range approvals[i].until {
				c.until[side] = max(c.until[side], u)
			}
		}
		if own && c.until == [3]int64{} {
			c.kind = holderEnd
			for i := range sp.sides {
				if r.first != r.last || !held[i][r.first] {
					c.until[i] = forever
				}
			}
		}
		if c.until == [3]int64{} && !own && supposed.contains(r.first) {
			c.until = [3]int64{forever, forever, forever}
		}
		if c.until == [3]int64{} {
			continue
		}
		local := ""
		if r.first == r.last && locals[r.first] {
			local = r.first.String()
		}
		k := fmt.Sprint(c.kind, c.family, c.until, local)
		for _, s := range c.within {
			k += " " + s.Name
		}
		i, ok := index[k]
		if !ok {
			i = len(sp.classes)
			index[k] = i
			c.rep, c.addr = Node{Address: r.first}, r.first
			sp.classes = append(sp.classes, c)
		}
		sp.classes[i].ranges = append(sp.classes[i].ranges, r)
		sp.classes[i].several = len(sp.classes[i].ranges) > 1 || r.first != r.last
		if local != "" {
			sp.local[r.first] = int32(i)
		}
	}
}

// containing are the prefixes in use that contain an address, by name.
func (sp *space) containing(a netip.Addr) (out []acl.Selector) {
	for _, i := range sp.where.containing(a) {
		out = append(out, sp.prefixes[i])
	}
	return out
}

// locals are the local addresses of nodes.
func (sp *space) locals() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	sp.unlocal = true
	sp.told = map[string]bool{}
	for _, side := range sp.sides {
		if side.inv == nil {
			continue
		}
		sp.unlocal = sp.unlocal && !side.inv.tellsLocal()
		for i := range side.inv.Nodes {
			sp.told[side.inv.Nodes[i].Name] = len(side.inv.Nodes[i].Local) > 0
			for _, a := range side.inv.Nodes[i].Local {
				out[a.Unmap()] = true
			}
		}
	}
	return out
}

// held are the addresses of nodes, by side.
func (sp *space) held() (out [3]map[netip.Addr]bool) {
	if len(sp.own) == 0 {
		return out
	}
	for i, side := range sp.sides {
		out[i] = map[netip.Addr]bool{}
		if side.inv != nil {
			for j := range side.inv.Nodes {
				for _, a := range side.inv.Nodes[j].own() {
					out[i][a] = true
				}
			}
		}
	}
	return out
}

// cutRanges cuts the addresses in the prefixes where one of them begins or ends.
func cutRanges(prefixes []netip.Prefix) (out []addrRange) {
	var starts []netip.Addr
	for _, p := range prefixes {
		starts = append(starts, p.Masked().Addr())
		if next := lastAddr(p).Next(); next.IsValid() {
			starts = append(starts, next)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	starts = slices.Compact(starts)
	index := newPrefixIndex(prefixes, itself)
	for i, a := range starts {
		last := lastAddr(netip.PrefixFrom(a, 0))
		if i+1 < len(starts) && starts[i+1].BitLen() == a.BitLen() {
			last = starts[i+1].Prev()
		}
		if index.contains(a) {
			out = append(out, addrRange{a, last})
		}
	}
	return out
}
