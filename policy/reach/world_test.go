package reach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// selects reads a reference as its meaning is written in package acl.
func selects(c *Compiled, r model.Ref, x thing) bool {
	one := func(s acl.Selector) bool {
		switch s.Kind {
		case acl.KindPrefix:
			return x.via == acl.Subnet && s.Prefix().Contains(x.addr)
		case acl.KindInternet:
			return x.via == acl.Exit
		}
		return x.via == acl.Own && s.Selects(x.who(c), nil, noon)
	}
	return one(r.Selector) && !slices.ContainsFunc(r.Except, func(e model.Exception) bool { return one(e.Selector) })
}

func (d drawer) refs(what string) (out []model.Ref) {
	for _, s := range d.some(what, append([]string{"autogroup:internet", "10.1.2.0/25", "c@x"}, sourceTexts...), 1, 2) {
		r := model.Ref{Selector: s}
		if d.chance(what+" except", 3) {
			r.Except = []model.Exception{{Selector: d.some(what+" excepted", exceptTexts, 1, 1)[0]}}
		}
		out = append(out, r)
	}
	return out
}

func checkWorld(t *rapid.T) {
	d := drawer{t, "", true}
	c, inv := d.policy(nil), d.inventory()
	q := Question{At: noon, Fixed: d.chance("fixed", 2), Outside: d.chance("outside", 3)}
	if !d.chance("from everywhere", 5) || q.Outside {
		q.From = d.refs("asked from")
	}
	if !d.chance("to everywhere", 5) {
		q.To = d.refs("asked to")
	}
	for range rapid.IntRange(0, 2).Draw(t, "asked ports") {
		p, err := acl.ParsePorts(d.one("asked port", allowTexts))
		if err != nil {
			panic(err)
		}
		q.Ports = append(q.Ports, p)
	}
	_, reports, targets := edges(t, c)
	instants, missingReport := hourEdges(), map[string]string{}
	if d.chance("reported", 2) {
		q.Posture = reports[1]
		reports, missingReport = reports[1:2], q.Posture
	}
	if q.Fixed {
		instants = []time.Time{noon}
	}
	w := NewWorld(c, inv, []Question{q})
	in := w.inquire(q)
	reached, missing := w.reachable(in).rectangles(), w.missing(w.inquire(q)).rectangles()
	rules, meet := w.Rules(q), w.Meet(q)
	users := []string{"a@x", "b@x", "c@x"}
	for _, r := range slices.Concat(q.From, q.To) {
		if r.Selector.Kind == acl.KindUser && !slices.Contains(users, r.Selector.Name) {
			users = append(users, r.Selector.Name)
		}
	}
	asked := &Compiled{Principals: map[acl.Selector][]acl.Membership{}}
	for _, s := range append(refs(q.From), refs(q.To)...) {
		if s.Kind == acl.KindUser || s.Kind == acl.KindTag {
			asked.Principals[s] = nil
		}
	}
	everything := things([]*Inventory{inv}, c, asked)
	everything = slices.DeleteFunc(everything, func(x thing) bool { return x.node.Claim != "" && classOf(w.e.sp, x) < 0 })
	all := few(t, everything, 8)
	for _, f := range all {
		inFrom := q.From == nil || slices.ContainsFunc(q.From, func(r model.Ref) bool { return selects(c, r, f) })
		inFrom = inFrom != q.Outside
		for _, to := range all {
			if f.name == to.name {
				continue
			}
			inTo := q.To == nil || slices.ContainsFunc(q.To, func(r model.Ref) bool { return selects(c, r, to) })
			there := inFrom && inTo && f.present(c, inv, noon) && to.present(c, inv, noon)
			if there && !meet {
				t.Fatalf("%s and %s are asked about, want no word that nobody meets", f.name, to.name)
			}
			cf, ct := classOf(w.e.sp, f), classOf(w.e.sp, to)
			for _, target := range targets {
				atom := atomOf(w.e, target)
				within := len(q.Ports) == 0 || slices.ContainsFunc(q.Ports, func(p acl.Ports) bool { return p.Contains(target) })
				said := func(rects []rect) *rect {
					for i := range rects {
						r := &rects[i]
						if cf >= 0 && ct >= 0 && r.from.has(cf) && r.to.has(ct) && r.atoms.has(atom) && inLayer(r, f, to) {
							return r
						}
					}
					return nil
				}
				r := said(reached)
				for _, at := range instants {
					for _, report := range reports {
						want := there && within && judge(c, f, to, target, at, report)
						if got := r != nil && holdsAt(w.e.conds, r.is, at, report); got != want {
							t.Fatalf("reachable: %s to %s on %s at %s reporting %v: got %t, want %t", f.name, to.name, target, at, report, got, want)
						}
						if want {
							v := judgeRules(c, f, to, target, at, report)
							for _, rule := range v {
								if !slices.Contains(rules, rule) {
									t.Fatalf("%s to %s on %s: rules are %v, want %s among them", f.name, to.name, target, rules, rule)
								}
							}
						}
					}
				}
				lacks := there && within && slices.ContainsFunc(instants, func(at time.Time) bool { return !judge(c, f, to, target, at, missingReport) })
				if got := said(missing) != nil; got != lacks {
					t.Fatalf("missing: %s (%d) to %s (%d) on %s: got %t, want %t", f.name, cf, to.name, ct, target, got, lacks)
				}
			}
		}
	}
}

// judgeRules are the rules that allow by themselves.
func judgeRules(c *Compiled, f, to thing, target acl.Target, at time.Time, report map[string]string) (out []string) {
	for _, rule := range []string{"r0", "r1", "r2", "r3", "r4"} {
		if judge(portion(c, rule, true), f, to, target, at, report) {
			out = append(out, rule)
		}
	}
	return out
}

// portion is a policy with only the grants of a rule, or without them.
func portion(c *Compiled, rule string, its bool) *Compiled {
	keep := func(list []acl.Inbound) (out []acl.Inbound) {
		for _, in := range list {
			in.Grants = slices.DeleteFunc(slices.Clone(in.Grants), func(g acl.Grant) bool { return (g.Rule == rule) != its })
			out = append(out, in)
		}
		return out
	}
	out := *c
	out.Inbound, out.Routes = keep(c.Inbound), slices.Clone(c.Routes)
	for i := range out.Routes {
		out.Routes[i].Inbound = keep(c.Routes[i].Inbound)
	}
	return &out
}

// TestQuestionsAreTheOracle compares what is reachable and what is missing with
// package acl.
func TestQuestionsAreTheOracle(t *testing.T) { rapid.Check(t, checkWorld) }

func FuzzQuestions(f *testing.F) {
	for i := range 4 {
		f.Add([]byte(strings.Repeat(string(rune('b'+i*7)), 600)))
	}
	f.Fuzz(func(t *testing.T, seed []byte) { rapid.MakeFuzz(checkWorld)(t, stream(seed)) })
}

// TestRedundantIsTheDifference takes each rule away and asks for the difference.
func TestRedundantIsTheDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawer{t, "", false}.policy(nil)
		inv := drawer{t, "", false}.inventory()
		got := NewWorld(c, inv, []Question{{At: noon}}).Redundant()
		rules := map[string]bool{}
		for _, in := range c.allInbound() {
			for _, g := range in.Grants {
				rules[g.Rule] = true
			}
		}
		for rule := range rules {
			side := func(c *Compiled) Side { return Side{c, inv} }
			changes := func(base, head *Compiled) int {
				_, g, _ := difference(side(base), side(head), noon)
				return len(g.rectangles())
			}
			// Routes stay, so that the same ends exist.
			nothing := *portion(c, "", true)
			want := changes(c, portion(c, rule, false)) == 0
			i := slices.IndexFunc(got, func(r Redundant) bool { return r.Rule == rule })
			if (i >= 0) != want {
				t.Fatalf("rule %s: redundant %t, want %t", rule, i >= 0, want)
			}
			if i < 0 {
				continue
			}
			if dead := changes(&nothing, portion(c, rule, true)) == 0; got[i].Dead != dead {
				t.Fatalf("rule %s: dead %t, want %t", rule, got[i].Dead, dead)
			}
			if !got[i].Dead && len(got[i].By) == 0 {
				t.Fatalf("rule %s: redundant by nothing", rule)
			}
		}
	})
}

// TestLocalAddressIsTheNode: what reaches the local address of a node through a
// route reaches the node, whatever rules say about the node.
func TestLocalAddressIsTheNode(t *testing.T) {
	c := &Compiled{
		Principals: map[acl.Selector][]acl.Membership{selector("a@x"): nil},
		Routes: []acl.Route{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Via: selectors([]string{"tag:router"}), Inbound: []acl.Inbound{{
			To: selector("10.1.2.0/24"), Grants: []acl.Grant{{Rule: "lan", From: selectors([]string{"a@x"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}},
		}}}},
	}
	inv := &Inventory{Nodes: []Admitted{
		{Name: "gate", Tags: []string{"router"}, Routes: Routes{Advertised: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}},
		{Name: "db", Tags: []string{"db"}, Local: []netip.Addr{netip.MustParseAddr("10.1.2.9")}},
		{Name: "far", Tags: []string{"far"}, Local: []netip.Addr{netip.MustParseAddr("10.1.3.9")}},
		{Name: "near", Tags: []string{"near"}},
	}}
	for _, x := range []struct {
		to   string
		inv  *Inventory
		want string
	}{
		{"tag:db", inv, "a@x → 10.1.2.9"},
		{"tag:far", inv, ""},
		{"tag:near", inv, ""},
		{"tag:db", nil, ""},
	} {
		q := Question{To: []model.Ref{{Selector: selector(x.to)}}, At: noon}
		w := NewWorld(c, x.inv, []Question{q})
		got := ""
		for _, f := range w.Reachable(q) {
			got += strings.Join(f.From, ", ") + " → " + strings.Join(f.To, ", ")
		}
		if got != x.want {
			t.Errorf("to %s: got %q, want %q", x.to, got, x.want)
		}
		if assumed := len(w.Assumptions(q)) > 0; assumed != (x.inv == nil || x.to == "tag:near") {
			t.Errorf("to %s: assumptions %q", x.to, w.Assumptions(q))
		}
	}
}

// TestApprovedByTheInventory: what an inventory says is approved is behind the
// node, whatever it advertises and whoever it is, for every question.
func TestApprovedByTheInventory(t *testing.T) {
	erp := netip.MustParsePrefix("10.1.2.3/32")
	c := &Compiled{
		Principals: map[acl.Selector][]acl.Membership{selector("a@x"): nil},
		Routes: []acl.Route{
			{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Via: selectors([]string{"tag:x"}), Inbound: []acl.Inbound{{
				To: acl.PrefixSelector(erp), Grants: []acl.Grant{{Rule: "r", From: selectors([]string{"a@x"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}},
			}}},
			{Exit: true, Via: selectors([]string{"tag:x"}), Inbound: []acl.Inbound{{
				To: selector("autogroup:internet"), Grants: []acl.Grant{{Rule: "out", From: selectors([]string{"a@x"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}},
			}}},
		},
	}
	policy := &model.Policy{
		Routes: []model.Route{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Via: refsOf("tag:x")}},
		Exit:   &model.Exit{Via: refsOf("tag:x")},
		Rules: []model.Rule{
			{Name: "out", From: refsOf("a@x"), To: refsOf("autogroup:internet"), Ports: []acl.Ports{{Range: acl.RangeAll}}},
			{Name: "r", From: refsOf("a@x"), To: []model.Ref{{Selector: acl.PrefixSelector(erp)}}, Ports: []acl.Ports{{Range: acl.RangeAll}}},
		},
	}
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, x := range []struct {
		name   string
		tags   []string
		routes Routes
		erp    bool
		out    bool
	}{
		{"approved alone", []string{"db"}, Routes{Approved: prefixes("10.1.0.0/16")}, true, false},
		{"approved beside a part of it", []string{"db"}, Routes{Approved: prefixes("10.1.0.0/16"), Advertised: prefixes("10.1.9.0/24")}, true, false},
		{"advertised by another", []string{"db"}, Routes{Advertised: prefixes("10.1.0.0/16", "0.0.0.0/0")}, false, false},
		{"advertised", []string{"x"}, Routes{Advertised: prefixes("10.1.0.0/16", "0.0.0.0/0")}, true, true},
		{"an exit node", []string{"db"}, Routes{Approved: prefixes("::/0")}, false, true},
		{"of nobody", nil, Routes{Approved: prefixes("10.1.0.0/16", "0.0.0.0/0")}, false, false},
	} {
		inv := &Inventory{Nodes: []Admitted{{Name: "gw", Tags: x.tags, Routes: x.routes}}}
		explainer := NewExplainer(policy, c, inv)
		for to, want := range map[acl.Selector]bool{acl.PrefixSelector(erp): x.erp, selector("autogroup:internet"): x.out} {
			q := Question{From: refsOf("a@x"), To: []model.Ref{{Selector: to}}, At: noon}
			w := NewWorld(c, inv, []Question{q})
			if got := len(w.Reachable(q)) > 0; got != want {
				t.Errorf("%s: %s is reachable: got %t, want %t", x.name, to, got, want)
			}
			d := Diff(Side{}, Side{c, inv}, noon)
			if got := slices.ContainsFunc(d.Gained, func(c Change) bool { return slices.Contains(c.To, to.String()) }); got != want {
				t.Errorf("%s: %s is gained: got %t, want %t", x.name, to, got, want)
			}
			why := explainer.Explain(explainer.Parties(selector("a@x"), noon)[0], explainer.Parties(to, noon)[0], acl.Target{Proto: acl.TCP, Port: 22}, noon)
			if why.Allowed != want {
				t.Errorf("%s: why %s: got %t, want %t", x.name, to, why.Allowed, want)
			}
			for _, s := range why.Chain {
				if strings.Contains(s.Text, "behind tag:x") && !slices.Contains(x.tags, "x") {
					t.Errorf("%s: why %s says %q, want that it is behind gw", x.name, to, s.Text)
				}
			}
		}
	}
}

// TestAddressesOfNodes: where rules select nodes by their addresses, a node is met
// by each that it has, what is for addresses behind nodes is not for it, and who is
// nobody is not there.
func TestAddressesOfNodes(t *testing.T) {
	grant := func(rule, from string, not ...string) []acl.Grant {
		return []acl.Grant{{Rule: rule, From: selectors([]string{from}), ToExcept: selectors(not), Allow: []acl.Ports{{Range: acl.RangeAll}}}}
	}
	c := &Compiled{
		Principals: map[acl.Selector][]acl.Membership{},
		Prefix4:    netip.MustParsePrefix("100.64.0.0/10"),
		Inbound: []acl.Inbound{
			{To: selector("fd77::4"), Grants: grant("six", "c@x")},
			{To: selector("0.0.0.0/0"), Grants: grant("all", "tag:t", "a@x")},
		},
		Routes: []acl.Route{
			{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Via: selectors([]string{"tag:r"}), Inbound: []acl.Inbound{{To: selector("10.0.0.0/8"), Grants: grant("net", "a@x")}}},
			{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Inbound: []acl.Inbound{{To: selector("0.0.0.0/0"), Grants: grant("all", "tag:t")}}},
		},
	}
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	inv := &Inventory{Nodes: []Admitted{
		{Name: "n1", User: "a@x", Addresses: addrs("100.64.0.2", "fd77::4", "100.64.0.7")},
		{Name: "n2", User: "b@x", Addresses: addrs("100.64.0.3")},
		{Name: "n3", Tags: []string{"t"}, Addresses: addrs("100.64.0.4")},
		{Name: "gw", Tags: []string{"r"}, Addresses: addrs("100.64.0.5"), Routes: Routes{Advertised: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
		{Name: "odd", Addresses: addrs("100.64.0.6")},
	}}
	for _, x := range []struct {
		from, to string
		rules    []string
	}{
		{"node:n1", "10.1.2.3", []string{"net"}},
		{"node:n3", "10.1.2.3", []string{"all"}},
		{"node:n3", "node:n1", nil},
		{"node:n3", "node:n2", []string{"all"}},
		{"c@x", "node:n1", []string{"six"}},
		{"node:n3", "node:odd", nil},
		{"node:n1", "node:n1", nil},
	} {
		q := Question{From: refsOf(x.from), To: refsOf(x.to), At: noon}
		w := NewWorld(c, inv, []Question{q})
		var got []string
		for _, f := range w.Reachable(q) {
			got = append(got, f.Rules...)
		}
		if got = slices.Compact(slices.Sorted(slices.Values(got))); !slices.Equal(got, x.rules) {
			t.Errorf("%s to %s: got %q, want %q", x.from, x.to, got, x.rules)
		}
	}
	for _, ch := range Diff(Side{}, Side{c, inv}, noon).Gained {
		if slices.Contains(ch.Nodes, "odd") {
			t.Errorf("odd, who is nobody, is gained: %+v", ch)
		}
	}
}
