// Package key holds the keys and identifiers of a Writ network, one type per
// role, so that the compiler refuses a WireGuard key where an identity key is
// meant.
//
// Every value is 32 bytes and has one text: a prefix naming the role, then 52
// characters of lower-case unpadded base32 (RFC 4648).
//
//	net:       NetworkID         SHA-256 of the first root document's text
//	nid:       NodeID            SHA-256 of "writ-node/v1\n" and the identity key
//	idpub:     IdentityPublic    Ed25519 (RFC 8032), who a node is
//	idkey:     IdentityPrivate   its seed; never leaves the node
//	wgpub:     WGPublic          X25519 (RFC 7748), WireGuard's static key
//	wgkey:     WGPrivate         never leaves the node; rotated by the node alone
//	enrol:     EnrolPublic       Ed25519, in the policy under enrolment
//	enrolkey:  EnrolPrivate      its seed; what a server is started with
//	sealpub:   SealPublic        X25519 for HPKE, in the root document
//	sealkey:   SealPrivate       opens join proofs; sync's alone
//	sha256:    Hash              of a document (hexadecimal, as other tools print it)
//
// Keys are opaque: compare them with Equal. Private keys print as
// "idkey:(secret)" with every formatting verb, and reach a file only through
// Secret. Policy, admission and root keys are C2SP signed-note keys and live in
// package trust.
//
// A decoder rejects another prefix or length, upper case, padding, white space,
// and stray bits in the last character, so that a value has one text. It rejects
// an Ed25519 public key of small order, under which anybody can sign, and the
// all-zero WireGuard key. testdata/vectors.txt has a vector of each text.
package key

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A NetworkID names a network: the hash of the text of its first root document.
type NetworkID [size]byte

// ParseNetworkID reads a "net:" text.
func ParseNetworkID(s string) (NetworkID, error) {
	b, err := parse("net:", "network id", s)
	return NetworkID(b), err
}

func (n NetworkID) String() string               { return format("net:", (*[size]byte)(&n)) }
func (n NetworkID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads a "net:" text.
func (n *NetworkID) UnmarshalText(b []byte) (err error) { *n, err = ParseNetworkID(string(b)); return }

// IsZero reports whether n names no network.
func (n NetworkID) IsZero() bool { return n == NetworkID{} }

// A NodeID names a node: the hash of its identity key. It is comparable and
// may key a map.
type NodeID [size]byte

// ParseNodeID reads a "nid:" text.
func ParseNodeID(s string) (NodeID, error) {
	b, err := parse("nid:", "node id", s)
	return NodeID(b), err
}

func (n NodeID) String() string               { return format("nid:", (*[size]byte)(&n)) }
func (n NodeID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// Short is the beginning of the id, for people; it identifies nothing.
func (n NodeID) Short() string { return n.String()[:len("nid:")+8] }

// UnmarshalText reads a "nid:" text.
func (n *NodeID) UnmarshalText(b []byte) (err error) { *n, err = ParseNodeID(string(b)); return }

// IsZero reports whether n names no node.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// An IdentityPublic is a node's Ed25519 public key.
type IdentityPublic struct{ b [size]byte }

// ParseIdentityPublic reads an "idpub:" text.
func ParseIdentityPublic(s string) (IdentityPublic, error) {
	b, err := parsePoint("idpub:", "identity key", s)
	return IdentityPublic{b}, err
}

// IdentityPublicFrom takes a standard-library key, as found in a TLS certificate.
func IdentityPublicFrom(p ed25519.PublicKey) (IdentityPublic, error) {
	if len(p) != size {
		return IdentityPublic{}, fmt.Errorf("identity key: %d bytes, want %d", len(p), size)
	}
	b := [size]byte(p)
	if err := checkPoint(b); err != nil {
		return IdentityPublic{}, fmt.Errorf("identity key: %w", err)
	}
	return IdentityPublic{b}, nil
}

// NodeID is the name of the node that holds this key.
func (k IdentityPublic) NodeID() NodeID {
	h := sha256.New()
	h.Write([]byte("writ-node/v1\n"))
	h.Write(k.b[:])
	return NodeID(h.Sum(nil))
}

// Ed25519 is the key as the standard library has it.
func (k IdentityPublic) Ed25519() ed25519.PublicKey { return ed25519.PublicKey(k.b[:]) }

// Verify reports whether sig is this key's signature of msg.
func (k IdentityPublic) Verify(msg, sig []byte) bool { return ed25519.Verify(k.b[:], msg, sig) }

func (k IdentityPublic) Equal(o IdentityPublic) bool { return k.b == o.b }
func (k IdentityPublic) IsZero() bool                { return k.b == [size]byte{} }
func (k IdentityPublic) String() string              { return format("idpub:", &k.b) }

// MarshalText writes the "idpub:" text. The zero key has none that can be read:
// a document that lacks its key is refused when it is made.
func (k IdentityPublic) MarshalText() ([]byte, error) {
	return pointText("idpub:", "identity key", k.b)
}

// UnmarshalText reads an "idpub:" text.
func (k *IdentityPublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseIdentityPublic(string(b))
	return
}

// An IdentityPrivate is a node's Ed25519 seed. It never leaves the node.
type IdentityPrivate struct{ seed secret }

// NewIdentity makes a fresh identity key.
func NewIdentity() IdentityPrivate { return IdentityPrivate{randomSecret()} }

// ParseIdentityPrivate reads an "idkey:" text.
func ParseIdentityPrivate(s string) (IdentityPrivate, error) {
	b, err := parse("idkey:", "identity private key", s)
	return IdentityPrivate{newSecret(b)}, err
}

// Ed25519 is the key as the standard library has it.
func (k IdentityPrivate) Ed25519() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(k.seed.bytes()[:])
}

// Public is the key's public half.
func (k IdentityPrivate) Public() IdentityPublic {
	p, _ := IdentityPublicFrom(k.Ed25519().Public().(ed25519.PublicKey))
	return p
}

// Sign signs msg.
func (k IdentityPrivate) Sign(msg []byte) []byte { return ed25519.Sign(k.Ed25519(), msg) }

func (k IdentityPrivate) Equal(o IdentityPrivate) bool { return k.seed.equal(o.seed) }

// Secret is the key's text, for its file and nothing else.
func (k IdentityPrivate) Secret() string             { return format("idkey:", k.seed.bytes()) }
func (k IdentityPrivate) String() string             { return secretMark("idkey:") }
func (k IdentityPrivate) GoString() string           { return k.String() }
func (k IdentityPrivate) Format(s fmt.State, _ rune) { s.Write([]byte(k.String())) }

// A WGPublic is a WireGuard static public key (X25519).
type WGPublic struct{ b [size]byte }

// ParseWGPublic reads a "wgpub:" text. The all-zero key is refused.
func ParseWGPublic(s string) (WGPublic, error) {
	b, err := parse("wgpub:", "WireGuard key", s)
	if err == nil && b == [size]byte{} {
		err = errors.New("WireGuard key: all zero")
	}
	return WGPublic{b}, err
}

// WGPublicFrom takes the 32 bytes as WireGuard has them.
func WGPublicFrom(b [size]byte) WGPublic { return WGPublic{b} }

// Bytes are the key as WireGuard has it.
func (k WGPublic) Bytes() [size]byte            { return k.b }
func (k WGPublic) Equal(o WGPublic) bool        { return k.b == o.b }
func (k WGPublic) IsZero() bool                 { return k.b == [size]byte{} }
func (k WGPublic) String() string               { return format("wgpub:", &k.b) }
func (k WGPublic) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Hex is the key as WireGuard's configuration protocol writes it.
func (k WGPublic) Hex() string { return hex.EncodeToString(k.b[:]) }

// UnmarshalText reads a "wgpub:" text.
func (k *WGPublic) UnmarshalText(b []byte) (err error) { *k, err = ParseWGPublic(string(b)); return }

// A WGPrivate is a WireGuard static private key. It never leaves the node.
type WGPrivate struct{ b secret }

// NewWG makes a fresh WireGuard key.
func NewWG() WGPrivate {
	b := *randomSecret().bytes()
	b[0] &= 248 // RFC 7748 section 5
	b[31] = b[31]&127 | 64
	return WGPrivate{newSecret(b)}
}

// ParseWGPrivate reads a "wgkey:" text.
func ParseWGPrivate(s string) (WGPrivate, error) {
	b, err := parse("wgkey:", "WireGuard private key", s)
	return WGPrivate{newSecret(b)}, err
}

// Public is the key's public half.
func (k WGPrivate) Public() WGPublic {
	p, err := ecdh.X25519().NewPrivateKey(k.b.bytes()[:])
	if err != nil {
		return WGPublic{} // X25519 takes every 32 bytes
	}
	return WGPublic{[size]byte(p.PublicKey().Bytes())}
}

// SharedSecret is what X25519 makes of this key and another node's: the same 32
// bytes at both ends, and fit only as input of a key derivation. It refuses a
// public key of small order, with which the result is zero for every private
// key and so known to everybody (RFC 7748 section 6.1).
func (k WGPrivate) SharedSecret(peer WGPublic) ([size]byte, error) {
	private, err := ecdh.X25519().NewPrivateKey(k.b.bytes()[:])
	if err != nil {
		return [size]byte{}, fmt.Errorf("shared secret: %w", err)
	}
	public, err := ecdh.X25519().NewPublicKey(peer.b[:])
	if err != nil {
		return [size]byte{}, fmt.Errorf("shared secret with %s: %w", peer, err)
	}
	s, err := private.ECDH(public)
	if err != nil {
		return [size]byte{}, fmt.Errorf("shared secret with %s: %w", peer, err)
	}
	return [size]byte(s), nil
}

func (k WGPrivate) Equal(o WGPrivate) bool { return k.b.equal(o.b) }

// Hex is the private key as WireGuard's configuration protocol writes it.
func (k WGPrivate) Hex() string { return hex.EncodeToString(k.b.bytes()[:]) }

// Secret is the key's text, for its file and nothing else.
func (k WGPrivate) Secret() string             { return format("wgkey:", k.b.bytes()) }
func (k WGPrivate) String() string             { return secretMark("wgkey:") }
func (k WGPrivate) GoString() string           { return k.String() }
func (k WGPrivate) Format(s fmt.State, _ rune) { s.Write([]byte(k.String())) }

// An EnrolPublic is the public half of an enrolment key, as written in the policy.
type EnrolPublic struct{ b [size]byte }

// ParseEnrolPublic reads an "enrol:" text.
func ParseEnrolPublic(s string) (EnrolPublic, error) {
	b, err := parsePoint("enrol:", "enrolment key", s)
	return EnrolPublic{b}, err
}

// Verify reports whether sig is this key's signature of msg.
func (k EnrolPublic) Verify(msg, sig []byte) bool { return ed25519.Verify(k.b[:], msg, sig) }
func (k EnrolPublic) Equal(o EnrolPublic) bool    { return k.b == o.b }
func (k EnrolPublic) String() string              { return format("enrol:", &k.b) }

// MarshalText writes the "enrol:" text. The zero key has none that can be read.
func (k EnrolPublic) MarshalText() ([]byte, error) { return pointText("enrol:", "enrolment key", k.b) }

// UnmarshalText reads an "enrol:" text.
func (k *EnrolPublic) UnmarshalText(b []byte) (err error) {
	*k, err = ParseEnrolPublic(string(b))
	return
}

// An EnrolPrivate is the secret that lets a server join.
type EnrolPrivate struct{ seed secret }

// NewEnrol makes a fresh enrolment key.
func NewEnrol() EnrolPrivate { return EnrolPrivate{randomSecret()} }

// ParseEnrolPrivate reads an "enrolkey:" text.
func ParseEnrolPrivate(s string) (EnrolPrivate, error) {
	b, err := parse("enrolkey:", "enrolment secret", s)
	return EnrolPrivate{newSecret(b)}, err
}

// Public is the key's public half.
func (k EnrolPrivate) Public() EnrolPublic {
	return EnrolPublic{[size]byte(ed25519.NewKeyFromSeed(k.seed.bytes()[:]).Public().(ed25519.PublicKey))}
}

// Sign signs msg.
func (k EnrolPrivate) Sign(msg []byte) []byte {
	return ed25519.Sign(ed25519.NewKeyFromSeed(k.seed.bytes()[:]), msg)
}

// Secret is the key's text, for its file and nothing else.
func (k EnrolPrivate) Secret() string             { return format("enrolkey:", k.seed.bytes()) }
func (k EnrolPrivate) String() string             { return secretMark("enrolkey:") }
func (k EnrolPrivate) GoString() string           { return k.String() }
func (k EnrolPrivate) Format(s fmt.State, _ rune) { s.Write([]byte(k.String())) }

// A Hash is the SHA-256 of a document.
type Hash [sha256.Size]byte

// HashOf is the SHA-256 of b.
func HashOf(b []byte) Hash { return sha256.Sum256(b) }

// ParseHash reads a "sha256:" text of 64 lower-case hexadecimal digits.
func ParseHash(s string) (h Hash, err error) {
	rest, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(rest) != 2*len(h) || strings.ToLower(rest) != rest {
		return h, errors.New(`hash: want "sha256:" and 64 lower-case hexadecimal digits`)
	}
	if _, err := hex.Decode(h[:], []byte(rest)); err != nil {
		return h, errors.New(`hash: want "sha256:" and 64 lower-case hexadecimal digits`)
	}
	return h, nil
}

func (h Hash) String() string               { return "sha256:" + hex.EncodeToString(h[:]) }
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Short is the beginning of the hash, for people; it identifies nothing.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// IsZero reports whether h is the hash of nothing in particular.
func (h Hash) IsZero() bool { return h == Hash{} }

// UnmarshalText reads a "sha256:" text.
func (h *Hash) UnmarshalText(b []byte) (err error) { *h, err = ParseHash(string(b)); return }

// IdentityPrivateFromSeed takes an Ed25519 seed that lives elsewhere, such as in
// a signed note's key.
func IdentityPrivateFromSeed(seed [size]byte) IdentityPrivate {
	return IdentityPrivate{newSecret(seed)}
}
