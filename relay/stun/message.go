package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// padding is the value of the request's one attribute.
const padding = "writ, room to answer"

// Is reports whether a datagram has the form of a STUN message. It looks at the
// length and at eight bytes; no WireGuard packet and no probe has that form.
func Is(p []byte) bool {
	return len(p) >= headerSize && p[0]&0xc0 == 0 && len(p)%4 == 0 &&
		binary.BigEndian.Uint32(p[4:]) == cookie &&
		int(binary.BigEndian.Uint16(p[2:])) == len(p)-headerSize
}

// The types of the two messages; nothing else is sent or taken.
const (
	typeRequest = 0x0001 // binding request
	typeAnswer  = 0x0101 // binding success response
)

// appendHeader appends the header of a message with so many bytes of attributes.
func appendHeader(b []byte, kind uint16, attributes int, tx []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(attributes))
	b = binary.BigEndian.AppendUint32(b, cookie)
	return append(b, tx...)
}

// Request is the datagram that asks a server.
func Request(tx [TxSize]byte) []byte {
	b := appendHeader(make([]byte, 0, RequestSize), typeRequest, attributeHead+len(padding), tx[:])
	b = binary.BigEndian.AppendUint16(b, attrSoftware)
	b = binary.BigEndian.AppendUint16(b, uint16(len(padding)))
	return append(b, padding...) // a multiple of 4 itself
}

// ParseResponse reads a server's answer: which request it answers, and where the
// server saw it come from.
func ParseResponse(pkt []byte) (tx [TxSize]byte, addr netip.AddrPort, err error) {
	addr, err = parseResponse(pkt)
	if err != nil {
		return tx, netip.AddrPort{}, fmt.Errorf("read STUN response: %w", err)
	}
	return [TxSize]byte(pkt[8:headerSize]), addr, nil
}

func parseResponse(pkt []byte) (addr netip.AddrPort, err error) {
	if len(pkt) > maxResponse {
		return addr, fmt.Errorf("%d bytes, at most %d", len(pkt), maxResponse)
	}
	if !Is(pkt) {
		return addr, errors.New("not a STUN message")
	}
	if kind := binary.BigEndian.Uint16(pkt); kind != typeAnswer {
		return addr, fmt.Errorf("type 0x%04x, want a binding success response, 0x%04x", kind, typeAnswer)
	}
	var value []byte // of the last mapped address
	mapped := 0
	for rest := pkt[headerSize:]; len(rest) > 0; {
		at := len(pkt) - len(rest)
		var a attribute
		var ok bool
		if a, rest, ok = cut(rest); !ok {
			return addr, fmt.Errorf("attribute at byte %d ends behind the message", at)
		}
		switch a.kind {
		case attrXORMapped, attrXORMappedOld:
			mapped++
			value = a.value
		case attrFingerprint:
			if len(rest) > 0 {
				return addr, errors.New("fingerprint before the last attribute")
			}
			if err := checkFingerprint(pkt, a.value); err != nil {
				return addr, err
			}
		case attrMapped, attrIntegrity:
		default:
			if a.kind < mayIgnore {
				return addr, fmt.Errorf("attribute 0x%04x is not known and must be", a.kind)
			}
		}
	}
	if mapped != 1 {
		return addr, fmt.Errorf("%d mapped addresses, want 1", mapped)
	}
	if addr, err = readMapped(pkt, value); err != nil {
		return addr, err
	}
	if !answerable(addr) {
		return addr, fmt.Errorf("mapped address %v is nobody's", addr)
	}
	return addr, nil
}

// A Drop is why a server does not answer.
type Drop int

const (
	Malformed  Drop = iota // not a STUN message, or too long
	NotBinding             // another type than a binding request
	Unknown                // has an attribute that must be understood and is not
	Short                  // shorter than the answer would be
	Source                 // from an address that nothing can be sent to
	SourceRate             // too many from this source
	Rate                   // too many in all
	drops                  // how many there are
)

func (d Drop) String() string {
	return [...]string{"malformed", "not_binding", "unknown", "short", "source", "source_rate", "rate"}[d]
}

// Error makes a Drop an error.
func (d Drop) Error() string { return "drop STUN request: " + d.String() }

// An Answerer makes answers. It reuses its memory, and is for one goroutine.
type Answerer struct {
	out [answerSize6]byte
}

// Answer is the answer to a datagram from the given address, valid until Answer
// is called again. The error is a Drop. Neither costs an allocation, since who
// asks may be anybody.
func (a *Answerer) Answer(request []byte, from netip.AddrPort) ([]byte, error) {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if len(request) > maxRequest || !Is(request) {
		return nil, Malformed
	}
	known := true
	for rest := request[headerSize:]; len(rest) > 0; {
		var attr attribute
		var ok bool
		if attr, rest, ok = cut(rest); !ok {
			return nil, Malformed
		}
		if attr.kind < mayIgnore || attr.kind == attrXORMappedOld {
			known = false
		}
	}
	if binary.BigEndian.Uint16(request) != typeRequest {
		return nil, NotBinding
	}
	if !known {
		return nil, Unknown
	}
	if !answerable(from) {
		return nil, Source
	}
	size := answerSize6
	if from.Addr().Is4() {
		size = answerSize4
	}
	if len(request) < size {
		return nil, Short
	}
	return appendMapped(appendHeader(a.out[:0], typeAnswer, size-headerSize, request[8:headerSize]), from), nil
}

// answerable reports whether a datagram can be sent to a.
func answerable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
