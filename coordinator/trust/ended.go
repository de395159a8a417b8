package trust

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	endedType = "writ/ended/v1"

	// MaxEnded is the largest ended list with its signatures, in bytes: some
	// ten thousand nodes in one epoch.
	MaxEnded = maxNote

	maxEndedNodes = MaxEnded / 60
)

// An Ended is an ended list: the identity keys that are out.
type Ended struct {
	Network key.NetworkID
	Epoch   int64
	Number  int64
	Issued  time.Time
	Nodes   map[key.NodeID]string // why, one word: "revoked", "pin", "enrolment", …

	hash key.Hash
}

// Hash is the hash of the list's text.
func (e *Ended) Hash() key.Hash { return e.hash }

// Has reports whether the node is out.
func (e *Ended) Has(n key.NodeID) bool {
	if e == nil {
		return false
	}
	_, ok := e.Nodes[n]
	return ok
}

// Text is the list without signatures: what is signed.
func (e *Ended) Text() string {
	w := body.NewWriter(endedType)
	w.Line("network", e.Network)
	w.Line("epoch", e.Epoch)
	w.Line("number", e.Number)
	w.Line("issued", e.Issued)
	ids := slices.SortedFunc(maps.Keys(e.Nodes), func(a, b key.NodeID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		w.Line("node", id.String()+" "+e.Nodes[id])
	}
	return w.String()
}

// NewEnded checks and completes a list, ready to be signed.
func NewEnded(e Ended) (*Ended, error) { return parseEnded(e.Text()) }

func parseEnded(text string) (*Ended, error) {
	e := &Ended{Nodes: make(map[key.NodeID]string), hash: key.HashOf([]byte(text))}
	r := body.NewReader(endedType, text)
	e.Network = body.Value(r, "network", key.ParseNetworkID)
	e.Epoch = r.Int("epoch")
	e.Number = r.Int("number")
	e.Issued = r.Time("issued", false)
	body.Values(r, "node", maxEndedNodes, func(s string) (struct{}, error) {
		id, reason, _ := strings.Cut(s, " ")
		n, err := key.ParseNodeID(id)
		if err == nil && (reason == "" || strings.Contains(reason, " ")) {
			err = errors.New("want an id and one word")
		}
		e.Nodes[n] = reason
		return struct{}{}, err
	})
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("ended list: %w", err)
	case e.Epoch < 1:
		return nil, errors.New("ended list: epoch 0")
	case e.Text() != text:
		return nil, errors.New("ended list: not in canonical form")
	}
	return e, nil
}

// OpenEnded verifies an ended list's signatures under the newest root document
// and parses it.
func OpenEnded(msg []byte, root *Root) (*Ended, error) {
	text, err := Open(msg, MaxEnded, root.AdmissionKeys, root.AdmissionThreshold)
	if errors.Is(err, ErrUnsigned) {
		var emergency error
		if text, emergency = Open(msg, MaxEnded, root.RootKeys, root.RootThreshold); emergency == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ended list: %w", err)
	}
	e, err := parseEnded(text)
	switch {
	case err != nil:
		return nil, err
	case e.Network != root.Network:
		return nil, fmt.Errorf("ended list: of network %s, want %s", e.Network, root.Network)
	case e.Epoch != root.Epoch:
		return nil, fmt.Errorf("ended list: of epoch %d, the root document says %d", e.Epoch, root.Epoch)
	}
	return e, nil
}

// Follows checks that e may replace the list held. It returns false and no
// error where e is that list.
func (e *Ended) Follows(held *Ended) (bool, error) {
	switch {
	case held == nil, e.Epoch > held.Epoch:
		return true, nil
	case e.Epoch < held.Epoch:
		return false, fmt.Errorf("ended list: epoch %d, %d is held", e.Epoch, held.Epoch)
	case e.Number < held.Number:
		return false, fmt.Errorf("ended list: number %d, %d is held", e.Number, held.Number)
	case e.Number == held.Number && e.hash != held.hash:
		return false, fmt.Errorf("ended list: two of number %d: %s and %s", e.Number, e.hash.Short(), held.hash.Short())
	case e.Number == held.Number:
		return false, nil
	}
	for id := range held.Nodes {
		if !e.Has(id) {
			return false, fmt.Errorf("ended list: number %d lacks %s, which had ended", e.Number, id.Short())
		}
	}
	return true, nil
}
