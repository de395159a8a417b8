package build_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// A reading answers what a policy means from its words, one flow at a time. It looks
// every name up where it is written, and knows neither leaves nor grants: groups are
// searched for members, services for ports, and clocks are compared as texts.
type reading struct {
	p        *model.Policy
	hosts    map[string]netip.Prefix
	groups   map[string][]model.Member
	services map[string][]model.PortRef
	postures map[string]acl.Posture
	pinned   map[netip.Prefix]string
}

func read(p *model.Policy) *reading {
	r := &reading{p, map[string]netip.Prefix{}, map[string][]model.Member{}, map[string][]model.PortRef{}, map[string]acl.Posture{}, map[netip.Prefix]string{}}
	for _, h := range p.Hosts {
		r.hosts[h.Name] = h.Prefix
	}
	for _, g := range p.Groups {
		r.groups[g.Name] = g.Members
	}
	for _, s := range p.Services {
		r.services[s.Name] = s.Ports
	}
	for _, q := range p.Postures {
		r.postures[q.Name] = q.Conditions
	}
	for _, n := range p.Nodes {
		if n.Address4.IsValid() {
			r.pinned[netip.PrefixFrom(n.Address4, 32)] = n.Name
		}
	}
	return r
}

// A machine is a node as the world knows it.
type machine struct {
	name, user string
	tags       []string
	claims     []string // NAME=VALUE
	reports    map[string]string
	admitted   *reach.Admitted // nil where it is imagined
}

func (m *machine) nobody() bool { return m.user == "" && len(m.tags) == 0 }

// A place is one end of a flow: a machine itself, or an address behind it.
type place struct {
	at   *machine
	via  acl.Via
	addr netip.Addr
}

// Clocks are when things are judged. Answers about the future take exceptions and
// hours at other times than ends.
type clocks struct{ ends, except time.Time }

func over(until, at time.Time) bool { return !until.IsZero() && !until.After(at) }

// in reports whether the machine is in a group.
func (r *reading) in(m *machine, group string, at time.Time) bool {
	return slices.ContainsFunc(r.groups[group], func(x model.Member) bool {
		if over(x.Until, at) {
			return false
		}
		switch x.Selector.Kind {
		case acl.KindUser:
			return m.user == x.Selector.Name
		case acl.KindTag:
			return slices.Contains(m.tags, x.Selector.Name)
		case acl.KindClaim:
			return slices.Contains(m.claims, x.Selector.Name)
		default:
			return r.in(m, x.Selector.Name, at)
		}
	})
}

// selects reports whether a selector of a rule selects an end. Held says that only
// what agents enforce counts: no addresses of nodes.
func (r *reading) selects(s acl.Selector, e, other place, at time.Time, held bool) bool {
	if e.at.nobody() {
		return false
	}
	prefix := s.Prefix()
	if s.Kind == acl.KindHost {
		prefix = r.hosts[s.Name]
	}
	if name, ok := r.pinned[prefix]; ok {
		return e.via == acl.Own && e.at.name == name
	}
	switch {
	case prefix.IsValid():
		return prefix.Contains(e.addr) && (e.via == acl.Subnet || e.via == acl.Own && r.p.Network.LiteralAddresses && !held)
	case s.Kind == acl.KindInternet:
		return e.via == acl.Exit
	case e.via != acl.Own:
		return false
	}
	switch s.Kind {
	case acl.KindUser:
		return e.at.user == s.Name
	case acl.KindGroup:
		return r.in(e.at, s.Name, at)
	case acl.KindTag:
		return slices.Contains(e.at.tags, s.Name)
	case acl.KindNode:
		return e.at.name == s.Name
	case acl.KindMember:
		return e.at.user != ""
	case acl.KindTagged:
		return e.at.user == ""
	case acl.KindSelf:
		return other.via == acl.Own && e.at.user != "" && e.at.user == other.at.user
	default:
		return s.Kind == acl.KindAny
	}
}

func (r *reading) any(refs []model.Ref, e, other place, at clocks, held bool) bool {
	return slices.ContainsFunc(refs, func(ref model.Ref) bool {
		return r.selects(ref.Selector, e, other, at.ends, held) && !slices.ContainsFunc(ref.Except, func(x model.Exception) bool {
			return r.selects(x.Selector, e, other, at.except, false)
		})
	})
}

// routed reports whether rules can say anything about what is behind the end: some
// route is written there, or may be elsewhere.
func (r *reading) routed(e place) bool {
	switch {
	case e.via == acl.Own || r.p.Network.LiteralAddresses:
		return true
	case e.via == acl.Exit:
		return r.p.Exit != nil
	}
	return slices.ContainsFunc(r.p.Routes, func(x model.Route) bool { return x.Prefix.Contains(e.addr) })
}

// between reports whether a rule is about two ends, whatever the ports, hours and
// posture.
func (r *reading) between(rule *model.Rule, from, to place, at clocks, held bool) bool {
	return !over(rule.Until, at.ends) && !from.at.nobody() && r.routed(to) &&
		r.any(rule.From, from, to, at, false) && r.any(rule.To, to, from, at, held)
}

func (r *reading) opens(list []model.PortRef, t acl.Target) bool {
	return slices.ContainsFunc(list, func(p model.PortRef) bool {
		kind, rest, _ := strings.Cut(p.Text, "/")
		switch kind {
		case "*":
			return true
		case "icmp":
			return t.Echo
		case "proto":
			return rest == strconv.Itoa(int(t.Proto))
		case "tcp", "udp", "sctp":
			first, last, ranged := strings.Cut(rest, "-")
			if !ranged {
				last = first
			}
			a, _ := strconv.Atoi(first)
			b, _ := strconv.Atoi(last)
			return t.Proto == map[string]acl.Proto{"tcp": 6, "udp": 17, "sctp": 132}[kind] && a <= int(t.Port) && int(t.Port) <= b
		}
		return r.opens(r.services[strings.TrimPrefix(p.Text, "service:")], t)
	})
}

// during reads wall clocks.
func during(hours acl.Hours, at time.Time) bool {
	if len(hours) == 0 {
		return true
	}
	return slices.ContainsFunc(hours, func(w acl.Window) bool {
		zone, err := acl.ParseZone(w.Zone)
		if err != nil {
			panic(err)
		}
		local := at.In(zone)
		on := func(days int) bool {
			name := strings.ToLower(local.AddDate(0, 0, days).Format("Mon"))
			return slices.Contains(w.Days.Names(), name)
		}
		text := func(m uint16) string { return time.Date(2000, 1, 1, 0, int(m), 0, 0, time.UTC).Format("15:04") }
		now, from, to := local.Format("15:04"), text(w.Start), text(w.End)
		if w.End == 1440 {
			to = "24:00"
		}
		if from < to {
			return on(0) && from <= now && now < to
		}
		return on(0) && from <= now || on(-1) && now < to
	})
}

// meets reads what a node reports. Of several postures one is enough.
func (r *reading) meets(names []model.NameRef, reports map[string]string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(n model.NameRef) bool {
		return !slices.ContainsFunc(r.postures[n.Name], func(c acl.Condition) bool {
			have, ok := reports[c.Attr]
			if !ok || c.Op == acl.OpSet {
				return !ok
			}
			if c.Op == acl.OpIn || c.Op == acl.OpNotIn {
				return slices.Contains(c.Values, have) != (c.Op == acl.OpIn)
			}
			order, ok := compareVersions(have, c.Values[0])
			return !ok || !strings.Contains(map[int]string{-1: "< <=", 0: "<= >=", 1: "> >="}[order]+" ", string(c.Op)+" ")
		})
	})
}

func compareVersions(a, b string) (int, bool) {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		m, n := new(big.Int), new(big.Int)
		for _, part := range []struct {
			of   []string
			into *big.Int
		}{{x, m}, {y, n}} {
			if i < len(part.of) {
				if _, ok := part.into.SetString(part.of[i], 10); !ok {
					return 0, false
				}
			}
		}
		if c := m.Cmp(n); c != 0 {
			for _, rest := range slices.Concat(x, y) { // all of it is a version, or nothing
				if _, ok := new(big.Int).SetString(rest, 10); !ok {
					return 0, false
				}
			}
			return c, true
		}
	}
	return 0, true
}

// allows reports whether a flow may begin at an instant.
func (r *reading) allows(from, to place, t acl.Target, at time.Time, reports map[string]string, held bool) bool {
	return slices.ContainsFunc(r.p.Rules, func(rule model.Rule) bool {
		return r.opens(rule.Allow, t) && during(rule.Hours, at) && r.meets(rule.Posture, reports) && r.between(&rule, from, to, clocks{at, at}, held)
	})
}

// tells is what applications at an end are told of another, "NAME = VALUE", sorted.
func (r *reading) tells(from, to place, at time.Time, reports map[string]string, held bool) []string {
	out := map[string]bool{}
	for i := range r.p.Rules {
		rule := &r.p.Rules[i]
		if during(rule.Hours, at) && r.meets(rule.Posture, reports) && r.between(rule, from, to, clocks{at, at}, held) {
			for name, value := range rule.Capabilities {
				out[name+" = "+canonical(value)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// canonical is JSON with sorted keys and without white space.
func canonical(value json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// forwards reports whether a machine forwards to an address: what it advertises and a
// route approves, or the inventory says is approved.
func (r *reading) forwards(m *machine, via acl.Via, addr netip.Addr, at time.Time) bool {
	if m.admitted == nil || m.nobody() {
		return false
	}
	self := place{at: m}
	approvedBy := func(refs []model.Ref) bool {
		return slices.ContainsFunc(refs, func(ref model.Ref) bool { return r.selects(ref.Selector, self, self, at, false) })
	}
	reaches := func(p netip.Prefix) bool { return p.Contains(addr) && (p.Bits() == 0) == (via == acl.Exit) }
	if slices.ContainsFunc(m.admitted.Routes.Approved, reaches) {
		return true
	}
	return slices.ContainsFunc(m.admitted.Routes.Advertised, func(p netip.Prefix) bool {
		if !reaches(p) {
			return false
		}
		if via == acl.Exit {
			return r.p.Exit != nil && approvedBy(r.p.Exit.Via)
		}
		return slices.ContainsFunc(r.p.Routes, func(x model.Route) bool {
			return x.Prefix.Bits() <= p.Bits() && x.Prefix.Contains(p.Addr()) && approvedBy(x.Via)
		})
	})
}
