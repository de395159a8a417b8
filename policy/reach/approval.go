package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
)

// Approvals are the entries for what nodes may forward to: routes and exit nodes
// that are approved for others than before, as written, or for other nodes of the
// inventory because of who they are. What that gives to whom is access, which the
// difference has beside it. Base and head may be nil, which approve nothing.
func Approvals(base, head *Compiled, inv *Inventory, at time.Time) []Admission {
	var was, is []acl.Route
	if base != nil {
		was = base.Routes
	}
	if head != nil {
		is = head.Routes
	}
	a := &admitting{inv: inv}
	pairs(was, is, func(r acl.Route) string { return strings.TrimPrefix(leaf.RouteName(&r), "route/") }, func(name string, was, is *acl.Route) {
		a.approval(name, was, is, base.forwarders(was, inv, at), head.forwarders(is, inv, at))
	})
	return a.out
}

// forwarders are the nodes of the inventory that offer something that the route
// approves, by name.
func (c *Compiled) forwarders(r *acl.Route, inv *Inventory, at time.Time) []string {
	if r == nil {
		return []string{}
	}
	return inv.where(func(n Admitted) bool {
		subject := c.Subject(Node{Name: n.Name, User: n.User, Tags: n.tags()})
		return slices.ContainsFunc(n.Routes.Advertised, func(p netip.Prefix) bool { return r.Approves(subject, p, at) })
	})
}

// approval is the entry for one route.
func (a *admitting) approval(name string, was, is *acl.Route, before, after []string) {
	kind, what := "route", "forward to "+name
	if name == "exit" {
		kind, what = "exit", "forward to the internet"
	}
	switch {
	case was == nil:
		a.add(kind, name, Added, "", fmt.Sprintf("%s may %s%s", via(is), what, offers(after)), nil)
	case is == nil:
		a.add(kind, name, Removed, "", fmt.Sprintf("%s may no longer %s%s", via(was), what, offers(before)), nil)
	case !slices.Equal(was.Via, is.Via):
		a.add(kind, name, Changed, "", otherVia(was, is, what)+offers(after), nil)
	case !slices.Equal(before, after):
		gone := slices.DeleteFunc(slices.Clone(before), func(n string) bool { return slices.Contains(after, n) })
		come := slices.DeleteFunc(slices.Clone(after), func(n string) bool { return slices.Contains(before, n) })
		var says []string
		if len(come) > 0 {
			says = append(says, fmt.Sprintf("%s may %s", strings.Join(come, ", "), what))
		}
		if len(gone) > 0 {
			says = append(says, fmt.Sprintf("%s may no longer %s", strings.Join(gone, ", "), what))
		}
		a.add(kind, name, Changed, "", strings.Join(says, "; "), nil)
	}
}

// otherVia says who comes to those who may forward, and who goes. Who stays is
// left out, for nothing is new about it.
func otherVia(was, is *acl.Route, what string) string {
	beyond := func(r, other *acl.Route) string {
		return via(&acl.Route{Via: slices.DeleteFunc(slices.Clone(r.Via), func(s acl.Selector) bool { return slices.Contains(other.Via, s) })})
	}
	come, gone := beyond(is, was), beyond(was, is)
	switch {
	case gone == nobody && len(was.Via) > 0:
		return fmt.Sprintf("%s may %s, too", come, what)
	case gone == nobody:
		return fmt.Sprintf("%s may %s", come, what)
	case come == nobody:
		return fmt.Sprintf("%s may no longer %s", gone, what)
	}
	return fmt.Sprintf("%s may %s, and no longer %s", come, what, gone)
}

// nobody is who may forward where a route names no one.
const nobody = "nobody"

func via(r *acl.Route) string {
	var out []string
	for _, s := range r.Via {
		out = append(out, s.String())
	}
	if len(out) == 0 {
		return nobody
	}
	return strings.Join(out, ", ")
}

// offers says which nodes of the inventory it is about, where there are some.
func offers(nodes []string) string {
	switch len(nodes) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf(" (%s offers it)", nodes[0])
	default:
		return fmt.Sprintf(" (%s offer it)", strings.Join(nodes, ", "))
	}
}
