package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long events are gathered before one is told. A change of
	// network is a burst of a dozen messages within some 50 ms; 200 ms is a fifth of
	// the second in which traffic must go on by relay.
	settle = 200 * time.Millisecond

	// eventBuffer holds the messages that a change of all routes of a network of
	// 10,000 nodes makes. What does not fit is noticed, and everything looked at.
	eventBuffer = 4 << 20

	nftablesGroup = 7 // NFNLGRP_NFTABLES
)

// A trigger is what must be looked at.
type trigger uint32

const (
	lookOurs     trigger = 1 << iota // something in our table, on our interface, or a rule
	lookTable                        // the nftables table
	lookAddrs                        // addresses and links of the machine
	lookDefaults                     // its default routes
	lookAll      = lookOurs | lookTable | lookAddrs | lookDefaults
)

// Watch calls tell for changes until ctx ends, whose error it returns; or until
// the kernel cannot be asked. Tell is called from one goroutine; while it runs,
// what happens is gathered. Changes since New are told, too.
//
// Messages of the kernel only say where to look: what is told is a difference
// that is really there. So what Set itself does is not told, nor a lease that was
// renewed without a change, and a message that was lost does no harm.
func (r *Router) Watch(ctx context.Context, tell func(Event)) error {
	routes, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return err
	}
	defer routes.Close()
	sockets := []*nl.NetlinkSocket{routes}
	if !r.cfg.WithoutNftables {
		tables, err := subscribe(unix.NETLINK_NETFILTER, nftablesGroup)
		if err != nil {
			return err
		}
		defer tables.Close()
		sockets = append(sockets, tables)
	}

	var pending atomic.Uint32 // triggers not yet looked at
	wake := make(chan struct{}, 1)
	pull := func(t trigger) {
		if t == 0 {
			return
		}
		if t&lookOurs != 0 {
			r.stale.Store(true)
		}
		pending.Or(uint32(t))
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	pull(lookAll)
	r.watching.Store(true)
	defer r.watching.Store(false)

	group, ctx := errgroup.WithContext(ctx)
	for _, s := range sockets {
		group.Go(func() error { return r.receive(ctx, s, pull) })
	}
	group.Go(func() error {
		defer func() {
			for _, s := range sockets {
				s.Close()
			}
		}()
		seen := r.seen
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wake:
			}
			wait := time.NewTimer(settle)
			select {
			case <-ctx.Done():
				wait.Stop()
				return ctx.Err()
			case <-wait.C:
			}
			e, err := r.look(trigger(pending.Swap(0)), seen)
			if err != nil {
				return err
			}
			if e != (Event{}) {
				tell(e)
			}
		}
	})
	return group.Wait()
}

func subscribe(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to netlink: %w", err)
	}
	if err := s.SetReceiveBufferSize(eventBuffer, true); err != nil {
		s.Close()
		return nil, fmt.Errorf("subscribe to netlink: set buffer: %w", err)
	}
	return s, nil
}

// receive turns messages into triggers.
func (r *Router) receive(ctx context.Context, s *nl.NetlinkSocket, pull func(trigger)) error {
	for {
		msgs, from, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			pull(lookAll)
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, os.ErrClosed):
			return err
		case err != nil:
			return fmt.Errorf("receive from netlink: %w", err)
		}
		if from.Pid != nl.PidKernel {
			continue // another process may write here; only the kernel is believed
		}
		var t trigger
		for _, m := range msgs {
			t |= where(m, r.k.port)
		}
		pull(t)
	}
}

// where says where a message of the kernel points to. One that cannot be read
// points everywhere; one about a change of a route by our own port nowhere.
func where(m syscall.NetlinkMessage, own uint32) trigger {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return lookAddrs | lookOurs
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return lookAddrs | lookOurs
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return lookOurs
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if own != 0 && m.Header.Pid == own {
			return 0
		}
		return whereRoute(m.Data)
	}
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		return whereTable(m.Header.Type&0xff, m.Data)
	}
	return 0
}

func whereRoute(data []byte) trigger {
	if len(data) < unix.SizeofRtMsg {
		return lookAll
	}
	msg := nl.DeserializeRtMsg(data)
	table := uint32(msg.Table)
	number, there, ok := attribute(data[unix.SizeofRtMsg:], unix.RTA_TABLE)
	if !ok || there && len(number) != 4 {
		return lookAll
	}
	if there {
		table = binary.NativeEndian.Uint32(number)
	}
	switch {
	case table == Table:
		return lookOurs
	case table == unix.RT_TABLE_MAIN && msg.Dst_len == 0:
		return lookDefaults
	}
	return 0
}

// whereTable looks whether a message is about our table. Attribute 1 is the name
// of the table in all of them (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on).
func whereTable(kind uint16, data []byte) trigger {
	if kind == unix.NFT_MSG_NEWGEN {
		return 0
	}
	if len(data) < nl.SizeofNfgenmsg {
		return lookAll
	}
	if data[0] != unix.NFPROTO_INET {
		return 0
	}
	name, _, ok := attribute(data[nl.SizeofNfgenmsg:], unix.NFTA_TABLE_NAME)
	switch {
	case !ok:
		return lookAll
	case string(name) == TableName+"\x00":
		return lookTable
	}
	return 0
}

// attribute returns the value of the first netlink attribute of a type, and whether
// it is there. It is not ok where the attributes end in the middle of one. The
// padding after the last one may be missing.
func attribute(b []byte, of uint16) (value []byte, there, ok bool) {
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if length < unix.SizeofRtAttr || length > len(b) {
			return nil, false, false
		}
		if kind == of {
			return b[unix.SizeofRtAttr:length], true, true
		}
		b = b[min((length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
	return nil, false, true
}

// surface is what of the machine's network matters to paths.
type surface struct {
	addrs    map[surfaceAddr]bool
	defaults map[surfaceRoute]bool
}

// surfaceAddr is an address that can be sent from. A link-local IPv6 address is
// none: peers cannot be reached from it, and every new container brings one.
type surfaceAddr struct {
	link    int
	addr    netip.Addr
	flags   int  // those that say whether it can be used
	running bool // whether the interface is up and has a carrier
}

type surfaceRoute struct {
	family, link, metric int
	gateway              netip.Addr
}

// look compares what the triggers point to with what should be there, and with
// what was seen last, which it brings up to date.
func (r *Router) look(t trigger, seen *surface) (e Event, err error) {
	if t&lookAddrs != 0 {
		addrs, err := r.k.surfaceAddrs(r.cfg.Interface)
		if err != nil {
			return Event{}, err
		}
		if !maps.Equal(addrs, seen.addrs) {
			e.Network, seen.addrs = true, addrs
		}
	}
	// The kernel drops the routes of an interface that goes down without a message.
	if t&(lookDefaults|lookAddrs) != 0 {
		defaults, err := r.k.defaults()
		if err != nil {
			return Event{}, err
		}
		if !maps.Equal(defaults, seen.defaults) {
			e.Network, seen.defaults = true, defaults
		}
	}
	if t&(lookOurs|lookTable) != 0 {
		if e.Ours, err = r.drifted(t); err != nil {
			return Event{}, err
		}
	}
	return e, nil
}

// drifted reports whether Set would change something.
func (r *Router) drifted(t trigger) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.given {
		return false, nil
	}
	if t&lookTable != 0 && r.table != nil {
		// A transaction on our table that is followed by one of ours is mended.
		if now, err := generation(); err != nil || now != r.table.gen {
			return true, err
		}
	}
	if t&lookOurs == 0 {
		return false, nil
	}
	link, err := r.k.plain.LinkByName(r.cfg.Interface)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("find interface %s: %w", r.cfg.Interface, err)
	}
	return r.k.differs(link, r.state, r.off6)
}

// surfaceAddrs lists the addresses that paths can start from.
func (k *kernel) surfaceAddrs(except string) (map[surfaceAddr]bool, error) {
	links, err := dump(k.plain.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	running := make(map[int]bool, len(links))
	skip := -1
	for _, l := range links {
		a := l.Attrs()
		running[a.Index] = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
		if a.Name == except {
			skip = a.Index
		}
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return k.plain.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	const usable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	out := make(map[surfaceAddr]bool, len(addrs))
	for _, a := range addrs {
		addr := fromAddr(a).Addr()
		if a.LinkIndex == skip || addr.Is6() && addr.IsLinkLocalUnicast() || addr.IsLoopback() {
			continue
		}
		out[surfaceAddr{link: a.LinkIndex, addr: addr, flags: a.Flags & usable, running: running[a.LinkIndex]}] = true
	}
	return out, nil
}

// defaults lists the default routes of the main table.
func (k *kernel) defaults() (map[surfaceRoute]bool, error) {
	out := make(map[surfaceRoute]bool)
	for _, family := range k.families() {
		found, err := dump(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for _, f := range found {
			if fromIPNet(f.Dst, family).Bits() != 0 {
				continue
			}
			gateway, _ := netip.AddrFromSlice(f.Gw)
			out[surfaceRoute{family: family, link: f.LinkIndex, metric: f.Priority, gateway: gateway.Unmap()}] = true
		}
	}
	return out, nil
}
