package natlab

import (
	"net/netip"
	"slices"
)

// A Network is a segment: whoever is attached reaches everybody else on it.
type Network struct {
	// set at construction
	net      *Net
	name     string
	prefixes []netip.Prefix

	// guarded by net.mu
	holders map[netip.Addr]*Interface
	inner   []*Router // those for which this network is the inner one: its gateways
	outer   []*Router // those for which it is the outer one
}

// Network makes a network with the prefixes its addresses lie in.
func (n *Net) Network(name string, prefixes ...netip.Prefix) *Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.networks[name] != nil {
		panic("natlab: two networks are named " + name)
	}
	w := &Network{net: n, name: name, prefixes: slices.Clone(prefixes), holders: make(map[netip.Addr]*Interface)}
	n.networks[name] = w
	return w
}

// Name is what the network is called.
func (w *Network) Name() string { return w.name }

// match returns the length of the longest of the network's prefixes that holds
// addr, or -1.
func (w *Network) match(addr netip.Addr) int {
	longest := -1
	for _, p := range w.prefixes {
		if p.Contains(addr) {
			longest = max(longest, p.Bits())
		}
	}
	return longest
}

// gateway returns the inner interface of the router that takes what goes
// elsewhere, in the family of addr; nil if there is none. The Net is locked.
func (w *Network) gateway(addr netip.Addr) *Interface {
	for _, r := range w.inner {
		if r.inner.source(addr).IsValid() {
			return r.inner
		}
	}
	return nil
}

// deepest is how many routers there may be between a network and a prefix that
// it knows the way to. Real ones have a handful; a topology that goes in a circle
// has no end.
const deepest = 16

// behind returns the outer interface of the router behind which addr lies
// without being translated; nil if there is none. The Net is locked.
func (w *Network) behind(addr netip.Addr, depth int) *Interface {
	for _, r := range w.outer {
		t := r.table(addr)
		if t != nil && !t.Transparent || depth == deepest {
			continue
		}
		if r.inner.network.match(addr) >= 0 || r.inner.network.behind(addr, depth+1) != nil {
			return r.outer
		}
	}
	return nil
}

// carry hands a packet that left one interface to the one that it is for. The
// Net is locked.
func (w *Network) carry(p packet, from *Interface) {
	n, dst := w.net, p.dst.Addr()
	to := w.holders[dst]
	if to == nil {
		to = w.behind(dst, 0)
	}
	if to == nil && w.match(dst) < 0 {
		to = w.gateway(dst)
	}
	switch {
	case to == nil || to == from:
		n.drop(from.node, p, NoRoute)
	case from.blocked || to.blocked || n.cuts[[2]Node{from.node, to.node}]:
		n.drop(from.node, p, Blocked)
	case !from.up || !to.up:
		n.drop(from.node, p, Down)
	default:
		p.last = from.node.Name()
		to.transmit(p, true)
	}
}
