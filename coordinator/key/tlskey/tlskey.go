// Package tlskey lets two programs of a Writ network meet over TLS 1.3, each
// proving its Ed25519 identity key and nothing else. Nodes, relays and the
// coordinator use it.
//
// A certificate here is an envelope for a public key. There is no authority,
// no name and no date to check: who may hold a key is decided by signed
// documents (the pin of a relay or coordinator, the papers of a node), and
// that the peer holds it is proven by TLS itself, which has it sign the
// handshake's transcript (RFC 8446, section 4.4.3).
//
// # The flow
//
//  1. The client opens TLS 1.3 without a session to resume. Older versions are
//     refused.
//  2. The server sends the certificate of its key. The client requires that
//     the key equals its pin, byte for byte, before it sends its own.
//  3. The client sends the certificate of its key, encrypted. A client without
//     one (a load balancer's health check) may connect; it has no identity,
//     and PeerKey says so.
//
// # The certificate
//
// One X.509 certificate, DER, at most MaxCertificate bytes: Ed25519 subject
// key, signed by itself, serial number 1, the node id as common name, digital
// signature as its use for clients and servers. It is valid from 2020 to the
// end of 9999, so that a node whose clock was lost can still be told the time.
// Ed25519 signatures are deterministic, and so the same key always has the
// same certificate, which tells an observer nothing that the key does not.
//
// # What is refused
//
//   - TLS below 1.3, a resumed session
//   - a chain of more than one certificate, or one above MaxCertificate
//   - a key that is not Ed25519: RSA, ECDSA, anything to come
//   - on the client: no certificate, or a key other than the pin (PinError)
//
// Dates, names, extensions and the certificate's own signature are read by
// nobody: they add nothing to what TLS has proven.
package tlskey

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// MaxCertificate bounds a peer's certificate, in bytes of DER. The ones made
// here take under 400; the rest is room for fields that others may add.
const MaxCertificate = 1024

// A PinError says that a server holds another key than the pinned one: another
// machine answers at this address, or the signed documents name an older key.
type PinError struct {
	Got, Want key.IdentityPublic
}

func (e *PinError) Error() string {
	return fmt.Sprintf("server key: %v is not the pinned %v", e.Got, e.Want)
}

// ErrNoKey is PeerKey's answer for a client that showed no certificate.
var ErrNoKey = errors.New("peer key: the peer showed no certificate")

// Certificate makes the certificate of an identity key. The same key gives the
// same bytes.
func Certificate(id key.IdentityPrivate) (tls.Certificate, error) {
	priv := id.Ed25519()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.Public().NodeID().String()},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, section 4.1.2.5: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv, Leaf: leaf}, nil
}

// ClientConfig is the TLS configuration of a client that is self and speaks to
// the holder of pin alone. The caller may set NextProtos.
func ClientConfig(self key.IdentityPrivate, pin key.IdentityPublic) *tls.Config {
	cert := sync.OnceValues(func() (*tls.Certificate, error) {
		c, err := Certificate(self)
		return &c, err
	})
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain and the name are not what is trusted here: VerifyConnection
		// compares the key itself with the pin, on every handshake.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert()
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			got, err := shownKey(cs)
			if err != nil {
				return err
			}
			if pin.IsZero() {
				return errors.New("server key: no pin to compare it with")
			}
			if !got.Equal(pin) {
				return &PinError{Got: got, Want: pin}
			}
			return nil
		},
	}
}

// ServerConfig is the TLS configuration of a server that is self. It asks
// every client for a certificate and refuses one that is not as this package
// makes them; whether a client may do without is the caller's to decide, by
// PeerKey. The caller may set NextProtos.
func ServerConfig(self key.IdentityPrivate) *tls.Config {
	cert := sync.OnceValues(func() (*tls.Certificate, error) {
		c, err := Certificate(self)
		return &c, err
	})
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // a resumed session proves no key afresh
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return cert()
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := shownKey(cs)
			if errors.Is(err, ErrNoKey) {
				return nil
			}
			return err
		},
	}
}

// PeerKey is the identity key that the other end of an established connection
// has proven to hold. It is ErrNoKey where the peer showed none.
func PeerKey(cs tls.ConnectionState) (key.IdentityPublic, error) {
	if !cs.HandshakeComplete {
		return key.IdentityPublic{}, errors.New("peer key: the TLS handshake is not complete")
	}
	return shownKey(cs)
}

// shownKey reads the key out of the certificate shown. While the handshake
// runs, it is only claimed.
func shownKey(cs tls.ConnectionState) (k key.IdentityPublic, err error) {
	if cs.Version != tls.VersionTLS13 {
		return k, fmt.Errorf("peer key: %s, want TLS 1.3", tls.VersionName(cs.Version))
	}
	if cs.DidResume {
		return k, errors.New("peer key: a resumed TLS session proves none")
	}
	switch n := len(cs.PeerCertificates); {
	case n == 0:
		return k, ErrNoKey
	case n > 1:
		return k, fmt.Errorf("peer key: a chain of %d certificates, want 1", n)
	}
	cert := cs.PeerCertificates[0]
	if n := len(cert.Raw); n > MaxCertificate {
		return k, fmt.Errorf("peer key: certificate of %d bytes, at most %d", n, MaxCertificate)
	}
	pub, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return k, fmt.Errorf("peer key: %v, want Ed25519", cert.PublicKeyAlgorithm)
	}
	return key.IdentityPublicFrom(pub)
}
