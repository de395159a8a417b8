package natlab

// A Kind is what a node has between itself and the Internet.
type Kind struct {
	Name string
	// Mapping and Filtering are what it comes to as a whole. Without translation
	// the mapping is endpoint-independent.
	Mapping, Filtering Behaviour
	// UDPBlocked says that no UDP passes.
	UDPBlocked bool
	// IPv6 says that the node has IPv6 too, behind a firewall that drops what is
	// unsolicited.
	IPv6 bool
	// Layers are the routers, the one nearest to the node first.
	Layers []NAT
}

// WithIPv6 is the same kind at a site that has IPv6 too.
func (k Kind) WithIPv6() Kind {
	k.Name += "-ipv6"
	k.IPv6 = true
	return k
}

func (k Kind) String() string { return k.Name }

// one is a kind made of one router that translates.
func one(name string, mapping, filtering Behaviour, ports PortChoice) Kind {
	return Kind{
		Name: name, Mapping: mapping, Filtering: filtering,
		Layers: []NAT{{Mapping: mapping, Filtering: filtering, Ports: ports, Hairpin: true}},
	}
}

// homeRouter is what most homes have, Linux's masquerade among it as long as
// no two of its hosts use one port.
var homeRouter = NAT{Filtering: AddressAndPortDependent, Hairpin: true}

// Kinds are the NATs that a matrix of pairs is made of: no NAT, a firewall, every
// mapping with every filtering, and what stands before and behind those in the
// field. Two letters name a behaviour: ei endpoint-independent, ad
// address-dependent, apd address-and-port-dependent; mapping comes first. NATs
// whose mapping depends on the remote choose ports at random, so that nobody hits
// one by luck.
var Kinds = []Kind{
	{Name: "open"},
	{
		Name: "firewall", Filtering: AddressAndPortDependent,
		Layers: []NAT{{Transparent: true, Filtering: AddressAndPortDependent}},
	},
	one("ei-ei", EndpointIndependent, EndpointIndependent, SequentialPort),
	one("ei-ad", EndpointIndependent, AddressDependent, RandomPort),
	{
		Name: "home", Filtering: AddressAndPortDependent,
		Layers: []NAT{homeRouter},
	},
	one("ad-ei", AddressDependent, EndpointIndependent, RandomPort),
	one("ad-ad", AddressDependent, AddressDependent, RandomPort),
	one("ad-apd", AddressDependent, AddressAndPortDependent, RandomPort),
	one("apd-ei", AddressAndPortDependent, EndpointIndependent, RandomPort),
	one("apd-ad", AddressAndPortDependent, AddressDependent, RandomPort),
	one("apd-apd", AddressAndPortDependent, AddressAndPortDependent, RandomPort),
	{
		Name: "carrier", Filtering: AddressAndPortDependent,
		Layers: []NAT{homeRouter, {Filtering: AddressAndPortDependent, Ports: RandomPort, Hairpin: true}},
	},
	{
		Name: "carrier-apd", Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent,
		Layers: []NAT{homeRouter, {
			Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent, Ports: RandomPort, Hairpin: true,
		}},
	},
	{
		Name: "blocked", Filtering: AddressAndPortDependent, UDPBlocked: true,
		Layers: []NAT{{Filtering: AddressAndPortDependent, BlockUDP: true}},
	},
}

// KindNamed returns the kind of that name.
func KindNamed(name string) Kind {
	for _, k := range Kinds {
		if k.Name == name {
			return k
		}
	}
	panic("natlab: no kind is named " + name)
}
