package underlay

import (
	"context"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// pairs are the keys towards each peer. Making one takes a curve multiplication
// (some 50 µs), so that those of ten thousand peers are made aside: at once for a
// peer that is spoken to or heard by relay, and in the background for the others,
// whose packets by UDP name nothing but a tag.
type pairs struct {
	self   *disco.Self
	byID   map[key.NodeID]*paired
	byTag  map[disco.TagID]*paired
	todo   []key.NodeID  // that have no pair yet; some may be gone, or have one by now
	filled chan struct{} // capacity 1: todo has grown
}

// A paired is one peer's.
type paired struct {
	id   key.NodeID
	wg   key.WGPublic
	pair *disco.Pair // nil until made
	bad  bool        // the key makes none
}

func (p *pairs) init(self *disco.Self) {
	p.self = self
	p.byID = map[key.NodeID]*paired{}
	p.byTag = map[disco.TagID]*paired{}
	p.filled = make(chan struct{}, 1)
}

// set makes the peers those listed. One whose WireGuard key is another gets
// another pair, which its peer tells from the old by its boot; it is renewed.
func (p *pairs) set(peers []Peer) (gone, renewed []key.NodeID) {
	wanted := make(map[key.NodeID]bool, len(peers))
	for _, peer := range peers {
		wanted[peer.ID] = true
		if had := p.byID[peer.ID]; had != nil {
			if had.wg.Equal(peer.WG) {
				continue
			}
			p.remove(had)
			renewed = append(renewed, peer.ID)
		}
		p.byID[peer.ID] = &paired{id: peer.ID, wg: peer.WG}
		p.todo = append(p.todo, peer.ID)
	}
	for id, had := range p.byID {
		if !wanted[id] {
			p.remove(had)
			gone = append(gone, id)
		}
	}
	select {
	case p.filled <- struct{}{}:
	default:
	}
	return gone, renewed
}

// renew follows a clock that was set forward.
func (p *pairs) renew(now time.Time) {
	p.self.ClockSet(now)
	for _, had := range p.byID {
		if had.pair != nil {
			p.self.Renew(had.pair)
		}
	}
}

func (p *pairs) remove(had *paired) {
	delete(p.byID, had.id)
	if had.pair != nil {
		delete(p.byTag, had.pair.Tag())
	}
}

// of is the pair with a peer, made if it was not; nil for a node that is no peer,
// or whose key makes none.
func (p *pairs) of(id key.NodeID) *disco.Pair {
	had := p.byID[id]
	if had == nil {
		return nil
	}
	if had.pair == nil && !had.bad {
		p.hold(had, p.make(had))
	}
	return had.pair
}

// make makes a pair; nil if the key makes none.
func (p *pairs) make(had *paired) *disco.Pair {
	pair, err := p.self.Pair(had.wg, had.id)
	if err != nil {
		return nil
	}
	return pair
}

func (p *pairs) hold(had *paired, pair *disco.Pair) {
	if pair == nil {
		had.bad = true
		return
	}
	had.pair = pair
	p.byTag[pair.Tag()] = had
}

// makePairs makes pairs in the background until ctx ends. The lock is not held
// while it computes.
func (u *Underlay) makePairs(ctx context.Context) {
	p := &u.pairs
	for ctx.Err() == nil {
		u.mu.Lock()
		had := p.next()
		u.mu.Unlock()
		if had == nil {
			select {
			case <-ctx.Done():
			case <-p.filled:
			}
			continue
		}
		pair := p.make(had)
		if pair == nil {
			u.cfg.Log.Warn("a peer's WireGuard key makes no pair: it is reached by relay alone", "peer", had.id.Short())
		}
		u.mu.Lock()
		if p.byID[had.id] == had && had.pair == nil {
			p.hold(had, pair)
		}
		u.mu.Unlock()
	}
}

// next is a peer that has no pair yet; nil if all have.
func (p *pairs) next() *paired {
	for len(p.todo) > 0 {
		had := p.byID[p.todo[0]]
		p.todo = p.todo[1:]
		if had != nil && had.pair == nil && !had.bad {
			return had
		}
	}
	return nil
}
