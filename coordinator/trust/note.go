package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/writmesh/writ/coordinator/key"
)

// A VKey is a public key of a signed note: "NAME+HASH+KEY", as
// golang.org/x/mod/sumdb/note writes it. Ed25519 only.
type VKey struct {
	text     string
	verifier note.Verifier
	public   [ed25519.PublicKeySize]byte
}

// ParseVKey reads a VKey. A key has one text, and a key of small order, under
// which anybody can sign, has none.
func ParseVKey(s string) (VKey, error) {
	v, err := note.NewVerifier(s)
	if err != nil {
		return VKey{}, fmt.Errorf("key %q: %w", s, err)
	}
	_, rest, _ := strings.Cut(s, "+")
	_, encoded, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algEd25519 {
		return VKey{}, fmt.Errorf("key %q: not Ed25519", s)
	}
	if text, err := note.NewEd25519VerifierKey(v.Name(), raw[1:]); err != nil || text != s {
		return VKey{}, fmt.Errorf("key %q: not in canonical form", s)
	}
	if _, err := key.IdentityPublicFrom(raw[1:]); err != nil {
		return VKey{}, fmt.Errorf("key %q: %w", s, err)
	}
	k := VKey{text: s, verifier: v}
	copy(k.public[:], raw[1:])
	return k, nil
}

// Name is the key's name.
func (k VKey) Name() string { return k.verifier.Name() }

// String is the key's text; it is public.
func (k VKey) String() string { return k.text }

// Identity is the same public key as the key of a TLS certificate.
func (k VKey) Identity() key.IdentityPublic {
	p, _ := key.IdentityPublicFrom(k.public[:])
	return p
}

// Equal reports whether two keys are one, whatever their names.
func (k VKey) Equal(o VKey) bool { return k.public == o.public }

// id is the key as signatures name it.
func (k VKey) id() string { return keyID(k.verifier.Name(), k.verifier.KeyHash()) }

// confusable reports whether signatures name both keys alike: the hash in them
// has 32 bits, which a key can be searched for.
func (k VKey) confusable(o VKey) bool { return k.id() == o.id() }

const algEd25519 = 1 // sumdb/note

// A SigningKey is the private half of a VKey.
type SigningKey struct {
	secret *string // behind a pointer, which package fmt does not follow to a string
	signer note.Signer
	public VKey
}

// NewSigningKey makes a key of that name. A name has no spaces and no '+'.
func NewSigningKey(name string) (SigningKey, error) {
	skey, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make key %q: %w", name, err)
	}
	return ParseSigningKey(skey)
}

// ParseSigningKey reads what Secret wrote.
func ParseSigningKey(s string) (SigningKey, error) {
	signer, err := note.NewSigner(s)
	if err != nil {
		return SigningKey{}, errors.New("signing key: not a private key of a signed note")
	}
	seed, ok := seedOf(s)
	if !ok {
		return SigningKey{}, errors.New("signing key: not Ed25519")
	}
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), pub)
	if err != nil {
		return SigningKey{}, fmt.Errorf("signing key: %w", err)
	}
	v, err := ParseVKey(vkey)
	return SigningKey{&s, signer, v}, err
}

// seedOf takes the seed out of "PRIVATE+KEY+name+hash+base64(alg, seed)".
func seedOf(s string) ([]byte, bool) {
	parts := strings.SplitN(s, "+", 5) // the base64 may hold '+' itself
	if len(parts) != 5 {
		return nil, false
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != algEd25519 {
		return nil, false
	}
	return raw[1:], true
}

// Public is the key's public half.
func (k SigningKey) Public() VKey { return k.public }

// TLSIdentity is the key as the key of a TLS client certificate: a publisher is
// known to the coordinator by the keys that the root names.
func (k SigningKey) TLSIdentity() (key.IdentityPrivate, error) {
	seed, ok := seedOf(k.Secret())
	if !ok {
		return key.IdentityPrivate{}, errors.New("signing key: not Ed25519")
	}
	return key.IdentityPrivateFromSeed([ed25519.SeedSize]byte(seed)), nil
}

// Secret is the key's text, for its file and nothing else.
func (k SigningKey) Secret() string {
	if k.secret == nil {
		return ""
	}
	return *k.secret
}

func (k SigningKey) String() string             { return "PRIVATE+KEY+(secret)" }
func (k SigningKey) GoString() string           { return k.String() }
func (k SigningKey) Format(s fmt.State, _ rune) { s.Write([]byte(k.String())) }

// Sign makes a note of a text and the keys' signatures of it.
func Sign(text string, keys ...SigningKey) ([]byte, error) {
	signers := make([]note.Signer, len(keys))
	for i, k := range keys {
		signers[i] = k.signer
	}
	b, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return b, nil
}

// AddSignature adds a signature to a note whatever other keys signed it; a
// signature of the same key is replaced.
func AddSignature(msg []byte, k SigningKey) ([]byte, error) {
	n, err := read(msg, maxNote)
	if err != nil {
		return nil, fmt.Errorf("add signature: %w", err)
	}
	b, err := note.Sign(n, k.signer)
	if err != nil {
		return nil, fmt.Errorf("add signature: %w", err)
	}
	return b, nil
}

// ErrUnsigned is the error of a note that too few of the keys in force signed.
var ErrUnsigned = errors.New("not signed to threshold")

// maxNote is the largest note of any type here, before anything is read of it.
const maxNote = 900 << 10

// Open is the one way to read a note: it caps the size, checks the signatures,
// counts distinct public keys, and only then gives the text to be parsed.
func Open(msg []byte, limit int, keys []VKey, threshold int) (text string, err error) {
	if threshold < 1 || threshold > len(keys) {
		return "", fmt.Errorf("threshold %d of %d keys: %w", threshold, len(keys), ErrUnsigned)
	}
	verifiers := make([]note.Verifier, len(keys))
	byName := make(map[string][ed25519.PublicKeySize]byte, len(keys))
	for i, k := range keys {
		verifiers[i] = k.verifier
		byName[k.id()] = k.public
	}
	n, err := read(msg, limit, verifiers...)
	if err != nil {
		return "", err
	}
	if len(n.Sigs) == 0 {
		return "", fmt.Errorf("none of the %d keys in force signed: %w", len(keys), ErrUnsigned)
	}
	distinct := make(map[[ed25519.PublicKeySize]byte]bool)
	for _, s := range n.Sigs {
		distinct[byName[keyID(s.Name, s.Hash)]] = true
	}
	if len(distinct) < threshold {
		return "", fmt.Errorf("%d of %d needed keys signed: %w", len(distinct), threshold, ErrUnsigned)
	}
	return n.Text, nil
}

func keyID(name string, hash uint32) string { return fmt.Sprintf("%s+%08x", name, hash) }

// Text is the text of a note whoever signed it: to name or compare a note, or to
// show it to a person. Nothing may be believed because of it.
func Text(msg []byte) (string, error) {
	n, err := read(msg, maxNote)
	if err != nil {
		return "", err
	}
	return n.Text, nil
}

// read parses a note of limited size and verifies the signatures of the known
// verifiers, of which there may be none.
func read(msg []byte, limit int, known ...note.Verifier) (*note.Note, error) {
	if limit = min(limit, maxNote); len(msg) > limit {
		return nil, fmt.Errorf("note of %d bytes: at most %d", len(msg), limit)
	}
	n, err := note.Open(msg, note.VerifierList(known...))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return nil, fmt.Errorf("note: %w", err)
	}
	// Package note ignores stray bits in the base64 of a signature: with them, a
	// note that nobody signed again would have other bytes.
	_, block, _ := strings.Cut(string(msg[len(n.Text):]), "\n")
	for line := range strings.Lines(block) {
		encoded := line[strings.LastIndexByte(line, ' ')+1 : len(line)-1]
		if _, err := base64.StdEncoding.Strict().DecodeString(encoded); err != nil {
			return nil, errors.New("note: a signature is not in canonical base64")
		}
	}
	return n, nil
}

// identityNote signs and verifies notes with a node's identity key; the signer's
// name is the node's id.
type identityNote struct {
	name    string
	hash    uint32
	public  key.IdentityPublic
	private key.IdentityPrivate
}

func newIdentityNote(p key.IdentityPublic) *identityNote {
	n := &identityNote{name: p.NodeID().String(), public: p}
	h := sha256.New()
	h.Write([]byte(n.name + "\n"))
	h.Write([]byte{algEd25519})
	h.Write(p.Ed25519())
	n.hash = binary.BigEndian.Uint32(h.Sum(nil)) // as sumdb/note computes it
	return n
}

func (n *identityNote) Name() string                    { return n.name }
func (n *identityNote) KeyHash() uint32                 { return n.hash }
func (n *identityNote) Verify(msg, sig []byte) bool     { return n.public.Verify(msg, sig) }
func (n *identityNote) Sign(msg []byte) ([]byte, error) { return n.private.Sign(msg), nil }

// SignAs signs a text with a node's identity key.
func SignAs(text string, k key.IdentityPrivate) ([]byte, error) {
	n := newIdentityNote(k.Public())
	n.private = k
	b, err := note.Sign(&note.Note{Text: text}, n)
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", n.name, err)
	}
	return b, nil
}

// OpenFrom reads a note that a node's identity key must have signed.
func OpenFrom(msg []byte, limit int, k key.IdentityPublic) (text string, err error) {
	n, err := read(msg, limit, newIdentityNote(k))
	if err != nil {
		return "", err
	}
	if len(n.Sigs) == 0 {
		return "", fmt.Errorf("not by %s: %w", k.NodeID().Short(), ErrUnsigned)
	}
	return n.Text, nil
}
