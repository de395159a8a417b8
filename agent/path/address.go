package path

import (
	"net/netip"

	"github.com/writmesh/writ/agent/disco"
)

// unmapped is a with an IPv4 address as such, not mapped into IPv6.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// thisNetwork is 0.0.0.0/8 (RFC 1122, section 3.2.1.3): no destination.
var thisNetwork = netip.PrefixFrom(netip.IPv4Unspecified(), 8)

// broadcast is the limited broadcast address.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// forbidden says why nothing is ever sent to a, which is unmapped; it is empty
// for an address that may be tried. Packets to the mesh's own prefixes would go
// into the tunnel that they are meant to carry; a link-local IPv6 address means
// nothing without the interface that its owner had in mind. Of this node's own
// endpoints only those of its interfaces are certain: a STUN server that lies may
// say that this node is at a peer's address. A ping to this node's reflexive
// endpoint is lost, or does not open.
func (e *Engine) forbidden(a netip.AddrPort) string {
	ip := a.Addr()
	switch {
	case !a.IsValid():
		return "not an address"
	case a.Port() == 0:
		return "port 0"
	case ip.IsUnspecified() || thisNetwork.Contains(ip):
		return "unspecified"
	case ip.IsMulticast():
		return "multicast"
	case ip == broadcast:
		return "broadcast"
	case ip.IsLoopback() && !e.cfg.Loopback:
		return "loopback"
	case ip.Is6() && ip.IsLinkLocalUnicast() || ip.Zone() != "":
		return "link-local"
	}
	for _, p := range e.self.Mesh {
		if p.Contains(ip) {
			return "inside the mesh"
		}
	}
	for _, own := range e.self.Endpoints {
		if own.Kind == disco.Interface && own.Addr == a {
			return "this node's own"
		}
	}
	return ""
}

// near reports whether a is an address of a private network, so that a path to
// it does not leave the site.
func near(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()
}
