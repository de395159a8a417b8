package filter

import (
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
)

// A flowKey names a flow: the same for the packets of both directions.
type flowKey struct {
	local, remote packet.Addr
	ports         uint64 // of both ends, protocol, and for an echo which end asks
}

// Bits of flowKey.ports above the local port, the remote port and the protocol.
const (
	echoFromRemote = 1 << 40
	echoFromLocal  = 1 << 41
)

func (k *flowKey) proto() acl.Proto   { return acl.Proto(k.ports >> 32) }
func (k *flowKey) localPort() uint16  { return uint16(k.ports) }
func (k *flowKey) remotePort() uint16 { return uint16(k.ports >> 16) }
func (k *flowKey) isTCP() bool        { return k.proto() == acl.TCP }

// target is what the remote end asks for with an inbound flow.
func (k *flowKey) target() acl.Target {
	if k.ports&(echoFromRemote|echoFromLocal) != 0 {
		return acl.Target{Proto: k.proto(), Echo: true}
	}
	return acl.Target{Proto: k.proto(), Port: k.localPort()}
}

// A kind is what a packet can do for a flow.
type kind uint8

const (
	kindFlow      kind = iota // belongs to one, or begins it
	kindTCPSyn                // of TCP: a bare SYN begins a flow even where one is known
	kindTCP                   // of TCP: belongs to one; judged if it does not
	kindTCPReset              // of TCP: belongs to one; begins none
	kindBadTCP                // dropped
	kindEchoReply             // belongs to one; begins none
	kindMessage               // ICMP that belongs to none
	kindError                 // ICMP that belongs to the flow it quotes
	kindRedirect              // dropped
	kindNeighbour             // dropped
)

// The types of neighbour discovery (RFC 4861 section 4), its redirect apart.
const (
	routerSolicitation     = 133
	neighbourAdvertisement = 136
)

// of makes k the name of the flow that a packet belongs to, going in a
// direction. For kindMessage and kindError only the addresses mean something.
//
// The addresses are copied word by word, on purpose: a copy of sixteen bytes at
// once right after Parse stored them as two words stalls the processor, which
// made this the dearest step of a known flow.
func (k *flowKey) of(p *packet.Packet, dir Direction) kind {
	src, dst := p.Src, p.Dst
	near, far := p.DstPort, p.SrcPort
	if dir == Out {
		src, dst = dst, src
		near, far = far, near
	}
	k.local, k.remote = dst, src
	k.ports = uint64(near) | uint64(far)<<16 | uint64(p.Proto)<<32
	switch p.Proto {
	case acl.TCP:
		return tcpKind(p.Flags)
	case acl.ICMP, acl.ICMPv6:
		return k.icmp(p, dir)
	default:
		return kindFlow
	}
}

func (k *flowKey) icmp(p *packet.Packet, dir Direction) kind {
	asker, answerer := uint64(echoFromRemote), uint64(echoFromLocal)
	if dir == Out {
		asker, answerer = answerer, asker
	}
	switch p.ICMP() {
	case packet.ICMPEchoRequest:
		k.ports |= uint64(p.EchoID) | asker
		return kindFlow
	case packet.ICMPEchoReply:
		k.ports |= uint64(p.EchoID) | answerer
		return kindEchoReply
	case packet.ICMPError:
		return kindError
	case packet.ICMPRedirect:
		return kindRedirect
	default:
		if p.Proto == acl.ICMPv6 && routerSolicitation <= p.Type && p.Type <= neighbourAdvertisement {
			return kindNeighbour
		}
		return kindMessage
	}
}

func (k *flowKey) is(o *flowKey) bool {
	return k.ports == o.ports && k.remote == o.remote && k.local == o.local
}

func tcpKind(f packet.TCPFlags) kind {
	switch {
	case !f.Valid():
		return kindBadTCP
	case f.Has(packet.RST):
		return kindTCPReset
	case f.Has(packet.SYN) && !f.Has(packet.ACK):
		return kindTCPSyn
	default:
		return kindTCP
	}
}

// A state is how far a flow has come.
//
//	opening ──answered──► open ──both FINs──► finished
//	   │                   │
//	   └───────reset───────┴──► aborted
//
// A flow other than TCP is open once it is answered, and stays so. Whether a
// flow is allowed is apart from its state.
type state uint8

const (
	opening state = iota
	open
	finished
	aborted
	states
)

// How long a flow may be silent, by protocol and state.
var patience = [3][states]int64{
	// RFC 5382 section 5: 2 h 4 min at least for an open connection. Nobody
	// waits 30 s for an answer to a SYN he does not repeat. A connection that
	// both ends closed is kept for repeated FINs, one that was reset for
	// stragglers.
	{int64(30 * time.Second), int64(124 * time.Minute), int64(60 * time.Second), int64(10 * time.Second)},
	// RFC 5508 section 3.2: 60 s at least for a ping.
	{int64(60 * time.Second), int64(60 * time.Second)},
	// RFC 4787 section 4.3: 2 min at least, 5 recommended; what keeps a NAT
	// open keeps this open.
	{int64(3 * time.Minute), int64(3 * time.Minute)},
}

// How long a cut flow stays known after its last packet, by the same protocols.
// An answer of a datagram flow could open it again from this side, so as long
// as that flow; TCP cannot, and is kept for its stragglers.
var patienceCut = [3]int64{int64(60 * time.Second), int64(60 * time.Second), int64(3 * time.Minute)}

func (k *flowKey) class() int {
	switch {
	case k.isTCP():
		return 0
	case k.ports&(echoFromRemote|echoFromLocal) != 0:
		return 1
	default:
		return 2
	}
}

// A flow is what is known of the packets under one key. It is guarded by the
// lock of its shard.
type flow struct {
	key  flowKey
	peer *peerState // the remote end; nil in a free slot
	rule *ruleState // what allowed it last; nil for a flow that this node began

	// The verdict, under the rules of one generation.
	generation uint64
	until      int64
	allowed    bool
	ended      bool // not allowed because of until
	told       bool // that it is cut

	began Direction
	state state
	seen  int64 // time of the last packet

	sides [2]side // of TCP: what each direction sent

	next         uint32 // in the chain of its bucket, or of the free slots
	older, newer uint32 // flow in state opening, by age
}

// A side is one direction of a TCP connection.
type side struct {
	next uint32 // the sequence number behind the last byte sent
	ack  uint32 // the last acknowledgement sent
	sent bool   // anything
	fin  bool
	old  bool // next and ack are of before a restart: the next segment replaces them
}

func (fl *flow) expired(now int64) bool {
	limit := patienceCut[fl.key.class()]
	if fl.allowed {
		limit = patience[fl.key.class()][fl.state]
	}
	return now-fl.seen > limit
}

// begin makes the slot a new flow in the eyes of its rules and its ends.
func (fl *flow) begin(dir Direction, now int64) {
	fl.began, fl.state, fl.seen = dir, opening, now
	fl.sides = [2]side{}
	fl.ended, fl.told = false, false
}

// judge holds the flow against the rules in force.
func (fl *flow) judge(a *active, now int64) {
	fl.generation = a.generation
	fl.allowed, fl.ended, fl.until = false, false, 0
	i, ok := a.byAddr[fl.key.remote]
	if !ok || a.states[i] != fl.peer || !a.isOwn(fl.key.local) {
		return
	}
	if fl.began == Out {
		fl.until = a.peers[i].until
	} else {
		g := a.peers[i].grants.find(fl.key.target())
		if !g.exists() {
			return
		}
		fl.until = g.until
		fl.rule = a.tallies[g.rule]
	}
	fl.allowed = true
	if fl.end(now); fl.allowed {
		fl.told = false
	}
}

// end takes the verdict back if its time has come.
func (fl *flow) end(now int64) {
	if fl.allowed && now >= fl.until {
		fl.allowed, fl.ended = false, true
	}
}

// live reports whether the flow carries anything that a cut would end.
func (fl *flow) live() bool { return fl.state == opening || fl.state == open }

// track follows what an allowed packet does to its flow, and reports whether
// the flow left the state opening.
func (fl *flow) track(p *packet.Packet, dir Direction, now int64) (opened bool) {
	was := fl.state
	if !fl.key.isTCP() {
		fl.seen = now
		if dir != fl.began {
			fl.state = open
		}
		return was == opening && fl.state != opening
	}
	this, other := &fl.sides[dir], &fl.sides[dir.reverse()]
	if was <= open {
		fl.seen = now // what is over is not kept alive
	}
	if p.Flags.Has(packet.RST) {
		// A reset that its receiver ignores must not end the flow here: it
		// counts if it is what the receiver expects next, or refuses its SYN.
		refuses := !this.sent && p.Flags.Has(packet.ACK) && p.Ack == other.next
		if was <= open && (refuses || this.sent && p.Seq == this.next || other.sent && p.Seq == other.ack) {
			fl.state = aborted
		}
		return was == opening && fl.state != opening
	}
	behind := p.Seq + p.SegLen()
	if !this.sent || this.old || int32(behind-this.next) > 0 {
		this.next = behind
	}
	if p.Flags.Has(packet.ACK) && (this.ack == 0 || this.old || int32(p.Ack-this.ack) > 0) {
		this.ack = p.Ack
	}
	this.sent, this.old = true, false
	this.fin = this.fin || p.Flags.Has(packet.FIN)
	switch {
	case was <= open && this.fin && other.fin:
		fl.state = finished
	case was == opening && dir == fl.began && other.sent:
		fl.state = open
	}
	return was == opening && fl.state != opening
}

// reset is the segment that ends a TCP connection for the end that receives it
// in a direction.
func (fl *flow) reset(dir Direction) packet.Segment {
	this, other := fl.sides[dir], fl.sides[dir.reverse()]
	s := packet.Segment{
		Src: fl.key.remote, SrcPort: fl.key.remotePort(),
		Dst: fl.key.local, DstPort: fl.key.localPort(),
		Seq: this.next, Ack: other.next, Flags: packet.RST | packet.ACK,
	}
	if dir == Out {
		s.Src, s.Dst = s.Dst, s.Src
		s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	}
	if !this.sent {
		s.Seq = other.ack
	}
	return s
}
