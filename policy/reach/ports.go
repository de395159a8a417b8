package reach

import (
	"maps"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

// A PortClass is a set of targets that no rule tells apart, and one of them.
type PortClass struct {
	Ports  acl.Ports // the class as text: a range, a protocol, icmp
	Target acl.Target
	Other  bool // every protocol that nothing names
}

// Classes cuts all targets into classes that none of the sets tells apart, in a
// fixed order.
func Classes(sets ...acl.Ports) []PortClass {
	cuts := map[acl.Proto]map[uint32]bool{acl.TCP: {1: true}, acl.UDP: {1: true}, acl.SCTP: {1: true}}
	protos := map[acl.Proto]bool{}
	for _, p := range sets {
		switch p.Range {
		case acl.RangePorts:
			cuts[p.Proto][uint32(p.First)] = true
			cuts[p.Proto][uint32(p.Last)+1] = true
		case acl.RangeProto:
			if cuts[p.Proto] == nil {
				protos[p.Proto] = true
			}
		}
	}
	var out []PortClass
	for _, proto := range []acl.Proto{acl.TCP, acl.UDP, acl.SCTP} {
		starts := slices.Sorted(maps.Keys(cuts[proto]))
		for i, first := range starts {
			last := uint32(65535)
			if i+1 < len(starts) {
				last = starts[i+1] - 1
			}
			if first > 65535 {
				continue
			}
			out = append(out, PortClass{
				Ports:  acl.Ports{Range: acl.RangePorts, Proto: proto, First: uint16(first), Last: uint16(last)},
				Target: acl.Target{Proto: proto, Port: uint16(first)},
			})
		}
	}
	out = append(out, PortClass{Ports: acl.Ports{Range: acl.RangeEcho}, Target: acl.Target{Proto: acl.ICMP, Echo: true}})
	if protos[acl.ICMP] || protos[acl.ICMPv6] { // then a rule may tell the families' pings apart
		out = append(out, PortClass{Ports: acl.Ports{Range: acl.RangeEcho}, Target: acl.Target{Proto: acl.ICMPv6, Echo: true}})
	}
	for _, proto := range slices.Sorted(maps.Keys(protos)) {
		out = append(out, PortClass{Ports: acl.Ports{Range: acl.RangeProto, Proto: proto}, Target: acl.Target{Proto: proto}})
	}
	other := acl.Proto(253) // RFC 3692: for experiments; nothing names it, or the next
	for protos[other] {
		other--
	}
	return append(out, PortClass{Ports: acl.Ports{Range: acl.RangeProto, Proto: other}, Target: acl.Target{Proto: other}, Other: true})
}

// portSets are all that the rules use.
func (c *Compiled) portSets() (out []acl.Ports) {
	for _, in := range c.Inbound {
		for _, g := range in.Grants {
			out = append(out, g.Allow...)
		}
	}
	return out
}

// within are the classes of which the sets contain the target; no sets contain
// all.
func within(classes []PortClass, sets []acl.Ports) []PortClass {
	if len(sets) == 0 {
		return classes
	}
	return slices.DeleteFunc(slices.Clone(classes), func(c PortClass) bool {
		return !slices.ContainsFunc(sets, func(p acl.Ports) bool { return p.Contains(c.Target) })
	})
}

// portText writes classes as few port sets: adjacent ranges joined, everything
// as "*".
func portText(in []PortClass, all int) []string {
	if len(in) == all {
		return []string{"*"}
	}
	var merged []acl.Ports
	var out []string
	for _, c := range in {
		if c.Other {
			out = append(out, "other protocols")
			continue
		}
		if n := len(merged); n > 0 && c.Ports.Range == acl.RangePorts && merged[n-1].Range == acl.RangePorts &&
			merged[n-1].Proto == c.Ports.Proto && uint32(merged[n-1].Last)+1 == uint32(c.Ports.First) {
			merged[n-1].Last = c.Ports.Last
			continue
		}
		merged = append(merged, c.Ports)
	}
	text := make([]string, 0, len(merged)+1)
	for _, p := range merged {
		if p.Range == acl.RangePorts && p.First == 1 && p.Last == 65535 {
			text = append(text, p.Proto.String()+"/1-65535")
			continue
		}
		text = append(text, p.String())
	}
	return slices.Compact(append(text, out...))
}
