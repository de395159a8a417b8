package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Why is the answer to "may FROM reach TO on PORT, and why".
type Why struct {
	Allowed bool      `json:"allowed"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Port    string    `json:"port"`
	At      time.Time `json:"at,omitzero"`     // when, where that was asked
	Until   time.Time `json:"until,omitzero"`  // when it ends
	Rule    string    `json:"rule,omitempty"`  // that allows it
	Chain   []Step    `json:"chain,omitempty"` // how the rule selects both ends
	Misses  []Miss    `json:"misses,omitempty"`
	Facts   []Step    `json:"facts,omitempty"` // where the source is said to be who it is
}

// A Miss is a rule that allows all of a request but one thing.
type Miss struct {
	Rule  string      `json:"rule"`
	Place model.Place `json:"place"`
	Lacks Lack        `json:"lacks"`
	Text  string      `json:"text"`            // what it is for instead
	Steps []Step      `json:"steps,omitempty"` // places that say so
}

// A Lack is the one thing that is missing.
type Lack string

// What may be missing, the nearest first.
const (
	LackHours       Lack = "hours"       // it holds at other hours
	LackEnded       Lack = "ended"       // it held until a time
	LackPosture     Lack = "posture"     // the source reports something else, or nothing
	LackExcept      Lack = "except"      // an end is excepted
	LackRoute       Lack = "route"       // no approved route leads to an end
	LackPort        Lack = "port"        //
	LackSource      Lack = "source"      //
	LackDestination Lack = "destination" //
)

var lacks = []Lack{LackHours, LackEnded, LackPosture, LackExcept, LackRoute, LackPort, LackSource, LackDestination}

// maxMisses is how many of the nearest misses are worth a person's time.
const maxMisses = 3

// A flow is a question with what selects its ends.
type flow struct {
	from, to       Party
	fromSel, toSel []bool // by index of selector
	target         acl.Target
	at             time.Time
}

func (x *Explainer) flow(from, to Party, target acl.Target, at time.Time) *flow {
	r := x.request(from, to, target, at)
	literal := x.policy.Network.LiteralAddresses
	return &flow{
		from: from, to: to, target: target, at: at,
		fromSel: x.index.selects(r.From, r.To, &r, from, literal),
		toSel:   x.index.selects(r.To, r.From, &r, to, literal),
	}
}

// Explain answers for one pair of ends and one target.
func (x *Explainer) Explain(from, to Party, target acl.Target, at time.Time) Why {
	w := Why{From: from.String(), To: to.String(), Port: target.String()}
	f := x.flow(from, to, target, at)
	if v := x.Judge(from, to, target, at); v.Allowed {
		w.Allowed, w.Rule, w.Until = true, v.Rule, v.Until
		if r := x.indexed(v.Rule); r != nil {
			w.Chain = x.chain(r, f)
		}
		return w
	}
	w.Misses = x.misses(f)
	for _, p := range from.Node.principals() {
		for _, m := range x.compiled.Principals[p] {
			for _, s := range x.GroupPath(p, m.Group, at) {
				if !slices.Contains(w.Facts, s) {
					w.Facts = append(w.Facts, s)
				}
			}
		}
	}
	return w
}

// Explain answers a single question; an [Explainer] answers many.
func Explain(p *model.Policy, c *Compiled, from, to Node, target acl.Target, at time.Time) Why {
	return NewExplainer(p, c, nil).Explain(Party{Node: from}, Party{Node: to}, target, at)
}

// indexed finds a rule by name.
func (x *Explainer) indexed(name string) *indexedRule {
	i, ok := slices.BinarySearchFunc(x.index.rules, name, func(r indexedRule, name string) int { return strings.Compare(r.rule.Name, name) })
	if !ok {
		return nil
	}
	return &x.index.rules[i]
}

// chain is how a rule comes to allow a flow, each link with its place. The rule
// allows it.
func (x *Explainer) chain(r *indexedRule, f *flow) []Step {
	out := []Step{{r.rule.Place, fmt.Sprintf("rule %q", r.rule.Name)}}
	for _, o := range r.rule.Origin {
		out = append(out, Step{o, "it is computed from"})
	}
	if i, e := in(r.from, f.fromSel); i >= 0 && e < 0 {
		out = append(out, Step{r.rule.From[i].Place, "from " + refText(r.rule.From[i:i+1])})
		out = append(out, x.selected(r.rule.From[i].Selector, f.from, f.at)...)
	}
	if i, e := in(r.to, f.toSel); i >= 0 && e < 0 {
		out = append(out, Step{r.rule.To[i].Place, "to " + refText(r.rule.To[i:i+1])})
		out = append(out, x.selected(r.rule.To[i].Selector, f.to, f.at)...)
	}
	for _, a := range r.rule.Allow {
		if way, ok := x.serviceSteps(a.Text, f.target); ok {
			out = append(out, Step{a.Place, "allows " + a.Text})
			out = append(out, way...)
			break
		}
	}
	if len(r.rule.Hours) > 0 {
		out = append(out, Step{r.rule.Place, "at " + HoursText(r.rule.Hours)})
	}
	for _, ref := range r.rule.Posture {
		if p := x.postures[ref.Name]; p != nil && p.Conditions.Met(f.from.Reports) {
			out = append(out, Step{ref.Place, "asks for posture " + p.Name}, postureStep(p))
			break
		}
	}
	if !r.rule.Until.IsZero() {
		out = append(out, Step{r.rule.Place, "until " + Moment(r.rule.Until)})
	}
	return out
}

// selected is how what is written selects an end: the way into the group, the
// address that a host is, the route that leads there.
func (x *Explainer) selected(written acl.Selector, p Party, at time.Time) (out []Step) {
	if written.Kind == acl.KindHost {
		if h := x.hosts[written.Name]; h != nil {
			out = append(out, hostStep(h))
		}
	}
	sel := x.resolve(written)
	switch {
	case p.Via == acl.Subnet:
		r, way, ok := x.routeBy(p, at)
		switch {
		case ok:
			out = append(append(out, routeStep(r)), way...)
		case p.Node.Real:
			out = append(out, inventoryStep(p.Addr.String(), p.Node))
		case r != nil:
			out = append(out, routeStep(r))
		}
		return out
	case p.Via == acl.Exit:
		if e := x.policy.Exit; e != nil {
			if way, ok := x.forwarding(e.Via, p.Node, at); ok || !p.Node.Real {
				return append(append(out, exitStep(e)), way...)
			}
		}
		if p.Node.Real {
			out = append(out, inventoryStep("the internet", p.Node))
		}
		return out
	case sel != written && sel.Kind == acl.KindNode:
		if n := x.Places.nodes[sel.Name]; n != nil {
			out = append(out, pinStep(n))
		}
	}
	return append(out, x.who(sel, p.Node, at)...)
}

// forwarding is how a route's via selects a node.
func (x *Explainer) forwarding(via []model.Ref, n Node, at time.Time) ([]Step, bool) {
	sub := x.compiled.Subject(n)
	for _, r := range via {
		if r.Selector.Selects(sub, nil, at) {
			return x.who(r.Selector, n, at), true
		}
	}
	return nil, false
}

// routeBy is the approval by which a node forwards to an address, the longest of
// several, and how it selects the node. Where none selects it, it is the longest.
func (x *Explainer) routeBy(p Party, at time.Time) (best *model.Route, way []Step, ok bool) {
	for i := range x.policy.Routes {
		r := &x.policy.Routes[i]
		if !r.Prefix.Contains(p.Addr) {
			continue
		}
		steps, is := x.forwarding(r.Via, p.Node, at)
		if best == nil || is && !ok || is == ok && r.Prefix.Bits() > best.Prefix.Bits() {
			best, way, ok = r, steps, is
		}
	}
	return best, way, ok
}

// inventoryStep says that something is behind a node because the inventory has it
// so, and not the policy.
func inventoryStep(what string, n Node) Step {
	return Step{model.Place{File: "inventory"}, fmt.Sprintf("%s is behind %s", what, n)}
}

// who is how a selector of nodes selects one: where it is pinned as what it is, and
// the way into the group.
func (x *Explainer) who(sel acl.Selector, n Node, at time.Time) []Step {
	pin := x.Places.nodes[n.Name]
	switch sel.Kind {
	case acl.KindUser, acl.KindTag:
		if pin != nil {
			return []Step{pinnedAs(pin, sel)}
		}
	case acl.KindGroup:
		for _, pr := range n.principals() {
			way := x.GroupPath(pr, sel.Name, at)
			if way == nil {
				continue
			}
			if pin != nil {
				way = append([]Step{pinnedAs(pin, pr)}, way...)
			}
			return way
		}
	}
	return nil
}

// misses are the rules that lack one thing, the nearest first.
func (x *Explainer) misses(f *flow) []Miss {
	var best [maxMisses]Miss
	n := 0
	before := func(lack Lack, rule string, b Miss) bool {
		return cmp.Or(cmp.Compare(slices.Index(lacks, lack), slices.Index(lacks, b.Lacks)), strings.Compare(rule, b.Rule)) < 0
	}
	for i := range x.index.rules {
		r := &x.index.rules[i]
		lack, ok := x.lack(r, f)
		if !ok || n == maxMisses && !before(lack, r.rule.Name, best[n-1]) {
			continue
		}
		if lack == LackDestination && !x.concerns(r.rule.To, f.to) {
			continue
		}
		at := n
		for at > 0 && before(lack, r.rule.Name, best[at-1]) {
			at--
		}
		if n < maxMisses {
			n++
		}
		copy(best[at+1:n], best[at:n-1])
		best[at] = Miss{Rule: r.rule.Name, Place: r.rule.Place, Lacks: lack}
	}
	out := slices.Clone(best[:n])
	for i := range out {
		x.describe(&out[i], x.indexed(out[i].Rule), f)
	}
	return out
}

// concerns reports whether what a rule is to is of the sort of an end: what lets
// people to the internet is not near to what lets them to a node.
func (x *Explainer) concerns(refs []model.Ref, p Party) bool {
	return slices.ContainsFunc(refs, func(r model.Ref) bool {
		switch sel := x.resolve(r.Selector); {
		case sel.Kind == acl.KindInternet:
			return p.Via == acl.Exit
		case sel.Kind == acl.KindPrefix:
			return p.Via == acl.Subnet || p.Via == acl.Own && x.policy.Network.LiteralAddresses
		}
		return p.Via != acl.Exit
	})
}

// lack is what a rule lacks to allow a flow, where it is one thing.
func (x *Explainer) lack(r *indexedRule, f *flow) (lack Lack, one bool) {
	n := 0
	add := func(l Lack) {
		lack = l
		n++
	}
	for _, end := range []struct {
		refs     []indexedRef
		selected []bool
		missing  Lack
		party    Party
	}{{r.from, f.fromSel, LackSource, f.from}, {r.to, f.toSel, LackDestination, f.to}} {
		switch ref, excepted := in(end.refs, end.selected); {
		case ref < 0:
			add(end.missing)
		case excepted >= 0:
			add(LackExcept)
		case end.party.nowhere():
			add(LackRoute)
		}
		if n > 1 {
			return "", false
		}
	}
	if !slices.ContainsFunc(r.rule.Ports, func(p acl.Ports) bool { return p.Contains(f.target) }) {
		if add(LackPort); n > 1 {
			return "", false
		}
	}
	if !r.rule.Until.IsZero() && !f.at.Before(r.rule.Until) {
		if add(LackEnded); n > 1 {
			return "", false
		}
	}
	if !acl.Within(r.rule.Hours, f.at) {
		if add(LackHours); n > 1 {
			return "", false
		}
	}
	if len(r.rule.Posture) > 0 && !slices.ContainsFunc(r.rule.Posture, func(ref model.NameRef) bool {
		p := x.postures[ref.Name]
		return p != nil && p.Conditions.Met(f.from.Reports)
	}) {
		add(LackPosture)
	}
	return lack, n == 1
}

// describe says in words what a rule is for instead, and where it is written.
func (x *Explainer) describe(m *Miss, r *indexedRule, f *flow) {
	switch m.Lacks {
	case LackSource:
		m.Text = "is for " + refText(r.rule.From)
		m.Steps = x.was(r.rule.From, f.from, f.at)
	case LackDestination:
		m.Text = "is to " + refText(r.rule.To)
		m.Steps = x.was(r.rule.To, f.to, f.at)
	case LackPort:
		var ports []string
		for _, a := range r.rule.Allow {
			ports = append(ports, a.Text)
		}
		if m.Text = "is for " + strings.Join(ports, ", "); len(ports) == 0 {
			m.Text = "gives capabilities, and no ports"
		}
	case LackEnded:
		m.Text = "ended " + Moment(r.rule.Until)
	case LackHours:
		m.Text = "holds " + HoursText(r.rule.Hours)
		if zone, err := acl.ParseZone(r.rule.Hours[0].Zone); err == nil {
			m.Text += "; asked about " + strings.ToLower(f.at.In(zone).Format("Mon")) + f.at.In(zone).Format(" 15:04 ") + r.rule.Hours[0].Zone
		}
	case LackPosture:
		var names []string
		for _, ref := range r.rule.Posture {
			names = append(names, ref.Name)
			if p := x.postures[ref.Name]; p != nil {
				m.Steps = append(m.Steps, postureStep(p))
			}
		}
		m.Text = "asks for posture " + strings.Join(names, " or ") + "; " + reportText(f.from)
	case LackExcept:
		m.Text, m.Steps = x.excepted(r, f)
	case LackRoute:
		end := f.to
		if !f.to.nowhere() {
			end = f.from
		}
		m.Text = fmt.Sprintf("is for it, but %s", x.noRoute(end))
	}
}

// noRoute says why nobody forwards to an address.
func (x *Explainer) noRoute(end Party) string {
	approved := x.policy.Exit != nil
	if end.Via == acl.Subnet {
		approved = x.route(end.Addr) != nil
	}
	switch {
	case !approved:
		return fmt.Sprintf("no route to %s is approved", end)
	case x.inventory != nil:
		return fmt.Sprintf("no node of the inventory has an approved route to %s", end)
	}
	return fmt.Sprintf("no node may forward to %s", end)
}

// excepted says which exception an end meets.
func (x *Explainer) excepted(r *indexedRule, f *flow) (string, []Step) {
	for _, side := range []struct {
		refs     []indexedRef
		written  []model.Ref
		selected []bool
		end      Party
	}{{r.from, r.rule.From, f.fromSel, f.from}, {r.to, r.rule.To, f.toSel, f.to}} {
		ref, e := in(side.refs, side.selected)
		if ref < 0 || e < 0 {
			continue
		}
		ex := side.written[ref].Except[e]
		steps := append([]Step{{ex.Place, "except " + ex.Selector.String()}}, x.selected(ex.Selector, side.end, f.at)...)
		return "excepts " + ex.Selector.String(), steps
	}
	return "excepts an end", nil
}

// was are the memberships by which an end was selected before they ended.
func (x *Explainer) was(refs []model.Ref, p Party, at time.Time) []Step {
	if p.Via != acl.Own {
		return nil
	}
	for _, r := range refs {
		if r.Selector.Kind != acl.KindGroup {
			continue
		}
		for _, pr := range p.Node.principals() {
			for _, s := range x.path(pr, r.Selector.Name, func(edge) bool { return true }) {
				return []Step{s}
			}
		}
	}
	return nil
}

// reportText says what a node reports of itself.
func reportText(p Party) string {
	if len(p.Reports) == 0 {
		return p.String() + " reports nothing"
	}
	var attrs []string
	for a, v := range p.Reports {
		attrs = append(attrs, a+" "+v)
	}
	slices.Sort(attrs)
	return p.String() + " reports " + strings.Join(attrs, ", ")
}

// refText is what refs select, as policies write it: those with the same exceptions
// together.
func refText(refs []model.Ref) string {
	var out []string
	for i := 0; i < len(refs); {
		j := i + 1
		for j < len(refs) && sameExcept(refs[i], refs[j]) {
			j++
		}
		var any, except []string
		for _, r := range refs[i:j] {
			any = append(any, r.Selector.String())
		}
		for _, e := range refs[i].Except {
			except = append(except, e.Selector.String())
		}
		text := strings.Join(any, ", ")
		if len(except) > 0 {
			text += " except " + strings.Join(except, ", ")
		}
		out = append(out, text)
		i = j
	}
	return strings.Join(out, "; ")
}

func sameExcept(a, b model.Ref) bool {
	return slices.EqualFunc(a.Except, b.Except, func(a, b model.Exception) bool { return a.Selector == b.Selector })
}

// HoursText is weekly hours as people write them.
func HoursText(hours acl.Hours) string {
	var out []string
	for _, w := range hours {
		text := w.String()
		_, rest, ok := strings.Cut(text, " ")
		if ok {
			text = daysText(w.Days) + rest
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// daysText is days as "mon-fri" or "sat, sun", with a space after; nothing for the
// whole week.
func daysText(d acl.Days) string {
	if d == acl.EveryDay {
		return ""
	}
	names := d.Names()
	var out []string
	for i := 0; i < len(names); {
		j := i
		for j+1 < len(names) && adjacent(names[j], names[j+1]) {
			j++
		}
		if j-i >= 2 {
			out = append(out, names[i]+"-"+names[j])
		} else {
			out = append(out, names[i:j+1]...)
		}
		i = j + 1
	}
	return strings.Join(out, ",") + " "
}

// adjacent reports whether one day follows the other, from Monday.
func adjacent(a, b string) bool {
	const week = "mon tue wed thu fri sat sun"
	return strings.Contains(week, a+" "+b)
}
