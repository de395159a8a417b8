package natlab

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// A Net is one simulated Internet with all its state.
//
// What builds a topology panics where the topology contradicts itself: that is a
// mistake in a test, and no test goes on after it.
type Net struct {
	// set at construction
	seed     uint64
	start    time.Time
	timer    *time.Timer
	internet *Network

	mu sync.Mutex
	// guarded by mu
	closed     bool
	queue      events
	due        time.Time // when timer fires; zero when it is stopped
	nodes      map[string]Node
	networks   map[string]*Network
	interfaces int // how many were ever made
	cuts       map[[2]Node]bool
	log        logbook
	describe   func([]byte) string
}

// A Node is a host or a router.
type Node interface {
	// Name is what it is called in the log.
	Name() string
	index() int
	// receive takes a packet that came through in. The Net is locked.
	receive(p packet, in *Interface)
}

type packet struct {
	src, dst netip.AddrPort
	payload  []byte // never written to
	hops     int
	last     string // the node it left last
	note     string // what that Node did with it
}

// size is the length of the IP packet.
func (p packet) size() int {
	const udp, ip4, ip6 = 8, 20, 40
	if p.dst.Addr().Is4() {
		return ip4 + udp + len(p.payload)
	}
	return ip6 + udp + len(p.payload)
}

// New makes a Net with nothing but the Internet in it. Tests print the seed,
// for instance by [Net.Log].
func New(seed uint64) *Net {
	n := &Net{
		seed:     seed,
		start:    time.Now(),
		nodes:    make(map[string]Node),
		networks: make(map[string]*Network),
		cuts:     make(map[[2]Node]bool),
		log:      logbook{drops: make(map[Drop]int)},
	}
	n.timer = time.AfterFunc(time.Hour, n.run)
	n.timer.Stop()
	n.internet = n.Network("internet", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	return n
}

// Internet is the network that holds every address.
func (n *Net) Internet() *Network { return n.internet }

// Seed is what New was given.
func (n *Net) Seed() uint64 { return n.seed }

// Close closes every socket and drops what is under way.
func (n *Net) Close() {
	n.mu.Lock()
	n.closed = true
	n.queue = nil
	n.timer.Stop()
	var conns []*Conn
	for _, at := range n.nodes {
		if h, ok := at.(*Host); ok {
			for _, c := range h.conns {
				conns = append(conns, c)
			}
		}
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// CutOneWay drops every packet that leaves one node and would arrive at the
// other by the network both are on. Senders are not told.
func (n *Net) CutOneWay(from, to Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]Node{from, to}] = true
}

// Cut is CutOneWay, both ways.
func (n *Net) Cut(a, b Node) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// Mend undoes Cut and CutOneWay.
func (n *Net) Mend(a, b Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, [2]Node{a, b})
	delete(n.cuts, [2]Node{b, a})
}

// register gives a node its index. The Net is locked.
func (n *Net) register(name string, at Node) int {
	if n.nodes[name] != nil {
		panic("natlab: two nodes are named " + name)
	}
	n.nodes[name] = at
	return len(n.nodes)
}

// stream makes a random stream of the seed and a name.
func (n *Net) stream(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write(binary.LittleEndian.AppendUint64(nil, n.seed))
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

// An event is a packet at the end of one direction of an interface's link.
type event struct {
	at     time.Time
	of     *Interface
	inward bool
	seq    uint64
	packet packet
}

// before puts events in an order that depends on what was sent and not on who
// was scheduled first.
func (e event) before(o event) bool {
	switch {
	case !e.at.Equal(o.at):
		return e.at.Before(o.at)
	case e.of != o.of:
		return e.of.index < o.of.index
	case e.inward != o.inward:
		return o.inward
	}
	return e.seq < o.seq
}

type events []event

func (q events) Len() int           { return len(q) }
func (q events) Less(i, j int) bool { return q[i].before(q[j]) }
func (q events) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)        { *q = append(*q, e.(event)) }

func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

// schedule puts an event in the queue. The Net is locked.
func (n *Net) schedule(e event) {
	heap.Push(&n.queue, e)
	n.arm()
}

// arm sets the timer for the first event. The Net is locked.
func (n *Net) arm() {
	if len(n.queue) == 0 {
		return
	}
	if first := n.queue[0].at; n.due.IsZero() || first.Before(n.due) {
		n.due = first
		n.timer.Reset(time.Until(first))
	}
}

// run does everything that is due. It runs when the timer fires.
func (n *Net) run() {
	n.mu.Lock()
	defer n.mu.Unlock()
	// While this runs nobody needs to be woken for what is due now.
	n.due = time.Now()
	for now := n.due; !n.closed && len(n.queue) > 0 && !n.queue[0].at.After(now); {
		e := heap.Pop(&n.queue).(event)
		if e.inward {
			e.of.deliver(e.packet)
		} else {
			e.of.network.carry(e.packet, e.of)
		}
	}
	n.due = time.Time{}
	if !n.closed {
		n.arm()
	}
}

// drop writes down that a packet ended at a node. The Net is locked.
func (n *Net) drop(at Node, p packet, why Reason) {
	n.log.drops[Drop{at.Name(), why}]++
	n.write(entry{from: at.Name(), note: string(why), dropped: true}, at, p)
}

// write adds to the log. The Net is locked.
func (n *Net) write(e entry, at Node, p packet) {
	e.at, e.actor = time.Now(), at.index()
	e.src, e.dst, e.size = p.src, p.dst, len(p.payload)
	if n.describe != nil {
		e.what = n.describe(p.payload)
	}
	n.log.add(e)
}

func (n *Net) String() string { return fmt.Sprintf("natlab (seed %d)", n.seed) }
