package bind

import (
	"hash/maphash"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

const (
	// onceFor is how long a handshake message is remembered. WireGuard's queue of
	// handshakes has 1024 places, and each takes some 100 µs: a copy that comes a
	// second later finds the first one dealt with.
	onceFor = time.Second

	// onceLength is how many are remembered, and so how many go to WireGuard in
	// onceFor. Ten thousand peers that renew their sessions every two minutes
	// need 170 a second.
	onceLength = 4096
)

// A once lets each handshake message through once.
//
// wireguard-go checks that it waits for a response, spends a Diffie-Hellman, and
// then takes the response without checking again; a second worker does the same
// with a copy meanwhile. The session is then begun twice with the same keys, and
// its counter, which is the cipher's nonce, begins again at zero. A response is
// sent by two paths here, so that copies come within microseconds of each other.
//
// What is compared is what the Noise handshake authenticates. The rest of a
// message (indices, MACs) can be altered by whoever carries it and knows the
// receiver's public key, so that a copy would differ.
type once struct {
	seed maphash.Seed

	// guarded by mu
	mu   sync.Mutex
	at   map[uint64]int // where in ring
	ring []sighting     // oldest at next, once it is full
	next int
}

// A sighting is a message that was let through; the zero sighting is none.
type sighting struct {
	sum  uint64
	when time.Time
}

func (o *once) init() {
	o.seed, o.at = maphash.MakeSeed(), make(map[uint64]int)
}

// core is the part of a handshake message that is authenticated.
func core(pkt []byte) []byte {
	switch messageType(pkt) {
	case device.MessageInitiationType:
		return pkt[8 : len(pkt)-32] // after type and sender, without the two MACs
	case device.MessageResponseType:
		return pkt[12 : len(pkt)-32] // after the receiver, too
	}
	return pkt
}

// first is whether pkt, which is a Handshake, may go to WireGuard. undo takes
// that back if it did not.
func (o *once) first(pkt []byte) (sum uint64, ok bool) {
	sum = maphash.Bytes(o.seed, core(pkt))
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if i, known := o.at[sum]; known && now.Sub(o.ring[i].when) < onceFor {
		return sum, false
	}
	if len(o.ring) < onceLength {
		o.ring = append(o.ring, sighting{})
		o.next = len(o.ring) - 1
	}
	old := &o.ring[o.next]
	if !old.when.IsZero() {
		if now.Sub(old.when) < onceFor {
			return sum, false // more than are remembered
		}
		if o.at[old.sum] == o.next {
			delete(o.at, old.sum)
		}
	}
	*old = sighting{sum, now}
	o.at[sum] = o.next
	o.next = (o.next + 1) % onceLength
	return sum, true
}

func (o *once) undo(sum uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i, known := o.at[sum]; known {
		o.ring[i] = sighting{}
		delete(o.at, sum)
	}
}
