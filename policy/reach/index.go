package reach

import (
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A ruleIndex holds what rules write about ends, each selector once, so that all
// rules can be asked about one end in little more than one look at each.
type ruleIndex struct {
	selectors []acl.Selector // as written, but hosts and pinned addresses in place
	byText    map[acl.Selector]int
	special   []int // those that are not found by name: prefixes, autogroup:internet
	rules     []indexedRule
}

type indexedRule struct {
	rule     *model.Rule
	from, to []indexedRef
}

// An indexedRef is a model.Ref by index of its selectors.
type indexedRef struct {
	sel    int
	except []int
}

func newRuleIndex(p *Places) ruleIndex {
	x := ruleIndex{byText: make(map[acl.Selector]int)}
	known := make(map[acl.Selector]int) // as written
	id := func(written acl.Selector) int {
		if i, ok := known[written]; ok {
			return i
		}
		sel := p.resolve(written)
		i, ok := x.byText[sel]
		if !ok {
			i = len(x.selectors)
			x.byText[sel] = i
			x.selectors = append(x.selectors, sel)
			if sel.Kind == acl.KindPrefix || sel.Kind == acl.KindInternet {
				x.special = append(x.special, i)
			}
		}
		known[written] = i
		return i
	}
	refs := func(list []model.Ref) []indexedRef {
		out := make([]indexedRef, len(list))
		for i, r := range list {
			out[i].sel = id(r.Selector)
			for _, e := range r.Except {
				out[i].except = append(out[i].except, id(e.Selector))
			}
		}
		return out
	}
	x.rules = make([]indexedRule, len(p.policy.Rules))
	for i := range p.policy.Rules {
		r := &p.policy.Rules[i]
		x.rules[i] = indexedRule{r, refs(r.From), refs(r.To)}
	}
	return x
}

// selects are the selectors that select an end, by index. Other is the far end,
// which autogroup:self compares with.
func (x *ruleIndex) selects(s, other *acl.Subject, r *acl.Request, end Party, literal bool) []bool {
	out := make([]bool, len(x.selectors))
	if end.nowhere() || s.Nobody(r.At) {
		// Nobody forwards to the address: rules may still name it, and say so.
		for _, i := range x.special {
			out[i] = end.nowhere() && x.addressed(i, end, literal)
		}
		return out
	}
	if end.Via == acl.Own {
		for _, sel := range ownSelectors(s, r.At) {
			if i, ok := x.byText[sel]; ok && sel.Selects(s, other, r.At) {
				out[i] = true
			}
		}
	}
	for _, i := range x.special {
		out[i] = x.addressed(i, end, literal)
	}
	return out
}

// addressed reports whether a selector selects by where the end is. Only where
// addresses are taken literally are those of nodes selected so.
func (x *ruleIndex) addressed(i int, end Party, literal bool) bool {
	switch sel := x.selectors[i]; sel.Kind {
	case acl.KindPrefix:
		return end.Addr.IsValid() && (end.Via == acl.Subnet || end.Via == acl.Own && literal) && sel.Prefix().Contains(end.Addr)
	case acl.KindInternet:
		return end.Via == acl.Exit && acl.Public(end.Addr)
	}
	return false
}

// in is the first of refs that selects the end, and otherwise the first that would
// but for what it excepts, with the exception.
func in(refs []indexedRef, selected []bool) (ref, excepted int) {
	ref, excepted = -1, -1
	for i, r := range refs {
		if !selected[r.sel] {
			continue
		}
		e := -1
		for j, x := range r.except {
			if selected[x] {
				e = j
				break
			}
		}
		if e < 0 {
			return i, -1
		}
		if ref < 0 {
			ref, excepted = i, e
		}
	}
	return ref, excepted
}
