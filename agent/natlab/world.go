package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// A World is a Net in which two nodes are to meet.
type World struct {
	*Net
	A, B Site
	// Servers are two hosts without a NAT, at two addresses, as it takes to tell
	// mapping behaviours apart. They have IPv6 too.
	Servers [2]*Host
	// Shared is the router of SameNAT and SameLAN nearest to the Internet; nil if
	// there is none.
	Shared *Router
}

// A Site is one node's place in a World.
type Site struct {
	Host      *Host
	Interface *Interface
	// LAN is the network that Interface is on.
	LAN *Network
	// Routers are the site's own, the one nearest to the host first.
	Routers []*Router
}

// Edge is the site's outermost node: what Cut takes to part two sites.
func (s Site) Edge() Node {
	if len(s.Routers) > 0 {
		return s.Routers[len(s.Routers)-1]
	}
	return s.Host
}

// Links of a World: a site is some ten milliseconds from the core, as homes are,
// and its LAN is fast.
var (
	lanLink    = Link{Delay: 500 * time.Microsecond}
	accessLink = Link{Delay: 10 * time.Millisecond}
	serverLink = Link{Delay: 5 * time.Millisecond}
)

// Pair builds a world in which each site has a network of its own on the
// Internet. Both use the same private prefix and, in it, the same address, as
// happens when one vendor made both routers.
func Pair(seed uint64, a, b Kind) *World {
	w := newWorld(seed)
	w.A = w.site("a", 1, w.Internet(), a)
	w.B = w.site("b", 2, w.Internet(), b)
	return w
}

// SameNAT builds a world in which both sites are behind one more NAT, as
// customers of one carrier are.
func SameNAT(seed uint64, shared NAT, a, b Kind) *World {
	w := newWorld(seed)
	carrier := w.Network("carrier", netip.MustParsePrefix("100.64.0.0/10"))
	w.Shared = w.Router("carrier", Between{
		Inner: carrier, InnerAddrs: []netip.Addr{netip.MustParseAddr("100.64.0.1")},
		Outer: w.Internet(), OuterAddrs: []netip.Addr{netip.MustParseAddr("198.18.0.1")}, OuterLink: accessLink,
		V4: &shared,
	})
	a.IPv6, b.IPv6 = false, false
	w.A = w.site("a", 1, carrier, a)
	w.B = w.site("b", 2, carrier, b)
	return w
}

// SameLAN builds a world in which both nodes are on one LAN. The kind's routers
// are those of A.
func SameLAN(seed uint64, kind Kind) *World {
	w := newWorld(seed)
	w.A = w.site("a", 1, w.Internet(), kind)
	w.B = Site{Host: w.Host("b"), LAN: w.A.LAN}
	var addrs []netip.Addr
	for _, a := range w.A.Interface.Addrs() {
		addrs = append(addrs, a.Next())
	}
	link := lanLink
	if len(w.A.Routers) == 0 {
		link = accessLink
	} else {
		w.Shared = w.A.Routers[len(w.A.Routers)-1]
	}
	w.B.Interface = w.B.Host.Attach(w.B.LAN, link, addrs...)
	return w
}

func newWorld(seed uint64) *World {
	w := &World{Net: New(seed)}
	for i := range w.Servers {
		w.Servers[i] = w.Host(fmt.Sprintf("server%d", i+1))
		w.Servers[i].Attach(w.Internet(), serverLink,
			netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}),
			netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", i+1)))
	}
	return w
}

// site builds a site of a kind, the outermost router first.
func (w *World) site(name string, number byte, outer *Network, k Kind) Site {
	s := Site{Routers: make([]*Router, len(k.Layers))}
	public := netip.AddrFrom4([4]byte{203, 0, 113, number * 16})
	if outer != w.Internet() {
		public = netip.AddrFrom4([4]byte{100, 64, number, 1})
	}
	addrs := []netip.Addr{public}
	prefix6 := netip.MustParsePrefix(fmt.Sprintf("2001:db8:100%d::/48", number))
	if k.IPv6 {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%d", 0xff00, number)))
	}
	link := accessLink
	for i := len(k.Layers) - 1; i >= 0; i-- {
		routerName := name + "-router"
		if i > 0 {
			routerName = fmt.Sprintf("%s-carrier%d", name, i)
		}
		var inside, inner netip.Addr
		var prefixes []netip.Prefix
		switch {
		case k.Layers[i].Transparent:
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, number * 16}), 28)
			prefixes = append(prefixes, prefix)
			inside = prefix.Addr().Next()
		case i > 0:
			prefixes = append(prefixes, netip.MustParsePrefix("100.64.0.0/10"))
			inside = netip.AddrFrom4([4]byte{100, 64, byte(128 + i), 1})
		default:
			prefixes = append(prefixes, netip.MustParsePrefix("192.168.1.0/24"))
			inside = netip.AddrFrom4([4]byte{192, 168, 1, 1})
		}
		inner = inside.Next()
		b := Between{
			InnerAddrs: []netip.Addr{inside}, InnerLink: lanLink,
			Outer: outer, OuterAddrs: addrs, OuterLink: link,
			V4: &k.Layers[i],
		}
		addrs = []netip.Addr{inner}
		if k.IPv6 {
			// Each layer has a /64 of its own; the innermost one is the firewall.
			at := prefix6.Addr().As16()
			at[7] = byte(i)
			p := netip.PrefixFrom(netip.AddrFrom16(at), 64)
			prefixes = append(prefixes, p)
			b.InnerAddrs = append(b.InnerAddrs, p.Addr().Next())
			addrs = append(addrs, p.Addr().Next().Next())
			if i == 0 {
				b.V6 = &NAT{Transparent: true, Filtering: AddressAndPortDependent, BlockUDP: k.UDPBlocked}
			}
		}
		b.Inner = w.Network(routerName+"-lan", prefixes...)
		s.Routers[i] = w.Router(routerName, b)
		outer, link = b.Inner, lanLink
	}
	s.Host, s.LAN = w.Host(name), outer
	s.Interface = s.Host.Attach(outer, link, addrs...)
	return s
}
