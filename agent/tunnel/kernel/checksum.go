package kernel

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b to a one's complement sum (RFC 1071) that is not folded yet. It
// works on eight bytes at a time in the order of the machine: the sum of swapped
// bytes is the swapped sum, see fold. Only the last part of a sum may have an
// odd length.
func sum(b []byte, to uint64) uint64 {
	var carry uint64
	for len(b) >= 64 {
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b), 0)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[8:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[16:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[24:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[32:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[40:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[48:]), carry)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b[56:]), carry)
		to += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(b), 0)
		to += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		to, carry = bits.Add64(to, binary.NativeEndian.Uint64(last[:]), 0)
		to += carry
	}
	return to
}

// addWord adds a 16-bit number in network order.
func addWord(v uint16, to uint64) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	to, carry := bits.Add64(to, uint64(binary.NativeEndian.Uint16(b[:])), 0)
	return to + carry
}

// fold is the sum in 16 bits, in network order.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], uint16(s))
	return binary.BigEndian.Uint16(b[:])
}

// final is the checksum field for a sum. Zero means "no checksum" in UDP, and is
// written as its other form, which is as good for TCP.
func final(s uint64) uint16 {
	if c := ^fold(s); c != 0 {
		return c
	}
	return 0xffff
}
