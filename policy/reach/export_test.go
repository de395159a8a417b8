package reach

import (
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// Holds reports whether a rule lacks nothing to allow a flow, and what it lacks
// where it is one thing.
func (x *Explainer) Holds(rule string, from, to Party, target acl.Target, at time.Time) (bool, Lack) {
	f, r := x.flow(from, to, target, at), x.indexed(rule)
	lack, _ := x.lack(r, f)
	return lack == "" && x.complete(r, f), lack
}

// Ask is the question to package acl, and everything that may answer it.
func (x *Explainer) Ask(from, to Party, target acl.Target, at time.Time) (acl.Request, []acl.Inbound) {
	r := x.request(from, to, target, at)
	return r, x.everything(&r)
}

// Nowhere reports whether nobody forwards to the party.
func (p Party) Nowhere() bool { return p.nowhere() }

// complete reports whether a rule that lacks no one thing lacks nothing: it may
// lack several.
func (x *Explainer) complete(r *indexedRule, f *flow) bool {
	return len(x.chain(r, f)) > 0 && func() bool {
		i, e := in(r.from, f.fromSel)
		j, g := in(r.to, f.toSel)
		return i >= 0 && e < 0 && j >= 0 && g < 0 && !f.from.nowhere() && !f.to.nowhere() &&
			slices.ContainsFunc(r.rule.Ports, func(p acl.Ports) bool { return p.Contains(f.target) }) &&
			(r.rule.Until.IsZero() || f.at.Before(r.rule.Until)) && acl.Within(r.rule.Hours, f.at)
	}()
}

// everything are all inbounds, unfiltered.
func (x *Explainer) everything(r *acl.Request) (out []acl.Inbound) {
	if r.ToVia == acl.Own {
		return x.compiled.Inbound
	}
	for _, rt := range x.compiled.Routes {
		out = append(out, rt.Inbound...)
	}
	return out
}
