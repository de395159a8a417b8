// Package compile turns a policy into leaves. It is a pure function: the same
// policy gives the same bytes, whatever the order in which it was written, and
// nothing of a leaf changes when lines are moved.
//
//	network        name, domain, prefix, coordinators, admins
//	relays         relays by name, and the endpoints that pins name
//	principal/…    for each user and tag that is in a group: every group it is
//	               in, directly or through other groups
//	inbound/…      for each selector that some rule names as its destination:
//	               a grant for each such rule
//	node/…         each pinned node
//	enrolment/…    each enrolment entry
//
// A membership through several groups ends with the first of the memberships
// that it rests on; of several ways into a group the one that lasts longest
// counts.
package compile

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
)

// Version is that of the compiler: it changes when the same policy compiles to
// other leaves, and stands in every manifest.
const Version = "writ/1"

// Leaves compiles a checked policy. The leaves are sorted by name.
func Leaves(p *model.Policy) ([]leaf.Leaf, error) {
	contents := map[string]any{
		leaf.NameNetwork: network(p),
		leaf.NameRelays:  relays(p),
	}
	memberships, err := flatten(p)
	if err != nil {
		return nil, err
	}
	for principal, groups := range memberships {
		contents[leaf.PrincipalName(principal)] = leaf.Principal{Principal: principal, Groups: groups}
	}
	for to, in := range inbound(p) {
		contents[leaf.InboundName(to)] = in
	}
	for _, n := range p.Nodes {
		tags := model.TagNames(n.Tags)
		slices.Sort(tags)
		contents[leaf.NodeName(n.Name)] = leaf.Node{Name: n.Name, Key: n.Key, User: n.User, Tags: tags, Address4: n.Address4}
	}
	for _, e := range p.Enrolment {
		tags := model.TagNames(e.Tags)
		slices.Sort(tags)
		contents[leaf.EnrolmentName(e.Name)] = leaf.Enrolment{Name: e.Name, Key: e.Key, Tags: tags, Names: slices.Sorted(slices.Values(e.Names))}
	}
	if len(contents) > leaf.MaxLeaves {
		return nil, fmt.Errorf("compile: %d leaves, at most %d", len(contents), leaf.MaxLeaves)
	}
	var out []leaf.Leaf
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		l, err := leaf.Encode(name, contents[name])
		if err != nil {
			return nil, fmt.Errorf("compile: %w", err)
		}
		out = append(out, l)
	}
	return out, nil
}

func network(p *model.Policy) leaf.Network {
	n := leaf.Network{Name: p.Network.Name, Domain: p.Network.Domain, Prefix4: p.Network.Prefix4, Admins: selectors(p.Admins)}
	for _, c := range byName(p.Network.Coordinators, func(c model.Coordinator) string { return c.Name }) {
		n.Coordinators = append(n.Coordinators, leaf.Coordinator{Addr: c.Addr, Pin: c.Pin})
	}
	return n
}

func relays(p *model.Policy) leaf.Relays {
	out := leaf.Relays{Relays: []leaf.Relay{}}
	for _, r := range byName(p.Relays, func(r model.Relay) string { return r.Name }) {
		out.Relays = append(out.Relays, leaf.Relay{Name: r.Name, Addr: r.Addr, Key: r.Key, STUN: slices.Sorted(slices.Values(r.STUN))})
	}
	for _, n := range p.Nodes {
		if len(n.Endpoints) > 0 {
			out.Endpoints = append(out.Endpoints, leaf.NodeEndpoints{Node: n.Key.NodeID(), Addrs: slices.SortedFunc(slices.Values(n.Endpoints), netip.AddrPort.Compare)})
		}
	}
	slices.SortFunc(out.Endpoints, func(a, b leaf.NodeEndpoints) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	return out
}

// byName is a sorted copy.
func byName[T any](list []T, name func(T) string) []T {
	return slices.SortedFunc(slices.Values(list), func(a, b T) int { return strings.Compare(name(a), name(b)) })
}

// ports are sorted by shape, protocol and number, each once.
func ports(list []acl.Ports) []acl.Ports {
	return slices.Compact(slices.SortedFunc(slices.Values(list), func(a, b acl.Ports) int {
		return cmp.Or(cmp.Compare(a.Range, b.Range), cmp.Compare(a.Proto, b.Proto),
			cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	}))
}

// selectors are those of refs, sorted by their text, each once.
func selectors(refs []model.Ref) []acl.Selector {
	var out []acl.Selector
	for _, r := range refs {
		out = append(out, r.Selector)
	}
	slices.SortFunc(out, compareSelectors)
	return slices.Compact(out)
}

func compareSelectors(a, b acl.Selector) int { return strings.Compare(a.String(), b.String()) }

// inbound are the grants by destination, in the order of the rules' names.
func inbound(p *model.Policy) map[acl.Selector]*acl.Inbound {
	out := map[acl.Selector]*acl.Inbound{}
	for _, r := range byName(p.Rules, func(r model.Rule) string { return r.Name }) {
		grant := acl.Grant{Rule: r.Name, From: selectors(r.From), Allow: ports(r.Ports), Until: r.Until}
		for _, to := range selectors(r.To) {
			if out[to] == nil {
				out[to] = &acl.Inbound{To: to}
			}
			out[to].Grants = append(out[to].Grants, grant)
		}
	}
	return out
}

// flatten finds every group of every user and tag.
func flatten(p *model.Policy) (map[acl.Selector][]acl.Membership, error) {
	above := map[acl.Selector][]model.Member{} // member → its groups, as members of themselves
	for _, g := range p.Groups {
		for _, m := range g.Members {
			above[m.Selector] = append(above[m.Selector], model.Member{
				Selector: acl.Selector{Kind: acl.KindGroup, Name: g.Name}, Until: m.Until,
			})
		}
	}
	out := map[acl.Selector][]acl.Membership{}
	for principal := range above {
		if principal.Kind == acl.KindGroup {
			continue
		}
		ends := map[string]time.Time{}
		if err := climb(principal, time.Time{}, above, ends, 0); err != nil {
			return nil, err
		}
		for _, group := range slices.Sorted(maps.Keys(ends)) {
			out[principal] = append(out[principal], acl.Membership{Group: group, Until: ends[group]})
		}
	}
	return out, nil
}

// maxNesting ends a climb that goes round; a checked policy has no cycles.
const maxNesting = 1000

// climb records in ends every group above the member, with the latest end by
// which it is reached. A group is climbed again only where a way lasts longer
// than the one known.
func climb(member acl.Selector, until time.Time, above map[acl.Selector][]model.Member, ends map[string]time.Time, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("compile: groups nest more than %d deep at %s", maxNesting, member)
	}
	for _, group := range above[member] {
		end := earlier(until, group.Until)
		if known, ok := ends[group.Selector.Name]; ok && !later(end, known) {
			continue
		}
		ends[group.Selector.Name] = end
		if err := climb(group.Selector, end, above, ends, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// later reports whether end a is after end b; zero is without end.
func later(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

func earlier(a, b time.Time) time.Time {
	if later(a, b) {
		return b
	}
	return a
}
