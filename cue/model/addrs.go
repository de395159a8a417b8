package model

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// maxEndpoints and maxSTUN bound lists that go to every node of the network.
const (
	maxEndpoints = 8
	maxSTUN      = 4
)

func (d *decoder) endpoints(v *value, what string) (out []netip.AddrPort) {
	if v == nil {
		return nil
	}
	for _, item := range v.items {
		e, err := parseEndpoint(item.str)
		if err == nil && slices.Contains(out, e) {
			err = fmt.Errorf("endpoint %s is listed twice", e)
		}
		d.add(item.place, what, err)
		if err == nil {
			out = append(out, e)
		}
	}
	if len(v.items) > maxEndpoints {
		d.problems.Add(v.place, "%s: %d endpoints, at most %d", what, len(v.items), maxEndpoints)
	}
	return out
}

// stunPort is where RFC 8489 (section 18.6) has STUN.
const stunPort = "3478"

// stun reads where a relay answers STUN: what is written, or else the usual port
// of its host.
func (d *decoder) stun(relay *value, what string) (out []string) {
	v := relay.field("stun")
	if v == nil {
		host, _, err := net.SplitHostPort(relay.field("addr").str)
		if err != nil {
			return nil // told of addr
		}
		return []string{net.JoinHostPort(host, stunPort)}
	}
	for _, item := range v.items {
		addr := d.addr(item, what+": stun")
		if slices.Contains(out, addr) {
			d.problems.Add(item.place, "%s: stun: %s is listed twice", what, addr)
		}
		out = append(out, addr)
	}
	if len(v.items) > maxSTUN {
		d.problems.Add(v.place, "%s: %d addresses for stun, at most %d", what, len(v.items), maxSTUN)
	}
	return out
}
