package tunnel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/writmesh/writ/coordinator/key"
)

// routes say whose an address is: the member with the longest prefix that holds
// it. They are made by SetPeers and never change.
type routes struct {
	v4, v6 family
}

// A family has a table per length of prefix, longest first. A mesh of nodes has
// one length, that of an address, and so one look at one table.
type family struct {
	lengths []int
	tables  []map[netip.Addr]*member
}

// newRoutes makes the table of members.
func newRoutes(members map[key.NodeID]*member) *routes {
	r := new(routes)
	for _, m := range members {
		for _, p := range m.peer.Allowed {
			f := &r.v4
			if p.Addr().Is6() {
				f = &r.v6
			}
			i, found := slices.BinarySearchFunc(f.lengths, p.Bits(), func(a, b int) int { return b - a })
			if !found {
				f.lengths = slices.Insert(f.lengths, i, p.Bits())
				f.tables = slices.Insert(f.tables, i, make(map[netip.Addr]*member, len(members)))
			}
			f.tables[i][p.Addr()] = m
		}
	}
	return r
}

// shadowed reports whether another member than m has a shorter prefix around
// one of m's. If m were not configured, WireGuard would take m's addresses for
// the other's.
func (r *routes) shadowed(m *member) bool {
	for _, p := range m.peer.Allowed {
		f := &r.v4
		if p.Addr().Is6() {
			f = &r.v6
		}
		for i, bits := range f.lengths {
			if bits >= p.Bits() {
				continue
			}
			around, err := p.Addr().Prefix(bits)
			if err != nil {
				continue
			}
			if other := f.tables[i][around.Addr()]; other != nil && other != m {
				return true
			}
		}
	}
	return false
}

func (f *family) lookup(a netip.Addr) *member {
	for i, bits := range f.lengths {
		in := a
		if bits != a.BitLen() {
			p, err := a.Prefix(bits)
			if err != nil {
				continue
			}
			in = p.Addr()
		}
		if m := f.tables[i][in]; m != nil {
			return m
		}
	}
	return nil
}

// to is whose the destination of pkt is, or nil.
func (r *routes) to(pkt []byte) *member {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		return r.v4.lookup(netip.AddrFrom4([4]byte(pkt[16:20])))
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return r.v6.lookup(netip.AddrFrom16([16]byte(pkt[24:40])))
	}
	return nil
}

// from is whose the source of pkt is, or nil.
func (r *routes) from(pkt []byte) *member {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		return r.v4.lookup(netip.AddrFrom4([4]byte(pkt[12:16])))
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return r.v6.lookup(netip.AddrFrom16([16]byte(pkt[8:24])))
	}
	return nil
}

// sameDestination reports whether b goes where a goes, by the bytes: most packets of a
// batch do, and are spared the look-up.
func sameDestination(a, b []byte) bool {
	if len(a) < 20 || len(b) < 20 || a[0]>>4 != b[0]>>4 {
		return false
	}
	if a[0]>>4 == 4 {
		return binary.NativeEndian.Uint32(a[16:]) == binary.NativeEndian.Uint32(b[16:])
	}
	return a[0]>>4 == 6 && len(a) >= 40 && len(b) >= 40 && [16]byte(a[24:40]) == [16]byte(b[24:40])
}
