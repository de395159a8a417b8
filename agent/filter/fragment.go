package filter

import (
	"sync"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
)

const (
	// fragmentSets is how many sets of two packets there are: tunnels avoid
	// fragments, and a burst of large datagrams has some tens on their way.
	fragmentSets = 256
	// fragmentLife is how long later fragments may follow, in nanoseconds. RFC
	// 8200 section 4.5 lets a receiver wait 60 s; Linux waits 30 s.
	fragmentLife = 30e9
)

// fragments remembers the flows of fragmented packets whose first fragment
// passed. A new one takes the place of the older in its set.
type fragments struct {
	mu   sync.Mutex
	sets [fragmentSets][2]fragmented // guarded by mu
}

// fragmented is a packet of which the first fragment passed.
type fragmented struct {
	flow  flowKey
	id    uint32
	dir   Direction
	proto acl.Proto // of IPv4; 0 of IPv6, where it does not name the packet
	first uint16    // bytes of data in the first fragment
	until int64     // 0 in a free place
}

func (e *fragmented) is(p *packet.Packet, dir Direction, now int64) bool {
	local, remote := p.Dst, p.Src
	if dir == Out {
		local, remote = remote, local
	}
	return now < e.until && e.id == p.FragID && e.dir == dir && e.flow.local == local && e.flow.remote == remote && e.proto == fragmentProto(p)
}

// fragmentProto is the protocol as far as it tells fragmented packets apart.
func fragmentProto(p *packet.Packet) acl.Proto {
	if p.Version == 4 {
		return p.Proto
	}
	return 0
}

// set is where a fragmented packet is remembered.
func (t *fragments) set(secrets *secrets, p *packet.Packet) *[2]fragmented {
	k := flowKey{local: p.Src, remote: p.Dst, ports: uint64(p.FragID)}
	return &t.sets[secrets.hash(&k)%fragmentSets]
}

// fragment judges a fragment.
func (f *Filter) fragment(q *query, b []byte) Verdict {
	if !q.p.Later() {
		if q.kind == kindError {
			q.quoted = f.quoted(q, b)
		}
		v := f.judge(q)
		if v.Action == Drop {
			f.answer(q, b, v)
			return v
		}
		f.fragments.pass(f.secrets, q)
		return v
	}
	k, ok, overlaps := f.fragments.find(f.secrets, q)
	if overlaps {
		return f.count(q, OverlapFragment)
	}
	if !ok {
		return f.count(q, UnknownFragment)
	}
	q.k, q.kind, q.later = k, kindFlow, true
	return f.judge(q)
}

// count counts a verdict that needed no flow.
func (f *Filter) count(q *query, r Reason) Verdict {
	s := &f.shards[0]
	s.mu.Lock()
	s.counts[q.dir][r]++
	s.mu.Unlock()
	return verdict(r)
}

// pass remembers a first fragment that passed.
func (t *fragments) pass(secrets *secrets, q *query) {
	e := fragmented{
		flow: q.k, id: q.p.FragID, dir: q.dir, proto: fragmentProto(&q.p),
		first: uint16(min(q.p.End-q.p.Transport, 0xffff)), until: q.now + fragmentLife,
	}
	set := t.set(secrets, &q.p)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range set {
		if set[i].is(&q.p, q.dir, q.now) {
			// Two first fragments: what follows must come after the longer.
			e.first = max(e.first, set[i].first)
			set[i] = e
			return
		}
	}
	i := 0
	if set[1].until < set[0].until {
		i = 1
	}
	set[i] = e
}

// find is the flow of a later fragment. One that overlaps the first ends the
// whole packet (RFC 5722, RFC 3128).
func (t *fragments) find(secrets *secrets, q *query) (k flowKey, ok, overlaps bool) {
	set := t.set(secrets, &q.p)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range set {
		e := &set[i]
		if !e.is(&q.p, q.dir, q.now) {
			continue
		}
		if q.p.FragOffset < e.first {
			*e = fragmented{}
			return k, false, true
		}
		return e.flow, true, false
	}
	return k, false, false
}
