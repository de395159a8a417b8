package path

import (
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

const (
	// heartbeat is how often the path in use is checked while there is traffic;
	// less than any NAT's timeout by far, and three of them fit into the patience
	// of people.
	heartbeat = 3 * time.Second

	// watchful is how often the path in use is checked while it is also sent by
	// relay because of losses or suspicion.
	watchful = time.Second

	// alternate is how often a candidate that works is checked while another is
	// in use: the comparison needs samples, the standby a living NAT mapping.
	alternate = 10 * time.Second

	// lively is the longest wait between pings of a candidate that worked in the
	// last reviveFor, while data flows by relay: with it a path that was blocked
	// is found again within the 5 s that its users notice.
	lively    = 2 * time.Second
	reviveFor = 5 * time.Minute

	// narrowly is the longest wait between pings of a candidate that answers short
	// pings only: a path seldom becomes wider, and relays serve it meanwhile.
	narrowly = 10 * time.Second

	// minGap is the least time between two pings of one address in answer to
	// pings from there.
	minGap = 50 * time.Millisecond

	// maxReactions bounds the doubling of minGap: 12.8 s.
	maxReactions = 8

	// minWait is the least time that a pong is waited for before it counts as
	// missing: more than a busy machine delays a packet. newWait is for an address
	// whose round trip is not known.
	minWait = 200 * time.Millisecond
	newWait = time.Second

	// probeLife is how long a pong is still taken; one that is missing by then
	// is lost. Satellites and full buffers answer after a second or two.
	probeLife = 5 * time.Second

	// maxProbes is how many pings of one address may be without their pong: more
	// than the quickest schedule sends within probeLife.
	maxProbes = 8

	// givenUp is how many missing pongs in a row take the proof from a candidate
	// that is not in use, and end its long pings.
	givenUp = 3

	// narrowMisses is how many long pings in a row, after a short one was answered,
	// make a path narrow. One is a lost packet.
	narrowMisses = 2

	// shortSize is the UDP payload of a ping without padding.
	shortSize = disco.MaxPacket - disco.MaxPadding
)

// backoff is how long the next ping of an address waits after each ping that
// has no answer: quick at first, because the pings open NATs for one another.
var backoff = [...]time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
	2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute,
}

// A probe is a ping without its pong.
type probe struct {
	tx      disco.TxID
	at      time.Time
	asked   bool // by Probe
	counts  bool // among the losses: the path was proved
	missing bool // the pong is overdue
	long    bool // padded to the length of data
}

// probing bounds what one peer can cause, and holds the pings by relay.
type probing struct {
	pings    bucket // to addresses that answered
	blind    bucket // to others
	pongs    bucket
	fresh    bucket  // of new addresses
	relayed  []probe // by relay, oldest first
	relayRTT time.Duration
	places   [urgencies]place // owned by the line
}

// again has c pinged soon, and quickly repeated.
func (c *candidate) again() {
	c.tries, c.reactions = 0, 0
	c.soon(c.peer.e.now)
}

// soon has c pinged at t, unless it is sooner.
func (c *candidate) soon(t time.Time) {
	if c.peer.state == Asleep || c.shadowed() {
		return
	}
	if !c.lastPing.IsZero() {
		t = later(t, c.lastPing.Add(minGap))
	}
	c.due = earlier(c.due, t)
}

// restart pings all candidates soon and quickly. A path that works is left to
// its schedule.
func (p *peer) restart() {
	for _, c := range p.candidates {
		if c == p.using && p.state != Doubted || c.proved() && p.using != nil {
			continue
		}
		c.again()
	}
}

// recheck pings soon the candidates that ever answered.
func (p *peer) recheck() {
	for _, c := range p.candidates {
		if c == p.using || !c.lastPong.IsZero() {
			c.again()
		}
	}
}

// pingAll pings once all candidates that are not proved.
func (p *peer) pingAll() {
	for _, c := range p.candidates {
		if c.mine && c.theirs {
			continue
		}
		t := p.e.now
		if !c.lastPing.IsZero() {
			t = later(t, c.lastPing.Add(repingGap))
		}
		c.soon(t)
	}
}

// level is how urgent a ping of c is.
func (c *candidate) level() urgency {
	switch {
	case c == c.peer.using || c.tries == 0 && (c.mine && !c.theirs || c.promising()):
		return inUse
	case c.tries == 0:
		return first
	}
	return repeat
}

// promising reports whether c has answered a short ping since it was pinged: a
// long one is all that its proof wants.
func (c *candidate) promising() bool {
	return c.long && !c.mine && !c.shortPong.IsZero() && !c.shortPong.Before(c.lastPing)
}

// pingDue has the candidates that are due join the line.
func (p *peer) pingDue() {
	now := p.e.now
	for _, c := range p.candidates {
		if c.shadowed() {
			p.e.line.leave(c)
			c.due = time.Time{}
			continue
		}
		if c.waiting != nil {
			p.e.line.join(c, c.level())
			c.due = time.Time{}
			continue
		}
		if c.due.IsZero() || now.Before(c.due) {
			continue
		}
		if at := c.afford(); !at.IsZero() {
			c.due = at
			continue
		}
		c.due = time.Time{}
		p.e.line.join(c, c.level())
	}
}

// afford takes a ping of c out of what the peer may cause; if there is none left
// it says when there is.
func (c *candidate) afford() time.Time {
	p, now := c.peer, c.peer.e.now
	switch {
	case c == p.using:
	case c.answered():
		if !p.pings.take(now, peerRate, peerBurst) {
			return p.pings.ready(peerRate)
		}
	default:
		c.blind.fill(now, oneRate, oneBurst)
		if c.blind.tokens < 1 {
			return c.blind.ready(oneRate)
		}
		if !p.blind.take(now, blindRate, blindBurst) {
			return p.blind.ready(blindRate)
		}
		c.blind.take(now, oneRate, oneBurst)
	}
	return time.Time{}
}

// ping sends a ping.
func (c *candidate) ping() {
	e := c.peer.e
	if len(c.probes) >= maxProbes {
		c.drop(0)
	}
	pr := probe{tx: e.newTx(), at: e.now, asked: c.asked, counts: c.counts(), long: c.long}
	c.probes = append(c.probes, pr)
	c.asked = false
	c.lastPing = e.now
	c.tries++
	c.unanswered++
	c.due = c.nextPing()
	m := &disco.Ping{Tx: pr.tx, Proved: c.mine}
	if pr.long {
		m.Padding = e.pad
	}
	e.do(Send{Peer: c.peer.id, To: c.addr, Msg: m})
}

// counts reports whether a ping of c says something about losses: a path that is
// not proved, or that is in doubt, loses every ping and has its own rules.
func (c *candidate) counts() bool {
	return c.proved() && !(c == c.peer.using && c.peer.state == Doubted)
}

// nextPing is when c is pinged after the ping or the pong of now; zero: not until
// something happens.
func (c *candidate) nextPing() time.Time {
	p := c.peer
	if p.state == Asleep || p.state == Resting || p.idle() || c.shadowed() {
		return time.Time{}
	}
	d := backoff[min(max(c.tries, 1), len(backoff))-1]
	switch {
	case c == p.using && p.state == Direct:
		d = heartbeat
	case c == p.using && p.state != Doubted:
		d = watchful
	case c.mine && c.theirs:
		d = alternate
	case p.using == nil && !c.lastPong.IsZero() && p.e.now.Sub(c.lastPong) < reviveFor:
		d = min(d, lively)
	case p.using == nil && c.narrow:
		d = min(d, narrowly)
	}
	return p.e.now.Add(p.e.jitter(d))
}

// wait is how long c's pong may take before it is missing: TCP's retransmission
// timeout (RFC 6298), which is three round trips after the first, with minWait
// for its lower bound.
func (c *candidate) wait() time.Duration {
	if c.rtt == 0 {
		return newWait
	}
	return min(max(minWait, c.rtt+4*c.deviation), probeLife)
}

// pending reports whether a ping of c is on its way, or about to be.
func (c *candidate) pending() bool {
	return c.waiting != nil || slices.ContainsFunc(c.probes, func(pr probe) bool { return !pr.missing && pr.long })
}

// next is when c has something to do.
func (c *candidate) next() (t time.Time) {
	if c.waiting == nil {
		t = c.due
	}
	for i, pr := range c.probes {
		if !pr.missing {
			t = earlier(t, pr.at.Add(c.wait()))
		}
		if i == 0 {
			t = earlier(t, pr.at.Add(probeLife))
		}
	}
	return t
}

// drop gives up the i-th probe.
func (c *candidate) drop(i int) {
	if c.probes[i].counts {
		c.losses.add(true)
	}
	c.probes = append(c.probes[:i], c.probes[i+1:]...)
}

// expire marks the pongs that are missing, and gives up those that are lost.
func (p *peer) expire() {
	now := p.e.now
	for i := 0; i < len(p.candidates); i++ {
		c := p.candidates[i]
		for j := range c.probes {
			pr := &c.probes[j]
			if pr.missing || now.Before(pr.at.Add(c.wait())) {
				continue
			}
			pr.missing = true
			c.misses++
			c.better = 0
			if c == p.using {
				if pr.long {
					p.missed(*pr)
				}
			} else if c.misses >= givenUp {
				c.mine, c.theirs = false, false
			}
			c.judgeLength(pr.long)
		}
		for len(c.probes) > 0 && !now.Before(c.probes[0].at.Add(probeLife)) {
			c.drop(0)
		}
	}
	for len(p.relayed) > 0 && !now.Before(p.relayed[0].at.Add(probeLife)) {
		p.relayed = p.relayed[1:]
	}
}

// judgeLength decides how long the next ping is when a pong is missing.
func (c *candidate) judgeLength(long bool) {
	if c.mine {
		return
	}
	if long && c.misses >= narrowMisses && c.shortPong.After(c.lastPong) {
		c.narrow = true
	}
	if c.misses >= givenUp {
		c.long = false
	}
	if c.misses >= 2*givenUp {
		c.narrow = false // it does not answer at all
	}
}

// pinged takes a ping that came by UDP, and answers it.
func (p *peer) pinged(from netip.AddrPort, m *disco.Ping) {
	p.wakeFor("the peer pings")
	c := p.observe(from)
	if p.pongs.take(p.e.now, pongRate, pongBurst) {
		p.e.do(Send{Peer: p.id, To: from, Msg: &disco.Pong{Tx: m.Tx, Proved: c != nil && c.mine, Src: from}})
	}
	if c == nil {
		return
	}
	c.theirs = m.Proved
	if !c.mine {
		// The peer's NAT is open towards this node now, which it may not have been
		// when the last ping went there.
		c.soon(later(p.e.now, c.lastPing.Add(minGap<<c.reactions)))
		c.reactions = min(c.reactions+1, maxReactions)
	}
	if c != p.using {
		p.checkNow()
	}
	p.proofChanged(c)
}

// ponged takes a pong that came by UDP.
func (p *peer) ponged(from netip.AddrPort, m *disco.Pong) {
	if p.state == Asleep {
		return
	}
	c, i := p.asked(m.Tx)
	if c == nil {
		return
	}
	if c.addr != from {
		if o := p.observe(from); o != nil {
			c.alias = o
			o.soon(p.e.now)
		}
		return
	}
	c.alias = nil
	pr := c.probes[i]
	rtt := max(p.e.now.Sub(pr.at), time.Microsecond)
	c.probes = append(c.probes[:i], c.probes[i+1:]...)
	c.observed = later(c.observed, p.e.now)
	if pr.asked {
		p.e.do(Ponged{Peer: p.id, From: from, RTT: rtt})
	}
	if !pr.long {
		p.pongedShort(c)
		return
	}
	c.sample(rtt)
	if pr.counts {
		c.losses.add(false)
	}
	c.long, c.narrow = true, false
	c.lastPong, c.misses, c.unanswered, c.refusal = p.e.now, 0, 0, ""
	c.theirs = m.Proved
	if c.foreign = !p.e.learn(c); !c.foreign && !c.mine {
		c.mine = true
		c.tries, c.reactions = 0, 0
		c.due = p.e.now // says Proved, so that the peer need not wait
	} else if c.mine && c.theirs {
		c.tries = 0
		c.due = c.nextPing()
	}
	p.heardPong(c)
	p.proofChanged(c)
	p.compare(c)
}

// pongedShort takes the pong to a short ping. It proves nothing, and has a long
// ping go there at once: whether data passes is what matters.
func (p *peer) pongedShort(c *candidate) {
	c.shortPong, c.misses, c.unanswered, c.refusal = p.e.now, 0, 0, ""
	if c.mine || c.long {
		return // a long one was answered, or is on its way
	}
	c.long = true
	if !c.narrow {
		c.tries, c.reactions = 0, 0
	}
	c.due = p.e.now
}

// asked finds the ping that a pong answers.
func (p *peer) asked(tx disco.TxID) (*candidate, int) {
	for _, c := range p.candidates {
		for i := range c.probes {
			if c.probes[i].tx == tx {
				return c, i
			}
		}
	}
	return nil, 0
}

// sample takes a round trip into c's estimate, as TCP does (RFC 6298, section 2).
func (c *candidate) sample(rtt time.Duration) {
	if c.rtt == 0 {
		c.rtt, c.deviation = rtt, rtt/2
		return
	}
	c.deviation += ((c.rtt - rtt).Abs() - c.deviation) / 4
	c.rtt += (rtt - c.rtt) / 8
}

// refused takes note that the socket does not send to an address.
func (p *peer) refused(to netip.AddrPort, err string) {
	c := p.find(to)
	if c == nil || p.state == Asleep {
		return
	}
	c.refusal = err
	c.tries = max(c.tries, 5) // 2 s
	if c.due = c.nextPing(); c == p.using {
		p.refusedInUse(err)
	}
}

// probe pings for Probe.
func (p *peer) probe() {
	if p.using != nil {
		p.using.asked = true
		p.using.due = p.e.now
	}
	if len(p.relayed) < maxProbes {
		pr := probe{tx: p.e.newTx(), at: p.e.now}
		p.relayed = append(p.relayed, pr)
		p.e.do(Send{Peer: p.id, Msg: &disco.Ping{Tx: pr.tx}})
	}
}

// pongByRelay answers a ping that came by relay. It proves nothing and wakes
// nobody.
func (p *peer) pongByRelay(m *disco.Ping) {
	if p.pongs.take(p.e.now, pongRate, pongBurst) {
		p.e.do(Send{Peer: p.id, Msg: &disco.Pong{Tx: m.Tx}})
	}
}

// pongedByRelay takes the answer to a ping by relay.
func (p *peer) pongedByRelay(m *disco.Pong) {
	for i, pr := range p.relayed {
		if pr.tx == m.Tx {
			p.relayRTT = p.e.now.Sub(pr.at)
			p.relayed = append(p.relayed[:i:i], p.relayed[i+1:]...)
			p.e.do(Ponged{Peer: p.id, RTT: p.relayRTT})
			return
		}
	}
}
