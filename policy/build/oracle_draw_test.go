package build_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/policy/reach"
)

// moment is when drawn policies are judged: a Wednesday.
var moment = time.Date(2027, 3, 3, 10, 30, 0, 0, time.UTC)

// oracleEnds are ends that drawn policies write: around the moment, and in the hours
// after it.
var oracleEnds = []time.Time{
	moment.Add(-time.Hour), moment, moment.Add(time.Second), moment.Add(time.Hour), moment.Add(50 * time.Hour),
}

var (
	oracleUsers  = []string{"ann@x.example", "bob@x.example", "cyd@x.example"}
	oracleTags   = []string{"tag:s", "tag:t", "tag:r"}
	oraclePlain  = []string{"group:l0", "group:l1"} // without claims: they may be excepted
	oracleGroups = []string{"group:g0", "group:g1", "group:g2"}
	oracleNodes  = []string{"node:p0", "node:p1", "node:p2"}
	// Addresses behind nodes, and those of pinned nodes.
	oracleBehind = []string{
		"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.1.2.128/25", "host:h1", "host:wide", "0.0.0.0/0",
		"2001:db8:1::/48", "2001:db8:1:2::7", "host:h6", "::/0", "fd12:1::/64",
	}
	oraclePinned   = []string{"100.64.0.9", "host:pin"}
	oracleLiteral  = []string{"100.64.0.3", "100.64.0.8/29", "100.64.0.0/10", "host:lit"}
	oracleLiteral6 = []string{"fd77::/64", "fd77::4"}
	oracleRoutes   = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "2001:db8:1::/48", "::/0", "fd12:1::/64"}
	oraclePorts    = []string{"tcp/80", "tcp/79-81", "tcp/443", "udp/53", "udp/1-65535", "sctp/9", "icmp", "proto/1", "proto/6", "proto/47", "*", "service:web", "service:all"}
	oracleValues   = []string{`"x"`, `{b: 1, a: [1, 2.5]}`, `{a: [1, 2.5], b: 1}`, `true`, `"<&>"`, `null`}
)

// A draft draws a policy in CUE, section by section.
type draft struct {
	t       *rapid.T
	literal bool
	odd     bool // inventories may have nodes that are nobody's, and that have no IPv6 address
}

func (d draft) pick(of ...[]string) string {
	return rapid.SampledFrom(slices.Concat(of...)).Draw(d.t, "word")
}

// one reports true once in so many times.
func (d draft) one(in int) bool { return rapid.IntRange(1, in).Draw(d.t, "chance") == in }

func (d draft) list(least, most int, of ...[]string) []string {
	return some(d.t, "words", slices.Concat(of...), rapid.IntRange(least, most).Draw(d.t, "count"))
}

func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(out, ", ")
}

func (d draft) end() string {
	return rapid.SampledFrom(oracleEnds).Draw(d.t, "end").Format(time.RFC3339)
}

// group draws members: some with an end.
func (d draft) group(claims bool, of ...[]string) string {
	var out []string
	for _, m := range d.list(0, 3, of...) {
		text := fmt.Sprintf("%q", m)
		if d.one(3) {
			text = fmt.Sprintf("{member: %q, until: %q}", m, d.end())
		}
		out = append(out, text)
	}
	if claims && d.one(3) {
		text := `{claim: {name: "groups", value: "eng"}}`
		if d.one(3) {
			text = fmt.Sprintf(`{claim: {name: "groups", value: "eng"}, until: %q}`, d.end())
		}
		out = append(out, text)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

const onlySelf = `["autogroup:self"]`

// ends draws one side of a rule.
func (d draft) ends(from bool) string {
	addresses := slices.Concat(oracleBehind, oraclePinned)
	except := slices.Concat(oracleUsers, oracleTags, oraclePlain, oracleNodes, []string{"autogroup:member", "autogroup:tagged"}, addresses)
	if d.literal {
		addresses = append(addresses, oracleLiteral...)
		if d.odd {
			addresses = append(addresses, oracleLiteral6...)
		}
	}
	nodes := slices.Concat(oracleUsers, oracleTags, oraclePlain, oracleGroups, oracleNodes, []string{"autogroup:member", "autogroup:tagged", "*", "*"})
	if !from && d.one(8) {
		return onlySelf
	}
	difference := func() string {
		any := [][]string{nodes, addresses}
		if d.literal && !d.odd {
			any = any[:1]
		}
		if d.one(2) { // addresses, of which some are excepted
			near := oracleBehind[:8]
			return fmt.Sprintf("{any: [%s], except: [%s]}", quoted(d.list(1, 1, near)), quoted(d.list(1, 2, near[1:7])))
		}
		return fmt.Sprintf("{any: [%s], except: [%s]}", quoted(d.list(1, 2, any...)), quoted(d.list(1, 2, except)))
	}
	if d.one(5) {
		return difference()
	}
	var out []string
	if words := d.list(1, 2, nodes, addresses); !d.one(4) {
		out = append(out, quoted(words))
	}
	if !from && d.one(5) {
		out = append(out, `"autogroup:internet"`)
	}
	if len(out) == 0 || d.one(4) {
		out = append(out, difference())
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (d draft) hours() string {
	var out []string
	for range rapid.IntRange(1, 2).Draw(d.t, "windows") {
		days := d.pick([]string{"", `days: ["mon-fri"], `, `days: ["wed"], `, `days: ["sat", "sun", "tue"], `, `days: ["thu-tue"], `})
		out = append(out, fmt.Sprintf("{%sfrom: %q, to: %q, zone: %q}", days, d.pick([]string{"00:00", "09:00", "11:30", "22:00"}),
			d.pick([]string{"08:00", "11:31", "17:30", "24:00"}), d.pick([]string{"UTC", "Europe/Berlin", "America/New_York"})))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (d draft) rule() string {
	var b strings.Builder
	from, to := d.ends(true), d.ends(false)
	fmt.Fprintf(&b, "{from: %s, to: %s", from, to)
	capable := d.one(3)
	if !capable || d.one(2) {
		fmt.Fprintf(&b, ", allow: [%s]", quoted(d.list(1, 2, oraclePorts)))
	}
	if capable {
		fmt.Fprintf(&b, ", capabilities: {")
		for _, name := range d.list(1, 2, []string{"x.example/cap/a", "x.example/cap/b"}) {
			fmt.Fprintf(&b, "%q: %s, ", name, d.pick(oracleValues))
		}
		b.WriteString("}")
	}
	if d.one(4) {
		fmt.Fprintf(&b, ", until: %q", d.end())
	}
	if d.one(4) {
		fmt.Fprintf(&b, ", hours: %s", d.hours())
	}
	if d.one(4) {
		fmt.Fprintf(&b, ", posture: [%s]", quoted(d.list(1, 2, []string{"m", "v", "e"})))
	}
	b.WriteString("}")
	return b.String()
}

func (d draft) via() string {
	return quoted(d.list(1, 2, oracleTags, oracleUsers[:1], oraclePlain, oracleGroups, oracleNodes, []string{"autogroup:member", "autogroup:tagged"}))
}

var oracleKeys = func() (out []string) {
	for i := range byte(3) {
		out = append(out, key.IdentityPrivateFromSeed([32]byte{i + 1}).Public().String())
	}
	return out
}()

// sections draws what each section of a policy says. Every name is always there, so
// that sections fit together.
func (d draft) sections() map[string]string {
	out := map[string]string{}
	set := func(name, format string, args ...any) { out[name] = fmt.Sprintf(format, args...) }
	set("l0", "groups: l0: %s", d.group(false, oracleUsers, oracleTags))
	set("l1", "groups: l1: %s", d.group(false, oracleUsers, oracleTags, oraclePlain[:1]))
	set("g0", "groups: g0: %s", d.group(true, oracleUsers, oracleTags, oraclePlain))
	set("g1", "groups: g1: %s", d.group(true, oracleUsers, oracleTags, oraclePlain, oracleGroups[:1]))
	set("g2", "groups: g2: %s", d.group(true, oracleUsers, oracleGroups[:2]))
	set("postures", "postures: {m: os: %s, v: osVersion: %s, e: {\"custom:edr\": \"*\", os: %s}}",
		d.pick([]string{`"linux"`, `["linux", "macos"]`, `"!linux"`, `["!linux", "!macos"]`}),
		d.pick([]string{`">=14"`, `"<14.2"`, `[">=13", "<=14"]`, `"14"`, `">14"`}),
		d.pick([]string{`"linux"`, `"*"`, `"!macos"`}))
	set("services", "services: {web: [%s, \"service:tls\"], tls: [\"tcp/443\"], all: [\"service:web\", \"icmp\"]}", d.pick([]string{`"tcp/80"`, `"tcp/8000-8080"`}))
	set("hosts", "hosts: {h1: %q, wide: %q, h6: \"2001:db8:1:2::/64\", pin: \"100.64.0.9\"%s}",
		d.pick([]string{"10.1.2.3", "10.1.2.4"}), d.pick([]string{"10.1.0.0/16", "10.0.0.0/9"}), map[bool]string{true: `, lit: "100.64.0.2"`}[d.literal])
	set("nodes", "nodes: {p0: {key: %q, %s, address4: \"100.64.0.9\"}, p1: {key: %q, tags: [\"tag:s\"]}, p2: {key: %q, tags: [\"tag:r\", \"tag:t\"], address4: \"100.64.0.10\"}}",
		oracleKeys[0], d.pick([]string{`user: "ann@x.example"`, `tags: ["tag:s"]`}), oracleKeys[1], oracleKeys[2])
	var routes []string
	for _, r := range d.list(0, 4, oracleRoutes) {
		routes = append(routes, fmt.Sprintf("%q: via: [%s]", r, d.via()))
	}
	set("routes", "routes: {%s}", strings.Join(routes, ", "))
	set("exit", "")
	if d.one(2) {
		set("exit", "exit: via: [%s]", d.via())
	}
	for i := range rapid.IntRange(1, 4).Draw(d.t, "rules") {
		set(fmt.Sprint("r", i), "rules: r%d: %s", i, d.rule())
	}
	return out
}

// like draws a policy that has most in common with another.
func (d draft) like(was map[string]string) map[string]string {
	out := d.sections()
	for _, name := range slices.Sorted(keysOf(was, out)) {
		if d.one(3) {
			continue
		}
		if text, ok := was[name]; ok {
			out[name] = text
		} else {
			delete(out, name)
		}
	}
	return out
}

func keysOf(list ...map[string]string) func(func(string) bool) {
	seen := map[string]bool{}
	return func(yield func(string) bool) {
		for _, m := range list {
			for k := range m {
				if !seen[k] {
					seen[k] = true
					if !yield(k) {
						return
					}
				}
			}
		}
	}
}

// text is a policy of sections.
func (d draft) text(sections map[string]string) string {
	var b strings.Builder
	b.WriteString("package network\n\nnetwork: {name: \"x\", domain: \"x.mesh\"")
	if d.literal {
		b.WriteString(", literalAddresses: true")
	}
	b.WriteString("}\nidentity: idp: {issuer: \"https://login.x.example\", clientID: \"writ\", members: [\"*@x.example\"]}\ntags: {s: {}, t: {}, r: {}}\n")
	for _, name := range slices.Sorted(keysOf(sections)) {
		b.WriteString(sections[name] + "\n")
	}
	return b.String()
}

// inventory draws nodes: pinned ones among them, and of users that no policy knows.
func (d draft) inventory() *reach.Inventory {
	inv := &reach.Inventory{}
	for i, name := range []string{"p0", "n1", "n2", "n3", "n4", "p2"} {
		if i > 1 && d.one(4) {
			continue
		}
		a := reach.Admitted{Name: name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)})}}
		switch name {
		case "p0":
			a.Addresses[0] = netip.MustParseAddr("100.64.0.9")
		case "p2":
			a.Addresses[0] = netip.MustParseAddr("100.64.0.10")
		}
		if !d.odd || !d.one(4) {
			a.Addresses = append(a.Addresses, netip.MustParseAddr(fmt.Sprintf("fd77::%d", i+1)))
		}
		switch k := rapid.IntRange(0, 9).Draw(d.t, "whose"); {
		case k < 4:
			a.User = d.pick(oracleUsers, []string{"zed@y.example"})
		case k < 9 || !d.odd:
			a.Tags = d.list(1, 2, []string{"tag:s", "tag:t", "tag:r", "tag:unknown"})
			if d.one(3) {
				for j := range a.Tags {
					a.Tags[j] = strings.TrimPrefix(a.Tags[j], "tag:")
				}
			}
		}
		a.Posture = d.report()
		if name == "n1" || d.one(2) { // some node always tells what it forwards to
			for _, p := range d.list(1, 2, []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.0/26", "10.9.0.0/16", "192.168.7.0/24", "0.0.0.0/0", "2001:db8:1::/48", "2001:db8:1:2::/64", "fd12:1::/64"}) {
				q := netip.MustParsePrefix(p)
				only := d.one(6)
				if !only {
					a.Routes.Advertised = append(a.Routes.Advertised, q)
				}
				if only || d.one(4) {
					a.Routes.Approved = append(a.Routes.Approved, q)
				}
			}
		}
		if d.one(4) {
			a.Local = []netip.Addr{netip.MustParseAddr(d.pick([]string{"10.1.2.3", "10.1.2.9", "192.168.7.7", "2001:db8:1:2::7"}))}
		}
		inv.Nodes = append(inv.Nodes, a)
	}
	return inv
}

var (
	oracleSystems  = []string{"", "linux", "macos", "windows"}
	oracleVersions = []string{"", "12.9", "13", "13.0.0", "14", "14.0.1", "14.1.9", "14.2", "odd"}
)

// report draws what a node says of itself.
func (d draft) report() map[string]string {
	out := map[string]string{}
	for _, a := range []struct {
		name string
		of   []string
	}{{"os", oracleSystems}, {"osVersion", oracleVersions}, {"custom:edr", []string{"", "on"}}} {
		if v := d.pick(a.of); v != "" {
			out[a.name] = v
		}
	}
	return out
}
