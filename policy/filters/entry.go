package filters

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// A Dst is a destination and ports, in JSON a list of three: ["10.0.0.1", 22, 22].
type Dst struct {
	To          string
	First, Last uint16
}

// MarshalJSON writes the list of three.
func (d Dst) MarshalJSON() ([]byte, error) { return json.Marshal([]any{d.To, d.First, d.Last}) }

// UnmarshalJSON reads the list of three.
func (d *Dst) UnmarshalJSON(b []byte) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	if len(raw) != 3 {
		return fmt.Errorf("destination of %d parts, want 3", len(raw))
	}
	for i, into := range []any{&d.To, &d.First, &d.Last} {
		if err := json.Unmarshal(raw[i], into); err != nil {
			return err
		}
	}
	return nil
}

// key tells entries apart, whatever rules they come from.
func (e *Entry) key() string { return fmt.Sprintf("%q %v %v", e.Src, e.Dst, e.Proto) }

// allPorts is every port, or that a protocol has none.
const allPorts = 65535

type portRange struct{ first, last uint16 }

// A portList is ports of some protocols.
type portList struct {
	protos []int
	ranges []portRange
}

// ports are a grant's as lists of protocols and ports: protocols with the same
// ports together.
func ports(allow []acl.Ports) []portList {
	by := map[int][]portRange{}
	whole := func(proto int) { by[proto] = []portRange{{0, allPorts}} }
	for _, p := range allow {
		switch p.Range {
		case acl.RangePorts:
			by[int(p.Proto)] = append(by[int(p.Proto)], portRange{p.First, p.Last})
		case acl.RangeProto:
			whole(int(p.Proto))
		case acl.RangeEcho:
			whole(int(acl.ICMP))
			whole(int(acl.ICMPv6))
		case acl.RangeAll:
			for proto := range 256 {
				whole(proto)
			}
		}
	}
	byPorts := map[string]*portList{}
	for _, proto := range slices.Sorted(maps.Keys(by)) {
		ranges := merge(by[proto])
		key := fmt.Sprint(ranges)
		if byPorts[key] == nil {
			byPorts[key] = &portList{ranges: ranges}
		}
		byPorts[key].protos = append(byPorts[key].protos, proto)
	}
	var out []portList
	for _, key := range slices.SortedFunc(maps.Keys(byPorts), func(a, b string) int {
		return strings.Compare(fmt.Sprint(byPorts[a].protos), fmt.Sprint(byPorts[b].protos))
	}) {
		out = append(out, *byPorts[key])
	}
	return out
}

// merge sorts ranges and joins those that overlap or touch.
func merge(list []portRange) []portRange {
	slices.SortFunc(list, func(a, b portRange) int { return int(a.first) - int(b.first) })
	var out []portRange
	for _, r := range list {
		if n := len(out); n > 0 && int(r.first) <= int(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, r.last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// capabilities are a grant's, in the order of their names.
func capabilities(g *acl.Grant) (out []Capability) {
	for _, name := range slices.Sorted(maps.Keys(g.Capabilities)) {
		out = append(out, Capability{Name: name, Value: g.Capabilities[name]})
	}
	return out
}
