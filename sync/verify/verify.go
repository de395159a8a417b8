// Package verify says who signed a commit, or why nobody who may did. It is
// pure: bytes of a commit object, a list of allowed signers and a time go in, a
// verdict comes out.
//
// A commit is signed in the way of git commit -S with gpg.format=ssh: its header
// gpgsig holds an armored SSH signature (OpenSSH's PROTOCOL.sshsig) over the
// bytes of the commit without exactly the lines of that header. Steps, in order:
//
//  1. the bytes must hash to the name they came under
//  2. the commit must parse, strictly (package commit): among others one gpgsig
//     at most, and no header that Git would strip beside it
//  3. the signature must be an SSH signature in one armored block, nothing
//     before or after it; OpenPGP and X.509 are refused by name
//  4. namespace exactly "git", so that a signature over a file is none over a
//     commit; digest sha256 or sha512
//  5. a strong key: Ed25519, ECDSA on P-256, P-384 or P-521, RSA of at least
//     MinRSA bits with SHA-2, or the security-key forms of the first two with
//     the user's presence asserted. Not DSA, not certificates
//  6. the key is in the list, for the namespace and for the commit's time
//  7. the signature is the key's
//  8. the committer's time is not more than MaxAhead after now
//
// The list is looked up as git does it with ssh-keygen: the principals of the
// first line with this key that is valid at the time, and then, for one of them,
// any such line whose patterns match it and whose namespaces include git. As with git, a principal need not be the author's or
// committer's e-mail: the list says whose keys are trusted, and a merge made by
// a forge has a committer of its own.
//
// The commit's time is the committer's, which its signer chooses. An end in the
// list (valid-before) therefore documents a key's life and stops honest use
// after it; a key that was stolen is stopped by removing its line.
//
// What this package accepts, git verify-commit accepts; it refuses more.
package verify

import (
	"fmt"
	"time"

	"github.com/writmesh/writ/policy/source/commit"
)

const (
	// Namespace is the signature namespace of Git.
	Namespace = "git"
	// MinRSA is the least size of an RSA key, in bits: what is recommended
	// beyond 2030 (NIST SP 800-57), and OpenSSH's default since 2019.
	MinRSA = 3072
	// MaxAhead is how far a committer's clock may be ahead: the same tolerance
	// that the documents made from the commit have.
	MaxAhead = 10 * time.Minute
)

// A RawCommit is a commit's name and the bytes that Git stores under it.
type RawCommit struct {
	Hash  string
	Bytes []byte
}

// A Signer is who signed, as the list says it.
type Signer struct {
	// Principal is the list's name for the signer; it may be a pattern.
	Principal string
	// Line is where the list says so.
	Line int
	// Key is the key's fingerprint, as ssh-keygen -l prints it.
	Key string
}

// A Refusal names a commit and why it is not accepted.
type Refusal struct {
	Commit string // full hash
	Reason error
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("verify commit %s: %v", r.Commit[:min(len(r.Commit), 12)], r.Reason)
}

func (r *Refusal) Unwrap() error { return r.Reason }

// Commit says who signed a commit. Its error is a *Refusal.
func Commit(c RawCommit, signers *AllowedSigners, now time.Time) (Signer, error) {
	s, err := check(c, signers, now)
	if err != nil {
		return Signer{}, &Refusal{c.Hash, err}
	}
	return s, nil
}

// Range checks that every commit is signed, merge commits too, and returns who
// signed each. It names the first that is not.
func Range(commits []RawCommit, signers *AllowedSigners, now time.Time) ([]Signer, error) {
	out := make([]Signer, 0, len(commits))
	for _, c := range commits {
		s, err := Commit(c, signers, now)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func check(c RawCommit, signers *AllowedSigners, now time.Time) (Signer, error) {
	if len(c.Bytes) > commit.MaxSize {
		return Signer{}, fmt.Errorf("commit object has %d bytes; the limit is %d", len(c.Bytes), commit.MaxSize)
	}
	id, err := commit.ID("commit", c.Bytes)
	if err != nil {
		return Signer{}, err
	}
	if id != c.Hash {
		return Signer{}, fmt.Errorf("its bytes hash to %s", id)
	}
	parsed, err := commit.Parse(c.Bytes)
	if err != nil {
		return Signer{}, err
	}
	payload, armored, err := commit.Signature(c.Bytes)
	if err != nil {
		return Signer{}, err
	}
	sig, err := parseSignature(armored)
	if err != nil {
		return Signer{}, err
	}
	when := parsed.Committer.When
	who, err := signers.find(sig.PublicKey, Namespace, when)
	if err != nil {
		return Signer{}, err
	}
	if err := verifySignature(sig, payload); err != nil {
		return Signer{}, err
	}
	if when.After(now.Add(MaxAhead)) {
		return Signer{}, fmt.Errorf("committed at %s, which is still to come", when.Format(time.RFC3339))
	}
	return who, nil
}
