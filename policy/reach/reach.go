// Package reach answers who reaches what under a compiled policy, exactly: by set
// algebra over classes of ends, without samples.
//
// What is asked is the leaves, decoded again, and every answer agrees with package
// coordinator/acl, which says what a rule means: what is tested is what ships.
//
// # Ends
//
// An end of a flow is a node; an address behind a node, through a route that is
// approved; or the internet, through an exit node.
//
// Without an inventory, nodes are imagined: of every user that the policy or a
// question mentions; of a user that they do not; of a user whose token has a claim,
// for each claim that is in a group; of each single tag, and of each set of tags
// that an enrolment entry or a pinned node has; and each pinned node under its
// name. An imagined node stands for as many as may be. With an inventory the nodes
// and users in it are added. A node that bears a set of tags that appears nowhere
// is not imagined. A listed user who has a claim as well has what the user and the
// claim have, less what is excepted: those whom something excepts are imagined with
// each claim where policies are compared (claimed.go), and what questions take for
// granted of all others [World.Claims] says.
//
// What nodes advertise and a route of the policy approves is behind them, and what
// the inventory says is approved, advertised or not. Where no inventory tells of any route, every route that
// somebody may forward to is taken to be advertised whole; [World.Assumptions]
// says so. What lies behind two nodes is one end. Addresses of nodes matter only
// where a prefix in the network's own range selects nodes by them: then a node is
// an end by each of its addresses, and addresses that nobody holds are ends that
// "*" and prefixes select.
//
// # Classes
//
// Ends that the same selectors select, with the same ends of memberships, on all
// sides of a comparison, are one class (space.go, address.go). Only selectors that
// rules, approvals and questions use count. Users are classed before their nodes,
// so that a hundred thousand nodes cost little more than their users. Targets are
// cut into atoms (ports.go): ports where a rule's range begins or ends, protocols,
// and each capability with its value.
//
// autogroup:self stays a word. Two classes have two layers of pairs: of nodes of
// one user, and of all others. The layers differ only where a row has a grant to
// autogroup:self, and only classes that share a user have the first.
//
// # Rows
//
// A row is what grants give to one class of destinations: items of atoms, a
// condition and a set of sources (sheet.go). Most destinations share a row. Rows
// whose items are equal in both policies are not looked at; of others only the
// atoms of items that differ, each against all items of the other policy
// (pieces.go). What changes is gathered into rectangles of sources, destinations
// and atoms (changes.go), each by the rule that makes it, and named (names.go): a
// name means exactly its set.
//
// # Conditions
//
// A grant holds until an end, in hours, for sources that meet a posture. A
// condition (cond.go) is a union of such terms. Its form is canonical for each
// posture and zone, so that two rules for mon-wed and thu-fri are one for mon-fri,
// and a term that a weaker one implies is left out. Where terms of different zones
// or postures may add up to the same, both sides are compared at every edge of
// their hours within a year and at every value that their postures tell apart
// (condtext.go); beyond a quarter of a million such points they count as
// different, which shows a change where there is none, never the reverse.
//
// Memberships, grants and approvals are judged at the time asked, and their ends
// are part of the condition. That an exception's membership ends later, and lets
// somebody in, is not foreseen. Hours do not depend on the time asked, except in
// questions that fix it. What nodes of an inventory report is not looked at: a
// posture stays a condition.
//
// # Questions
//
// A [World] answers what is reachable or missing between sets of ends
// ([Question]), which rules no change would follow from ([World.Redundant]), and
// what tests are about ([Coverage]). "only" goes through routes and exit nodes:
// what is behind them are ends like others, and an address behind a route that is
// a local address of a node, which an inventory tells, counts as the node.
package reach

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
)

// A Compiled is a policy's leaves, decoded.
type Compiled struct {
	Inbound    []acl.Inbound                     // by destination
	Principals map[acl.Selector][]acl.Membership // of users and tags that are in a group
	Pins       []leaf.Node
	Enrolments []leaf.Enrolment
	Routes     []acl.Route     // what may be forwarded to, and what may reach what is there
	Identity   []leaf.Identity // providers with which people log in
	Admins     []acl.Selector
	Session    int64        // seconds that a login lasts; zero: nobody logs in
	Prefix4    netip.Prefix // the network's own IPv4 addresses

	// Hosts are what people call prefixes. Leaves do not say; whoever knows fills it
	// in, and answers use the names.
	Hosts map[string]netip.Prefix

	Relays       []leaf.Relay
	Coordinators []leaf.Coordinator
}

// Read decodes leaves. A grant that this version cannot enforce is an error
// here: nothing may be said of it.
func Read(leaves []leaf.Leaf) (*Compiled, error) {
	c := &Compiled{Principals: map[acl.Selector][]acl.Membership{}}
	for _, l := range leaves {
		kind, _, _ := strings.Cut(l.Name, "/")
		switch kind {
		case "inbound":
			in, unenforced, err := leaf.DecodeInbound(l)
			if err == nil && unenforced > 0 {
				err = fmt.Errorf("leaf %s: %d grants are of another version", l.Name, unenforced)
			}
			if err != nil {
				return nil, err
			}
			if err := refuseSelf(l.Name, in); err != nil {
				return nil, err
			}
			c.Inbound = append(c.Inbound, in)
		case "route":
			r, unenforced, err := leaf.DecodeRoute(l)
			if err == nil && unenforced > 0 {
				err = fmt.Errorf("leaf %s: %d grants are of another version", l.Name, unenforced)
			}
			if err != nil {
				return nil, err
			}
			if err := refuseSelf(l.Name, r.Inbound...); err != nil {
				return nil, err
			}
			c.Routes = append(c.Routes, r)
		case "identity":
			var i leaf.Identity
			if err := leaf.Decode(l, &i); err != nil {
				return nil, err
			}
			c.Identity = append(c.Identity, i)
		case "principal":
			p, err := leaf.DecodePrincipal(l)
			if err != nil {
				return nil, err
			}
			c.Principals[p.Principal] = p.Groups
		case "node":
			var n leaf.Node
			if err := leaf.Decode(l, &n); err != nil {
				return nil, err
			}
			c.Pins = append(c.Pins, n)
		case "enrolment":
			var e leaf.Enrolment
			if err := leaf.Decode(l, &e); err != nil {
				return nil, err
			}
			c.Enrolments = append(c.Enrolments, e)
		case leaf.NameNetwork:
			var n leaf.Network
			if err := leaf.Decode(l, &n); err != nil {
				return nil, err
			}
			c.Admins, c.Coordinators, c.Session, c.Prefix4 = n.Admins, n.Coordinators, n.Session, n.Prefix4
		case leaf.NameRelays:
			var r leaf.Relays
			if err := leaf.Decode(l, &r); err != nil {
				return nil, err
			}
			c.Relays = r.Relays
		}
	}
	return c, nil
}

// refuseSelf refuses autogroup:self where the language has none, and the engine no
// answer: anywhere but as a destination.
func refuseSelf(name string, inbound ...acl.Inbound) error {
	self := acl.Selector{Kind: acl.KindSelf}
	for _, in := range inbound {
		for _, g := range in.Grants {
			if slices.Contains(g.From, self) || slices.Contains(g.Except, self) || slices.Contains(g.ToExcept, self) {
				return fmt.Errorf("leaf %s: rule %q: autogroup:self is not its destination", name, g.Rule)
			}
		}
	}
	return nil
}

// A Node is a node that exists or might.
type Node struct {
	Name     string   `json:"name,omitempty"` // empty where imagined
	User     string   `json:"user,omitempty"` // e-mail address; empty for a tagged node
	Tags     []string `json:"tags,omitempty"`
	Stranger bool     `json:"stranger,omitempty"` // imagined: a user that the policy does not mention
	Real     bool     `json:"real,omitempty"`     // of the inventory

	Claim    string     `json:"claim,omitempty"`    // imagined: a Stranger with this claim
	Address  netip.Addr `json:"address,omitzero"`   // not a node: an address behind one, or of an unknown one
	Internet bool       `json:"internet,omitempty"` // not a node: what is beyond exit nodes
}

// String names a node as people do.
func (n Node) String() string {
	switch {
	case n.Name != "":
		return n.Name
	case n.Address.IsValid():
		return n.Address.String()
	case n.Internet:
		return "autogroup:internet"
	case n.Claim != "" && !n.Stranger:
		return n.User + " with claim:" + n.Claim
	case n.Claim != "":
		return "any other user with claim:" + n.Claim
	case n.Stranger:
		return "any other user"
	case n.User != "":
		return n.User
	}
	tags := make([]string, len(n.Tags))
	for i, t := range n.Tags {
		tags[i] = "tag:" + t
	}
	return strings.Join(tags, "+")
}

// stranger is the e-mail address of the user that no policy mentions: it is not
// one that a policy can write.
const stranger = "(any other user)"

// Subject is what the node's papers would prove under the policy.
func (c *Compiled) Subject(n Node) *acl.Subject {
	s := &acl.Subject{Name: n.Name, Tags: n.Tags}
	if n.Claim != "" {
		s.User = &acl.User{Issuer: "any", Subject: n.User, Email: n.User}
		s.Groups = c.Principals[acl.Selector{Kind: acl.KindClaim, Name: n.Claim}]
		if !n.Stranger {
			s.Groups = append(slices.Clip(s.Groups), c.Principals[acl.Selector{Kind: acl.KindUser, Name: n.User}]...)
		}
		return s
	}
	if n.User != "" {
		s.User = &acl.User{Issuer: "any", Subject: n.User, Email: n.User}
		s.Groups = c.Principals[acl.Selector{Kind: acl.KindUser, Name: n.User}]
		return s
	}
	for _, t := range n.Tags {
		s.Groups = append(s.Groups, c.Principals[acl.Selector{Kind: acl.KindTag, Name: t}]...)
	}
	return s
}

// Nodes are the nodes that exist under any of the policies, or might, and those
// of the inventory, without repetition and in a fixed order. Users and tags
// named in extra exist too.
func Nodes(inv *Inventory, extra []acl.Selector, policies ...*Compiled) []Node {
	users, sets, names := map[string]bool{}, map[string][]string{}, map[string]Node{}
	tagged := func(tags []string) {
		tags = slices.Sorted(slices.Values(tags))
		sets[strings.Join(tags, "+")] = tags
	}
	selector := func(s acl.Selector) {
		switch s.Kind {
		case acl.KindUser:
			users[s.Name] = true
		case acl.KindTag:
			tagged([]string{s.Name})
		}
	}
	for _, s := range extra {
		selector(s)
	}
	for _, c := range policies {
		for p := range c.Principals {
			selector(p)
		}
		for _, s := range c.selectors() {
			selector(s)
		}
		for _, e := range c.Enrolments {
			tagged(e.Tags)
			for _, t := range e.Tags {
				tagged([]string{t})
			}
		}
		for _, p := range c.Pins {
			names[p.Name] = Node{Name: p.Name, User: p.User, Tags: p.Tags}
			if p.User != "" {
				users[p.User] = true
			} else {
				tagged(p.Tags)
			}
		}
	}
	if inv != nil {
		for _, a := range inv.Nodes {
			names[a.Name] = Node{Name: a.Name, User: a.User, Tags: a.tags(), Real: true}
		}
	}
	var out []Node
	for _, name := range slices.Sorted(maps.Keys(names)) {
		out = append(out, names[name])
	}
	for _, u := range slices.Sorted(maps.Keys(users)) {
		out = append(out, Node{User: u})
	}
	for _, s := range slices.Sorted(maps.Keys(sets)) {
		out = append(out, Node{Tags: sets[s]})
	}
	return append(out, Node{User: stranger, Stranger: true})
}

// selectors are all that the rules and approvals use.
func (c *Compiled) selectors() []acl.Selector {
	seen := map[acl.Selector]bool{}
	inbound := func(list []acl.Inbound) {
		for _, in := range list {
			seen[in.To] = true
			for i := range in.Grants {
				g := &in.Grants[i]
				for _, list := range [3][]acl.Selector{g.From, g.Except, g.ToExcept} {
					for _, s := range list {
						seen[s] = true
					}
				}
			}
		}
	}
	inbound(c.Inbound)
	for _, r := range c.Routes {
		inbound(r.Inbound)
		for _, s := range r.Via {
			seen[s] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b acl.Selector) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
}

// Judge answers one question.
func (c *Compiled) Judge(from, to Node, target acl.Target, at time.Time) acl.Verdict {
	return acl.Judge(c.Inbound, acl.Request{From: c.Subject(from), To: c.Subject(to), Target: target, At: at})
}

// Selects reports whether the selector selects the node at that time.
func (c *Compiled) Selects(s acl.Selector, n Node, at time.Time) bool {
	sub := c.Subject(n)
	return s.Selects(sub, sub, at)
}
