// Package publish turns a compiled commit into a signed revision and hands it to
// the coordinators.
//
// # Signing
//
// A revision is decided before it is signed: the texts of its manifest and ended
// list, its change list, leaves and origins are written to disk and synced, and
// only then is anything signed. Ed25519 signatures are deterministic, so that
// whenever sync is stopped and started again, the same commit has the same seq
// and the same bytes: a revision is never lost, and no seq is ever signed twice
// with different content.
//
// seq is the Unix time of the decision, or one more than the last where the
// clock has not moved on. A new epoch asks for a new revision, also of the same
// commit. The ended list grows and never forgets: a new epoch begins with the
// nodes of the one before, whose admissions would be good again without.
//
// One sync signs here: a root document with a threshold above one is refused.
//
// # Handing over
//
// Each coordinator is asked what it has. One that has the previous manifest gets
// the leaves on the change list; any other gets all. The next revision is decided
// once a coordinator has the one before it.
package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
)

// Keys are sync's private keys.
type Keys struct {
	Policy    trust.SigningKey
	Admission trust.SigningKey
}

// A Compiled is a commit that was verified, built and judged: what is to become
// the next revision.
type Compiled struct {
	Commit   trust.Commit
	Source   key.Hash
	Compiler string
	Leaves   []leaf.Leaf // sorted by name
	Revoked  []key.NodeID
	Origins  []byte                // the origins document; nil without
	Ending   map[key.NodeID]string // nodes that this revision puts out, and why
	Judged   key.Hash              // head of the admission log that was judged
}

// A Revision is decided: it will be signed as it stands, and nothing else will
// be under its seq.
type Revision struct {
	Manifest *trust.Manifest
	Ended    *trust.Ended
	Changes  []byte
	Leaves   []leaf.Leaf
	Tree     *leaf.Tree
	Revoked  []key.NodeID
	Origins  []byte
}

// stored is a Revision on disk.
type stored struct {
	Version  int          `json:"version"`
	Manifest string       `json:"manifest"`
	Ended    string       `json:"ended"`
	Changes  []byte       `json:"changes"`
	Leaves   []leaf.Leaf  `json:"leaves"`
	Revoked  []key.NodeID `json:"revoked,omitempty"`
	Origins  []byte       `json:"origins,omitempty"`
}

const (
	fileKind      = "revision"
	storedVersion = 1
)

// A Publisher decides revisions and keeps the newest.
type Publisher struct {
	file string
	keys Keys
	root *trust.Root

	mu      sync.Mutex // guards current
	current *Revision  // nil before the first
}

// Open reads the newest revision from the directory.
func Open(dir string, keys Keys, root *trust.Root) (*Publisher, error) {
	p := &Publisher{file: filepath.Join(dir, "revision.state"), keys: keys, root: root}
	for _, k := range []struct {
		role      string
		key       trust.SigningKey
		in        []trust.VKey
		threshold int
	}{
		{"policy", keys.Policy, root.PolicyKeys, root.PolicyThreshold},
		{"admission", keys.Admission, root.AdmissionKeys, root.AdmissionThreshold},
	} {
		named := false
		for _, v := range k.in {
			named = named || v.Equal(k.key.Public())
		}
		if !named {
			return nil, fmt.Errorf("the %s key %s is not one that the root document names", k.role, k.key.Public().Name())
		}
		if k.threshold != 1 {
			return nil, fmt.Errorf("the root document wants the signatures of %d %s keys; this version signs with one", k.threshold, k.role)
		}
	}
	b, err := statefile.Read(p.file, fileKind)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		// The copy before it is no substitute: a seq may have been signed since.
		return nil, fmt.Errorf("%w; nothing is signed until it is recovered", err)
	}
	if p.current, err = decode(b, root.Network); err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	return p, nil
}

func decode(b []byte, network key.NetworkID) (*Revision, error) {
	var s stored
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, err
	}
	if s.Version != storedVersion {
		return nil, fmt.Errorf("version %d, this program knows %d", s.Version, storedVersion)
	}
	r := &Revision{Changes: s.Changes, Leaves: s.Leaves, Revoked: s.Revoked, Origins: s.Origins}
	var err error
	if r.Manifest, err = trust.ParseManifest(s.Manifest); err != nil {
		return nil, err
	}
	if r.Ended, err = trust.ParseEnded(s.Ended); err != nil {
		return nil, err
	}
	if r.Tree, err = leaf.TreeOf(s.Leaves); err != nil {
		return nil, err
	}
	m := r.Manifest
	switch {
	case m.Network != network:
		return nil, fmt.Errorf("of network %s, want %s", m.Network, network)
	case r.Tree.Root() != m.Tree:
		return nil, errors.New("the leaves are not the manifest's")
	case r.Ended.Hash() != m.Ended:
		return nil, errors.New("the ended list is not the manifest's")
	case hashOrZero(r.Changes) != m.Changes:
		return nil, errors.New("the change list is not the manifest's")
	case hashOrZero(r.Origins) != m.Origins:
		return nil, errors.New("the origins are not the manifest's")
	}
	return r, nil
}

// hashOrZero is the hash of a document; zero for none.
func hashOrZero(b []byte) key.Hash {
	if len(b) == 0 {
		return key.Hash{}
	}
	return key.HashOf(b)
}

// Current is the newest revision decided, or nil.
func (p *Publisher) Current() *Revision {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// Decide makes the next revision and writes it to disk. For the commit that is
// current already, in this epoch, it returns that revision.
func (p *Publisher) Decide(c Compiled, now time.Time) (*Revision, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.current
	if last != nil && last.Manifest.Commit == c.Commit && last.Manifest.Epoch == p.root.Epoch {
		return last, nil
	}
	now = now.UTC().Truncate(time.Second)
	r := &Revision{Leaves: c.Leaves, Revoked: c.Revoked, Origins: c.Origins}
	var err error
	if r.Tree, err = leaf.TreeOf(c.Leaves); err != nil {
		return nil, err
	}
	if r.Ended, err = p.ended(c.Ending, now); err != nil {
		return nil, err
	}
	m := trust.Manifest{
		Network: p.root.Network, Root: p.root.Hash(), Position: trust.Position{Epoch: p.root.Epoch, Seq: now.Unix()},
		Commit: c.Commit, Source: c.Source, Compiler: c.Compiler, Issued: now,
		Leaves: r.Tree.Size(), Tree: r.Tree.Root(),
		Ended: r.Ended.Hash(), EndedNumber: r.Ended.Number, Inventory: c.Judged,
	}
	m.NetworkLeaf, _ = r.Tree.Has(leaf.NameNetwork)
	m.RelaysLeaf, _ = r.Tree.Has(leaf.NameRelays)
	m.Origins = hashOrZero(c.Origins)
	list := leaf.ChangeList{Network: p.root.Network}
	var before *leaf.Tree
	if last != nil {
		m.Prev, m.Base, list.Base, before = last.Manifest.Hash(), last.Manifest.Commit, last.Manifest.Hash(), last.Tree
		if last.Manifest.Epoch == m.Epoch {
			m.Seq = max(m.Seq, last.Manifest.Seq+1)
		}
	}
	list.Changes = leaf.Diff(before, r.Tree)
	if r.Changes = list.Encode(); len(r.Changes) <= leaf.MaxChanges {
		m.Changes = key.HashOf(r.Changes)
	} else {
		r.Changes = nil // agents ask for proofs
	}
	if r.Manifest, err = trust.NewManifest(m); err != nil {
		return nil, err
	}
	b, err := json.Marshal(stored{
		Version: storedVersion, Manifest: r.Manifest.Text(), Ended: r.Ended.Text(),
		Changes: r.Changes, Leaves: r.Leaves, Revoked: r.Revoked, Origins: r.Origins,
	})
	if err != nil {
		return nil, err
	}
	if err := statefile.Write(p.file, fileKind, b); err != nil {
		return nil, err
	}
	p.current = r
	return r, nil
}

// ended is the list that goes with the next revision: the one there is, or the
// next with the nodes that are out now.
func (p *Publisher) ended(ending map[key.NodeID]string, now time.Time) (*trust.Ended, error) {
	e := trust.Ended{Network: p.root.Network, Epoch: p.root.Epoch, Number: 1, Issued: now, Nodes: map[key.NodeID]string{}}
	fresh := true
	if p.current != nil {
		last := p.current.Ended
		maps.Copy(e.Nodes, last.Nodes)
		if last.Epoch == p.root.Epoch {
			fresh, e.Number = false, last.Number+1
		}
	}
	for id, why := range ending {
		if _, out := e.Nodes[id]; !out { // the first reason stays
			e.Nodes[id], fresh = why, true
		}
	}
	if !fresh {
		return p.current.Ended, nil
	}
	return trust.NewEnded(e)
}

// Notes signs the revision. The same revision has the same bytes every time.
func (p *Publisher) Notes(r *Revision) (manifest, ended []byte, err error) {
	if manifest, err = trust.Sign(r.Manifest.Text(), p.keys.Policy); err != nil {
		return nil, nil, err
	}
	if ended, err = trust.Sign(r.Ended.Text(), p.keys.Admission); err != nil {
		return nil, nil, err
	}
	return manifest, ended, nil
}
