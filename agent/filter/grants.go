package filter

import (
	"cmp"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// grants is what one peer may reach here: for each target the grant that
// acl.Judge would name.
type grants struct {
	ports [3][]span  // TCP, UDP, SCTP: disjoint, ascending
	echo  [2]grant   // of ICMP and ICMPv6
	proto []protocol // protocols that a grant names, in no order: they are few
	any   grant      // every other protocol
}

// A grant is a verdict without its target. The zero grant grants nothing.
type grant struct {
	until int64 // nanoseconds of the Unix epoch; 0 grants nothing
	rule  int32 // in Compiled.rules
}

func (g grant) exists() bool { return g != grant{} }

type span struct {
	first, last uint16
	grant
}

type protocol struct {
	number acl.Proto
	grant
}

// granted is what acl.Judge said of one grant for one peer.
type granted struct {
	acl.Verdict
	allow []acl.Ports
	rule  int32
}

func newGrants(verdicts []granted) *grants {
	// acl.Judge prefers the grant that lasts longest, then the first by rule
	// name, then by destination. A grant that ends first among those that
	// contain a target therefore decides nothing while another lives, and the
	// first in this order is the answer for as long as there is one.
	slices.SortStableFunc(verdicts, func(a, b granted) int {
		return cmp.Or(compareEnds(b.Until, a.Until), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.To.String(), b.To.String()))
	})
	t := &grants{}
	first := func(target acl.Target) (g grant) {
		for _, v := range verdicts {
			if slices.ContainsFunc(v.allow, func(p acl.Ports) bool { return p.Contains(target) }) {
				return v.grant()
			}
		}
		return g
	}
	for i, p := range [...]acl.Proto{acl.TCP, acl.UDP, acl.SCTP} {
		t.ports[i] = spans(p, verdicts)
	}
	t.echo[0] = first(acl.Target{Proto: acl.ICMP, Echo: true})
	t.echo[1] = first(acl.Target{Proto: acl.ICMPv6, Echo: true})
	for _, v := range verdicts {
		for _, p := range v.allow {
			if p.Range == acl.RangeAll && !t.any.exists() {
				t.any = v.grant()
			}
			named := p.Range == acl.RangeProto || p.Range == acl.RangePorts
			if named && !slices.ContainsFunc(t.proto, func(q protocol) bool { return q.number == p.Proto }) {
				t.proto = append(t.proto, protocol{p.Proto, first(acl.Target{Proto: p.Proto})})
			}
		}
	}
	return t
}

// compareEnds orders limits, a zero one being without end.
func compareEnds(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	default:
		return a.Compare(b)
	}
}

func (v granted) grant() grant { return grant{nanos(v.Until), v.rule} }

// spans are the ports of a protocol, each with the first verdict that contains it.
func spans(proto acl.Proto, verdicts []granted) []span {
	// The ports are cut at every place where a range begins or ends; each piece
	// goes to the first verdict that covers it, and is then skipped by the rest.
	type cover struct {
		from, to int // the second not included
		grant
	}
	var covers []cover
	cuts := []int{0, 1 << 16}
	for _, v := range verdicts {
		for _, p := range v.allow {
			c := cover{0, 1 << 16, v.grant()}
			switch {
			case p.Range == acl.RangeAll, p.Range == acl.RangeProto && p.Proto == proto:
			case p.Range == acl.RangePorts && p.Proto == proto && p.First <= p.Last:
				c.from, c.to = int(p.First), int(p.Last)+1
			default:
				continue
			}
			covers = append(covers, c)
			cuts = append(cuts, c.from, c.to)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	pieces := make([]grant, len(cuts)-1)
	skip := make([]int, len(cuts)) // to the next piece that is free, or a step towards it
	for i := range skip {
		skip[i] = i
	}
	free := func(i int) int {
		for skip[i] != i {
			skip[i] = skip[skip[i]]
			i = skip[i]
		}
		return i
	}
	for _, c := range covers {
		from, _ := slices.BinarySearch(cuts, c.from)
		to, _ := slices.BinarySearch(cuts, c.to)
		for i := free(from); i < to; i = free(i) {
			pieces[i] = c.grant
			skip[i] = i + 1
		}
	}
	var out []span
	for i, g := range pieces {
		s := span{uint16(cuts[i]), uint16(cuts[i+1] - 1), g}
		switch last := len(out) - 1; {
		case !g.exists():
		case last >= 0 && out[last].grant == g && int(out[last].last)+1 == cuts[i]:
			out[last].last = s.last
		default:
			out = append(out, s)
		}
	}
	return out
}

// find is the grant for a target, or the zero grant. It may have ended.
func (t *grants) find(target acl.Target) grant {
	switch {
	case target.Proto == acl.TCP:
		return at(t.ports[0], target.Port)
	case target.Proto == acl.UDP:
		return at(t.ports[1], target.Port)
	case target.Proto == acl.SCTP:
		return at(t.ports[2], target.Port)
	case target.Echo && target.Proto == acl.ICMP:
		return t.echo[0]
	case target.Echo:
		return t.echo[1]
	}
	for i := range t.proto {
		if t.proto[i].number == target.Proto {
			return t.proto[i].grant
		}
	}
	return t.any
}

// at finds the span that contains the port, by halving.
func at(s []span, port uint16) grant {
	lo, hi := 0, len(s)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].last < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(s) && s[lo].first <= port {
		return s[lo].grant
	}
	return grant{}
}
