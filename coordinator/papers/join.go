package papers

import (
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	joinType  = "writ/join/v1"
	proofType = "writ/proof/v1"

	// MaxJoin is the largest join request with its signature, in bytes: room
	// for an identity provider's token, sealed.
	MaxJoin = 64 << 10
)

// A Join is a request to become a node.
type Join struct {
	Network  key.NetworkID
	Identity key.IdentityPublic
	Name     string // the name asked for
	Issued   time.Time
	Proof    []byte // sealed

	hash key.Hash
}

// Hash is the hash of the request's text.
func (j *Join) Hash() key.Hash { return j.hash }

// Text is the request without its signature: what is signed.
func (j *Join) Text() string {
	w := body.NewWriter(joinType)
	w.Line("network", j.Network)
	w.Line("identity", j.Identity)
	w.Line("name", j.Name)
	w.Line("issued", j.Issued)
	w.Line("proof", base64.RawURLEncoding.EncodeToString(j.Proof))
	return w.String()
}

// A ProofKind is how a node shows that it may join.
type ProofKind string

// The kinds of proofs.
const (
	ProofPin       ProofKind = "pin"       // Git names the identity key
	ProofEnrolment ProofKind = "enrolment" // signed by an enrolment key
)

// A Proof is what only sync may read of a join request.
type Proof struct {
	Network   key.NetworkID
	Identity  key.IdentityPublic
	Name      string
	Tags      []string // exactly those of the enrolment entry, sorted
	Kind      ProofKind
	Entry     string // the enrolment entry's name
	Signature []byte // the enrolment key's, over EnrolText
}

// EnrolText is what an enrolment key signs.
func EnrolText(network key.NetworkID, id key.IdentityPublic, name string, tags []string) []byte {
	w := body.NewWriter("writ-enrol/v1")
	w.Line("network", network)
	w.Line("identity", id)
	w.Line("name", name)
	for _, t := range tags {
		w.Line("tag", t)
	}
	return []byte(w.String())
}

// Text is the proof as it is sealed.
func (p *Proof) Text() string {
	w := body.NewWriter(proofType)
	w.Line("network", p.Network)
	w.Line("identity", p.Identity)
	w.Line("name", p.Name)
	for _, t := range p.Tags {
		w.Line("tag", t)
	}
	w.Line("kind", p.Kind)
	w.Line("entry", textOrNone(p.Entry))
	w.Line("signature", textOrNone(base64.RawURLEncoding.EncodeToString(p.Signature)))
	return w.String()
}

func textOrNone(s string) string {
	if s == "" {
		return body.None
	}
	return s
}

func sealInfo(network key.NetworkID) []byte { return []byte(proofType + "\n" + network.String()) }

// NewJoin makes and signs a request: the proof's network, identity and name are
// filled in, and it is sealed to sync's key.
func NewJoin(network key.NetworkID, k key.IdentityPrivate, name string, at time.Time, to key.SealPublic, p Proof) ([]byte, error) {
	p.Network, p.Identity, p.Name = network, k.Public(), name
	if _, err := parseProof(p.Text()); err != nil {
		return nil, err
	}
	sealed, err := to.Seal(sealInfo(network), []byte(p.Text()))
	if err != nil {
		return nil, fmt.Errorf("join request: %w", err)
	}
	j := Join{Network: network, Identity: k.Public(), Name: name, Issued: at, Proof: sealed}
	if _, err := parseJoin(j.Text()); err != nil {
		return nil, err
	}
	return trust.SignAs(j.Text(), k)
}

func parseJoin(text string) (*Join, error) {
	j := &Join{hash: key.HashOf([]byte(text))}
	r := body.NewReader(joinType, text)
	j.Network = body.Value(r, "network", key.ParseNetworkID)
	j.Identity = body.Value(r, "identity", key.ParseIdentityPublic)
	j.Name = body.Value(r, "name", checked(acl.CheckLabel, "node"))
	j.Issued = r.Time("issued", false)
	j.Proof = body.Value(r, "proof", base64.RawURLEncoding.Strict().DecodeString)
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("join request: %w", err)
	case j.Text() != text:
		return nil, errors.New("join request: not in canonical form")
	}
	return j, nil
}

// OpenJoin verifies that a request is the one of the node with this identity
// key, and parses it.
func OpenJoin(msg []byte, network key.NetworkID, id key.IdentityPublic) (*Join, error) {
	text, err := trust.OpenFrom(msg, MaxJoin, id)
	if err != nil {
		return nil, fmt.Errorf("join request: %w", err)
	}
	j, err := parseJoin(text)
	switch {
	case err != nil:
		return nil, err
	case j.Network != network:
		return nil, fmt.Errorf("join request: of network %s, want %s", j.Network, network)
	case !j.Identity.Equal(id):
		return nil, errors.New("join request: about another node than its signer")
	}
	return j, nil
}

// Unseal opens the proof of a request and checks that it is about that request.
// What it proves is sync's to judge.
func (j *Join) Unseal(k key.SealPrivate) (*Proof, error) {
	text, err := k.Open(sealInfo(j.Network), j.Proof)
	if err != nil {
		return nil, fmt.Errorf("join proof: %w", err)
	}
	p, err := parseProof(string(text))
	switch {
	case err != nil:
		return nil, err
	case p.Network != j.Network, !p.Identity.Equal(j.Identity), p.Name != j.Name:
		return nil, errors.New("join proof: about another request")
	}
	return p, nil
}

func parseProof(text string) (*Proof, error) {
	p := &Proof{}
	r := body.NewReader(proofType, text)
	p.Network = body.Value(r, "network", key.ParseNetworkID)
	p.Identity = body.Value(r, "identity", key.ParseIdentityPublic)
	p.Name = body.Value(r, "name", checked(acl.CheckLabel, "node"))
	p.Tags = body.Values(r, "tag", maxTags, checked(acl.CheckName, "tag"))
	p.Kind = ProofKind(r.String("kind"))
	p.Entry = body.Optional(r, "entry", checked(acl.CheckName, "enrolment"))
	p.Signature = body.Optional(r, "signature", base64.RawURLEncoding.Strict().DecodeString)
	err := r.Err()
	switch {
	case err != nil:
	case p.Kind == ProofPin:
		if p.Entry != "" || len(p.Signature) != 0 {
			err = errors.New("a pin has no entry and no signature")
		}
	case p.Kind == ProofEnrolment:
		if p.Entry == "" || len(p.Signature) == 0 {
			err = errors.New("an enrolment needs an entry and a signature")
		}
	default:
		err = fmt.Errorf("unknown kind %q", p.Kind)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("join proof: %w", err)
	case !distinctSorted(p.Tags):
		return nil, errors.New("join proof: tags are not sorted, or one stands twice")
	case p.Text() != text:
		return nil, errors.New("join proof: not in canonical form")
	}
	return p, nil
}
