package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	pion "github.com/pion/stun/v3"
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

// Request is the datagram that asks a server.
func Request(tx [TxSize]byte) []byte {
	b := make([]byte, headerSize, RequestSize)
	m := &pion.Message{Raw: b, TransactionID: tx}
	m.SetType(pion.BindingRequest)
	m.WriteHeader()
	m.Add(pion.AttrSoftware, []byte(padding))
	return m.Raw
}

// ParseResponse reads a server's answer: which request it answers, and where the
// server saw it come from.
func ParseResponse(pkt []byte) (tx [TxSize]byte, addr netip.AddrPort, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read STUN response: %w", err)
			tx, addr = [TxSize]byte{}, netip.AddrPort{}
		}
	}()
	if len(pkt) > maxResponse {
		return tx, addr, fmt.Errorf("%d bytes, at most %d", len(pkt), maxResponse)
	}
	var m pion.Message
	if err := decode(&m, pkt); err != nil {
		return tx, addr, err
	}
	if m.Type != pion.BindingSuccess {
		return tx, addr, fmt.Errorf("%v, want a binding success response", m.Type)
	}
	mapped := 0
	for i, a := range m.Attributes {
		switch a.Type {
		case pion.AttrXORMappedAddress:
			mapped++
		case pion.AttrFingerprint:
			if i != len(m.Attributes)-1 {
				return tx, addr, errors.New("fingerprint before the last attribute")
			}
			if err := pion.Fingerprint.Check(&m); err != nil {
				return tx, addr, fmt.Errorf("fingerprint: %w", err)
			}
		case pion.AttrMappedAddress, pion.AttrMessageIntegrity:
		default:
			if a.Type.Required() {
				return tx, addr, fmt.Errorf("attribute 0x%04x is not known and must be", a.Type.Value())
			}
		}
	}
	if mapped != 1 {
		return tx, addr, fmt.Errorf("%d mapped addresses, want 1", mapped)
	}
	var x pion.XORMappedAddress
	if err := x.GetFrom(&m); err != nil {
		return tx, addr, fmt.Errorf("mapped address: %w", err)
	}
	value, _ := m.Get(pion.AttrXORMappedAddress)
	if want := 4 + len(x.IP); len(value) != want {
		return tx, addr, fmt.Errorf("mapped address of %d bytes, want %d", len(value), want)
	}
	ip, _ := netip.AddrFromSlice(x.IP)
	addr = netip.AddrPortFrom(ip.Unmap(), uint16(x.Port))
	if !answerable(addr) {
		return tx, addr, fmt.Errorf("mapped address %v is nobody's", addr)
	}
	return m.TransactionID, addr, nil
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
	in, out pion.Message
}

// Answer is the answer to a datagram from the given address, valid until Answer
// is called again. The error is a Drop.
func (a *Answerer) Answer(request []byte, from netip.AddrPort) ([]byte, error) {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if len(request) > maxRequest || decode(&a.in, request) != nil {
		return nil, Malformed
	}
	if a.in.Type != pion.BindingRequest {
		return nil, NotBinding
	}
	for _, attr := range a.in.Attributes {
		if attr.Type.Required() {
			return nil, Unknown
		}
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
	a.out.Reset()
	a.out.TransactionID = a.in.TransactionID
	a.out.SetType(pion.BindingSuccess)
	a.out.WriteHeader()
	x := pion.XORMappedAddress{IP: net.IP(from.Addr().AsSlice()), Port: int(from.Port())}
	if err := x.AddTo(&a.out); err != nil {
		return nil, Source // an address of a family that is neither: cannot be
	}
	return a.out.Raw, nil
}

var errForm = errors.New("not a STUN message")

// decode takes a message apart, and copies it first.
func decode(m *pion.Message, p []byte) error {
	if !Is(p) {
		return errForm
	}
	m.Raw = append(m.Raw[:0], p...)
	return m.Decode()
}

// answerable reports whether a datagram can be sent to a.
func answerable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
