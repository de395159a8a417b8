package reach

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
)

// The truth here is package acl, asked about every pair of ends that the engine
// imagines, at instants and reports and ports on both sides of every edge.

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday

func selector(s string) acl.Selector {
	x, err := acl.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return x
}

func selectors(list []string) (out []acl.Selector) {
	for _, s := range list {
		out = append(out, selector(s))
	}
	return out
}

// A thing is one end as acl knows it: a node of its own address, or an address
// behind one.
type thing struct {
	name string
	node Node
	who  func(*Compiled) *acl.Subject
	via  acl.Via
	addr netip.Addr
	// present reports whether it is there under a policy with an inventory.
	present func(*Compiled, *Inventory, time.Time) bool
}

var (
	sourceTexts = []string{"a@x", "b@x", "group:g", "group:h", "tag:s", "tag:t", "node:n", "node:s1", "autogroup:member", "autogroup:tagged", "*", "10.1.0.0/16", "10.1.2.0/24"}
	exceptTexts = []string{"a@x", "b@x", "group:l", "tag:s", "tag:t", "node:n"}
	destTexts   = []string{"a@x", "group:g", "group:h", "tag:s", "tag:t", "node:n", "autogroup:member", "autogroup:tagged", "autogroup:self", "*"}
	behindTexts = []string{"10.1.0.0/16", "10.1.2.0/24", "10.1.2.3"}
	allowTexts  = []string{"tcp/80", "tcp/79-81", "tcp/443", "udp/53", "icmp", "proto/1", "proto/47", "*"}
	capTexts    = []string{`"x"`, `{"a": 1, "b": 2}`, `{"b":2,"a":1}`, `9007199254740993`, `9007199254740992`}
)

type drawer struct {
	t       *rapid.T
	label   string
	endless bool // nothing that is there ends
}

func (d drawer) one(what string, from []string) string {
	return rapid.SampledFrom(from).Draw(d.t, d.label+what)
}
func (d drawer) chance(what string, of int) bool {
	return rapid.IntRange(1, of).Draw(d.t, d.label+what) == 1
}

func (d drawer) some(what string, from []string, least, most int) []acl.Selector {
	return selectors(rapid.SliceOfNDistinct(rapid.SampledFrom(from), least, most, rapid.ID[string]).Draw(d.t, d.label+what))
}

func (d drawer) until(what string) time.Time {
	if d.endless {
		return rapid.SampledFrom([]time.Time{{}, {}, noon.Add(-time.Hour)}).Draw(d.t, d.label+what)
	}
	return rapid.SampledFrom([]time.Time{{}, {}, {}, noon.Add(time.Hour), noon.Add(50 * time.Hour), noon.Add(-time.Hour)}).Draw(d.t, d.label+what)
}

func (d drawer) grant(rule string, plain bool) acl.Grant {
	g := acl.Grant{Rule: rule, From: d.some("from", sourceTexts, 1, 2), Until: d.until("until")}
	for range rapid.IntRange(1, 2).Draw(d.t, d.label+"ports") {
		p, err := acl.ParsePorts(d.one("port", allowTexts))
		if err != nil {
			panic(err)
		}
		g.Allow = append(g.Allow, p)
	}
	if d.chance("except", 3) {
		g.Except = d.some("excepted", exceptTexts, 1, 2)
	}
	if d.chance("hours", 3) {
		g.Hours = append(g.Hours, acl.Window{
			Days:  acl.Days(rapid.SampledFrom([]int{0b0111110, 0b0001110, 0b0110000, 0b1111111}).Draw(d.t, d.label+"days")),
			Start: uint16(rapid.SampledFrom([]int{0, 9 * 60, 22 * 60}).Draw(d.t, d.label+"start")),
			End:   uint16(rapid.SampledFrom([]int{9 * 60, 17 * 60, 1440}).Draw(d.t, d.label+"end")),
			Zone:  d.one("zone", []string{"Europe/Berlin", "UTC"}),
		})
	}
	if d.chance("posture", 3) {
		for range rapid.IntRange(1, 2).Draw(d.t, d.label+"postures") {
			g.Posture = append(g.Posture, rapid.SampledFrom([]acl.Posture{
				{{Attr: "os", Op: acl.OpIn, Values: []string{"linux", "macos"}}},
				{{Attr: "os", Op: acl.OpIn, Values: []string{"linux"}}},
				{{Attr: "os", Op: acl.OpNotIn, Values: []string{"linux"}}},
				{{Attr: "os", Op: acl.OpSet}, {Attr: "osVersion", Op: acl.OpLeast, Values: []string{"14"}}},
				{{Attr: "osVersion", Op: acl.OpMore, Values: []string{"13.2"}}},
				{{Attr: "osVersion", Op: acl.OpLess, Values: []string{"14"}}},
				{{Attr: "osVersion", Op: acl.OpIn, Values: []string{"14"}}},
				{{Attr: "osVersion", Op: acl.OpLeast, Values: []string{"14"}}, {Attr: "osVersion", Op: acl.OpMost, Values: []string{"14"}}},
				{{Attr: "osVersion", Op: acl.OpLess, Values: []string{"14.0.0.1"}}},
				{{Attr: "osVersion", Op: acl.OpMost, Values: []string{"14.0"}}},
			}).Draw(d.t, d.label+"met"))
		}
	}
	if d.chance("capability", 4) {
		g.Capabilities = map[string]json.RawMessage{"acme.example/cap": json.RawMessage(d.one("value", capTexts))}
	}
	if !plain && d.chance("to except", 4) {
		g.ToExcept = d.some("not to", exceptTexts, 1, 1)
	}
	return g
}

// policy draws a compiled policy; parts of another are taken over, so that not
// everything differs.
func (d drawer) policy(like *Compiled) *Compiled {
	c := &Compiled{Principals: map[acl.Selector][]acl.Membership{}, Prefix4: netip.MustParsePrefix("100.64.0.0/10")}
	for _, p := range []string{"a@x", "b@x", "c@x", "tag:s", "tag:t", "claim:groups=eng"} {
		if like != nil && !d.chance("other groups of "+p, 3) {
			if m := like.Principals[selector(p)]; m != nil {
				c.Principals[selector(p)] = m
			}
			continue
		}
		for _, g := range []string{"g", "h"} {
			if d.chance(p+" in "+g, 2) {
				c.Principals[selector(p)] = append(c.Principals[selector(p)], acl.Membership{Group: g, Until: d.until("member until")})
			}
		}
		if !strings.HasPrefix(p, "claim") && d.chance(p+" in l", 3) { // of what is excepted, nothing ends
			c.Principals[selector(p)] = append(c.Principals[selector(p)], acl.Membership{Group: "l"})
		}
	}
	rule := 0
	inbound := func(to string, plain bool) acl.Inbound {
		in := acl.Inbound{To: selector(to)}
		for range rapid.IntRange(1, 2).Draw(d.t, d.label+"grants") {
			rule++
			in.Grants = append(in.Grants, d.grant(fmt.Sprintf("r%d", rule%5), plain))
		}
		return in
	}
	for _, to := range destTexts {
		if like != nil && !d.chance("other to "+to, 3) {
			for _, in := range like.Inbound {
				if in.To == selector(to) {
					c.Inbound = append(c.Inbound, in)
				}
			}
			continue
		}
		if d.chance("grants to "+to, 3) {
			c.Inbound = append(c.Inbound, inbound(to, false))
		}
	}
	via := func() []acl.Selector { return d.some("via", []string{"tag:s", "a@x", "group:g", "node:n"}, 1, 2) }
	switch {
	case like != nil && !d.chance("other routes", 2):
		c.Routes = like.Routes
	default:
		if d.chance("route", 2) {
			r := acl.Route{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Via: via()}
			for _, to := range behindTexts {
				if d.chance("behind "+to, 2) {
					r.Inbound = append(r.Inbound, inbound(to, true))
				}
			}
			c.Routes = append(c.Routes, r)
		}
		if d.chance("exit", 3) {
			c.Routes = append(c.Routes, acl.Route{Exit: true, Via: via(), Inbound: []acl.Inbound{inbound("autogroup:internet", true)}})
		}
	}
	if d.chance("pin", 2) {
		c.Pins = append(c.Pins, leaf.Node{Name: "n", User: "a@x"})
	}
	if d.chance("enrolment", 2) {
		c.Enrolments = append(c.Enrolments, leaf.Enrolment{Name: "e", Tags: []string{"s", "t"}})
	}
	return c
}

func (d drawer) inventory() *Inventory {
	if d.chance("no inventory", 2) {
		return nil
	}
	inv := &Inventory{}
	for _, n := range []Admitted{{Name: "n", User: "a@x"}, {Name: "m", User: "b@x"}, {Name: "s1", Tags: []string{"s"}}, {Name: "s2", Tags: []string{"tag:t", "tag:s"}}, {Name: "nobody"}} {
		if !d.chance("admitted "+n.Name, 2) {
			continue
		}
		if d.chance("advertises", 2) {
			n.Routes.Advertised = []netip.Prefix{netip.MustParsePrefix(d.one("advertised", []string{"10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "10.9.0.0/16"}))}
			if d.chance("approved", 3) {
				n.Routes.Approved = n.Routes.Advertised
			}
		}
		if d.chance("otherwise approved", 4) {
			n.Routes.Approved = append(n.Routes.Approved, netip.MustParsePrefix(d.one("approved", []string{"10.1.0.0/16", "10.1.2.0/23", "0.0.0.0/0"})))
		}
		inv.Nodes = append(inv.Nodes, n)
	}
	return inv
}

// things are all ends that exist on one of the sides or might, most of them twice:
// an imagined node stands for several.
func things(invs []*Inventory, policies ...*Compiled) (out []thing) {
	node := func(name string, n Node, present func(*Compiled, *Inventory, time.Time) bool) {
		if present == nil {
			present = func(*Compiled, *Inventory, time.Time) bool { return true }
		}
		out = append(out, thing{name: name, node: n, present: present, who: func(c *Compiled) *acl.Subject { return c.Subject(n) }})
	}
	users, sets, pins := map[string]bool{}, map[string][]string{}, map[string]Node{}
	for _, n := range Nodes(nil, nil, policies...) {
		switch {
		case n.Name != "":
			pins[n.Name] = n
		case n.User != "" && !n.Stranger:
			users[n.User] = true
		case n.User == "":
			sets[strings.Join(n.Tags, "+")] = n.Tags
		}
	}
	real := map[string]Node{}
	where := map[string][]*Inventory{}
	for _, inv := range slices.Compact(slices.Clone(invs)) {
		if inv == nil {
			continue
		}
		for i := range inv.Nodes {
			a := &inv.Nodes[i]
			n := Node{Name: a.Name, User: a.User, Tags: a.tags(), Real: true}
			real[a.Name] = n
			where[a.Name] = append(where[a.Name], inv)
			delete(pins, a.Name)
			if a.User != "" {
				users[a.User] = true
			}
		}
	}
	for u := range users {
		node(u+"/1", Node{User: u}, nil)
		node(u+"/2", Node{User: u}, nil)
	}
	for k, tags := range sets {
		node(k+"/1", Node{Tags: tags}, nil)
		node(k+"/2", Node{Tags: tags}, nil)
	}
	for name, n := range pins {
		node(name, n, nil)
	}
	for name, n := range real {
		node(name, n, func(_ *Compiled, inv *Inventory, _ time.Time) bool {
			return slices.Contains(where[name], inv) && (n.User != "" || len(n.Tags) > 0) // who is nobody is not there
		})
	}
	for i := range 2 {
		out = append(out, thing{name: fmt.Sprint("stranger", i), node: Node{User: stranger, Stranger: true}, present: func(*Compiled, *Inventory, time.Time) bool { return true },
			who: func(*Compiled) *acl.Subject {
				return &acl.Subject{User: &acl.User{Issuer: "any", Subject: fmt.Sprint("stranger", i), Email: "stranger@elsewhere"}}
			}})
		out = append(out, thing{name: fmt.Sprint("claimant", i), node: Node{User: "claimant", Stranger: true, Claim: "groups=eng"}, present: func(*Compiled, *Inventory, time.Time) bool {
			return slices.ContainsFunc(policies, func(c *Compiled) bool { return len(c.Principals[selector("claim:groups=eng")]) > 0 })
		},
			who: func(c *Compiled) *acl.Subject {
				return &acl.Subject{User: &acl.User{Issuer: "any", Subject: fmt.Sprint("claimant", i), Email: "claimant@elsewhere"}, Groups: c.Principals[selector("claim:groups=eng")]}
			}})
	}
	router := &acl.Subject{Tags: []string{"some-router"}}
	for _, a := range []string{"10.0.255.255", "10.1.0.0", "10.1.1.255", "10.1.2.0", "10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.255", "10.1.3.0", "10.1.255.255", "10.2.0.0", "8.8.8.8"} {
		addr := netip.MustParseAddr(a)
		via := acl.Subnet
		if acl.Public(addr) {
			via = acl.Exit
		}
		out = append(out, thing{name: a, node: Node{Address: addr}, via: via, addr: addr, who: func(*Compiled) *acl.Subject { return router },
			present: func(c *Compiled, inv *Inventory, at time.Time) bool {
				return approvedAddr(c, inv, addr, at, users, sets, pins)
			}})
	}
	slices.SortFunc(out, func(a, b thing) int { return strings.Compare(a.name, b.name) })
	return out
}

// approvedAddr reports whether an address is behind an approved route: one that a
// node of the inventory advertises, or that somebody might where no inventory
// tells.
func approvedAddr(c *Compiled, inv *Inventory, addr netip.Addr, at time.Time, users map[string]bool, sets map[string][]string, pins map[string]Node) bool {
	exit := acl.Public(addr)
	tells := inv != nil && slices.ContainsFunc(inv.Nodes, func(a Admitted) bool { return len(a.Routes.Advertised)+len(a.Routes.Approved) > 0 })
	if !tells {
		var possible []Node
		for u := range users {
			possible = append(possible, Node{User: u})
		}
		for _, s := range sets {
			possible = append(possible, Node{Tags: s})
		}
		for _, n := range pins {
			possible = append(possible, n)
		}
		if inv != nil {
			for i := range inv.Nodes {
				possible = append(possible, Node{Name: inv.Nodes[i].Name, User: inv.Nodes[i].User, Tags: inv.Nodes[i].tags()})
			}
		}
		for _, r := range c.Routes {
			if r.Exit != exit || !exit && !r.Prefix.Contains(addr) {
				continue
			}
			if slices.ContainsFunc(possible, func(n Node) bool {
				return slices.ContainsFunc(r.Via, func(s acl.Selector) bool { return s.Selects(c.Subject(n), nil, at) })
			}) {
				return true
			}
			claimant := &acl.Subject{User: &acl.User{Email: "claimant@elsewhere"}, Groups: c.Principals[selector("claim:groups=eng")]}
			if slices.ContainsFunc(r.Via, func(s acl.Selector) bool { return s.Selects(claimant, nil, at) }) {
				return true
			}
		}
		return false
	}
	for i := range inv.Nodes {
		a := &inv.Nodes[i]
		if a.User == "" && len(a.Tags) == 0 {
			continue
		}
		is := func(p netip.Prefix) bool { return exit == (p.Bits() == 0) && p.Contains(addr) }
		if slices.ContainsFunc(a.Routes.Approved, is) {
			return true
		}
		sub := c.Subject(Node{Name: a.Name, User: a.User, Tags: a.tags()})
		for _, p := range a.Routes.Advertised {
			if is(p) && slices.ContainsFunc(c.Routes, func(r acl.Route) bool { return r.Approves(sub, p, at) }) {
				return true
			}
		}
	}
	return false
}

// judge asks package acl.
func judge(c *Compiled, from, to thing, target acl.Target, at time.Time, report map[string]string) bool {
	f, t := *from.who(c), *to.who(c)
	f.Posture = report
	return acl.Judge(c.allInbound(), acl.Request{
		From: &f, To: &t, Target: target, At: at, FromAddr: from.addr, ToAddr: to.addr, FromVia: from.via, ToVia: to.via,
	}).Allowed
}

// holdsAt reads a condition.
func holdsAt(c *conds, id cond, at time.Time, report map[string]string) bool {
	for _, t := range c.terms(id) {
		if len(t.posture) > 0 && !t.posture.Met(report) {
			continue
		}
		minute := int16(0)
		if t.zone != "" {
			minute = minuteOf(at, t.zone)
		}
		if end := endAt(t.spans, minute); end > 0 && at.Unix() < end {
			return true
		}
	}
	return false
}

// classOf finds the class of a thing, as a reader of the class would.
func classOf(sp *space, x thing) int {
	for i := range sp.classes {
		c := &sp.classes[i]
		switch {
		case x.node.Address.IsValid() && x.via == acl.Exit:
			if c.kind == internetEnd {
				return i
			}
		case x.node.Address.IsValid():
			if slices.ContainsFunc(c.ranges, func(r addrRange) bool { return r.contains(x.addr) }) {
				return i
			}
		case c.kind != nodeEnd:
		case x.node.Real:
			if slices.ContainsFunc(c.real, func(id int32) bool { return sp.real[id] == x.node.Name }) {
				return i
			}
		case x.node.Stranger:
			if c.many && c.claimed == "" && c.rep.Claim == x.node.Claim {
				return i
			}
		case x.node.Name != "" && sp.used[acl.Selector{Kind: acl.KindNode, Name: x.node.Name}]:
			if c.named == x.node.Name {
				return i
			}
		case c.named != "" || c.many || c.until[0] == 0 || c.until[len(sp.sides)-1] == 0 || c.rep.Name != "" && c.rep.Real && !c.several:
		case x.node.User != "":
			if slices.ContainsFunc(c.users, func(u int32) bool { return sp.users[u] == x.node.User }) {
				return i
			}
		default:
			if slices.ContainsFunc(c.tagSets, func(id int32) bool { return slices.Equal(sp.tagSets[id], x.node.Tags) }) {
				return i
			}
		}
	}
	return -1
}

// edges are instants, reports and targets at, before and after what the policies
// tell apart; a few of each.
func edges(t *rapid.T, policies ...*Compiled) (instants []time.Time, reports []map[string]string, targets []acl.Target) {
	all := append(hourEdges(), noon.Add(time.Hour-time.Second), noon.Add(time.Hour), noon.Add(50*time.Hour-time.Second), noon.Add(50*time.Hour))
	instants = append([]time.Time{noon}, rapid.SliceOfN(rapid.SampledFrom(all), 6, 6).Draw(t, "instants")...)
	var many []map[string]string
	for _, os := range []string{"", "linux", "macos", "plan9"} {
		for _, v := range []string{"", "13.2", "13.2.1", "13", "14", "14.0", "014", "14.0.0.0.5", "0", "15", "odd"} {
			r := map[string]string{}
			if os != "" {
				r["os"] = os
			}
			if v != "" {
				r["osVersion"] = v
			}
			many = append(many, r)
		}
	}
	reports = append([]map[string]string{{}}, rapid.SliceOfN(rapid.SampledFrom(many), 2, 2).Draw(t, "reports")...)
	targets = rapid.SliceOfNDistinct(rapid.SampledFrom([]acl.Target{
		{Proto: acl.TCP, Port: 78}, {Proto: acl.TCP, Port: 79}, {Proto: acl.TCP, Port: 80}, {Proto: acl.TCP, Port: 81}, {Proto: acl.TCP, Port: 82},
		{Proto: acl.TCP, Port: 442}, {Proto: acl.TCP, Port: 443}, {Proto: acl.TCP, Port: 444}, {Proto: acl.UDP, Port: 53}, {Proto: acl.UDP, Port: 54}, {Proto: acl.TCP},
		{Proto: acl.ICMP, Echo: true}, {Proto: acl.ICMPv6, Echo: true}, {Proto: acl.ICMP}, {Proto: 47}, {Proto: 48}, {Proto: acl.SCTP, Port: 1},
	}), 3, 3, rapid.ID[acl.Target]).Draw(t, "targets")
	return instants, reports, targets
}

// hourEdges are instants at, before and after which hours of the drawn policies
// begin or end, for a week.
func hourEdges() []time.Time {
	out := []time.Time{noon}
	for day := range 8 {
		for _, h := range []int{0, 7, 8, 9, 15, 16, 17, 20, 21, 22, 23} {
			at := time.Date(2026, 11, 23+day, h, 0, 0, 0, time.UTC)
			if at.After(noon) {
				out = append(out, at, at.Add(-time.Second))
			}
		}
	}
	return out
}

// atomOf is the atom of a target.
func atomOf(e *engine, target acl.Target) int {
	for i, c := range e.ports {
		switch {
		case target.Echo:
			if c.Ports.Range == acl.RangeEcho && (c.family == 0 || c.family == target.Proto) {
				return i
			}
		case c.Ports.Range == acl.RangePorts:
			if c.Ports.Contains(target) {
				return i
			}
		case !c.Other && c.Ports.Range == acl.RangeProto && c.Ports.Proto == target.Proto:
			return i
		}
	}
	return slices.IndexFunc(e.ports, func(c PortClass) bool { return c.Other })
}

// few are so many of the things, so that a round stays fast.
func few(t *rapid.T, list []thing, n int) []thing {
	if len(list) <= n {
		return list
	}
	at := rapid.SliceOfNDistinct(rapid.IntRange(0, len(list)-1), n, n, rapid.ID[int]).Draw(t, "ends")
	slices.Sort(at)
	var out []thing
	for _, i := range at {
		out = append(out, list[i])
	}
	return out
}

// inLayer reports whether a rectangle is about a pair of things.
func inLayer(r *rect, f, t thing) bool {
	same := f.node.User != "" && t.node.User != "" && owner1(f) == owner1(t)
	return r.layer == everyPair || r.layer == samePairs && same || r.layer == otherPairs && !same
}

func owner1(x thing) string {
	if x.node.Stranger {
		return x.name
	}
	return x.node.User
}

func checkDiff(t *rapid.T) {
	d := drawer{t, "base ", false}
	base := d.policy(nil)
	head := drawer{t, "head ", false}.policy(base)
	was := drawer{t, "was ", false}.inventory()
	is := was
	if rapid.Bool().Draw(t, "other inventory") {
		is = drawer{t, "is ", false}.inventory()
	}
	e, g, _ := difference(Side{base, was}, Side{head, is}, noon)
	rects := g.rectangles()
	instants, reports, targets := edges(t, base, head)
	all := few(t, things([]*Inventory{was, is}, base, head), 10)
	for _, f := range all {
		cf := classOf(e.sp, f)
		for _, to := range all {
			if f.name == to.name {
				continue
			}
			ct := classOf(e.sp, to)
			for _, target := range targets {
				atom := atomOf(e, target)
				var said *rect
				for i := range rects {
					r := &rects[i]
					if cf >= 0 && ct >= 0 && r.from.has(cf) && r.to.has(ct) && r.atoms.has(atom) && inLayer(r, f, to) {
						if said != nil && (said.was != r.was || said.is != r.is) {
							t.Fatalf("%s to %s on %s: claimed twice", f.name, to.name, target)
						}
						said = r
					}
				}
				for _, at := range instants {
					for _, report := range reports {
						before := f.present(base, was, at) && to.present(base, was, at) && judge(base, f, to, target, at, report)
						middle := f.present(base, is, at) && to.present(base, is, at) && judge(base, f, to, target, at, report)
						after := f.present(head, is, at) && to.present(head, is, at) && judge(head, f, to, target, at, report)
						if said == nil {
							if before != after {
								t.Fatalf("%s (class %d) to %s (class %d) on %s at %s reporting %v: %t before and %t after, want no change said to be one", f.name, cf, to.name, ct, target, at, report, before, after)
							}
							continue
						}
						if got := holdsAt(e.conds, said.was, at, report); got != before {
							t.Fatalf("%s to %s on %s at %s reporting %v: said %t before, want %t", f.name, to.name, target, at, report, got, before)
						}
						if got := holdsAt(e.conds, said.is, at, report); got != after {
							t.Fatalf("%s to %s on %s at %s reporting %v: said %t after, want %t", f.name, to.name, target, at, report, got, after)
						}
						if got := holdsAt(e.conds, said.mid, at, report); got != middle {
							t.Fatalf("%s to %s on %s at %s reporting %v: said %t between, want %t", f.name, to.name, target, at, report, got, middle)
						}
					}
				}
			}
		}
	}
}

// TestDifferenceIsTheOracle compares what the engine says changes, and when, with
// package acl: everything that changes is said, with its conditions, and nothing
// else.
func TestDifferenceIsTheOracle(t *testing.T) { rapid.Check(t, checkDiff) }

// stream is bytes to draw from: those of a seed, and what follows from them, which
// is more than a round takes. A round that runs out of bytes would be skipped.
func stream(seed []byte) []byte {
	const most = 1 << 18
	out := append(make([]byte, 0, len(seed)+most), seed...)
	more := rand.NewChaCha8(sha256.Sum256(seed))
	for range most / 8 {
		out = binary.LittleEndian.AppendUint64(out, more.Uint64())
	}
	return out
}

func FuzzDifference(f *testing.F) {
	for i := range 4 {
		f.Add([]byte(strings.Repeat(string(rune('a'+i*7)), 600)))
	}
	f.Fuzz(func(t *testing.T, seed []byte) { rapid.MakeFuzz(checkDiff)(t, stream(seed)) })
}
