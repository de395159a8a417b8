package reach

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// principals are the node's, as selectors.
func (n Node) principals() (out []acl.Selector) {
	if n.Claim != "" {
		out = []acl.Selector{{Kind: acl.KindClaim, Name: n.Claim}}
		if n.Stranger {
			return out
		}
	}
	if n.User != "" {
		return append(out, acl.Selector{Kind: acl.KindUser, Name: n.User})
	}
	for _, t := range n.Tags {
		out = append(out, acl.Selector{Kind: acl.KindTag, Name: t})
	}
	return out
}

// A Tracer finds the places that the changes between two policies come from. It is
// made once for a difference.
type Tracer struct {
	base, head *Explainer // base is nil where there is no policy before
	at         time.Time
}

// NewTracer prepares two policies with what they compile to. A nil base allows
// nothing.
func NewTracer(base, head *model.Policy, was, is Side, at time.Time) *Tracer {
	t := &Tracer{at: at}
	if base != nil && was.Policy != nil {
		t.base = NewExplainer(base, was.Policy, was.Inventory)
	}
	if head != nil && is.Policy != nil {
		t.head = NewExplainer(head, is.Policy, is.Inventory)
	}
	return t
}

// NewTracerOf is NewTracer for policies that are prepared. A nil base allows
// nothing.
func NewTracerOf(base, head *Explainer, at time.Time) *Tracer { return &Tracer{base, head, at} }

// Causes finds the places that a change comes from: rules that are new or say
// something else, or else the definitions by which they now, or no longer, select
// the ends and the ports of the change's sample. Where it is the inventory that
// changes it, these are the rules.
func (t *Tracer) Causes(ch Change, gained bool) []Cause {
	now := t.head
	if !gained {
		now = t.base
	}
	if now == nil {
		return nil
	}
	then := t.base
	if !gained {
		then = t.head
	}
	is := [2]Party{now.party(ch.Sample.From, t.at), now.party(ch.Sample.To, t.at)}
	var was [2]Party
	if then != nil {
		was = [2]Party{then.party(ch.Sample.From, t.at), then.party(ch.Sample.To, t.at)}
	}
	return t.causes(ch.Rules, is, was, ch.Sample.Target, gained)
}

// Gave finds the places that a flow's access comes from, which the head allows
// and the base does not. The address behind a node may have been behind another
// in the base.
func (t *Tracer) Gave(from, to, fromWas, toWas Party, target acl.Target) []Cause {
	v := t.head.Judge(from, to, target, t.at)
	if !v.Allowed {
		return nil
	}
	return t.causes([]string{v.Rule}, [2]Party{from, to}, [2]Party{fromWas, toWas}, target, true)
}

// causes compares rules between a policy that allows a flow and one that does not.
func (t *Tracer) causes(rules []string, is, was [2]Party, target acl.Target, gained bool) []Cause {
	now, then := t.head, t.base
	if !gained {
		now, then = t.base, t.head
	}
	var out []Cause
	add := func(s Step, base bool) {
		c := Cause{Place: placeLine(s.Place), What: s.Text, Base: base}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	for _, name := range rules {
		r := now.indexed(name)
		if r == nil {
			continue
		}
		whole := Step{r.rule.Place, "rule " + name}
		var old *indexedRule
		if then != nil {
			old = then.indexed(name)
		}
		if old == nil || !sameRule(r.rule, old.rule) {
			add(whole, !gained)
			continue
		}
		before := len(out)
		for _, s := range now.rests(r, now.flow(is[0], is[1], target, t.at)) {
			if !then.definitions()[s.Text] {
				add(s, !gained)
			}
		}
		for _, s := range then.hinders(old, then.flow(was[0], was[1], target, t.at)) {
			if !now.definitions()[s.Text] {
				add(s, gained)
			}
		}
		if len(out) == before {
			add(whole, !gained)
		}
	}
	return out
}

// rests are the definitions that a rule's grant of a flow rests on.
func (x *Explainer) rests(r *indexedRule, f *flow) []Step {
	steps := x.chain(r, f)
	for _, ref := range r.rule.Posture {
		if p := x.postures[ref.Name]; p != nil {
			steps = append(steps, postureStep(p))
		}
	}
	all := x.definitions()
	return slices.DeleteFunc(steps, func(s Step) bool { return !all[s.Text] })
}

// hinders are the definitions by which a rule does not allow a flow although it is
// written: those of what it excepts, and of the postures that it asks for.
func (x *Explainer) hinders(r *indexedRule, f *flow) []Step {
	_, steps := x.excepted(r, f)
	for _, ref := range r.rule.Posture {
		if p := x.postures[ref.Name]; p != nil {
			steps = append(steps, postureStep(p))
		}
	}
	all := x.definitions()
	return slices.DeleteFunc(steps, func(s Step) bool { return !all[s.Text] })
}

// party is an end of a sample: of an address, behind some node that forwards to
// it under this policy.
func (x *Explainer) party(n Node, at time.Time) Party {
	var behind []Party
	switch {
	case n.Internet:
		behind = x.exits(at)
	case n.Address.IsValid():
		behind = x.addresses(netip.PrefixFrom(n.Address, n.Address.BitLen()), at)
	default:
		return Party{Node: n}
	}
	if len(behind) == 0 {
		return Party{Via: acl.Subnet, Addr: n.Address}
	}
	return behind[0]
}

// sameRule reports whether two rules are written to mean the same.
func sameRule(a, b *model.Rule) bool {
	refs := func(rs []model.Ref) string {
		var out []string
		for _, r := range rs {
			out = append(out, refText([]model.Ref{r}))
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	hours := func(hs acl.Hours) string {
		var out []string
		for _, w := range hs {
			out = append(out, w.String())
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	postures := func(rs []model.NameRef) string {
		var out []string
		for _, r := range rs {
			out = append(out, r.Name)
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	written := func(ps []model.PortRef) string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Text)
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	return refs(a.From) == refs(b.From) && refs(a.To) == refs(b.To) && written(a.Allow) == written(b.Allow) && a.Until.Equal(b.Until) &&
		hours(a.Hours) == hours(b.Hours) && postures(a.Posture) == postures(b.Posture) &&
		maps.EqualFunc(a.Capabilities, b.Capabilities, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) })
}

// Causes finds the causes of a single change; a [Tracer] those of many.
func Causes(ch Change, base, head *model.Policy, at time.Time, baseC, headC *Compiled, gained bool) []Cause {
	return NewTracer(base, head, Side{Policy: baseC}, Side{Policy: headC}, at).Causes(ch, gained)
}
