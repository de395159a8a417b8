package router

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
)

const (
	// Table is the number of the routing table. The numbers up to 255 are where
	// people put their own; other software takes 52 (Tailscale), 51820 (wg-quick)
	// and 7120 (NetBird).
	Table = 8787

	// Priority is the rules' priority. It comes after the kernel's table of local
	// addresses (0) and its rule for VRFs (1000), whose packets are another
	// network's, and before the tables that could take a peer's address in clear:
	// main (32766), those of wg-quick (32764, 32765) and of Tailscale (5210 to 5270).
	Priority = 1870

	// Protocol marks routes and rules as ours (rtm_protocol): 87 is the letter W,
	// and none of those that the kernel's list gives away (up to 18, 42, 99, and
	// 186 to 192).
	Protocol = 87

	// TableName is the nftables table, of family inet.
	TableName = "writ"

	// The metrics say which of two routes to the same address is taken: the lower
	// one while it is there.
	deviceMetric      = 100
	unreachableMetric = 8700

	// MaxPeers bounds the addresses of peers: ten networks of the size that the
	// project measures (10,000 nodes with two addresses each).
	MaxPeers = 200_000

	// maxDeparted bounds the unreachable routes of addresses that are no longer a
	// peer's: some 4 MB of kernel memory.
	maxDeparted = 16_384

	// minMTU is what IPv6 demands of a link (RFC 8200 section 5). Below it the
	// kernel takes IPv6 away from the interface.
	minMTU = 1280
	maxMTU = 65_535
)

// Config is what a Router is made of.
type Config struct {
	// Interface is the name of the mesh's network interface. Everything on it is
	// the Router's.
	Interface string

	// WithoutNftables accepts a machine without nftables, where neighbours on the
	// local network can reach the node's addresses past WireGuard.
	WithoutNftables bool

	// Log receives what is changed, at level debug, and new warnings. Nil: nothing.
	Log *slog.Logger
}

// State is what the kernel is to hold.
type State struct {
	// Addresses are the node's own: at most one of each family.
	Addresses []netip.Addr

	// Peers are the addresses of all peers, in any order.
	Peers []netip.Addr

	// Prefix6 is the network's own IPv6 prefix: a /48 or longer in fd00::/8. The
	// zero value: none.
	Prefix6 netip.Prefix

	// MTU of the interface. Zero leaves it as it is.
	MTU int
}

// Event is what Watch has seen, some events taken together.
type Event struct {
	// Network: links, addresses or default routes of the machine, other than ours,
	// are not what they were.
	Network bool

	// Ours: something that Set made is gone or changed. Set repairs it.
	Ours bool
}

func (e Event) String() string {
	switch {
	case e.Network && e.Ours:
		return "network and ours changed"
	case e.Network:
		return "network changed"
	case e.Ours:
		return "ours changed"
	}
	return "nothing changed"
}

// Drops counts the packets that the nftables table dropped since New.
type Drops struct {
	Source      uint64 // claimed to be from the mesh and came by another interface
	Destination uint64 // to an address of the node, by another interface
	Clear       uint64 // to the mesh, about to leave by another interface
}

// ulaSpace is where networks have their own prefixes (RFC 4193, locally assigned).
var ulaSpace = netip.MustParsePrefix("fd00::/8")

// checked returns the state with peers sorted and each once, or says what is
// wrong with it.
func (s State) checked() (State, error) {
	s.Addresses = slices.Clone(s.Addresses)
	seen := make(map[bool]netip.Addr)
	for _, a := range s.Addresses {
		if err := checkAddr(a); err != nil {
			return State{}, fmt.Errorf("own address %s: %w", a, err)
		}
		if other, twice := seen[a.Is4()]; twice {
			return State{}, fmt.Errorf("own address %s: %s is there already", a, other)
		}
		seen[a.Is4()] = a
	}
	if len(s.Peers) > MaxPeers {
		return State{}, fmt.Errorf("%d addresses of peers: at most %d", len(s.Peers), MaxPeers)
	}
	s.Peers = slices.Clone(s.Peers)
	slices.SortFunc(s.Peers, netip.Addr.Compare)
	s.Peers = slices.Compact(s.Peers)
	for _, a := range s.Peers {
		if err := checkAddr(a); err != nil {
			return State{}, fmt.Errorf("peer address %s: %w", a, err)
		}
		if slices.Contains(s.Addresses, a) {
			return State{}, fmt.Errorf("peer address %s: it is this node's own", a)
		}
	}
	if p := s.Prefix6; p != (netip.Prefix{}) {
		if !p.IsValid() || p != p.Masked() || !ulaSpace.Contains(p.Addr()) || p.Bits() < 48 {
			return State{}, fmt.Errorf("prefix %s: not a /48 or longer in %s", p, ulaSpace)
		}
	}
	if s.MTU != 0 && (s.MTU < minMTU || s.MTU > maxMTU) {
		return State{}, fmt.Errorf("MTU %d: not from %d to %d", s.MTU, minMTU, maxMTU)
	}
	return s, nil
}

// checkAddr refuses what can be no node's address. To route one of these to the
// interface would take from the machine what it needs.
func checkAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("no address")
	case a.Is4In6() || a.Zone() != "":
		return fmt.Errorf("not a plain address")
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return fmt.Errorf("not a unicast address of more than one link")
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return fmt.Errorf("reserved (RFC 6890)")
	}
	return nil
}

// inPrefix reports whether a is covered by the network's own prefix, so that it
// needs no entry of its own.
func (s State) inPrefix(a netip.Addr) bool {
	return s.Prefix6.IsValid() && s.Prefix6.Contains(a)
}

// own returns the node's address of a family, or the zero Addr.
func (s State) own(is4 bool) netip.Addr {
	for _, a := range s.Addresses {
		if a.Is4() == is4 {
			return a
		}
	}
	return netip.Addr{}
}

// only4 returns the state as far as a kernel without IPv6 can hold it.
func (s State) only4() State {
	is6 := func(a netip.Addr) bool { return a.Is6() }
	s.Addresses = slices.DeleteFunc(slices.Clone(s.Addresses), is6)
	s.Peers = slices.DeleteFunc(slices.Clone(s.Peers), is6)
	s.Prefix6 = netip.Prefix{}
	return s
}
