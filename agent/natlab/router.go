package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// Between says where a router stands and what it does. The addresses of a family
// are needed on both sides for the router to forward that family.
type Between struct {
	Inner      *Network
	InnerAddrs []netip.Addr
	InnerLink  Link

	Outer      *Network
	OuterAddrs []netip.Addr
	OuterLink  Link

	// V4 and V6 say how it treats the families; nil lets everything pass as it
	// is.
	V4, V6 *NAT
}

// A Router forwards between an inner network, whose gateway it is, and an outer
// one.
type Router struct {
	// set at construction
	net          *Net
	name         string
	number       int
	inner, outer *Interface
	v4, v6       *table
}

// Router makes a router.
func (n *Net) Router(name string, b Between) *Router {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.Inner == b.Outer {
		panic("natlab: router " + name + " has one network on both sides")
	}
	r := &Router{net: n, name: name}
	r.number = n.register(name, r)
	if b.V4 != nil {
		r.v4 = newTable(*b.V4, n.stream(name+" v4"))
	}
	if b.V6 != nil {
		r.v6 = newTable(*b.V6, n.stream(name+" v6"))
	}
	r.inner = n.attach(r, b.Inner, b.InnerLink, b.InnerAddrs, func() {})
	r.outer = n.attach(r, b.Outer, b.OuterLink, b.OuterAddrs, r.flush)
	b.Inner.inner = append(b.Inner.inner, r)
	b.Outer.outer = append(b.Outer.outer, r)
	return r
}

// Name is what the router is called.
func (r *Router) Name() string { return r.name }

func (r *Router) index() int { return r.number }

// Inner is the interface on the inner network.
func (r *Router) Inner() *Interface { return r.inner }

// Outer is the interface on the outer network.
func (r *Router) Outer() *Interface { return r.outer }

// Reboot forgets every mapping.
func (r *Router) Reboot() {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	r.flush()
}

func (r *Router) flush() {
	if r.v4 != nil {
		r.v4.flush()
	}
	if r.v6 != nil {
		r.v6.flush()
	}
}

// table is how the router treats the family of addr; nil lets pass.
func (r *Router) table(addr netip.Addr) *table {
	if addr.Is4() {
		return r.v4
	}
	return r.v6
}

// maxHops is how many routers a packet may pass: the usual hop limit of hosts.
const maxHops = 64

func (r *Router) receive(p packet, in *Interface) {
	p.hops++
	if p.hops > maxHops {
		r.net.drop(r, p, HopLimit)
		return
	}
	var out *Interface
	var why Reason
	if in == r.inner {
		p, out, why = r.outward(p)
	} else {
		p, out, why = r.inward(p)
	}
	if why != "" {
		r.net.drop(r, p, why)
		return
	}
	if !out.up {
		r.net.drop(r, p, Down)
		return
	}
	out.transmit(p, false)
}

// outward takes a packet from the inner network.
func (r *Router) outward(p packet) (packet, *Interface, Reason) {
	t, public := r.table(p.dst.Addr()), r.outer.source(p.dst.Addr())
	switch {
	case !public.IsValid():
		return p, nil, NotForwarded
	case r.inner.has(p.dst.Addr()):
		return p, nil, NoSocket
	case t == nil:
		return p, r.outer, ""
	}
	hairpin := !t.Transparent && p.dst.Addr() == public
	if hairpin && !t.Hairpin {
		return p, nil, NoHairpin
	}
	src, fresh, why := t.outbound(time.Now(), p.src, p.dst, public)
	if why != "" {
		return p, nil, why
	}
	if fresh {
		p.note = fmt.Sprintf("new mapping of %s", p.src)
	}
	if !hairpin {
		p.src = src
		return p, r.outer, ""
	}
	dst, why := t.inbound(time.Now(), src, p.dst)
	if why != "" {
		return p, nil, why
	}
	p.src, p.dst = src, dst
	return p, r.inner, ""
}

// inward takes a packet from the outer network.
func (r *Router) inward(p packet) (packet, *Interface, Reason) {
	t := r.table(p.dst.Addr())
	own := r.outer.has(p.dst.Addr())
	switch {
	case own && (t == nil || t.Transparent):
		return p, nil, NoSocket
	case t == nil:
		return p, r.inner, ""
	case !own && !t.Transparent:
		return p, nil, NoRoute
	}
	dst, why := t.inbound(time.Now(), p.src, p.dst)
	if why != "" {
		return p, nil, why
	}
	p.dst = dst
	return p, r.inner, ""
}
