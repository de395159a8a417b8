package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// An Interface joins a node to a network.
type Interface struct {
	// set at construction
	net     *Net
	node    Node
	network *Network // nil for what a host sends to itself
	index   int

	// guarded by net.mu
	addrs       []netip.Addr
	link        Link
	in, out     direction
	up, blocked bool
	changed     func() // told of every change, under net.mu
}

// attach makes an interface. The Net is locked.
func (n *Net) attach(at Node, w *Network, link Link, addrs []netip.Addr, changed func()) *Interface {
	n.interfaces++
	i := &Interface{net: n, node: at, network: w, index: n.interfaces, link: link, up: true, changed: changed}
	name := at.Name()
	if w != nil {
		name += " on " + w.name
	}
	i.in.random, i.out.random = n.stream(name+" inwards"), n.stream(name+" outwards")
	i.setAddrs(addrs)
	return i
}

// setAddrs moves the interface to other addresses. The Net is locked.
func (i *Interface) setAddrs(addrs []netip.Addr) {
	i.release()
	i.addrs = slices.Clone(addrs)
	if i.network == nil {
		return
	}
	for _, a := range addrs {
		if i.network.match(a) < 0 || a.Is4In6() {
			panic(fmt.Sprintf("natlab: %s of %s is no address of network %s", a, i.node.Name(), i.network.name))
		}
		if other := i.network.holders[a]; other != nil {
			panic(fmt.Sprintf("natlab: both %s and %s have %s on network %s", other.node.Name(), i.node.Name(), a, i.network.name))
		}
		i.network.holders[a] = i
	}
}

func (i *Interface) release() {
	for _, a := range i.addrs {
		if i.network != nil && i.network.holders[a] == i {
			delete(i.network.holders, a)
		}
	}
}

// source is the interface's address of the family of dst; the zero Addr if it
// has none. The Net is locked.
func (i *Interface) source(dst netip.Addr) netip.Addr {
	for _, a := range i.addrs {
		if a.Is4() == dst.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// Addrs returns the addresses that the interface has.
func (i *Interface) Addrs() []netip.Addr {
	i.net.mu.Lock()
	defer i.net.mu.Unlock()
	return slices.Clone(i.addrs)
}

// SetAddrs gives the interface other addresses, as when a lease changes. What is
// under way to the old ones ends. A router whose outer address changes forgets
// its mappings.
func (i *Interface) SetAddrs(addrs ...netip.Addr) {
	i.net.mu.Lock()
	defer i.net.mu.Unlock()
	i.setAddrs(addrs)
	i.changed()
}

// SetLink changes the link, for packets that enter it from now on.
func (i *Interface) SetLink(link Link) {
	i.net.mu.Lock()
	defer i.net.mu.Unlock()
	i.link = link
}

// SetUp takes an interface down, or up again. A host sends nothing by one that
// is down, and knows it.
func (i *Interface) SetUp(up bool) {
	i.net.mu.Lock()
	defer i.net.mu.Unlock()
	i.up = up
	i.changed()
}

// SetBlocked lets the link drop every packet, both ways. Nobody is told.
func (i *Interface) SetBlocked(blocked bool) {
	i.net.mu.Lock()
	defer i.net.mu.Unlock()
	i.blocked = blocked
}

// transmit sends a packet through the interface's link. The Net is locked.
func (i *Interface) transmit(p packet, inward bool) {
	if i.net.closed {
		return
	}
	d := &i.out
	if inward {
		d = &i.in
	}
	at, why := d.pass(i.link, time.Now(), p.size())
	if why != "" {
		i.net.drop(i.node, p, why)
		return
	}
	i.net.schedule(event{at: at, of: i, inward: inward, seq: d.seq, packet: p})
}

// deliver gives the node a packet that came through the link. The Net is locked.
func (i *Interface) deliver(p packet) {
	switch {
	case i.blocked:
		i.net.drop(i.node, p, Blocked)
	case !i.up:
		i.net.drop(i.node, p, Down)
	default:
		i.net.write(entry{from: p.last, to: i.node.Name(), note: p.note}, i.node, p)
		p.note = ""
		i.node.receive(p, i)
	}
}

// has reports whether addr is one of the interface's. The Net is locked.
func (i *Interface) has(addr netip.Addr) bool { return slices.Contains(i.addrs, addr) }
