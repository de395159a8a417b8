package build_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
)

// allReports are combinations of what drawn postures tell apart.
var allReports = func() (out []map[string]string) {
	for _, os := range oracleSystems {
		for _, v := range append([]string{"14.0"}, oracleVersions...) {
			for _, e := range []string{"", "on"} {
				r := map[string]string{}
				for _, x := range [][2]string{{"os", os}, {"osVersion", v}, {"custom:edr", e}} {
					if x[1] != "" {
						r[x[0]] = x[1]
					}
				}
				out = append(out, r)
			}
		}
	}
	return out
}()

// distinct drops those of a list that the test tells apart by nothing.
func distinct[T any](list []T, tests []func(T) bool) (out [][]bool) {
	seen := map[string]bool{}
	for _, x := range list {
		var is []bool
		for _, test := range tests {
			is = append(is, test(x))
		}
		if k := fmt.Sprint(is); !seen[k] {
			seen[k] = true
			out = append(out, is)
		}
	}
	return out
}

// moods are what the conditions of rules may be at once: for each rule of the
// readings, one after the other, whether its hours hold and its posture is met.
func moods(hours []time.Time, reports []map[string]string, rs ...*reading) (out [][]bool) {
	var open []func(time.Time) bool
	var met []func(map[string]string) bool
	for _, r := range rs {
		for i := range r.p.Rules {
			rule := &r.p.Rules[i]
			open = append(open, func(at time.Time) bool { return during(rule.Hours, at) })
			met = append(met, func(report map[string]string) bool { return r.meets(rule.Posture, report) })
		}
	}
	for _, h := range distinct(hours, open) {
		for _, p := range distinct(reports, met) {
			both := make([]bool, len(h))
			for i := range h {
				both[i] = h[i] && p[i]
			}
			out = append(out, both)
		}
	}
	return out
}

// give reports for each rule whether it is about two ends at all, and a target or a
// capability.
func (r *reading) give(from, to place, at clocks, what func(*model.Rule) bool) []bool {
	out := make([]bool, len(r.p.Rules))
	for i := range r.p.Rules {
		out[i] = what(&r.p.Rules[i]) && r.between(&r.p.Rules[i], from, to, at, false)
	}
	return out
}

func holds(gives, mood []bool) bool {
	for i, g := range gives {
		if g && mood[i] {
			return true
		}
	}
	return false
}

// An asked is what a question selects: ends that exist.
type asked struct {
	text   string
	places []place
	local  []place // that count as its own, where they are destinations
}

// unknown reports whether an address may be that of a node that nobody knows: then
// it is an end, whether or not it is behind a known one.
func (d *drawn) unknown(addr netip.Addr) bool {
	return d.policy.Network.LiteralAddresses && netip.MustParsePrefix("fd00::/8").Contains(addr)
}

// askable are ends to ask about: nodes, users and addresses.
func (d *drawn) askable(inv *reach.Inventory, at time.Time, claims []string) (out []asked) {
	list := machines(inv)
	for _, m := range list {
		if m.user != "" {
			m.claims = claims
		}
	}
	all := d.places(list, at)
	own := func(of func(*machine) bool) (a asked) {
		for _, p := range all {
			if p.via == acl.Own && of(p.at) {
				a.places = append(a.places, p)
				for _, addr := range p.at.admitted.Local {
					for _, q := range all {
						if q.via == acl.Subnet && q.addr == addr {
							a.local = append(a.local, q)
						}
					}
				}
			}
		}
		return a
	}
	for _, m := range list {
		a := own(func(x *machine) bool { return x == m })
		a.text = "node:" + m.name
		out = append(out, a)
	}
	for _, u := range append(slices.Clone(oracleUsers), "zed@y.example") {
		a := own(func(x *machine) bool { return x.user == u })
		a.text = u
		for range 2 {
			a.places = append(a.places, place{at: &machine{user: u, claims: claims}})
		}
		out = append(out, a)
	}
	for _, addr := range behindAddrs {
		if d.unknown(addr) {
			continue
		}
		a := asked{text: acl.PrefixSelector(netip.PrefixFrom(addr, addr.BitLen())).String()}
		for _, p := range all {
			if p.addr == addr {
				a.places = append(a.places, p)
			}
		}
		out = append(out, a)
	}
	a := asked{text: "autogroup:internet"}
	for _, p := range all {
		if p.via == acl.Exit {
			a.places = append(a.places, p)
		}
	}
	return append(out, a)
}

func (d *drawn) refs(t *rapid.T, text string) []model.Ref {
	s, err := acl.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := compile.NewEnds(d.policy).Refs([]model.Ref{{Selector: s}})
	if err != nil {
		t.Fatal(err)
	}
	return refs
}

// An answer is what a question must find out.
type answer struct {
	reachable, missing bool
	rules              []string
}

// answer reads the policy for a question about all pairs of two ends.
func (d *drawn) answer(from, to asked, targets []acl.Target, at time.Time, any, one [][]bool) (a answer) {
	gives := make([]bool, len(d.policy.Rules))
	pairs := func(list []place, f func(place, place)) {
		for _, x := range from.places {
			for _, y := range list {
				// What lies behind two nodes is one end; a node is one, whatever its addresses.
				same := x.via == y.via && (x.via == acl.Own && x.at == y.at || x.via == acl.Subnet && x.addr == y.addr)
				if !same && sameFamily(x, y) {
					f(x, y)
				}
			}
		}
	}
	for _, target := range targets {
		opens := func(r *model.Rule) bool { return d.read.opens(r.Allow, target) }
		pairs(slices.Concat(to.places, to.local), func(x, y place) {
			g := d.read.give(x, y, clocks{at, at}, opens)
			for _, m := range any {
				a.reachable = a.reachable || holds(g, m)
				for i := range g {
					gives[i] = gives[i] || g[i] && m[i]
				}
			}
		})
		pairs(to.places, func(x, y place) {
			g := d.read.give(x, y, clocks{at, at}, opens)
			for _, m := range one {
				a.missing = a.missing || !holds(g, m)
			}
		})
	}
	for i, g := range gives {
		if g {
			a.rules = append(a.rules, d.policy.Rules[i].Name)
		}
	}
	return a
}

// checkWorld asks the engine about single pairs of ends.
func checkWorld(t *rapid.T, d *drawn, inv *reach.Inventory) {
	at := rapid.SampledFrom(instants).Draw(t, "asked at")
	plain, claimed := d.askable(inv, at, nil), d.askable(inv, at, []string{"groups=eng"})
	type question struct {
		q        reach.Question
		from, to int
		targets  []acl.Target
	}
	var list []question
	var qs []reach.Question
	for range 24 {
		x := question{from: rapid.IntRange(0, len(plain)-2).Draw(t, "from"), to: rapid.IntRange(0, len(plain)-1).Draw(t, "to")}
		target := rapid.SampledFrom(oracleTargets).Draw(t, "target")
		if x.from == x.to && strings.HasPrefix(plain[x.from].text, "node:") || target.Port == 0 && target.Proto != 47 && target.Proto != 46 {
			continue
		}
		ports, err := acl.ParsePorts(target.String())
		if err != nil {
			t.Fatal(err)
		}
		x.targets = []acl.Target{target}
		x.q = reach.Question{From: d.refs(t, plain[x.from].text), To: d.refs(t, plain[x.to].text), Ports: []acl.Ports{ports}, At: at, Fixed: rapid.Bool().Draw(t, "fixed")}
		if rapid.Bool().Draw(t, "reports") {
			x.q.Posture = draft{t: t}.report()
		}
		list, qs = append(list, x), append(qs, x.q)
	}
	w := reach.NewWorld(d.comp, inv, qs)
	known := map[string][2][][]bool{}
	for _, x := range list {
		hours, any, one := hourEdges, allReports, []map[string]string{nil}
		if x.q.Fixed {
			hours = []time.Time{at}
		}
		if x.q.Posture != nil {
			any, one = []map[string]string{x.q.Posture}, []map[string]string{x.q.Posture}
		}
		k := fmt.Sprint(x.q.Fixed, x.q.Posture == nil, x.q.Posture)
		if known[k][0] == nil {
			known[k] = [2][][]bool{moods(hours, any, d.read), moods(hours, one, d.read)}
		}
		want := d.answer(plain[x.from], plain[x.to], x.targets, at, known[k][0], known[k][1])
		with := d.answer(claimed[x.from], claimed[x.to], x.targets, at, known[k][0], known[k][1])
		if fmt.Sprint(want) != fmt.Sprint(with) {
			continue // whether users are asked about with their claims is not compared
		}
		got := answer{len(w.Reachable(x.q)) > 0, len(w.Missing(x.q)) > 0, w.Rules(x.q)}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			b, _ := json.Marshal(inv)
			t.Fatalf("%s to %s on %v at %s, fixed %t, reporting %v: the engine says %+v, the policy %+v\n%s\n%s", plain[x.from].text, plain[x.to].text, x.targets, at, x.q.Fixed, x.q.Posture, got, want, d.text, b)
		}
	}
}

// checkWhy asks for the reasons of single flows.
func checkWhy(t *rapid.T, d *drawn, inv *reach.Inventory) {
	at := rapid.SampledFrom(instants).Draw(t, "why at")
	x := reach.NewExplainer(d.policy, d.comp, inv)
	party := func(p place) reach.Party {
		n := reach.Node{Name: p.at.name, User: p.at.user, Tags: p.at.tags, Real: true}
		return reach.Party{Node: n, Via: p.via, Addr: p.addr, Reports: p.at.reports}
	}
	places := d.places(machines(inv), at)
	for _, from := range some(t, "why from", places, 6) {
		for _, to := range some(t, "why to", places, 6) {
			if from.at == to.at || !sameFamily(from, to) {
				continue
			}
			for _, target := range some(t, "why on", oracleTargets, 3) {
				want := d.read.allows(from, to, target, at, from.at.reports, false)
				if got := x.Judge(party(from), party(to), target, at).Allowed; got != want {
					b, _ := json.Marshal(inv)
					t.Fatalf("%s to %s on %s at %s: why says %t, the policy %t\n%s\n%s", from, to, target, at, got, want, d.text, b)
				}
			}
		}
	}
}

// checkDiff compares what the engine says changes with both readings: for users
// that have no nodes, to all nodes, addresses and the internet.
func checkDiff(t *rapid.T, was, is *drawn, before, after *reach.Inventory) {
	diff := reach.Diff(reach.Side{Policy: was.comp, Inventory: before}, reach.Side{Policy: is.comp, Inventory: after}, moment)
	all := moods(hourEdges, allReports, was.read, is.read)
	split := len(was.policy.Rules)
	var times []time.Time
	for _, e := range oracleEnds {
		for _, at := range []time.Time{e.Add(-time.Second), e} {
			if !at.Before(moment) {
				times = append(times, at)
			}
		}
	}
	// The ends by name: nodes, addresses, and the internet.
	ends := func(d *drawn, inv *reach.Inventory, at time.Time) map[string][]place {
		out := map[string][]place{}
		for _, p := range d.places(machines(inv), at) {
			switch p.via {
			case acl.Own:
				out[p.at.name] = append(out[p.at.name], p)
			case acl.Exit:
				out["autogroup:internet"] = append(out["autogroup:internet"], p)
			default:
				if !was.unknown(p.addr) && !is.unknown(p.addr) {
					out[p.addr.String()] = append(out[p.addr.String()], p)
				}
			}
		}
		return out
	}
	var names []string
	var wasEnds, isEnds []map[string][]place
	for _, at := range times {
		wasEnds, isEnds = append(wasEnds, ends(was, before, at)), append(isEnds, ends(is, after, at))
		for _, m := range []map[string][]place{wasEnds[len(wasEnds)-1], isEnds[len(isEnds)-1]} {
			for name := range m {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, u := range oracleUsers {
		owns := func(inv *reach.Inventory) bool {
			return slices.ContainsFunc(inv.Nodes, func(a reach.Admitted) bool { return a.User == u })
		}
		pinned := func(n model.Node) bool { return n.User == u }
		named := func(l leaf.Leaf) bool { return strings.Contains(string(l.Data), u) }
		if !slices.ContainsFunc(was.leaves, named) && !slices.ContainsFunc(is.leaves, named) {
			continue // one of any other users
		}
		if owns(before) || owns(after) || slices.ContainsFunc(was.policy.Nodes, pinned) || slices.ContainsFunc(is.policy.Nodes, pinned) {
			continue
		}
		for _, to := range some(t, "changes to", names, 12) {
			type check struct {
				text  string
				what  func(*drawn) func(*model.Rule) bool
				claim func(reach.Change) bool
			}
			var checks []check
			for _, target := range some(t, "changes on", oracleTargets, 3) {
				checks = append(checks, check{target.String(),
					func(d *drawn) func(*model.Rule) bool {
						return func(r *model.Rule) bool { return d.read.opens(r.Allow, target) }
					},
					func(c reach.Change) bool {
						return slices.ContainsFunc(c.Ports, func(p string) bool { return inText(p, target) })
					}})
			}
			for _, name := range []string{"x.example/cap/a", "x.example/cap/b"} {
				for _, value := range []string{`"x"`, `{"a":[1,2.5],"b":1}`, "true", `null`} {
					checks = append(checks, check{name + " = " + value,
						func(*drawn) func(*model.Rule) bool {
							return func(r *model.Rule) bool { v, ok := r.Capabilities[name]; return ok && canonical(v) == value }
						},
						func(c reach.Change) bool { return slices.Contains(c.Capabilities, name+" = "+value) }})
				}
			}
			for _, c := range checks {
				truth := func(claims []string) (gained, lost bool) {
					from := place{at: &machine{user: u, claims: claims}}
					for i, at := range times {
						gives := func(d *drawn, list []place) [][]bool {
							var out [][]bool
							for _, y := range list {
								out = append(out, d.read.give(from, y, clocks{at, moment}, c.what(d)))
							}
							return out
						}
						b, a := gives(was, wasEnds[i][to]), gives(is, isEnds[i][to])
						for _, m := range all {
							old, now := false, false
							for _, g := range b {
								old = old || holds(g, m[:split])
							}
							for _, g := range a {
								now = now || holds(g, m[split:])
							}
							gained, lost = gained || now && !old, lost || old && !now
						}
					}
					return gained, lost
				}
				gained, lost := truth(nil)
				if g, l := truth([]string{"groups=eng"}); g != gained || l != lost {
					continue
				}
				said := func(list []reach.Change) bool {
					return slices.ContainsFunc(list, func(x reach.Change) bool {
						return x.Owner != "same" && slices.Contains(x.People, u) && c.claim(x) && (slices.Contains(x.Nodes, to) || slices.ContainsFunc(x.To, func(s string) bool { return behindText(s, to) }))
					})
				}
				if g, l := said(diff.Gained), said(diff.Lost); g != gained || l != lost {
					b, _ := json.MarshalIndent(diff, "", " ")
					i, _ := json.Marshal(before)
					j, _ := json.Marshal(after)
					t.Fatalf("%s to %s on %s: the difference says gained %t, lost %t, want %t, %t\n%s\n%s\n%s\n%s\n%s", u, to, c.text, g, l, gained, lost, was.text, i, is.text, j, b)
				}
			}
		}
	}
}

// inText reads ports as a difference writes them.
func inText(text string, t acl.Target) bool {
	switch text {
	case "other protocols":
		return t.Proto == 46 || t.Proto == 47
	case "icmp over IPv4":
		return t.Echo && t.Proto == acl.ICMP
	case "icmp over IPv6":
		return t.Echo && t.Proto == acl.ICMPv6
	}
	text, but := strings.CutSuffix(text, " but icmp")
	if p, err := acl.ParsePorts(text); err == nil {
		return p.Contains(t) && !(but && t.Echo)
	}
	// Port 0 is in ranges of packets, though no rule writes it.
	proto, rest, _ := strings.Cut(text, "/")
	first, last, ranged := strings.Cut(rest, "-")
	if !ranged {
		last = first
	}
	var a, b int
	if _, err := fmt.Sscan(first, &a); err != nil {
		return false
	}
	if _, err := fmt.Sscan(last, &b); err != nil {
		return false
	}
	return t.Proto.String() == proto && a <= int(t.Port) && int(t.Port) <= b
}

// behindText reads names of what is behind nodes as a difference writes them.
func behindText(text, end string) bool {
	text, except, _ := strings.Cut(text, " except ")
	one := func(s string) bool {
		if s == end {
			return true
		}
		a, err := netip.ParseAddr(end)
		sel, err2 := acl.ParseSelector(s)
		return err == nil && err2 == nil && sel.Prefix().Contains(a)
	}
	for part := range strings.SplitSeq(text, " and ") {
		if !one(part) {
			return false
		}
	}
	for part := range strings.SplitSeq(except, " or ") {
		if part != "" && one(part) {
			return false
		}
	}
	return true
}

// changed draws another inventory of mostly the same nodes.
func (d draft) changed(was *reach.Inventory) *reach.Inventory {
	if d.one(2) {
		return was
	}
	fresh := d.inventory()
	out := &reach.Inventory{}
	for _, a := range was.Nodes {
		if a.Name != "n1" && d.one(4) {
			continue
		}
		if i := slices.IndexFunc(fresh.Nodes, func(b reach.Admitted) bool { return b.Name == a.Name }); i >= 0 && d.one(2) {
			a.Routes, a.Local = fresh.Nodes[i].Routes, fresh.Nodes[i].Local
		}
		out.Nodes = append(out.Nodes, a)
	}
	for _, b := range fresh.Nodes {
		if !slices.ContainsFunc(was.Nodes, func(a reach.Admitted) bool { return a.Name == b.Name }) {
			out.Nodes = append(out.Nodes, b)
		}
	}
	return out
}

func checkEngine(t *rapid.T) {
	d := draft{t: t}
	p := open(t, d.text(d.sections()))
	inv := d.inventory()
	checkWhy(t, p, inv)
	checkWorld(t, p, inv)
}

func checkDifference(t *rapid.T) {
	d := draft{t: t}
	sections := d.sections()
	was := open(t, d.text(sections))
	is := open(t, d.text(d.like(sections)))
	before := d.inventory()
	checkDiff(t, was, is, before, d.changed(before))
}

// TestEngineIsTheOracle asks the engine, and for reasons, what the policy's words
// mean.
func TestEngineIsTheOracle(t *testing.T) {
	soak(t, "45")
	rapid.Check(t, checkEngine)
}

// TestDifferenceIsTheOracle compares what changes between two policies and their
// inventories with their words.
func TestDifferenceIsTheOracle(t *testing.T) {
	soak(t, "45")
	rapid.Check(t, checkDifference)
}

func FuzzEngineOracle(f *testing.F) {
	for _, seed := range []string{"a", "b", "c"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, seed []byte) {
		rapid.MakeFuzz(func(t *rapid.T) { checkEngine(t); checkDifference(t) })(t, stream(seed))
	})
}
