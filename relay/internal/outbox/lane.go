package outbox

import (
	"sync"

	"github.com/writmesh/writ/coordinator/key"
)

// A lane is the packets of one class, one queue per flow. Flows that have
// something waiting form a ring; turn is the one whose turn it is.
type lane struct {
	flows map[key.NodeID]*flow
	turn  *flow
	bytes int // charged, over all flows
}

// A flow is in its lane's map and ring exactly while packets wait in it.
type flow struct {
	id         key.NodeID
	head, tail *Packet
	bytes      int // charged
	deficit    int // bytes it may still send in this turn
	prev, next *flow
}

var flows = sync.Pool{New: func() any { return new(flow) }}

func (l *lane) push(id key.NodeID, p *Packet) *flow {
	f := l.flows[id]
	if f == nil {
		if l.flows == nil {
			l.flows = make(map[key.NodeID]*flow)
		}
		f = flows.Get().(*flow)
		*f = flow{id: id, deficit: quantum}
		l.flows[id] = f
		l.insert(f)
	}
	p.next = nil
	if f.tail == nil {
		f.head = p
	} else {
		f.tail.next = p
	}
	f.tail = p
	f.bytes += p.charge()
	l.bytes += p.charge()
	return f
}

// pop takes the oldest packet of f, and f out of the lane with the last one.
func (l *lane) pop(f *flow) *Packet {
	p := f.head
	f.head = p.next
	p.next = nil
	f.bytes -= p.charge()
	l.bytes -= p.charge()
	if f.head == nil {
		delete(l.flows, f.id)
		l.remove(f)
		*f = flow{}
		flows.Put(f)
	}
	return p
}

// insert puts f into the ring, last in turn.
func (l *lane) insert(f *flow) {
	if l.turn == nil {
		f.prev, f.next = f, f
		l.turn = f
		return
	}
	f.prev, f.next = l.turn.prev, l.turn
	f.prev.next, f.next.prev = f, f
}

func (l *lane) remove(f *flow) {
	if f.next == f {
		l.turn = nil
		return
	}
	f.prev.next, f.next.prev = f.next, f.prev
	if l.turn == f {
		l.turn = f.next
	}
}

func (l *lane) rotate() { l.turn = l.turn.next }

// longest is the flow with the most bytes. Likely, which may be nil, is tried
// first: a flow that has more than its share needs no search, and a flood is
// pushed by the flow that has it. The search is bounded by MaxBytes ÷ overhead.
func (l *lane) longest(likely *flow) *flow {
	if likely != nil && likely.bytes*len(l.flows) >= 2*l.bytes || len(l.flows) == 1 {
		if likely != nil {
			return likely
		}
		return l.turn
	}
	most := l.turn
	for f := most.next; f != l.turn; f = f.next {
		if f.bytes > most.bytes {
			most = f
		}
	}
	return most
}
