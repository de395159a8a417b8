package filter

import (
	"hash/maphash"
	"math/bits"
	"sync"
)

const (
	// sweepEach is how many slots a new flow looks at for expired ones: two, so
	// that they go faster than flows come.
	sweepEach = 2
	// sweepFull is how many it looks at when there is no room.
	sweepFull = 32
	// idle is how long an open flow must have been silent to make room, in
	// nanoseconds: longer than any application that is alive and impatient.
	idle = 60e9
)

// A shard is a part of the table of flows: chained buckets over slots that are
// used again, so that a flow costs no allocation once the table has grown.
type shard struct {
	secrets *secrets // set at construction
	limit   int      // of slots; set at construction

	mu sync.Mutex
	// guarded by mu
	heads          []uint32 // bucket to slot; 0 is none
	flows          []flow   // slot 0 is never used
	free           uint32   // chain of free slots
	used           int
	oldest, newest uint32 // of the flows in state opening
	hand           uint32 // where the last sweep ended
	counts         [2][reasons]uint64
	evicted        uint64

	_ [64]byte // shards do not share a cache line
}

// secrets key the hash of a filter's tables, so that nobody who chooses ports
// or identifiers can choose collisions.
type secrets [4]uint64

func newSecrets() *secrets {
	var s secrets
	seed := maphash.MakeSeed()
	for i := range s {
		s[i] = maphash.Comparable(seed, i)
	}
	return &s
}

func (s *secrets) hash(k *flowKey) uint64 {
	lhi, llo := k.local.Words()
	rhi, rlo := k.remote.Words()
	h := mix(llo^s[0], rlo^s[1])
	h ^= mix(lhi^s[2], rhi^h)
	return mix(h^k.ports, s[3])
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func (s *shard) init(limit int, secrets *secrets) {
	s.secrets = secrets
	n := 1
	for n < limit {
		n *= 2
	}
	s.limit = limit
	s.heads = make([]uint32, n)
	s.flows = make([]flow, 1, min(limit+1, 16))
}

func (s *shard) bucket(h uint32) *uint32 { return &s.heads[h&uint32(len(s.heads)-1)] }

// find is the slot of a flow, or 0. A flow that expired is not found and gone.
func (s *shard) find(k *flowKey, h uint32, now int64) uint32 {
	for i := *s.bucket(h); i != 0; i = s.flows[i].next {
		if s.flows[i].key.is(k) {
			if s.flows[i].expired(now) {
				s.remove(i)
				return 0
			}
			return i
		}
	}
	return 0
}

// add makes a slot for a flow with a peer, or says why there is none. The flow
// has key and peer, is in the list of opening flows, and nothing else yet.
func (s *shard) add(k *flowKey, h uint32, peer *peerState, peerLimit int32, now int64) (uint32, Reason) {
	s.sweep(sweepEach, now)
	if peer.flows.Add(1) > peerLimit && !s.makeRoom(peer, now) {
		peer.flows.Add(-1)
		return 0, PeerFull
	}
	if s.used == s.limit && !s.makeRoom(nil, now) {
		peer.flows.Add(-1)
		return 0, TableFull
	}
	i := s.free
	if i != 0 {
		s.free = s.flows[i].next
	} else {
		i = uint32(len(s.flows))
		s.flows = append(s.flows, flow{})
	}
	s.used++
	head := s.bucket(h)
	s.flows[i] = flow{key: *k, peer: peer, next: *head}
	*head = i
	s.link(i)
	return i, Granted
}

// makeRoom removes one flow, of a peer if one is given: the oldest that was
// never answered and is not cut, else one that expired or is silent longest of those at hand.
func (s *shard) makeRoom(peer *peerState, now int64) bool {
	steps := 0
	for i := s.oldest; i != 0 && steps < sweepFull; i = s.flows[i].newer {
		if s.flows[i].allowed && (peer == nil || s.flows[i].peer == peer) {
			s.remove(i)
			s.evicted++
			return true
		}
		steps++
	}
	var victim uint32
	for range min(sweepFull, len(s.flows)-1) {
		i := s.step()
		fl := &s.flows[i]
		if fl.peer == nil || peer != nil && fl.peer != peer || !fl.expired(now) && now-fl.seen <= idle {
			continue
		}
		if victim == 0 || fl.seen < s.flows[victim].seen {
			victim = i
		}
	}
	if victim == 0 {
		return false
	}
	if !s.flows[victim].expired(now) {
		s.evicted++
	}
	s.remove(victim)
	return true
}

// sweep removes flows that expired among the next n slots.
func (s *shard) sweep(n int, now int64) {
	for range min(n, len(s.flows)-1) {
		if i := s.step(); s.flows[i].peer != nil && s.flows[i].expired(now) {
			s.remove(i)
		}
	}
}

// step moves the hand to the next slot.
func (s *shard) step() uint32 {
	if s.hand++; int(s.hand) >= len(s.flows) {
		s.hand = 1
	}
	return s.hand
}

func (s *shard) remove(i uint32) {
	fl := &s.flows[i]
	p := s.bucket(uint32(s.secrets.hash(&fl.key)))
	for *p != i {
		p = &s.flows[*p].next
	}
	*p = fl.next
	if fl.state == opening {
		s.unlink(i)
	}
	fl.peer.flows.Add(-1)
	s.flows[i] = flow{next: s.free}
	s.free = i
	s.used--
}

// link appends a flow to the list of opening ones.
func (s *shard) link(i uint32) {
	fl := &s.flows[i]
	fl.older, fl.newer = s.newest, 0
	if s.newest != 0 {
		s.flows[s.newest].newer = i
	} else {
		s.oldest = i
	}
	s.newest = i
}

func (s *shard) unlink(i uint32) {
	fl := &s.flows[i]
	if fl.older != 0 {
		s.flows[fl.older].newer = fl.newer
	} else {
		s.oldest = fl.newer
	}
	if fl.newer != 0 {
		s.flows[fl.newer].older = fl.older
	} else {
		s.newest = fl.older
	}
	fl.older, fl.newer = 0, 0
}
