// Package trust holds the signed documents that say what a network obeys: root
// documents, manifests and ended lists.
//
// Every document is a C2SP signed note (c2sp.org/signed-note, Ed25519) whose
// text package body describes. Whoever reads one does it in this order: cap the
// size; check the signatures; count distinct public keys against the threshold;
// parse strictly; check against what is held. A document's hash is the SHA-256
// of its text, so that adding a signature does not change its name.
//
// # Root document
//
// The offline root keys sign it; it says which keys are in force. The network's
// id is the hash of version 1, which is why that version does not name it.
//
//	writ/root/v1
//	network net:…|none       none in version 1 only
//	version 1
//	prev sha256:…|none       hash of version - 1
//	epoch 1                  raised to restart seq after a stolen policy key
//	issued 2026-11-22T10:00:00Z
//	root-threshold 1
//	root-key NAME+HASH+KEY        1 or more lines, sorted
//	policy-threshold 1
//	policy-key NAME+HASH+KEY      sign manifests
//	admission-threshold 1
//	admission-key NAME+HASH+KEY   sign admissions and ended lists
//	seal-key sealpub:…            0 or more lines: join proofs are sealed to these
//	signer LINE                   0 or more lines of ssh-keygen(1)
//	                              allowed_signers: who may sign the first commit
//
// Version 1 is signed by its own root threshold; version n+1 by its own and by
// that of version n. A verifier refuses a version that is not the next, another
// network, a prev that is not the hash of the version held, an epoch that goes
// back, a threshold of 0 or above the number of keys, one public key twice in a
// role, and two keys of a role with one name and hash, whose signatures nobody
// could tell apart.
//
// # Manifest
//
// A manifest is one revision: a commit compiled, under (epoch, seq).
//
//	writ/manifest/v1
//	network net:…
//	root sha256:…            the root document under which it is signed
//	epoch 1                  that root's
//	seq 1795000000           above the previous; at least the Unix time of issue
//	prev sha256:…|none       the previous manifest
//	commit git:HEX           what was compiled
//	base git:HEX|none        the commit applied before
//	source sha256:…          the tree as package source hashes it
//	compiler writ/VERSION
//	issued 2026-11-22T10:00:00Z
//	leaves 12                the tree's size
//	tree sha256:…            its root
//	network-leaf sha256:…    H(leaf) of "network"
//	relays-leaf sha256:…     H(leaf) of "relays"
//	ended sha256:…           the ended list that goes with it
//	ended-number 3           that list's number
//	inventory sha256:…|none  head of the admission log that was judged
//	origins sha256:…|none    rule → file:line, commit and author
//	changes sha256:…|none    the change list since prev
//
// The policy threshold of the root signs it, or the root threshold itself
// (break-glass). A verifier refuses another network; a root that is not in its
// chain; an epoch other than its newest root's; an (epoch, seq) below the one it
// holds; the same (epoch, seq) with another hash, which is equivocation and keeps
// the old; and an issued time more than [MaxAhead] ahead of its clock.
//
// # Ended list
//
// The identity keys that are out, whatever their admissions say. It only grows
// within an epoch.
//
//	writ/ended/v1
//	network net:…
//	epoch 1
//	number 3                 above every earlier one of the epoch
//	issued 2026-11-22T10:00:00Z
//	node nid:… REASON        0 or more lines, sorted by the id's bytes: a word
//	                         that says why
//
// The admission threshold signs it, or the root threshold. A verifier refuses a
// lower number, the same number with another hash, another epoch, and a list
// that lacks a node of the list it holds in this epoch.
//
// # Vectors
//
// testdata has a note of each type with the keys that signed it, and under
// testdata/defects one file for each thing a reader refuses: the first line is
// the error, by which the layer that objects is known, and the rest the note.
//
// # Versions
//
// v1 of each: the only one. A new format is a new type line, published beside
// the old for a release.
package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	rootType = "writ/root/v1"

	// MaxRoot is the largest root document with its signatures, in bytes.
	MaxRoot = 64 << 10

	// maxKeys is the largest number of keys of one role: sumdb/note reads at
	// most 100 signatures.
	maxKeys = 32
)

// A Root is a root document.
type Root struct {
	Network key.NetworkID // of version 1 too, where it is computed
	Version int64
	Prev    key.Hash // zero in version 1
	Epoch   int64
	Issued  time.Time

	RootThreshold      int
	RootKeys           []VKey
	PolicyThreshold    int
	PolicyKeys         []VKey
	AdmissionThreshold int
	AdmissionKeys      []VKey

	SealKeys []key.SealPublic
	Signers  []string // allowed_signers lines

	hash key.Hash
}

// Hash is the hash of the document's text.
func (r *Root) Hash() key.Hash { return r.hash }

// Text is the document without signatures: what is signed.
func (r *Root) Text() string {
	w := body.NewWriter(rootType)
	if r.Version == 1 {
		w.Line("network", body.None)
	} else {
		w.Line("network", r.Network)
	}
	w.Line("version", r.Version)
	w.Line("prev", orNone(r.Prev))
	w.Line("epoch", r.Epoch)
	w.Line("issued", r.Issued)
	for _, role := range r.roles() {
		w.Line(role.name+"-threshold", *role.threshold)
		for _, k := range *role.keys {
			w.Line(role.name+"-key", k)
		}
	}
	for _, k := range r.SealKeys {
		w.Line("seal-key", k)
	}
	for _, s := range r.Signers {
		w.Line("signer", s)
	}
	return w.String()
}

type role struct {
	name      string
	threshold *int
	keys      *[]VKey
}

func (r *Root) roles() []role {
	return []role{
		{"root", &r.RootThreshold, &r.RootKeys},
		{"policy", &r.PolicyThreshold, &r.PolicyKeys},
		{"admission", &r.AdmissionThreshold, &r.AdmissionKeys},
	}
}

// NewRoot checks and completes a root document, ready to be signed: keys sorted,
// hash and, for version 1, network id computed.
func NewRoot(r Root) (*Root, error) {
	for _, role := range r.roles() {
		*role.keys = slices.SortedFunc(slices.Values(*role.keys), compareVKeys)
	}
	return parseRoot(r.Text())
}

func compareVKeys(a, b VKey) int { return strings.Compare(a.text, b.text) }

func parseRoot(text string) (*Root, error) {
	root := &Root{hash: key.HashOf([]byte(text))}
	r := body.NewReader(rootType, text)
	root.Network = body.Optional(r, "network", key.ParseNetworkID)
	root.Version = r.Int("version")
	root.Prev = body.Optional(r, "prev", key.ParseHash)
	root.Epoch = r.Int("epoch")
	root.Issued = r.Time("issued", false)
	for _, role := range root.roles() {
		*role.threshold = int(min(r.Int(role.name+"-threshold"), maxKeys+1))
		*role.keys = body.Values(r, role.name+"-key", maxKeys, ParseVKey)
	}
	root.SealKeys = body.Values(r, "seal-key", maxKeys, key.ParseSealPublic)
	root.Signers = r.Many("signer", 256)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("root document: %w", err)
	}
	first := root.Version == 1
	switch {
	case root.Version < 1:
		return nil, errors.New("root document: version 0")
	case root.Epoch < 1:
		return nil, errors.New("root document: epoch 0")
	case first != root.Network.IsZero(), first != root.Prev.IsZero():
		return nil, errors.New("root document: network and prev are none in version 1, and only there")
	}
	if first {
		root.Network = key.NetworkID(root.hash)
	}
	for _, role := range root.roles() {
		if n := *role.threshold; n < 1 || n > len(*role.keys) {
			return nil, fmt.Errorf("root document: %s threshold %d of %d keys", role.name, n, len(*role.keys))
		}
		for i, k := range *role.keys {
			if i > 0 && compareVKeys((*role.keys)[i-1], k) >= 0 {
				return nil, fmt.Errorf("root document: %s keys are not sorted", role.name)
			}
			if slices.ContainsFunc((*role.keys)[:i], k.Equal) {
				return nil, fmt.Errorf("root document: %s key %s stands twice", role.name, k.Name())
			}
			if slices.ContainsFunc((*role.keys)[:i], k.confusable) {
				return nil, fmt.Errorf("root document: two %s keys are both %s", role.name, k.id())
			}
		}
	}
	if root.Text() != text {
		return nil, errors.New("root document: not in canonical form")
	}
	return root, nil
}

// OpenFirstRoot verifies version 1 against the network's id.
func OpenFirstRoot(msg []byte, network key.NetworkID) (*Root, error) {
	r, err := openOwn(msg)
	switch {
	case err != nil:
		return nil, err
	case r.Version != 1:
		return nil, fmt.Errorf("root document: version %d, want 1", r.Version)
	case r.Network != network:
		return nil, fmt.Errorf("root document: of network %s, want %s", r.Network, network)
	}
	return r, nil
}

// OpenNextRoot verifies the version after prev.
func OpenNextRoot(msg []byte, prev *Root) (*Root, error) {
	r, err := openOwn(msg)
	if err != nil {
		return nil, err
	}
	if _, err := Open(msg, MaxRoot, prev.RootKeys, prev.RootThreshold); err != nil {
		return nil, fmt.Errorf("root document: by version %d: %w", prev.Version, err)
	}
	switch {
	case r.Network != prev.Network:
		return nil, fmt.Errorf("root document: of network %s, want %s", r.Network, prev.Network)
	case r.Version != prev.Version+1:
		return nil, fmt.Errorf("root document: version %d, want %d", r.Version, prev.Version+1)
	case r.Prev != prev.hash:
		return nil, errors.New("root document: prev is not the version held")
	case r.Epoch < prev.Epoch:
		return nil, fmt.Errorf("root document: epoch %d after %d", r.Epoch, prev.Epoch)
	}
	return r, nil
}

// openOwn checks a root document against its own threshold. Its keys are read
// before its signatures are checked, because they are in it; nothing else of it
// is believed until they are.
func openOwn(msg []byte) (*Root, error) {
	if len(msg) > MaxRoot {
		return nil, fmt.Errorf("root document of %d bytes: at most %d", len(msg), MaxRoot)
	}
	text, err := Text(msg)
	if err != nil {
		return nil, fmt.Errorf("root document: %w", err)
	}
	r, err := parseRoot(text)
	if err != nil {
		return nil, err
	}
	if _, err := Open(msg, MaxRoot, r.RootKeys, r.RootThreshold); err != nil {
		return nil, fmt.Errorf("root document: by itself: %w", err)
	}
	return r, nil
}

func orNone(h key.Hash) any {
	if h.IsZero() {
		return body.None
	}
	return h
}
