package key

import (
	"crypto/rand"
	"crypto/subtle"
)

// A secret holds the 32 bytes of a private key behind two pointers. Package fmt
// does not ask a value's methods how to print it where the way there leads
// through an unexported field, nor where the verb is %p: it prints what it
// finds, through one pointer too where the verb does not suit pointers. Here it
// finds an address. The zero secret is 32 zero bytes.
type secret struct{ p **[size]byte }

func newSecret(b [size]byte) secret {
	p := &b
	return secret{&p}
}

// randomSecret cannot fail: crypto/rand ends the process instead.
func randomSecret() secret {
	s := newSecret([size]byte{})
	rand.Read(s.bytes()[:])
	return s
}

// bytes are the secret's own; whoever asks for them does not modify them.
func (s secret) bytes() *[size]byte {
	if s.p == nil {
		return new([size]byte)
	}
	return *s.p
}

func (s secret) equal(o secret) bool {
	return subtle.ConstantTimeCompare(s.bytes()[:], o.bytes()[:]) == 1
}

// secretMark is what a private key prints as, whatever the verb.
func secretMark(prefix string) string { return prefix + "(secret)" }
