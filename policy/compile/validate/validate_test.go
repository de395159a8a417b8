package validate_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/compile/validate"
	"github.com/writmesh/writ/policy/reach"
)

const whole = `package network

network: {
	name: "acme", domain: "acme.mesh", session: "12h"
	coordinators: a: {addr: "a.acme.example:443", pin: "idpub:IDPUB"}
}
admins: ["group:it"]
identity: acme: {issuer: "https://login.acme.example", clientID: "writ", members: ["*@acme.example"]}
groups: {
	eng: ["alice@acme.example", "group:it", {member: "bob@acme.example", until: "2027-01-01T00:00:00Z"}]
	it: ["erin@acme.example", {claim: {name: "groups", value: "it"}}]
}
tags: {db: {}, router: {}, old: {}}
hosts: erp: "10.20.0.5"
services: {web: ["tcp/80", "service:tls"], tls: ["tcp/443"]}
routes: "10.20.0.0/16": via: ["tag:router"]
exit: via: ["tag:router"]
postures: managed: {os: ["macos", "linux"], osVersion: ">=14"}
relays: one: {addr: "one.acme.example:443", key: "idpub:OTHER", stun: ["one.acme.example:3478"]}
nodes: probe: {key: "idpub:IDPUB", tags: ["tag:db"], address4: "100.64.0.9", endpoints: ["203.0.113.5:7"]}
enrolment: fleet: {key: "enrol:ENROL", tags: ["tag:db"], names: ["db-*"], expires: "2027-01-01T00:00:00Z"}
rules: {
	web: {from: [{any: ["group:eng", "tag:router"], except: ["bob@acme.example"]}], to: [{any: ["tag:db"], except: ["tag:old"]}], allow: ["service:web", "udp/5000-5010"], until: "2027-06-30T00:00:00Z", posture: ["managed"], hours: [{days: ["mon-fri"], from: "09:00", to: "17:00", zone: "Europe/Berlin"}]}
	cap: {from: ["group:it"], to: ["tag:db"], capabilities: "acme.example/cap/x": [{write: true}]}
	erp: {from: ["group:eng", "0.0.0.0/0"], to: [{any: ["10.20.0.0/24", "host:erp"], except: ["10.20.0.128/25"]}], allow: ["tcp/1433"]}
	out: {from: ["group:it"], to: ["autogroup:internet"], allow: ["*"]}
	self: {from: ["autogroup:member"], to: ["autogroup:self"], allow: ["tcp/22"]}
}
`

// TestValidationFindsWhatIsWrong changes one thing in one leaf at a time, as a
// compiler with a mistake would.
func TestValidationFindsWhatIsWrong(t *testing.T) {
	p := load(t, whole)
	good, c := compiled(t, p)
	if err := validate.Leaves(p, good, c); err != nil {
		t.Fatalf("what is right: %v", err)
	}
	for _, c := range []struct {
		name, leaf, old, new string // an empty old stands for the whole leaf, an empty new removes it
	}{
		{"an exception is lost", "inbound/tag:db", `"except":["bob@acme.example"],`, ``},
		{"an exception of another", "inbound/tag:db", `"except":["bob@acme.example"]`, `"except":["erin@acme.example"]`},
		{"an exception of destinations is lost", "inbound/tag:db", `"toExcept":["tag:old"],`, ``},
		{"a port is wider", "inbound/tag:db", `"tcp/80"`, `"tcp/80-81"`},
		{"a port is missing", "inbound/tag:db", `"tcp/443",`, ``},
		{"a range is narrower", "inbound/tag:db", `"udp/5000-5010"`, `"udp/5001-5010"`},
		{"another protocol", "inbound/tag:db", `"udp/5000-5010"`, `"sctp/5000-5010"`},
		{"every port", "inbound/tag:db", `"tcp/80","tcp/443","udp/5000-5010"`, `"*"`},
		{"a port beside a capability", "inbound/tag:db", `"allow":[]`, `"allow":["icmp"]`},
		{"an end is lost", "inbound/tag:db", `,"until":"2027-06-30T00:00:00Z"`, ``},
		{"a later end", "inbound/tag:db", `2027-06-30T00:00:00Z`, `2027-06-30T00:00:01Z`},
		{"hours are lost", "inbound/tag:db", `,"hours":[{"days":["mon","tue","wed","thu","fri"],"from":"09:00","to":"17:00","zone":"Europe/Berlin"}]`, ``},
		{"a longer day", "inbound/tag:db", `"to":"17:00"`, `"to":"17:01"`},
		{"another zone", "inbound/tag:db", `Europe/Berlin`, `Europe/London`},
		{"one day more", "inbound/tag:db", `"fri"]`, `"fri","sat"]`},
		{"posture is lost", "inbound/tag:db", `,"posture":[[{"attr":"os","op":"in","values":["linux","macos"]},{"attr":"osVersion","op":">=","values":["14"]}]]`, ``},
		{"a condition is lost", "inbound/tag:db", `{"attr":"os","op":"in","values":["linux","macos"]},`, ``},
		{"another comparison", "inbound/tag:db", `"op":"in"`, `"op":"not in"`},
		{"all conditions become any", "inbound/tag:db", `},{"attr":"osVersion"`, `}],[{"attr":"osVersion"`},
		{"another group", "inbound/tag:db", `"group:eng"`, `"group:it"`},
		{"one source more", "inbound/tag:db", `"from":["group:eng",`, `"from":["autogroup:member","group:eng",`},
		{"one source less", "inbound/tag:db", `"group:eng",`, ``},
		{"another rule's name", "inbound/tag:db", `"rule":"web"`, `"rule":"wed"`},
		{"a capability says more", "inbound/tag:db", `"write":true`, `"write":"true"`},
		{"a capability is lost", "inbound/tag:db", `,"capabilities":{"acme.example/cap/x":[{"write":true}]}`, ``},
		{"a grant is lost", "inbound/autogroup:self", `{"rule":"self","from":["autogroup:member"],"allow":["tcp/22"]}`, ``},
		{"a leaf is lost", "inbound/autogroup:self", "", ""},
		{"a leaf too many", "inbound/tag:old", "", `{"to":"tag:old","grants":[]}`},
		{"a leaf of another kind", "workload/ci", "", `{}`},
		{"a membership too many", "principal/alice@acme.example", `{"group":"eng"}`, `{"group":"eng"},{"group":"it"}`},
		{"a membership less", "principal/erin@acme.example", `{"group":"eng"},`, ``},
		{"a membership without its end", "principal/bob@acme.example", `,"until":"2027-01-01T00:00:00Z"`, ``},
		{"a principal is lost", "principal/claim:groups=it", "", ""},
		{"a principal too many", "principal/mallory@acme.example", "", `{"principal":"mallory@acme.example","groups":[{"group":"it"}]}`},
		{"a wider route", "route/10.20.0.0/16", `"to":"10.20.0.0/24"`, `"to":"10.20.0.0/23"`},
		{"an exception behind a route is lost", "route/10.20.0.0/16", `"toExcept":["10.20.0.128/25"],`, ``},
		{"addresses of nodes count as sources", "route/10.20.0.0/16", `"except":["*"],`, ``},
		{"another router", "route/10.20.0.0/16", `"via":["tag:router"]`, `"via":["tag:db"]`},
		{"a router more", "route/exit", `"via":["tag:router"]`, `"via":["autogroup:member","tag:router"]`},
		{"everybody to the internet", "route/exit", `"group:it"`, `"autogroup:member"`},
		{"a route is lost", "route/exit", "", ""},
		{"another key", "node/probe", "IDPUB", "OTHER"},
		{"another tag", "node/probe", `"db"`, `"old"`},
		{"an address is lost", "node/probe", `,"address4":"100.64.0.9"`, ``},
		{"enrolment without an end", "enrolment/fleet", `,"expires":"2027-01-01T00:00:00Z"`, ``},
		{"enrolment under any name", "enrolment/fleet", `"db-*"`, `"*"`},
		{"any e-mail address", "identity/acme", `"*@acme.example"`, `"*"`},
		{"a longer session", "network", `"session":43200`, `"session":432000`},
		{"another administrator", "network", `"group:it"`, `"group:eng"`},
		{"another coordinator", "network", "IDPUB", "OTHER"},
		{"another prefix", "network", `100.64.0.0/10`, `100.64.0.0/11`},
		{"another relay", "relays", "OTHER", "IDPUB"},
		{"another endpoint", "relays", `203.0.113.5:7`, `203.0.113.5:8`},
		{"no STUN", "relays", `,"stun":["one.acme.example:3478"]`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			for stands, key := range standIns {
				c.old, c.new = strings.ReplaceAll(c.old, stands, key), strings.ReplaceAll(c.new, stands, key)
			}
			var list []leaf.Leaf
			done := false
			for _, l := range good {
				name, data := l.Name, string(l.Data)
				if name == c.leaf {
					if done = true; c.old == "" {
						continue
					}
					changed := strings.Replace(data, c.old, c.new, 1)
					if changed == data {
						t.Fatalf("%s does not have %s: %s", name, c.old, data)
					}
					data = changed
				}
				list = append(list, leaf.Leaf{Name: name, Data: []byte(data)})
			}
			if c.old == "" && c.new != "" {
				if done {
					t.Fatalf("%s is there", c.leaf)
				}
				list = append(list, leaf.Leaf{Name: c.leaf, Data: []byte(c.new)})
				done = true
			}
			if !done {
				t.Fatalf("no leaf %s", c.leaf)
			}
			read, err := reach.Read(list)
			if err != nil {
				t.Fatalf("the changed leaf does not decode, which says nothing: %v", err)
			}
			if err := validate.Leaves(p, list, read); err == nil {
				t.Errorf("got no error, want one about %s", c.leaf)
			} else if !strings.Contains(err.Error(), c.leaf) {
				t.Errorf("got %v, want it to name %s", err, c.leaf)
			}
		})
	}
}

// TestValidationSeesWhatWasRead: the leaves are right, what tests are asked of is
// not.
func TestValidationSeesWhatWasRead(t *testing.T) {
	p := load(t, whole)
	list, _ := compiled(t, p)
	for name, spoil := range map[string]func(*reach.Compiled){
		"an inbound": func(c *reach.Compiled) { c.Inbound = c.Inbound[1:] },
		"a grant":    func(c *reach.Compiled) { c.Inbound[0].Grants = nil },
		"a route":    func(c *reach.Compiled) { c.Routes = c.Routes[1:] },
		"a membership": func(c *reach.Compiled) {
			delete(c.Principals, acl.Selector{Kind: acl.KindUser, Name: "alice@acme.example"})
		},
		"the admins":    func(c *reach.Compiled) { c.Admins = nil },
		"a relay":       func(c *reach.Compiled) { c.Relays = nil },
		"the session":   func(c *reach.Compiled) { c.Session = 0 },
		"a provider":    func(c *reach.Compiled) { c.Identity = nil },
		"a coordinator": func(c *reach.Compiled) { c.Coordinators = nil },
	} {
		c, err := reach.Read(list)
		if err != nil {
			t.Fatal(err)
		}
		spoil(c)
		if err := validate.Leaves(p, list, c); err == nil {
			t.Errorf("%s was not read: got no error, want one", name)
		}
	}
}

// TestGroupingDoesNotMatter splits every grant into one for each source, and
// turns lists round: the same is meant.
func TestGroupingDoesNotMatter(t *testing.T) {
	p := load(t, whole)
	list, c := compiled(t, p)
	split := func(grants []acl.Grant) (out []acl.Grant) {
		for _, g := range grants {
			for _, from := range slices.Backward(g.From) {
				one := g
				one.From = []acl.Selector{from}
				one.Allow = slices.Clone(g.Allow)
				slices.Reverse(one.Allow)
				out = append(out, one)
			}
		}
		return out
	}
	for i := range c.Inbound {
		c.Inbound[i].Grants = split(c.Inbound[i].Grants)
	}
	for i := range c.Routes {
		for j := range c.Routes[i].Inbound {
			c.Routes[i].Inbound[j].Grants = split(c.Routes[i].Inbound[j].Grants)
		}
	}
	if err := validate.Leaves(p, list, c); err != nil {
		t.Errorf("got %v, want no difference", err)
	}
}

// TestWhatIsCompiledIsValid compiles policies of any constructs; and finds a
// grant that is taken out of the result.
func TestWhatIsCompiledIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPolicy(t)
		list, err := compile.Leaves(p)
		if err != nil {
			t.Fatal(err)
		}
		c, err := reach.Read(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Leaves(p, list, c); err != nil {
			t.Fatalf("%v\n%s", err, list)
		}
		for i := range c.Inbound {
			if n := len(c.Inbound[i].Grants); n > 0 {
				c.Inbound[i].Grants = c.Inbound[i].Grants[:n-1]
				g := mustFrom(t, list, c.Inbound[i].To)
				if err := validate.Leaves(p, list, c); err == nil && g {
					t.Fatalf("without a grant at %s: got no error, want one", c.Inbound[i].To)
				}
				return
			}
		}
	})
}

// mustFrom reports whether the last grant at a destination has a source that is
// a node: one of addresses may have none left.
func mustFrom(t *rapid.T, list []leaf.Leaf, to acl.Selector) bool {
	for _, l := range list {
		if l.Name == leaf.InboundName(to) {
			in, _, err := leaf.DecodeInbound(l)
			if err != nil {
				t.Fatal(err)
			}
			last := in.Grants[len(in.Grants)-1]
			return last.From[0].Kind != acl.KindPrefix
		}
	}
	return false
}

func anyPolicy(t *rapid.T) *model.Policy {
	pick := func(of ...string) acl.Selector {
		s, err := acl.ParseSelector(rapid.SampledFrom(of).Draw(t, "selector"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	addresses := []string{"10.20.0.5", "10.20.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/9", "2001:db8::/32", "192.168.1.0/24", "100.64.0.9", "host:erp", "host:probe"}
	nodes := []string{"a@x.example", "b@x.example", "group:g0", "group:g1", "tag:t", "tag:u", "node:probe", "autogroup:member", "*"}
	p := &model.Policy{Network: model.Network{
		Name: "n", Domain: "n.mesh", Prefix4: netip.MustParsePrefix("100.64.0.0/10"), LiteralAddresses: rapid.Bool().Draw(t, "literal"),
	}}
	if p.Network.LiteralAddresses {
		addresses = append(addresses, "100.64.0.5", "100.64.0.0/16")
	}
	p.Nodes = []model.Node{{Name: "probe", Key: key.IdentityPrivateFromSeed([32]byte{1}).Public(), User: "a@x.example", Address4: netip.MustParseAddr("100.64.0.9")}}
	p.Hosts = []model.Host{{Name: "erp", Prefix: netip.MustParsePrefix("10.20.0.7/32")}, {Name: "probe", Prefix: netip.MustParsePrefix("100.64.0.9/32")}}
	p.Postures = []model.Posture{{Name: "m", Conditions: acl.Posture{{Attr: "os", Op: acl.OpIn, Values: []string{"b", "a"}}}}}
	p.Services = []model.Service{{Name: "s", Ports: []model.PortRef{{Text: "tcp/1"}, {Text: "tcp/2-9"}}}}
	for i := range 2 {
		g := model.Group{Name: fmt.Sprintf("g%d", i)}
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			g.Members = append(g.Members, model.Member{Selector: pick("a@x.example", "b@x.example", "tag:t", "claim:c=v")})
		}
		p.Groups = append(p.Groups, g)
	}
	p.Groups[1].Members = append(p.Groups[1].Members, model.Member{Selector: acl.Selector{Kind: acl.KindGroup, Name: "g0"}, Until: time.Unix(2e9, 0)})
	for _, r := range []string{"10.20.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/48"} {
		if rapid.Bool().Draw(t, "route") {
			p.Routes = append(p.Routes, model.Route{Prefix: netip.MustParsePrefix(r), Via: []model.Ref{{Selector: pick(nodes...)}}})
		}
	}
	if rapid.Bool().Draw(t, "exit") {
		p.Exit = &model.Exit{Via: []model.Ref{{Selector: pick(nodes...)}}}
	}
	refs := func(from bool) (out []model.Ref) {
		for range rapid.IntRange(1, 4).Draw(t, "refs") {
			ref := model.Ref{Selector: pick(append(slices.Clone(nodes), addresses...)...)}
			for range rapid.IntRange(0, 3).Draw(t, "except") {
				ref.Except = append(ref.Except, model.Exception{Selector: pick(append(slices.Clone(nodes[:8]), addresses...)...)})
			}
			if !from && len(ref.Except) == 0 && rapid.IntRange(0, 5).Draw(t, "internet") == 0 {
				ref.Selector = acl.Selector{Kind: acl.KindInternet}
			}
			out = append(out, ref)
		}
		return out
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
		r := model.Rule{Name: fmt.Sprintf("r%d", i), From: refs(true), To: refs(false)}
		for range rapid.IntRange(0, 3).Draw(t, "ports") {
			text := rapid.SampledFrom([]string{"tcp/1", "tcp/2-9", "service:s", "icmp", "proto/47", "*"}).Draw(t, "port")
			r.Allow = append(r.Allow, model.PortRef{Text: text})
			if text == "service:s" {
				r.Ports = append(r.Ports, acl.Ports{Range: acl.RangePorts, Proto: acl.TCP, First: 1, Last: 1}, acl.Ports{Range: acl.RangePorts, Proto: acl.TCP, First: 2, Last: 9})
				continue
			}
			ports, err := acl.ParsePorts(text)
			if err != nil {
				t.Fatal(err)
			}
			r.Ports = append(r.Ports, ports)
		}
		if rapid.Bool().Draw(t, "posture") {
			r.Posture = []model.NameRef{{Name: "m"}}
		}
		if rapid.Bool().Draw(t, "until") {
			r.Until = time.Unix(1_900_000_000, 0).UTC()
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// standIns are what test policies write instead of keys.
var standIns = map[string]string{
	"IDPUB": testKey(1), "OTHER": testKey(2),
	"ENROL": "p2bgp3zgu7xiofiguuk3nbbluxcwartaupv5z7z2ybt3asghu22q",
}

func testKey(n byte) string {
	return strings.TrimPrefix(key.IdentityPrivateFromSeed([32]byte{n}).Public().String(), "idpub:")
}

func load(t *testing.T, text string) *model.Policy {
	t.Helper()
	for stands, key := range standIns {
		text = strings.ReplaceAll(text, stands, key)
	}
	p, err := model.Load(fstest.MapFS{"p.cue": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compiled are the leaves of a policy, and what is read back of them.
func compiled(t *testing.T, p *model.Policy) ([]leaf.Leaf, *reach.Compiled) {
	t.Helper()
	list, err := compile.Leaves(p)
	if err != nil {
		t.Fatal(err)
	}
	c, err := reach.Read(list)
	if err != nil {
		t.Fatal(err)
	}
	return list, c
}
