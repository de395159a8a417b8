package netmap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// stored is a state as a node keeps it on its own disk: the documents, not what
// was read of them. Signatures are checked again at every start. Leaves are kept
// without proofs, since proofs bind to revisions long passed: that they belong
// to the manifest rests on the checksum of the file (package statefile), as the
// node's own private keys do.
type stored struct {
	Version   int           `json:"version"`
	Network   key.NetworkID `json:"network"`
	Roots     [][]byte      `json:"roots"`
	Ended     []byte        `json:"ended,omitempty"`
	Before    []byte        `json:"endedBefore,omitempty"`
	Manifest  []byte        `json:"manifest,omitempty"`
	Admission []byte        `json:"admission,omitempty"`
	Leaves    []storedLeaf  `json:"leaves,omitempty"`
	Absent    []string      `json:"absent,omitempty"`
	Peers     []Papers      `json:"peers,omitempty"`
	Gone      []storedGone  `json:"gone,omitempty"` // sorted by node
	Newest    time.Time     `json:"newest"`
}

type storedLeaf struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

type storedGone struct {
	Node key.NodeID `json:"node"`
	seen
}

const storedVersion = 1

// Marshal is the state for the node's disk.
func (s *State) Marshal() ([]byte, error) {
	d := stored{
		Version: storedVersion, Network: s.network, Roots: s.rootDoc, Ended: s.endedDoc, Before: s.endedBeforeDoc,
		Manifest: s.manifestDoc, Admission: s.admissionDoc, Newest: s.newest.UTC(),
	}
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		if h := s.held[name]; h.absent {
			d.Absent = append(d.Absent, name)
		} else {
			d.Leaves = append(d.Leaves, storedLeaf{name, h.leaf.Data})
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.peers), compareIDs) {
		d.Peers = append(d.Peers, Papers{s.peers[id].admissionDoc, s.peers[id].recordDoc})
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.gone), compareIDs) {
		d.Gone = append(d.Gone, storedGone{id, s.gone[id]})
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write state: %w", err)
	}
	return b, nil
}

// Load reads a state from the node's disk and verifies its documents again: each
// under the root document that was in force for it, for what was enforced stays
// so until it is replaced. Anything that does not verify is an error; a node
// does not start with half of what it held.
func Load(network key.NetworkID, self key.NodeID, b []byte) (*State, error) {
	var d stored
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	s := New(network, self)
	switch {
	case d.Version != storedVersion:
		return nil, fmt.Errorf("read state: version %d, this program knows %d", d.Version, storedVersion)
	case d.Network != network:
		return nil, fmt.Errorf("read state: of network %s, want %s", d.Network, network)
	}
	for _, doc := range d.Roots {
		var r *trust.Root
		var err error
		if held := s.Root(); held == nil {
			r, err = trust.OpenFirstRoot(doc, network)
		} else {
			r, err = trust.OpenNextRoot(doc, held)
		}
		if err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		s.roots, s.rootDoc = append(s.roots, r), append(s.rootDoc, doc)
	}
	s.newest = d.Newest
	if s.Root() == nil {
		if d.Ended != nil || d.Before != nil || len(d.Gone) > 0 || d.Manifest != nil || d.Admission != nil || len(d.Peers) > 0 {
			return nil, errors.New("read state: documents without a root document")
		}
		return s, nil
	}
	var err error
	if d.Ended != nil {
		if s.ended, err = underAny(s.roots, func(r *trust.Root) (*trust.Ended, error) { return trust.OpenEnded(d.Ended, r) }); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		s.endedDoc = d.Ended
	}
	if d.Before != nil {
		if s.endedBefore, err = underAny(s.roots, func(r *trust.Root) (*trust.Ended, error) { return trust.OpenEnded(d.Before, r) }); err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		s.endedBeforeDoc = d.Before
	}
	if d.Admission != nil {
		if s.admission, err = underAny(s.roots, func(r *trust.Root) (*papers.Admission, error) { return papers.OpenAdmission(d.Admission, r) }); err != nil {
			return nil, fmt.Errorf("read state: own: %w", err)
		}
		if s.admission.Identity.NodeID() != self {
			return nil, errors.New("read state: own admission is of another node")
		}
		s.admissionDoc = d.Admission
	}
	for _, p := range d.Peers {
		var under int64
		a, err := underAny(s.roots, func(r *trust.Root) (*papers.Admission, error) {
			under = r.Version
			return papers.OpenAdmission(p.Admission, r)
		})
		if err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		rec, err := papers.OpenRecord(p.Record, network, a.Identity)
		if err != nil {
			return nil, fmt.Errorf("read state: %w", err)
		}
		s.peers[a.Identity.NodeID()] = &peer{a, p.Admission, rec, p.Record, under}
	}
	for _, g := range d.Gone {
		s.gone[g.Node] = g.seen
	}
	if d.Manifest == nil {
		return s, nil
	}
	if s.manifest, err = underAny(s.roots, func(r *trust.Root) (*trust.Manifest, error) { return trust.OpenManifest(d.Manifest, r) }); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	s.manifestDoc = d.Manifest
	for _, l := range d.Leaves {
		lf := leaf.Leaf{Name: l.Name, Data: l.Data}
		s.held[l.Name] = readLeaf(lf, lf.Hash())
	}
	for _, name := range d.Absent {
		s.held[name] = absentLeaf(name)
	}
	if err := s.whole(); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return s, nil
}

func compareIDs(a, b key.NodeID) int { return bytes.Compare(a[:], b[:]) }

// underAny opens a document under the newest root document that it verifies
// under.
func underAny[T any](roots []*trust.Root, open func(*trust.Root) (T, error)) (v T, err error) {
	for _, r := range slices.Backward(roots) {
		if v, err = open(r); err == nil {
			return v, nil
		}
	}
	return v, err
}
