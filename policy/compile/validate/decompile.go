package validate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/policy/reach"
)

// decompile is what leaves say, and what was read back from them.
func decompile(leaves []leaf.Leaf, c *reach.Compiled) (*relation, error) {
	r := newRelation()
	kinds := map[string]int{}
	for _, l := range leaves {
		kind, _, _ := strings.Cut(l.Name, "/")
		kinds[kind]++
		switch kind {
		case leaf.NameNetwork:
			var n leaf.Network
			if err := leaf.Decode(l, &n); err != nil {
				return nil, err
			}
			if !slices.Equal(n.Admins, c.Admins) || n.Session != c.Session || !slices.Equal(n.Coordinators, c.Coordinators) {
				return nil, fmt.Errorf("leaf %s: is not what was read back", l.Name)
			}
			r.texts[l.Name] = networkText(n)
		case leaf.NameRelays:
			var n leaf.Relays
			if err := leaf.Decode(l, &n); err != nil {
				return nil, err
			}
			if len(n.Relays) != len(c.Relays) {
				return nil, fmt.Errorf("leaf %s: is not what was read back", l.Name)
			}
			r.texts[l.Name] = relaysText(n)
		case "principal", "inbound", "route", "node", "enrolment", "identity":
		default:
			return nil, fmt.Errorf("leaf %s: is of an unknown kind", l.Name)
		}
	}
	for _, read := range []struct {
		kind string
		n    int
	}{{"inbound", len(c.Inbound)}, {"route", len(c.Routes)}, {"principal", len(c.Principals)}, {"node", len(c.Pins)}, {"enrolment", len(c.Enrolments)}, {"identity", len(c.Identity)}} {
		if kinds[read.kind] != read.n {
			return nil, fmt.Errorf("%d leaves %s/…, of which %d were read back", kinds[read.kind], read.kind, read.n)
		}
	}
	for who, groups := range c.Principals {
		r.texts[leaf.PrincipalName(who)] = membershipText(groups)
	}
	for _, n := range c.Pins {
		r.texts[leaf.NodeName(n.Name)] = nodeText(n)
	}
	for _, e := range c.Enrolments {
		r.texts[leaf.EnrolmentName(e.Name)] = enrolmentText(e)
	}
	for _, i := range c.Identity {
		r.texts[leaf.IdentityName(i.Name)] = identityText(i)
	}
	own := c.Prefix4
	for _, in := range c.Inbound {
		name := leaf.InboundName(in.To)
		r.texts[name] = "grants"
		if err := r.grants(name, in, own, false); err != nil {
			return nil, err
		}
	}
	for i := range c.Routes {
		route := &c.Routes[i]
		name := leaf.RouteName(route)
		var via []string
		for _, s := range route.Via {
			via = append(via, s.String())
		}
		r.texts[name] = "via " + set(via, ", ")
		for _, in := range route.Inbound {
			if err := r.grants(name, in, own, !route.Exit); err != nil {
				return nil, err
			}
		}
	}
	r.tidy()
	return r, nil
}

// grants takes up those of one destination. Behind says that it is addresses
// behind a node: there ToExcept cuts them, and selectors of nodes mean nothing.
func (r *relation) grants(name string, in acl.Inbound, own netip.Prefix, behind bool) error {
	for i := range in.Grants {
		g := &in.Grants[i]
		when, err := whenText(g.Allow, g.Until, g.Hours, g.Posture, g.Capabilities)
		if err != nil {
			return fmt.Errorf("%s, rule %q: %w", name, g.Rule, err)
		}
		to := exceptText(g.ToExcept)
		if behind {
			left := spanOf(in.To.Prefix()).cut(spansOf(g.ToExcept))
			if len(left) == 0 {
				continue
			}
			to = spanText(left)
		}
		c := cell{name, g.Rule, to, when}
		for _, s := range g.From {
			if from, any := sourceText(s, g.Except, own); any {
				r.cells[c] = append(r.cells[c], from)
			}
		}
	}
	return nil
}

// sourceText is a selector and what is excepted from it; false where nothing is
// left. Of a prefix it tells whether nodes' own addresses count.
func sourceText(s acl.Selector, except []acl.Selector, own netip.Prefix) (string, bool) {
	if s.Kind != acl.KindPrefix {
		return s.String() + " " + exceptText(except), true
	}
	left := spanOf(s.Prefix()).cut(spansOf(except))
	if len(left) == 0 {
		return "", false
	}
	text := spanText(left)
	nodes := slices.ContainsFunc(left, func(a addressSpan) bool { return holdsNodes(a, own) }) &&
		!slices.Contains(except, acl.Selector{Kind: acl.KindAny})
	if !nodes {
		return text + " behind nodes", true
	}
	var rest []acl.Selector // nodes' own addresses that are excepted otherwise
	for _, x := range except {
		if x.Kind != acl.KindPrefix {
			rest = append(rest, x)
		}
	}
	return text + " of nodes and behind them " + exceptText(rest), true
}

// holdsNodes reports whether an address of a node may be in the span.
func holdsNodes(a addressSpan, own netip.Prefix) bool {
	if a.first.Is6() {
		_, any := a.both(addressSpan{netip.MustParseAddr("fd00::"), netip.MustParseAddr("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")})
		return any
	}
	if !own.IsValid() {
		return false
	}
	_, any := a.both(spanOf(own))
	return any
}

func exceptText(list []acl.Selector) string {
	if len(list) == 0 {
		return ""
	}
	var out []string
	for _, x := range list {
		out = append(out, x.String())
	}
	return "except " + set(out, ", ")
}

// spansOf are the addresses of those selectors that are prefixes.
func spansOf(list []acl.Selector) (out []addressSpan) {
	for _, x := range list {
		if x.Kind == acl.KindPrefix {
			out = append(out, spanOf(x.Prefix()))
		}
	}
	return out
}
