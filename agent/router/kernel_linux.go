package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel speaks rtnetlink.
type kernel struct {
	plain  *netlink.Handle
	strict *netlink.Handle // dumps of routes that the kernel narrows to one table
	no6    bool            // the kernel runs without IPv6

	// changes is the socket by which routes are changed, and port its address: the
	// kernel names it in the messages about these changes.
	changes map[int]*nl.SocketHandle
	port    uint32
}

// families returns those that the kernel has.
func (k *kernel) families() []int {
	if k.no6 {
		return []int{unix.AF_INET}
	}
	return []int{unix.AF_INET, unix.AF_INET6}
}

func openKernel() (*kernel, error) {
	plain, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	strict, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// Without it (kernels before 4.20) every dump has all tables in it and is
	// narrowed here: slower, and the same result.
	_ = strict.SetStrictCheck(true)
	k := &kernel{plain: plain, strict: strict}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err == nil {
		k.changes = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
		k.port, err = socket.GetPid()
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	_, err = plain.RuleList(unix.AF_INET6)
	k.no6 = noFamily(err)
	return k, nil
}

func (k *kernel) close() {
	k.plain.Close()
	k.strict.Close()
	for _, s := range k.changes {
		s.Close()
	}
}

// dumpTries is how often a dump is asked for again that the kernel says was
// disturbed by a change. A machine whose routes change at each of these is one
// where the last answer is as good as any.
const dumpTries = 5

// dump runs a dump again while the kernel says that it is inconsistent.
func dump[T any](ask func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = ask()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, nil
}

// noFamily reports whether the kernel was built or started without a family.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// switchedOff reports whether IPv6 is off for an interface (disable_ipv6).
func switchedOff(err error) bool {
	return errors.Is(err, unix.EACCES) || noFamily(err)
}

// routes reads the table: the routes of ours, and the others as text.
func (k *kernel) routes() (map[route]bool, []string, error) {
	ours := make(map[route]bool)
	var foreign []string
	for _, family := range k.families() {
		found, err := dump(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(family, &netlink.Route{Table: Table}, netlink.RT_FILTER_TABLE)
		})
		// A table that was never used is not there (ENOENT under strict checking).
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list routes of table %d: %w", Table, err)
		}
		for _, f := range found {
			if f.Protocol != Protocol {
				foreign = append(foreign, describe(f))
				continue
			}
			ours[fromKernel(f, family)] = true
		}
	}
	return ours, foreign, nil
}

// fromKernel reads a route of ours.
func fromKernel(f netlink.Route, family int) route {
	r := route{kind: otherKind, metric: f.Priority, link: f.LinkIndex}
	r.dst = fromIPNet(f.Dst, family)
	r.src, _ = netip.AddrFromSlice(f.Src)
	r.src = r.src.Unmap()
	switch {
	case f.Type == unix.RTN_UNREACHABLE:
		r.kind, r.link = unreachable, 0 // IPv6 says that it is lo's
	case f.Type == unix.RTN_UNICAST && f.Gw == nil && len(f.MultiPath) == 0 && f.Tos == 0:
		r.kind = device
	}
	return r
}

// fromIPNet reads a destination; nil is the default route.
func fromIPNet(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == unix.AF_INET {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	if family == unix.AF_INET {
		a = a.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// describe tells people of a route that is not ours.
func describe(f netlink.Route) string {
	dst := "default"
	if f.Dst != nil {
		dst = f.Dst.String()
	}
	return fmt.Sprintf("%s proto %d metric %d", dst, f.Protocol, f.Priority)
}

// changeRoute asks for one change of a route of ours.
func (k *kernel) changeRoute(kind uint16, flags uint16, r route) error {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: kind, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags},
		Sockets:  k.changes,
	}
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Dst_len: uint8(r.dst.Bits()), Protocol: Protocol}}
	if r.dst.Addr().Is4() {
		msg.Family = unix.AF_INET
	}
	switch {
	case kind == unix.RTM_DELROUTE:
		msg.Scope = unix.RT_SCOPE_NOWHERE // of any scope
	case r.kind == device && r.dst.Addr().Is4():
		msg.Scope = unix.RT_SCOPE_LINK
	}
	switch r.kind {
	case unreachable:
		msg.Type = unix.RTN_UNREACHABLE
	case device:
		msg.Type = unix.RTN_UNICAST
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(Table)))
	req.AddData(nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.metric))))
	if r.link != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(r.link))))
	}
	if r.src.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, r.src.AsSlice()))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (k *kernel) addRoute(r route) error {
	err := k.changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add %s route %s to table %d: a route that is not ours is in its place", r.kind, r.dst, Table)
	}
	return fmt.Errorf("add %s route %s to table %d: %w", r.kind, r.dst, Table, err)
}

func (k *kernel) removeRoute(r route) error {
	// ESRCH: it went by itself meanwhile, with its interface or its source.
	if err := k.changeRoute(unix.RTM_DELROUTE, 0, r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove %s route %s from table %d: %w", r.kind, r.dst, Table, err)
	}
	return nil
}

// ourRule is the one rule of a family.
func ourRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = family
	rule.Priority = Priority
	rule.Table = Table
	rule.Protocol = Protocol
	return rule
}

// isOurs reports whether we made a rule, now or in another version.
func isOurs(rule netlink.Rule) bool {
	return rule.Protocol == Protocol && (rule.Priority == Priority || rule.Table == Table)
}

// isExact reports whether a rule is what ourRule says.
func isExact(rule netlink.Rule) bool {
	return isOurs(rule) && rule.Priority == Priority && rule.Table == Table && rule.Src == nil && rule.Dst == nil &&
		rule.Mark == 0 && rule.Tos == 0 && rule.IifName == "" && rule.OifName == "" && !rule.Invert && rule.Goto < 0 &&
		rule.SuppressPrefixlen < 0 && rule.SuppressIfgroup < 0 && rule.UIDRange == nil && rule.IPProto == 0 &&
		rule.Dport == nil && rule.Sport == nil && rule.TunID == 0 && rule.Flow <= 0
}

// setRules makes ours the one rule of each family, and returns those of others
// that are in its way, as text.
func (k *kernel) setRules() ([]string, error) {
	var foreign []string
	for _, family := range k.families() {
		rules, err := k.rules(family)
		if err != nil {
			return nil, err
		}
		there := false
		for _, rule := range rules {
			switch {
			case isExact(rule) && !there:
				there = true
			case isOurs(rule):
				if err := k.removeRule(rule); err != nil {
					return nil, err
				}
			case rule.Priority == Priority || rule.Table == Table:
				foreign = append(foreign, rule.String())
			}
		}
		if there {
			continue
		}
		if err := k.plain.RuleAdd(ourRule(family)); err != nil {
			return nil, fmt.Errorf("add rule to table %d: %w", Table, err)
		}
	}
	return foreign, nil
}

// rules lists the rules of a family.
func (k *kernel) rules(family int) ([]netlink.Rule, error) {
	rules, err := dump(func() ([]netlink.Rule, error) { return k.plain.RuleList(family) })
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return rules, nil
}

func (k *kernel) removeRule(rule netlink.Rule) error {
	if err := k.plain.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove rule at priority %d: %w", rule.Priority, err)
	}
	return nil
}

// removeRules removes every rule of ours.
func (k *kernel) removeRules() error {
	var errs []error
	for _, family := range k.families() {
		rules, err := k.rules(family)
		errs = append(errs, err)
		for _, rule := range rules {
			if isOurs(rule) {
				errs = append(errs, k.removeRule(rule))
			}
		}
	}
	return errors.Join(errs...)
}
