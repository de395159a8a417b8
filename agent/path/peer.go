package path

import (
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// idleAfter is how long a path in use is checked after the last data packet.
	// A conversation that pauses for less finds its NAT mappings alive: RFC 4787
	// (REQ-5) demands two minutes, and what is sold keeps half a minute.
	idleAfter = 45 * time.Second

	// sleepAfter is how long a peer stays awake after the last data packet.
	sleepAfter = 2 * time.Minute

	// wokenFor is how long a peer stays awake that woke because of a message. It
	// covers the first six pings of every candidate on both sides. Messages do not
	// lengthen it: two nodes without traffic must not keep each other awake.
	wokenFor = 30 * time.Second
)

// A State is where a peer's path stands.
type State byte

const (
	Asleep    State = iota // no traffic: nothing is sent but by relay, and nothing is pinged
	Relayed                // data goes by relay; candidates are pinged
	Direct                 // data goes by a direct path that is proved both ways
	Doubted                // by both: the direct path was proved, but a pong is missing, or the peer takes its proof back
	Suspected              // by both: pings pass on the direct path, data seems not to
	Lossy                  // by both: the direct path loses pings
	Resting                // by both: no traffic for a while, so that the direct path is not checked
)

func (s State) String() string {
	return [...]string{"asleep", "relay", "direct", "doubted", "suspected", "lossy", "resting"}[s]
}

// A peer is one peer's path.
//
//	Asleep ──► Relayed ──► Direct ──┬──► Doubted ────► Direct or Relayed
//	                                ├──► Suspected ──► Direct or Relayed
//	                                ├──► Lossy ──────► Direct or Doubted
//	                                └──► Resting ────► Doubted or Asleep
//
//	from       to         when
//	Asleep     Relayed    there is traffic, or a message that wakes
//	Relayed    Direct     a candidate is proved both ways
//	Direct     Doubted    a pong is missing, the peer takes its proof back, its
//	                      data comes by relay instead, the socket refuses, or
//	                      the network changed
//	Doubted    Direct     a pong came since, and the peer says Proved
//	Doubted    Relayed    neither for doubtFor
//	Direct     Suspected  pings pass, data does not come back (watch.go)
//	Suspected  Direct     data comes directly, or nothing comes by which to judge
//	Suspected  Relayed    data comes by relay only; the candidate is barred
//	Direct     Lossy      a quarter of the pings is lost, or doubts are frequent
//	Lossy      Direct     a tenth or less is lost, and doubts are rare
//	any in use Resting    no traffic for idleAfter
//	Resting    Doubted    traffic again: nobody looked at the path meanwhile
//	any        Asleep     no traffic for sleepAfter
//
// From Suspected and Lossy the way to Doubted is open too, after more missing
// pongs; and from any state with a direct path, another candidate that is proved
// both ways may take over, which is Direct again.
//
// A peer is in the schedule unless it is asleep. Its using is one of its
// candidates, and nil in Asleep and Relayed only.
type peer struct {
	// set at construction
	e      *Engine
	id     key.NodeID
	serial uint64

	static []netip.AddrPort

	// owned by the schedule
	deadline time.Time
	slot     int // -1: not in it

	state       State
	since       time.Time // when the state began
	choice      Choice    // as the owner was told
	transitions []Transition

	lastData   time.Time // of traffic either way, or of Wake
	awakeUntil time.Time // because of a message

	candidates []*candidate
	using      *candidate
	adopted    time.Time // when using began to carry data
	upgraded   time.Time // when data began to go directly

	announcing
	watching
	probing
}

// newPeer makes a peer that sleeps.
func (e *Engine) newPeer(id key.NodeID) *peer {
	e.serial++
	p := &peer{e: e, id: id, serial: e.serial, slot: -1, since: e.now}
	p.pings = fullBucket(peerBurst, e.now)
	p.blind = fullBucket(blindBurst, e.now)
	p.fresh = fullBucket(freshBurst, e.now)
	p.pongs = fullBucket(pongBurst, e.now)
	p.news = fullBucket(announceBurst, e.now)
	return p
}

// forget ends the peer.
func (p *peer) forget() {
	p.using = nil
	for len(p.candidates) > 0 {
		p.remove(p.candidates[len(p.candidates)-1])
	}
	if p.choice != (Choice{}) {
		p.e.do(Use{p.id, Choice{}, "no longer a peer"})
	}
	p.e.dozeOff(p)
}

// dozeOff takes p out of what is touched by time.
func (e *Engine) dozeOff(p *peer) {
	e.schedule.set(p, time.Time{})
	if i := slices.Index(e.awake, p); i >= 0 {
		e.awake = slices.Delete(e.awake, i, i+1)
	}
}

// enter changes the state and tells the owner when data goes another way.
func (p *peer) enter(s State, why string) {
	p.note(s, why)
	p.state, p.since = s, p.e.now
	var c Choice
	switch s {
	case Asleep:
	case Relayed:
		c.Relay = true
	case Direct:
		c.Direct = p.using.addr
	default:
		c = Choice{Direct: p.using.addr, Relay: true}
	}
	if c != p.choice {
		p.choice = c
		p.e.do(Use{p.id, c, why})
	}
}

// wake begins to look for a direct path to a peer that sleeps.
func (p *peer) wake(why string) {
	if p.state != Asleep {
		return
	}
	p.e.awake = append(p.e.awake, p)
	p.dropForbidden() // SetSelf passes over those who sleep
	p.enter(Relayed, why)
	p.startWatching()
	p.startAnnouncing()
	p.restart()
}

// wakeFor wakes p because of a message.
func (p *peer) wakeFor(why string) {
	if p.state == Asleep {
		p.awakeUntil = p.e.now.Add(wokenFor)
		p.wake(why)
	}
}

// sleep ends the search. Candidates are remembered; proofs are not.
func (p *peer) sleep() {
	p.using = nil
	for _, c := range p.candidates {
		c.rest()
	}
	p.trim()
	p.relayed = nil
	p.enter(Asleep, "no traffic")
	p.e.do(Sleep{p.id})
	p.e.dozeOff(p)
}

// idleAt is when the path in use is no longer checked.
func (p *peer) idleAt() time.Time { return later(p.lastData.Add(idleAfter), p.awakeUntil) }

// sleepAt is when p falls asleep.
func (p *peer) sleepAt() time.Time { return later(p.lastData.Add(sleepAfter), p.awakeUntil) }

// idle reports whether there has been no reason to ping for a while.
func (p *peer) idle() bool { return !p.e.now.Before(p.idleAt()) }

// settle does what is due, and waits for what comes next.
func (p *peer) settle() {
	p.tick()
	p.reschedule()
}

// tick does what is due, in this order: look at the traffic, give up pings that
// were not answered, judge the path, tell endpoints, ping.
func (p *peer) tick() {
	if p.state == Asleep {
		return
	}
	p.poll()
	p.expire()
	p.judge()
	if p.state == Asleep {
		return
	}
	p.announceDue()
	p.pingDue()
}

// reschedule sets the time of the next tick.
func (p *peer) reschedule() {
	if p.state == Asleep {
		p.e.schedule.set(p, time.Time{})
		return
	}
	t := earlier(p.pollAt, p.announceAt)
	t = earlier(t, p.judgeAt())
	for _, c := range p.candidates {
		t = earlier(t, c.next())
	}
	if len(p.relayed) > 0 {
		t = earlier(t, p.relayed[0].at.Add(probeLife))
	}
	p.e.schedule.set(p, t)
}

// moved takes every proof back.
func (p *peer) moved() {
	for _, c := range p.candidates {
		c.mine, c.theirs = false, false
	}
	switch p.state {
	case Direct, Suspected, Lossy:
		p.doubt("the network changed")
	}
	p.restart()
}
