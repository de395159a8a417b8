package packet

import (
	"encoding/binary"
	"net/netip"
)

// Addr is an IP address of either family in 16 bytes, comparable and cheap to
// hash. An IPv4 address is held as ::ffff:a.b.c.d, a form that no IPv6 header
// may contain, so that equal addresses have equal Addrs. The zero Addr is no
// address.
type Addr struct{ hi, lo uint64 }

// AddrFrom holds a, unmapped first, without its zone. It reports false for the
// zero netip.Addr and for "::".
func AddrFrom(a netip.Addr) (Addr, bool) {
	if !a.IsValid() {
		return Addr{}, false
	}
	b := a.As16()
	h := addr16(b[:])
	return h, h != Addr{}
}

// MustAddr holds the address that s spells. It panics on anything else and is
// for constants and tests.
func MustAddr(s string) Addr {
	a, ok := AddrFrom(netip.MustParseAddr(s))
	if !ok {
		panic("packet: no address " + s)
	}
	return a
}

func addr4(v uint32) Addr { return Addr{0, mappedPrefixLo<<32 | uint64(v)} }

func addr16(b []byte) Addr {
	return Addr{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// Is4 reports whether a is an IPv4 address.
func (a Addr) Is4() bool { return a.hi == 0 && a.lo>>32 == mappedPrefixLo }

// Words are the address as two integers, for hashing.
func (a Addr) Words() (hi, lo uint64) { return a.hi, a.lo }

// IsMulticast reports whether a is a multicast or the limited broadcast address.
func (a Addr) IsMulticast() bool {
	if a.Is4() {
		v := uint32(a.lo)
		return v>>28 == 0xe || v == 0xffffffff
	}
	return a.hi>>56 == 0xff
}

// Netip is the address as the standard library has it.
func (a Addr) Netip() netip.Addr {
	switch {
	case a == Addr{}:
		return netip.Addr{}
	case a.Is4():
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(a.lo))
		return netip.AddrFrom4(b)
	default:
		return netip.AddrFrom16(a.as16())
	}
}

func (a Addr) as16() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return b
}

func (a Addr) String() string { return a.Netip().String() }
