package acl

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

var router = server("router-1", "router")

func TestRouteApproves(t *testing.T) {
	lan := &Route{Prefix: prefix("10.20.0.0/16"), Via: sels("tag:router")}
	any4 := &Route{Prefix: prefix("0.0.0.0/0"), Via: sels("tag:router")}
	exit := &Route{Exit: true, Via: sels("tag:router")}
	for _, c := range []struct {
		route   *Route
		node    *Subject
		offered string
		want    bool
	}{
		{lan, router, "10.20.0.0/16", true}, {lan, router, "10.20.3.0/24", true}, {lan, router, "10.20.3.4/32", true},
		{lan, router, "10.0.0.0/8", false}, {lan, router, "10.21.0.0/16", false}, {lan, router, "0.0.0.0/0", false},
		{lan, router, "fd00:20::/32", false}, {lan, router, "10.20.3.4/16", false}, // not a prefix
		{lan, ledger, "10.20.0.0/16", false}, {lan, ending(router, noon), "10.20.0.0/16", false}, {lan, stranger, "10.20.0.0/16", false},
		{any4, router, "10.0.0.0/8", true}, {any4, router, "0.0.0.0/0", false}, {any4, router, "::/0", false}, {any4, router, "fd00::/8", false},
		{exit, router, "0.0.0.0/0", true}, {exit, router, "::/0", true}, {exit, router, "10.0.0.0/8", false}, {exit, ledger, "0.0.0.0/0", false},
		{&Route{Via: sels("tag:router")}, router, "10.0.0.0/8", false},
		{&Route{Prefix: prefix("10.0.0.0/8")}, router, "10.0.0.0/8", false},
	} {
		if got := c.route.Approves(c.node, prefix(c.offered), noon); got != c.want {
			t.Errorf("%s, exit %v: %s offers %s: got %v, want %v", c.route.Prefix, c.route.Exit, c.node.Name, c.offered, got, c.want)
		}
	}
}

func TestPublic(t *testing.T) {
	for a, want := range map[string]bool{
		"1.1.1.1": true, "8.8.8.8": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true, "11.0.0.0": true, "172.32.0.1": true, "100.63.255.255": true, "100.128.0.0": true,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "100.64.0.1": false, "100.127.255.255": false,
		"127.0.0.1": false, "169.254.169.254": false, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false,
		"::1": false, "::": false, "fd00::1": false, "fe80::1": false, "ff02::1": false, "::ffff:10.0.0.1": false, "2001:db8::1": false, "64:ff9b::a00:1": false,
	} {
		if got := Public(addr(a)); got != want {
			t.Errorf("%s: got %v, want %v", a, got, want)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

// What is behind a node is not the node, and the other way round.
func TestEnds(t *testing.T) {
	allow := func(to, from string) []Inbound {
		return []Inbound{{sel(to), []Grant{{Rule: "r", From: sels(from), Allow: ports("*")}}}}
	}
	own := Request{From: alice, To: router, FromAddr: addr("100.64.0.1"), ToAddr: addr("100.64.0.2"), Target: tcp(443), At: noon}
	behind, beyond := own, own
	behind.ToAddr, behind.ToVia = addr("10.20.0.5"), Subnet
	beyond.ToAddr, beyond.ToVia = addr("1.1.1.1"), Exit
	from := own
	from.From, from.FromAddr, from.FromVia = router, addr("10.20.0.5"), Subnet
	private := beyond
	private.ToAddr = addr("10.20.0.5")
	mine := own
	mine.To, mine.ToAddr = phone, addr("100.64.0.9")
	fromBehindMine := mine
	fromBehindMine.FromAddr, fromBehindMine.FromVia = addr("10.20.0.5"), Subnet
	ended := behind
	ended.To = ending(router, noon)
	for _, c := range []struct {
		name, to, from string
		r              Request
		want           bool
	}{
		{"a node by its tag", "tag:router", "group:accounting", own, true},
		{"a node by its address", "100.64.0.2", "*", own, true},
		{"a node by a prefix", "100.64.0.0/10", "*", own, true},
		{"a node by another prefix", "10.20.0.0/16", "*", own, false},
		{"a node that has no known address", "100.64.0.2", "*", ask(alice, router, tcp(443), noon), false},
		{"a node as the internet", "autogroup:internet", "*", own, false},
		{"behind by its address", "10.20.0.5", "group:accounting", behind, true},
		{"behind by everything", "0.0.0.0/0", "*", behind, true},
		{"behind by everything of the other family", "::/0", "*", behind, false},
		{"behind as the router", "tag:router", "*", behind, false},
		{"behind as any node", "*", "*", behind, false},
		{"behind as the internet", "autogroup:internet", "*", behind, false},
		{"behind a router whose session has ended", "10.20.0.5", "*", ended, false},
		{"beyond an exit node", "autogroup:internet", "*", beyond, true},
		{"beyond an exit node by everything", "0.0.0.0/0", "*", beyond, false},
		{"beyond an exit node as any node", "*", "*", beyond, false},
		{"beyond an exit node, a private address", "autogroup:internet", "*", private, false},
		{"from behind by a prefix", "tag:router", "10.20.0.0/16", from, true},
		{"from behind as the router", "tag:router", "tag:router", from, false},
		{"from behind as any node", "tag:router", "*", from, false},
		{"one's own node", "autogroup:self", "alice@acme.example", mine, true},
		{"one's own node from behind another", "autogroup:self", "10.20.0.0/16", fromBehindMine, false},
		{"a claim selects nobody", "tag:router", "claim:groups=eng", own, false},
		{"a host selects nobody", "tag:router", "host:erp", own, false},
	} {
		if got := Judge(allow(c.to, c.from), c.r).Allowed; got != c.want {
			t.Errorf("%s: %s to %s: got %v, want %v", c.name, c.from, c.to, got, c.want)
		}
	}
	except := []Inbound{{sel("10.20.0.0/16"), []Grant{{Rule: "r", From: sels("*"), ToExcept: sels("10.20.0.5"), Allow: ports("*")}}}}
	other := behind
	other.ToAddr = addr("10.20.0.6")
	if Judge(except, behind).Allowed || !Judge(except, other).Allowed {
		t.Error("a prefix less an address")
	}
}

func TestConditions(t *testing.T) {
	managed := *alice
	managed.Posture = map[string]string{"os": "macos"}
	in := []Inbound{{sel("tag:accounting"), []Grant{{
		Rule: "r", From: sels("*"), Allow: ports("*"), Posture: Postures{{{Attr: "os", Op: OpIn, Values: []string{"macos"}}}},
		Hours: Hours{{Days: 1 << time.Sunday, Start: 9 * 60, End: 17 * 60, Zone: "UTC"}}, // noon is a Sunday
	}}}}
	if v := Judge(in, ask(&managed, ledger, tcp(1), noon)); !v.Allowed || !v.Until.Equal(noon.Add(5*time.Hour)) {
		t.Errorf("got %+v, want allowed until the window's end", v)
	}
	for what, r := range map[string]Request{
		"nothing reported":                      ask(alice, ledger, tcp(1), noon),
		"after hours":                           ask(&managed, ledger, tcp(1), noon.Add(5*time.Hour)),
		"before hours":                          ask(&managed, ledger, tcp(1), noon.Add(-4*time.Hour)),
		"reported by the destination, not here": ask(bob, func() *Subject { s := *ledger; s.Posture = managed.Posture; return &s }(), tcp(1), noon),
	} {
		if Judge(in, r).Allowed {
			t.Errorf("%s: allowed", what)
		}
	}
	if got := NextEnd(in, nil, noon.Add(-5*time.Hour)); !got.Equal(noon.Add(-3 * time.Hour)) {
		t.Errorf("next end before the window: got %s", got)
	}
	if got := NextEnd(in, nil, noon); !got.Equal(noon.Add(5 * time.Hour)) {
		t.Errorf("next end within the window: got %s", got)
	}
}

func TestCapabilities(t *testing.T) {
	cap := func(name, value string) map[string]json.RawMessage {
		return map[string]json.RawMessage{name: json.RawMessage(value)}
	}
	in := []Inbound{
		{sel("tag:accounting"), []Grant{
			{Rule: "a", From: sels("group:accounting"), Capabilities: cap("x/role", `"admin"`)},
			{Rule: "b", From: sels("*"), Capabilities: cap("x/role", `"reader"`), Allow: ports("tcp/1")},
			{Rule: "c", From: sels("*"), Capabilities: cap("x/role", `"ended"`), Until: noon},
			{Rule: "d", From: sels("*"), Except: sels("group:accounting"), Capabilities: cap("x/role", `"other"`)},
		}},
		{sel("*"), []Grant{{Rule: "e", From: sels("*"), Capabilities: cap("x/role", `"reader"`)}}},
		{sel("tag:ci"), []Grant{{Rule: "f", From: sels("*"), Capabilities: cap("x/role", `"builder"`)}}},
	}
	want := map[string][]json.RawMessage{"x/role": {json.RawMessage(`"admin"`), json.RawMessage(`"reader"`)}}
	if d := cmp.Diff(want, Capabilities(in, ask(alice, ledger, Target{}, noon))); d != "" {
		t.Errorf("alice (-want +got):\n%s", d)
	}
	if got := Capabilities(in, ask(stranger, ledger, Target{}, noon)); got != nil {
		t.Errorf("nobody: got %v", got)
	}
	if Judge(in[:1], ask(alice, ledger, tcp(2), noon)).Allowed {
		t.Error("a capability opens a port")
	}
}
