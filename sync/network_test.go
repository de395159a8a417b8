package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/sync/verify"
)

// A network is the keys of one whose first commit Alice signs, and the secret of
// its enrolment entry "fleet".
type network struct {
	*netmaptest.World
	tb    testing.TB
	fleet papers.EnrolSecret
}

func found(tb testing.TB) *network {
	tb.Helper()
	n := &network{
		&netmaptest.World{Now: time.Now().UTC().Truncate(time.Second), Seal: key.NewSeal()}, tb,
		papers.EnrolSecret{Entry: "fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()},
	}
	var err error
	for name, into := range map[string]*trust.SigningKey{"root-1": &n.RootKey, "policy-1": &n.PolicyKey, "admission-1": &n.AdmissionKey} {
		if *into, err = trust.NewSigningKey(name); err != nil {
			tb.Fatal(err)
		}
	}
	n.Root, err = trust.NewRoot(trust.Root{
		Version: 1, Epoch: 1, Issued: n.Now,
		RootThreshold: 1, RootKeys: []trust.VKey{n.RootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{n.PolicyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{n.AdmissionKey.Public()},
		SealKeys: []key.SealPublic{n.Seal.Public()}, Signers: []string{n.signer("alice")},
	})
	if err != nil {
		tb.Fatal(err)
	}
	doc, err := trust.Sign(n.Root.Text(), n.RootKey)
	if err != nil {
		tb.Fatal(err)
	}
	n.Network, n.Roots = n.Root.Network, [][]byte{doc}
	return n
}

// person is somebody with a signing key, the same for the same name.
func (n *network) person(name string) *verify.Key {
	n.tb.Helper()
	seed := sha256.Sum256([]byte(name))
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		n.tb.Fatal(err)
	}
	k, err := verify.NewKey(signer)
	if err != nil {
		n.tb.Fatal(err)
	}
	return k
}

func (n *network) signer(name string) string {
	return fmt.Sprintf("%s@acme.example namespaces=\"git\" %s", name, n.person(name).Public())
}

// signers is a file trust/allowed_signers.
func (n *network) signers(name string) string { return n.signer(name) + "\n" }

// join has a new node ask to join by the enrolment entry, and waits for its
// admission. The node is gone then.
func (n *network) join(ctx context.Context, c *coordtest.Coordinator, name string) (*papers.Admission, error) {
	id := key.NewIdentity()
	msg, err := papers.NewJoin(n.Network, id, name, time.Now(), n.Seal.Public(), n.fleet.Proof(n.Network, id.Public(), name))
	if err != nil {
		return nil, err
	}
	api := c.Agent(id)
	s, err := api.Follow(ctx, connect.NewRequest(&wire.FollowRequest{Version: "test"}))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := api.Join(ctx, connect.NewRequest(&wire.JoinRequest{Join: msg})); err != nil {
		return nil, err
	}
	for s.Receive() {
		if why := s.Msg().GetRefused(); why != "" {
			return nil, fmt.Errorf("%s is refused: %s", name, why)
		}
		if note := s.Msg().GetAdmission(); len(note) > 0 {
			return papers.OpenAdmission(note, n.Root)
		}
	}
	return nil, fmt.Errorf("%s is not admitted: %w", name, s.Err())
}
