package key

import (
	"errors"
	"fmt"
)

// errSmallOrder refuses the public keys for which signatures can be made
// without a private key.
var errSmallOrder = errors.New("a point of small order, for which anybody can sign")

// smallOrder are the encodings of edwards25519's eight points of small order,
// without the sign of x, canonical or not: y is 0, 1, -1, plus or minus the y of
// order 8, and p and p+1, which crypto/ed25519 reads as 0 and 1.
var smallOrder = [...][size]byte{
	{},
	{0: 1},
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
	nearP(0xec), // p - 1
	nearP(0xed), // p
	nearP(0xee), // p + 1
}

// nearP is 2^255 - 256 + low in little endian.
func nearP(low byte) (b [size]byte) {
	for i := range b {
		b[i] = 0xff
	}
	b[0], b[size-1] = low, 0x7f
	return b
}

// checkPoint refuses an Ed25519 public key of small order. A key that is no
// point at all is not refused here: no signature of it verifies.
func checkPoint(b [size]byte) error {
	b[size-1] &= 0x7f
	for _, s := range smallOrder {
		if b == s {
			return errSmallOrder
		}
	}
	return nil
}

// parsePoint is parse for an Ed25519 public key.
func parsePoint(prefix, what, s string) (b [size]byte, err error) {
	b, err = parse(prefix, what, s)
	if err != nil {
		return b, err
	}
	if err := checkPoint(b); err != nil {
		return [size]byte{}, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

// pointText is format for an Ed25519 public key that parsePoint will read.
func pointText(prefix, what string, b [size]byte) ([]byte, error) {
	if err := checkPoint(b); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return []byte(format(prefix, &b)), nil
}
