package netcheck

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/relay/stun"
)

// A Packet is one datagram to send.
type Packet struct {
	To   netip.AddrPort
	Data []byte
}

// A Check is one round. It is not safe for concurrent use. Time that goes
// backwards stands still for it.
type Check struct {
	// Set at construction.
	began time.Time
	local []netip.AddrPort
	newTx func() [12]byte

	now     time.Time // the latest time told
	asks    []*ask    // IPv4's first
	changed bool      // since the last Report
	noneFor [2]Reach  // why a family, IPv4 and IPv6, has no ask; zero if it has
	dropped Dropped
}

// An ask is one server in a round.
//
//	waiting ──► answered     an answer counted
//	   ├──────► silent       GiveUp has passed
//	   └──────► refused      the socket sent none of the requests
type ask struct {
	server Server
	state  Outcome
	sent   int
	first  time.Time // when it was first asked
	due    time.Time // when to ask again, or to give up
	out    []request
	mapped netip.AddrPort
	rtt    time.Duration
	cause  string // why the socket refused
}

type request struct {
	tx [12]byte
	at time.Time
}

// Start begins a round. Local are the addresses of this node's interfaces with
// the port of its socket of that family: they decide whether an address seen from
// outside is its own, and a family of which it has none is not asked; with no
// local at all every server is. NewTx makes transaction ids; nil means random
// ones, and anything else belongs in a test.
func Start(now time.Time, servers []Server, local []netip.AddrPort, newTx func() [12]byte) *Check {
	if newTx == nil {
		newTx = randomTx
	}
	c := &Check{began: now, now: now, newTx: newTx, changed: true}
	has := [2]bool{}
	for _, l := range local {
		l = unmap(l)
		c.local = append(c.local, l)
		has[family(l)] = true
	}
	for f, ip6 := range []bool{false, true} {
		chosen := choose(servers, ip6)
		switch {
		case len(chosen) == 0:
			c.noneFor[f] = NoServer
		case len(local) > 0 && !has[f]:
			c.noneFor[f] = NoAddress
		default:
			for _, s := range chosen {
				c.asks = append(c.asks, &ask{server: s, state: Waiting, due: now})
			}
		}
	}
	return c
}

func randomTx() (tx [12]byte) {
	rand.Read(tx[:])
	return tx
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return 0
	}
	return 1
}

// Advance is what to send now.
func (c *Check) Advance(now time.Time) (out []Packet) {
	c.tell(now)
	for _, a := range c.asks {
		if a.state != Waiting || a.due.After(c.now) {
			continue
		}
		if a.sent > 0 && c.now.Sub(a.first) >= GiveUp {
			a.state, c.changed = Silent, true
			continue
		}
		if a.sent == 0 {
			a.first = c.now
		}
		if a.sent <= len(again) {
			tx := c.newTx()
			a.out = append(a.out, request{tx, c.now})
			a.sent++
			out = append(out, Packet{To: a.server.Addr, Data: stun.Request(tx)})
		}
		a.due = a.first.Add(GiveUp)
		for _, after := range again[min(a.sent-1, len(again)):] {
			if at := a.first.Add(after); at.After(c.now) {
				a.due = at
				break
			}
		}
	}
	return out
}

// Next is when Advance has something to do; the zero time when the round is done.
func (c *Check) Next() (next time.Time) {
	for _, a := range c.asks {
		if a.state == Waiting && (next.IsZero() || a.due.Before(next)) {
			next = a.due
		}
	}
	return next
}

// Receive takes a datagram, and reports whether it is an answer that counts. Any
// other is counted as dropped.
func (c *Check) Receive(now time.Time, src netip.AddrPort, packet []byte) bool {
	c.tell(now)
	tx, mapped, err := stun.ParseResponse(packet)
	if err != nil {
		c.dropped.Malformed++
		return false
	}
	src = unmap(src)
	for _, a := range c.asks {
		if a.server.Addr != src {
			continue
		}
		for _, r := range a.out {
			if r.tx != tx {
				continue
			}
			if a.state != Waiting || c.now.Sub(a.first) >= GiveUp {
				c.dropped.Late++
				return false
			}
			a.state, a.mapped, a.rtt = Answered, unmap(mapped), c.now.Sub(r.at)
			c.changed = true
			return true
		}
	}
	c.dropped.Unasked++
	return false
}

// Failed says that the socket did not take the packet sent to a server last, and
// why. A server to which nothing could be sent is not waited for.
func (c *Check) Failed(to netip.AddrPort, cause string) {
	to = unmap(to)
	for _, a := range c.asks {
		if a.server.Addr != to || a.state != Waiting || len(a.out) == 0 {
			continue
		}
		a.cause = cause
		if a.out = a.out[:len(a.out)-1]; len(a.out) == 0 {
			a.state, c.changed = Refused, true
		}
	}
}

// Done reports whether every server has answered or been given up.
func (c *Check) Done() bool { return c.Next().IsZero() }

// Enough reports whether waiting longer would hardly change the report: in each
// family in which a server answered, two did at different addresses, or all are
// accounted for; and some server answered, or the round is done. A family in
// which nobody has answered is waited for 300 ms longer than the other needed.
func (c *Check) Enough() bool {
	const patience = 300 * time.Millisecond
	if c.Done() {
		return true
	}
	var answered, settled [2]bool
	for f := range 2 {
		var addrs []netip.Addr
		waiting := 0
		for _, a := range c.asks {
			if family(a.server.Addr) != f {
				continue
			}
			switch a.state {
			case Waiting:
				waiting++
			case Answered:
				answered[f] = true
				if !slices.Contains(addrs, a.server.Addr.Addr()) {
					addrs = append(addrs, a.server.Addr.Addr())
				}
			}
		}
		settled[f] = waiting == 0 || len(addrs) >= 2
	}
	if settled[0] && settled[1] {
		return answered[0] || answered[1]
	}
	for f := range 2 {
		if settled[f] && answered[f] && !answered[1-f] && c.now.Sub(c.began) >= c.slowest(f)+patience {
			return true
		}
	}
	return false
}

// slowest is the longest round trip of a family.
func (c *Check) slowest(f int) (d time.Duration) {
	for _, a := range c.asks {
		if family(a.server.Addr) == f {
			d = max(d, a.rtt)
		}
	}
	return d
}

// Changed reports whether a report would differ from the last one taken.
func (c *Check) Changed() bool { return c.changed }

func (c *Check) tell(now time.Time) {
	if now.After(c.now) {
		c.now = now
	}
}
