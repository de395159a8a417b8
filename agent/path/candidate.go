package path

import (
	"container/list"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

const (
	// A peer has at most maxStatic candidates from the policy, disco.MaxEndpoints
	// that it listed, and maxObserved that its messages came from: 48.
	maxStatic   = 8
	maxObserved = 8

	// maxRemembered is how many candidates a sleeping peer keeps beside the
	// static ones. A node has two or three endpoints that work.
	maxRemembered = 8

	// maxLearned is how many addresses of a peer the bind knows.
	maxLearned = 8
)

// A candidate is an address at which a peer may be found.
type candidate struct {
	peer *peer
	addr netip.AddrPort

	static   bool       // in the policy
	listed   disco.Kind // as the peer's latest Endpoints has it; zero: it has not
	observed time.Time  // when a message last came from there; zero: never

	// Proofs. A path is proved both ways when both are set.
	mine   bool // a ping of this node was answered
	theirs bool // the peer says that one of its pings was answered

	// Pings.
	due       time.Time // of the next one; zero: none, or waiting
	waiting   *list.Element
	urgency   urgency
	tries     int // since something happened, or since the last pong
	reactions int // pings answered by pings, since something happened
	lastPing  time.Time
	long      bool   // the next ping is as long as data: the address answers
	blind     bucket // while it never answered
	asked     bool   // the next pong is for Probe
	probes    []probe

	// Answers.
	lastPong   time.Time // to a long ping
	shortPong  time.Time // to a short one
	narrow     bool      // short pings are answered, and long ones are not
	misses     int       // since the last pong
	unanswered int       // pings since the last pong
	refusal    string
	foreign    bool          // it answered, but packets from there are another peer's
	rtt        time.Duration // smoothed; zero: never answered
	deviation  time.Duration // of rtt
	losses     losses
	doubts     [flapping]time.Time // the latest times that the path was doubted, oldest first
	better     int                 // consecutive pongs that found it better than the path in use

	// alias is the candidate from whose address the last ping of this one was
	// answered; nil: from its own, or not at all. Both then lead to one socket of
	// the peer, which has another public endpoint towards this node than it knows.
	alias *candidate

	// What WireGuard found.
	barredUntil time.Time
	bars        int
}

// proved reports whether c may carry data.
func (c *candidate) proved() bool {
	return c.mine && c.theirs && !c.peer.e.now.Before(c.barredUntil)
}

// answered reports whether c ever answered: the peer is, or was, there.
func (c *candidate) answered() bool { return !c.lastPong.IsZero() || !c.shortPong.IsZero() }

// shadowed reports whether c is another name for a path that works. To the peer,
// pings by both are pings on that one path: those of c, which is not proved, would
// take back what those of the other have said.
func (c *candidate) shadowed() bool { return !c.mine && c.alias != nil && c.alias.mine }

// rest forgets what does not outlive sleep.
func (c *candidate) rest() {
	c.peer.e.line.leave(c)
	c.mine, c.theirs, c.asked = false, false, false
	c.due, c.probes = time.Time{}, nil
	c.misses, c.unanswered, c.better = 0, 0, 0
	c.long, c.narrow = false, false
	c.losses = losses{}
}

// find returns the candidate with an address; nil when there is none.
func (p *peer) find(a netip.AddrPort) *candidate {
	for _, c := range p.candidates {
		if c.addr == a {
			return c
		}
	}
	return nil
}

// add makes a candidate.
func (p *peer) add(a netip.AddrPort) *candidate {
	c := &candidate{peer: p, addr: a, blind: fullBucket(oneBurst, p.e.now)}
	p.candidates = append(p.candidates, c)
	return c
}

// remove forgets a candidate; if it is in use, its peer must have let go of it.
func (p *peer) remove(c *candidate) {
	c.rest()
	p.e.unlearn(c)
	p.candidates = slices.DeleteFunc(p.candidates, func(x *candidate) bool { return x == c })
}

// setStatic takes the endpoints from the policy, and reports whether they
// changed.
func (p *peer) setStatic(list []netip.AddrPort) bool {
	static := make([]netip.AddrPort, 0, min(len(list), maxStatic))
	for _, a := range list {
		if a = unmapped(a); len(static) < maxStatic && !slices.Contains(static, a) {
			static = append(static, a)
		}
	}
	if slices.Equal(static, p.static) {
		return false
	}
	p.static = static
	for _, c := range p.candidates {
		c.static = false
	}
	for _, a := range static {
		if p.e.forbidden(a) != "" {
			continue
		}
		c := p.find(a)
		if c == nil {
			c = p.add(a)
		}
		c.static = true
		c.again()
	}
	p.dropUnfounded()
	return true
}

// setListed takes the list of the peer's Endpoints, and reports whether it
// changed. Addresses beyond the bound, and those that must not be pinged, do not
// count.
func (p *peer) setListed(list []disco.Endpoint) (changed bool) {
	before := 0
	for _, c := range p.candidates {
		if c.listed != 0 {
			before++
		}
	}
	fresh := make(map[netip.AddrPort]disco.Kind, min(len(list), disco.MaxEndpoints))
	for _, ep := range list[:min(len(list), disco.MaxEndpoints)] {
		a := unmapped(ep.Addr)
		if _, twice := fresh[a]; twice || p.e.forbidden(a) != "" {
			continue
		}
		fresh[a] = max(ep.Kind, disco.Interface)
		c := p.find(a)
		if c == nil {
			c = p.add(a)
		}
		if c.listed == 0 {
			changed = true
		}
	}
	for _, c := range p.candidates {
		c.listed = fresh[c.addr]
	}
	changed = changed || len(fresh) != before
	p.dropUnfounded()
	return changed
}

// observe returns the candidate that a message came from, a new one if need be.
// The one that has been silent longest makes room, unless it is proved. It
// returns nil when there were too many new ones of late.
func (p *peer) observe(from netip.AddrPort) *candidate {
	c := p.find(from)
	if c == nil {
		if !p.fresh.take(p.e.now, freshRate, freshBurst) {
			return nil
		}
		c = p.add(from)
	}
	c.observed = p.e.now
	p.boundObserved(c)
	return c
}

// boundObserved keeps the candidates that are only observed within their bound;
// fresh stays.
func (p *peer) boundObserved(fresh *candidate) {
	for {
		var n int
		var oldest *candidate
		for _, c := range p.candidates {
			if c.static || c.listed != 0 {
				continue
			}
			n++
			if c == fresh || c == p.using {
				continue
			}
			if oldest == nil || oldest.mine && !c.mine || oldest.mine == c.mine && c.observed.Before(oldest.observed) {
				oldest = c
			}
		}
		if n <= maxObserved || oldest == nil {
			return
		}
		p.remove(oldest)
	}
}

// dropUnfounded removes the candidates that nothing speaks for any more. One
// that answers, or was heard of late, speaks for itself.
func (p *peer) dropUnfounded() {
	for _, c := range slices.Clone(p.candidates) {
		if c.static || c.listed != 0 || !c.observed.IsZero() && p.e.now.Sub(c.observed) < reviveFor {
			continue
		}
		if c.mine || c == p.using {
			c.observed = later(c.lastPong, p.since)
			continue
		}
		p.remove(c)
	}
	p.boundObserved(nil)
}

// dropForbidden removes the candidates that the node's own addresses forbid, and
// admits static ones that they no longer do.
func (p *peer) dropForbidden() {
	for _, c := range slices.Clone(p.candidates) {
		why := p.e.forbidden(c.addr)
		if why == "" {
			continue
		}
		if c == p.using {
			p.lose("the address is " + why)
		}
		p.remove(c)
	}
	for _, a := range p.static {
		if p.e.forbidden(a) == "" && p.find(a) == nil {
			p.add(a).static = true
		}
	}
}

// trim keeps of a sleeping peer's candidates the static ones and those that
// answered last, then those that were listed first.
func (p *peer) trim() {
	keep := slices.Clone(p.candidates)
	slices.SortStableFunc(keep, func(a, b *candidate) int { return b.lastPong.Compare(a.lastPong) })
	n := 0
	for _, c := range keep {
		if c.static {
			continue
		}
		if n++; n > maxRemembered {
			p.remove(c)
		}
	}
}

// learn tells the bind that packets from c are the peer's. It reports false for
// an address that another peer answers from: the first keeps it until it no
// longer answers.
func (e *Engine) learn(c *candidate) bool {
	owner := e.learned[c.addr]
	if owner == c {
		return true
	}
	if owner != nil {
		if owner.mine {
			return false
		}
		e.unlearn(owner)
	}
	var n int
	var oldest *candidate
	for _, o := range c.peer.candidates {
		if e.learned[o.addr] != o {
			continue
		}
		n++
		if o != c.peer.using && (oldest == nil || o.lastPong.Before(oldest.lastPong)) {
			oldest = o
		}
	}
	if n >= maxLearned && oldest != nil {
		oldest.mine = false
		e.unlearn(oldest)
	}
	e.learned[c.addr] = c
	e.do(Learn{Peer: c.peer.id, Addr: c.addr})
	return true
}

// unlearn takes back what learn told.
func (e *Engine) unlearn(c *candidate) {
	if e.learned[c.addr] == c {
		delete(e.learned, c.addr)
		e.do(Learn{Peer: c.peer.id, Addr: c.addr, Gone: true})
	}
}
