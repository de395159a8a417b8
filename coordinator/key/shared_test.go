package key

import (
	"fmt"
	"math/big"
	"testing"
)

// RFC 7748 section 6.1.
func TestSharedSecretVector(t *testing.T) {
	alice := WGPrivate{newSecret([size]byte(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")))}
	bob := WGPrivate{newSecret([size]byte(unhex(t, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))}
	const want = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
	for _, v := range []struct {
		private WGPrivate
		public  WGPublic
	}{{alice, bob.Public()}, {bob, alice.Public()}} {
		got, err := v.private.SharedSecret(v.public)
		if err != nil || fmt.Sprintf("%x", got) != want {
			t.Errorf("got %x, %v, want %s", got, err, want)
		}
	}
}

// The u-coordinates of small order on Curve25519 are 0, 1, p - 1 and the two of
// order 8 on the curve, in every encoding below 2^255, with the highest bit, which
// X25519 ignores, either way. They are found here from the curve's equation: a
// point doubles to one with u = (u² - 1)² / 4(u³ + Au² + u), and those of order 8
// double to u = 1, one of order 4 (u = ±1; the other is on the twist).
func TestSharedSecretRefusesSmallOrder(t *testing.T) {
	a := big.NewInt(486662)
	doubled := func(u *big.Int) (num, den *big.Int) {
		uu := new(big.Int).Mul(u, u)
		num = new(big.Int).Sub(uu, oneInt)
		num = mod(num.Mul(num, num))
		den = new(big.Int).Add(uu, new(big.Int).Mul(a, u))
		den = den.Add(den, oneInt)
		den = mod(den.Mul(den, u))
		den = mod(den.Lsh(den, 2))
		return num, den
	}
	small := []*big.Int{zeroInt, oneInt, new(big.Int).Sub(fieldP, oneInt)}
	// Of order 8: (u² - 1)² = ±4u(u² + Au + 1). Divided by u², with w = u + 1/u:
	// w² - 4 = ±4(w + A), a quadratic in w, and then one in u.
	for _, sign := range []int64{1, -1} {
		// w² - 4·sign·w - (4 + 4·sign·A) = 0
		half := mod(new(big.Int).Add(big.NewInt(4), mod(new(big.Int).Add(big.NewInt(4), new(big.Int).Mul(big.NewInt(4*sign), a)))))
		root := new(big.Int).ModSqrt(half, fieldP)
		if root == nil {
			continue
		}
		for _, r := range []*big.Int{root, new(big.Int).Neg(root)} {
			w := mod(new(big.Int).Add(big.NewInt(2*sign), r))
			// u² - w·u + 1 = 0
			d := mod(new(big.Int).Sub(new(big.Int).Mul(w, w), big.NewInt(4)))
			s := new(big.Int).ModSqrt(d, fieldP)
			if s == nil {
				continue
			}
			inv2 := new(big.Int).ModInverse(big.NewInt(2), fieldP)
			for _, t := range []*big.Int{s, new(big.Int).Neg(s)} {
				small = append(small, mod(new(big.Int).Mul(new(big.Int).Add(w, t), inv2)))
			}
		}
	}
	if len(small) < 5 {
		t.Fatalf("%d coordinates of small order, want 5 at least: the oracle is wrong", len(small))
	}
	seen := map[[size]byte]bool{}
	limit := new(big.Int).Lsh(oneInt, 255)
	k := NewWG()
	for i, u := range small {
		if num, den := doubled(u); i > 2 && num.Cmp(den) != 0 && mod(new(big.Int).Add(num, den)).Sign() != 0 {
			t.Fatalf("%x does not double to a point of order 4: the oracle is wrong", u)
		}
		for v := new(big.Int).Set(u); v.Cmp(limit) < 0; v = new(big.Int).Add(v, fieldP) {
			for _, high := range []byte{0, 0x80} {
				b := [size]byte(toLittleEndian(v))
				b[31] |= high
				seen[b] = true
				if got, err := k.SharedSecret(WGPublicFrom(b)); err == nil || got != [size]byte{} {
					t.Errorf("key %x of small order: got %x, %v, want an error", b, got, err)
				}
			}
		}
	}
	t.Logf("%d encodings of small order refused", len(seen))
	for range 8 {
		if _, err := k.SharedSecret(NewWG().Public()); err != nil {
			t.Errorf("a fresh key: %v", err)
		}
	}
}
