package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setLink brings the interface up with its MTU and addresses. It reports whether
// it changed anything, and whether IPv6 is off for the interface.
func (k *kernel) setLink(link netlink.Link, s State) (changed, off6 bool, err error) {
	name, attrs := link.Attrs().Name, link.Attrs()
	up := attrs.Flags&net.FlagUp != 0
	if s.MTU != 0 && attrs.MTU != s.MTU {
		if err := k.plain.LinkSetMTU(link, s.MTU); err != nil {
			return false, false, fmt.Errorf("set MTU %d of interface %s: %w", s.MTU, name, err)
		}
		changed = true
	}
	if !up {
		// No address of the kernel's own making: it would send router solicitations
		// and multicast reports into the mesh. A kernel without IPv6 makes none.
		if err := k.plain.LinkSetIP6AddrGenMode(link, nl6AddrGenNone); err != nil && !switchedOff(err) && !errors.Is(err, unix.EINVAL) {
			return changed, false, fmt.Errorf("switch off automatic addresses of interface %s: %w", name, err)
		}
		if err := k.plain.LinkSetUp(link); err != nil {
			return changed, false, fmt.Errorf("bring interface %s up: %w", name, err)
		}
	}
	of, off6, err := k.setAddresses(link, s.Addresses)
	return changed || !up || of, off6, err
}

// nl6AddrGenNone is IN6_ADDR_GEN_MODE_NONE.
const nl6AddrGenNone = 1

// setAddresses makes the interface's addresses those wanted. Link-local IPv6
// addresses are the kernel's and stay.
func (k *kernel) setAddresses(link netlink.Link, want []netip.Addr) (changed, off6 bool, err error) {
	name := link.Attrs().Name
	have, err := dump(func() ([]netlink.Addr, error) { return k.plain.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return changed, false, fmt.Errorf("list addresses of interface %s: %w", name, err)
	}
	there := make(map[netip.Addr]bool)
	for _, h := range have {
		p := fromAddr(h)
		if p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
			continue
		}
		if h.Peer == nil && p.IsSingleIP() && slices.Contains(want, p.Addr()) {
			there[p.Addr()] = true
			continue
		}
		// EADDRNOTAVAIL: it went by itself.
		if err := k.plain.AddrDel(link, &h); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return changed, false, fmt.Errorf("remove address %s from interface %s: %w", p, name, err)
		}
		changed = true
	}
	for _, a := range want {
		if there[a] {
			continue
		}
		// No duplicate address detection, for nobody else can have it; and no route
		// in the main table, for ours are in Table.
		add := &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
		err := k.plain.AddrAdd(link, add)
		switch {
		case a.Is6() && err != nil && switchedOff(err):
			off6 = true
		case err != nil && !errors.Is(err, unix.EEXIST):
			return changed, off6, fmt.Errorf("add address %s to interface %s: %w", a, name, err)
		default:
			changed = true
		}
	}
	return changed, off6, nil
}

// fromAddr reads an address with the length of its subnet.
func fromAddr(a netlink.Addr) netip.Prefix {
	addr, _ := netip.AddrFromSlice(a.IP)
	ones, _ := a.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// otherAddresses lists the addresses of all interfaces but one.
func (k *kernel) otherAddresses(except string) ([]linkAddr, error) {
	links, err := dump(k.plain.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return k.plain.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []linkAddr
	for _, a := range addrs {
		if name := names[a.LinkIndex]; name != except && name != "" {
			out = append(out, linkAddr{link: name, prefix: fromAddr(a)})
		}
	}
	return out, nil
}

// differs reports whether anything of ours on the interface, in the table or among
// the rules is not as the state says.
func (k *kernel) differs(link netlink.Link, s State, off6 bool) (bool, error) {
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 || s.MTU != 0 && attrs.MTU != s.MTU {
		return true, nil
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return k.plain.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return false, fmt.Errorf("list addresses of interface %s: %w", attrs.Name, err)
	}
	there := 0
	for _, a := range addrs {
		p := fromAddr(a)
		switch {
		case p.Addr().IsLinkLocalUnicast() && p.Addr().Is6():
		case p.IsSingleIP() && slices.Contains(s.Addresses, p.Addr()):
			there++
		default:
			return true, nil
		}
	}
	want := len(s.Addresses)
	if off6 && s.own(false).IsValid() {
		want--
	}
	if there != want {
		return true, nil
	}
	for _, family := range k.families() {
		rules, err := k.rules(family)
		if err != nil {
			return false, err
		}
		exact, ours := 0, 0
		for _, rule := range rules {
			if isExact(rule) {
				exact++
			}
			if isOurs(rule) {
				ours++
			}
		}
		if exact != 1 || ours != 1 {
			return true, nil
		}
	}
	have, _, err := k.routes()
	if err != nil {
		return false, err
	}
	remove, add := routeChanges(s.routesWith(attrs.Index, off6), have)
	return len(remove)+len(add) > 0, nil
}
