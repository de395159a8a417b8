package filter

import (
	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
)

// judge answers a query. The caller holds the shard's lock and loaded a under it.
func (s *shard) judge(f *Filter, a *active, q *query, h uint32) Verdict {
	switch q.kind {
	case kindBadTCP:
		return verdict(BadFlags)
	case kindRedirect:
		return verdict(Redirect)
	case kindNeighbour:
		return verdict(Neighbour)
	case kindMessage:
		return verdict(a.message(q))
	}
	i := s.find(&q.k, h, q.now)
	if q.kind == kindError || q.later {
		return verdict(s.about(a, q, i))
	}
	if i == 0 {
		return verdict(s.first(f, a, q, h))
	}
	fl := &s.flows[i]
	if fl.generation != a.generation {
		if a.generation == 0 {
			return verdict(NoRules) // a restored flow, which the first Swap judges
		}
		fl.judge(a, q.now)
	} else if q.now >= fl.until {
		fl.end(q.now)
	}
	q.peer = fl.peer
	if q.kind == kindTCPSyn && (q.dir != fl.began || !fl.allowed || !fl.live()) {
		return verdict(s.again(a, q, i))
	}
	if !fl.allowed {
		fl.seen = q.now
		return verdict(FlowCut)
	}
	if fl.track(&q.p, q.dir, q.now) {
		s.unlink(i)
	}
	return verdict(Known)
}

// about judges a packet that only passes for the sake of a flow: an ICMP error
// about it, or a later fragment of a packet of it.
func (s *shard) about(a *active, q *query, i uint32) Reason {
	if q.kind == kindError && !q.later {
		// The two ends of the error are held against the rules by themselves.
		if r := a.ends(q); r != Granted {
			return r
		}
	}
	missing := NoFlow
	if q.later {
		missing = UnknownFragment
	}
	if i == 0 || q.kind == kindError && !q.quoted {
		return missing
	}
	fl := &s.flows[i]
	if fl.generation != a.generation {
		if a.generation == 0 {
			return NoRules
		}
		fl.judge(a, q.now)
	}
	fl.end(q.now)
	switch {
	case q.peer != nil && q.peer != fl.peer:
		return NoFlow
	case !fl.allowed:
		fl.seen = q.now
		return FlowCut
	case q.later:
		return LaterFragment
	default:
		return FlowError
	}
}

// first judges the first packet of a flow and makes the flow known.
func (s *shard) first(f *Filter, a *active, q *query, h uint32) Reason {
	began, g, r := a.begin(q)
	if r.Action() == Drop || q.kind == kindTCPReset || q.kind == kindEchoReply {
		return r
	}
	i, full := s.add(&q.k, h, q.peer, f.maxPeerFlows, q.now)
	if i == 0 {
		return full
	}
	s.open(a, q, i, began, g)
	return r
}

// again judges a bare SYN that begins a flow in place of a known one. Where it
// may not, the known flow is as it was.
func (s *shard) again(a *active, q *query, i uint32) Reason {
	began, g, r := a.begin(q)
	if r.Action() == Drop {
		return r
	}
	fl := &s.flows[i]
	if fl.state != opening {
		s.link(i)
	}
	fl.peer.flows.Add(-1)
	fl.peer = q.peer
	fl.peer.flows.Add(1)
	s.open(a, q, i, began, g)
	return r
}

// open fills in a flow that begins with the query's packet.
func (s *shard) open(a *active, q *query, i uint32, began Direction, g grant) {
	fl := &s.flows[i]
	fl.begin(began, q.now)
	fl.generation, fl.allowed, fl.until, fl.rule = a.generation, true, g.until, nil
	if began == In {
		fl.rule = a.tallies[g.rule]
	}
	if fl.track(&q.p, q.dir, q.now) {
		s.unlink(i)
	}
}

// begin judges whether a packet may begin a flow, and which end begins it.
func (a *active) begin(q *query) (began Direction, g grant, r Reason) {
	if r := a.ends(q); r != Granted {
		return 0, g, r
	}
	peer := &a.peers[a.byAddr[q.k.remote]]
	if q.dir == Out {
		switch {
		case q.now >= peer.until:
			return 0, g, Ended
		case q.kind != kindTCP:
			return Out, grant{until: peer.until}, Begun
		}
	}
	// Into this node; or out of it in the middle of a connection, which is then
	// one that the far end must be allowed to have begun.
	g, r = a.grant(peer, q.k.target(), q)
	if q.dir == Out && r != Granted {
		r = NoFlow
	}
	return In, g, r
}

// message judges an ICMP message that belongs to no flow.
func (a *active) message(q *query) Reason {
	if r := a.ends(q); r != Granted {
		return r
	}
	peer := &a.peers[a.byAddr[q.k.remote]]
	switch {
	case q.dir == In:
		_, r := a.grant(peer, acl.Target{Proto: q.p.Proto}, q)
		return r
	case q.now >= peer.until:
		return Ended
	default:
		return Begun
	}
}

// grant looks up what lets the peer reach a target, and counts it.
func (a *active) grant(peer *peerRules, t acl.Target, q *query) (grant, Reason) {
	if q.kind == kindEchoReply {
		t.Echo = false // grants of icmp are for asking
	}
	g := peer.grants.find(t)
	switch {
	case !g.exists():
		return g, NoGrant
	case q.now >= g.until:
		return g, Ended
	default:
		a.tallies[g.rule].hits.Add(1)
		return g, Granted
	}
}

// ends checks that a packet's two ends are a peer and this node, and finds the
// peer's state.
func (a *active) ends(q *query) Reason {
	if a.generation == 0 {
		return NoRules
	}
	near, far := q.p.Dst, q.p.Src
	if q.dir == Out {
		near, far = far, near
	}
	i, ok := a.byAddr[far]
	switch {
	case q.dir == In && !ok:
		return NotAPeer
	case q.p.Dst.IsMulticast():
		// Of whoever sends it: a kernel reports its groups from a link-local
		// address or from none.
		return Multicast
	case !a.isOwn(near):
		return NotOurs
	case !ok:
		return NotAPeer
	}
	q.peer = a.states[i]
	return Granted
}

// quoted replaces the key of an ICMP error by that of the flow it quotes, and
// reports whether the quotation fits the error: it was sent by the end that the
// error is sent to.
func (f *Filter) quoted(q *query, b []byte) bool {
	var p packet.Packet
	if p.ParseQuoted(q.p.Quoted(b)) != packet.Whole || p.Later() || p.Src != q.p.Dst {
		return false
	}
	var k flowKey
	if kind := k.of(&p, q.dir.reverse()); kind == kindMessage || kind == kindError || kind == kindRedirect || kind == kindNeighbour {
		return false
	}
	q.k = k
	return true
}
