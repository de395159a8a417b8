package papers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// An EnrolSecret is what a server is given to join by an enrolment key: which
// entry of the policy, with which tags, and the secret itself. It is kept in a
// file with mode 0600.
//
// Its text is one line of three words:
//
//	ENTRY TAG[,TAG…] enrolkey:…
type EnrolSecret struct {
	Entry string
	Tags  []string // exactly the entry's, sorted
	Key   key.EnrolPrivate
}

const maxEnrolSecret = 8 << 10

// Secret is the text, for its file and nothing else.
func (s EnrolSecret) Secret() string {
	return s.Entry + " " + strings.Join(s.Tags, ",") + " " + s.Key.Secret()
}

// String does not show the secret.
func (s EnrolSecret) String() string {
	return s.Entry + " " + strings.Join(s.Tags, ",") + " " + s.Key.String()
}

// ParseEnrolSecret reads what Secret writes. Errors do not repeat the text.
func ParseEnrolSecret(text string) (s EnrolSecret, err error) {
	if len(text) > maxEnrolSecret {
		return s, errors.New("enrolment secret: too long")
	}
	f := strings.Fields(text)
	if len(f) != 3 {
		return s, errors.New("enrolment secret: want ENTRY TAG[,TAG…] enrolkey:…")
	}
	s.Entry, s.Tags = f[0], strings.Split(f[1], ",")
	if err := acl.CheckName("enrolment", s.Entry); err != nil {
		return s, fmt.Errorf("enrolment secret: %w", err)
	}
	for _, t := range s.Tags {
		if err := acl.CheckName("tag", t); err != nil {
			return s, fmt.Errorf("enrolment secret: %w", err)
		}
	}
	if !slices.IsSorted(s.Tags) || len(s.Tags) > maxTags {
		return s, errors.New("enrolment secret: tags are not sorted")
	}
	if s.Key, err = key.ParseEnrolPrivate(f[2]); err != nil {
		return s, fmt.Errorf("enrolment secret: %w", err)
	}
	return s, nil
}

// Proof is the proof that the secret makes for a node.
func (s EnrolSecret) Proof(network key.NetworkID, id key.IdentityPublic, name string) Proof {
	return Proof{
		Tags: s.Tags, Kind: ProofEnrolment, Entry: s.Entry,
		Signature: s.Key.Sign(EnrolText(network, id, name, s.Tags)),
	}
}
