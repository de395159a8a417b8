// Package netcheck learns how a node looks from outside: whether UDP passes,
// which address and port servers see, and how the NAT in between maps
// (RFC 4787, section 4.1).
//
// A Check is one round of questions to STUN servers, those of the relays
// (package stun has the messages). It has no socket, clock or goroutine: its
// owner tells it the time and what arrived, sends what it says, on the socket
// that carries data, and reads its Report.
//
// # A round
//
//  1. Every server is asked at once, and asked again after 100, 300, 700 and
//     1500 ms while it has not answered, each time with a fresh transaction id:
//     an answer then says which request it answers, and the time between is exact.
//
//  2. An answer counts if it comes from the address asked and repeats an
//     outstanding transaction id, which is random: nobody who does not see the
//     request can answer it. The rest is dropped and counted.
//
//  3. The report can be read at any time. The first answer gives an endpoint to
//     advertise; the second, of another server, says how the NAT maps. Enough
//     says that waiting would not change much.
//
//  4. A server that has not answered 3 seconds after it was first asked is
//     silent. With the last one answered or silent, the round is done.
//
// # What answers tell
//
// Own is an address and port of this node's own socket. Of each family:
//
//	answers                                     behaviour
//	none, and the round is done                 blocked
//	all are own                                 none: no translation
//	one server                                  unknown
//	two ports of one address, and they agree    not-port-dependent: the mapping is
//	                                            endpoint-independent, or (rarely)
//	                                            address-dependent
//	two addresses, and all agree                endpoint-independent
//	two ports of one address differ             address-and-port-dependent
//	two addresses differ, of one of them two
//	ports agree                                 address-dependent
//	two addresses differ, one port of each      endpoint-dependent: one of the two
//
// How a NAT filters is not measured: it takes a server that answers from another
// address than was asked, and what it would tell shows when probes arrive.
//
// # Servers that lie
//
// An answer that cannot be is noted and used for nothing else: an address that
// is unspecified, multicast, broadcast, loopback or link-local, of the other
// family, without a port, or of a private network though the server's is not
// (unless it is this node's own). A lie that could be true costs probes to an
// address where nobody answers, and words that are wrong.
package netcheck

import (
	"net/netip"
	"time"
)

// MaxServers is how many servers a round asks of each family. Three tell all
// there is to tell; more find the nearest relay. Some NATs drop the flows of a
// socket that talks to very many.
const MaxServers = 8

// GiveUp is how long a server has to answer. Round trips of a second are rare,
// and a server asked five times loses all five when 30 % are lost once in 400.
const GiveUp = 3 * time.Second

// again is when a server that has not answered is asked again, after the first
// time.
var again = [...]time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond}

// A Server is one endpoint at which a relay answers STUN. A relay may have
// several: of both families, on several ports.
type Server struct {
	Name string // the relay's
	Addr netip.AddrPort
}

// choose takes at most MaxServers of a family: one of each relay, in the order
// given, then a second of each, so that no relay crowds out the others.
func choose(servers []Server, ip6 bool) (out []Server) {
	type turn struct {
		s     Server
		round int
	}
	var turns []turn
	perName := map[string]int{}
	seen := map[netip.AddrPort]bool{}
	last := 0
	for _, s := range servers {
		s.Addr = unmap(s.Addr)
		if !s.Addr.IsValid() || s.Addr.Port() == 0 || s.Addr.Addr().Is6() != ip6 || seen[s.Addr] {
			continue
		}
		seen[s.Addr] = true
		turns = append(turns, turn{s, perName[s.Name]})
		last = max(last, perName[s.Name])
		perName[s.Name]++
	}
	for round := 0; round <= last && len(out) < MaxServers; round++ {
		for _, t := range turns {
			if t.round == round && len(out) < MaxServers {
				out = append(out, t.s)
			}
		}
	}
	return out
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
