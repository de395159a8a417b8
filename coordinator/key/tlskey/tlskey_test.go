package tlskey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

// meet runs one handshake over loopback and says what each end made of it. A
// byte goes each way after it, because in TLS 1.3 a client only learns from the
// first read that its certificate was refused. (net.Pipe would not do: it has
// no buffer, and two ends that write at once, one an alert, wait for each other.)
func meet(t *testing.T, client, server *tls.Config) (cs, ss tls.ConnectionState, cerr, serr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		s := tls.Server(b, server)
		if serr = s.Handshake(); serr != nil {
			return
		}
		ss = s.ConnectionState()
		if _, serr = s.Write([]byte{1}); serr == nil {
			_, serr = s.Read(make([]byte, 1))
		}
	}()
	c := tls.Client(a, client)
	if cerr = c.Handshake(); cerr == nil {
		cs = c.ConnectionState()
		if _, cerr = c.Read(make([]byte, 1)); cerr == nil {
			_, cerr = c.Write([]byte{1})
		}
	}
	a.Close()
	<-done
	return
}

func TestBothEndsLearnTheOthersKey(t *testing.T) {
	node, relay := key.NewIdentity(), key.NewIdentity()
	cs, ss, cerr, serr := meet(t, ClientConfig(node, relay.Public()), ServerConfig(relay))
	if cerr != nil || serr != nil {
		t.Fatalf("handshake: client %v, server %v", cerr, serr)
	}
	if got, err := PeerKey(ss); err != nil || !got.Equal(node.Public()) {
		t.Errorf("server sees %v, %v; want %v", got, err, node.Public())
	}
	if got, err := PeerKey(cs); err != nil || !got.Equal(relay.Public()) {
		t.Errorf("client sees %v, %v; want %v", got, err, relay.Public())
	}
}

func TestOtherServerKeyIsAPinError(t *testing.T) {
	node, relay, other := key.NewIdentity(), key.NewIdentity(), key.NewIdentity()
	_, ss, cerr, serr := meet(t, ClientConfig(node, relay.Public()), ServerConfig(other))
	var pin *PinError
	if !errors.As(cerr, &pin) || !pin.Got.Equal(other.Public()) || !pin.Want.Equal(relay.Public()) {
		t.Errorf("client: got %v, want a PinError naming both keys", cerr)
	}
	if serr == nil {
		t.Error("server: the handshake succeeded")
	}
	if len(ss.PeerCertificates) != 0 {
		t.Error("the client showed its certificate to a server it does not trust")
	}
}

func TestZeroPinMatchesNothing(t *testing.T) {
	_, _, cerr, _ := meet(t, ClientConfig(key.NewIdentity(), key.IdentityPublic{}), ServerConfig(key.NewIdentity()))
	if cerr == nil {
		t.Error("a client without a pin trusts a server")
	}
}

func TestClientWithoutCertificateHasNoKey(t *testing.T) {
	relay := key.NewIdentity()
	_, ss, cerr, serr := meet(t, &tls.Config{InsecureSkipVerify: true}, ServerConfig(relay))
	if cerr != nil || serr != nil {
		t.Fatalf("handshake: client %v, server %v", cerr, serr)
	}
	if _, err := PeerKey(ss); !errors.Is(err, ErrNoKey) {
		t.Errorf("got %v, want ErrNoKey", err)
	}
}

// forged makes a certificate that differs from the house's in one respect.
func forged(t *testing.T, priv crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "x"},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	chain := forged(t, ed, nil)
	chain.Certificate = append(chain.Certificate, chain.Certificate[0])
	stolen, err := Certificate(key.NewIdentity())
	if err != nil {
		t.Fatal(err)
	}
	stolen.PrivateKey = ed

	for _, c := range []struct {
		name string
		cert tls.Certificate
		want string // in the error of the end that objects
	}{
		{"ecdsa", forged(t, ec, nil), "ECDSA, want Ed25519"},
		{"rsa", forged(t, rs, nil), "RSA, want Ed25519"},
		{"oversized", forged(t, ed, func(x *x509.Certificate) { x.DNSNames = []string{strings.Repeat("a", 2000)} }), "at most 1024"},
		{"chain", chain, "a chain of 2 certificates"},
		{"key_not_held", stolen, "invalid signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			relay := key.NewIdentity()
			client := ClientConfig(key.NewIdentity(), relay.Public())
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.cert, nil }
			_, _, _, serr := meet(t, client, ServerConfig(relay))
			if serr == nil || !strings.Contains(serr.Error(), c.want) {
				t.Errorf("server: got %v, want %q", serr, c.want)
			}

			server := ServerConfig(relay)
			server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.cert, nil }
			_, _, cerr, _ := meet(t, ClientConfig(key.NewIdentity(), relay.Public()), server)
			// The stolen certificate fails at the client by the pin, which it
			// compares first.
			if c.name == "key_not_held" {
				pin, _ := key.IdentityPublicFrom(stolen.Leaf.PublicKey.(ed25519.PublicKey))
				_, _, cerr, _ = meet(t, ClientConfig(key.NewIdentity(), pin), server)
			}
			if cerr == nil || !strings.Contains(cerr.Error(), c.want) {
				t.Errorf("client: got %v, want %q", cerr, c.want)
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	relay := key.NewIdentity()
	client := ClientConfig(key.NewIdentity(), relay.Public())
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, _, serr := meet(t, client, ServerConfig(relay)); serr == nil {
		t.Error("the server took TLS 1.2")
	}
	server := ServerConfig(relay)
	server.MinVersion, server.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, cerr, _ := meet(t, ClientConfig(key.NewIdentity(), relay.Public()), server); cerr == nil {
		t.Error("the client took TLS 1.2")
	}
}

func TestClocksDoNotMatter(t *testing.T) {
	for _, when := range []time.Time{time.Unix(0, 0), time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		relay := key.NewIdentity()
		client, server := ClientConfig(key.NewIdentity(), relay.Public()), ServerConfig(relay)
		client.Time = func() time.Time { return when }
		server.Time = client.Time
		if _, _, cerr, serr := meet(t, client, server); cerr != nil || serr != nil {
			t.Errorf("at %v: client %v, server %v", when, cerr, serr)
		}
	}
}

func TestSessionsAreNotResumed(t *testing.T) {
	relay := key.NewIdentity()
	client, server := ClientConfig(key.NewIdentity(), relay.Public()), ServerConfig(relay)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		cs, _, cerr, serr := meet(t, client, server)
		if cerr != nil || serr != nil || cs.DidResume {
			t.Fatalf("client %v, server %v, resumed %v; want a full handshake", cerr, serr, cs.DidResume)
		}
	}
}

func TestCertificateIsDeterministic(t *testing.T) {
	id := key.NewIdentity()
	a, err := Certificate(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Certificate(id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Certificate[0], b.Certificate[0]) {
		t.Error("the same key has two certificates")
	}
	if n := len(a.Certificate[0]); n >= 400 {
		t.Errorf("the certificate takes %d bytes, want under 400", n)
	}
}

func TestPeerKeyBeforeTheProof(t *testing.T) {
	cert, err := Certificate(key.NewIdentity())
	if err != nil {
		t.Fatal(err)
	}
	cs := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{cert.Leaf}}
	if _, err := PeerKey(cs); err == nil {
		t.Error("a key only claimed was taken for proven")
	}
}

// FuzzShownKey feeds whatever the X.509 parser lets through to the checks that
// run before anything is proven.
func FuzzShownKey(f *testing.F) {
	good, err := Certificate(key.NewIdentity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.Certificate[0])
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		k, err := PeerKey(tls.ConnectionState{
			Version: tls.VersionTLS13, HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert},
		})
		if err == nil && (cert.PublicKeyAlgorithm != x509.Ed25519 || len(der) > MaxCertificate) {
			t.Errorf("took %v (%v, %d bytes)", k, cert.PublicKeyAlgorithm, len(der))
		}
	})
}
