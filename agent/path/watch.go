package path

import (
	"fmt"
	"time"
)

const (
	// How often traffic is looked at. While data flows, often enough that a
	// blocked path is doubted within 600 ms of the block: one look, silenceAfter
	// and minWait.
	pollFlowing = 75 * time.Millisecond
	pollSilent  = 300 * time.Millisecond
	pollResting = time.Second
	pollRelayed = 2 * time.Second

	// flowing is how long after the last data packet data flows.
	flowing = time.Second

	// silenceAfter is how long data may be sent directly without any data coming
	// back the same way before the path is pinged. onewayAfter is the same for a
	// path that answered such a ping: a stream that goes one way.
	silenceAfter = 300 * time.Millisecond
	onewayAfter  = 600 * time.Millisecond

	// A path is suspected after suspectPackets in one direction over suspectAfter,
	// if none came back directly.
	suspectPackets = 8
	suspectAfter   = 3 * time.Second

	// onewaySuspect stands for suspectAfter once the path carried a one-way
	// stream: two of the keepalives with which WireGuard answers such a stream
	// every 10 s, and a margin.
	onewaySuspect = 25 * time.Second

	// twoWayGap is the most time between two direct data packets from the peer
	// that make the traffic two-way; less than between keepalives.
	twoWayGap = 3 * time.Second

	// suspicionFor is how long data goes both ways so that the peer's answers show
	// which of them works; longer than the 10 s that WireGuard waits before it
	// answers a one-way stream by a keepalive.
	suspicionFor = 15 * time.Second

	// verdictAfter is how long after data came back by relay none came directly.
	verdictAfter = 2 * time.Second

	// A path by which pings pass and data does not is barred for barFirst, then
	// twice as long each time, up to barLast. So is the suspicion that nothing
	// ever confirmed.
	barFirst = time.Minute
	barLast  = 10 * time.Minute
)

// watching is what the traffic of a peer shows.
type watching struct {
	pollAt  time.Time
	polled  time.Time
	counted Traffic // at polled

	heard   time.Time     // when data last came directly
	warned  time.Time     // when the path was doubted because data came by relay
	unheard time.Time     // when data was first sent directly that neither data nor pong answered
	silence time.Duration // how long that may last

	// Since data last came directly, or the path in use began to carry data, or
	// the suspicion began.
	sent, came     uint64    // packets sent directly; packets that came by relay
	sentAt, cameAt time.Time // the first of them
	patience       time.Duration
	trustUntil     time.Time // no suspicion for mere silence
	vain           int       // suspicions in a row that nothing confirmed
}

// startWatching begins with a peer that woke.
func (p *peer) startWatching() {
	p.counted, p.polled = p.e.traffic(p.id), p.e.now
	p.pollAt = p.e.now.Add(pollRelayed)
}

// startJudging begins with a path that begins to carry data.
func (p *peer) startJudging() {
	p.pollAt = p.e.now
	p.poll()
	p.unheard, p.silence = time.Time{}, silenceAfter
	p.patience = suspectAfter
	p.forgetCounts()
	// The state may be another only after this; data is what begins to flow.
	p.pollAt = p.e.now.Add(pollFlowing)
}

// forgetCounts begins to count anew.
func (p *peer) forgetCounts() {
	p.sent, p.came, p.sentAt, p.cameAt = 0, 0, time.Time{}, time.Time{}
}

// pollGap is how long until traffic is looked at again.
func (p *peer) pollGap() time.Duration {
	switch p.state {
	case Relayed:
		return pollRelayed
	case Resting:
		return pollResting
	}
	if p.e.now.Sub(p.lastData) < flowing {
		return pollFlowing
	}
	return pollSilent
}

// since is how far a counter went. One that went back began anew.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// poll looks at the traffic if it is time.
func (p *peer) poll() {
	now := p.e.now
	if now.Before(p.pollAt) {
		return
	}
	t := p.e.traffic(p.id)
	sent, got := since(t.DirectSent, p.counted.DirectSent), since(t.DirectReceived, p.counted.DirectReceived)
	byRelay, came := since(t.RelaySent, p.counted.RelaySent), since(t.RelayReceived, p.counted.RelayReceived)
	before := p.polled
	p.counted, p.polled = t, now
	idle := p.idle()
	if sent+got+byRelay+came > 0 {
		p.lastData = now
	}
	p.pollAt = now.Add(p.pollGap())
	if sent+got+byRelay+came == 0 {
		return
	}
	switch {
	case p.state == Resting:
		p.doubt("traffic after a rest")
	case idle && p.state == Relayed:
		p.announces = 0
		p.announceSoon(now, true)
		p.restart()
	}
	p.count(later(before, now.Add(-pollFlowing)), sent, got, came)
}

// count takes the direct packets sent and received, and those that came by relay,
// since the time before.
func (p *peer) count(before time.Time, sent, got, came uint64) {
	now := p.e.now
	if got > 0 {
		if now.Sub(p.heard) < twoWayGap {
			p.patience = suspectAfter
		}
		p.heard, p.unheard, p.silence = now, time.Time{}, silenceAfter
		p.vain, p.trustUntil = 0, time.Time{}
		p.forgetCounts()
		if p.state == Suspected {
			p.using.bars = 0
			p.patience = onewaySuspect
			p.trusted("data comes directly")
		}
		return
	}
	if sent > 0 && p.sent == 0 {
		p.sentAt = before
	}
	if came > 0 && p.came == 0 {
		p.cameAt = before
	}
	p.sent += sent
	p.came += came
	if sent > 0 && p.unheard.IsZero() {
		p.unheard = before
		if p.using != nil {
			p.unheard = later(before, p.using.lastPong)
		}
	}
	if p.state != Direct {
		return
	}
	if came > 0 && p.heard.After(later(p.adopted, p.warned)) && now.Sub(p.heard) >= silenceAfter {
		p.warned = now
		p.doubt("data comes by relay, and none directly any more")
		return
	}
	p.suspect()
}

// heardPong takes note that the path in use answers.
func (p *peer) heardPong(c *candidate) {
	if c == p.using && !p.unheard.IsZero() {
		p.unheard, p.silence = time.Time{}, onewayAfter
	}
}

// silentAt is when the path in use is pinged because of silence; zero when it is
// not silent, or a ping is on its way.
func (p *peer) silentAt() time.Time {
	if p.unheard.IsZero() || p.using.pending() {
		return time.Time{}
	}
	return p.unheard.Add(p.silence)
}

// suspect judges a path that answers pings, by which no data comes.
func (p *peer) suspect() {
	now := p.e.now
	sending := p.sent >= suspectPackets && now.Sub(p.sentAt) >= suspectAfter && p.using.lastPong.After(p.sentAt)
	getting := p.came >= suspectPackets && now.Sub(p.cameAt) >= suspectAfter && p.using.lastPong.After(p.cameAt)
	var why string
	switch {
	case getting:
		why = fmt.Sprintf("%d packets came by relay, none directly", p.came)
	case sending && p.came > 0:
		why = fmt.Sprintf("%d packets sent directly, %d came by relay, none directly", p.sent, p.came)
	case sending && now.Sub(p.sentAt) >= p.patience && !now.Before(p.trustUntil):
		why = fmt.Sprintf("%d packets sent directly, none came back", p.sent)
	default:
		return
	}
	p.enter(Suspected, why)
	p.forgetCounts()
	p.using.soon(now)
}

// judgeSuspicion ends a suspicion whose time has come.
func (p *peer) judgeSuspicion() {
	now := p.e.now
	if at := p.suspicionAt(); now.Before(at) {
		return
	}
	if p.came > 0 {
		c := p.using
		d := bars(c.bars)
		c.bars++
		c.barredUntil = now.Add(d)
		p.lose(fmt.Sprintf("pings pass to %v, WireGuard does not: by relay for %v", c.addr, d))
		return
	}
	p.trustUntil = now.Add(bars(p.vain))
	p.vain++
	p.forgetCounts()
	p.trusted("nothing comes back by which to judge")
}

// suspicionAt is when a suspicion ends.
func (p *peer) suspicionAt() time.Time {
	if p.came > 0 {
		return later(p.cameAt, p.since).Add(verdictAfter)
	}
	return p.since.Add(suspicionFor)
}

// bars is how long the n-th of a row of measures lasts.
func bars(n int) time.Duration {
	return min(barFirst<<min(n, 10), barLast)
}
