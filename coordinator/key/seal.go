package key

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
)

// A SealPublic is the key that join proofs are sealed to; root documents name
// sync's. Sealing is HPKE (RFC 9180) in base mode: DHKEM(X25519,
// HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305; the info string names the kind
// of content and the network, so that a sealed proof opens nowhere else.
type SealPublic struct{ b [size]byte }

// ParseSealPublic reads a "sealpub:" text.
func ParseSealPublic(s string) (SealPublic, error) {
	b, err := parse("sealpub:", "sealing key", s)
	return SealPublic{b}, err
}

func (k SealPublic) Equal(o SealPublic) bool      { return k.b == o.b }
func (k SealPublic) String() string               { return format("sealpub:", &k.b) }
func (k SealPublic) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a "sealpub:" text.
func (k *SealPublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseSealPublic(string(b))
	return
}

// Seal encrypts msg so that only the holder of the private key reads it. The
// result is the 32-byte encapsulated key, then the ciphertext with its tag.
func (k SealPublic) Seal(info, msg []byte) ([]byte, error) {
	pk, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(k.b[:])
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return hpke.Seal(pk, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, msg)
}

// A SealPrivate opens what was sealed to its public half.
type SealPrivate struct{ b secret }

// NewSeal makes a fresh sealing key.
func NewSeal() SealPrivate { return SealPrivate{randomSecret()} }

// ParseSealPrivate reads a "sealkey:" text.
func ParseSealPrivate(s string) (SealPrivate, error) {
	b, err := parse("sealkey:", "sealing private key", s)
	return SealPrivate{newSecret(b)}, err
}

func (k SealPrivate) hpke() (hpke.PrivateKey, error) {
	return hpke.DHKEM(ecdh.X25519()).NewPrivateKey(k.b.bytes()[:])
}

// Public is the key's public half.
func (k SealPrivate) Public() SealPublic {
	p, err := k.hpke()
	if err != nil {
		return SealPublic{} // X25519 takes every 32 bytes
	}
	return SealPublic{[size]byte(p.PublicKey().Bytes())}
}

// Open decrypts what Seal made with the same info.
func (k SealPrivate) Open(info, sealed []byte) ([]byte, error) {
	p, err := k.hpke()
	if err != nil {
		return nil, fmt.Errorf("open sealed: %w", err)
	}
	msg, err := hpke.Open(p, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info, sealed)
	if err != nil {
		return nil, fmt.Errorf("open sealed: %w", err)
	}
	return msg, nil
}

// Secret is the key's text, for its file and nothing else.
func (k SealPrivate) Secret() string             { return format("sealkey:", k.b.bytes()) }
func (k SealPrivate) String() string             { return secretMark("sealkey:") }
func (k SealPrivate) GoString() string           { return k.String() }
func (k SealPrivate) Format(s fmt.State, _ rune) { s.Write([]byte(k.String())) }
