package underlay

import (
	"context"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/path"
)

// batch is how many packets are handled before what comes of them is done.
const batch = 64

// run is the goroutine that hands the engine what happens, and the time.
func (u *Underlay) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var first *packet
		select {
		case <-ctx.Done():
			return
		case p := <-u.inbox.packets:
			first = &p
		case <-u.inbox.poke:
		case <-timer.C:
		}
		next := u.locked(func() {
			if u.phase != running {
				return
			}
			if first != nil {
				u.handle(*first)
				u.handleMore()
			}
			u.obey(u.inbox.take())
			u.engine.Advance(time.Now())
			u.resolveDue()
		})
		switch wait := time.Until(next); {
		case next.IsZero():
			timer.Stop()
		case wait <= 0:
			u.inbox.look()
		default:
			timer.Reset(wait)
		}
	}
}

// next is when something is due; u.mu is held.
func (u *Underlay) next() time.Time {
	next, _ := u.engine.Next()
	return earlier(earlier(next, u.roundDue()), u.nextLookUp())
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// handleMore handles the packets that wait, up to a batch; u.mu is held.
func (u *Underlay) handleMore() {
	for range batch {
		select {
		case p := <-u.inbox.packets:
			u.handle(p)
		default:
			return
		}
	}
	u.inbox.look()
}

// obey tells the engine what was noted; u.mu is held.
func (u *Underlay) obey(n notes) {
	now := time.Now()
	for _, id := range n.woken {
		u.engine.Wake(now, id)
	}
	for id, f := range n.failed {
		u.engine.Failed(now, id, f.to, f.text)
	}
	for id := range n.here {
		u.engine.Here(now, id)
	}
	if n.relayUp {
		u.engine.RelayUp(now)
	}
}

// handle takes one packet; u.mu is held.
func (u *Underlay) handle(p packet) {
	now := time.Now()
	if !p.relayed && !disco.Is(p.data) {
		u.answered(now, p)
		return
	}
	id, pair := p.src, (*disco.Pair)(nil)
	if p.relayed {
		pair = u.pairs.of(id)
	} else {
		tag, ok := disco.Peek(p.data)
		if !ok {
			u.counts.disco[disco.Short].Add(1)
			return
		}
		if had := u.pairs.byTag[tag]; had != nil {
			id, pair = had.id, had.pair
		}
	}
	if pair == nil {
		u.counts.unknown.Add(1)
		return
	}
	before := pair.Began()
	m, err := pair.Open(p.data)
	if err != nil {
		u.counts.disco[disco.ReasonOf(err)].Add(1)
		return
	}
	if before != 0 && pair.Began() != before {
		u.engine.Restarted(now, id)
	}
	u.engine.Receive(now, id, p.from, m)
}

// perform does what the engine says; u.mu is held.
func (u *Underlay) perform() {
	for actions := u.engine.Take(); len(actions) > 0; actions = u.engine.Take() {
		for _, a := range actions {
			switch a := a.(type) {
			case path.Send:
				u.send(a)
			case path.Use:
				u.use(a)
			case path.Learn:
				if a.Gone {
					u.bind.Unlearn(a.Addr, a.Peer)
				} else {
					u.bind.Learn(a.Addr, a.Peer)
				}
			case path.Sleep:
				// It comes after a Use of the zero Choice, which has done it.
			case path.Ponged:
				for _, answers := range u.waiting[a.Peer] {
					select {
					case answers <- a:
					default: // who waits has had enough of them
					}
				}
			}
		}
	}
}

// use has data go another way; u.mu is held.
func (u *Underlay) use(a path.Use) {
	before := u.awake[a.Peer]
	u.bind.Use(a.Peer, a.Choice)
	u.cfg.Log.Debug("path", "peer", a.Peer.Short(), "direct", a.Choice.Direct, "relay", a.Choice.Relay, "why", a.Why)
	u.news = true
	if a.Choice == (path.Choice{}) {
		delete(u.awake, a.Peer)
		return
	}
	u.awake[a.Peer] = a.Choice
	switch {
	case before == path.Choice{}:
		u.measureAfter(freshFor) // the peer is about to be told what is known
	case before.Direct.IsValid() && !before.Relay && a.Choice.Relay:
		u.measureAfter(doubtGap)
		select {
		case u.glance <- struct{}{}:
		default: // it is about to be looked at
		}
	}
}

// send seals a message and sends it; u.mu is held.
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
