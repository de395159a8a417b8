package key

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// openSlowly is HPKE's base mode as RFC 9180 writes it, for the one suite that
// this package uses, from its primitives.
func openSlowly(secret, info, aad, enc, ct []byte) ([]byte, error) {
	extract := func(salt, ikm []byte) []byte {
		if len(salt) == 0 {
			salt = make([]byte, sha256.Size)
		}
		m := hmac.New(sha256.New, salt)
		m.Write(ikm)
		return m.Sum(nil)
	}
	expand := func(prk, info []byte, length int) (out []byte) {
		var block []byte
		for i := byte(1); len(out) < length; i++ {
			m := hmac.New(sha256.New, prk)
			m.Write(slices.Concat(block, info, []byte{i}))
			block = m.Sum(nil)
			out = append(out, block...)
		}
		return out[:length]
	}
	labeledExtract := func(suite string, salt []byte, label string, ikm []byte) []byte {
		return extract(salt, slices.Concat([]byte("HPKE-v1"+suite+label), ikm))
	}
	labeledExpand := func(suite string, prk []byte, label string, info []byte, length int) []byte {
		n := binary.BigEndian.AppendUint16(nil, uint16(length))
		return expand(prk, slices.Concat(n, []byte("HPKE-v1"+suite+label), info), length)
	}

	// DHKEM(X25519, HKDF-SHA256): section 4.1.
	sk, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		return nil, err
	}
	pkE, err := ecdh.X25519().NewPublicKey(enc)
	if err != nil {
		return nil, err
	}
	dh, err := sk.ECDH(pkE)
	if err != nil {
		return nil, err
	}
	const kem = "KEM\x00\x20"
	prk := labeledExtract(kem, nil, "eae_prk", dh)
	shared := labeledExpand(kem, prk, "shared_secret", slices.Concat(enc, sk.PublicKey().Bytes()), 32)

	// Key schedule: section 5.1; HKDF-SHA256 is 1, ChaCha20-Poly1305 is 3.
	const suite = "HPKE\x00\x20\x00\x01\x00\x03"
	context := slices.Concat([]byte{0},
		labeledExtract(suite, nil, "psk_id_hash", nil),
		labeledExtract(suite, nil, "info_hash", info))
	s := labeledExtract(suite, shared, "secret", nil)
	aead, err := chacha20poly1305.New(labeledExpand(suite, s, "key", context, 32))
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, labeledExpand(suite, s, "base_nonce", context, 12), ct, aad)
}

// RFC 9180 appendix A.2.1 proves the slow reading; the slow reading proves Seal
// and Open, which use no additional data.
func TestSealIsRFC9180(t *testing.T) {
	secret := unhex(t, "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")
	got, err := openSlowly(secret,
		unhex(t, "4f6465206f6e2061204772656369616e2055726e"), unhex(t, "436f756e742d30"),
		unhex(t, "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"),
		unhex(t, "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"))
	if want := "Beauty is truth, truth beauty"; err != nil || string(got) != want {
		t.Fatalf("RFC 9180 A.2.1: got %q, %v, want %q", got, err, want)
	}
	k := SealPrivate{newSecret([size]byte(secret))}
	if got, want := fmt.Sprintf("%x", k.Public().b), "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"; got != want {
		t.Errorf("public key: got %s, want %s", got, want)
	}
	for _, msg := range []string{"", "a proof", strings.Repeat("long ", 5000)} {
		for _, info := range []string{"", "writ/proof/v1\nnet:x"} {
			sealed, err := k.Public().Seal([]byte(info), []byte(msg))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := len(sealed), 32+len(msg)+16; got != want {
				t.Errorf("sealed %d bytes: got %d, want %d", len(msg), got, want)
			}
			got, err := openSlowly(secret, []byte(info), nil, sealed[:32], sealed[32:])
			if err != nil || string(got) != msg {
				t.Errorf("opened slowly: got %q, %v, want %q", got, err, msg)
			}
			got, err = k.Open([]byte(info), sealed)
			if err != nil || string(got) != msg {
				t.Errorf("opened: got %q, %v, want %q", got, err, msg)
			}
		}
	}
}

// A text sealed once and for all: what is sealed today opens tomorrow.
func TestOpenVector(t *testing.T) {
	k := SealPrivate{newSecret(seq(4))}
	const sealed = "b72c19e60f1cc78f2a7c11f09346212fdd1e0ec6923ae96721726ec73f0d5d4ad24f673d6dfe232cb0aee8afedbf205fba9212c8f9ca25"
	got, err := k.Open([]byte("writ/proof/v1\nnet:example"), unhex(t, sealed))
	if want := "a proof"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	k, other := NewSeal(), NewSeal()
	info, msg := []byte("info"), []byte("a proof")
	sealed, err := k.Public().Seal(info, msg)
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.Public().Seal(info, msg)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(sealed, again) {
		t.Error("the same message sealed twice is the same bytes")
	}
	refused := func(name string, k SealPrivate, info, sealed []byte) {
		t.Helper()
		if got, err := k.Open(info, sealed); err == nil {
			t.Errorf("%s: opened %q", name, got)
		} else if !strings.HasPrefix(err.Error(), "open sealed: ") {
			t.Errorf("%s: got error %q", name, err)
		}
	}
	refused("another key", other, info, sealed)
	refused("another info", k, []byte("infp"), sealed)
	refused("no info", k, nil, sealed)
	refused("a longer info", k, []byte("info\n"), sealed)
	refused("one byte more", k, info, append(bytes.Clone(sealed), 0))
	for n := range sealed {
		refused("cut", k, info, sealed[:n])
	}
	for bit := range 8 * len(sealed) { // X25519 ignores the top bit of a key, HPKE's key schedule does not
		bad := bytes.Clone(sealed)
		bad[bit/8] ^= 1 << (bit % 8)
		refused("bit flipped", k, info, bad)
	}
	low := bytes.Clone(sealed)
	copy(low, make([]byte, 32))
	refused("encapsulated key of low order", k, info, low)
}

// Nothing is sealed to a key of low order: anybody could open it.
func TestSealToLowOrder(t *testing.T) {
	var one [size]byte
	one[0] = 1
	for _, b := range [][size]byte{{}, one} {
		if sealed, err := (SealPublic{b}).Seal(nil, []byte("secret")); err == nil {
			t.Errorf("sealed to %x: %x", b, sealed)
		}
	}
}

func FuzzOpenSealed(f *testing.F) {
	k := SealPrivate{newSecret(seq(4))}
	sealed, err := k.Public().Seal([]byte("info"), []byte("a proof"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:32])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := k.Open([]byte("info"), b)
		slow, slowErr := []byte(nil), errors.New("short")
		if len(b) >= 32 {
			secret := seq(4)
			slow, slowErr = openSlowly(secret[:], []byte("info"), nil, b[:32], b[32:])
		}
		if (err == nil) != (slowErr == nil) || !bytes.Equal(got, slow) {
			t.Errorf("open %x: got %q, %v; slowly %q, %v", b, got, err, slow, slowErr)
		}
	})
}
