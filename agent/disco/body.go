package disco

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Types of messages, and the flag bits of their bodies.
const (
	typePing      = 0x01
	typePong      = 0x02
	typeEndpoints = 0x03

	flagProved = 0x01 // ping, pong
	flagReply  = 0x01 // endpoints
)

// typeOf is the type byte of m; zero for a message that is none, such as nil.
func typeOf(m Message) byte {
	switch m.(type) {
	case *Ping:
		return typePing
	case *Pong:
		return typePong
	case *Endpoints:
		return typeEndpoints
	}
	return 0
}

// appendBody appends what stands behind the counter. It refuses what a decoder
// would.
func appendBody(b []byte, m Message) ([]byte, error) {
	switch m := m.(type) {
	case *Ping:
		if m.Padding < 0 || m.Padding > MaxPadding {
			return nil, fmt.Errorf("encode ping: padding of %d bytes, want 0 to %d", m.Padding, MaxPadding)
		}
		b = append(b, m.Tx[:]...)
		b = appendFlag(b, m.Proved, flagProved)
		return append(b, make([]byte, m.Padding)...), nil
	case *Pong:
		b = append(b, m.Tx[:]...)
		b = appendFlag(b, m.Proved, flagProved)
		if m.Src == (netip.AddrPort{}) {
			return append(b, make([]byte, addrSize)...), nil
		}
		b, err := appendAddr(b, m.Src)
		if err != nil {
			return nil, fmt.Errorf("encode pong: %w", err)
		}
		return b, nil
	case *Endpoints:
		if len(m.List) > MaxEndpoints {
			return nil, fmt.Errorf("encode endpoints: %d of them, want at most %d", len(m.List), MaxEndpoints)
		}
		if !m.Mapping.known() {
			return nil, fmt.Errorf("encode endpoints: mapping %d", m.Mapping)
		}
		b = appendFlag(b, m.Reply, flagReply)
		b = append(b, byte(m.Mapping))
		for _, e := range m.List {
			if !e.Kind.known() {
				return nil, fmt.Errorf("encode endpoint %s: kind %d", e.Addr, e.Kind)
			}
			var err error
			if b, err = appendAddr(append(b, byte(e.Kind)), e.Addr); err != nil {
				return nil, fmt.Errorf("encode endpoints: %w", err)
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("encode message: %T is none", m)
}

func appendFlag(b []byte, set bool, bit byte) []byte {
	if set {
		return append(b, bit)
	}
	return append(b, 0)
}

// appendAddr refuses a zone, which means nothing on another machine.
func appendAddr(b []byte, a netip.AddrPort) ([]byte, error) {
	if !a.IsValid() || a.Addr().Unmap().IsUnspecified() || a.Port() == 0 || a.Addr().Zone() != "" {
		return nil, fmt.Errorf("address %s is no place to send to", a)
	}
	addr := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, addr[:]...), a.Port()), nil
}

// parseBody reads the body of a message. Its errors wrap Type or Malformed. The
// message shares no memory with b.
func parseBody(t byte, b []byte) (Message, error) {
	switch t {
	case typePing:
		return parsePing(b)
	case typePong:
		return parsePong(b)
	case typeEndpoints:
		return parseEndpoints(b)
	}
	return nil, fmt.Errorf("%w: 0x%02x", Type, t)
}

func parsePing(b []byte) (Message, error) {
	if len(b) < pingSize || len(b) > pingSize+MaxPadding {
		return nil, fmt.Errorf("%w: ping: body of %d bytes, want %d to %d", Malformed, len(b), pingSize, pingSize+MaxPadding)
	}
	proved, err := parseFlag(b[12], flagProved)
	if err != nil {
		return nil, fmt.Errorf("%w: ping: %w", Malformed, err)
	}
	for _, z := range b[pingSize:] {
		if z != 0 {
			return nil, fmt.Errorf("%w: ping: padding is not zero", Malformed)
		}
	}
	return &Ping{Tx: TxID(b[:12]), Proved: proved, Padding: len(b) - pingSize}, nil
}

func parsePong(b []byte) (Message, error) {
	if len(b) != pongSize {
		return nil, fmt.Errorf("%w: pong: body of %d bytes, want %d", Malformed, len(b), pongSize)
	}
	proved, err := parseFlag(b[12], flagProved)
	if err != nil {
		return nil, fmt.Errorf("%w: pong: %w", Malformed, err)
	}
	m := &Pong{Tx: TxID(b[:12]), Proved: proved}
	if src := [addrSize]byte(b[13:]); src != [addrSize]byte{} {
		if m.Src, err = parseAddr(src); err != nil {
			return nil, fmt.Errorf("%w: pong: %w", Malformed, err)
		}
	}
	return m, nil
}

func parseEndpoints(b []byte) (Message, error) {
	const most = endpointsSize + MaxEndpoints*endpointSize
	if len(b) < endpointsSize || len(b) > most || (len(b)-endpointsSize)%endpointSize != 0 {
		return nil, fmt.Errorf("%w: endpoints: body of %d bytes, want %d and a multiple of %d, at most %d", Malformed, len(b), endpointsSize, endpointSize, most)
	}
	reply, err := parseFlag(b[0], flagReply)
	if err != nil {
		return nil, fmt.Errorf("%w: endpoints: %w", Malformed, err)
	}
	m := &Endpoints{Reply: reply, Mapping: Mapping(b[1])}
	if !m.Mapping.known() {
		return nil, fmt.Errorf("%w: endpoints: mapping %d", Malformed, b[1])
	}
	for b = b[endpointsSize:]; len(b) > 0; b = b[endpointSize:] {
		e := Endpoint{Kind: Kind(b[0])}
		if !e.Kind.known() {
			return nil, fmt.Errorf("%w: endpoints: kind %d", Malformed, b[0])
		}
		if e.Addr, err = parseAddr([addrSize]byte(b[1:])); err != nil {
			return nil, fmt.Errorf("%w: endpoints: %w", Malformed, err)
		}
		m.List = append(m.List, e)
	}
	return m, nil
}

// parseFlag reads a byte of flags, of which one has a meaning.
func parseFlag(b, bit byte) (bool, error) {
	if b&^bit != 0 {
		return false, fmt.Errorf("flags 0x%02x", b)
	}
	return b&bit != 0, nil
}

func parseAddr(b [addrSize]byte) (netip.AddrPort, error) {
	a := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint16(b[16:]))
	if a.Addr().IsUnspecified() || a.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("address %s is no place to send to", a)
	}
	return a, nil
}
