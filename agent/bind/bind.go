// Package bind joins wireguard-go to the paths of a mesh: it is the conn.Bind
// in which an endpoint is a node and never an ip:port.
//
// # Purpose
//
// WireGuard keeps one endpoint per peer and moves it to wherever the last
// authenticated packet came from. In a mesh a peer is reached over several
// paths at once (its home relay now, one or more direct ones when they are
// proved), and which of them is best is not WireGuard's to say. So the endpoint
// that WireGuard sees is the peer's node id, it never moves, and the path is
// picked for each batch of packets by the Sender.
//
// # Flow
//
//  1. The tunnel configures a peer with "endpoint=nid:…"; ParseEndpoint makes
//     the node known and answers with its Endpoint.
//  2. Outwards, WireGuard calls Send with up to 128 packets for one Endpoint;
//     Send hands them to the Sender with the node id. The Sender picks the path.
//  3. Inwards, whoever received a packet (the relay client's callback) calls
//     Deliver with the node it came from. Deliver copies it into a bounded
//     queue; the receive function that Open returned drains it in batches.
//  4. A packet from a node that no peer has as its endpoint goes to
//     Config.Unknown, which may configure the peer and Deliver the packet again
//     from another goroutine. Without Unknown it is dropped and counted.
//  5. When a path to a node appears, Retry sends the handshake message that the
//     node has not answered yet, so that traffic which waited does not wait for
//     WireGuard's own retransmission, five seconds later.
//
// # Where UDP goes
//
// Direct paths live inside this Bind: it wraps conn.NewStdNetBind, Open appends
// that bind's receive functions to the queue's (packets that are the path
// engine's own, or of another kind, get size 0; the others get the Endpoint of
// the node that the path was proved for), and Send asks the path engine before
// it falls back to the Sender. Nothing outside the package changes for it.
//
// # Promises
//
// The source that Deliver is told is a claim of whoever carried the packet.
// Nothing rests on it: WireGuard authenticates every packet by its keys, and an
// endpoint does not roam. A false claim costs its author's victim at most one
// retransmission of a handshake.
//
// Deliver never blocks, and allocates nothing per packet once the queue has been
// full. Send never blocks if the Sender does not. After Close, and until the
// next Open, every packet is dropped and counted; none of an earlier opening is
// seen by a later one. The Bind has no goroutine of its own.
package bind

import (
	"errors"
	"fmt"
	"net"
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

// Config is what a Bind is made of.
type Config struct {
	// Sender carries what WireGuard sends. Required.
	Sender Sender

	// Unknown is told of a packet from a node that is no peer's endpoint. It
	// runs on Deliver's goroutine, must not block, and keeps pkt only as a copy.
	// Nil: such packets are dropped. Every one of them is counted either way.
	Unknown func(src key.NodeID, pkt []byte)
}

// Stats are counts since the Bind was made.
type Stats struct {
	Delivered uint64 // packets taken into the queue
	Full      uint64 // dropped: the queue was full
	Closed    uint64 // dropped: the Bind was closed
	Size      uint64 // dropped: empty or longer than MaxPacket
	Unknown   uint64 // from a node that is no peer's endpoint
	Unsent    uint64 // packets that the Sender refused
	Retried   uint64 // handshake messages sent again by Retry
}

// A Bind is a conn.Bind whose endpoints are nodes.
type Bind struct {
	// set at construction
	sender  Sender
	unknown func(src key.NodeID, pkt []byte)
	queue   queue

	mu        sync.RWMutex // guards endpoints
	endpoints map[key.NodeID]*Endpoint

	strangers, unsent, retried atomic.Uint64
}

var _ conn.Bind = (*Bind)(nil)

// New makes a Bind, closed.
func New(cfg Config) (*Bind, error) {
	if cfg.Sender == nil {
		return nil, errors.New("new bind: no sender")
	}
	b := &Bind{
		sender:    cfg.Sender,
		unknown:   cfg.Unknown,
		endpoints: make(map[key.NodeID]*Endpoint),
	}
	b.queue.init(QueueLength)
	return b, nil
}

// Open makes the Bind ready to receive. There is no port: port is handed back
// as it came.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	opening, ok := b.queue.open()
	if !ok {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	r := &receiver{queue: &b.queue, opening: opening}
	return []conn.ReceiveFunc{r.receive}, port, nil
}

// Close ends the receive functions of the current opening. Closing a closed
// Bind does nothing.
func (b *Bind) Close() error {
	b.queue.close()
	return nil
}

// SetMark does nothing: a mark belongs to a socket, and the paths own theirs.
func (b *Bind) SetMark(uint32) error { return nil }

// BatchSize is the constant of that name.
func (b *Bind) BatchSize() int { return BatchSize }

// Send hands packets to the Sender.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	e.sending(bufs)
	if err := b.sender.Send(e.id, bufs); err != nil {
		b.unsent.Add(uint64(len(bufs)))
		return fmt.Errorf("send to %s: %w", e.id.Short(), err)
	}
	return nil
}

// ParseEndpoint makes the node that s names known, and returns its Endpoint:
// the same one for the same node, until Forget.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	id, err := key.ParseNodeID(s)
	if err != nil {
		return nil, fmt.Errorf("parse endpoint: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.endpoints[id]
	if e == nil {
		e = newEndpoint(id)
		b.endpoints[id] = e
	}
	return e, nil
}

// Forget undoes ParseEndpoint: packets from id are an unknown node's again. The
// tunnel calls it for a peer it removed.
func (b *Bind) Forget(id key.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.endpoints, id)
}

func (b *Bind) endpoint(id key.NodeID) *Endpoint {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.endpoints[id]
}

// Deliver takes a packet that arrived from src. It copies pkt and never blocks.
func (b *Bind) Deliver(src key.NodeID, pkt []byte) {
	e := b.endpoint(src)
	if e == nil {
		b.strangers.Add(1)
		if b.unknown != nil && len(pkt) > 0 && len(pkt) <= MaxPacket {
			b.unknown(src, pkt)
		}
		return
	}
	if b.queue.put(e, pkt) {
		e.received(pkt)
	}
}

// Retry sends the handshake message that dst has not answered, if there is one
// and it is still young enough for dst to take it. It is called when a path to
// dst appears: its own relay connection is up, dst came online, a direct path
// was proved.
func (b *Bind) Retry(dst key.NodeID) {
	if e := b.endpoint(dst); e != nil {
		b.retry(e)
	}
}

// RetryAll does what Retry does, for every node: when this node's own
// connection came back.
func (b *Bind) RetryAll() {
	b.mu.RLock()
	var waiting []*Endpoint
	for _, e := range b.endpoints {
		if e.held.Load() != nil {
			waiting = append(waiting, e)
		}
	}
	b.mu.RUnlock()
	for _, e := range waiting {
		b.retry(e)
	}
}

func (b *Bind) retry(e *Endpoint) {
	msg := e.unanswered(time.Now())
	if msg == nil {
		return
	}
	if err := b.sender.Send(e.id, [][]byte{msg}); err != nil {
		b.unsent.Add(1)
		return
	}
	b.retried.Add(1)
}

// Stats returns the counts so far.
func (b *Bind) Stats() Stats {
	s := b.queue.stats()
	s.Unknown = b.strangers.Load()
	s.Unsent = b.unsent.Load()
	s.Retried = b.retried.Load()
	return s
}

// A receiver is the receive function of one opening, with the batch that it
// swaps for the queue's. WireGuard calls it from one goroutine.
type receiver struct {
	queue   *queue
	opening uint64
	batch   [BatchSize]slot
}

func (r *receiver) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	n, ok := r.queue.take(r.opening, r.batch[:min(len(packets), BatchSize)])
	if !ok {
		return 0, net.ErrClosed
	}
	for i := range r.batch[:n] {
		s := &r.batch[i]
		sizes[i], eps[i] = 0, s.from
		if len(s.buf) <= len(packets[i]) {
			sizes[i] = copy(packets[i], s.buf)
		}
		s.from = nil
	}
	return n, nil
}
