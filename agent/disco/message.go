package disco

import "net/netip"

// A TxID pairs a pong with its ping. It is random.
type TxID [12]byte

// A Message is one of Ping, Pong and Endpoints.
type Message interface{ message() }

// A Ping asks for a pong on the path it came by, the reverse of it: from the
// same socket to the address that the ping came from, or by relay if it came by
// relay.
type Ping struct {
	Tx TxID
	// Proved says that the sender's own ping on this path was answered: the path
	// works both ways for it.
	Proved bool
	// Padding is how many bytes of zeros follow, so that a ping can be as long
	// as a data packet.
	Padding int
}

// A Pong answers a Ping.
type Pong struct {
	Tx TxID
	// Proved means what it means in Ping, for the sender of the pong.
	Proved bool
	// Src is where the ping came from, as its receiver saw it; the zero AddrPort
	// for a ping that came by relay.
	Src netip.AddrPort
}

// Endpoints says where the sender may be found. It travels by relay only.
type Endpoints struct {
	// Reply asks for the receiver's own Endpoints: the sender does not know them
	// or has reason to think that they changed.
	Reply bool
	// Mapping is the mapping behaviour of the sender's NAT, as far as it knows.
	Mapping Mapping
	List    []Endpoint // at most MaxEndpoints
}

// An Endpoint is an address at which a node may be found.
type Endpoint struct {
	Addr netip.AddrPort
	Kind Kind
}

// A Kind is how a node came to think that it may be found at an address.
type Kind byte

const (
	Interface Kind = 1 // an address of one of its interfaces
	Reflexive Kind = 2 // what a STUN server saw
	Static    Kind = 3 // written in the policy
)

func (k Kind) known() bool { return k >= Interface && k <= Static }

func (k Kind) String() string {
	switch k {
	case Interface:
		return "interface"
	case Reflexive:
		return "reflexive"
	case Static:
		return "static"
	}
	return "unknown"
}

// A Mapping is how a NAT chooses the public endpoint of an internal one
// (RFC 4787, section 4.1).
type Mapping byte

const (
	// MappingUnknown: not measured, or too few servers answered to tell.
	MappingUnknown Mapping = 0
	// MappingNone: no translation; the node has the address that servers see.
	MappingNone Mapping = 1
	// MappingEndpointIndependent: the same public endpoint towards everyone.
	MappingEndpointIndependent Mapping = 2
	// MappingEndpointDependent: another public endpoint for another destination;
	// address-dependent, or address-and-port-dependent.
	MappingEndpointDependent Mapping = 3
	// MappingBlocked: no server answered by UDP.
	MappingBlocked Mapping = 4
)

func (m Mapping) known() bool { return m <= MappingBlocked }

func (m Mapping) String() string {
	switch m {
	case MappingNone:
		return "no NAT"
	case MappingEndpointIndependent:
		return "endpoint-independent"
	case MappingEndpointDependent:
		return "endpoint-dependent"
	case MappingBlocked:
		return "UDP blocked"
	}
	return "unknown"
}

func (*Ping) message()      {}
func (*Pong) message()      {}
func (*Endpoints) message() {}
