package reach

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Party is one end of a question: a node, or an address behind one.
type Party struct {
	Node Node // for an address behind a node, that node; the zero Node where nobody forwards to it
	Via  acl.Via
	Addr netip.Addr // behind the node, or its own where it is known; may be zero

	// Reports is what the node reports of itself.
	Reports map[string]string
}

// String names a party as people do.
func (p Party) String() string {
	switch {
	case p.Via == acl.Exit:
		return "the internet"
	case p.Via == acl.Subnet:
		return p.Addr.String()
	}
	return p.Node.String()
}

// nowhere reports whether nobody forwards to the address.
func (p Party) nowhere() bool {
	return p.Via != acl.Own && p.Node.Name == "" && p.Node.User == "" && len(p.Node.Tags) == 0
}

// An Explainer answers questions about single flows under one policy, each with
// the places that the answer rests on. It is made once, in time that grows with
// the policy's size. It may be used by several goroutines.
type Explainer struct {
	*Places
	compiled  *Compiled
	inventory *Inventory
	admitted  func() map[string]*Admitted
	people    func() *population     // found when it is needed: a cause needs none
	byTo      map[acl.Selector][]int // indexes of Inbound
	prefixes  []int                  // of Inbound, those to prefixes
	index     ruleIndex
}

// A population is the nodes that exist or might.
type population struct {
	nodes []Node
	named map[acl.Selector][]int // of nodes, by user, tag, claim and name
}

// NewExplainer prepares a policy and what it compiles to. The users and tags that
// are asked about exist, whether or not the policy mentions them.
func NewExplainer(p *model.Policy, c *Compiled, inv *Inventory, asked ...acl.Selector) *Explainer {
	x := &Explainer{Places: NewPlaces(p), compiled: c, inventory: inv, byTo: make(map[acl.Selector][]int, len(c.Inbound))}
	x.people = sync.OnceValue(func() *population { return populate(c, inv, asked) })
	x.admitted = sync.OnceValue(func() map[string]*Admitted {
		if inv == nil {
			return nil
		}
		return byName(inv.Nodes, func(a *Admitted) string { return a.Name })
	})
	for i, in := range c.Inbound {
		x.byTo[in.To] = append(x.byTo[in.To], i)
		if in.To.Kind == acl.KindPrefix {
			x.prefixes = append(x.prefixes, i)
		}
	}
	x.index = newRuleIndex(x.Places)
	return x
}

func populate(c *Compiled, inv *Inventory, asked []acl.Selector) *population {
	asked = slices.Clone(asked)
	for _, r := range c.Routes {
		asked = append(asked, r.Via...)
	}
	p := &population{nodes: Nodes(inv, asked, c)}
	var claims []string
	for s := range c.Principals {
		if s.Kind == acl.KindClaim {
			claims = append(claims, s.Name)
		}
	}
	slices.Sort(claims)
	for _, claim := range claims {
		p.nodes = append(p.nodes, Node{User: stranger, Stranger: true, Claim: claim})
	}
	p.named = make(map[acl.Selector][]int, len(p.nodes))
	for i, n := range p.nodes {
		for _, s := range n.principals() {
			p.named[s] = append(p.named[s], i)
		}
		if n.Name != "" {
			s := acl.Selector{Kind: acl.KindNode, Name: n.Name}
			p.named[s] = append(p.named[s], i)
		}
	}
	return p
}

// Parties are the ends that a selector selects at a time, the plainest first: of
// those that nothing tells apart, all. An address that nobody forwards to is a
// party, too, from which or to which nothing passes.
func (x *Explainer) Parties(sel acl.Selector, at time.Time) []Party {
	sel = x.resolve(sel)
	switch sel.Kind {
	case acl.KindPrefix:
		return x.addresses(sel.Prefix(), at)
	case acl.KindInternet:
		return x.exits(at)
	}
	var out []Party
	switch sel.Kind {
	case acl.KindUser, acl.KindTag, acl.KindNode:
		for _, i := range x.people().named[sel] {
			out = append(out, x.own(x.people().nodes[i], netip.Addr{})...)
		}
	default:
		for _, n := range x.people().nodes {
			sub := x.compiled.Subject(n)
			if sel.Selects(sub, sub, at) {
				out = append(out, x.own(n, netip.Addr{})...)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Party) int { return cmp.Compare(plainness(a.Node, sel), plainness(b.Node, sel)) })
	return out
}

// plainness prefers the imagined node that is just what the selector says.
func plainness(n Node, sel acl.Selector) int {
	switch {
	case n.Name == "" && strings.TrimPrefix(n.String(), "tag:") == sel.Name:
		return 0
	case n.Name == "" && !n.Stranger:
		return 1
	case !n.Stranger:
		return 2
	}
	return 3
}

// resolve puts a host's prefix, or the node that is pinned to an address, in the
// place of the selector.
func (x *Places) resolve(sel acl.Selector) acl.Selector {
	if sel.Kind == acl.KindHost {
		h := x.hosts[sel.Name]
		if h == nil {
			return acl.Selector{}
		}
		sel = acl.PrefixSelector(h.Prefix)
	}
	if p := sel.Prefix(); p.IsValid() && p.IsSingleIP() {
		if n := x.pinned[p.Addr()]; n != nil {
			return acl.Selector{Kind: acl.KindNode, Name: n.Name}
		}
	}
	return sel
}

// own are the ends that a node is: one, or one for each of its addresses where
// rules may name these.
func (x *Explainer) own(n Node, only netip.Addr) []Party {
	p := Party{Node: n, Addr: only}
	a := x.admitted()[n.Name]
	if a != nil {
		p.Reports = a.Posture
	}
	if only.IsValid() || !x.policy.Network.LiteralAddresses || n.Name == "" {
		return []Party{p}
	}
	var addrs []netip.Addr
	if pin := x.Places.nodes[n.Name]; pin != nil && pin.Address4.IsValid() {
		addrs = append(addrs, pin.Address4)
	}
	if a != nil {
		addrs = append(addrs, a.own()...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	if len(addrs) == 0 {
		return []Party{p}
	}
	var out []Party
	for _, addr := range addrs {
		p.Addr = addr
		out = append(out, p)
	}
	return out
}

// addresses are the ends in a prefix: of each stretch of addresses that nothing
// tells apart, the first, behind each node that forwards to it.
func (x *Explainer) addresses(p netip.Prefix, at time.Time) (out []Party) {
	if own := x.policy.Network.Prefix4; own.IsValid() && own.Overlaps(p) {
		for _, n := range x.people().nodes {
			a := x.admitted()[n.Name]
			if a == nil {
				continue
			}
			for _, addr := range a.own() {
				if p.Contains(addr) {
					out = append(out, x.own(n, addr)...)
				}
			}
		}
		if p.IsSingleIP() && len(out) == 0 && x.policy.Network.LiteralAddresses {
			return []Party{{Node: Node{User: stranger, Stranger: true}, Addr: p.Addr()}}
		}
		if p.Bits() >= own.Bits() {
			return out
		}
	}
	for _, addr := range x.stretches(p) {
		if x.policy.Network.Prefix4.Contains(addr) {
			continue
		}
		routers := x.routers(addr, at)
		switch {
		case len(routers) > 0:
			out = append(out, routers...)
		case acl.Public(addr) && len(x.exits(at)) > 0 && !x.exits(at)[0].nowhere():
			for _, e := range x.exits(at) {
				e.Addr = addr
				out = append(out, e)
			}
		default:
			out = append(out, Party{Via: acl.Subnet, Addr: addr})
		}
	}
	// What nobody forwards to matters where it is all that is asked about.
	if slices.ContainsFunc(out, func(e Party) bool { return !e.nowhere() }) {
		out = slices.DeleteFunc(out, Party.nowhere)
	}
	return out
}

// stretches are the first addresses of the stretches of a prefix that no route
// and no rule tells apart.
func (x *Explainer) stretches(p netip.Prefix) []netip.Addr {
	cuts := []netip.Addr{p.Addr()}
	if p.IsSingleIP() {
		return cuts
	}
	add := func(q netip.Prefix) {
		if q.IsValid() && p.Overlaps(q) && q.Bits() > p.Bits() {
			cuts = append(cuts, q.Addr())
			if after := last(q).Next(); p.Contains(after) {
				cuts = append(cuts, after)
			}
		}
	}
	for _, r := range x.compiled.Routes {
		add(r.Prefix)
		x.cutAt(r.Inbound, add)
	}
	x.cutAt(x.compiled.Inbound, add)
	if x.inventory != nil {
		for _, n := range x.inventory.Nodes {
			for _, q := range slices.Concat(n.Routes.Advertised, n.Routes.Approved) {
				add(q)
			}
		}
	}
	slices.SortFunc(cuts, netip.Addr.Compare)
	return slices.Compact(cuts)
}

func (x *Explainer) cutAt(inbound []acl.Inbound, add func(netip.Prefix)) {
	for _, in := range inbound {
		add(in.To.Prefix())
		for _, g := range in.Grants {
			for _, list := range [][]acl.Selector{g.From, g.Except, g.ToExcept} {
				for _, s := range list {
					if s.Kind == acl.KindPrefix {
						add(s.Prefix())
					}
				}
			}
		}
	}
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// routers are the ends that an address is, behind each node that forwards to it:
// the inventory says which nodes do, and without one every node that may.
func (x *Explainer) routers(addr netip.Addr, at time.Time) (out []Party) {
	for _, n := range x.people().nodes {
		p := Party{Node: n, Via: acl.Subnet, Addr: addr}
		switch a := x.admitted()[n.Name]; {
		case a != nil:
			p.Reports = a.Posture
			if !x.forwards(n, a, at, func(q netip.Prefix) bool { return q.Bits() > 0 && q.Contains(addr) }) {
				continue
			}
		case x.inventory != nil, !x.mayForward(n, addr, false, at):
			continue
		}
		out = append(out, p)
	}
	return out
}

// exits are the internet behind each exit node.
func (x *Explainer) exits(at time.Time) (out []Party) {
	for _, n := range x.people().nodes {
		p := Party{Node: n, Via: acl.Exit, Addr: anyPublic}
		switch a := x.admitted()[n.Name]; {
		case a != nil:
			p.Reports = a.Posture
			if !x.forwards(n, a, at, func(q netip.Prefix) bool { return q.Bits() == 0 }) {
				continue
			}
		case x.inventory != nil, !x.mayForward(n, netip.Addr{}, true, at):
			continue
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return []Party{{Via: acl.Exit, Addr: anyPublic}}
	}
	return out
}

// anyPublic stands for the internet: rules do not tell its addresses apart.
var anyPublic = netip.MustParseAddr("2000::1")

// forwards reports whether a node of the inventory has an approved route of the
// kind.
func (x *Explainer) forwards(n Node, a *Admitted, at time.Time, is func(netip.Prefix) bool) bool {
	if slices.ContainsFunc(a.Routes.Approved, is) {
		return true
	}
	sub := x.compiled.Subject(n)
	return slices.ContainsFunc(a.Routes.Advertised, func(q netip.Prefix) bool {
		return is(q) && slices.ContainsFunc(x.compiled.Routes, func(r acl.Route) bool { return r.Approves(sub, q, at) })
	})
}

// mayForward reports whether the policy lets a node forward to an address, or to
// the internet.
func (x *Explainer) mayForward(n Node, addr netip.Addr, exit bool, at time.Time) bool {
	sub := x.compiled.Subject(n)
	return slices.ContainsFunc(x.compiled.Routes, func(r acl.Route) bool {
		return r.Exit == exit && (exit || r.Prefix.Contains(addr)) &&
			slices.ContainsFunc(r.Via, func(s acl.Selector) bool { return s.Selects(sub, nil, at) })
	})
}

// request is the question that package acl answers.
func (x *Explainer) request(from, to Party, target acl.Target, at time.Time) acl.Request {
	f := x.compiled.Subject(from.Node)
	f.Posture = from.Reports
	return acl.Request{From: f, To: x.compiled.Subject(to.Node), Target: target, At: at,
		FromAddr: from.Addr, FromVia: from.Via, ToAddr: to.Addr, ToVia: to.Via}
}

// inbound are what may reach the party, and little more.
func (x *Explainer) inbound(r *acl.Request) (out []acl.Inbound) {
	switch r.ToVia {
	case acl.Exit:
		for i := range x.compiled.Routes {
			if x.compiled.Routes[i].Exit {
				out = append(out, x.compiled.Routes[i].Inbound...)
			}
		}
		return out
	case acl.Subnet:
		for i := range x.compiled.Routes {
			if rt := &x.compiled.Routes[i]; !rt.Exit && rt.Prefix.Contains(r.ToAddr) {
				out = append(out, rt.Inbound...)
			}
		}
		return out
	}
	for _, s := range ownSelectors(r.To, r.At) {
		for _, i := range x.byTo[s] {
			out = append(out, x.compiled.Inbound[i])
		}
	}
	if r.ToAddr.IsValid() {
		for _, i := range x.prefixes {
			if x.compiled.Inbound[i].To.Prefix().Contains(r.ToAddr) {
				out = append(out, x.compiled.Inbound[i])
			}
		}
	}
	return out
}

// ownSelectors are the selectors that may select a node itself.
func ownSelectors(s *acl.Subject, at time.Time) (out []acl.Selector) {
	if s.Nobody(at) {
		return nil
	}
	out = append(out, acl.Selector{Kind: acl.KindAny})
	if s.User != nil {
		out = append(out, acl.Selector{Kind: acl.KindMember}, acl.Selector{Kind: acl.KindSelf}, acl.Selector{Kind: acl.KindUser, Name: s.User.Email})
	} else {
		out = append(out, acl.Selector{Kind: acl.KindTagged})
	}
	for _, t := range s.Tags {
		out = append(out, acl.Selector{Kind: acl.KindTag, Name: t})
	}
	if s.Name != "" {
		out = append(out, acl.Selector{Kind: acl.KindNode, Name: s.Name})
	}
	for _, m := range s.Groups {
		if g := (acl.Selector{Kind: acl.KindGroup, Name: m.Group}); s.In(m.Group, at) && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// Judge answers whether a flow may begin.
func (x *Explainer) Judge(from, to Party, target acl.Target, at time.Time) acl.Verdict {
	if from.nowhere() || to.nowhere() {
		return acl.Verdict{}
	}
	r := x.request(from, to, target, at)
	return acl.Judge(x.inbound(&r), r)
}

// A PartyPair stands for Count pairs of ends that no rule tells apart.
type PartyPair struct {
	From, To Party
	Count    int
}

// Pairs are the pairs of ends, in their order, without those of one node with
// itself; those that no rule tells apart are one.
func (x *Explainer) Pairs(from, to []Party, at time.Time) (out []PartyPair) {
	fs, ts := x.alike(from, at), x.alike(to, at)
	for _, f := range fs {
		names := map[string]bool{}
		for _, a := range f {
			if a.itself() {
				names[a.Node.Name] = true
			}
		}
		for _, t := range ts {
			p := PartyPair{From: f[0], To: t[0], Count: len(f) * len(t)}
			for _, b := range t {
				if b.itself() && names[b.Node.Name] {
					p.Count--
				}
			}
			if p.Count <= 0 {
				continue
			}
			if p.From.itself() && p.To.itself() && p.From.Node.Name == p.To.Node.Name {
				if len(t) > 1 {
					p.To = t[1]
				} else {
					p.From = f[1]
				}
			}
			out = append(out, p)
		}
	}
	return out
}

// itself reports whether the party is a node that is known, which has no flows to
// itself.
func (p Party) itself() bool { return p.Via == acl.Own && p.Node.Name != "" }

// alike groups ends that no rule tells apart.
func (x *Explainer) alike(ends []Party, at time.Time) (out [][]Party) {
	self := x.byTo[acl.Selector{Kind: acl.KindSelf}] != nil
	literal := x.policy.Network.LiteralAddresses
	index := map[string]int{}
	for _, e := range ends {
		s := x.compiled.Subject(e.Node)
		r := acl.Request{At: at}
		var k strings.Builder
		for i, is := range x.index.selects(s, nil, &r, e, literal) {
			if is {
				fmt.Fprintf(&k, "%d ", i)
			}
		}
		fmt.Fprintf(&k, "|%d %t|%v|", e.Via, e.nowhere(), e.Reports)
		if self {
			k.WriteString(e.Node.User)
		}
		i, ok := index[k.String()]
		if !ok {
			i = len(out)
			index[k.String()] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], e)
	}
	return out
}

// Words names ends as people do: the largest groups that are all among them, and
// the others one by one.
func (x *Explainer) Words(ends []Party, at time.Time) (out []string) {
	in := map[string]bool{}
	var order []string
	for _, e := range ends {
		text := e.String()
		if e.Via == acl.Own && e.Node.Name != "" && e.Node.Real && (e.Node.User != "" || len(e.Node.Tags) > 0) {
			// A node of the inventory is what its user or tags are, where these are asked about.
			if who := (Node{User: e.Node.User, Tags: e.Node.Tags}).String(); slices.ContainsFunc(ends, func(o Party) bool { return o.Node.Name == "" && o.String() == who }) {
				text = who
			}
		}
		if !in[text] {
			in[text] = true
			order = append(order, text)
		}
	}
	members := map[string][]string{}
	for p, ms := range x.compiled.Principals {
		for _, m := range ms {
			if m.Until.IsZero() || at.Before(m.Until) {
				members[m.Group] = append(members[m.Group], p.String())
			}
		}
	}
	groups := slices.SortedFunc(maps.Keys(members), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(members[b]), len(members[a])), strings.Compare(a, b))
	})
	named := map[string]bool{}
	for _, g := range groups {
		list := members[g]
		if len(list) < 2 || slices.ContainsFunc(list, func(m string) bool { return !in[m] }) || !slices.ContainsFunc(list, func(m string) bool { return !named[m] }) {
			continue
		}
		out = append(out, "group:"+g)
		for _, m := range list {
			named[m] = true
		}
	}
	slices.Sort(order)
	for _, text := range order {
		if !named[text] {
			out = append(out, text)
		}
	}
	return out
}
