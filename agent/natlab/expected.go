package natlab

// A Class says how two nodes come to talk.
type Class uint8

const (
	Relay Class = iota
	Direct
)

func (c Class) String() string {
	if c == Direct {
		return "direct"
	}
	return "relay"
}

// Expected says how nodes behind two NATs talk, once both have probed whatever
// address they know of the other: the one that a server saw, and those that
// probes came from. It is reasoned from RFC 4787 and knows of no path engine. No
// side guesses ports.
func Expected(a, b Kind) Class {
	switch {
	case a.UDPBlocked || b.UDPBlocked:
		return Relay
	case a.IPv6 && b.IPv6:
		return Direct // no translation; both firewalls open to where they have sent
	case works(a, b) || works(b, a):
		return Direct
	}
	return Relay
}

// works reports whether a path comes of x sending to y's advertised endpoint.
//
// If y's mapping is endpoint-independent, y answers from that same endpoint,
// which x has sent to: x's NAT lets the answer in, whatever it filters, and the
// path is found.
//
// If it is not, the answer comes from a new port of y's address. x's NAT lets it
// in unless it looks at ports. x then sends to the new port: by the same mapping,
// unless x's mapping looks at ports, in which case y sees a new port in its turn
// and answers. That ends when one of the two NATs keeps its mapping for another
// port of the same address, and never if neither does.
func works(x, y Kind) bool {
	return reach(x, y) && (y.Mapping == EndpointIndependent ||
		x.Filtering != AddressAndPortDependent &&
			!(x.Mapping == AddressAndPortDependent && y.Mapping == AddressAndPortDependent))
}

// reach reports whether what x sends to y's advertised endpoint gets in. By then
// y has sent to x's advertised endpoint.
//
// If y's mapping is endpoint-independent, it has sent that through the very
// mapping which x sends to. That is permission for x's address, and for the port
// that x sends from if x's mapping is endpoint-independent too: only then is it
// the advertised one.
//
// If y's mapping looks at the remote, its advertised endpoint is the mapping that
// it has towards the server, and through that it has sent to nobody else.
func reach(x, y Kind) bool {
	if y.Mapping != EndpointIndependent {
		return y.Filtering == EndpointIndependent
	}
	return y.Filtering != AddressAndPortDependent || x.Mapping == EndpointIndependent
}

// ExpectedBehind says how nodes behind two NATs talk that are both behind a
// third one. A node that has none of its own is on the network inside the third
// one, where the other node finds it at its own address. Otherwise both are known
// by what servers see, which is the third one's address: they can meet only if it
// hairpins, and then it stands between them once for each.
func ExpectedBehind(shared NAT, a, b Kind) Class {
	a.IPv6, b.IPv6 = false, false
	switch {
	case a.UDPBlocked || b.UDPBlocked:
		return Relay
	case len(a.Layers) == 0 || len(b.Layers) == 0:
		return Direct
	case !shared.Hairpin || shared.BlockUDP:
		return Relay
	}
	return Expected(a.behind(shared), b.behind(shared))
}

// behind is the kind that a NAT and another one outside it make together: the
// stricter of both.
//
// One combination is better than that: an inner NAT with endpoint-independent
// mapping and address-dependent filtering, and an outer one whose mapping depends
// on the remote and which filters nothing. The outer one lets everybody in to any
// of its mappings, and the inner one then lets in whoever has an address that the
// node wrote to, by whichever mapping of the outer one. Some pairs that the rule
// sends by relay then meet directly, and none the other way round. Nobody builds
// it on purpose, so the rule stays short.
func (k Kind) behind(outer NAT) Kind {
	k.Mapping = max(k.Mapping, outer.Mapping)
	k.Filtering = max(k.Filtering, outer.Filtering)
	k.UDPBlocked = k.UDPBlocked || outer.BlockUDP
	return k
}
