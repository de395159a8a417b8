package bind

import (
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/stun"
)

// A Class is what a packet is by its looks.
type Class byte

const (
	Foreign   Class = iota // nothing that a mesh sends
	Data                   // WireGuard's type 4
	Handshake              // WireGuard's types 1, 2 and 3
	Disco                  // the path engine's own
	STUN                   // an answer of a STUN server, or a request
)

func (c Class) String() string {
	switch c {
	case Data:
		return "data"
	case Handshake:
		return "handshake"
	case Disco:
		return "disco"
	case STUN:
		return "stun"
	}
	return "foreign"
}

// Classify tells the kinds of packets apart that share a socket. No packet is of
// two kinds: WireGuard's have three zeros after the type, where no STUN message
// has its method and length both zero, and the path engine's begin with a letter.
func Classify(pkt []byte) Class {
	switch frame.Classify(pkt) {
	case frame.Bulk:
		return Data
	case frame.Urgent:
		if pkt[0] == frame.DiscoMagic[0] {
			return Disco
		}
		return Handshake
	}
	if len(pkt) <= MaxPacket && stun.Is(pkt) {
		return STUN
	}
	return Foreign
}
