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

	family acl.Proto // of a class of pings: ICMP or ICMPv6; zero where it is both
}

// Classes cuts all targets into classes that none of the sets tells apart, in a
// fixed order. Port 0, which no range holds but a packet can ask for, is a class
// of its own.
func Classes(sets ...acl.Ports) []PortClass {
	cuts := map[acl.Proto]map[uint32]bool{}
	for _, p := range []acl.Proto{acl.TCP, acl.UDP, acl.SCTP} {
		cuts[p] = map[uint32]bool{0: true, 1: true}
	}
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
	echo := acl.Ports{Range: acl.RangeEcho}
	if protos[acl.ICMP] || protos[acl.ICMPv6] { // then a rule may tell the families' pings apart
		for _, p := range []acl.Proto{acl.ICMP, acl.ICMPv6} {
			out = append(out, PortClass{Ports: echo, Target: acl.Target{Proto: p, Echo: true}, family: p})
		}
	} else {
		out = append(out, PortClass{Ports: echo, Target: acl.Target{Proto: acl.ICMP, Echo: true}})
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

// portText writes classes as few words, which mean exactly these classes: as
// rules write ports where they can, everything as "*".
func portText(in []PortClass, all int) []string {
	if len(in) == all {
		return []string{"*"}
	}
	var ranges, protos []acl.Ports
	ping, raw := map[acl.Proto]bool{}, map[acl.Proto]bool{}
	other := false
	for _, c := range in {
		switch {
		case c.Other:
			other = true
		case c.Ports.Range == acl.RangeEcho:
			for _, p := range []acl.Proto{acl.ICMP, acl.ICMPv6} {
				ping[p] = ping[p] || c.family == 0 || c.family == p
			}
		case c.Ports.Range == acl.RangePorts:
			if n := len(ranges); n > 0 && ranges[n-1].Proto == c.Ports.Proto && uint32(ranges[n-1].Last)+1 == uint32(c.Ports.First) {
				ranges[n-1].Last = c.Ports.Last
				continue
			}
			ranges = append(ranges, c.Ports)
		default:
			raw[c.Ports.Proto] = c.Ports.Proto == acl.ICMP || c.Ports.Proto == acl.ICMPv6
			protos = append(protos, c.Ports)
		}
	}
	var out []string
	for _, p := range ranges {
		if p.First == 0 && p.Last == 65535 {
			p = acl.Ports{Range: acl.RangeProto, Proto: p.Proto}
		}
		out = append(out, p.String())
	}
	return append(out, otherText(ping, raw, protos, other)...)
}

// otherText is portText for what has no ports. A whole protocol includes its
// ping, which is a class of its own.
func otherText(ping, raw map[acl.Proto]bool, protos []acl.Ports, other bool) (out []string) {
	four, six := ping[acl.ICMP], ping[acl.ICMPv6]
	switch {
	case four && six && !(raw[acl.ICMP] && raw[acl.ICMPv6]):
		out = append(out, "icmp")
	case four && !six && !raw[acl.ICMP]:
		out = append(out, "icmp over IPv4")
	case six && !four && !raw[acl.ICMPv6]:
		out = append(out, "icmp over IPv6")
	}
	for _, p := range protos {
		text := p.String()
		if raw[p.Proto] && !ping[p.Proto] {
			text += " but icmp"
		}
		out = append(out, text)
	}
	if other {
		out = append(out, "other protocols")
	}
	return out
}
