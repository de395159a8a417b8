package papers

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func filled(b byte) (out [32]byte) {
	for i := range out {
		out[i] = b
	}
	return out
}

// named is the signing key of a name and a seed of 32 equal bytes.
func named(name string, b byte) trust.SigningKey {
	seed := filled(b)
	vkey := must(note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)))
	hash := strings.Split(vkey, "+")[1]
	return must(trust.ParseSigningKey("PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...))))
}

// The keys of the vectors.
var (
	noon   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	r1     = named("root-1", 1)
	p1     = named("policy-1", 11)
	a1, a2 = named("admission-1", 21), named("admission-2", 22)
	alice  = key.IdentityPrivateFromSeed(filled(31))
	ledger = key.IdentityPrivateFromSeed(filled(32))
	seal   = must(key.ParseSealPrivate("sealkey:aqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb6ibbeirq"))
	enrol  = must(key.ParseEnrolPrivate("enrolkey:amcakbqhbaequcymbuha6earcijrifiwc4mbsgq3dqor4hzaeera"))
	wgKey  = must(key.ParseWGPublic("wgpub:vopsmkgdexaud2p3eqypcbufb5rjgc6d6cys3442tockjhd4duja"))
)

// root names a1 and a2, both of which must sign admissions.
var root = sync.OnceValue(func() *trust.Root {
	return must(trust.NewRoot(trust.Root{
		Version: 1, Epoch: 1, Issued: noon,
		RootThreshold: 1, RootKeys: []trust.VKey{r1.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{p1.Public()},
		AdmissionThreshold: 2, AdmissionKeys: []trust.VKey{a1.Public(), a2.Public()},
		SealKeys: []key.SealPublic{seal.Public()},
	}))
})

func network() key.NetworkID { return root().Network }

// serverAdmission is of a tagged node, the first of the log.
func serverAdmission() *Admission {
	return must(NewAdmission(Admission{
		Network: network(), Log: 1, Identity: ledger.Public(), Name: "ledger-1",
		IPv4: netip.MustParseAddr("100.64.0.3"), IPv6: Address6(network(), ledger.Public()),
		Tags: []string{"accounting", "backup"}, Basis: Basis{"enrolment", "ledger-fleet"},
		Decided: trust.Position{Epoch: 1, Seq: 1795000000}, Issued: noon, Serial: 1,
	}))
}

// userAdmission is of a person's node, with an end.
func userAdmission() *Admission {
	return must(NewAdmission(Admission{
		Network: network(), Log: 2, Prev: serverAdmission().Hash(), Identity: alice.Public(), Name: "alice-1",
		IPv4: netip.MustParseAddr("100.64.0.4"), IPv6: Address6(network(), alice.Public()),
		User:  &acl.User{Email: "alice@acme.example", Issuer: "https://login.acme.example", Subject: "00u-1"},
		Basis: Basis{"pin", "alice-1"}, Decided: trust.Position{Epoch: 1, Seq: 1795000000},
		Issued: noon, Expires: noon.Add(720 * time.Hour), Serial: 7,
	}))
}

func exampleRecord() Record {
	return Record{
		Network: network(), Node: ledger.Public().NodeID(), Serial: noon.Unix(), WG: wgKey,
		Relays: []string{"fra", "ams"}, Issued: noon, Expires: noon.Add(24 * time.Hour),
		Posture: map[string]string{"os": "linux", "osVersion": "13", "custom:diskEncrypted": "true"},
	}
}

func exampleAck() Ack {
	return Ack{
		Network: network(), Node: ledger.Public().NodeID(), Position: trust.Position{Epoch: 1, Seq: 1795000000},
		Manifest: key.HashOf([]byte("manifest")), Digest: key.HashOf([]byte("digest")), Issued: noon,
	}
}

func exampleProof() Proof {
	tags := []string{"accounting", "backup"}
	return Proof{
		Network: network(), Identity: ledger.Public(), Name: "ledger-1", Tags: tags, Kind: ProofEnrolment, Entry: "ledger-fleet",
		Signature: enrol.Sign(EnrolText(network(), ledger.Public(), "ledger-1", tags)),
	}
}

// sealedProof is exampleProof sealed to seal: sealing is random, so it was done
// once.
func sealedProof() []byte {
	b := must(os.ReadFile("testdata/sealed.hex"))
	return must(hex.DecodeString(strings.TrimSpace(string(b))))
}

func exampleJoin() Join {
	return Join{Network: network(), Identity: ledger.Public(), Name: "ledger-1", Issued: noon, Proof: sealedProof()}
}

// A document is a note that is accepted: how it is signed, and how it is opened.
type document struct {
	text string
	sign func(text string) []byte
	open func(msg []byte) (text string, err error)
}

func (d document) msg() []byte { return d.sign(d.text) }

func byAdmissionKeys(text string) []byte { return must(trust.Sign(text, a1, a2)) }
func byLedger(text string) []byte        { return must(trust.SignAs(text, ledger)) }

var documents = sync.OnceValue(func() map[string]document {
	admission := func(msg []byte) (string, error) {
		a, err := OpenAdmission(msg, root())
		if err != nil {
			return "", err
		}
		return a.Text(), nil
	}
	record, ack, join := exampleRecord(), exampleAck(), exampleJoin()
	return map[string]document{
		"admission-server": {serverAdmission().Text(), byAdmissionKeys, admission},
		"admission-user":   {userAdmission().Text(), byAdmissionKeys, admission},
		"record": {record.Text(), byLedger, func(msg []byte) (string, error) {
			r, err := OpenRecord(msg, network(), ledger.Public())
			if err != nil {
				return "", err
			}
			return r.Text(), nil
		}},
		"ack": {ack.Text(), byLedger, func(msg []byte) (string, error) {
			a, err := OpenAck(msg, network(), ledger.Public())
			if err != nil {
				return "", err
			}
			return a.Text(), nil
		}},
		"join": {join.Text(), byLedger, func(msg []byte) (string, error) {
			j, err := OpenJoin(msg, network(), ledger.Public())
			if err != nil {
				return "", err
			}
			return j.Text(), nil
		}},
	}
})

// The notes in testdata are what other implementations must write and read: a
// change of them is a change of the format.
func TestVectors(t *testing.T) {
	if *update {
		if _, err := os.Stat("testdata/sealed.hex"); err != nil {
			p := exampleProof()
			sealed := must(seal.Public().Seal(sealInfo(network()), []byte(p.Text())))
			golden(t, "testdata/sealed.hex", hex.EncodeToString(sealed)+"\n")
		}
	}
	golden(t, "testdata/root.txt", string(must(trust.Sign(root().Text(), r1))))
	for name, d := range documents() {
		golden(t, "testdata/"+name+".txt", string(d.msg()))
		if text, err := d.open(d.msg()); err != nil || text != d.text {
			t.Errorf("%s: got\n%s\n%v", name, text, err)
		}
	}
	p := exampleProof()
	golden(t, "testdata/proof.txt", p.Text())
	golden(t, "testdata/enrol.txt", string(EnrolText(p.Network, p.Identity, p.Name, p.Tags)))
	pin := Proof{Network: network(), Identity: alice.Public(), Name: "alice-1", Kind: ProofPin}
	golden(t, "testdata/proof-pin.txt", pin.Text())
	golden(t, "testdata/addresses.txt", fmt.Sprintf("network %s\nprefix %s\nidentity %s\naddress %s\nidentity %s\naddress %s\n",
		network(), Prefix6(network()), alice.Public(), Address6(network(), alice.Public()), ledger.Public(), Address6(network(), ledger.Public())))
	golden(t, "testdata/joinstring.txt", exampleJoinString().String()+"\n")
}
