package path

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// A world is an Internet for engines: hosts behind NATs, a relay, and a clock
// that jumps from one event to the next. Everything random comes from its seed.
// It is also the oracle: it sees every message, and fails the test when an engine
// has data go to an address that was not proved both ways by messages that came
// through.
type world struct {
	t      testing.TB
	rand   *rand.Rand
	now    time.Time
	begin  time.Time
	events events
	serial int
	hosts  []*host
	byID   map[key.NodeID]*host
	log    []entry

	// the weather
	delay, jitter time.Duration // of a packet between two sites
	relayDelay    time.Duration // of a packet by relay
	lanDelay      time.Duration // of a packet within a LAN
	loss          float64       // of UDP packets
	blocked       bool          // no UDP between sites
	dataBlocked   bool          // no data by UDP between sites, pings pass
	relayDown     bool
	width         int                       // the longest UDP payload between sites; 0: any
	wide          *host                     // whose packets that does not hold for; nil: nobody
	noLAN         bool                      // no packets within a LAN
	block         func(from, to *host) bool // one direction; nil: none
}

type event struct {
	at     time.Time
	serial int
	do     func()
}

// An entry of the log is put into words when a test has failed.
type entry struct {
	at     time.Duration
	format string
	args   []any
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t:          t,
		rand:       rand.New(rand.NewPCG(seed, 1)),
		now:        time.Unix(1_700_000_000, 0),
		byID:       map[key.NodeID]*host{},
		delay:      10 * time.Millisecond,
		relayDelay: 25 * time.Millisecond,
		lanDelay:   time.Millisecond / 2,
	}
	w.begin = w.now
	t.Cleanup(func() {
		if t.Failed() {
			var b strings.Builder
			for _, e := range w.log[max(0, len(w.log)-150):] {
				fmt.Fprintf(&b, "%9.3f ", e.at.Seconds())
				fmt.Fprintf(&b, e.format+"\n", e.args...)
			}
			t.Logf("seed %d; what happened:\n%s", seed, b.String())
		}
	})
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now.Add(d), w.serial, do})
}

// run lets d pass, or less if until says so.
func (w *world) run(d time.Duration, until func() bool) bool {
	end := w.now.Add(d)
	for n := 0; ; n++ {
		if until != nil && until() {
			return true
		}
		if len(w.events) == 0 || w.events[0].at.After(end) {
			w.now = end
			return false
		}
		ev := heap.Pop(&w.events).(event)
		w.now = ev.at
		ev.do()
	}
}

func (w *world) since() time.Duration { return w.now.Sub(w.begin) }

func (w *world) logf(format string, args ...any) {
	w.log = append(w.log, entry{w.since(), format, args})
}

// RFC 4787's behaviours, of mapping and of filtering.
type behaviour int

const (
	independent      behaviour = iota // endpoint-independent
	addressDependent                  // address-dependent
	portDependent                     // address-and-port-dependent
)

func (b behaviour) of(a netip.AddrPort) netip.AddrPort {
	switch b {
	case independent:
		return netip.AddrPort{}
	case addressDependent:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

// A kind is a kind of NAT.
type kind struct {
	name               string
	translates         bool
	mapping, filtering behaviour
	noUDP              bool
}

type flow struct{ inner, dest netip.AddrPort }

// A nat is one NAT, or a firewall that translates nothing.
type nat struct {
	w       *world
	kind    kind
	outside netip.Addr
	timeout time.Duration
	hairpin bool
	maps    map[flow]netip.AddrPort // inner and what of the destination counts: outer
	inner   map[netip.AddrPort]netip.AddrPort
	allowed map[flow]time.Time // outer and what of the destination counts: last packet
}

// newNAT makes a NAT; nil for the kind that neither translates nor filters.
func (w *world) newNAT(k kind, outside string) *nat {
	if k == (kind{name: k.name}) {
		return nil
	}
	return &nat{w: w, kind: k, outside: netip.MustParseAddr(outside), timeout: 2 * time.Minute,
		maps: map[flow]netip.AddrPort{}, inner: map[netip.AddrPort]netip.AddrPort{}, allowed: map[flow]time.Time{}}
}

// out is where a packet seems to come from outside.
func (n *nat) out(src, dst netip.AddrPort) netip.AddrPort {
	outer := src
	if n.kind.translates {
		k := flow{src, n.kind.mapping.of(dst)}
		var ok bool
		if outer, ok = n.maps[k]; !ok {
			for outer = (netip.AddrPort{}); ; {
				outer = netip.AddrPortFrom(n.outside, uint16(20000+n.w.rand.IntN(40000)))
				if _, taken := n.inner[outer]; !taken {
					break
				}
			}
			n.maps[k] = outer
		}
	}
	n.inner[outer] = src
	n.allowed[flow{outer, n.kind.filtering.of(dst)}] = n.w.now
	return outer
}

// in is who inside gets a packet; false for nobody.
func (n *nat) in(src, dst netip.AddrPort) (netip.AddrPort, bool) {
	last, ok := n.allowed[flow{dst, n.kind.filtering.of(src)}]
	if !ok || n.w.now.Sub(last) > n.timeout {
		return netip.AddrPort{}, false
	}
	return n.inner[dst], true
}

// A host is a node, with traffic.
type host struct {
	w     *world
	name  string
	id    key.NodeID
	addr  netip.AddrPort
	nat   *nat
	boots uint64

	engine  *Engine
	advance int // serial of the timer that counts

	// what a bind has
	choice  map[key.NodeID]Choice
	learned map[netip.AddrPort]key.NodeID
	traffic map[key.NodeID]*Traffic

	// what the oracle saw since the engine was made
	pinged map[disco.TxID]netip.AddrPort
	mine   map[netip.AddrPort]bool // own ping answered
	theirs map[netip.AddrPort]bool // the peer said that its ping was
	sent   int                     // pings by UDP

	unknown bool             // STUN servers have not answered
	absent  []key.NodeID     // peers that are never there
	static  []netip.AddrPort // of all peers

	// what arrived
	got       map[uint64]time.Time // data by number
	lastSent  time.Time
	pongs     []Ponged
	keepalive bool
	small     bool // data packets are short: acknowledgements
	echo      bool // data is answered by data, whose number is one less
}

// host makes a node behind a NAT, which may be nil.
func (w *world) host(name string, n *nat, addr string) *host {
	h := &host{w: w, name: name, nat: n, addr: netip.MustParseAddrPort(addr), traffic: map[key.NodeID]*Traffic{}, got: map[uint64]time.Time{}}
	copy(h.id[:], name)
	w.hosts = append(w.hosts, h)
	w.byID[h.id] = h
	h.boot()
	return h
}

// boot starts the node's engine, afresh if it ran.
func (h *host) boot() {
	h.boots++
	h.choice, h.learned = map[key.NodeID]Choice{}, map[netip.AddrPort]key.NodeID{}
	h.pinged, h.mine, h.theirs = map[disco.TxID]netip.AddrPort{}, map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	h.engine = New(Config{
		Rand:    rand.New(rand.NewPCG(h.w.rand.Uint64(), h.boots)),
		Traffic: func(id key.NodeID) Traffic { return *h.counters(id) },
	})
	h.discover()
	h.peers()
}

func (h *host) counters(id key.NodeID) *Traffic {
	if h.traffic[id] == nil {
		h.traffic[id] = new(Traffic)
	}
	return h.traffic[id]
}

// peers tells the engine of all other hosts.
func (h *host) peers() {
	var peers []Peer
	for _, o := range h.w.hosts {
		if o != h {
			peers = append(peers, Peer{ID: o.id, Static: h.static})
		}
	}
	for _, id := range h.absent {
		peers = append(peers, Peer{ID: id})
	}
	h.engine.SetPeers(h.w.now, peers)
	h.drain()
}

var stun = netip.MustParseAddrPort("192.0.2.53:3478")

// discover tells the engine what STUN would have.
func (h *host) discover() {
	if h.unknown {
		return
	}
	s := Self{UDP4: true, Mapping: disco.MappingNone, Endpoints: []disco.Endpoint{{Addr: h.addr, Kind: disco.Interface}}}
	if n := h.nat; n != nil {
		switch {
		case n.kind.noUDP:
			s.UDP4, s.Mapping = false, disco.MappingBlocked
		case n.kind.translates:
			s.Endpoints = append(s.Endpoints, disco.Endpoint{Addr: n.out(h.addr, stun), Kind: disco.Reflexive})
			s.Mapping = disco.MappingEndpointIndependent
			if n.kind.mapping != independent {
				s.Mapping = disco.MappingEndpointDependent
			}
		default:
			n.out(h.addr, stun)
		}
	}
	h.engine.SetSelf(h.w.now, s)
	h.drain()
}

// drain does what the engine asks for.
func (h *host) drain() {
	w := h.w
	for _, a := range h.engine.Take() {
		switch a := a.(type) {
		case Send:
			h.sendMessage(a)
		case Use:
			w.logf("%s: %s %v relay=%v: %s", h.name, a.Peer.Short(), a.Choice.Direct, a.Choice.Relay, a.Why)
			if d := a.Choice.Direct; d.IsValid() && (!h.mine[d] || !h.theirs[d]) {
				w.t.Errorf("%s sends data to %v: own ping answered %v, peer's ping answered %v; want both", h.name, d, h.mine[d], h.theirs[d])
			}
			if h.choice[a.Peer].Direct.IsValid() && a.Choice.Relay {
				// Whoever owns an engine asks STUN servers anew when a path fails.
				boot := h.boots
				w.after(50*time.Millisecond, func() {
					if h.boots == boot {
						h.discover()
					}
				})
			}
			h.choice[a.Peer] = a.Choice
		case Learn:
			if a.Gone {
				delete(h.learned, a.Addr)
			} else {
				h.learned[a.Addr] = a.Peer
			}
		case Sleep:
			h.choice[a.Peer] = Choice{}
		case Ponged:
			h.pongs = append(h.pongs, a)
		}
	}
	if at, ok := h.engine.Next(); ok {
		h.advance++
		serial, e := h.advance, h.engine
		w.after(max(0, at.Sub(w.now)), func() {
			if serial == h.advance && e == h.engine {
				e.Advance(w.now)
				if at, ok := e.Next(); ok && !at.After(w.now) {
					w.t.Fatalf("%s: Advance at %v leaves %v due", h.name, w.now, at)
				}
				h.drain()
			}
		})
	}
}

// sendMessage carries a message of the engine.
func (h *host) sendMessage(s Send) {
	w, to := h.w, h.w.byID[s.Peer]
	if p, ok := s.Msg.(*disco.Ping); ok && s.To.IsValid() {
		h.pinged[p.Tx] = s.To
		h.sent++
	}
	if to == nil {
		return // a node that is never there
	}
	if s.To == (netip.AddrPort{}) {
		if w.relayDown {
			return
		}
		boot := to.boots
		w.after(w.relayDelay, func() {
			if to.boots != boot {
				return // the relay forgets what it holds for a connection that ended
			}
			to.engine.Receive(w.now, h.id, netip.AddrPort{}, s.Msg)
			to.drain()
		})
		return
	}
	w.logf("%s: %T to %v %+v", h.name, s.Msg, s.To, proved(s.Msg))
	w.udp(h, s.To, false, messageSize(s.Msg), func(to *host, from netip.AddrPort) {
		if to.id != s.Peer {
			return // sealed for another
		}
		switch m := s.Msg.(type) {
		case *disco.Ping:
			if m.Proved {
				to.theirs[from] = true
			}
		case *disco.Pong:
			if m.Proved {
				to.theirs[from] = true
			}
			if at, ok := to.pinged[m.Tx]; ok && at == from {
				to.mine[from] = true
			}
		}
		to.engine.Receive(w.now, h.id, from, s.Msg)
		to.drain()
	})
}

// messageSize is the length of a message as it is sent.
func messageSize(m disco.Message) int {
	if p, ok := m.(*disco.Ping); ok {
		return disco.MinPacket + len(p.Tx) + 1 + p.Padding
	}
	return disco.MinPacket + len(disco.TxID{}) + 1 + 18 // a pong
}

func proved(m disco.Message) bool {
	switch m := m.(type) {
	case *disco.Ping:
		return m.Proved
	case *disco.Pong:
		return m.Proved
	}
	return false
}

// udp carries a packet from a host to wherever it gets.
func (w *world) udp(from *host, dst netip.AddrPort, data bool, size int, deliver func(to *host, src netip.AddrPort)) {
	if from.nat != nil && from.nat.kind.noUDP {
		return
	}
	// On the same LAN, without any NAT.
	for _, to := range w.hosts {
		if from.nat != nil && to.nat == from.nat && to.addr == dst {
			if w.noLAN {
				return
			}
			src, boot := from.addr, to.boots
			w.after(w.lanDelay, func() {
				if to.boots == boot {
					deliver(to, src)
				}
			})
			return
		}
	}
	src := from.addr
	if from.nat != nil {
		src = from.nat.out(src, dst)
	}
	if w.blocked || w.dataBlocked && data || w.width > 0 && size > w.width && from != w.wide || w.rand.Float64() < w.loss {
		return
	}
	delay := w.delay
	if w.jitter > 0 {
		delay += time.Duration(w.rand.Int64N(int64(w.jitter)))
	}
	w.after(delay, func() {
		for _, to := range w.hosts {
			inner := dst
			if n := to.nat; n != nil {
				if n == from.nat && !n.hairpin || n.kind.noUDP {
					continue
				}
				var ok bool
				if inner, ok = n.in(src, dst); !ok {
					continue
				}
			}
			if inner == to.addr && (w.block == nil || !w.block(from, to)) {
				deliver(to, src)
				return
			}
		}
	})
}

// data sends one data packet, as a bind would.
func (h *host) data(to *host, number uint64) {
	w, c := h.w, h.choice[to.id]
	if c == (Choice{}) {
		h.engine.Wake(w.now, to.id)
		h.drain()
		c = h.choice[to.id]
	}
	h.lastSent = w.now
	if c.Direct.IsValid() {
		h.counters(to.id).DirectSent++
		size := DefaultDataSize
		if h.small {
			size = 100
		}
		w.udp(h, c.Direct, true, size, func(at *host, src netip.AddrPort) {
			if at != to {
				return
			}
			if at.learned[src] == h.id {
				at.counters(h.id).DirectReceived++
			}
			at.arrived(h, number)
		})
	}
	if (c.Relay || !c.Direct.IsValid()) && !w.relayDown {
		h.counters(to.id).RelaySent++
		boot := to.boots
		w.after(w.relayDelay, func() {
			if to.boots == boot {
				to.counters(h.id).RelayReceived++
				to.arrived(h, number)
			}
		})
	}
}

// arrived takes a data packet.
func (h *host) arrived(from *host, number uint64) {
	w := h.w
	if _, twice := h.got[number]; !twice {
		h.got[number] = w.now
		if h.echo && number%2 == 1 {
			defer h.data(from, number-1)
		}
	}
	if h.choice[from.id] == (Choice{}) {
		h.engine.Wake(w.now, from.id)
		h.drain()
	}
	// WireGuard answers data by a keepalive, number 0, if nothing else did for 10 s.
	if at := w.now; number != 0 && !h.keepalive {
		h.keepalive = true
		w.after(10*time.Second, func() {
			h.keepalive = false
			if h.lastSent.Before(at) {
				h.data(from, 0)
			}
		})
	}
}

// stream sends data every gap until stopped; it returns what stops it and when
// the packets were sent.
func (h *host) stream(to *host, gap time.Duration) (stop func(), sent map[uint64]time.Time) {
	sent = map[uint64]time.Time{}
	var stopped bool
	var tick func()
	tick = func() {
		if stopped {
			return
		}
		number := h.w.rand.Uint64() | 1
		sent[number] = h.w.now
		h.data(to, number)
		h.w.after(gap, tick)
	}
	tick()
	return func() { stopped = true }, sent
}

func (h *host) verdict(to *host) Verdict { return h.engine.Verdict(to.id) }

func (h *host) direct(to *host) bool {
	c := h.choice[to.id]
	return c.Direct.IsValid() && !c.Relay
}

// bothDirect is when two hosts have data go directly both ways.
func bothDirect(a, b *host) func() bool {
	return func() bool { return a.direct(b) && b.direct(a) }
}
