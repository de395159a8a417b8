package path

import (
	"fmt"
	"time"
)

const (
	// doubtFor is how long data goes both ways in doubt before the direct path is
	// given up: five pings.
	doubtFor = 3 * time.Second

	// missesTolerated is how many pongs in a row may be missing before the path is
	// doubted, while data arrives by it. One is a lost packet.
	missesTolerated = 1

	// dualMisses is the same while data goes by relay as well.
	dualMisses = 3
)

// missed judges the path in use when a pong is missing.
func (p *peer) missed(pr probe) {
	c := p.using
	switch p.state {
	case Direct:
		silent := !p.unheard.IsZero() && (!pr.at.Before(p.unheard) || p.e.now.Sub(p.unheard) >= p.silence)
		if !silent && !p.elsewhere(pr.at) && c.misses <= missesTolerated {
			c.soon(p.e.now)
			return
		}
		c.mine = false
		why := fmt.Sprintf("no pong from %v for %v", c.addr, p.e.now.Sub(pr.at).Round(time.Millisecond))
		if best := p.best(); best != nil && !best.lastPong.Before(pr.at) {
			p.adopt(best, why) // the peer is elsewhere now
			return
		}
		p.doubt(why)
	case Lossy, Suspected:
		if c.misses <= dualMisses {
			c.soon(p.e.now)
			return
		}
		c.mine = false
		p.doubt(fmt.Sprintf("no pong from %v to %d pings", c.addr, c.misses))
	}
}

// elsewhere reports whether another candidate that may carry data has answered or
// asked since, so that the path in use has a replacement.
func (p *peer) elsewhere(since time.Time) bool {
	for _, c := range p.candidates {
		if c != p.using && c.proved() && (!c.lastPong.Before(since) || !c.observed.Before(since)) {
			return true
		}
	}
	return false
}

// checkNow pings the path in use because the peer seems to use another, or
// because its addresses changed, silenceAfter after the last pong at the
// earliest. Data from the peer says nothing about the path to it when it comes
// another way.
func (p *peer) checkNow() {
	if p.state == Direct && !p.using.pending() {
		p.using.soon(later(p.e.now, p.using.lastPong.Add(silenceAfter)))
	}
}

// doubt sends by relay as well and asks every address that ever answered.
func (p *peer) doubt(why string) {
	d := &p.using.doubts
	copy(d[:], d[1:])
	d[len(d)-1] = p.e.now
	p.enter(Doubted, why)
	p.recheck()
}

// lose gives the path in use up, for another that is proved or for the relay.
func (p *peer) lose(why string) {
	c := p.using
	p.using = nil
	if best := p.best(); best != nil && best != c {
		p.adopt(best, why)
		return
	}
	p.enter(Relayed, why)
	p.announces = 0
	p.announceSoon(p.e.now, true)
	p.restart()
}

// refusedInUse judges the path in use when the socket does not send there. Two
// refusals in a row give it up; one may be a full buffer.
func (p *peer) refusedInUse(err string) {
	switch p.state {
	case Doubted:
		p.using.mine = false
		p.lose("the socket refuses: " + err)
	case Resting:
	default:
		p.doubt("the socket refuses: " + err)
	}
}

// proofChanged judges the path when what is proved of a candidate may be other
// than before.
func (p *peer) proofChanged(c *candidate) {
	if p.state == Relayed {
		if c.proved() {
			p.upgraded = p.e.now
			p.adopt(c, "proved both ways")
		}
		return
	}
	switch p.state {
	case Direct, Suspected, Lossy:
		if c == p.using && !c.theirs {
			p.doubt("the peer has no proof of the path any more")
		}
	case Doubted:
		// What was proved before the doubt is part of it.
		if !c.proved() || c.lastPong.Before(p.since) {
			return
		}
		if c == p.using {
			p.trusted("proved again")
		} else {
			p.adopt(c, "proved both ways, while the other is in doubt")
		}
	}
}

// adopt has data go by c.
func (p *peer) adopt(c *candidate, why string) {
	p.using, p.adopted = c, p.e.now
	for _, o := range p.candidates {
		o.better = 0
	}
	p.startJudging()
	p.trusted(why)
	c.due = earlier(c.due, c.nextPing())
}

// trusted has data go by the path in use alone, unless it loses packets.
func (p *peer) trusted(why string) {
	switch c := p.using; {
	case c.losses.many():
		p.enter(Lossy, c.losses.String())
	case c.flaps():
		p.enter(Lossy, fmt.Sprintf("doubted %d times in %v", flapping, flapTime))
	default:
		p.enter(Direct, why)
	}
	p.using.tries = 0
}

// judge changes the state when its time has come.
func (p *peer) judge() {
	now := p.e.now
	if !now.Before(p.sleepAt()) {
		p.sleep()
		return
	}
	switch p.state {
	case Direct:
		if p.using.losses.many() {
			p.enter(Lossy, p.using.losses.String())
		} else if t := p.silentAt(); !t.IsZero() && !now.Before(t) {
			p.using.soon(now)
		}
	case Lossy:
		if !p.using.losses.manyStill() && !p.using.flaps() {
			p.enter(Direct, "few pings are lost")
		}
	case Suspected:
		p.judgeSuspicion()
	case Doubted:
		if now.Sub(p.since) >= doubtFor {
			p.using.mine, p.using.theirs = false, false
			p.using.losses = losses{}
			p.lose(fmt.Sprintf("no proof of %v for %v", p.using.addr, doubtFor))
		}
		return
	}
	switch p.state {
	case Direct, Lossy, Suspected:
		if p.idle() {
			p.enter(Resting, "no traffic")
			for _, c := range p.candidates {
				c.due = time.Time{}
				p.e.line.leave(c)
			}
		}
	}
}

// judgeAt is when judge has something to do.
func (p *peer) judgeAt() time.Time {
	t := p.sleepAt()
	switch p.state {
	case Direct:
		t = earlier(earlier(t, p.idleAt()), p.silentAt())
	case Lossy:
		t = earlier(t, p.idleAt()) // the rest is judged when a ping is
	case Suspected:
		t = earlier(earlier(t, p.idleAt()), p.suspicionAt())
	case Doubted:
		t = earlier(t, p.since.Add(doubtFor))
	}
	return t
}
