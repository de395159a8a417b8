package key

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"math/big"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 8032 section 7.1, tests 1 and 2.
func TestEd25519Vectors(t *testing.T) {
	for _, v := range []struct{ seed, public, msg, sig string }{
		{
			"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
		},
		{
			"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
		},
	} {
		id := IdentityPrivateFromSeed([size]byte(unhex(t, v.seed)))
		enrol := EnrolPrivate{newSecret([size]byte(unhex(t, v.seed)))}
		msg, sig := unhex(t, v.msg), unhex(t, v.sig)
		if got := id.Public().Ed25519(); !bytes.Equal(got, unhex(t, v.public)) {
			t.Errorf("identity public key: got %x, want %s", got, v.public)
		}
		if got := id.Sign(msg); !bytes.Equal(got, sig) {
			t.Errorf("identity signature: got %x, want %s", got, v.sig)
		}
		if got := enrol.Sign(msg); !bytes.Equal(got, sig) {
			t.Errorf("enrolment signature: got %x, want %s", got, v.sig)
		}
		if !id.Public().Verify(msg, sig) || !enrol.Public().Verify(msg, sig) {
			t.Error("the signature of the vector does not verify")
		}
		for bit := range 8 * len(sig) {
			bad := bytes.Clone(sig)
			bad[bit/8] ^= 1 << (bit % 8)
			if id.Public().Verify(msg, bad) || enrol.Public().Verify(msg, bad) {
				t.Errorf("signature with bit %d flipped verifies", bit)
			}
		}
		if id.Public().Verify(append(msg, 0), sig) || id.Public().Verify(msg, sig[:63]) || id.Public().Verify(msg, nil) {
			t.Error("another message or a short signature verifies")
		}
		high := addOrder(sig)
		if id.Public().Verify(msg, high) || enrol.Public().Verify(msg, high) {
			t.Error("the signature with S + L verifies")
		}
	}
}

// addOrder is the signature with the group's order L added to S: the same
// point, and a second signature where S is not required to be below L.
func addOrder(sig []byte) []byte {
	l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10) // RFC 8032 section 5.1
	s := littleEndian(sig[32:])
	s.Add(s, l)
	return append(bytes.Clone(sig[:32]), toLittleEndian(s)...)
}

func littleEndian(b []byte) *big.Int {
	r := bytes.Clone(b)
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
	return new(big.Int).SetBytes(r)
}

func toLittleEndian(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, size))
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return b
}

// RFC 7748 section 6.1.
func TestX25519Vectors(t *testing.T) {
	for _, v := range []struct{ private, public string }{
		{"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a", "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"},
		{"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb", "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"},
	} {
		b := [size]byte(unhex(t, v.private))
		if got := (WGPrivate{newSecret(b)}).Public().Hex(); got != v.public {
			t.Errorf("WireGuard public key of %s: got %s, want %s", v.private, got, v.public)
		}
		if got := fmt.Sprintf("%x", (SealPrivate{newSecret(b)}).Public().b); got != v.public {
			t.Errorf("sealing public key of %s: got %s, want %s", v.private, got, v.public)
		}
		if got := (WGPrivate{newSecret(b)}).Hex(); got != v.private {
			t.Errorf("hexadecimal: got %s, want %s", got, v.private)
		}
	}
}

func TestNewWireGuardKeyIsClamped(t *testing.T) {
	for range 64 {
		b := NewWG().b.bytes()
		if b[0]&7 != 0 || b[31]&0x80 != 0 || b[31]&0x40 == 0 {
			t.Fatalf("not clamped as RFC 7748 section 5 says: first byte %08b, last %08b", b[0], b[31])
		}
	}
}

// The curve of RFC 8032 in big integers, slowly.
var (
	fieldP  = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	curveD  = mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), fieldP)))
	oneInt  = big.NewInt(1)
	zeroInt = new(big.Int)
)

func mod(n *big.Int) *big.Int { return n.Mod(n, fieldP) }

// decompress is the point of an encoding, y reduced where it is above p.
func decompress(b []byte) (x, y *big.Int, ok bool) {
	b = bytes.Clone(b)
	sign := uint(b[31] >> 7)
	b[31] &= 0x7f
	y = mod(littleEndian(b))
	yy := mod(new(big.Int).Mul(y, y))
	u := mod(new(big.Int).Sub(yy, oneInt))
	v := mod(new(big.Int).Add(new(big.Int).Mul(curveD, yy), oneInt))
	xx := mod(new(big.Int).Mul(u, new(big.Int).ModInverse(v, fieldP)))
	x = new(big.Int).ModSqrt(xx, fieldP)
	if x == nil {
		return nil, nil, false
	}
	if x.Bit(0) != sign {
		x = mod(new(big.Int).Neg(x))
	}
	return x, y, true
}

func double(x, y *big.Int) (*big.Int, *big.Int) {
	xy := new(big.Int).Mul(x, y)
	xx, yy := new(big.Int).Mul(x, x), new(big.Int).Mul(y, y)
	d := mod(new(big.Int).Mul(curveD, mod(new(big.Int).Mul(xx, yy))))
	nx := new(big.Int).Lsh(xy, 1)
	ny := new(big.Int).Add(yy, xx)
	nx.Mul(nx, new(big.Int).ModInverse(mod(new(big.Int).Add(oneInt, d)), fieldP))
	ny.Mul(ny, new(big.Int).ModInverse(mod(new(big.Int).Sub(oneInt, d)), fieldP))
	return mod(nx), mod(ny)
}

// isSmall reports whether eight times the point is the neutral one.
func isSmall(b []byte) bool {
	x, y, ok := decompress(b)
	if !ok {
		return false
	}
	for range 3 {
		x, y = double(x, y)
	}
	return x.Cmp(zeroInt) == 0 && y.Cmp(oneInt) == 0
}

// smallOrderEncodings are every 32 bytes that decode to a point of small order:
// found by trying the y that solve [8]P = 0, with all their encodings.
func smallOrderEncodings() (out [][size]byte) {
	candidates := []*big.Int{zeroInt, oneInt, new(big.Int).Sub(fieldP, oneInt)}
	// A point of order 8 doubles to one of order 4, whose y is 0: x² = -y², and so
	// with t = y² the curve says 2t = 1 - d·t².
	disc := mod(new(big.Int).Add(oneInt, curveD))
	root := new(big.Int).ModSqrt(disc, fieldP)
	for _, r := range []*big.Int{root, new(big.Int).Neg(root)} {
		t := mod(new(big.Int).Mul(new(big.Int).Sub(r, oneInt), new(big.Int).ModInverse(curveD, fieldP)))
		if y := new(big.Int).ModSqrt(t, fieldP); y != nil {
			candidates = append(candidates, y, new(big.Int).Sub(fieldP, y))
		}
	}
	limit := new(big.Int).Lsh(oneInt, 255)
	for _, y := range candidates {
		for ; y.Cmp(limit) < 0; y = new(big.Int).Add(y, fieldP) {
			for _, sign := range []byte{0, 0x80} {
				b := [size]byte(toLittleEndian(y))
				b[31] |= sign
				out = append(out, b)
			}
		}
	}
	return out
}

func TestSmallOrderKeysRefused(t *testing.T) {
	all := smallOrderEncodings()
	if len(all) != 14 {
		t.Errorf("%d encodings of points of small order, want 14", len(all))
	}
	seen := map[[size]byte]bool{}
	for _, b := range all {
		seen[b] = true
		if !isSmall(b[:]) {
			t.Fatalf("%x is not of small order: the oracle is wrong", b)
		}
		if _, err := ParseIdentityPublic("idpub:" + naive32(b)); err == nil {
			t.Errorf("identity key %x accepted", b)
		}
		if _, err := IdentityPublicFrom(ed25519.PublicKey(b[:])); err == nil {
			t.Errorf("identity key %x of a certificate accepted", b)
		}
		if _, err := ParseEnrolPublic("enrol:" + naive32(b)); err == nil {
			t.Errorf("enrolment key %x accepted", b)
		}
	}
	for _, s := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			s[31] |= sign
			if !seen[s] {
				t.Errorf("%x is refused and not of small order", s)
			}
		}
	}
	for range 8 {
		k := NewIdentity().Public()
		if isSmall(k.b[:]) || checkPoint(k.b) != nil {
			t.Errorf("%s: a fresh key is of small order", k)
		}
	}
}

// Why they are refused: with the neutral point as the key, R = B and S = 1 sign
// every message.
func TestSmallOrderKeyWouldVerifyAnything(t *testing.T) {
	neutral := [size]byte{0: 1}
	base := unhex(t, "5866666666666666666666666666666666666666666666666666666666666666")
	sig := append(base, toLittleEndian(oneInt)...)
	for _, msg := range []string{"", "a", "any message"} {
		if !ed25519.Verify(neutral[:], []byte(msg), sig) {
			t.Errorf("%q: not verified: the check is no longer needed", msg)
		}
	}
}

func TestIdentityPublicFromLength(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		if k, err := IdentityPublicFrom(make([]byte, n)); err == nil || !k.IsZero() {
			t.Errorf("%d bytes: got %s, %v", n, k, err)
		}
	}
}
