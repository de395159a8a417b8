package filter

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// A Cut is what a swap ended.
type Cut struct {
	Flows []Flow // ordered by peer, protocol, addresses and ports
	Kept  int    // flows that are still allowed
	// Restored is how many of them were given to Restore.
	Restored int
}

// A Flow is a known flow, for people.
type Flow struct {
	Peer          key.NodeID
	Name          string // the peer's
	Proto         acl.Proto
	Echo          bool // a ping
	Local, Remote netip.AddrPort
	Began         Direction // In: the peer began it
	Rule          string    // what allows it, or did last; empty for a flow that this node began
	Allowed       bool      // false while a cut flow is still known
	Ended         bool      // not allowed because its time came
}

func (fl Flow) String() string {
	end := func(a netip.AddrPort) string {
		if a.Port() == 0 {
			return a.Addr().String()
		}
		return a.String()
	}
	from, to := end(fl.Remote), end(fl.Local)
	if fl.Began == Out {
		from, to = to, from
	}
	proto := fl.Proto.String()
	if fl.Echo {
		proto = "icmp"
	}
	s := fmt.Sprintf("%s %s -> %s (%s)", proto, from, to, fl.Name)
	if fl.Rule != "" {
		s += " by " + fl.Rule
	}
	return s
}

func (fl *flow) show() Flow {
	out := Flow{
		Peer: fl.peer.id, Name: fl.peer.name, Proto: fl.key.proto(), Began: fl.began,
		Echo:    fl.key.ports&(echoFromLocal|echoFromRemote) != 0,
		Local:   netip.AddrPortFrom(fl.key.local.Netip(), fl.key.localPort()),
		Remote:  netip.AddrPortFrom(fl.key.remote.Netip(), fl.key.remotePort()),
		Allowed: fl.allowed, Ended: fl.ended,
	}
	if out.Echo {
		out.Local = netip.AddrPortFrom(out.Local.Addr(), 0)
	}
	if fl.rule != nil {
		out.Rule = fl.rule.name
	}
	return out
}

// Swap puts rules in force, judges every flow by them, and returns those that
// it cut and those that ended since the last swap. Nil rules allow nothing.
// When it returns, no packet is judged by older rules.
func (f *Filter) Swap(c *Compiled) Cut {
	if c == nil {
		c = &Compiled{}
	}
	f.swapping.Lock()
	defer f.swapping.Unlock()
	a := f.bind(c)
	now := f.clock.renew()
	cut := Cut{Restored: f.takeUp(a, now)}
	f.active.Store(a)
	var resets []reset
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		resets = s.swap(a, now, &cut, resets)
		s.mu.Unlock()
	}
	f.forget(a)
	if f.reset != nil {
		buf := f.buffers.Get().(*[packet.MaxBuilt]byte)
		for _, r := range resets {
			f.send(r.dir, packet.AppendSegment(buf[:0], r.Segment))
		}
		f.buffers.Put(buf)
	}
	slices.SortFunc(cut.Flows, func(a, b Flow) int {
		return cmp.Or(slices.Compare(a.Peer[:], b.Peer[:]), cmp.Compare(a.Proto, b.Proto), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return cut
}

// bind makes c ready to be put in force. The state of peers and rules that it
// shares with what was in force goes on.
func (f *Filter) bind(c *Compiled) *active {
	a := &active{Compiled: c, generation: f.active.Load().generation + 1}
	for _, p := range c.peers {
		st := f.peers[p.id]
		if st == nil {
			st = &peerState{id: p.id, name: p.name}
			f.peers[p.id] = st
		}
		a.states = append(a.states, st)
	}
	rules := map[string]*ruleState{}
	for _, name := range c.rules {
		st := f.rules[name]
		if st == nil {
			st = &ruleState{name: name}
		}
		rules[name] = st
		a.tallies = append(a.tallies, st)
	}
	f.rules = rules
	return a
}

// forget drops the state of peers that are gone and of whom no flow is known.
// It follows the walk over the flows: no packet adds one for them any more.
func (f *Filter) forget(a *active) {
	here := map[key.NodeID]bool{}
	for _, p := range a.peers {
		here[p.id] = true
	}
	maps.DeleteFunc(f.peers, func(id key.NodeID, st *peerState) bool { return !here[id] && st.flows.Load() == 0 })
}

// A reset is a segment on its way to one end of a cut connection.
type reset struct {
	dir Direction
	packet.Segment
}

// swap judges every flow of the shard by a. The caller holds the lock.
func (s *shard) swap(a *active, now int64, cut *Cut, resets []reset) []reset {
	for i := 1; i < len(s.flows); i++ {
		fl := &s.flows[i]
		if fl.peer == nil {
			continue
		}
		if fl.expired(now) {
			s.remove(uint32(i))
			continue
		}
		if fl.generation != a.generation {
			fl.judge(a, now)
		}
		switch {
		case fl.allowed:
			cut.Kept++
		case !fl.told:
			fl.told = true
			if !fl.live() {
				break
			}
			cut.Flows = append(cut.Flows, fl.show())
			if fl.key.isTCP() {
				resets = append(resets, reset{In, fl.reset(In)}, reset{Out, fl.reset(Out)})
			}
		}
	}
	return resets
}

// Flows are the flows known now, in no order.
func (f *Filter) Flows() []Flow {
	var out []Flow
	now := f.clock.now()
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		for j := range s.flows {
			if fl := &s.flows[j]; fl.peer != nil && !fl.expired(now) {
				out = append(out, fl.show())
			}
		}
		s.mu.Unlock()
	}
	return out
}
