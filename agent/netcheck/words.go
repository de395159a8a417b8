package netcheck

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

// Words are the report for people, a line each, in the words of RFC 4787.
func (r Report) Words() (lines []string) {
	lines = append(lines, r.family("IPv4", 0, r.IPv4)...)
	lines = append(lines, r.family("IPv6", 1, r.IPv6)...)
	lines = append(lines, "direct paths: "+r.prospect())
	if r.Nearest != "" {
		lines = append(lines, fmt.Sprintf("nearest relay: %s, %s", r.Nearest, round(r.nearest())))
	}
	for _, res := range r.Servers {
		if res.Lie != "" {
			lines = append(lines, fmt.Sprintf("%s (%s) says that it sees %s: %s; not used", res.Server, res.Addr, res.Seen, res.Lie))
		}
	}
	return lines
}

func (r Report) String() string { return strings.Join(r.Words(), "\n") + "\n" }

func (r Report) family(name string, f int, fam Family) []string {
	var asked, silent int
	var cause string
	for _, res := range r.Servers {
		if family(res.Addr) == f {
			asked++
			if res.Outcome != Answered {
				silent++
			}
			if res.Outcome == Refused {
				cause = res.Error
			}
		}
	}
	switch fam.UDP {
	case NoServer:
		return []string{name + ": not measured, no relay answers STUN over it"}
	case NoAddress:
		return []string{name + ": this node has no address"}
	case ReachUnknown:
		return []string{fmt.Sprintf("%s: no answer yet from %s", name, servers(asked))}
	case Blocked:
		if cause != "" {
			return []string{fmt.Sprintf("%s: UDP cannot be sent: %s", name, cause)}
		}
		if asked == 1 {
			return []string{name + ": no answer from 1 server; UDP is blocked, or it is down"}
		}
		return []string{fmt.Sprintf("%s: no answer from %s; UDP is blocked, or they are down", name, servers(asked))}
	}
	line := name + ": UDP works"
	if len(fam.Endpoints) > 0 {
		line += ", seen as " + join(fam.Endpoints)
	}
	if silent > 0 {
		line += fmt.Sprintf("; no answer from %d of %s", silent, servers(asked))
	}
	lines := []string{line, name + " NAT: " + fam.Behaviour.words(fam)}
	if fam.Carrier {
		lines = append(lines, name+" NAT: a provider's (carrier-grade): this node's own address is of "+shared.String())
	}
	return lines
}

func (b Behaviour) words(fam Family) (s string) {
	switch b {
	case None:
		return "none, the address is this node's own; a firewall may stand before it"
	case EndpointIndependent, AddressDependent, AddressAndPortDependent:
		s = string(b) + " mapping"
	case EndpointDependent:
		s = "address-dependent or address-and-port-dependent mapping (two ports of one server are needed to tell)"
	case NotPortDependent:
		s = "mapping does not depend on the port; endpoint-independent, or address-dependent (servers at two addresses are needed to tell)"
	default:
		if len(fam.Endpoints) == 0 {
			return "not known, no answer can be used"
		}
		s = "there is one; how it maps is not known (two servers are needed to tell)"
	}
	if fam.PortKept {
		return s + "; it keeps the port"
	}
	return s + "; it changes the port"
}

// prospect is with whom a direct path can be had. A node with endpoint-independent
// mapping is found at an address told in advance. A node that filters by port lets
// in only senders whose port is known in advance.
func (r Report) prospect() string {
	switch r.Mapping() {
	case disco.MappingNone, disco.MappingEndpointIndependent:
		return "to every peer without NAT or with endpoint-independent mapping; to the others if nothing before this node filters by port"
	case disco.MappingEndpointDependent:
		return "to peers without NAT and firewall, and to those with endpoint-independent mapping that do not filter by port; to the others by relay, as a rule"
	case disco.MappingBlocked:
		return "none; all traffic goes by relay"
	}
	if r.IPv4.UDP == Works || r.IPv6.UDP == Works {
		return "likely, with most peers"
	}
	return "not known"
}

func (r Report) nearest() (d time.Duration) {
	d = GiveUp
	for _, res := range r.Servers {
		if res.Outcome == Answered {
			d = min(d, res.RTT)
		}
	}
	return d
}

func servers(n int) string {
	if n == 1 {
		return "1 server"
	}
	return fmt.Sprintf("%d servers", n)
}

func join(list []netip.AddrPort) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

// round leaves three digits or so.
func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Microsecond)
}
