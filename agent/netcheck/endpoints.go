package netcheck

import (
	"net/netip"
	"slices"

	"github.com/writmesh/writ/agent/disco"
)

// A Filter says which addresses are never told to peers.
type Filter struct {
	Skip     []string       // interfaces, by name: this node's own tunnels
	Mesh     []netip.Prefix // the mesh's addresses, which lead into the tunnel
	Loopback bool           // tells loopback addresses too: tests on one machine
}

// Local are the addresses of interfaces that are up, each with the port of the
// socket of its family; a port 0 means that there is no such socket. The best are
// first: those of virtual networks and link-local IPv4 stand last. It is what
// Start and Endpoints take.
func (f Filter) Local(interfaces []Interface, port4, port6 uint16) (out []netip.AddrPort) {
	var last []netip.AddrPort
	for _, i := range interfaces {
		if !i.Up || slices.Contains(f.Skip, i.Name) {
			continue
		}
		for _, a := range i.Addrs {
			port := port6
			if a = a.Unmap(); a.Is4() {
				port = port4
			}
			ap := netip.AddrPortFrom(a, port)
			switch {
			case !f.tells(ap):
			case isVirtual(i.Name), a.IsLinkLocalUnicast():
				last = append(last, ap)
			default:
				out = append(out, ap)
			}
		}
	}
	return unique(append(out, last...))
}

// Endpoints is what to tell peers: what the policy says, what servers saw, the
// node's own addresses; each once, of one kind, at most disco.MaxEndpoints, the
// best first. An own address that servers saw is one of an interface.
func (f Filter) Endpoints(r Report, local, static []netip.AddrPort) (out []disco.Endpoint) {
	seen := map[netip.AddrPort]bool{}
	add := func(kind disco.Kind, list []netip.AddrPort) {
		for _, a := range list {
			if a = unmap(a); len(out) < disco.MaxEndpoints && !seen[a] && f.tells(a) {
				seen[a] = true
				out = append(out, disco.Endpoint{Addr: a, Kind: kind})
			}
		}
	}
	isOwn := func(a netip.AddrPort) bool { return slices.Contains(local, a) }
	add(disco.Static, static)
	for _, list := range [][]netip.AddrPort{r.IPv4.Endpoints, r.IPv6.Endpoints} {
		for _, a := range list {
			kind := disco.Reflexive
			if isOwn(a) {
				kind = disco.Interface
			}
			add(kind, []netip.AddrPort{a})
		}
	}
	add(disco.Interface, local)
	return out
}

// tells reports whether an address may be told to peers: whether it could mean
// this node to another machine.
func (f Filter) tells(ap netip.AddrPort) bool {
	a := ap.Addr()
	switch {
	case !a.IsValid(), a.Zone() != "", ap.Port() == 0, a.IsUnspecified(), a.IsMulticast(),
		a.Is6() && a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case a.IsLoopback():
		return f.Loopback
	}
	return !slices.ContainsFunc(f.Mesh, func(p netip.Prefix) bool { return p.Contains(a) })
}

func unique(list []netip.AddrPort) (out []netip.AddrPort) {
	seen := map[netip.AddrPort]bool{}
	for _, a := range list {
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}
