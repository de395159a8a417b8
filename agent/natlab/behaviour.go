package natlab

import "time"

// A Behaviour is how much a NAT looks at the remote endpoint when it chooses a
// mapping (RFC 4787, section 4.1) or judges a packet from outside (section 5).
// They are in order: each looks at more than the one before.
type Behaviour uint8

const (
	// EndpointIndependent: at nothing.
	EndpointIndependent Behaviour = iota
	// AddressDependent: at the address.
	AddressDependent
	// AddressAndPortDependent: at address and port.
	AddressAndPortDependent
)

// Behaviours lists them in order.
var Behaviours = []Behaviour{EndpointIndependent, AddressDependent, AddressAndPortDependent}

func (b Behaviour) String() string {
	switch b {
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressDependent:
		return "address-dependent"
	case AddressAndPortDependent:
		return "address-and-port-dependent"
	}
	return "unknown"
}

// A PortChoice is how a NAT chooses the public port of a new mapping (RFC 4787,
// section 4.2). None of them gives one port to two mappings: port overloading
// is what REQ-3 forbids. Ports below 1024 are mapped to ports below 1024, others
// to others (REQ-3a).
type PortChoice uint8

const (
	// PreservePort takes the internal port, and a random one if it is taken.
	PreservePort PortChoice = iota
	// SequentialPort takes the next free one after the last.
	SequentialPort
	// RandomPort takes any free one.
	RandomPort
)

func (c PortChoice) String() string {
	switch c {
	case PreservePort:
		return "port-preserving"
	case SequentialPort:
		return "sequential"
	case RandomPort:
		return "random"
	}
	return "unknown"
}

// DefaultTimeout is what RFC 4787 recommends for mappings at the least (REQ-5c).
const DefaultTimeout = 5 * time.Minute

// A NAT says how a router treats one address family. The zero value translates
// with endpoint-independent mapping and filtering, preserves ports, and does not
// hairpin. A nil *NAT translates nothing and lets everything pass.
//
// Each mapping carries its own permissions: what came back in through one does
// not open another of the same internal endpoint. RFC 4787, section 5, speaks of
// the internal endpoint only, which is the same thing while mapping is
// endpoint-independent. Where it is not, NATs in the field keep sessions, and a
// packet to a port whose session was with somebody else finds none.
type NAT struct {
	// Transparent leaves addresses and ports as they are: a stateful firewall.
	// Mapping, Ports and Hairpin then mean nothing.
	Transparent bool
	Mapping     Behaviour
	Filtering   Behaviour
	Ports       PortChoice
	// Hairpin sends packets from inside to a public endpoint of the NAT back
	// inside, with the sender's public endpoint as their source (REQ-9a).
	Hairpin bool
	// Timeout is after what time without a packet outwards a mapping ends, and a
	// remote's permission to use it. Packets inwards prolong neither: that is
	// what REQ-6 asks at the least. Zero means DefaultTimeout.
	Timeout time.Duration
	// BlockUDP drops all UDP, both ways.
	BlockUDP bool
}
