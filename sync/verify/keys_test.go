package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

func signerOf(tb testing.TB, key crypto.Signer) ssh.Signer {
	tb.Helper()
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func ed25519Signer(tb testing.TB, seed byte) ssh.Signer {
	return signerOf(tb, ed25519.NewKeyFromSeed(append(make([]byte, 31), seed)))
}

func ecdsaSigner(tb testing.TB, c elliptic.Curve) ssh.Signer {
	tb.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return signerOf(tb, k)
}

// RSA keys take long to make; each size is made once.
var (
	rsa3072 = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 3072) })
	rsa2048 = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
)

func rsaSigner(tb testing.TB, make func() (*rsa.PrivateKey, error)) ssh.Signer {
	tb.Helper()
	k, err := make()
	if err != nil {
		tb.Fatal(err)
	}
	return signerOf(tb, k)
}

// public returns a key as a list of allowed signers wants it.
func public(s ssh.Signer) string { return (&Key{s}).Public() }

// A touchKey signs as a security key does (OpenSSH PROTOCOL.u2f): over the hashes
// of application and message, with flags and a counter between them.
type touchKey struct {
	pub   ssh.PublicKey
	key   ed25519.PrivateKey
	flags byte
}

func newTouchKey(tb testing.TB, flags byte) *touchKey {
	tb.Helper()
	key := ed25519.NewKeyFromSeed(append(make([]byte, 31), 99))
	pub, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, key.Public().(ed25519.PublicKey), "ssh:"}))
	if err != nil {
		tb.Fatal(err)
	}
	return &touchKey{pub, key, flags}
}

func (k *touchKey) PublicKey() ssh.PublicKey { return k.pub }

func (k *touchKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	const counter = 7
	app, msg := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	signed := append(app[:], k.flags)
	signed = binary.BigEndian.AppendUint32(signed, counter)
	signed = append(signed, msg[:]...)
	return &ssh.Signature{
		Format: ssh.KeyAlgoSKED25519,
		Blob:   ed25519.Sign(k.key, signed),
		Rest:   binary.BigEndian.AppendUint32([]byte{k.flags}, counter),
	}, nil
}
