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
//  1. the inbound's destination selects the destination node, and none of the
//     grant's ToExcept does;
//  2. one of the grant's From selects the source node, and none of its Except
//     does;
//  3. one of the grant's Allow contains the flow's protocol and port;
//  4. the instant is before the grant's Until, if it has one.
//
// Nothing else passes. There is no order, no deny rule and no implicit grant.
// An answer to a flow that passes needs no grant: that is the filter's state,
// not a rule's meaning.
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

// Selects reports whether the selector selects s at the instant. Other is the
// far end of the flow, which autogroup:self compares with.
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
}

// An Inbound is what may reach the nodes that one selector selects.
type Inbound struct {
	To     Selector `json:"to"`
	Grants []Grant  `json:"grants"`
}

// A Request asks whether a new flow may begin.
type Request struct {
	From, To *Subject
	Target   Target
	At       time.Time
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
		if !in.To.Selects(r.To, r.From, r.At) {
			continue
		}
		for i := range in.Grants {
			g := &in.Grants[i]
			if !g.allows(r) {
				continue
			}
			v := Verdict{Allowed: true, Rule: g.Rule, To: in.To, Until: g.until(in.To, r)}
			if better(v, best) {
				best = v
			}
		}
	}
	return best
}

func (g *Grant) allows(r Request) bool {
	selects := func(s Selector) bool { return s.Selects(r.From, r.To, r.At) }
	selectsTo := func(s Selector) bool { return s.Selects(r.To, r.From, r.At) }
	return !ended(g.Until, r.At) &&
		slices.ContainsFunc(g.From, selects) &&
		!slices.ContainsFunc(g.Except, selects) &&
		!slices.ContainsFunc(g.ToExcept, selectsTo) &&
		slices.ContainsFunc(g.Allow, func(p Ports) bool { return p.Contains(r.Target) })
}

// until is when a verdict that rests on g ends: of the alternatives in From
// the longest counts, of the conditions that must all hold the earliest.
func (g *Grant) until(to Selector, r Request) time.Time {
	end := earliest(g.Until, earliest(r.From.Expires, r.To.Expires))
	end = earliest(end, membershipEnd(to, r.To, r.At))
	var from time.Time
	first := true
	for _, s := range g.From {
		if !s.Selects(r.From, r.To, r.At) {
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
// among these ends, or zero when none does: until then the same requests have
// the same verdicts.
func NextEnd(inbound []Inbound, subjects []*Subject, at time.Time) (next time.Time) {
	consider := func(t time.Time) {
		if !t.IsZero() && t.After(at) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, in := range inbound {
		for i := range in.Grants {
			consider(in.Grants[i].Until)
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
