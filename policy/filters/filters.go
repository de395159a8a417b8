// Package filters says what each node of an inventory lets in: its packet filter
// in addresses, as a control plane that distributes filters would compute it.
//
// It reads the compiled leaves and the meaning in coordinator/acl, and nothing of
// the engine in policy/reach but its inventory, so that the two can be compared. The
// inventory says who the nodes are, which addresses they have, what they report of
// themselves and what they forward to.
//
// # What a filter is
//
//	src    addresses, or prefixes behind nodes that forward to them
//	dst    an address or prefix, and ports from first to last, both included
//	proto  IP protocol numbers; empty means 1, 6, 17 and 58
//	rules  the names of the policy's rules that say so
//
// A selector of nodes stands for all their addresses, the node's own among the
// sources, too. A prefix stands for the addresses of nodes that are in it, and for
// the part of it that is behind an approved route: what a node forwards to is what
// it advertises and the policy approves, and what the inventory says is approved.
//
// Traffic through an exit node is no packet to the node: autogroup:internet alone
// gives a peer and no entry of a filter. Where a rule gives every node, the
// internet, and all that an exit node forwards to besides, the node's entry is "*":
// whatever it can receive.
//
// Hours and ends are judged at one instant, posture by what the inventory says that
// nodes report. Addresses inside the network's own prefix that Git does not pin are
// shown as the policy means them, though no agent enforces such rules
// (network.literalAddresses).
package filters

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/policy/prefix"
	"github.com/writmesh/writ/policy/reach"
)

// A Report is the filters of all nodes.
type Report struct {
	Nodes map[string]*Node `json:"nodes"` // by name
}

// A Node is what one node lets in, and whom it has to do with.
type Node struct {
	Filter       []Entry        `json:"filter"`
	Peers        []string       `json:"peers"`            // that it may reach, or that may reach it; sorted
	Routes       []netip.Prefix `json:"routes,omitempty"` // that it forwards to; sorted
	Capabilities []Capability   `json:"capabilities,omitempty"`
}

// An Entry lets packets in.
type Entry struct {
	Src   []string `json:"src"`
	Dst   []Dst    `json:"dst"`
	Proto []int    `json:"proto,omitempty"`
	Rules []string `json:"rules"`
}

// A Capability is what applications on the node are told of sources.
type Capability struct {
	Src   []string `json:"src"`
	Dst   []string `json:"dst"`
	Name  string   `json:"name"`
	Value any      `json:"value"`
	Rule  string   `json:"rule"`
}

// Of computes the filters of the inventory's nodes at an instant.
func Of(c *reach.Compiled, inv *reach.Inventory, at time.Time) *Report {
	w := &world{compiled: c, at: at, byUser: map[string][]int{}}
	for i := range inv.Nodes {
		w.add(&inv.Nodes[i])
	}
	for _, in := range c.Inbound {
		w.inbound(in)
	}
	w.everywhere()
	for i := range c.Routes {
		for _, in := range c.Routes[i].Inbound {
			w.behind(in)
		}
	}
	return w.report()
}

// A world is the nodes and what was found out of them.
type world struct {
	compiled *reach.Compiled
	at       time.Time
	nodes    []*node
	byUser   map[string][]int // untagged nodes, by user

	// What rules give, by their sources, for exit nodes: every node, and these
	// prefixes behind nodes.
	every  map[string]bool
	routed map[string][]netip.Prefix
}

type node struct {
	name    string
	subject *acl.Subject
	own     []netip.Prefix // its addresses
	routes  []netip.Prefix // subnets it forwards to
	exit    bool
	out     *Node
	entries map[string]int // index in out.Filter by all but its rules
	peers   map[int]bool
}

func (w *world) add(a *reach.Admitted) {
	n := &node{name: a.Name, out: &Node{Filter: []Entry{}, Peers: []string{}}, entries: map[string]int{}, peers: map[int]bool{}}
	n.subject = w.subject(a)
	addrs := slices.Clone(a.Addresses)
	if a.Address4.IsValid() {
		addrs = append(addrs, a.Address4)
	}
	for _, addr := range addrs {
		n.own = append(n.own, prefix.Of(addr.Unmap()))
	}
	n.own = union(n.own)
	approved := slices.Clone(a.Routes.Approved)
	for _, p := range a.Routes.Advertised {
		if slices.ContainsFunc(w.compiled.Routes, func(r acl.Route) bool { return r.Approves(n.subject, p, w.at) }) {
			approved = append(approved, p)
		}
	}
	for _, p := range approved {
		if p.Bits() == 0 {
			n.exit = true
		} else {
			n.routes = append(n.routes, p.Masked())
		}
		n.out.Routes = append(n.out.Routes, p.Masked())
	}
	slices.SortFunc(n.out.Routes, func(p, q netip.Prefix) int { return p.Compare(q) })
	n.out.Routes = slices.Compact(n.out.Routes)
	if n.subject.Nobody(w.at) {
		n.routes, n.exit = nil, false
	}
	n.routes = union(n.routes)
	if n.subject.User != nil {
		w.byUser[n.subject.User.Subject] = append(w.byUser[n.subject.User.Subject], len(w.nodes))
	}
	w.nodes = append(w.nodes, n)
}

// union sorts prefixes and drops those that are in others, without merging halves:
// what is printed is what was written.
func union(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(p, q netip.Prefix) int {
		if c := p.Addr().Compare(q.Addr()); c != 0 {
			return c
		}
		return p.Bits() - q.Bits()
	})
	var out []netip.Prefix
	for _, p := range list {
		if len(out) == 0 || !prefix.Within(p, out[len(out)-1]) {
			out = append(out, p)
		}
	}
	return out
}

// subject is what the node's papers prove under the policy.
func (w *world) subject(a *reach.Admitted) *acl.Subject {
	s := &acl.Subject{ID: a.ID, Name: a.Name, Posture: a.Posture}
	if a.User != "" {
		s.User = &acl.User{Issuer: "inventory", Subject: a.User, Email: a.User}
		s.Groups = w.compiled.Principals[acl.Selector{Kind: acl.KindUser, Name: a.User}]
		return s
	}
	for _, t := range a.Tags {
		t = strings.TrimPrefix(t, "tag:")
		s.Tags = append(s.Tags, t)
		s.Groups = append(slices.Clip(s.Groups), w.compiled.Principals[acl.Selector{Kind: acl.KindTag, Name: t}]...)
	}
	return s
}

// A sources is who a grant is for, now: of each node the addresses that are, by
// its index.
type sources struct {
	own    map[int][]netip.Prefix // its own
	behind map[int][]netip.Prefix // behind it
}

// sources finds them. Of what a selector of nodes selects, an exception of nodes
// takes all addresses away, and one of a prefix those in it.
func (w *world) sources(g *acl.Grant) sources {
	s := sources{map[int][]netip.Prefix{}, map[int][]netip.Prefix{}}
	if !acl.Within(g.Hours, w.at) || !g.Until.IsZero() && !w.at.Before(g.Until) {
		return s
	}
	from, except := prefixes(g.From), prefixes(g.Except)
	for i, n := range w.nodes {
		if n.subject.Nobody(w.at) || !meets(g, n.subject) {
			continue
		}
		if !w.any(g.Except, n.subject) {
			own := n.own
			if !w.any(g.From, n.subject) {
				own = prefix.Intersect(own, from)
			}
			if own = prefix.Subtract(own, except); len(own) > 0 {
				s.own[i] = own
			}
		}
		// Behind a node is not the node: only addresses select there.
		if behind := prefix.Subtract(prefix.Intersect(n.routes, from), except); len(behind) > 0 {
			s.behind[i] = behind
		}
	}
	return s
}

func meets(g *acl.Grant, s *acl.Subject) bool {
	return len(g.Posture) == 0 || slices.ContainsFunc(g.Posture, func(p acl.Posture) bool { return p.Met(s.Posture) })
}

// any reports whether one of the selectors selects the node by who it is.
func (w *world) any(list []acl.Selector, s *acl.Subject) bool {
	return slices.ContainsFunc(list, func(sel acl.Selector) bool { return sel.Selects(s, nil, w.at) })
}

// prefixes are those among selectors.
func prefixes(list []acl.Selector) (out []netip.Prefix) {
	for _, s := range list {
		if p := s.Prefix(); p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// inbound adds what may reach nodes themselves.
func (w *world) inbound(in acl.Inbound) {
	for i := range in.Grants {
		g := &in.Grants[i]
		from := w.sources(g)
		for j, n := range w.nodes {
			if n.subject.Nobody(w.at) || w.any(g.ToExcept, n.subject) {
				continue
			}
			dst := n.own
			src := from
			switch in.To.Kind {
			case acl.KindPrefix:
				dst = prefix.Intersect(dst, []netip.Prefix{in.To.Prefix()})
			case acl.KindSelf:
				src = w.ownNodes(from, n)
			default:
				if !in.To.Selects(n.subject, nil, w.at) {
					continue
				}
			}
			w.let(j, g, src, prefix.Subtract(dst, prefixes(g.ToExcept)))
		}
	}
}

// ownNodes are the sources that are nodes of the same user as the node; what is
// behind them is nobody's own.
func (w *world) ownNodes(from sources, n *node) sources {
	s := sources{own: map[int][]netip.Prefix{}}
	if n.subject.User == nil {
		return s
	}
	for _, i := range w.byUser[n.subject.User.Subject] {
		if list, ok := from.own[i]; ok {
			s.own[i] = list
		}
	}
	return s
}

// everywhere notes what rules give without exceptions.
func (w *world) everywhere() {
	w.every, w.routed = map[string]bool{}, map[string][]netip.Prefix{}
	for _, in := range w.compiled.Inbound {
		for i := range in.Grants {
			if g := &in.Grants[i]; in.To.Kind == acl.KindAny && len(g.ToExcept) == 0 {
				w.every[to(g)] = true
			}
		}
	}
	for _, r := range w.compiled.Routes {
		for _, in := range r.Inbound {
			for i := range in.Grants {
				if g := &in.Grants[i]; in.To.Kind == acl.KindPrefix && len(g.ToExcept) == 0 {
					w.routed[to(g)] = append(w.routed[to(g)], in.To.Prefix())
				}
			}
		}
	}
}

// to tells grants apart by all but their destination.
func to(g *acl.Grant) string { return fmt.Sprintf("%q %q %q %v", g.Rule, g.From, g.Except, g.Allow) }

// behind adds what may reach addresses behind nodes that forward to them.
func (w *world) behind(in acl.Inbound) {
	for i := range in.Grants {
		g := &in.Grants[i]
		from := w.sources(g)
		for j, n := range w.nodes {
			switch {
			case in.To.Kind == acl.KindPrefix:
				dst := prefix.Intersect(n.routes, []netip.Prefix{in.To.Prefix()})
				w.let(j, g, from, prefix.Subtract(dst, prefixes(g.ToExcept)))
			case in.To.Kind == acl.KindInternet && n.exit:
				w.meet(j, from)
				if w.every[to(g)] && len(prefix.Subtract(n.routes, w.routed[to(g)])) == 0 {
					w.entries(n, g, from, []string{"*"})
				}
			}
		}
	}
}

// let adds a grant to a node's filter.
func (w *world) let(j int, g *acl.Grant, from sources, addrs []netip.Prefix) {
	if len(addrs) == 0 || len(from.own)+len(from.behind) == 0 {
		return
	}
	w.meet(j, from)
	n := w.nodes[j]
	dst := texts(addrs)
	w.entries(n, g, from, dst)
	for _, c := range capabilities(g) {
		c.Src, c.Dst, c.Rule = from.texts(), dst, g.Rule
		n.out.Capabilities = append(n.out.Capabilities, c)
	}
}

// meet makes sources and a node peers.
func (w *world) meet(j int, from sources) {
	for _, of := range []map[int][]netip.Prefix{from.own, from.behind} {
		for i := range of {
			if i != j {
				w.nodes[i].peers[j], w.nodes[j].peers[i] = true, true
			}
		}
	}
}

// entries adds an entry for each list of ports, or the rule's name to one that is
// there.
func (w *world) entries(n *node, g *acl.Grant, from sources, dst []string) {
	src := from.texts()
	if len(src) == 0 {
		return
	}
	for _, p := range ports(g.Allow) {
		e := Entry{Src: src, Proto: p.protos, Rules: []string{g.Rule}}
		for _, d := range dst {
			for _, r := range p.ranges {
				e.Dst = append(e.Dst, Dst{To: d, First: r.first, Last: r.last})
			}
		}
		key := e.key()
		if i, ok := n.entries[key]; ok {
			if have := &n.out.Filter[i]; !slices.Contains(have.Rules, g.Rule) {
				have.Rules = append(have.Rules, g.Rule)
			}
			continue
		}
		n.entries[key] = len(n.out.Filter)
		n.out.Filter = append(n.out.Filter, e)
	}
}

// texts are the sources as they are printed, sorted.
func (s sources) texts() []string {
	var list []netip.Prefix
	for _, of := range []map[int][]netip.Prefix{s.own, s.behind} {
		for _, ps := range of {
			list = append(list, ps...)
		}
	}
	return texts(union(list))
}

// texts are prefixes as they are printed: one address without its length.
func texts(list []netip.Prefix) []string {
	var out []string
	for _, p := range list {
		out = append(out, acl.PrefixSelector(p).String())
	}
	return out
}

func (w *world) report() *Report {
	r := &Report{Nodes: map[string]*Node{}}
	for _, n := range w.nodes {
		for i := range n.peers {
			n.out.Peers = append(n.out.Peers, w.nodes[i].name)
		}
		slices.Sort(n.out.Peers)
		r.Nodes[n.name] = n.out
	}
	return r
}
