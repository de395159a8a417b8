package frame

// A Class is what kind of packet a payload is, by its first bytes and length.
type Class byte

const (
	// Foreign is nothing a relay carries.
	Foreign Class = iota
	// Urgent is what a path needs to come up: WireGuard's handshake messages
	// and disco probes. A relay sends it before what waits.
	Urgent
	// Bulk is WireGuard transport data.
	Bulk
)

func (c Class) String() string {
	switch c {
	case Urgent:
		return "urgent"
	case Bulk:
		return "bulk"
	}
	return "foreign"
}

// DiscoMagic begins every packet of the path engine.
const DiscoMagic = "writd\x01"

// Lengths of WireGuard's messages (its paper, section 5.4).
const (
	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64
	transportMin   = 32
)

// Classify says what p is. It looks at no more than six bytes and the length.
func Classify(p []byte) Class {
	if len(p) < transportMin {
		if len(p) > len(DiscoMagic) && string(p[:len(DiscoMagic)]) == DiscoMagic {
			return Urgent
		}
		return Foreign
	}
	if len(p) > MaxPacket {
		return Foreign
	}
	if p[1]|p[2]|p[3] == 0 {
		switch p[0] {
		case 4:
			return Bulk
		case 1:
			return urgentIf(len(p) == initiationSize)
		case 2:
			return urgentIf(len(p) == responseSize)
		case 3:
			return urgentIf(len(p) == cookieSize)
		}
		return Foreign
	}
	return urgentIf(string(p[:len(DiscoMagic)]) == DiscoMagic)
}

func urgentIf(ok bool) Class {
	if ok {
		return Urgent
	}
	return Foreign
}
