package validate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
)

// A reading finds out what a policy means, for [Leaves].
type reading struct {
	p        *model.Policy
	own      netip.Prefix
	hosts    map[string]netip.Prefix
	services map[string][]model.PortRef
	postures map[string]acl.Posture
	routes   map[string]addressSpan // by the name of the leaf; without exit
	exit     bool
	pinned   map[netip.Prefix]string // the nodes that have these addresses
	out      *relation
}

// meaning is the relation that a policy's words stand for.
func meaning(p *model.Policy) (*relation, error) {
	r := &reading{
		p: p, own: p.Network.Prefix4, out: newRelation(),
		hosts: map[string]netip.Prefix{}, services: map[string][]model.PortRef{},
		postures: map[string]acl.Posture{}, routes: map[string]addressSpan{}, exit: p.Exit != nil, pinned: map[netip.Prefix]string{},
	}
	for _, h := range p.Hosts {
		r.hosts[h.Name] = h.Prefix
	}
	for _, s := range p.Services {
		r.services[s.Name] = s.Ports
	}
	for _, x := range p.Postures {
		r.postures[x.Name] = x.Conditions
	}
	via := func(refs []model.Ref) string {
		var out []string
		for _, v := range refs {
			out = append(out, v.Selector.String())
		}
		return "via " + set(out, ", ")
	}
	for _, x := range p.Routes {
		name := "route/" + x.Prefix.String()
		r.routes[name] = spanOf(x.Prefix)
		r.out.texts[name] = via(x.Via)
	}
	if r.exit {
		r.out.texts["route/exit"] = via(p.Exit.Via)
	}
	if p.Network.LiteralAddresses { // routes may be approved elsewhere
		for _, name := range []string{"route/0.0.0.0/0", "route/::/0"} {
			if _, ok := r.routes[name]; !ok {
				r.routes[name] = spanOf(netip.MustParsePrefix(strings.TrimPrefix(name, "route/")))
				r.out.texts[name] = via(nil)
			}
		}
		if !r.exit {
			r.exit = true
			r.out.texts["route/exit"] = via(nil)
		}
	}
	for _, x := range p.Nodes {
		if x.Address4.IsValid() {
			r.pinned[netip.PrefixFrom(x.Address4, x.Address4.BitLen())] = x.Name
		}
	}
	r.entries()
	r.memberships()
	for i := range p.Rules {
		if err := r.rule(&p.Rules[i]); err != nil {
			return nil, fmt.Errorf("rule %q: %w", p.Rules[i].Name, err)
		}
	}
	r.out.tidy()
	return r.out, nil
}

// entries are the leaves that are not about access.
func (r *reading) entries() {
	n := leaf.Network{Name: r.p.Network.Name, Domain: r.p.Network.Domain, Prefix4: r.own, Session: int64(r.p.Network.Session.Seconds())}
	for _, a := range r.p.Admins {
		n.Admins = append(n.Admins, a.Selector)
	}
	for _, c := range r.p.Network.Coordinators {
		n.Coordinators = append(n.Coordinators, leaf.Coordinator{Addr: c.Addr, Pin: c.Pin})
	}
	r.out.texts[leaf.NameNetwork] = networkText(n)
	var relays leaf.Relays
	for _, x := range r.p.Relays {
		relays.Relays = append(relays.Relays, leaf.Relay{Name: x.Name, Addr: x.Addr, Key: x.Key, STUN: x.STUN})
	}
	for _, x := range r.p.Nodes {
		r.out.texts["node/"+x.Name] = nodeText(leaf.Node{Name: x.Name, Key: x.Key, User: x.User, Tags: model.TagNames(x.Tags), Address4: x.Address4})
		if len(x.Endpoints) > 0 {
			relays.Endpoints = append(relays.Endpoints, leaf.NodeEndpoints{Node: x.Key.NodeID(), Addrs: x.Endpoints})
		}
	}
	r.out.texts[leaf.NameRelays] = relaysText(relays)
	for _, x := range r.p.Enrolment {
		r.out.texts["enrolment/"+x.Name] = enrolmentText(leaf.Enrolment{Name: x.Name, Key: x.Key, Tags: model.TagNames(x.Tags), Names: x.Names, Expires: x.Expires})
	}
	for _, x := range r.p.Identity {
		r.out.texts["identity/"+x.Name] = identityText(leaf.Identity{Name: x.Name, Issuer: x.Issuer, ClientID: x.ClientID, Members: x.Members})
	}
}

// endless is later than every end that a policy can write.
var endless = time.Unix(1<<40, 0)

// memberships hands every principal from the groups it is listed in to the groups
// that these are in, as long as somebody is new or stays longer.
func (r *reading) memberships() {
	type edge struct {
		group string
		until time.Time
	}
	type member struct {
		who   acl.Selector
		group string
	}
	end := func(t time.Time) time.Time {
		if t.IsZero() {
			return endless
		}
		return t
	}
	outer := map[string][]edge{} // group → the groups it is listed in
	in := map[member]time.Time{} // until when
	var fresh []member
	enter := func(who acl.Selector, group string, until time.Time) {
		m := member{who, group}
		if had, ok := in[m]; !ok || had.Before(until) {
			in[m] = until
			fresh = append(fresh, m)
		}
	}
	for _, g := range r.p.Groups {
		for _, m := range g.Members {
			if m.Selector.Kind == acl.KindGroup {
				outer[m.Selector.Name] = append(outer[m.Selector.Name], edge{g.Name, end(m.Until)})
			} else {
				enter(m.Selector, g.Name, end(m.Until))
			}
		}
	}
	for len(fresh) > 0 {
		m := fresh[0]
		fresh = fresh[1:]
		for _, e := range outer[m.group] {
			until := in[m]
			if e.until.Before(until) {
				until = e.until
			}
			enter(m.who, e.group, until)
		}
	}
	groups := map[acl.Selector][]acl.Membership{}
	for m, until := range in {
		if until.Equal(endless) {
			until = time.Time{}
		}
		groups[m.who] = append(groups[m.who], acl.Membership{Group: m.group, Until: until})
	}
	for who, list := range groups {
		r.out.texts["principal/"+who.String()] = membershipText(list)
	}
}

// rule adds the cells of one rule.
func (r *reading) rule(rule *model.Rule) error {
	var ports []acl.Ports
	for _, a := range rule.Allow {
		list, err := r.ports(a.Text, 0)
		if err != nil {
			return err
		}
		ports = append(ports, list...)
	}
	var postures acl.Postures
	for _, n := range rule.Posture {
		p, ok := r.postures[n.Name]
		if !ok {
			return fmt.Errorf("no posture %q", n.Name)
		}
		postures = append(postures, p)
	}
	when, err := whenText(ports, rule.Until, rule.Hours, postures, rule.Capabilities)
	if err != nil {
		return err
	}
	var from []string
	for _, ref := range rule.From {
		sel, except, err := r.ref(ref)
		if err != nil {
			return err
		}
		if sel.Kind == acl.KindPrefix && !r.p.Network.LiteralAddresses {
			except = append(except, acl.Selector{Kind: acl.KindAny}) // an address is not a node's
		}
		if text, any := sourceText(sel, except, r.own); any {
			from = append(from, text)
		}
	}
	if len(from) == 0 && len(rule.From) == 0 {
		return nil
	}
	for _, ref := range rule.To {
		sel, except, err := r.ref(ref)
		if err != nil {
			return err
		}
		for _, d := range r.destinations(sel, except) {
			if c := (cell{d.leaf, rule.Name, d.to, when}); len(from) > 0 {
				r.out.cells[c] = append(r.out.cells[c], from...)
			}
			if _, route := r.out.texts[d.leaf]; !route {
				r.out.texts[d.leaf] = "grants"
			}
		}
	}
	return nil
}

// maxServices ends services that hold each other; a checked policy has none.
const maxServices = 1000

// ports are what a port or a service stands for.
func (r *reading) ports(text string, depth int) (out []acl.Ports, err error) {
	name, service := strings.CutPrefix(text, "service:")
	if !service {
		p, err := acl.ParsePorts(text)
		return []acl.Ports{p}, err
	}
	list, ok := r.services[name]
	if !ok || depth > maxServices {
		return nil, fmt.Errorf("no ports for %s", text)
	}
	for _, ref := range list {
		inner, err := r.ports(ref.Text, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, inner...)
	}
	return out, nil
}

// ref is what a ref's selector and exceptions stand for. Exceptions that cannot
// matter are gone: addresses from nodes, and nodes from addresses.
func (r *reading) ref(ref model.Ref) (sel acl.Selector, except []acl.Selector, err error) {
	if sel, err = r.selector(ref.Selector); err != nil {
		return sel, nil, err
	}
	for _, x := range ref.Except {
		s, err := r.selector(x.Selector)
		if err != nil {
			return sel, nil, err
		}
		if r.p.Network.LiteralAddresses || (s.Kind == acl.KindPrefix) == (sel.Kind == acl.KindPrefix) {
			except = append(except, s)
		}
	}
	return sel, except, nil
}

func (r *reading) selector(s acl.Selector) (acl.Selector, error) {
	p := s.Prefix()
	switch s.Kind {
	case acl.KindHost:
		h, ok := r.hosts[s.Name]
		if !ok {
			return s, fmt.Errorf("no %s", s)
		}
		p, s = h, acl.PrefixSelector(h)
	case acl.KindPrefix:
	default:
		return s, nil
	}
	if name, ok := r.pinned[p]; ok {
		return acl.Selector{Kind: acl.KindNode, Name: name}, nil
	}
	return s, nil
}

// A place is where a rule's grants for a destination stand, and what of it they
// are about.
type place struct{ leaf, to string }

// destinations are the places of what a selector and its exceptions stand for.
func (r *reading) destinations(sel acl.Selector, except []acl.Selector) (out []place) {
	switch sel.Kind {
	case acl.KindInternet:
		if r.exit {
			out = append(out, place{"route/exit", exceptText(except)})
		}
		return out
	case acl.KindPrefix:
	default:
		return []place{{"inbound/" + sel.String(), exceptText(except)}}
	}
	all := spanOf(sel.Prefix())
	if r.p.Network.LiteralAddresses && holdsNodes(all, r.own) {
		out = append(out, place{"inbound/" + sel.String(), exceptText(except)})
	}
	if r.own.IsValid() && r.own.Contains(all.first) && r.own.Contains(all.last) {
		return out // nodes, not behind any
	}
	excepted := spansOf(except)
	for name, route := range r.routes {
		part, any := all.both(route)
		if !any {
			continue
		}
		if left := part.cut(excepted); len(left) > 0 {
			out = append(out, place{name, spanText(left)})
		}
	}
	return out
}

// The texts of leaves that are not about access. Lists that are sets are sorted.

func networkText(n leaf.Network) string {
	var admins, coordinators []string
	for _, a := range n.Admins {
		admins = append(admins, a.String())
	}
	for _, c := range n.Coordinators {
		coordinators = append(coordinators, c.Addr+" "+c.Pin.String())
	}
	return fmt.Sprintf("%s %s %s session %d coordinators %s admins %s", n.Name, n.Domain, n.Prefix4, n.Session, set(coordinators, ", "), set(admins, ", "))
}

func relaysText(n leaf.Relays) string {
	var relays, ends []string
	for _, x := range n.Relays {
		relays = append(relays, fmt.Sprintf("%s %s %s stun %s", x.Name, x.Addr, x.Key, set(slices.Clone(x.STUN), " ")))
	}
	for _, x := range n.Endpoints {
		var addrs []string
		for _, a := range x.Addrs {
			addrs = append(addrs, a.String())
		}
		ends = append(ends, x.Node.String()+" "+set(addrs, " "))
	}
	return fmt.Sprintf("relays %s endpoints %s", set(relays, ", "), set(ends, ", "))
}

func nodeText(n leaf.Node) string {
	return fmt.Sprintf("%s user %s tags %s address %s", n.Key, n.User, set(slices.Clone(n.Tags), ", "), n.Address4)
}

func enrolmentText(e leaf.Enrolment) string {
	return fmt.Sprintf("%s tags %s names %s expires %s", e.Key, set(slices.Clone(e.Tags), ", "), set(slices.Clone(e.Names), ", "), e.Expires.UTC().Format(time.RFC3339Nano))
}

func identityText(i leaf.Identity) string {
	return fmt.Sprintf("%s client %s members %s", i.Issuer, i.ClientID, set(slices.Clone(i.Members), ", "))
}

func membershipText(groups []acl.Membership) string {
	var out []string
	for _, m := range groups {
		text := m.Group
		if !m.Until.IsZero() {
			text += " until " + m.Until.UTC().Format(time.RFC3339Nano)
		}
		out = append(out, text)
	}
	return "in " + set(out, ", ")
}
