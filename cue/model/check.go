package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// With is p with more rules, such as computed ones, checked like written ones.
// P does not change.
func (p *Policy) With(rules ...Rule) (*Policy, error) {
	q := *p
	q.Rules = append(slices.Clone(p.Rules), rules...)
	q.Groups = slices.Clone(p.Groups)
	q.Tests = slices.Clone(p.Tests)
	q.Warnings = slices.Clone(p.Warnings)
	if err := q.Check(); err != nil {
		return nil, err
	}
	return &q, nil
}

// Check says what is wrong with p as a whole: names that nothing defines, cycles,
// and things that contradict each other. It sorts p, fills in the Ports of
// rules and tests from what is written, and adds to Warnings. A second call
// changes nothing.
func (p *Policy) Check() error {
	c := &check{
		p: p, groups: map[string]*Group{}, tags: map[string]bool{}, nodes: map[string]bool{}, services: map[string]*Service{},
		hosts: map[string]*Host{}, postures: map[string]bool{}, pinned: map[netip.Addr]bool{}, inside: map[string]groupInside{},
		until: map[string]*groupUntil{},
	}
	c.sort()
	for i := range p.Groups {
		c.groups[p.Groups[i].Name] = &p.Groups[i]
	}
	for _, t := range p.Tags {
		c.tags[t.Name] = true
	}
	for _, n := range p.Nodes {
		c.nodes[n.Name] = true
		if n.Address4.IsValid() {
			c.pinned[n.Address4] = true
		}
	}
	for i := range p.Hosts {
		c.hosts[p.Hosts[i].Name] = &p.Hosts[i]
	}
	for _, q := range p.Postures {
		c.postures[q.Name] = true
	}
	c.routed = newPrefixSet(p.Routes)
	for i := range p.Services {
		c.services[p.Services[i].Name] = &p.Services[i]
	}
	c.refs("admins", p.Admins)
	c.checkGroups()
	c.checkServices()
	c.checkRules()
	c.checkTests()
	for _, t := range p.Tags {
		c.refs(subject("tag", t.Name), t.Owners)
	}
	c.checkHosts()
	c.checkRoutes()
	c.checkIdentity()
	for _, t := range p.Teams {
		c.ends(subject("team", t.Name), "scope", t.Scope)
	}
	c.checkNodes()
	c.checkServers()
	c.warnLiteral()
	p.Warnings = append(p.Warnings, c.warnings...).tidy()
	return c.problems.Err()
}

type check struct {
	p        *Policy
	groups   map[string]*Group
	tags     map[string]bool
	nodes    map[string]bool // pinned
	services map[string]*Service
	hosts    map[string]*Host
	postures map[string]bool
	pinned   map[netip.Addr]bool    // addresses of pinned nodes
	routed   prefixSet              // what routes approve
	inside   map[string]groupInside // of groups that were asked about
	until    map[string]*groupUntil // of groups that were asked about
	steps    int                    // taken to find until
	testing  bool                   // what is checked are tests, which give no access
	bearable map[string]bool        // tags that nodes may bear; nil until asked for
	literal  []Place                // where addresses stand that no pinned node has
	looked   int                    // for nearest names, so often
	expanded map[string][]acl.Ports // of services
	problems Problems
	warnings Problems
}

// sort orders everything by name and tells names that are there twice.
func (c *check) sort() {
	p := c.p
	named(c, "group", p.Groups, func(g Group) (string, Place) { return g.Name, g.Place })
	named(c, "tag", p.Tags, func(t Tag) (string, Place) { return t.Name, t.Place })
	named(c, "host", p.Hosts, func(h Host) (string, Place) { return h.Name, h.Place })
	named(c, "service", p.Services, func(s Service) (string, Place) { return s.Name, s.Place })
	named(c, "route", p.Routes, func(r Route) (string, Place) { return r.Prefix.String(), r.Place })
	named(c, "posture", p.Postures, func(q Posture) (string, Place) { return q.Name, q.Place })
	named(c, "identity", p.Identity, func(i Identity) (string, Place) { return i.Name, i.Place })
	named(c, "team", p.Teams, func(t Team) (string, Place) { return t.Name, t.Place })
	named(c, "rule", p.Rules, func(r Rule) (string, Place) { return r.Name, r.Place })
	named(c, "test", p.Tests, func(t Test) (string, Place) { return t.Name, t.Place })
	named(c, "enrolment", p.Enrolment, func(e Enrolment) (string, Place) { return e.Name, e.Place })
	named(c, "node", p.Nodes, func(n Node) (string, Place) { return n.Name, n.Place })
	named(c, "relay", p.Relays, func(r Relay) (string, Place) { return r.Name, r.Place })
	named(c, "coordinator", p.Network.Coordinators, func(k Coordinator) (string, Place) { return k.Name, k.Place })
	named(c, "revoked node", p.Revoked, func(r Revoked) (string, Place) { return r.Node.String(), r.Place })
}

func named[T any](c *check, what string, list []T, id func(T) (string, Place)) {
	slices.SortStableFunc(list, func(a, b T) int {
		x, xp := id(a)
		y, yp := id(b)
		if x != y {
			return strings.Compare(x, y)
		}
		return xp.Compare(yp)
	})
	for i := 1; i < len(list); i++ {
		a, ap := id(list[i-1])
		if b, bp := id(list[i]); a == b {
			c.problems = append(c.problems, Problem{Place: bp, Also: []Place{ap}, Message: subject(what, b) + " is written twice", Hint: "a name is written in one place"})
		}
	}
}

// refs checks that what refs name exists.
func (c *check) refs(what string, refs []Ref) {
	for _, r := range refs {
		c.selector(what, r.Selector, r.Place)
	}
}

func (c *check) selector(what string, s acl.Selector, at Place) {
	switch s.Kind {
	case acl.KindGroup:
		if c.groups[s.Name] == nil {
			unknownName(c, what, "group", s.Name, at, c.groups)
		}
	case acl.KindTag:
		if !c.tags[s.Name] {
			unknownName(c, what, "tag", s.Name, at, c.tags)
		}
	case acl.KindNode:
		c.node(what, s.Name, at)
	case acl.KindHost:
		if c.hosts[s.Name] == nil {
			unknownName(c, what, "host", s.Name, at, c.hosts)
		}
	}
}

// node warns of a name that no node can have.
func (c *check) node(what, name string, at Place) {
	if c.nodes[name] {
		return
	}
	for _, e := range c.p.Enrolment {
		if slices.ContainsFunc(e.Names, func(pattern string) bool { return matches(pattern, name) }) {
			return
		}
	}
	c.warnings.Add(at, "%s: no node can be named %s: none is pinned so, and no enrolment allows it%s",
		what, quoteName(name), near(c, name, c.nodes))
}

func unknownName[T any](c *check, what, kind, name string, at Place, known map[string]T) {
	c.problems.Add(at, "%s: unknown %s %s%s", what, kind, quoteName(name), near(c, name, known))
}

// maxNear is how often a nearest name is looked for: each time it is compared
// with all names, and nobody reads more.
const maxNear = maxProblems

func near[T any](c *check, name string, known map[string]T) string {
	if c.looked++; c.looked > maxNear {
		return ""
	}
	return didYouMean(nearest(name, slices.Collect(maps.Keys(known))))
}

// cycles tells each cycle once, from the least of its names.
func cycles[T any](c *check, what string, list []T, of func(T) (string, Place, []PortRef)) {
	type entry struct {
		inner []PortRef
		at    Place
	}
	entries := map[string]entry{}
	for _, e := range list {
		name, at, inner := of(e)
		entries[name] = entry{inner, at}
	}
	done := map[string]bool{}
	told := map[string]bool{}
	var path []string
	depth := map[string]int{} // of what is on path
	var visit func(name string)
	visit = func(name string) {
		if i, ok := depth[name]; ok {
			loop := slices.Clone(path[i:])
			least := slices.Index(loop, slices.Min(loop))
			loop = append(append(loop[least:len(loop):len(loop)], loop[:least]...), loop[least])
			for j := range loop {
				loop[j] = what + ":" + loop[j]
			}
			text := strings.Join(loop, " -> ")
			if told[text] {
				return
			}
			told[text] = true
			p := Problem{Message: what + " cycle: " + text}
			for j, label := range loop[:len(loop)-1] {
				at := entries[strings.TrimPrefix(label, what+":")].at
				if j == 0 {
					p.Place = at
				} else {
					p.Also = append(p.Also, at)
				}
			}
			c.problems = append(c.problems, p)
			return
		}
		if done[name] {
			return
		}
		depth[name] = len(path)
		path = append(path, name)
		for _, next := range entries[name].inner {
			if _, ok := entries[next.Text]; ok {
				visit(next.Text)
			}
		}
		path = path[:len(path)-1]
		delete(depth, name)
		done[name] = true
	}
	for _, e := range list {
		name, _, _ := of(e)
		visit(name)
	}
}

func (c *check) checkRules() {
	for i := range c.p.Rules {
		r := &c.p.Rules[i]
		what := subject("rule", r.Name)
		c.ends(what, "from", r.From)
		c.ends(what, "to", r.To)
		c.covered(what, r.From)
		c.covered(what, r.To)
		r.Ports = c.ports(what, r.Allow)
		for _, p := range r.Posture {
			if !c.postures[p.Name] {
				unknownName(c, what, "posture", p.Name, p.Place, c.postures)
			}
		}
		if name, ok := strings.CutPrefix(r.Owner, "group:"); ok && c.groups[name] == nil {
			unknownName(c, what+": owner", "group", name, r.Place, c.groups)
		}
	}
}

func (c *check) checkTests() {
	c.testing = true
	defer func() { c.testing = false }()
	for i := range c.p.Tests {
		t := &c.p.Tests[i]
		what := subject("test", t.Name)
		assertion := func(from, to []Ref, on []PortRef) []acl.Ports {
			c.ends(what, "from", from)
			c.ends(what, "to", to)
			return c.ports(what, on)
		}
		t.Allow, t.Deny, t.Only = slices.Clone(t.Allow), slices.Clone(t.Deny), slices.Clone(t.Only)
		for j := range t.Allow {
			a := &t.Allow[j]
			a.Ports = assertion(a.From, a.To, a.On)
		}
		for j := range t.Deny {
			a := &t.Deny[j]
			a.Ports = assertion(a.From, a.To, a.On)
		}
		for j := range t.Only {
			a := &t.Only[j]
			a.Ports = assertion(a.From, a.To, a.On)
		}
	}
}

func (c *check) checkNodes() {
	prefix := c.p.Network.Prefix4
	keys := map[key.NodeID]Place{}
	addresses := map[netip.Addr]Place{}
	endpoints := map[netip.AddrPort]Place{}
	revoked := map[key.NodeID]Place{}
	for _, r := range c.p.Revoked {
		revoked[r.Node] = r.Place
	}
	for _, n := range c.p.Nodes {
		what := subject("node", n.Name)
		c.refs(what, n.Tags)
		switch {
		case n.User != "" && len(n.Tags) > 0:
			c.problems.Add(n.Place, `%s has both "user" and "tags"; a tagged node has no user`, what)
		case n.User == "" && len(n.Tags) == 0:
			c.problems.Add(n.Place, `%s has neither "user" nor "tags"`, what)
		}
		id := n.Key.NodeID()
		if before, ok := keys[id]; ok {
			c.problems = append(c.problems, Problem{Place: n.Place, Also: []Place{before}, Message: what + " has the key of another node"})
		}
		keys[id] = n.Place
		for _, e := range n.Endpoints {
			if prefix.Contains(e.Addr()) {
				c.problems.Add(n.Place, "%s: endpoint %s is inside the network's own prefix4, %s", what, e, prefix)
			}
			if before, ok := endpoints[e]; ok {
				c.problems = append(c.problems, Problem{Place: n.Place, Also: []Place{before}, Message: fmt.Sprintf("%s has the endpoint of another node, %s", what, e)})
			}
			endpoints[e] = n.Place
		}
		if at, ok := revoked[id]; ok {
			c.warnings = append(c.warnings, Problem{Place: n.Place, Also: []Place{at}, Message: what + " is revoked"})
		}
		if !n.Address4.IsValid() {
			continue
		}
		if before, ok := addresses[n.Address4]; ok {
			c.problems = append(c.problems, Problem{Place: n.Place, Also: []Place{before}, Message: fmt.Sprintf("%s has the address of another node, %s", what, n.Address4)})
		}
		addresses[n.Address4] = n.Place
		switch {
		case !prefix.Contains(n.Address4):
			c.problems.Add(n.Place, "%s: address %s is outside the network's prefix4, %s", what, n.Address4, prefix)
		case n.Address4 == prefix.Addr(), !prefix.Contains(n.Address4.Next()):
			c.problems.Add(n.Place, "%s: address %s is the first or last of %s", what, n.Address4, prefix)
		}
	}
}

// checkServers checks what servers join with and where they are.
func (c *check) checkServers() {
	enrolKeys := map[string]Place{}
	for _, e := range c.p.Enrolment {
		what := subject("enrolment", e.Name)
		c.refs(what, e.Tags)
		k := e.Key.String()
		if before, ok := enrolKeys[k]; ok {
			c.problems = append(c.problems, Problem{Place: e.Place, Also: []Place{before}, Message: what + " has the key of another entry"})
		}
		enrolKeys[k] = e.Place
	}
	relayKeys := map[key.NodeID]Place{}
	for _, r := range c.p.Relays {
		id := r.Key.NodeID()
		if before, ok := relayKeys[id]; ok {
			c.problems = append(c.problems, Problem{Place: r.Place, Also: []Place{before}, Message: subject("relay", r.Name) + " has the key of another relay"})
		}
		relayKeys[id] = r.Place
	}
}
