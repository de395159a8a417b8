package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// queueLength is how many packets may wait for Read: a little more than one TCP
// window of maxBuffer at the smallest MTU, so that a single connection does not
// lose its own packets here.
const queueLength = 4096

// A link is gVisor's side of the device: packets that the stack sends wait in a
// ring for Read.
type link struct {
	mu    sync.Mutex
	ready sync.Cond // with mu

	// guarded by mu
	ring        [queueLength]*stack.PacketBuffer
	head, n     int // n packets from ring[head] on
	isClosed    bool
	interrupted bool // the next take returns without a packet
	waiting     bool // a take sleeps on ready
	dropped     uint64

	dispatcher struct {
		sync.RWMutex
		to stack.NetworkDispatcher
	}

	mtu struct {
		sync.Mutex
		n uint32
	}
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(mtu uint32) *link {
	l := new(link)
	l.ready.L = &l.mu
	l.mtu.n = mtu
	return l
}

// WritePackets queues what the stack sends.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	list := pkts.AsSlice()
	for _, pkt := range list {
		if l.n == len(l.ring) {
			// Not an error to the stack: that would end the transmission of a
			// segment in the middle, where a loss is repaired.
			l.dropped++
			continue
		}
		l.ring[(l.head+l.n)%len(l.ring)] = pkt.IncRef()
		l.n++
	}
	if l.waiting && l.n > 0 {
		l.waiting = false
		l.ready.Signal()
	}
	return len(list), nil
}

// take waits for packets and moves as many as fit into batch, whose references
// it passes on. None and true: interrupted. False: closed, and nothing is left.
func (l *link) take(batch []*stack.PacketBuffer) (n int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.n == 0 && !l.isClosed && !l.interrupted {
		l.waiting = true
		l.ready.Wait()
	}
	l.interrupted = false
	if l.isClosed && l.n == 0 {
		return 0, false
	}
	n = min(l.n, len(batch))
	for i := range n {
		batch[i], l.ring[l.head] = l.ring[l.head], nil
		l.head = (l.head + 1) % len(l.ring)
	}
	l.n -= n
	return n, true
}

func (l *link) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupted = true
	l.waiting = false
	l.ready.Signal()
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isClosed = true
	l.ready.Broadcast()
}

func (l *link) closed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isClosed
}

func (l *link) droppedCount() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Attach is told where packets from the mesh go; nil when the interface goes.
func (l *link) Attach(to stack.NetworkDispatcher) {
	l.dispatcher.Lock()
	defer l.dispatcher.Unlock()
	l.dispatcher.to = to
}

// IsAttached reports whether Attach was told.
func (l *link) IsAttached() bool {
	l.dispatcher.RLock()
	defer l.dispatcher.RUnlock()
	return l.dispatcher.to != nil
}

// deliver passes a packet from the mesh up.
func (l *link) deliver(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	l.dispatcher.RLock()
	to := l.dispatcher.to
	l.dispatcher.RUnlock()
	if to != nil {
		to.DeliverNetworkPacket(protocol, pkt)
	}
}

// MTU is the device's.
func (l *link) MTU() uint32 {
	l.mtu.Lock()
	defer l.mtu.Unlock()
	return l.mtu.n
}

// SetMTU is for gVisor's own tests; nothing here calls it.
func (l *link) SetMTU(mtu uint32) {
	l.mtu.Lock()
	defer l.mtu.Unlock()
	l.mtu.n = mtu
}

// GSOMaxSize is how much of a connection the stack cuts into segments in one go.
func (l *link) GSOMaxSize() uint32 { return stack.GVisorGSOMaxSize }

// SupportedGSO says that the stack does the cutting: what reaches WritePackets
// fits the MTU.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.GVisorGSOSupported }

// The rest is a link without a layer of its own: no header, no address.

func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return 0 }
func (l *link) Wait()                                        {}
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) Close()                                       {}
func (l *link) SetOnCloseAction(func())                      {}
