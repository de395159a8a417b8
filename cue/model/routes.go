package model

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

func (d *decoder) route(prefix string, v *value) Route {
	what := subject("route", prefix)
	p, err := parsePrefix(prefix)
	if err == nil && p.IsSingleIP() {
		prefix = p.String() // one address is written with or without its length
	}
	if err == nil && prefix != p.String() {
		d.problems.Add(v.place, "%s: write %s", what, p)
	}
	d.add(v.place, "route", err)
	return Route{Prefix: p, Via: d.via(v.field("via"), what), Place: v.place}
}

func (d *decoder) exit(v *value) *Exit {
	if v == nil {
		return nil
	}
	return &Exit{Via: d.via(v.field("via"), "exit"), Place: v.place}
}

func (d *decoder) team(name string, v *value) Team {
	d.name("team", name, v)
	what := subject("team", name)
	t := Team{Name: name, Place: v.place}
	d.notEmpty(v.field("scope"), what, `"scope"`)
	for _, r := range d.refs(v.field("scope"), what) {
		if r.Selector.Kind == acl.KindSelf {
			d.problems.Add(r.Place, "%s: autogroup:self is nobody's to give", what)
			continue
		}
		t.Scope = append(t.Scope, r)
	}
	return t
}

func (c *check) checkRoutes() {
	own := c.p.Network.Prefix4
	for _, r := range c.p.Routes {
		what := subject("route", r.Prefix.String())
		c.via(what, r.Place, r.Via)
		addr := r.Prefix.Addr()
		switch {
		case !r.Prefix.IsValid() || r.Prefix.Bits() == 0: // any subnet
		case own.IsValid() && own.Overlaps(r.Prefix):
			c.problems.Add(r.Place, "%s overlaps the network's own prefix4, %s: nodes there are reached as themselves", what, own)
		case addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast():
			c.problems.Add(r.Place, "%s: no router forwards to these addresses", what)
		}
	}
	if c.p.Exit != nil {
		c.via("exit", c.p.Exit.Place, c.p.Exit.Via)
	}
}

// via checks which nodes may forward, and warns where there can be none.
func (c *check) via(what string, at Place, via []Ref) {
	c.refs(what, via)
	if len(via) > 0 && !slices.ContainsFunc(via, c.possible) {
		c.warnings.Add(at, "%s: no node can be any of its via: no pin and no enrolment gives a node such tags", what)
	}
}

// possible reports whether a node may be what a selector selects. A policy that
// neither pins nor enrols any node does not say how servers join, and leaves it
// open.
func (c *check) possible(r Ref) bool {
	if len(c.p.Nodes)+len(c.p.Enrolment) == 0 {
		return true
	}
	switch r.Selector.Kind {
	case acl.KindTag:
		return c.borne()[r.Selector.Name]
	case acl.KindGroup:
		return c.look(r.Selector.Name).possible
	default: // people may always join; of nodes' names, c.node warns
		return true
	}
}

// borne are the tags that pins and enrolment give to nodes.
func (c *check) borne() map[string]bool {
	if c.bearable == nil {
		c.bearable = map[string]bool{}
		for _, n := range c.p.Nodes {
			for _, t := range TagNames(n.Tags) {
				c.bearable[t] = true
			}
		}
		for _, e := range c.p.Enrolment {
			for _, t := range TagNames(e.Tags) {
				c.bearable[t] = true
			}
		}
	}
	return c.bearable
}

// covered warns of addresses that no route approves: a rule gives nothing there.
func (c *check) covered(what string, refs []Ref) {
	for _, r := range refs {
		switch prefix := c.prefix(r.Selector); {
		case r.Selector.Kind == acl.KindInternet && c.p.Exit == nil:
			c.warnings.Add(r.Place, "%s: autogroup:internet: no node may forward there; exit says which may", what)
		case !prefix.IsValid() || prefix.Bits() == 0: // any subnet, whichever there are
		case c.own(prefix) || c.routed.overlaps(prefix):
		case c.p.Network.LiteralAddresses && uniqueLocal.Contains(prefix.Addr()): // may be a node's
		default:
			p := Problem{Place: r.Place, Message: fmt.Sprintf("%s: %s gives nothing: no route approves an address in it", what, r.Selector)}
			if uniqueLocal.Contains(prefix.Addr()) {
				p.Hint = "a node of this network is written node:NAME, whatever its addresses"
			}
			c.warnings = append(c.warnings, p)
		}
	}
}

// uniqueLocal is where networks have their IPv6 addresses from (RFC 4193).
var uniqueLocal = netip.MustParsePrefix("fd00::/8")
