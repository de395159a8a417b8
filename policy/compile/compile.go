// Package compile turns a policy into leaves. It is a pure function: the same
// policy gives the same bytes, whatever the order in which it was written, and
// nothing of a leaf changes when lines are moved.
//
//	network        name, domain, prefix, session, coordinators, admins
//	relays         relays by name, and the endpoints that pins name
//	principal/…    for each user, tag and claim that is in a group: every group
//	               it is in, directly or through other groups
//	inbound/…      for each selector of nodes that some rule names as its
//	               destination: the grants of each such rule
//	route/…        for each route, and for exit nodes: who may forward, and the
//	               grants of each rule whose destination it overlaps
//	node/…         each pinned node
//	enrolment/…    each enrolment entry
//	identity/…     each identity provider
//
// # Memberships
//
// A membership through several groups ends with the first of the memberships
// that it rests on; of several ways into a group the one that lasts longest
// counts.
//
// # Grants
//
// A rule becomes one grant at each of its destinations for each set of
// exceptions that its sources have. What a posture, service or host is called does
// not show: conditions, ports and prefixes are put in their place.
//
// An address stands for the node that is pinned to it; every other address is
// behind a node, and selects no node's own: where a prefix in "from" may hold
// addresses of nodes, its grant excepts "*". Exceptions that cannot matter are
// left out: selectors of nodes from addresses, prefixes from nodes.
//
// A prefix in "to" is written into every route that it overlaps, clipped to the
// route, and nowhere else. A rule to a prefix that no route overlaps gives
// nothing.
//
// # Literal addresses
//
// Where the network has literalAddresses, as policies that come from elsewhere do,
// an address may also be that of whichever node holds it. Prefixes then compile
// as they are written: in "to", those that may hold addresses of nodes become
// inbound/PREFIX, which no agent fetches, so that nobody has access by it. And
// since routes may be approved elsewhere, such a policy always has the routes
// 0.0.0.0/0, ::/0 and exit; where it does not write them, nobody is approved by
// them.
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
const Version = "writ/2"

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
	g, err := newGrants(p)
	if err != nil {
		return nil, err
	}
	for to, in := range g.inbound {
		contents[leaf.InboundName(to)] = in
	}
	for _, r := range g.routes {
		contents[leaf.RouteName(&r.Route)] = r.content()
	}
	for _, n := range p.Nodes {
		tags := model.TagNames(n.Tags)
		slices.Sort(tags)
		contents[leaf.NodeName(n.Name)] = leaf.Node{Name: n.Name, Key: n.Key, User: n.User, Tags: tags, Address4: n.Address4}
	}
	for _, e := range p.Enrolment {
		tags := model.TagNames(e.Tags)
		slices.Sort(tags)
		contents[leaf.EnrolmentName(e.Name)] = leaf.Enrolment{Name: e.Name, Key: e.Key, Tags: tags, Names: slices.Sorted(slices.Values(e.Names)), Expires: e.Expires}
	}
	for _, i := range p.Identity {
		contents[leaf.IdentityName(i.Name)] = leaf.Identity{Name: i.Name, Issuer: i.Issuer, ClientID: i.ClientID, Members: slices.Compact(slices.Sorted(slices.Values(i.Members)))}
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
	n := leaf.Network{Name: p.Network.Name, Domain: p.Network.Domain, Prefix4: p.Network.Prefix4, Session: int64(p.Network.Session / time.Second), Admins: selectors(p.Admins)}
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

// ports are sorted by shape, protocol and number, each once; never nil, which JSON
// would write as null.
func ports(list []acl.Ports) []acl.Ports {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b acl.Ports) int {
		return cmp.Or(cmp.Compare(a.Range, b.Range), cmp.Compare(a.Proto, b.Proto),
			cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	return append([]acl.Ports{}, slices.Compact(sorted)...)
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
