// Package bind joins wireguard-go to the paths of a mesh: it is the conn.Bind
// in which an endpoint is a node and never an ip:port.
//
// # Purpose
//
// WireGuard keeps one endpoint per peer and moves it to wherever the last
// authenticated packet came from. In a mesh a peer is reached over several
// paths at once (its home relay, and direct ones by UDP when they are proved),
// and which of them is best is not WireGuard's to say. So the endpoint that
// WireGuard sees is the peer's node id, it never moves, and the path is what Use
// said last.
//
// # Flow
//
//		                     Use, Sleep, Learn, Unlearn
//		                               │
//		WireGuard ── Send ──► choice of the peer ──► Sender (relay)
//		                               └───────────► UDP sockets
//		WireGuard ◄── queue ◄── Deliver (relay)
//		WireGuard ◄── address → node ◄── UDP sockets ──► Control (probes, STUN)
//
//	 1. The tunnel configures a peer with "endpoint=nid:…"; ParseEndpoint makes
//	    the node known and answers with its Endpoint.
//	 2. Outwards, WireGuard calls Send with up to 128 packets for one Endpoint.
//	    They go where Use said: by UDP, by the Sender, or by both. Nothing said is
//	    by the Sender.
//	 3. Inwards by relay, whoever received a packet (the relay client's callback)
//	    calls Deliver with the node it came from. Deliver copies it into a bounded
//	    queue; the receive function that Open returned drains it in batches.
//	 4. Inwards by UDP, Open's other receive functions look at every packet, see
//	    "What comes by UDP".
//	 5. A packet from a node that no peer has as its endpoint goes to
//	    Config.Unknown, which may configure the peer and Deliver the packet again
//	    from another goroutine. Without Unknown it is dropped and counted.
//	 6. When a path to a node appears, Retry sends the handshake message that the
//	    node has not answered yet, so that traffic which waited does not wait for
//	    WireGuard's own retransmission, five seconds later.
//
// # Asleep and awake
//
// A node whose Choice is zero is asleep: its packets go by relay, and the first
// packet of WireGuard to or from it wakes it. Config.Woken is then called, once,
// until Use with a zero Choice or Sleep arms it again. A node of which nothing
// was ever said is asleep.
//
// # Where packets go
//
//	Choice                    data       handshake
//	zero, or relay            relay      relay
//	direct and relay          both       both
//	direct                    direct     both
//
// A handshake message (WireGuard's types 1, 2 and 3, each sent alone) always
// goes by relay too: one that is lost costs five seconds. Of data that arrives
// twice WireGuard's replay window drops one.
//
// When the socket refuses a batch, the batch goes by relay at once, and
// Config.Failed is told of the first of consecutive refusals. A source address
// that the kernel no longer has is not a refusal: the batch is sent once more
// with a source of the kernel's choice. When both paths are asked, Send fails
// only if both refuse.
//
// # What comes by UDP
//
//	first bytes                                 length            to
//	04 00 00 00                                 32 … 9216         WireGuard: data
//	01 00 00 00, 02 00 00 00, 03 00 00 00       148, 92, 64       WireGuard: handshake
//	"writd" 01                                  7 … 9216          Control: the path engine's
//	00 … 3f, its length at 2, 21 12 a4 42 at 4  20 … 9216         Control: STUN (RFC 8489)
//	anything else                                                 dropped, counted as Foreign
//
// A packet for WireGuard gets the Endpoint of the node that the address was
// learned for, or goes to Config.Unknown if that node is not configured.
//
// From an address that was never learned, data goes to WireGuard as a stranger's:
// a peer's NAT may have moved it, and WireGuard tells by its session whose it is.
// A handshake from there is dropped: its copy comes by relay, attributed, and may
// find the peer configured only then. So whoever cannot forge a peer's address
// cannot make this node compute a Diffie-Hellman. Send refuses a stranger's
// endpoint. It follows that an address must be learned before its node chooses
// it, if a session is to begin while no relay is there.
//
// # Handshakes once
//
// wireguard-go must not be given a handshake message twice within moments: two of
// its workers may both accept it, and the second begins the session again with
// the same keys and the same nonces. Of a node's messages that are alike in what
// they authenticate, by whichever path they come, the first goes to WireGuard and
// those of the next second are dropped. Who carries a message can have an altered
// copy of it come first, and so delay a handshake, as by dropping it; that is the
// price.
//
// Of one node's initiations and responses, 16 by relay and 16 by UDP go to
// WireGuard in a second, and 4 and 4 of its replies with a cookie. Whoever claims
// to be that node can use that up, for it and for the way that they use; of the
// handshakes of others nothing is lost. Initiations and responses whose first MAC
// is not made with this node's public key are dropped before they count, from
// SetKey on.
//
// # What is counted
//
// Traffic says by which way a peer's packets come. A packet counts when WireGuard
// has authenticated it as that peer's, which the tunnel reports by Accepted and
// AcceptedKeepalive; without these calls nothing that came counts. So nobody can
// make a path look better or worse by packets that they made up, or that they
// have from another peer.
//
// A peer that sends by two ways sends each packet twice, and WireGuard drops the
// second. It counts too, for the way that it came by, once, if it is the same to
// the last bit and comes within a second or two. A keepalive does not show which
// packet it was: those that came by either way in the last second count. Packets
// from an address that nobody learned count for nobody.
//
// # Source addresses
//
// On a host with several addresses an answer must leave from the address that
// was asked, or no NAT lets it pass. For each address that is learned or in use,
// and for the last 256 others that a packet of the path engine came from, the
// Bind remembers which local address the last packet came to, and sends from
// there. Open, ClearSources and Endpoint.ClearSrc forget it.
//
// # Promises
//
// The source that Deliver is told is a claim of whoever carried the packet, and
// so is the source address of a UDP packet. Nothing rests on either: WireGuard
// authenticates every packet by its keys, and an endpoint does not roam. A false
// claim costs its author's victim at most one retransmission of a handshake, and
// a source address that the next true packet puts right.
//
// Deliver never blocks, and allocates nothing per packet once the queue has been
// full. Send never blocks if the Sender does not and the socket's buffer has
// room. After Close, and until the next Open, every packet is dropped and
// counted; none of an earlier opening is seen by a later one. The port stays the
// same from opening to opening while it can be had. The Bind has no goroutine of
// its own.
package bind

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// BatchSize is how many packets cross in one call, either way: what
	// wireguard-go sizes its own batches by.
	BatchSize = conn.IdealBatchSize

	// MaxPacket is the longest packet that Deliver takes: the largest MTU of a
	// mesh (9000) with WireGuard's header, padding and tag (16+15+16), rounded up.
	// It bounds the queue's memory, because a queue's slot keeps its buffer.
	MaxPacket = 9216

	// QueueLength is how many delivered packets may wait for WireGuard. 2048
	// packets of 1.3 kB are 2.7 MB, about a full TCP window of the mesh's own
	// stack; at 1 Gbit/s they are drained in 20 ms.
	QueueLength = 2048
)

// A Sender carries packets to nodes.
type Sender interface {
	// Send carries pkts to dst over the path it picks. It never blocks: what
	// cannot be queued is dropped. It keeps neither pkts nor the bytes after it
	// returns. An error means that no path took the packets; WireGuard then
	// does not count them as sent.
	Send(dst key.NodeID, pkts [][]byte) error
}

// Config is what a Bind is made of. Its functions run on the goroutines that
// carry packets: they must not block, call back into the Bind, or keep a packet.
type Config struct {
	// Sender carries what WireGuard sends by relay. Required.
	Sender Sender

	// Unknown is told of a packet from a node that is no peer's endpoint. Nil:
	// such packets are dropped. Every one of them is counted either way.
	Unknown func(src key.NodeID, pkt []byte)

	// UDP opens a socket for IPv4 and one for IPv6. False: there is the relay
	// only, and Use's direct paths are ignored.
	UDP bool

	// Port is the sockets' port. Zero: one that is free, and the same again at
	// later openings if it still is.
	Port uint16

	// Control is given what came by UDP for the path engine: its own packets and
	// answers of STUN servers, unauthenticated. Nil: they are dropped.
	Control func(src netip.AddrPort, pkt []byte)

	// Woken is told of the first packet of WireGuard to or from a node that was
	// asleep. Nil: nobody is told.
	Woken func(id key.NodeID)

	// Failed is told that the socket refused a packet for id at to, which then
	// went by relay. It is told again only after a packet was taken in between,
	// or after Use named another path. Nil: nobody is told.
	Failed func(id key.NodeID, to netip.AddrPort, err error)
}

// Stats are counts of packets since the Bind was made.
type Stats struct {
	Delivered uint64 // taken into the queue
	Full      uint64 // dropped: the queue was full
	Closed    uint64 // dropped: the Bind was closed
	Size      uint64 // dropped: empty or longer than MaxPacket
	Unknown   uint64 // from a node that is no peer's endpoint
	Unsent    uint64 // that no path took
	Retried   uint64 // handshake messages sent again by Retry
	Repeated  uint64 // handshake messages dropped: a copy came before, or too many of that node
	Forged    uint64 // handshake messages dropped: made without this node's public key

	Refused   uint64 // that the socket refused; they went by relay
	Control   uint64 // by UDP: the path engine's
	Strangers uint64 // by UDP: data from an address that was not learned
	Unasked   uint64 // by UDP: dropped, handshakes from an address that was not learned
	Foreign   uint64 // by UDP: dropped, of no known kind
}

// A Bind is a conn.Bind whose endpoints are nodes.
type Bind struct {
	// set at construction
	sender  Sender
	unknown func(src key.NodeID, pkt []byte)
	woken   func(id key.NodeID)
	queue   queue
	udp     udp // of no use unless Config.UDP
	seed    maphash.Seed
	made    time.Time
	copies  *copies

	life sync.Mutex // one Open, Close or SetMark at a time

	mu sync.RWMutex // guards the fields below, and what they say of themselves

	peers   map[key.NodeID]*peer
	numbers uint32 // the last peer's
	book    book

	mac1 atomic.Pointer[[32]byte] // of SetKey; nil: nothing is checked

	nodeless, unsent, retried, refused, repeated, forged atomic.Uint64
}

var _ conn.Bind = (*Bind)(nil)

// New makes a Bind, closed.
func New(cfg Config) (*Bind, error) {
	if cfg.Sender == nil {
		return nil, errors.New("new bind: no sender")
	}
	if cfg.Port != 0 && !cfg.UDP {
		return nil, fmt.Errorf("new bind: port %d without UDP", cfg.Port)
	}
	b := &Bind{
		sender:  cfg.Sender,
		unknown: cfg.Unknown,
		woken:   cfg.Woken,
		seed:    maphash.MakeSeed(),
		made:    time.Now(),
		copies:  new(copies),
		peers:   make(map[key.NodeID]*peer),
	}
	b.queue.init(QueueLength)
	b.book.init()
	b.udp.init(cfg)
	return b, nil
}

// Open makes the Bind ready to receive, with the port that Config says. Without
// UDP there is none, and port is handed back as it came.
//
// The first opening fails if there can be no socket. A later one then does
// without: an error would take the relay from WireGuard too. UDPError says why.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.life.Lock()
	defer b.life.Unlock()
	opening, ok := b.queue.open()
	if !ok {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	r := &receiver{bind: b, queue: &b.queue, opening: opening}
	fns := []conn.ReceiveFunc{r.receive}
	if !b.udp.enabled {
		return fns, port, nil
	}
	b.ClearSources()
	sockets, err := b.udp.open(port)
	switch {
	case err == nil:
		for s := range sockets.each {
			r := &udpReceiver{bind: b, socket: s}
			fns = append(fns, r.receive)
		}
	case b.udp.opened:
		b.udp.err = err
		return fns, port, nil
	default:
		b.queue.close()
		return nil, 0, err
	}
	return fns, sockets.port, nil
}

// Close ends the receive functions of the current opening. Closing a closed
// Bind does nothing.
func (b *Bind) Close() error {
	b.life.Lock()
	defer b.life.Unlock()
	err := b.udp.close()
	b.queue.close()
	return err
}

// SetMark sets the mark of the sockets' packets.
func (b *Bind) SetMark(mark uint32) error {
	b.life.Lock()
	defer b.life.Unlock()
	return b.udp.setMark(mark)
}

// LocalPort is the port of the sockets; zero while there are none.
func (b *Bind) LocalPort() uint16 { return b.udp.port() }

// UDPError is why the current opening has no sockets; nil if it has them, or is
// to have none.
func (b *Bind) UDPError() error {
	b.life.Lock()
	defer b.life.Unlock()
	return b.udp.err
}

// BatchSize is the constant of that name.
func (b *Bind) BatchSize() int { return BatchSize }

// ParseEndpoint makes the node that s names known, and returns its Endpoint:
// the same one for the same node, until Forget.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	id, err := key.ParseNodeID(s)
	if err != nil {
		return nil, fmt.Errorf("parse endpoint: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peer(id)
	if p.endpoint == nil {
		p.endpoint = newEndpoint(p)
		b.book.changed()
	}
	return p.endpoint, nil
}

// Forget undoes ParseEndpoint: packets from id are an unknown node's again. The
// tunnel calls it for a peer it removed. What Use and Learn said of the node
// stays, see Remove.
func (b *Bind) Forget(id key.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[id]
	if p == nil || p.endpoint == nil {
		return
	}
	p.endpoint = nil
	b.book.changed()
	if !p.followed {
		delete(b.peers, id)
	}
}

// find is the node and its Endpoint; nil when it is not configured.
func (b *Bind) find(id key.NodeID) *Endpoint {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if p := b.peers[id]; p != nil {
		return p.endpoint
	}
	return nil
}

// Deliver takes a packet that arrived from src by relay. It copies pkt and never
// blocks.
func (b *Bind) Deliver(src key.NodeID, pkt []byte) {
	class := Classify(pkt)
	if class == Handshake && b.isForged(pkt) {
		return
	}
	e := b.find(src)
	if e == nil {
		b.stray(src, pkt)
		return
	}
	var sum uint64
	if class == Handshake {
		var ok bool
		if sum, ok = b.first(e.peer, pkt, byRelay); !ok {
			return
		}
	}
	if !b.queue.put(e, pkt) {
		if class == Handshake {
			e.peer.once.undo(sum) // it may come again
		}
		return
	}
	switch class {
	case Data, Handshake:
		e.received(pkt)
		b.wake(e.peer)
	}
}

// stray gives a packet of a node that is not configured to whoever may do so.
func (b *Bind) stray(src key.NodeID, pkt []byte) {
	b.nodeless.Add(1)
	if b.unknown != nil && len(pkt) > 0 && len(pkt) <= MaxPacket {
		b.unknown(src, pkt)
	}
}

// Stats returns the counts so far.
func (b *Bind) Stats() Stats {
	s := b.queue.stats()
	s.Unknown = b.nodeless.Load()
	s.Unsent = b.unsent.Load()
	s.Retried = b.retried.Load()
	s.Refused = b.refused.Load()
	s.Control = b.udp.controls.Load()
	s.Repeated = b.repeated.Load()
	s.Forged = b.forged.Load()
	s.Strangers = b.udp.strangers.Load()
	s.Unasked = b.udp.unasked.Load()
	s.Foreign = b.udp.foreign.Load()
	return s
}

// A receiver is the receive function of one opening, with the batch that it
// swaps for the queue's. WireGuard calls it from one goroutine.
type receiver struct {
	bind    *Bind
	queue   *queue
	opening uint64
	batch   [BatchSize]slot
}

func (r *receiver) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	n, ok := r.queue.take(r.opening, r.batch[:min(len(packets), BatchSize)])
	if !ok {
		return 0, net.ErrClosed
	}
	second := r.bind.second()
	for i := range r.batch[:n] {
		s := &r.batch[i]
		sizes[i], eps[i] = 0, s.from
		if len(s.buf) <= len(packets[i]) {
			sizes[i] = copy(packets[i], s.buf)
			if Classify(s.buf) == Data {
				r.bind.arrived(packets[i], sizes[i], s.from.peer, byRelay, second)
			}
		}
		s.from = nil
	}
	return n, nil
}
