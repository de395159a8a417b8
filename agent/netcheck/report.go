package netcheck

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

// A Report is what a round has learnt so far. Its JSON, like that of what it is
// made of, is for other programs to read: names and words are added and never
// changed.
type Report struct {
	At      time.Time `json:"at"`   // when the round began
	Done    bool      `json:"done"` // no server is waited for
	IPv4    Family    `json:"ipv4"`
	IPv6    Family    `json:"ipv6"`
	Nearest string    `json:"nearest,omitempty"` // the relay that answered soonest
	Servers []Result  `json:"servers"`           // as asked: at most MaxServers of each family
	Dropped Dropped   `json:"dropped"`
}

// A Family is what is known of IPv4 or of IPv6.
type Family struct {
	UDP Reach `json:"udp"`
	// Endpoints are what servers saw, the one that most saw first.
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"`
	Behaviour Behaviour        `json:"behaviour"`
	// PortKept says that there is translation and that every server saw the port
	// of the node's own socket.
	PortKept bool `json:"portKept,omitempty"`
	// Carrier says that there is translation and that the node's own address is
	// one of 100.64.0.0/10 (RFC 6598): the NAT is a provider's, and ports cannot
	// be forwarded on it. Without it there may be such a NAT behind another.
	Carrier bool `json:"carrier,omitempty"`
}

// A Reach says whether UDP reaches servers and returns.
type Reach string

const (
	ReachUnknown Reach = "unknown"    // no answer yet
	Works        Reach = "works"      // a server answered
	Blocked      Reach = "blocked"    // the round is done, and none did
	NoServer     Reach = "no-server"  // there is none to ask
	NoAddress    Reach = "no-address" // the node has no address of this family
)

// A Behaviour is what the answers tell of the mapping: the package's table.
type Behaviour string

const (
	Unknown                 Behaviour = "unknown"
	None                    Behaviour = "none"
	EndpointIndependent     Behaviour = "endpoint-independent"
	NotPortDependent        Behaviour = "not-port-dependent"
	AddressDependent        Behaviour = "address-dependent"
	AddressAndPortDependent Behaviour = "address-and-port-dependent"
	EndpointDependent       Behaviour = "endpoint-dependent"
	BehaviourBlocked        Behaviour = "blocked"
)

// Mapping is the behaviour in the words that peers are told. Those are used to
// explain why there is no direct path, and never decide whether one is tried; so
// the rare NAT whose mapping depends on the address alone is taken for the common
// one until a second server shows it.
func (b Behaviour) Mapping() disco.Mapping {
	switch b {
	case None:
		return disco.MappingNone
	case EndpointIndependent, NotPortDependent:
		return disco.MappingEndpointIndependent
	case AddressDependent, AddressAndPortDependent, EndpointDependent:
		return disco.MappingEndpointDependent
	case BehaviourBlocked:
		return disco.MappingBlocked
	}
	return disco.MappingUnknown
}

// A Result is one server's part of a round.
type Result struct {
	Server  string         `json:"server"`
	Addr    netip.AddrPort `json:"addr"`
	Outcome Outcome        `json:"outcome"`
	Seen    netip.AddrPort `json:"seen,omitzero"`   // what the server says it saw
	RTT     time.Duration  `json:"rtt,omitempty"`   // nanoseconds
	Lie     string         `json:"lie,omitempty"`   // why Seen cannot be, and is not used
	Error   string         `json:"error,omitempty"` // of the socket
}

// An Outcome is where a server stands in a round.
type Outcome string

const (
	Waiting  Outcome = "waiting"
	Answered Outcome = "answered"
	Silent   Outcome = "silent"  // asked five times in three seconds
	Refused  Outcome = "refused" // the socket did not send; Result has its error
)

// Dropped counts datagrams that were no answer.
type Dropped struct {
	Malformed uint64 `json:"malformed"` // not a STUN response, or one without an address
	Unasked   uint64 `json:"unasked"`   // from a server not asked, or with another transaction
	Late      uint64 `json:"late"`      // after an answer to the same server, or after three seconds
}

// Report is what is known now.
func (c *Check) Report() Report {
	c.changed = false
	r := Report{At: c.began, Done: c.Done(), Dropped: c.dropped, Servers: []Result{}}
	for _, a := range c.asks {
		res := Result{Server: a.server.Name, Addr: a.server.Addr, Outcome: a.state, Seen: a.mapped, RTT: a.rtt, Error: a.cause}
		if a.state == Answered {
			res.Lie = lie(a.server.Addr, a.mapped, c.local)
		}
		r.Servers = append(r.Servers, res)
	}
	r.IPv4, r.IPv6 = c.family(r, 0), c.family(r, 1)
	nearest := time.Duration(-1)
	for _, res := range r.Servers {
		if res.Outcome == Answered && (nearest < 0 || res.RTT < nearest) {
			nearest, r.Nearest = res.RTT, res.Server
		}
	}
	return r
}

func (c *Check) family(r Report, f int) (out Family) {
	if out.UDP, out.Behaviour = c.noneFor[f], Unknown; out.UDP != "" {
		return out
	}
	out.UDP = Blocked
	var honest []Result
	for _, res := range r.Servers {
		if family(res.Addr) != f {
			continue
		}
		switch {
		case res.Outcome == Answered:
			out.UDP = Works
			if res.Lie == "" {
				honest = append(honest, res)
			}
		case res.Outcome == Waiting && out.UDP == Blocked:
			out.UDP = ReachUnknown
		}
	}
	if out.UDP == Blocked {
		out.Behaviour = BehaviourBlocked
	}
	if len(honest) == 0 {
		return out
	}
	out.Endpoints = byFrequency(honest)
	out.Behaviour = classify(honest, c.local)
	if out.Behaviour == None {
		return out
	}
	out.PortKept = !slices.ContainsFunc(honest, func(res Result) bool {
		return !slices.ContainsFunc(c.local, func(l netip.AddrPort) bool {
			return family(l) == f && l.Port() == res.Seen.Port()
		})
	})
	out.Carrier = slices.ContainsFunc(c.local, func(l netip.AddrPort) bool { return shared.Contains(l.Addr()) })
	return out
}

// byFrequency are the endpoints seen, those that most servers saw first, and the
// earlier of two.
func byFrequency(results []Result) (out []netip.AddrPort) {
	count := map[netip.AddrPort]int{}
	for _, r := range results {
		if count[r.Seen]++; count[r.Seen] == 1 {
			out = append(out, r.Seen)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return cmp.Compare(count[b], count[a]) })
	return out
}

// Mapping is what peers are told: that of IPv4, which most pairs meet by, and
// that of IPv6 where only it works.
func (r Report) Mapping() disco.Mapping {
	switch {
	case r.IPv4.UDP == Works:
		return r.IPv4.Behaviour.Mapping()
	case r.IPv6.UDP == Works:
		return r.IPv6.Behaviour.Mapping()
	case r.Done && (r.IPv4.UDP == Blocked || r.IPv6.UDP == Blocked):
		return disco.MappingBlocked
	}
	return disco.MappingUnknown
}
