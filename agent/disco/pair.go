package disco

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/writmesh/writ/coordinator/key"
)

// TagSize is the length of a TagID.
const TagSize = 8

// A TagID says of which ordered pair of nodes a packet is, to those two and to
// whoever sees two packets with the same.
type TagID [TagSize]byte

// Is reports whether a packet is of this protocol: whether it begins with the
// magic. WireGuard's packets and STUN's do not.
func Is(packet []byte) bool {
	return len(packet) >= len(Magic) && string(packet[:len(Magic)]) == Magic
}

// Peek is the tag of a packet that could be a message.
func Peek(packet []byte) (tag TagID, ok bool) {
	if !Is(packet) || len(packet) < MinPacket || len(packet) > MaxPacket {
		return tag, false
	}
	return TagID(packet[len(Magic):]), true
}

// A Self is this node while it runs, with one WireGuard key. It is safe for
// concurrent use.
type Self struct {
	private key.WGPrivate
	network key.NetworkID
	id      key.NodeID

	boot atomic.Uint64 // of the pair made last
}

// NewSelf says who this node is. Started is the time; it must be later than that
// of every Self before with the same key.
func NewSelf(private key.WGPrivate, network key.NetworkID, id key.NodeID, started time.Time) *Self {
	s := &Self{private: private, network: network, id: id}
	s.boot.Store(uint64(max(started.UnixMicro(), 0)))
	return s
}

// ClockSet says that the clock was set forward: boots follow it from here on.
// Those made before were behind, perhaps behind what peers have seen of this node
// when it last ran, and were refused as replays; Renew makes a pair's anew.
func (s *Self) ClockSet(now time.Time) {
	at := uint64(max(now.UnixMicro(), 0))
	for {
		boot := s.boot.Load()
		if boot >= at || s.boot.CompareAndSwap(boot, at) {
			return
		}
	}
}

// Renew has a pair seal under a boot of its own again. To the peer this node has
// begun anew; what was received is not forgotten.
func (s *Self) Renew(p *Pair) { p.boot.Store(s.boot.Add(1)) }

// A Pair is this node and one peer: the keys of both directions, and what has
// been sent and seen. It is safe for concurrent use.
type Pair struct {
	// Set at construction.
	out, in       cipher.AEAD
	outTag, inTag TagID

	boot atomic.Uint64
	sent atomic.Uint64 // the counter of the message sealed last

	mu   sync.Mutex
	seen window // guarded by mu
}

// Pair makes the keys towards a peer. Two pairs with the same peer, one after the
// other, seal under different boots, and the peer understands the later one: the
// boot is the start of the Self and one microsecond more for each pair, which is
// less than it takes to make one, so that boots stay behind the clock and the
// next start is above them all.
func (s *Self) Pair(peer key.WGPublic, id key.NodeID) (*Pair, error) {
	if id == s.id {
		return nil, fmt.Errorf("pair with %s: this node itself", id)
	}
	secret, err := s.private.SharedSecret(peer)
	if err != nil {
		return nil, fmt.Errorf("pair with %s: %w", id, err)
	}
	p := new(Pair)
	p.boot.Store(s.boot.Add(1))
	if p.out, p.outTag, err = derive(secret, s.network, s.id, id); err == nil {
		p.in, p.inTag, err = derive(secret, s.network, id, s.id)
	}
	if err != nil {
		return nil, fmt.Errorf("pair with %s: %w", id, err)
	}
	return p, nil
}

// derive makes the key and the tag of one direction.
func derive(secret [32]byte, network key.NetworkID, sender, receiver key.NodeID) (cipher.AEAD, TagID, error) {
	info := make([]byte, 0, len(network)+len(sender)+len(receiver))
	info = append(info, network[:]...)
	info = append(info, sender[:]...)
	info = append(info, receiver[:]...)
	b, err := hkdf.Key(sha256.New, secret[:], []byte("writ-disco/v1"), string(info), chacha20poly1305.KeySize+TagSize)
	if err != nil {
		return nil, TagID{}, err
	}
	aead, err := chacha20poly1305.NewX(b[:chacha20poly1305.KeySize])
	return aead, TagID(b[chacha20poly1305.KeySize:]), err
}

// Tag is what packets from the peer carry.
func (p *Pair) Tag() TagID { return p.inTag }

// Seal makes the packet of a message to the peer.
func (p *Pair) Seal(m Message) ([]byte, error) {
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	return p.seal(m, p.sent.Add(1), nonce)
}

func (p *Pair) seal(m Message, counter uint64, nonce [nonceSize]byte) ([]byte, error) {
	plain := make([]byte, 0, innerSize+endpointsSize+MaxEndpoints*endpointSize)
	plain = append(plain, typeOf(m))
	plain = binary.BigEndian.AppendUint64(plain, p.boot.Load())
	plain = binary.BigEndian.AppendUint64(plain, counter)
	plain, err := appendBody(plain, m)
	if err != nil {
		return nil, err
	}
	return p.sealPlain(plain, nonce), nil
}

func (p *Pair) sealPlain(plain []byte, nonce [nonceSize]byte) []byte {
	b := make([]byte, 0, headSize+nonceSize+len(plain)+sealSize)
	b = append(b, Magic...)
	b = append(b, p.outTag[:]...)
	b = append(b, nonce[:]...)
	return p.out.Seal(b, nonce[:], plain, b[:headSize])
}

// Began is when the peer's Self began, in its own microseconds, as the newest
// message opened says; zero before the first. Another value is another run of the
// peer's agent, or another pair with this node.
func (p *Pair) Began() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.boot
}

// Open reads a packet from the peer. Its errors have a Reason (see ReasonOf).
// The packet is not modified, and the message shares no memory with it.
func (p *Pair) Open(packet []byte) (Message, error) {
	switch {
	case !Is(packet):
		return nil, NotDisco
	case len(packet) < MinPacket:
		return nil, Short
	case len(packet) > MaxPacket:
		return nil, Long
	case TagID(packet[len(Magic):]) != p.inTag:
		return nil, Tag
	}
	head, nonce, sealed := packet[:headSize], packet[headSize:headSize+nonceSize], packet[headSize+nonceSize:]
	plain, err := p.in.Open(nil, nonce, sealed, head)
	if err != nil {
		return nil, Forged
	}
	boot, counter := binary.BigEndian.Uint64(plain[1:]), binary.BigEndian.Uint64(plain[9:])
	if boot == 0 || counter == 0 {
		return nil, fmt.Errorf("%w: boot %d, counter %d", Malformed, boot, counter)
	}
	p.mu.Lock()
	fresh := p.seen.take(boot, counter)
	p.mu.Unlock()
	if !fresh {
		return nil, Replay
	}
	return parseBody(plain[0], plain[innerSize:])
}
