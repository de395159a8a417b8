package underlay

import (
	"maps"
	"sync/atomic"

	"github.com/writmesh/writ/agent/disco"
)

// Stats count what was dropped since New.
type Stats struct {
	Full    uint64                  // the queue had no room, or a relay told of too many nodes
	Unknown uint64                  // disco: the tag, or the source that the relay names, is no peer's
	Disco   map[disco.Reason]uint64 // disco of a peer, or seemingly: every reason is in it
	STUN    uint64                  // STUN: no server was waited for that it answers; late answers among them
}

type counts struct {
	full, unknown, stun atomic.Uint64
	disco               [disco.Malformed + 1]atomic.Uint64
}

// Stats are the counts so far.
func (u *Underlay) Stats() Stats {
	s := Stats{
		Full: u.counts.full.Load(), Unknown: u.counts.unknown.Load(), STUN: u.counts.stun.Load(),
		Disco: map[disco.Reason]uint64{},
	}
	for _, r := range disco.Reasons() {
		s.Disco[r] = u.counts.disco[r].Load()
	}
	return s
}

// Dropped are the counts that are not zero, by reason in words.
func (s Stats) Dropped() map[string]uint64 {
	all := map[string]uint64{"queue full": s.Full, "unknown peer": s.Unknown, "stun unasked": s.STUN}
	for r, n := range s.Disco {
		all["disco "+r.String()] = n
	}
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}
