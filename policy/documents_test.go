package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/compile"
)

// documents writes one signed document of each kind into the current directory,
// all of one network. by-policy.note is an
// admission that a policy key signed, unknown.note a note of a kind that nobody
// knows:
//
//	root-1.note root-2.note manifest.note ended.note admission.note record.note
//	ack.note by-policy.note unknown.note
func documents(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: documents")
	}
	write := func(name string, msg []byte, err error) {
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs("."), name), msg, 0o644))
	}
	newKey := func(name string) trust.SigningKey {
		k, err := trust.NewSigningKey(name)
		ts.Check(err)
		return k
	}
	rootKey, policyKey, admissionKey := newKey("root-1"), newKey("policy-1"), newKey("admission-1")
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	doc := trust.Root{
		Version: 1, Epoch: 1, Issued: at,
		RootThreshold: 1, RootKeys: []trust.VKey{rootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{policyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{admissionKey.Public()},
		SealKeys: []key.SealPublic{key.NewSeal().Public()},
	}
	root, err := trust.NewRoot(doc)
	ts.Check(err)
	msg, err := trust.Sign(root.Text(), rootKey)
	write("root-1.note", msg, err)
	doc.Version, doc.Network, doc.Prev, doc.Issued = 2, root.Network, root.Hash(), at.Add(time.Hour)
	second, err := trust.NewRoot(doc)
	ts.Check(err)
	msg, err = trust.Sign(second.Text(), rootKey)
	write("root-2.note", msg, err)

	node := key.NewIdentity()
	ended, err := trust.NewEnded(trust.Ended{Network: root.Network, Epoch: 1, Number: 1, Issued: at, Nodes: map[key.NodeID]string{key.NewIdentity().Public().NodeID(): "revoked"}})
	ts.Check(err)
	msg, err = trust.Sign(ended.Text(), admissionKey)
	write("ended.note", msg, err)
	manifest, err := trust.NewManifest(trust.Manifest{
		Network: root.Network, Root: root.Hash(), Position: trust.Position{Epoch: 1, Seq: at.Unix()},
		Commit: trust.Commit(strings.Repeat("ab", 20)), Compiler: compile.Version, Issued: at,
		Leaves: 12, Ended: ended.Hash(), EndedNumber: 1,
	})
	ts.Check(err)
	msg, err = trust.Sign(manifest.Text(), policyKey)
	write("manifest.note", msg, err)
	admission, err := papers.NewAdmission(papers.Admission{
		Network: root.Network, Log: 1, Identity: node.Public(), Name: "ledger-1",
		IPv4: netip.MustParseAddr("100.64.0.3"), IPv6: papers.Address6(root.Network, node.Public()),
		Tags: []string{"accounting"}, Basis: papers.Basis{Kind: "enrolment", Name: "ledger-fleet"},
		Decided: trust.Position{Epoch: 1, Seq: at.Unix()}, Issued: at, Serial: 1,
	})
	ts.Check(err)
	msg, err = trust.Sign(admission.Text(), admissionKey)
	write("admission.note", msg, err)
	// The wrong key: policy keys admit nobody.
	msg, err = trust.Sign(admission.Text(), policyKey)
	write("by-policy.note", msg, err)
	msg, _, err = papers.SignRecord(papers.Record{
		Network: root.Network, Serial: 1, WG: key.NewWG().Public(), Issued: at, Expires: at.Add(24 * time.Hour),
	}, node)
	write("record.note", msg, err)
	msg, err = papers.SignAck(papers.Ack{
		Network: root.Network, Position: trust.Position{Epoch: 1, Seq: at.Unix()}, Manifest: manifest.Hash(), Issued: at,
	}, node)
	write("ack.note", msg, err)
	msg, err = trust.Sign("writ/unheard-of/v9\n", policyKey)
	write("unknown.note", msg, err)
}
