package underlay

import (
	"context"

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
}

func (p *pairs) init(self *disco.Self) {
	p.self = self
	p.byID = map[key.NodeID]*paired{}
	p.byTag = map[disco.TagID]*paired{}
	p.filled = make(chan struct{}, 1)
}

// set makes the peers those listed. One whose WireGuard key is another gets
// another pair, which its peer tells from the old by its boot. Those that are gone
// are returned.
func (p *pairs) set(peers []Peer) (gone []key.NodeID) {
	wanted := make(map[key.NodeID]bool, len(peers))
	for _, peer := range peers {
		wanted[peer.ID] = true
		if had := p.byID[peer.ID]; had != nil {
			if had.wg.Equal(peer.WG) {
				continue
			}
			p.remove(had)
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
	return gone
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
	if had.pair == nil {
		if pair, err := p.self.Pair(had.wg, id); err == nil {
			p.hold(had, pair)
		}
	}
	return had.pair
}

func (p *pairs) hold(had *paired, pair *disco.Pair) {
	had.pair = pair
	p.byTag[pair.Tag()] = had
}

// makePairs makes pairs in the background until ctx ends. The lock is not held
// while it computes.
func (u *Underlay) makePairs(ctx context.Context) {
	p := &u.pairs
	for {
		var had *paired
		u.mu.Lock()
		for had == nil && len(p.todo) > 0 {
			if next := p.byID[p.todo[0]]; next != nil && next.pair == nil {
				had = next
			}
			p.todo = p.todo[1:]
		}
		u.mu.Unlock()
		if had == nil {
			select {
			case <-ctx.Done():
				return
			case <-p.filled:
			}
			continue
		}
		pair, err := p.self.Pair(had.wg, had.id)
		if err != nil {
			u.cfg.Log.Warn("a peer's key makes no pair", "peer", had.id.Short(), "err", err)
			continue
		}
		u.mu.Lock()
		if p.byID[had.id] == had && had.pair == nil {
			p.hold(had, pair)
		}
		u.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
	}
}
