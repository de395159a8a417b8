package bind

import "sync"

// A slot is one packet that waits, with the buffer it lives in. A buffer stays
// with the queue for ever: it moves between the ring and the reader's batch by
// swapping, so that nothing is copied under the lock on the way out.
type slot struct {
	buf  []byte
	from *Endpoint
}

// A queue is a bounded ring of packets with one reader. An opening is the time
// between open and close; a reader belongs to one opening.
type queue struct {
	mu      sync.Mutex
	arrived sync.Cond // with mu: a packet came, or the opening ended

	// guarded by mu
	ring    []slot
	head, n int    // n packets from ring[head] on
	opening uint64 // the current or last opening, from 1
	isOpen  bool
	waiting bool // a reader sleeps on arrived
	counts  Stats
}

func (q *queue) init(length int) {
	q.arrived.L = &q.mu
	q.ring = make([]slot, length)
}

// open begins an opening; false when one has not ended.
func (q *queue) open() (opening uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.isOpen {
		return 0, false
	}
	q.isOpen = true
	q.opening++
	return q.opening, true
}

// close ends the opening, wakes its reader and drops what waits.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.isOpen {
		return
	}
	q.isOpen = false
	q.counts.Closed += uint64(q.n)
	for ; q.n > 0; q.n-- {
		q.ring[q.head].from = nil
		q.head = (q.head + 1) % len(q.ring)
	}
	q.arrived.Broadcast()
}

// put copies pkt to the end of the queue, or counts why not.
func (q *queue) put(from *Endpoint, pkt []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(pkt) == 0 || len(pkt) > MaxPacket:
		q.counts.Size++
		return false
	case !q.isOpen:
		q.counts.Closed++
		return false
	case q.n == len(q.ring):
		q.counts.Full++
		return false
	}
	s := &q.ring[(q.head+q.n)%len(q.ring)]
	s.buf = append(s.buf[:0], pkt...)
	s.from = from
	q.n++
	q.counts.Delivered++
	if q.waiting {
		q.waiting = false
		q.arrived.Signal()
	}
	return true
}

// take waits for packets and swaps as many as fit into batch. It is false once
// the opening has ended.
func (q *queue) take(opening uint64, batch []slot) (n int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 && q.isOpen && q.opening == opening {
		q.waiting = true
		q.arrived.Wait()
	}
	if !q.isOpen || q.opening != opening {
		return 0, false
	}
	n = min(q.n, len(batch))
	for i := range n {
		batch[i], q.ring[q.head] = q.ring[q.head], batch[i]
		q.head = (q.head + 1) % len(q.ring)
	}
	q.n -= n
	return n, true
}

func (q *queue) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts
}
