// Package acl says what a rule means.
//
// It is the one place that does: policy tests, access differences and "why"
// call it, the agent's packet filter is fuzzed against it, and where the two
// disagree this package is right. It is written to be read, not to be fast.
//
// # Meaning
//
// Access is allow-only. A flow from one node to another passes if there is a
// [Grant] in an [Inbound] such that all of these hold at that instant:
//
//  1. the inbound's destination selects the flow's destination end, and none of
//     the grant's ToExcept does;
//  2. one of the grant's From selects its source end, and none of its Except
//     does;
//  3. one of the grant's Allow contains the flow's protocol and port;
//  4. the instant is before the grant's Until, if it has one;
//  5. the instant is in one of the grant's Hours, if it has any;
//  6. what the source node reports of itself meets one of the grant's Posture,
//     if it has any.
//
// Nothing else passes. There is no order, no deny rule and no implicit grant.
// An answer to a flow that passes needs no grant: that is the filter's state,
// not a rule's meaning.
//
// # Ends
//
// An end of a flow is a node, or an address behind it that it forwards to: a
// subnet router's, through a route that the policy approves ([Route]), or an
// exit node's. What is behind a node is not the node: selectors of nodes never
// select an address behind one, and a prefix never selects the internet.
//
// # Who a node is
//
// A [Subject] is what a node's papers prove. A node of a user bears no tags; a
// tagged node has no user and bears all its tags. A node for which neither is
// proved, or whose session has ended, is nobody: no selector selects it, "*"
// included. A membership whose time has ended does not count.
//
// # Selectors
//
//	alice@acme.example   the nodes of that user
//	group:NAME           the nodes of a principal in that group
//	tag:NAME             the nodes that bear the tag
//	node:NAME            the node of that name
//	autogroup:member     every node of a logged-in user
//	autogroup:tagged     every tagged node
//	autogroup:self       a node of the same user as the other end: equal,
//	                     non-empty (issuer, subject); never two tagged nodes
//	*                    every node of this network
//	10.20.0.0/16         an address in the prefix: behind a node through an
//	                     approved route, or a node's own where the flow's
//	                     address is in it
//	autogroup:internet   a public address, through an exit node ([Public])
//	claim:NAME=VALUE     nobody by itself: a principal that groups hold
//	host:NAME            nobody by itself: the compiler puts its prefix in place
//
// # Ports
//
//	tcp/443  udp/8000-8100  sctp/5000   a port, or a range with both ends in it
//	icmp                                echo request of ICMP and ICMPv6
//	proto/47                            every packet of that IP protocol
//	*                                   everything
//
// A grant of ports does not open ping, and a grant of icmp opens no other ICMP
// message: errors about a live flow belong to the flow.
package acl

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// A User is a person as an identity provider knows them. People write the
// e-mail; the identity is (Issuer, Subject).
type User struct {
	Issuer  string // URL of the identity provider, or "git" where Git pins the node
	Subject string // the provider's identifier; never reused
	Email   string // lower case
}

// same reports whether two users are one person.
func (u *User) same(o *User) bool {
	return u != nil && o != nil && u.Issuer != "" && u.Subject != "" && u.Issuer == o.Issuer && u.Subject == o.Subject
}

// A Membership is a principal's place in a group, nesting already flattened.
type Membership struct {
	Group string    `json:"group"`          // without the prefix "group:"
	Until time.Time `json:"until,omitzero"` // zero means without end
}

// A Subject is what a node's papers prove about it.
type Subject struct {
	ID      key.NodeID
	Name    string       // the node's name, a DNS label
	User    *User        // nil for a tagged node
	Tags    []string     // without the prefix "tag:"; empty for a user's node
	Groups  []Membership // of all its principals
	Expires time.Time    // the session's end; zero means without end

	// Posture is what the node reports of itself, by attribute; nil is nothing.
	Posture map[string]string
}

// Nobody reports whether nothing is proved of s at the instant.
func (s *Subject) Nobody(at time.Time) bool {
	return s.User == nil && len(s.Tags) == 0 || ended(s.Expires, at)
}

// In reports whether s is in the group at the instant.
func (s *Subject) In(group string, at time.Time) bool {
	return slices.ContainsFunc(s.Groups, func(m Membership) bool {
		return m.Group == group && !ended(m.Until, at)
	})
}

// Selects reports whether the selector selects the node s at the instant. Other is
// the far end of the flow, which autogroup:self compares with. A prefix selects
// no node as such: see [Request].
func (sel Selector) Selects(s, other *Subject, at time.Time) bool {
	if s.Nobody(at) {
		return false
	}
	switch sel.Kind {
	case KindUser:
		return s.User != nil && s.User.Email == sel.Name
	case KindGroup:
		return s.In(sel.Name, at)
	case KindTag:
		return slices.Contains(s.Tags, sel.Name)
	case KindNode:
		return s.Name == sel.Name
	case KindMember:
		return s.User != nil
	case KindTagged:
		return len(s.Tags) > 0
	case KindSelf:
		return other != nil && !other.Nobody(at) && s.User.same(other.User)
	case KindAny:
		return true
	default:
		return false
	}
}

// A Grant is a rule compiled for one destination.
type Grant struct {
	Rule     string     `json:"rule"`               // the rule's name in the policy
	From     []Selector `json:"from"`               // any of these
	Except   []Selector `json:"except,omitempty"`   // but none of these
	ToExcept []Selector `json:"toExcept,omitempty"` // and not to these
	Allow    []Ports    `json:"allow"`              // any of these
	Until    time.Time  `json:"until,omitzero"`     // zero means without end
	Hours    Hours      `json:"hours,omitempty"`    // in any of these; none means always
	Posture  Postures   `json:"posture,omitempty"`  // the source meets any of these; none means whatever it reports

	// Capabilities are what applications at the destination are told that the
	// source may do, by name: any JSON, which means nothing here. They need no
	// port of Allow.
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"`
}

// An Inbound is what may reach the nodes that one selector selects.
type Inbound struct {
	To     Selector `json:"to"`
	Grants []Grant  `json:"grants"`
}

// A Via is where an end of a flow is, as seen from its node.
type Via uint8

// The places of an end.
const (
	Own    Via = iota // the node itself
	Subnet            // behind it, through a route that is approved for it
	Exit              // beyond it, as an exit node that is approved
)

// A Request asks whether a new flow may begin. Whoever asks has established that
// the subjects are proved, and that the routes are approved (see [Route]).
type Request struct {
	From, To *Subject
	Target   Target
	At       time.Time

	// FromAddr and ToAddr are the addresses of the flow, which prefixes compare
	// with. They may be zero where the ends are the nodes' own: then no prefix
	// selects them.
	FromAddr, ToAddr netip.Addr
	FromVia, ToVia   Via
}

// from and to report whether a selector selects the ends of the flow.
func (r *Request) from(s Selector) bool {
	return s.selectsEnd(r.From, r.To, r.FromAddr, r.FromVia, r.ToVia, r.At)
}

func (r *Request) to(s Selector) bool {
	return s.selectsEnd(r.To, r.From, r.ToAddr, r.ToVia, r.FromVia, r.At)
}

// selectsEnd reports whether sel selects the end at addr of s. What is behind or
// beyond the other end is nobody's own node.
func (sel Selector) selectsEnd(s, other *Subject, addr netip.Addr, via, otherVia Via, at time.Time) bool {
	switch {
	case s.Nobody(at): // nobody forwards either
		return false
	case sel.Kind == KindPrefix:
		return via != Exit && addr.IsValid() && sel.Prefix().Contains(addr.Unmap())
	case sel.Kind == KindInternet:
		return via == Exit && Public(addr)
	case sel.Kind == KindSelf && otherVia != Own:
		return false
	default:
		return via == Own && sel.Selects(s, other, at)
	}
}

// A Verdict is the answer to a Request. The zero Verdict refuses.
type Verdict struct {
	Allowed bool
	Rule    string    // the rule that allows
	To      Selector  // the destination of the inbound it stands in
	Until   time.Time // when this grant ends, or a membership or session it rests on; zero means never
}

// Judge answers r. Of several grants that allow, the verdict names the one that
// lasts longest, then the first by rule name, then by destination.
func Judge(inbound []Inbound, r Request) Verdict {
	var best Verdict
	for _, in := range inbound {
		if !r.to(in.To) {
			continue
		}
		for i := range in.Grants {
			g := &in.Grants[i]
			if !g.holds(&r) || !slices.ContainsFunc(g.Allow, func(p Ports) bool { return p.Contains(r.Target) }) {
				continue
			}
			v := Verdict{Allowed: true, Rule: g.Rule, To: in.To, Until: g.until(in.To, &r)}
			if better(v, best) {
				best = v
			}
		}
	}
	return best
}

// Capabilities are what applications at the destination of r are told that its
// source may do: of every grant that holds, whatever its ports, each value once,
// in the order of rules and inbounds. The Target of r does not matter.
func Capabilities(inbound []Inbound, r Request) map[string][]json.RawMessage {
	var out map[string][]json.RawMessage
	for _, in := range inbound {
		if !r.to(in.To) {
			continue
		}
		for i := range in.Grants {
			g := &in.Grants[i]
			if len(g.Capabilities) == 0 || !g.holds(&r) {
				continue
			}
			for name, value := range g.Capabilities {
				if slices.ContainsFunc(out[name], func(v json.RawMessage) bool { return string(v) == string(value) }) {
					continue
				}
				if out == nil {
					out = map[string][]json.RawMessage{}
				}
				out[name] = append(out[name], value)
			}
		}
	}
	return out
}

// holds reports whether g is in force between the ends of r, whatever its ports.
func (g *Grant) holds(r *Request) bool {
	return !ended(g.Until, r.At) && Within(g.Hours, r.At) &&
		slices.ContainsFunc(g.From, r.from) &&
		!slices.ContainsFunc(g.Except, r.from) &&
		!slices.ContainsFunc(g.ToExcept, r.to) &&
		(len(g.Posture) == 0 || slices.ContainsFunc(g.Posture, func(p Posture) bool { return p.Met(r.From.Posture) }))
}

// until is when a verdict that rests on g ends: of the alternatives in From
// the longest counts, of the conditions that must all hold the earliest.
func (g *Grant) until(to Selector, r *Request) time.Time {
	end := earliest(g.Until, earliest(r.From.Expires, r.To.Expires))
	end = earliest(end, WithinUntil(g.Hours, r.At))
	end = earliest(end, membershipEnd(to, r.To, r.At))
	var from time.Time
	first := true
	for _, s := range g.From {
		if !r.from(s) {
			continue
		}
		e := membershipEnd(s, r.From, r.At)
		if first || longer(e, from) {
			from, first = e, false
		}
	}
	return earliest(end, from)
}

// membershipEnd is when sel stops selecting s because a membership ends.
func membershipEnd(sel Selector, s *Subject, at time.Time) (end time.Time) {
	if sel.Kind != KindGroup {
		return time.Time{}
	}
	first := true
	for _, m := range s.Groups {
		if m.Group == sel.Name && !ended(m.Until, at) && (first || longer(m.Until, end)) {
			end, first = m.Until, false
		}
	}
	return end
}

func better(v, than Verdict) bool {
	switch {
	case !than.Allowed:
		return true
	case !v.Until.Equal(than.Until):
		return longer(v.Until, than.Until)
	case v.Rule != than.Rule:
		return v.Rule < than.Rule
	default:
		return v.To.String() < than.To.String()
	}
}

// ended reports whether a time limit has passed; a zero limit never does.
func ended(until, at time.Time) bool { return !until.IsZero() && !at.Before(until) }

// longer reports whether limit a ends after limit b, zero being without end.
func longer(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

func earliest(a, b time.Time) time.Time {
	if longer(a, b) {
		return b
	}
	return a
}

// NextEnd is the first instant after at when a grant, membership or session
// among these ends, or hours begin or end, or zero when none does: until then the
// same requests have the same verdicts.
func NextEnd(inbound []Inbound, subjects []*Subject, at time.Time) (next time.Time) {
	consider := func(t time.Time) {
		if !t.IsZero() && t.After(at) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, in := range inbound {
		for i := range in.Grants {
			consider(in.Grants[i].Until)
			for _, w := range in.Grants[i].Hours {
				consider(w.Next(at))
			}
		}
	}
	for _, s := range subjects {
		consider(s.Expires)
		for _, m := range s.Groups {
			consider(m.Until)
		}
	}
	return next
}
