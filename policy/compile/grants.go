package compile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// grants are what all rules give, by destination.
type grants struct {
	ends     *Ends
	postures map[string]acl.Posture
	inbound  map[acl.Selector]*acl.Inbound
	routes   []*route
}

// A route is a leaf under way.
type route struct {
	acl.Route
	to map[acl.Selector]*acl.Inbound
}

// newGrants compiles the rules, in the order of their names.
func newGrants(p *model.Policy) (*grants, error) {
	g := &grants{ends: NewEnds(p), postures: map[string]acl.Posture{}, inbound: map[acl.Selector]*acl.Inbound{}}
	for _, r := range p.Postures {
		g.postures[r.Name] = conditions(r.Conditions)
	}
	for _, r := range p.Routes {
		g.route(acl.Route{Prefix: r.Prefix, Via: via(r.Via)})
	}
	if p.Exit != nil {
		g.route(acl.Route{Exit: true, Via: via(p.Exit.Via)})
	}
	if g.ends.literal {
		g.elsewhere()
	}
	for _, r := range byName(p.Rules, func(r model.Rule) string { return r.Name }) {
		if err := g.rule(&r); err != nil {
			return nil, fmt.Errorf("compile: rule %q: %w", r.Name, err)
		}
	}
	return g, nil
}

// via are the selectors of nodes that forward; never nil, which JSON would write
// as null.
func via(refs []model.Ref) []acl.Selector { return append([]acl.Selector{}, selectors(refs)...) }

func (g *grants) route(r acl.Route) *route {
	out := &route{Route: r, to: map[acl.Selector]*acl.Inbound{}}
	g.routes = append(g.routes, out)
	return out
}

// content is the leaf: its destinations are in the order of their texts.
func (r *route) content() *acl.Route {
	r.Inbound = []acl.Inbound{}
	for _, in := range r.to {
		r.Inbound = append(r.Inbound, *in)
	}
	slices.SortFunc(r.Inbound, func(a, b acl.Inbound) int { return compareSelectors(a.To, b.To) })
	return &r.Route
}

// rule adds the grants of a rule.
func (g *grants) rule(r *model.Rule) error {
	from, err := g.ends.sides(r.From)
	if err != nil {
		return err
	}
	to, err := g.ends.sides(r.To)
	if err != nil {
		return err
	}
	grant := acl.Grant{Rule: r.Name, Allow: ports(r.Ports), Until: r.Until, Hours: hours(r.Hours)}
	if grant.Capabilities, err = capabilities(r.Capabilities); err != nil {
		return err
	}
	if grant.Posture, err = g.posture(r.Posture); err != nil {
		return err
	}
	if len(from) == 0 {
		return nil
	}
	for _, t := range to {
		for _, dest := range t.selectors {
			if err := g.destination(dest, t.except, from, grant); err != nil {
				return err
			}
		}
	}
	return nil
}

// destination adds a grant for each set of sources, wherever the destination is.
func (g *grants) destination(to acl.Selector, except []acl.Selector, from []side, grant acl.Grant) error {
	add := func(into map[acl.Selector]*acl.Inbound, to acl.Selector, except []acl.Selector) {
		if into[to] == nil {
			into[to] = &acl.Inbound{To: to}
		}
		for _, f := range from {
			grant.From, grant.Except, grant.ToExcept = f.selectors, f.except, except
			into[to].Grants = append(into[to].Grants, grant)
		}
	}
	switch to.Kind {
	case acl.KindInternet:
		if len(except) > 0 {
			return fmt.Errorf("nothing can be excepted from %s", to)
		}
		for _, r := range g.routes {
			if r.Exit {
				add(r.to, to, nil)
			}
		}
	case acl.KindPrefix:
		if p := to.Prefix(); g.ends.literal && g.ends.mayBeNode(p) {
			add(g.inbound, to, except)
		}
		g.behind(to.Prefix(), except, add)
	default:
		add(g.inbound, to, except)
	}
	return nil
}

// elsewhere adds the routes that may be approved elsewhere, where the policy does
// not have them.
func (g *grants) elsewhere() {
	for _, r := range []acl.Route{
		{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
		{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
		{Exit: true},
	} {
		if !slices.ContainsFunc(g.routes, func(x *route) bool { return x.Prefix == r.Prefix && x.Exit == r.Exit }) {
			r.Via = via(nil)
			g.route(r)
		}
	}
}

// behind adds a prefix to every route that it overlaps. Of the exceptions, those
// stay that overlap the part.
func (g *grants) behind(p netip.Prefix, except []acl.Selector, add func(map[acl.Selector]*acl.Inbound, acl.Selector, []acl.Selector)) {
	if within(p, g.ends.own) {
		return // nobody routes the network's own addresses
	}
	for _, r := range g.routes {
		if r.Exit || !r.Prefix.Overlaps(p) {
			continue
		}
		part := p
		if p.Bits() < r.Prefix.Bits() {
			part = r.Prefix
		}
		g.part(r, part, except, add)
	}
}

func (g *grants) part(r *route, part netip.Prefix, except []acl.Selector, add func(map[acl.Selector]*acl.Inbound, acl.Selector, []acl.Selector)) {
	var left []acl.Selector
	for _, x := range except {
		switch e := x.Prefix(); {
		case !e.IsValid() || !e.Overlaps(part): // of nodes, or elsewhere
		case within(part, e):
			return
		default:
			left = append(left, x)
		}
	}
	add(r.to, acl.PrefixSelector(part), left)
}

// posture are the named postures' conditions: the source meets any of them.
func (g *grants) posture(names []model.NameRef) (out acl.Postures, err error) {
	for _, n := range names {
		p, ok := g.postures[n.Name]
		if !ok {
			return nil, fmt.Errorf("unknown posture %q", n.Name)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b acl.Posture) int { return slices.CompareFunc(a, b, compareConditions) })
	return slices.CompactFunc(out, func(a, b acl.Posture) bool { return slices.CompareFunc(a, b, compareConditions) == 0 }), nil
}

// conditions are sorted, each once, with sorted values.
func conditions(p acl.Posture) acl.Posture {
	out := slices.Clone(p)
	for i, c := range out {
		out[i].Values = slices.Compact(slices.Sorted(slices.Values(c.Values)))
	}
	slices.SortFunc(out, compareConditions)
	return slices.CompactFunc(out, func(a, b acl.Condition) bool { return compareConditions(a, b) == 0 })
}

func compareConditions(a, b acl.Condition) int {
	return cmp.Or(strings.Compare(a.Attr, b.Attr), cmp.Compare(a.Op, b.Op), slices.Compare(a.Values, b.Values))
}

// hours are sorted, each window once.
func hours(list acl.Hours) acl.Hours {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b acl.Window) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), cmp.Compare(a.Days, b.Days), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	return slices.Compact(sorted)
}

// capabilities have canonical values: no white space, the keys of objects sorted,
// numbers as they are written.
func capabilities(in map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := map[string]json.RawMessage{}
	for name, value := range in {
		d := json.NewDecoder(bytes.NewReader(value))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("capability %q: %w", name, err)
		}
		if _, err := d.Token(); err != io.EOF {
			return nil, fmt.Errorf("capability %q: data after the value", name)
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return nil, fmt.Errorf("capability %q: %w", name, err)
		}
		out[name] = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	}
	return out, nil
}
