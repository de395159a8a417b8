package stun

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// The attributes that have a meaning here. Numbers below mayIgnore must be
// understood by who reads them, or the message is not.
const (
	attrMapped       = 0x0001 // MAPPED-ADDRESS, which NATs rewrite; not looked at
	attrIntegrity    = 0x0008 // MESSAGE-INTEGRITY, of a key nobody shares; not looked at
	attrXORMapped    = 0x0020 // XOR-MAPPED-ADDRESS
	attrXORMappedOld = 0x8020 // the same in drafts of RFC 5389
	attrSoftware     = 0x8022 // SOFTWARE
	attrFingerprint  = 0x8028 // FINGERPRINT

	mayIgnore = 0x8000
)

// attributeHead is the size of an attribute's type and length.
const attributeHead = 4

// An attribute is a piece of a message, and shares its bytes.
type attribute struct {
	kind  uint16
	value []byte // without padding
}

// cut takes the first attribute off what follows the header of a message. It
// is not ok when the attribute, or its padding, ends behind the message. What
// the padding holds is not looked at: RFC 8489 lets it be anything.
func cut(p []byte) (a attribute, rest []byte, ok bool) {
	if len(p) < attributeHead {
		return attribute{}, nil, false
	}
	n := int(binary.BigEndian.Uint16(p[2:]))
	end := attributeHead + (n+3)&^3
	if end > len(p) {
		return attribute{}, nil, false
	}
	return attribute{binary.BigEndian.Uint16(p), p[attributeHead : attributeHead+n]}, p[end:], true
}

// The families of an XOR-MAPPED-ADDRESS, and the lengths of the value with each:
// family 2, port 2, address.
const (
	family4, family6 = 1, 2
	mapped4, mapped6 = 2 + 2 + 4, 2 + 2 + 16
)

// mask is what XOR-MAPPED-ADDRESS is xored with: cookie and transaction id, as
// they stand in the header. The port takes the first two bytes of it.
func mask(m []byte) []byte { return m[4:headerSize] }

// readMapped reads the value of the XOR-MAPPED-ADDRESS of message m. An IPv4
// address that was written as IPv6 is IPv4.
func readMapped(m, value []byte) (netip.AddrPort, error) {
	if len(value) < 2 {
		return netip.AddrPort{}, fmt.Errorf("mapped address of %d bytes, want %d or %d", len(value), mapped4, mapped6)
	}
	want := mapped4
	switch family := binary.BigEndian.Uint16(value); family {
	case family4:
	case family6:
		want = mapped6
	default:
		return netip.AddrPort{}, fmt.Errorf("mapped address of family %d, want %d or %d", family, family4, family6)
	}
	if len(value) != want {
		return netip.AddrPort{}, fmt.Errorf("mapped address of %d bytes, want %d", len(value), want)
	}
	key := mask(m)
	var ip [16]byte
	for i, b := range value[4:] {
		ip[i] = b ^ key[i]
	}
	addr := netip.AddrFrom16(ip).Unmap()
	if want == mapped4 {
		addr = netip.AddrFrom4([4]byte(ip[:4]))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(value[2:])^binary.BigEndian.Uint16(key)), nil
}

// appendMapped appends to message m, which so far is a header, the attribute that
// says addr: an IPv4 address, or an IPv6 one that is not an IPv4 one in disguise.
func appendMapped(m []byte, addr netip.AddrPort) []byte {
	key := mask(m)
	put := func(family uint16, ip []byte) {
		m = binary.BigEndian.AppendUint16(m, attrXORMapped)
		m = binary.BigEndian.AppendUint16(m, uint16(2+2+len(ip)))
		m = binary.BigEndian.AppendUint16(m, family)
		m = binary.BigEndian.AppendUint16(m, addr.Port()^binary.BigEndian.Uint16(key))
		for i, b := range ip {
			m = append(m, b^key[i])
		}
	}
	if addr.Addr().Is4() {
		ip := addr.Addr().As4()
		put(family4, ip[:])
	} else {
		ip := addr.Addr().As16()
		put(family6, ip[:])
	}
	return m
}

// fingerprintMask is what RFC 8489 section 14.7 xors the checksum with, so that
// it differs from that of another protocol which ends in a CRC-32 too: "STUN".
const fingerprintMask = 0x5354554e

// checkFingerprint checks the value of a FINGERPRINT that is the last attribute
// of message m. It covers everything before it, the header with the length that
// counts it included.
func checkFingerprint(m, value []byte) error {
	if len(value) != 4 {
		return fmt.Errorf("fingerprint of %d bytes, want 4", len(value))
	}
	got := binary.BigEndian.Uint32(value)
	if want := crc32.ChecksumIEEE(m[:len(m)-attributeHead-len(value)]) ^ fingerprintMask; got != want {
		return fmt.Errorf("fingerprint %08x, want %08x", got, want)
	}
	return nil
}
