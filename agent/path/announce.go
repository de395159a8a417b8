package path

import (
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

const (
	// announceRate and announceBurst bound the Endpoints to one peer, however
	// often it asks and the relay says that it came. The burst is more
	// than two nodes need that start together: one lost because the other is not
	// there yet, one when it comes, one when the own relay comes, two that answer,
	// and one for each of three answers from STUN servers.
	announceRate, announceBurst = 1, 12

	// announceFirst is how long the first repetition waits, and announceLast the
	// longest time between two while there is no direct path.
	// They repeat because both sides ping when one arrives, each opening its own
	// NAT for the other at the same time.
	announceFirst = time.Second
	announceLast  = time.Minute

	// repingGap is the least time between two pings of one address because of
	// Endpoints that say nothing new.
	repingGap = 250 * time.Millisecond
)

// announcing is what a peer is told, and what it told.
type announcing struct {
	news           bucket
	announceAt     time.Time // when Endpoints are due; zero: never
	announced      time.Time // when they were last sent
	announces      int       // since the peer woke
	version        int       // of Self in the latest
	owed           bool      // there is a reason beside the absence of a path
	wantReply      bool      // the next asks for the peer's own
	heardEndpoints bool      // the peer's own came since it woke
	everHeard      bool
	mapping        disco.Mapping // as the peer last said
	list           int           // how many endpoints it last listed
}

// startAnnouncing begins with a peer that woke.
func (p *peer) startAnnouncing() {
	p.announces, p.heardEndpoints = 0, false
	p.announceSoon(p.e.now, true)
}

// announceSoon has Endpoints sent at t, or as soon after as their rate allows.
func (p *peer) announceSoon(t time.Time, reply bool) {
	p.owed, p.wantReply = true, p.wantReply || reply
	p.announceAt = earlier(p.announceAt, t)
}

// announceDue sends Endpoints if it is time.
func (p *peer) announceDue() {
	e := p.e
	if p.announceAt.IsZero() || e.now.Before(p.announceAt) {
		return
	}
	if !p.owed && p.using != nil {
		p.announceAt = time.Time{}
		return
	}
	if !p.news.take(e.now, announceRate, announceBurst) {
		p.announceAt = p.news.ready(announceRate)
		return
	}
	e.do(Send{Peer: p.id, Msg: &disco.Endpoints{
		Reply:   p.wantReply || !p.heardEndpoints,
		Mapping: e.self.Mapping,
		List:    slices.Clone(e.self.Endpoints),
	}})
	if p.announces > 0 && p.using == nil {
		p.pingAll() // while the peer does, because of this message
	}
	p.announced, p.version = e.now, e.version
	p.owed, p.wantReply = false, false
	p.announceAt = time.Time{}
	p.announces++
	p.scheduleAnnounce()
}

// scheduleAnnounce has Endpoints repeated while there is no direct path.
func (p *peer) scheduleAnnounce() {
	if p.using != nil || p.idle() {
		return
	}
	gap := min(announceFirst<<min(p.announces-1, 6), announceLast)
	p.announceAt = earlier(p.announceAt, p.announced.Add(p.e.jitter(gap)))
}

// told takes the peer's Endpoints.
func (p *peer) told(m *disco.Endpoints) {
	p.wakeFor("the peer tells its endpoints")
	restarted := !p.heardEndpoints
	p.wantReply = p.wantReply && !restarted
	p.heardEndpoints, p.everHeard = true, true
	p.mapping, p.list = m.Mapping, len(m.List)
	if changed := p.setListed(m.List); changed || restarted {
		p.checkNow()
		p.restart()
	} else {
		p.pingAll()
	}
	if m.Reply || p.version != p.e.version {
		p.announceSoon(p.e.now, false)
	}
}
