package trust

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	manifestType = "writ/manifest/v1"

	// MaxManifest is the largest manifest with its signatures, in bytes.
	MaxManifest = 16 << 10

	// MaxAhead is how far ahead of a verifier's clock a document may be issued:
	// more than clocks differ that are set at all.
	MaxAhead = 10 * time.Minute
)

// A Commit names a Git commit: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits.
type Commit string

// ParseCommit reads "git:HEX".
func ParseCommit(s string) (Commit, error) {
	h, ok := strings.CutPrefix(s, "git:")
	_, err := hex.DecodeString(h)
	if !ok || err != nil || len(h) != 40 && len(h) != 64 || strings.ToLower(h) != h {
		return "", errors.New("commit: want git: and 40 or 64 lower-case hexadecimal digits")
	}
	return Commit(h), nil
}

// Short is the commit as people write it.
func (c Commit) Short() string { return string(c[:min(7, len(c))]) }

// text is the commit as documents write it.
func (c Commit) text() string {
	if c == "" {
		return body.None
	}
	return "git:" + string(c)
}

// A Position orders revisions: by epoch, then by seq.
type Position struct{ Epoch, Seq int64 }

// Compare is -1, 0 or +1 as p comes before, is, or comes after o.
func (p Position) Compare(o Position) int {
	switch {
	case p.Epoch != o.Epoch:
		return sign(p.Epoch - o.Epoch)
	default:
		return sign(p.Seq - o.Seq)
	}
}

func (p Position) String() string { return fmt.Sprintf("(%d, %d)", p.Epoch, p.Seq) }

func sign(n int64) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// A Manifest is one revision of the policy.
type Manifest struct {
	Network     key.NetworkID
	Root        key.Hash // of the root document in force
	Position             // (epoch, seq)
	Prev        key.Hash // of the previous manifest; zero for the first
	Commit      Commit
	Base        Commit // applied before; empty for the first
	Source      key.Hash
	Compiler    string // "writ/0.1.0"
	Issued      time.Time
	Leaves      int64 // size of the tree
	Tree        key.Hash
	NetworkLeaf key.Hash
	RelaysLeaf  key.Hash
	Ended       key.Hash
	EndedNumber int64
	Inventory   key.Hash // head of the admission log judged; zero when it is empty
	Origins     key.Hash // zero without
	Changes     key.Hash // zero without: agents then need proofs

	hash key.Hash
}

// Hash is the hash of the manifest's text.
func (m *Manifest) Hash() key.Hash { return m.hash }

// Text is the manifest without signatures: what is signed.
func (m *Manifest) Text() string {
	w := body.NewWriter(manifestType)
	w.Line("network", m.Network)
	w.Line("root", m.Root)
	w.Line("epoch", m.Epoch)
	w.Line("seq", m.Seq)
	w.Line("prev", orNone(m.Prev))
	w.Line("commit", m.Commit.text())
	w.Line("base", m.Base.text())
	w.Line("source", m.Source)
	w.Line("compiler", m.Compiler)
	w.Line("issued", m.Issued)
	w.Line("leaves", m.Leaves)
	w.Line("tree", m.Tree)
	w.Line("network-leaf", m.NetworkLeaf)
	w.Line("relays-leaf", m.RelaysLeaf)
	w.Line("ended", m.Ended)
	w.Line("ended-number", m.EndedNumber)
	w.Line("inventory", orNone(m.Inventory))
	w.Line("origins", orNone(m.Origins))
	w.Line("changes", orNone(m.Changes))
	return w.String()
}

// NewManifest checks and completes a manifest, ready to be signed.
func NewManifest(m Manifest) (*Manifest, error) { return parseManifest(m.Text()) }

func parseManifest(text string) (*Manifest, error) {
	m := &Manifest{hash: key.HashOf([]byte(text))}
	r := body.NewReader(manifestType, text)
	m.Network = body.Value(r, "network", key.ParseNetworkID)
	m.Root = body.Value(r, "root", key.ParseHash)
	m.Epoch = r.Int("epoch")
	m.Seq = r.Int("seq")
	m.Prev = body.Optional(r, "prev", key.ParseHash)
	m.Commit = body.Value(r, "commit", ParseCommit)
	m.Base = body.Optional(r, "base", ParseCommit)
	m.Source = body.Value(r, "source", key.ParseHash)
	m.Compiler = r.String("compiler")
	m.Issued = r.Time("issued", false)
	m.Leaves = r.Int("leaves")
	m.Tree = body.Value(r, "tree", key.ParseHash)
	m.NetworkLeaf = body.Value(r, "network-leaf", key.ParseHash)
	m.RelaysLeaf = body.Value(r, "relays-leaf", key.ParseHash)
	m.Ended = body.Value(r, "ended", key.ParseHash)
	m.EndedNumber = r.Int("ended-number")
	m.Inventory = body.Optional(r, "inventory", key.ParseHash)
	m.Origins = body.Optional(r, "origins", key.ParseHash)
	m.Changes = body.Optional(r, "changes", key.ParseHash)
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("manifest: %w", err)
	case m.Epoch < 1:
		return nil, errors.New("manifest: epoch 0")
	case m.Seq < m.Issued.Unix():
		return nil, errors.New("manifest: seq is below the time it was issued")
	case m.Text() != text:
		return nil, errors.New("manifest: not in canonical form")
	}
	return m, nil
}

// OpenManifest verifies a manifest's signatures under the newest root document
// and parses it. It does not compare it with the one held: see package netmap.
func OpenManifest(msg []byte, root *Root) (*Manifest, error) {
	text, err := Open(msg, MaxManifest, root.PolicyKeys, root.PolicyThreshold)
	if errors.Is(err, ErrUnsigned) {
		var glass error // break-glass
		if text, glass = Open(msg, MaxManifest, root.RootKeys, root.RootThreshold); glass == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := parseManifest(text)
	switch {
	case err != nil:
		return nil, err
	case m.Network != root.Network:
		return nil, fmt.Errorf("manifest: of network %s, want %s", m.Network, root.Network)
	case m.Epoch != root.Epoch:
		return nil, fmt.Errorf("manifest: of epoch %d, the root document says %d", m.Epoch, root.Epoch)
	}
	return m, nil
}
