package path

import (
	crand "crypto/rand"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// Config is what an Engine is made with.
type Config struct {
	// Rand is for jitter. Nil means one with a random seed.
	Rand *rand.Rand
	// NewTx makes the ids that pair pongs with pings. Nil means from Rand; the
	// messages are sealed, so that only the peer itself could use a guess.
	NewTx func() disco.TxID
	// Traffic is what the bind counted for a peer. The engine asks when it needs
	// to know, for awake peers only. Nil means that nothing is ever counted.
	Traffic func(key.NodeID) Traffic
	// DataSize is the UDP payload of the longest data packet: pings that prove a
	// path are as long. 0 means DefaultDataSize; at most disco.MaxPacket.
	DataSize int
	// Loopback admits loopback addresses as candidates, for tests on one machine.
	Loopback bool
}

// DefaultDataSize is what WireGuard makes of a full packet of an interface with
// an MTU of 1280: 16 bytes in front of it, and 16 behind it.
const DefaultDataSize = 16 + 1280 + 16

// Self is this node as its peers may find it.
type Self struct {
	Endpoints []disco.Endpoint // best first; those beyond disco.MaxEndpoints are not told
	Mapping   disco.Mapping    // of the NAT in front of this node
	UDP4      bool             // some server answered by UDP over IPv4
	UDP6      bool             // some server answered by UDP over IPv6
	Mesh      []netip.Prefix   // the mesh's own prefixes, never an outer address
}

// A Peer is a node that the netmap names.
type Peer struct {
	ID     key.NodeID
	Static []netip.AddrPort // endpoints from the policy; those beyond maxStatic are not used
}

// An Engine decides by which path packets go to each peer. It has no socket,
// clock, goroutine or lock: its owner tells it what happened and when, then does
// what Take returns, from one goroutine at a time. Time that goes backwards
// stands still for it. The same calls with the same Rand give the same actions.
type Engine struct {
	// set at construction
	cfg  Config
	rand *rand.Rand
	pad  int // zeros in a long ping

	now     time.Time // the latest time that an input carried
	self    Self
	known   bool // SetSelf was called
	version int  // of what the peers are told about this node

	peers   map[key.NodeID]*peer
	order   []*peer // all peers, as SetPeers listed them; nothing iterates over the map
	awake   []*peer // in the order in which they woke, but for removals
	learned map[netip.AddrPort]*candidate
	serial  uint64 // peers made

	schedule schedule
	line     line
	actions  []Action
}

// New makes an engine without peers.
func New(cfg Config) *Engine {
	e := &Engine{
		cfg:     cfg,
		rand:    cfg.Rand,
		peers:   make(map[key.NodeID]*peer),
		learned: make(map[netip.AddrPort]*candidate),
	}
	if e.cfg.DataSize == 0 {
		e.cfg.DataSize = DefaultDataSize
	}
	e.pad = min(max(0, e.cfg.DataSize-shortSize), disco.MaxPadding)
	if e.rand == nil {
		var seed [32]byte
		crand.Read(seed[:]) // never fails (crypto/rand)
		e.rand = rand.New(rand.NewChaCha8(seed))
	}
	e.line.budget.tokens = pingBurst
	return e
}

// Take returns what is to be done since it was last called, in order.
func (e *Engine) Take() []Action {
	a := e.actions
	e.actions = nil
	return a
}

// Next is when Advance has something to do; false when it never has.
func (e *Engine) Next() (time.Time, bool) {
	t := e.line.ready()
	if len(e.schedule) > 0 {
		t = earlier(t, e.schedule[0].deadline)
	}
	return t, !t.IsZero()
}

// Advance does what is due.
func (e *Engine) Advance(now time.Time) {
	e.clock(now)
	for len(e.schedule) > 0 && !e.schedule[0].deadline.After(e.now) {
		e.schedule[0].settle()
	}
	e.pump()
}

// SetSelf says how this node may be found. Peers that are awake are told what
// changed.
func (e *Engine) SetSelf(now time.Time, s Self) {
	e.clock(now)
	s.Endpoints = slices.Clone(s.Endpoints[:min(len(s.Endpoints), disco.MaxEndpoints)])
	for i := range s.Endpoints {
		s.Endpoints[i].Addr = unmapped(s.Endpoints[i].Addr)
	}
	s.Mesh = slices.Clone(s.Mesh)
	told := !e.known || s.Mapping != e.self.Mapping || !sameEndpoints(s.Endpoints, e.self.Endpoints)
	e.self, e.known = s, true
	if told {
		e.version++
	}
	for i, p := range slices.Clone(e.awake) {
		p.dropForbidden()
		if told {
			p.announceSoon(e.spread(i), false)
			p.restart()
		}
		p.settle()
	}
	e.pump()
}

// sameEndpoints reports whether two lists hold the same, in whatever order.
func sameEndpoints(a, b []disco.Endpoint) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	for _, x := range b {
		if !slices.Contains(a, x) {
			return false
		}
	}
	return true
}

// SetPeers says who the peers are. One that is not listed is forgotten with all
// that is known of it.
func (e *Engine) SetPeers(now time.Time, peers []Peer) {
	e.clock(now)
	listed := make(map[key.NodeID]bool, len(peers))
	order := make([]*peer, 0, len(peers))
	for _, in := range peers {
		if listed[in.ID] {
			continue
		}
		listed[in.ID] = true
		p := e.peers[in.ID]
		if p == nil {
			p = e.newPeer(in.ID)
			e.peers[in.ID] = p
		}
		order = append(order, p)
		if p.setStatic(in.Static) {
			p.settle()
		}
	}
	for _, p := range e.order {
		if !listed[p.id] {
			p.forget()
			delete(e.peers, p.id)
		}
	}
	e.order = order
	e.pump()
}

// Wake says that there is traffic to or from a peer that sleeps.
func (e *Engine) Wake(now time.Time, id key.NodeID) {
	if p := e.input(now, id); p != nil {
		p.lastData = e.now
		p.wake("traffic")
		p.settle()
		e.pump()
	}
}

// Receive takes a message that the peer sealed for this node, and that is not a
// replay. A zero from says that it came by relay.
func (e *Engine) Receive(now time.Time, id key.NodeID, from netip.AddrPort, m disco.Message) {
	p := e.input(now, id)
	if p == nil {
		return
	}
	relayed := from == netip.AddrPort{}
	from = unmapped(from)
	if !relayed && e.forbidden(from) != "" {
		return
	}
	switch m := m.(type) {
	case *disco.Ping:
		if m == nil {
			return
		}
		if relayed {
			p.pongByRelay(m)
		} else {
			p.pinged(from, m)
		}
	case *disco.Pong:
		if m == nil {
			return
		}
		if relayed {
			p.pongedByRelay(m)
		} else {
			p.ponged(from, m)
		}
	case *disco.Endpoints:
		if m == nil || !relayed {
			return
		}
		p.told(m)
	}
	p.settle()
	e.pump()
}

// Restarted says that the peer's agent has begun anew: its sockets are others, and
// what was proved with the old ones holds no longer.
func (e *Engine) Restarted(now time.Time, id key.NodeID) {
	p := e.input(now, id)
	if p == nil || p.state == Asleep {
		return
	}
	for _, c := range p.candidates {
		c.mine, c.theirs, c.alias = false, false, nil
	}
	if p.using != nil {
		p.lose("the peer's agent has begun anew")
	}
	p.settle()
	e.pump()
}

// Failed says that the socket refused to send to an address of the peer.
func (e *Engine) Failed(now time.Time, id key.NodeID, to netip.AddrPort, err string) {
	if p := e.input(now, id); p != nil {
		p.refused(unmapped(to), err)
		p.settle()
		e.pump()
	}
}

// Here says that the peer has connected to a relay: what was sent to it by relay
// before is lost.
func (e *Engine) Here(now time.Time, id key.NodeID) {
	if p := e.input(now, id); p != nil && p.state != Asleep {
		p.announceSoon(e.now, true)
		p.restart()
		p.settle()
		e.pump()
	}
}

// RelayUp says that this node has a connection to a relay again: what was sent by
// relay while it had none is lost.
func (e *Engine) RelayUp(now time.Time) {
	e.clock(now)
	for i, p := range slices.Clone(e.awake) {
		p.announceSoon(e.spread(i), !p.heardEndpoints)
		p.settle()
	}
	e.pump()
}

// Moved says that the network changed under this node: interfaces, routes, or
// the machine slept. No path is trusted until it is proved again; the one in use
// carries data beside the relay meanwhile.
func (e *Engine) Moved(now time.Time) {
	e.clock(now)
	for i, p := range slices.Clone(e.awake) {
		p.moved()
		p.announceSoon(e.spread(i), true)
		p.settle()
	}
	e.pump()
}

// Probe wakes the peer and pings it on the path in use and by relay. Answers are
// actions of type Ponged.
func (e *Engine) Probe(now time.Time, id key.NodeID) {
	if p := e.input(now, id); p != nil {
		p.lastData = e.now
		p.wake("asked to ping")
		p.probe()
		p.settle()
		e.pump()
	}
}

// clock moves time forward.
func (e *Engine) clock(now time.Time) {
	if now.After(e.now) {
		e.now = now
	}
	if e.line.budget.at.IsZero() {
		e.line.budget.at = e.now
	}
}

// input moves time forward and returns the peer, nil for a stranger.
func (e *Engine) input(now time.Time, id key.NodeID) *peer {
	e.clock(now)
	return e.peers[id]
}

// do adds an action.
func (e *Engine) do(a Action) { e.actions = append(e.actions, a) }

// pump sends the pings that the budget allows.
func (e *Engine) pump() {
	for {
		c := e.line.next(e.now)
		if c == nil {
			return
		}
		c.ping()
		c.peer.reschedule()
	}
}

// spreadRate is how many peers a second are told the same news by relay, so that
// a node with many peers in use does not overrun its own relay connection.
const spreadRate = 200

// spread is when the i-th of many awake peers is told.
func (e *Engine) spread(i int) time.Time {
	return e.now.Add(time.Duration(i) * time.Second / spreadRate)
}

// jitter is d changed by up to a tenth, either way, so that nodes that began
// together do not go on together.
func (e *Engine) jitter(d time.Duration) time.Duration {
	return d + time.Duration((e.rand.Float64()-0.5)*0.2*float64(d))
}

// newTx makes the id of a ping.
func (e *Engine) newTx() (tx disco.TxID) {
	if e.cfg.NewTx != nil {
		return e.cfg.NewTx()
	}
	a, b := e.rand.Uint64(), e.rand.Uint64()
	for i := range tx {
		if i < 8 {
			tx[i] = byte(a >> (8 * i))
		} else {
			tx[i] = byte(b >> (8 * (i - 8)))
		}
	}
	return tx
}

// traffic is what the bind counted for a peer.
func (e *Engine) traffic(id key.NodeID) Traffic {
	if e.cfg.Traffic == nil {
		return Traffic{}
	}
	return e.cfg.Traffic(id)
}
