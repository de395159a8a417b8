package bind

import (
	"crypto/subtle"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// onceFor is how long a handshake message is remembered. WireGuard's queue of
	// handshakes has 1024 places, and each takes some 100 µs: a copy that comes a
	// second later finds the first one dealt with.
	onceFor = time.Second

	// maxHandshakes is how many initiations and responses of one node are
	// remembered for each way, and so how many go to WireGuard in onceFor. A node
	// sends one in five seconds, and again when a path appears; sixteen leave room
	// for a node that is restarted over and over. maxCookies is the same for
	// replies with a cookie, of which each message causes one at most.
	maxHandshakes = 16
	maxCookies    = 4
)

// A way is what carried a packet here.
type way byte

const (
	byRelay way = iota
	byDirect
	ways
)

// A once lets each handshake message of one node through once.
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
//
// Each node has its own, and in it each way: who sends junk in one node's name by
// one way takes the room of nobody else, nor of the same node by the other way.
type once struct {
	mu sync.Mutex

	// guarded by mu
	handshakes, cookies [ways]ring
}

// A ring is the last messages that were let through, oldest at next once it is
// full.
type ring struct {
	last []sighting
	next int
}

// A sighting is a message that was let through; the zero sighting is none.
type sighting struct {
	sum  uint64
	when time.Time
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

// first is whether pkt, which is a Handshake that came by w, may go to WireGuard.
// sum is a hash of its core.
func (o *once) first(pkt []byte, sum uint64, w way) bool {
	now := time.Now()
	rings, length := &o.handshakes, maxHandshakes
	if messageType(pkt) == device.MessageCookieReplyType {
		rings, length = &o.cookies, maxCookies
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range rings {
		if rings[i].has(sum, now) {
			return false
		}
	}
	return rings[w].add(sum, now, length)
}

// undo takes back that a message with that sum was let through.
func (o *once) undo(sum uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rings := range []*[ways]ring{&o.handshakes, &o.cookies} {
		for i := range rings {
			for k := range rings[i].last {
				if s := &rings[i].last[k]; s.sum == sum {
					*s = sighting{}
				}
			}
		}
	}
}

func (s sighting) fresh(now time.Time) bool { return !s.when.IsZero() && now.Sub(s.when) < onceFor }

func (r *ring) has(sum uint64, now time.Time) bool {
	for _, s := range r.last {
		if s.sum == sum && s.fresh(now) {
			return true
		}
	}
	return false
}

// add is false if as many as are remembered came already.
func (r *ring) add(sum uint64, now time.Time, length int) bool {
	if len(r.last) < length {
		r.last = append(r.last, sighting{sum, now})
		return true
	}
	if r.last[r.next].fresh(now) {
		return false
	}
	r.last[r.next] = sighting{sum, now}
	r.next = (r.next + 1) % length
	return true
}

// first is whether pkt, a Handshake of p's that came by w, may go to WireGuard.
// p.once.undo(sum) takes that back if it did not.
func (b *Bind) first(p *peer, pkt []byte, w way) (sum uint64, ok bool) {
	sum = maphash.Bytes(b.seed, core(pkt))
	if !p.once.first(pkt, sum, w) {
		b.repeated.Add(1)
		return sum, false
	}
	return sum, true
}

// SetKey says whose handshakes come here: those whose first MAC is not made with
// this node's public key are dropped from now on, before they are remembered.
// The tunnel calls it.
func (b *Bind) SetKey(public key.WGPublic) {
	k := public.Bytes()
	sum := blake2s.Sum256(append([]byte(device.WGLabelMAC1), k[:]...))
	b.mac1.Store(&sum)
}

// isForged reports whether pkt, which is a Handshake, lacks the MAC of somebody
// who knows this node's public key. A reply with a cookie has none.
func (b *Bind) isForged(pkt []byte) bool {
	k := b.mac1.Load()
	if k == nil || messageType(pkt) == device.MessageCookieReplyType {
		return false
	}
	h, err := blake2s.New128(k[:])
	if err != nil {
		return false // WireGuard checks it too
	}
	at := len(pkt) - 2*blake2s.Size128
	h.Write(pkt[:at])
	if subtle.ConstantTimeCompare(h.Sum(nil), pkt[at:at+blake2s.Size128]) == 1 {
		return false
	}
	b.forged.Add(1)
	return true
}
