package disco

import "errors"

// A Reason is why a packet is dropped. It is an error; those of Open are a
// Reason or wrap one. The list is closed, for counters.
type Reason byte

const (
	NotDisco  Reason = 1 // does not begin with the magic
	Short     Reason = 2 // no room for an envelope
	Long      Reason = 3 // above MaxPacket
	Tag       Reason = 4 // of another pair or direction
	Forged    Reason = 5 // the seal does not open
	Replay    Reason = 6 // seen already, or too old to tell
	Type      Reason = 7 // an unknown type of message
	Malformed Reason = 8 // authentic, and not a message
)

// Reasons lists every Reason.
func Reasons() []Reason {
	return []Reason{NotDisco, Short, Long, Tag, Forged, Replay, Type, Malformed}
}

func (r Reason) String() string {
	switch r {
	case NotDisco:
		return "not disco"
	case Short:
		return "short"
	case Long:
		return "long"
	case Tag:
		return "tag"
	case Forged:
		return "forged"
	case Replay:
		return "replay"
	case Type:
		return "type"
	case Malformed:
		return "malformed"
	}
	return "unknown"
}

func (r Reason) Error() string { return "disco packet: " + r.String() }

// ReasonOf is the reason in an error of Open; zero if there is none.
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[Reason](err); ok {
		return r
	}
	return 0
}
