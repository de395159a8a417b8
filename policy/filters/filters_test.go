package filters

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/policy/reach"
)

// A world for tests: random grants and nodes out of few names, so that they meet.
type random struct{ *rand.Rand }

func (r random) pick(list ...string) string { return list[r.IntN(len(list))] }

func (r random) selector() acl.Selector {
	s, err := acl.ParseSelector(r.pick(
		"a@x.example", "b@x.example", "tag:s", "tag:t", "group:g", "group:h", "node:n0", "node:n1", "autogroup:member", "autogroup:tagged", "*",
		"100.64.0.1", "100.64.0.0/30", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd00::/64", "fd00::2", "fd01::/64",
	))
	if err != nil {
		panic(err)
	}
	return s
}

func (r random) selectors(most int) (out []acl.Selector) {
	for range r.IntN(most + 1) {
		out = append(out, r.selector())
	}
	return out
}

var at = time.Date(2027, 3, 3, 10, 30, 0, 0, time.UTC) // a Wednesday

func (r random) grant(rule string) acl.Grant {
	g := acl.Grant{Rule: rule, From: append(r.selectors(2), r.selector()), Except: r.selectors(1), ToExcept: r.selectors(1)}
	for range 1 + r.IntN(2) {
		p, err := acl.ParsePorts(r.pick("tcp/22", "tcp/20-30", "udp/53", "icmp", "proto/47", "proto/6", "*", "sctp/9"))
		if err != nil {
			panic(err)
		}
		g.Allow = append(g.Allow, p)
	}
	switch r.IntN(6) {
	case 0:
		g.Until = at.Add(time.Duration(r.IntN(3)-1) * time.Hour)
	case 1:
		g.Posture = acl.Postures{{{Attr: "os", Op: acl.OpIn, Values: []string{r.pick("macos", "linux")}}}}
	}
	return g
}

func (r random) compiled() *reach.Compiled {
	c := &reach.Compiled{Principals: map[acl.Selector][]acl.Membership{
		{Kind: acl.KindUser, Name: "a@x.example"}: {{Group: "g"}, {Group: "h", Until: at.Add(-time.Minute)}},
		{Kind: acl.KindUser, Name: "b@x.example"}: {{Group: "h", Until: at.Add(time.Minute)}},
		{Kind: acl.KindTag, Name: "t"}:            {{Group: "g"}},
	}}
	inbound := map[acl.Selector]*acl.Inbound{}
	routes := []acl.Route{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Via: []acl.Selector{{Kind: acl.KindTag, Name: "s"}}},
		{Prefix: netip.MustParsePrefix("fd01::/64"), Via: []acl.Selector{{Kind: acl.KindMember}}},
		{Exit: true, Via: []acl.Selector{{Kind: acl.KindAny}}},
	}
	for i := range 1 + r.IntN(4) {
		g := r.grant(fmt.Sprintf("r%d", i))
		for range 1 + r.IntN(2) {
			to := r.selector()
			if r.IntN(6) == 0 {
				to = acl.Selector{Kind: acl.KindSelf}
			}
			if inbound[to] == nil {
				inbound[to] = &acl.Inbound{To: to}
			}
			inbound[to].Grants = append(inbound[to].Grants, g)
			for k := range routes {
				if p := to.Prefix(); !routes[k].Exit && p.IsValid() && routes[k].Prefix.Overlaps(p) {
					if p.Bits() < routes[k].Prefix.Bits() {
						p = routes[k].Prefix
					}
					routes[k].Inbound = append(routes[k].Inbound, acl.Inbound{To: acl.PrefixSelector(p), Grants: []acl.Grant{g}})
				}
			}
		}
		if r.IntN(3) == 0 {
			to := acl.Selector{Kind: acl.KindInternet}
			routes[2].Inbound = append(routes[2].Inbound, acl.Inbound{To: to, Grants: []acl.Grant{g}})
		}
	}
	for _, in := range inbound {
		c.Inbound = append(c.Inbound, *in)
	}
	c.Routes = routes
	return c
}

func (r random) inventory() *reach.Inventory {
	inv := &reach.Inventory{}
	for i := range 5 {
		a := reach.Admitted{Name: fmt.Sprintf("n%d", i), Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", i)),
		}}
		switch r.IntN(5) {
		case 0:
			a.User = "a@x.example"
		case 1:
			a.User = "b@x.example"
		case 2:
			a.Tags = []string{"tag:s"}
		case 3:
			a.Tags = []string{"s", "t"}
		case 4:
			a.User = "c@x.example"
		}
		if r.IntN(2) == 0 {
			a.Posture = map[string]string{"os": r.pick("macos", "linux", "bsd")}
		}
		for range r.IntN(3) {
			p := netip.MustParsePrefix(r.pick("10.1.0.0/16", "10.1.2.0/25", "10.2.0.0/16", "fd01::/96", "192.168.0.0/24", "0.0.0.0/0"))
			a.Routes.Advertised = append(a.Routes.Advertised, p)
			if r.IntN(4) == 0 {
				a.Routes.Approved = append(a.Routes.Approved, p)
			}
		}
		inv.Nodes = append(inv.Nodes, a)
	}
	return inv
}

// behind are addresses that routes and rules tell apart.
var behind = []netip.Addr{
	netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.200"), netip.MustParseAddr("10.1.255.255"), netip.MustParseAddr("10.2.0.0"),
	netip.MustParseAddr("10.3.0.1"), netip.MustParseAddr("192.168.0.9"), netip.MustParseAddr("fd01::77"), netip.MustParseAddr("fd01::1:0:0:1"),
}

var targets = []acl.Target{
	{Proto: acl.TCP, Port: 22}, {Proto: acl.TCP, Port: 31}, {Proto: acl.UDP, Port: 53}, {Proto: acl.ICMP, Echo: true}, {Proto: 47}, {Proto: acl.SCTP, Port: 9},
}

// An end is what acl.Judge is asked about.
type end struct {
	node int
	via  acl.Via
	addr netip.Addr
}

// TestFiltersAreWhatACLSays compares every packet between the ends of random worlds
// with acl.Judge, which is given the subjects, and routes as acl.Route approves
// them.
func TestFiltersAreWhatACLSays(t *testing.T) {
	const worlds = 500
	allowed := 0
	for seed := range uint64(worlds) {
		r := random{rand.New(rand.NewPCG(seed, 7))}
		c, inv := r.compiled(), r.inventory()
		report := Of(c, inv, at)
		subjects := make([]*acl.Subject, len(inv.Nodes))
		var ends []end
		for i, n := range inv.Nodes {
			subjects[i] = c.Subject(reach.Node{Name: n.Name, User: n.User, Tags: plain(n.Tags)})
			subjects[i].Posture = n.Posture
			for _, a := range n.Addresses {
				ends = append(ends, end{i, acl.Own, a})
			}
			for _, a := range behind {
				if forwards(c, n, subjects[i], a) {
					ends = append(ends, end{i, acl.Subnet, a})
				}
			}
		}
		var routed []acl.Inbound
		for _, route := range c.Routes {
			routed = append(routed, route.Inbound...)
		}
		for _, from := range ends {
			for _, to := range ends {
				if from.addr.Is4() != to.addr.Is4() {
					continue
				}
				for _, target := range targets {
					rules := c.Inbound
					if to.via == acl.Subnet {
						rules = routed
					}
					want := acl.Judge(rules, acl.Request{
						From: subjects[from.node], To: subjects[to.node], Target: target, At: at,
						FromAddr: from.addr, ToAddr: to.addr, FromVia: from.via, ToVia: to.via,
					}).Allowed
					got := lets(report.Nodes[inv.Nodes[to.node].Name], from.addr, to.addr, target)
					// An address may be behind two nodes: the filter sees only addresses.
					if got && !want && sameSource(c, inv, subjects, rules, from, to, target) {
						want = true
					}
					if want {
						allowed++
					}
					if got != want {
						text, _ := json.MarshalIndent(c, "", " ")
						nodes, _ := json.Marshal(inv)
						t.Fatalf("seed %d: %v -> %v %v: the filter lets it in: %t, want %t\n%s\n%s", seed, from, to, target, got, want, text, nodes)
					}
				}
			}
		}
		peers(t, report)
	}
	if allowed < worlds {
		t.Errorf("%d packets were allowed in %d worlds: the test tells little", allowed, worlds)
	}
}

// sameSource reports whether the packet is allowed from the same address behind
// another node.
func sameSource(c *reach.Compiled, inv *reach.Inventory, subjects []*acl.Subject, rules []acl.Inbound, from, to end, target acl.Target) bool {
	for i, n := range inv.Nodes {
		for _, via := range []acl.Via{acl.Own, acl.Subnet} {
			switch {
			case via == acl.Own && !slices.Contains(n.Addresses, from.addr), via == acl.Subnet && !forwards(c, n, subjects[i], from.addr):
				continue
			}
			if acl.Judge(rules, acl.Request{
				From: subjects[i], To: subjects[to.node], Target: target, At: at, FromAddr: from.addr, ToAddr: to.addr, FromVia: via, ToVia: to.via,
			}).Allowed {
				return true
			}
		}
	}
	return false
}

func plain(tags []string) (out []string) {
	for _, t := range tags {
		s, err := acl.ParseSelector("tag:" + t)
		if err != nil {
			s = acl.Selector{Kind: acl.KindTag, Name: t[len("tag:"):]}
		}
		out = append(out, s.Name)
	}
	return out
}

func forwards(c *reach.Compiled, n reach.Admitted, s *acl.Subject, a netip.Addr) bool {
	holds := func(p netip.Prefix) bool { return p.Bits() > 0 && p.Contains(a) }
	return slices.ContainsFunc(n.Routes.Approved, holds) || slices.ContainsFunc(n.Routes.Advertised, func(p netip.Prefix) bool {
		return holds(p) && slices.ContainsFunc(c.Routes, func(r acl.Route) bool { return r.Approves(s, p, at) })
	})
}

// lets reads a filter as a node does.
func lets(n *Node, from, to netip.Addr, t acl.Target) bool {
	in := func(list []string, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			sel, err := acl.ParseSelector(s)
			return s == "*" || err == nil && sel.Prefix().Contains(a)
		})
	}
	return slices.ContainsFunc(n.Filter, func(e Entry) bool {
		return in(e.Src, from) && slices.Contains(e.Proto, int(t.Proto)) && slices.ContainsFunc(e.Dst, func(d Dst) bool {
			return in([]string{d.To}, to) && d.First <= t.Port && t.Port <= d.Last
		})
	})
}

// peers are mutual, and nobody is their own.
func peers(t *testing.T, r *Report) {
	t.Helper()
	for name, n := range r.Nodes {
		for _, p := range n.Peers {
			if p == name || !slices.Contains(r.Nodes[p].Peers, name) {
				t.Fatalf("%s has the peer %s, who has %v", name, p, r.Nodes[p].Peers)
			}
		}
	}
}

func TestPorts(t *testing.T) {
	for _, test := range []struct{ allow, want string }{
		{"tcp/22 udp/22", "[{[6 17] [{22 22}]}]"},
		{"tcp/22 tcp/23-30 tcp/25", "[{[6] [{22 30}]}]"},
		{"icmp", "[{[1 58] [{0 65535}]}]"},
		{"proto/6 tcp/22", "[{[6] [{0 65535}]}]"},
		{"proto/47", "[{[47] [{0 65535}]}]"},
	} {
		var allow []acl.Ports
		for _, s := range split(test.allow) {
			p, err := acl.ParsePorts(s)
			if err != nil {
				t.Fatal(err)
			}
			allow = append(allow, p)
		}
		if got := fmt.Sprint(ports(allow)); got != test.want {
			t.Errorf("%s: got %s, want %s", test.allow, got, test.want)
		}
	}
}

func split(s string) (out []string) {
	for len(s) > 0 {
		i := slices.Index([]byte(s), ' ')
		if i < 0 {
			return append(out, s)
		}
		out, s = append(out, s[:i]), s[i+1:]
	}
	return out
}

func TestDstIsAListOfThree(t *testing.T) {
	want := Dst{To: "10.0.0.0/8", First: 1, Last: 65535}
	b, err := json.Marshal(want)
	if err != nil || string(b) != `["10.0.0.0/8",1,65535]` {
		t.Fatalf("got %s, %v", b, err)
	}
	var got Dst
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if err := json.Unmarshal([]byte(`["a",1]`), &got); err == nil {
		t.Error("a list of two is read, want an error")
	}
}

// A filter of a world as leaves compile it, looked at as a whole.
func TestReport(t *testing.T) {
	in := acl.Inbound{To: acl.Selector{Kind: acl.KindTag, Name: "db"}, Grants: []acl.Grant{{
		Rule: "web-to-db", From: []acl.Selector{{Kind: acl.KindTag, Name: "web"}},
		Allow:        []acl.Ports{{Range: acl.RangePorts, Proto: acl.TCP, First: 5432, Last: 5432}, {Range: acl.RangeEcho}},
		Capabilities: map[string]json.RawMessage{"x.example/cap": json.RawMessage(`{"a":1}`)},
	}}}
	l, err := leaf.Encode(leaf.InboundName(in.To), in)
	if err != nil {
		t.Fatal(err)
	}
	c, err := reach.Read([]leaf.Leaf{l})
	if err != nil {
		t.Fatal(err)
	}
	r := Of(c, &reach.Inventory{Nodes: []reach.Admitted{
		{Name: "web", Tags: []string{"web"}, Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1")}},
		{Name: "db", Tags: []string{"tag:db"}, Address4: netip.MustParseAddr("100.64.0.2")},
	}}, at)
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"nodes":{"db":{"filter":[` +
		`{"src":["100.64.0.1"],"dst":[["100.64.0.2",0,65535]],"proto":[1,58],"rules":["web-to-db"]},` +
		`{"src":["100.64.0.1"],"dst":[["100.64.0.2",5432,5432]],"proto":[6],"rules":["web-to-db"]}],` +
		`"peers":["web"],"capabilities":[{"src":["100.64.0.1"],"dst":["100.64.0.2"],"name":"x.example/cap","value":{"a":1},"rule":"web-to-db"}]},` +
		`"web":{"filter":[],"peers":["db"]}}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Printed, it is the same JSON.
	var printed, compact bytes.Buffer
	if err := r.Print(&printed); err != nil {
		t.Fatal(err)
	}
	if err := json.Compact(&compact, printed.Bytes()); err != nil || compact.String() != want {
		t.Errorf("printed: got\n%s\nwant\n%s (%v)", compact.String(), want, err)
	}
}
