package underlay

import (
	"context"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
)

// batch is how many events are handled before the clock is looked at.
const batch = 64

// run is the goroutine that owns the engine.
func (u *Underlay) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-u.events:
			u.mu.Lock()
			u.handle(e)
			for range batch {
				select {
				case e := <-u.events:
					u.handle(e)
					continue
				default:
				}
				break
			}
		case <-u.poke:
			u.mu.Lock()
		case <-timer.C:
			u.mu.Lock()
		}
		u.wakeAll()
		u.engine.Advance(time.Now())
		u.perform()
		u.advanceCheck()
		next := u.next()
		u.mu.Unlock()
		timer.Reset(time.Until(next))
	}
}

// look has run look at the clock and at what has changed.
func (u *Underlay) look() {
	select {
	case u.poke <- struct{}{}:
	default:
	}
}

// next is when something is due, an hour from now if nothing is; u.mu is held.
func (u *Underlay) next() time.Time {
	next := time.Now().Add(time.Hour)
	if t, ok := u.engine.Next(); ok && t.Before(next) {
		next = t
	}
	if t := u.checkDue(); t.Before(next) {
		next = t
	}
	return next
}

// wakeAll tells the engine of peers that have traffic; u.mu is held.
func (u *Underlay) wakeAll() {
	u.wokenMu.Lock()
	ids := u.woken
	u.woken = nil
	u.wokenMu.Unlock()
	for _, id := range ids {
		u.engine.Wake(time.Now(), id)
	}
}

// handle takes one event; u.mu is held.
func (u *Underlay) handle(e event) {
	now := time.Now()
	switch e.kind {
	case received:
		u.receive(now, e)
	case relayed:
		pair := u.pairs.of(e.peer)
		if pair == nil {
			u.counts.unknown.Add(1)
			return
		}
		if m, ok := u.open(pair, e.data); ok {
			u.engine.Receive(now, e.peer, e.addr, m)
		}
	case failed:
		u.engine.Failed(now, e.peer, e.addr, e.text)
	case here:
		u.engine.Here(now, e.peer)
	case relayUp:
		u.engine.RelayUp(now)
	case moved:
		u.bind.ClearSources()
		u.lookAround(true)
	}
	u.perform()
}

// receive takes a packet that came by UDP.
func (u *Underlay) receive(now time.Time, e event) {
	if !disco.Is(e.data) {
		u.answered(now, e)
		return
	}
	tag, ok := disco.Peek(e.data)
	if !ok {
		u.counts.disco[disco.Short].Add(1)
		return
	}
	p := u.pairs.byTag[tag]
	if p == nil {
		u.counts.unknown.Add(1)
		return
	}
	if m, ok := u.open(p.pair, e.data); ok {
		u.engine.Receive(now, p.id, e.addr, m)
	}
}

func (u *Underlay) open(pair *disco.Pair, pkt []byte) (disco.Message, bool) {
	m, err := pair.Open(pkt)
	if err != nil {
		u.counts.disco[disco.ReasonOf(err)].Add(1)
		return nil, false
	}
	return m, true
}

// perform does what the engine says; u.mu is held.
func (u *Underlay) perform() {
	for actions := u.engine.Take(); len(actions) > 0; actions = u.engine.Take() {
		for _, a := range actions {
			switch a := a.(type) {
			case path.Send:
				u.send(a)
			case path.Use:
				u.rouse(a.Peer)
				u.bind.Use(a.Peer, a.Choice)
				u.cfg.Log.Debug("path", "peer", a.Peer.Short(), "direct", a.Choice.Direct, "relay", a.Choice.Relay, "why", a.Why)
				u.cfg.News()
			case path.Learn:
				if a.Gone {
					u.bind.Unlearn(a.Addr, a.Peer)
				} else {
					u.bind.Learn(a.Addr, a.Peer)
				}
			case path.Sleep:
				delete(u.awake, a.Peer)
				u.bind.Use(a.Peer, path.Choice{})
			case path.Ponged:
				u.ponged(a)
			}
		}
	}
}

// send seals a message and sends it.
func (u *Underlay) send(a path.Send) {
	pair := u.pairs.of(a.Peer)
	if pair == nil {
		return // a key that makes no pair: the peer is one by relay alone
	}
	pkt, err := pair.Seal(a.Msg)
	if err != nil {
		u.cfg.Log.Error("a message cannot be sealed", "peer", a.Peer.Short(), "err", err)
		return
	}
	if !a.To.IsValid() {
		// Lost where no relay is connected: the engine says it again when one is.
		_ = u.cfg.Relays.Send(a.Peer, [][]byte{pkt})
		return
	}
	if u.inside[a.To.Addr()] {
		u.engine.Failed(time.Now(), a.Peer, a.To, "an address of the mesh")
		return
	}
	if err := u.bind.SendTo(a.To, pkt); err != nil {
		u.engine.Failed(time.Now(), a.Peer, a.To, err.Error())
	}
}

// A Pong is the answer to Ping.
type Pong struct {
	Direct bool // by the direct path, or else by relay
	RTT    time.Duration
}

// graceOfDirect is how long an answer by relay waits for one by the direct path
// that is in use.
const graceOfDirect = 300 * time.Millisecond

// Ping probes the path to a peer: the direct one if there is one in use, or else
// that by relay. It wakes the peer's path, as traffic does.
func (u *Underlay) Ping(ctx context.Context, id key.NodeID) (Pong, error) {
	answers := make(chan path.Ponged, 8)
	u.mu.Lock()
	u.waiting[id] = append(u.waiting[id], answers)
	u.engine.Probe(time.Now(), id)
	u.perform()
	u.mu.Unlock()
	u.look()
	defer u.forget(id, answers)
	var byRelay *Pong
	var grace <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return Pong{}, ctx.Err()
		case <-grace:
			return *byRelay, nil
		case a := <-answers:
			got := Pong{Direct: a.From.IsValid(), RTT: a.RTT}
			if got.Direct || !u.Verdict(id).Choice.Direct.IsValid() {
				return got, nil
			}
			if byRelay == nil {
				t := time.NewTimer(graceOfDirect)
				defer t.Stop()
				byRelay, grace = &got, t.C
			}
		}
	}
}

func (u *Underlay) forget(id key.NodeID, answers chan path.Ponged) {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.waiting[id]
	for i := range all {
		if all[i] == answers {
			u.waiting[id] = append(all[:i:i], all[i+1:]...)
			break
		}
	}
	if len(u.waiting[id]) == 0 {
		delete(u.waiting, id)
	}
}

// ponged tells those who wait; u.mu is held.
func (u *Underlay) ponged(a path.Ponged) {
	for _, answers := range u.waiting[a.Peer] {
		select {
		case answers <- a:
		default: // it has had eight
		}
	}
}

// Verdict is what is known of the path to a peer.
func (u *Underlay) Verdict(id key.NodeID) path.Verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.engine.Verdict(id)
}
