package filter

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// An Outbound is a live flow that this node began, as a filter leaves it to the
// one that comes after it.
type Outbound struct {
	Peer          key.NodeID
	Proto         acl.Proto
	Echo          bool           // a ping, whose identifier is Local's port
	Local, Remote netip.AddrPort // ports are zero where the protocol has none
	Answered      bool           // the peer sent something
	Left          time.Duration  // for how long it may still be silent; never less than zero
	TCP           [2]Sent        // by Direction; zero for other protocols
}

// Sent is what one end of a TCP connection sent. Next and Ack mean something
// only with Any.
type Sent struct {
	Next uint32 // the sequence number behind the last byte
	Ack  uint32 // the last acknowledgement
	Any  bool   // it sent a segment
	Fin  bool   // it sent its last
}

// MaxLeft is the most that an Outbound has left: the patience with an open TCP
// connection.
const MaxLeft = 124 * time.Minute

// Export gives the flows that this node began, are allowed and not over: limit
// of them at most, those that are silent for the shortest time. Below the limit,
// while no flow comes or goes, their order is the same.
func (f *Filter) Export(limit int) []Outbound {
	used := 0
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		used += s.used
		s.mu.Unlock()
	}
	out := make([]Outbound, 0, used)
	seen := make([]int64, 0, used)
	var live []flow // of one shard; copied, so that its lock is not held for longer
	now := f.clock.renew()
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		n := s.used
		s.mu.Unlock()
		live = slices.Grow(live[:0], n)
		s.mu.Lock()
		live = s.outbound(f.active.Load(), now, live)
		s.mu.Unlock()
		for j := range live {
			out = append(out, live[j].export(now))
			seen = append(seen, live[j].seen)
		}
	}
	if len(out) <= limit {
		return out
	}
	recent := make([]int, len(out))
	for i := range recent {
		recent[i] = i
	}
	slices.SortStableFunc(recent, func(a, b int) int { return cmp.Compare(seen[b], seen[a]) })
	recent = recent[:limit]
	slices.Sort(recent)
	for i, j := range recent {
		out[i] = out[j] // j is never before i
	}
	return out[:limit]
}

// outbound appends the flows of the shard that Export gives. The caller holds
// the lock.
func (s *shard) outbound(a *active, now int64, to []flow) []flow {
	if a.generation == 0 {
		return to
	}
	for i := 1; i < len(s.flows); i++ {
		fl := &s.flows[i]
		if fl.peer == nil || fl.began != Out || !fl.live() {
			continue
		}
		if fl.generation != a.generation {
			fl.judge(a, now)
		}
		if fl.end(now); fl.allowed && !fl.expired(now) {
			to = append(to, *fl)
		}
	}
	return to
}

func (fl *flow) export(now int64) Outbound {
	o := Outbound{
		Peer: fl.peer.id, Proto: fl.key.proto(), Echo: fl.key.ports&echoFromLocal != 0,
		Local:    netip.AddrPortFrom(fl.key.local.Netip(), fl.key.localPort()),
		Remote:   netip.AddrPortFrom(fl.key.remote.Netip(), fl.key.remotePort()),
		Answered: fl.state == open,
	}
	whole := patience[fl.key.class()][fl.state]
	o.Left = time.Duration(min(whole, fl.seen+whole-now)) // a clock that went back adds nothing
	for dir, s := range fl.sides {
		if s.sent {
			o.TCP[dir] = Sent{Next: s.next, Ack: s.ack, Any: true, Fin: s.fin}
		}
	}
	return o
}

// Restore gives the next Swap flows that this node began before a restart. They
// are known from the moment on that its rules are in force, so that no packet
// comes between. What is left of each counts from now.
//
// Swap takes up those that it may: between an address of this node's own and one
// of the peer that the flow was begun with, not expired, and of no key that is
// known already. They make no room for themselves in a full table. Flows given
// to Restore twice before a Swap replace each other.
func (f *Filter) Restore(flows []Outbound) {
	f.swapping.Lock()
	defer f.swapping.Unlock()
	f.restored = slices.Clone(flows)
	f.restoredAt = f.clock.renew()
}

// unjudged is the generation of a flow that no rules judged yet.
const unjudged = math.MaxUint64

// takeUp makes the flows given to Restore known that a allows, before a is in
// force, and counts them. The caller holds swapping.
func (f *Filter) takeUp(a *active, now int64) (taken int) {
	for i := range f.restored {
		o := &f.restored[i]
		k, ok := o.key()
		if !ok {
			continue
		}
		p, ok := a.byAddr[k.remote]
		if !ok || a.states[p].id != o.Peer || !a.isOwn(k.local) || now >= a.peers[p].until {
			continue
		}
		fl := flow{peer: a.states[p], generation: unjudged, allowed: true, began: Out}
		if o.Answered {
			fl.state = open
		}
		whole := patience[k.class()][fl.state]
		fl.seen = f.restoredAt - whole + min(whole, int64(o.Left))
		if o.Left < 0 || now-fl.seen > whole {
			continue
		}
		if k.isTCP() {
			for dir, s := range o.TCP {
				if s.Any {
					fl.sides[dir] = side{next: s.Next, ack: s.Ack, sent: true, fin: s.Fin, old: true}
				}
			}
		}
		h := f.secrets.hash(&k)
		s := &f.shards[h>>f.shift]
		s.mu.Lock()
		if s.takeUp(&k, uint32(h), &fl, f.maxPeerFlows, now) {
			taken++
		}
		s.mu.Unlock()
	}
	f.restored = nil
	return taken
}

// takeUp makes a flow from before a restart known, if there is room. The caller
// holds the lock.
func (s *shard) takeUp(k *flowKey, h uint32, from *flow, peerLimit int32, now int64) bool {
	if s.find(k, h, now) != 0 || s.used == s.limit || from.peer.flows.Load() >= peerLimit {
		return false
	}
	i, _ := s.add(k, h, from.peer, peerLimit, now)
	if i == 0 {
		return false
	}
	fl := &s.flows[i]
	fl.generation, fl.allowed, fl.began, fl.seen, fl.sides = from.generation, from.allowed, from.began, from.seen, from.sides
	if from.state != opening {
		s.unlink(i)
		fl.state = from.state
	}
	return true
}

// key is the name of the flow, if one can have it.
func (o *Outbound) key() (k flowKey, ok bool) {
	local, ok := usable(o.Local.Addr())
	if !ok {
		return k, false
	}
	remote, ok := usable(o.Remote.Addr())
	if !ok || local.Is4() != remote.Is4() {
		return k, false
	}
	near, far := o.Local.Port(), o.Remote.Port()
	k = flowKey{local: local, remote: remote, ports: uint64(near) | uint64(far)<<16 | uint64(o.Proto)<<32}
	switch o.Proto {
	case acl.TCP, acl.UDP, acl.SCTP:
		return k, !o.Echo
	case acl.ICMP, acl.ICMPv6:
		k.ports |= echoFromLocal
		return k, o.Echo && far == 0 && local.Is4() == (o.Proto == acl.ICMP)
	default:
		return k, !o.Echo && near == 0 && far == 0
	}
}
