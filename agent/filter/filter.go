// Package filter decides which packets pass between this node and the mesh:
// stateful, default deny, and exactly what coordinator/acl means.
//
// It does not hold policy, talk to anybody or read documents: it is given
// [Rules], which somebody verified, and packets. It sits in the TUN wrapper and
// is in place before the TUN is up; until the first Swap it passes nothing.
//
// # A packet
//
//  1. Its headers are read (package packet); what is not sound is dropped.
//  2. It belongs to a flow: two addresses, a protocol, two ports or an echo
//     identifier. If that flow is known and still allowed, it passes.
//  3. Otherwise it would begin a flow, and is judged. Into this node: the source
//     is an address of a peer, the destination one of this node's own, and a
//     grant contains the target, as acl.Judge has it. Out of this node: the
//     source is this node's own address, the destination an address of a peer.
//     What the far end allows is judged there.
//
// A flow is known from its first packet, whichever end sent that. Answers need
// no grant. A peer whose session has ended is nobody and has no addresses.
//
// # What begins a flow
//
//	TCP      into this node every segment but a reset, judged by the rules: a
//	         segment without a flow is never taken for an established one. Out
//	         of this node only SYN. A segment in the middle of a connection that
//	         the filter does not know is judged as the answer to an inbound
//	         flow, because letting it open one would let a connection whose
//	         grant is gone outlive a restart of the agent; without a grant it is
//	         dropped and this node's stack is sent a reset.
//	ICMP     an echo request. Errors pass only if they quote a packet of a live
//	         flow with that peer, and begin nothing. Redirects and neighbour
//	         discovery never pass: they are between neighbours on a link, and
//	         there is none. Other messages are judged one by one and begin
//	         nothing.
//	others   every packet
//
// A bare SYN from the end that did not begin the flow is judged as the beginning
// of another.
//
// # Fragments
//
// The first fragment is judged. Later ones pass while the flow of their first
// is live, if they come after it and do not overlap it.
//
// # A swap
//
// Rules are compiled apart and replaced whole by one pointer, which each packet
// reads once, under the lock of its flow's shard. Swap then judges every flow
// again in each shard: when it returns, no packet passes that the new rules
// refuse, and a packet that meets a flow before Swap does judges it itself. A
// cut flow passes nothing either way and stays known, so that an answer cannot
// open it again from this side. Both ends of a cut TCP connection are sent a
// reset with the sequence number each expects next (RFC 5961 section 3.2).
//
// A grant that ends needs no swap: a flow's verdict carries its end, and each
// packet is held against the clock. The swap that follows at Compiled.NextEnd
// tells the ends and reports.
//
// # A restart
//
// Connections in the kernel outlive the agent. After a restart, a flow that a
// peer began is judged as a new one at its next packet, whichever end sends it.
// A flow that this node began would be unknown, its answers refused and its own
// segments reset; so [Filter.Export] leaves such flows to the next agent, and
// [Filter.Restore] gives them to its first Swap.
//
// A restored flow is one that this node began, whatever it says of itself, and
// lets in only what answers it: packets between its two ends, of its protocol
// and ports, from the peer that it names. It is taken up only if the rules have
// that peer at that address now, it is judged again by every swap as any flow
// is, and it never takes the place of a flow that is known. It has no more time
// left than it was saved with, and no more than a flow of its kind can have. So
// whoever writes what is restored can have this node take answers that it did
// not ask for, as by sending a datagram, and no more; and only who is the node
// can write it, since the node's private keys lie in the same directory.
//
// A grant that is revoked while the agent is away is enforced where it always
// is, at the flow's destination.
//
// # A link
//
// A kernel speaks to a network interface as if a link were behind it. What it
// says to many, and neighbour discovery, is dropped without an answer and
// counted under a reason of its own; so is what it sends from an address that is
// not this node's, such as what it forwards for others.
//
// # Limits
//
//	MaxFlows         65536 flows, and a quarter of them for one peer
//	full             the oldest flow that was never answered makes room, then
//	                 one that was silent for a minute; else the packet is dropped
//	TCP              30 s until answered, then 2 h 4 min, 60 s after both FINs,
//	                 10 s after a reset
//	ICMP echo        60 s
//	others           3 min
//	a cut flow       60 s for TCP, else 3 min, since its last packet
//	fragments        512 fragmented packets, 30 s each
//	answers          64 at once and 64 a second, to each peer and to this node
//
// # What it cannot know
//
// Which end began a flow of datagrams is which end this filter saw first. A
// node that sends a datagram unasked opens a way for the answer.
package filter

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/key"
)

// DefaultMaxFlows is enough for a busy server; a full table takes 10 MB.
const DefaultMaxFlows = 1 << 16

// Config is what a Filter is built with. The zero Config is usable.
type Config struct {
	// Clock is the time that grants end by; nil means time.Now.
	Clock func() time.Time
	// ClockEvery is how long one reading of Clock serves all packets. Zero
	// means 2 ms, less than zero that every packet reads it.
	ClockEvery time.Duration
	// MaxFlows is how many flows are known at once; zero means DefaultMaxFlows.
	MaxFlows int
	// MaxPeerFlows is how many of them may be with one peer; zero means a
	// quarter, and at least one.
	MaxPeerFlows int
	// Reset sends a packet that answers a refused one or ends a cut flow: to
	// the peer (Out) or to this node's own stack (In), past the filter. The
	// packet is its own only until it returns, and it must not block. Nil means
	// that nothing is sent.
	Reset func(dir Direction, pkt []byte)
	// Silent means that refused packets are not answered; cut flows still are.
	Silent bool
}

// A Filter judges packets. All methods may be called at the same time.
type Filter struct {
	// set at construction
	maxPeerFlows int32
	reset        func(Direction, []byte)
	silent       bool
	secrets      *secrets
	shards       []shard
	shift        uint // of a hash, to the number of its shard
	clock        clock
	buffers      sync.Pool // of *[packet.MaxBuilt]byte

	active atomic.Pointer[active] // stored by Swap alone, and never nil

	// guarded by swapping
	swapping   sync.Mutex
	peers      map[key.NodeID]*peerState
	rules      map[string]*ruleState
	restored   []Outbound // for the next Swap
	restoredAt int64

	// safe by themselves
	fragments fragments
	refused   [2][packet.Refusals]atomic.Uint64
	answered  atomic.Uint64
	toLocal   limiter
}

// active is a Compiled in force: its peers and rules bound to the state that
// outlives it. It does not change once stored.
type active struct {
	*Compiled
	generation uint64       // counts swaps; 0 before the first
	states     []*peerState // of Compiled.peers
	tallies    []*ruleState // of Compiled.rules
}

// peerState is what the filter keeps about a peer from one set of rules to the next.
type peerState struct {
	id      key.NodeID
	name    string
	flows   atomic.Int32
	answers limiter
}

// ruleState counts what a rule let in.
type ruleState struct {
	name string
	hits atomic.Uint64
}

// New makes a filter that passes nothing until the first Swap.
func New(c Config) *Filter {
	if c.MaxFlows <= 0 {
		c.MaxFlows = DefaultMaxFlows
	}
	if c.MaxPeerFlows <= 0 {
		c.MaxPeerFlows = max(1, c.MaxFlows/4)
	}
	// A shard of 1024 flows: enough of them that both directions of a busy node
	// seldom meet, large enough that chance fills them evenly.
	n := 1
	for n < 64 && n*1024 < c.MaxFlows {
		n *= 2
	}
	f := &Filter{
		maxPeerFlows: int32(min(c.MaxPeerFlows, 1<<30)),
		reset:        c.Reset,
		silent:       c.Silent,
		secrets:      newSecrets(),
		shards:       make([]shard, n),
		shift:        uint(64 - bits.Len(uint(n-1))),
		peers:        map[key.NodeID]*peerState{},
		rules:        map[string]*ruleState{},
	}
	f.buffers.New = func() any { return new([packet.MaxBuilt]byte) }
	for i := range f.shards {
		f.shards[i].init((c.MaxFlows+n-1)/n, f.secrets)
	}
	f.clock.init(c.Clock, c.ClockEvery)
	f.active.Store(&active{Compiled: &Compiled{}})
	return f
}

// In judges a packet that a peer sent, decrypted, to this node.
func (f *Filter) In(pkt []byte) Verdict { return f.packet(In, pkt) }

// Out judges a packet that this node sends to the mesh.
func (f *Filter) Out(pkt []byte) Verdict { return f.packet(Out, pkt) }

func (f *Filter) packet(dir Direction, b []byte) Verdict {
	var q query
	if r := q.p.Parse(b); r != packet.Whole {
		f.refused[dir][r].Add(1)
		return Verdict{Drop, Malformed}
	}
	q.dir, q.now = dir, f.clock.now()
	q.kind = q.k.of(&q.p, dir)
	switch {
	case q.p.Fragment:
		return f.fragment(&q, b)
	case q.kind == kindError:
		q.quoted = f.quoted(&q, b)
	}
	v := f.judge(&q)
	if v.Action == Drop {
		f.answer(&q, b, v)
	}
	return v
}

// A query is a packet on its way to a verdict.
type query struct {
	p      packet.Packet
	k      flowKey
	kind   kind
	dir    Direction
	quoted bool // an ICMP error whose quotation fits its header; k is the quoted flow
	later  bool // a later fragment of flow k
	now    int64

	peer *peerState // set by judge: the far end, where it is known
}

// judge answers a query under the lock of its flow.
func (f *Filter) judge(q *query) Verdict {
	h := f.secrets.hash(&q.k)
	s := &f.shards[h>>f.shift]
	s.mu.Lock()
	v := s.judge(f, f.active.Load(), q, uint32(h))
	s.counts[q.dir][v.Reason]++
	s.mu.Unlock()
	return v
}
