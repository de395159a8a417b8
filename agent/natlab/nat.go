package natlab

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// A table is the state of one NAT. It has no clock: the caller says what time it
// is, and that time never goes back.
type table struct {
	NAT
	timeout time.Duration // Timeout, or what zero means
	random  *rand.Rand

	byKey  map[mappingKey]*mapping
	byPort map[netip.AddrPort]*mapping // by public endpoint
	next   uint16                      // of SequentialPort: where the search begins; 0 before the first
	purge  int                         // how many mappings there may be before ended ones are looked for
}

// A mappingKey is what packets have in common that share a mapping: the internal
// endpoint and as much of the remote one as the mapping behaviour looks at.
type mappingKey struct{ internal, remote netip.AddrPort }

type mapping struct {
	key     mappingKey
	public  netip.AddrPort
	last    time.Time                    // of the newest packet outwards
	permits map[netip.AddrPort]time.Time // remotes, as filtering looks at them, and the newest packet to each
}

func newTable(cfg NAT, random *rand.Rand) *table {
	t := &table{NAT: cfg, timeout: cfg.Timeout, random: random}
	if t.timeout == 0 {
		t.timeout = DefaultTimeout
	}
	if t.Transparent {
		t.Mapping = EndpointIndependent
	}
	t.flush()
	return t
}

// flush forgets every mapping, as a NAT does that loses power.
func (t *table) flush() {
	t.byKey = make(map[mappingKey]*mapping)
	t.byPort = make(map[netip.AddrPort]*mapping)
	t.next, t.purge = 0, 64
}

// seenBy is as much of an endpoint as behaviour b looks at.
func seenBy(b Behaviour, remote netip.AddrPort) netip.AddrPort {
	switch b {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

// outbound translates the source of a packet to remote and lets remote answer.
// The address is the NAT's public one.
func (t *table) outbound(now time.Time, internal, remote netip.AddrPort, address netip.Addr) (public netip.AddrPort, fresh bool, why Reason) {
	if t.BlockUDP {
		return netip.AddrPort{}, false, UDPBlocked
	}
	key := mappingKey{internal, seenBy(t.Mapping, remote)}
	m := t.byKey[key]
	if m != nil && !t.live(m.last, now) {
		t.forget(m)
		m = nil
	}
	if m == nil {
		public, ok := t.allocate(now, internal, address)
		if !ok {
			return netip.AddrPort{}, false, NoFreePort
		}
		m = &mapping{key: key, public: public, permits: make(map[netip.AddrPort]time.Time)}
		t.byKey[key], t.byPort[public] = m, m
		fresh = true
	}
	m.last = now
	m.permits[seenBy(t.Filtering, remote)] = now
	return m.public, fresh, ""
}

// inbound finds the internal endpoint for a packet from remote to a public one.
func (t *table) inbound(now time.Time, remote, public netip.AddrPort) (internal netip.AddrPort, why Reason) {
	if t.BlockUDP {
		return netip.AddrPort{}, UDPBlocked
	}
	m := t.byPort[public]
	if m == nil {
		return netip.AddrPort{}, Unsolicited
	}
	if !t.live(m.last, now) {
		t.forget(m)
		return netip.AddrPort{}, Unsolicited
	}
	sent, ok := m.permits[seenBy(t.Filtering, remote)]
	if !ok || !t.live(sent, now) {
		return netip.AddrPort{}, Filtered
	}
	return m.key.internal, ""
}

func (t *table) live(last, now time.Time) bool { return now.Sub(last) < t.timeout }

func (t *table) forget(m *mapping) {
	delete(t.byKey, m.key)
	delete(t.byPort, m.public)
}

// allocate finds a public endpoint that no live mapping has.
func (t *table) allocate(now time.Time, internal netip.AddrPort, address netip.Addr) (netip.AddrPort, bool) {
	if len(t.byPort) >= t.purge {
		for _, m := range t.byPort {
			if !t.live(m.last, now) {
				t.forget(m)
			}
		}
		t.purge = 2*len(t.byPort) + 64
	}
	if t.Transparent {
		return internal, true
	}
	lowest, highest := 1024, 65535
	if internal.Port() < 1024 {
		lowest, highest = 1, 1023
	}
	start := int(internal.Port())
	switch {
	case t.Ports == RandomPort, t.Ports == PreservePort && t.taken(now, netip.AddrPortFrom(address, internal.Port())):
		start = lowest + t.random.IntN(highest-lowest+1)
	case t.Ports == SequentialPort && t.next != 0 && lowest <= int(t.next) && int(t.next) <= highest:
		start = int(t.next)
	case t.Ports == SequentialPort:
		start = lowest + t.random.IntN(highest-lowest+1)
	}
	for i := range highest - lowest + 1 {
		port := lowest + (start-lowest+i)%(highest-lowest+1)
		public := netip.AddrPortFrom(address, uint16(port))
		if t.taken(now, public) {
			continue
		}
		t.next = uint16(lowest + (port-lowest+1)%(highest-lowest+1))
		return public, true
	}
	return netip.AddrPort{}, false
}

// taken reports whether a live mapping has this public endpoint, and frees it
// from one that ended.
func (t *table) taken(now time.Time, public netip.AddrPort) bool {
	m := t.byPort[public]
	if m == nil {
		return false
	}
	if t.live(m.last, now) {
		return true
	}
	t.forget(m)
	return false
}
