// Package report says how far a revision is enforced. A merge is finished when
// every node enforces it; this package knows which do not.
//
// A node enforces the revision once its acknowledgement, signed by its identity
// key, names the manifest and the digest of exactly the leaves that the revision
// has for it (netmap.Expected). What a coordinator says of a node beyond that
// (online, since when) is only shown.
package report

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/sync/publish"
)

// A Convergence is how far a revision is enforced.
type Convergence struct {
	Commit   trust.Commit   `json:"commit"`
	Position trust.Position `json:"position"`
	Decided  time.Time      `json:"decided"`           // when the revision was decided
	Enforced int            `json:"enforced"`          // nodes that enforce it
	Of       int            `json:"of"`                // nodes admitted
	Missing  []Missing      `json:"missing,omitempty"` // by name
	Took     time.Duration  `json:"took,omitempty"`    // from decision to the last of the nodes admitted by then; 0 while any is missing
}

// A Missing node does not enforce the revision, as far as is known.
type Missing struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// String is the convergence in one line: "revision abc1234: enforced on 3 of 4
// nodes; missing: db2 (offline since 2026-11-22 13:04 UTC)".
func (c Convergence) String() string {
	if c.Commit == "" {
		return "no revision yet"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "revision %s: enforced on %d of %d nodes", c.Commit.Short(), c.Enforced, c.Of)
	for i, m := range c.Missing {
		if i == 0 {
			b.WriteString("; missing: ")
		} else {
			b.WriteString(", ")
		}
		if i == maxNamed {
			fmt.Fprintf(&b, "and %d more", len(c.Missing)-i)
			break
		}
		fmt.Fprintf(&b, "%s (%s)", m.Name, m.Why)
	}
	return b.String()
}

const (
	// maxNamed is how many missing nodes one line names.
	maxNamed = 10

	// maxEarly is how many nodes' news is kept that Target has not named yet. They
	// are on their way between two goroutines; what is more comes from a
	// coordinator that invents nodes. At most papers.MaxAck each: 2 MiB.
	maxEarly = 1024
)

// A Reporter collects acknowledgements. Its methods may be called at the same
// time.
type Reporter struct {
	network key.NetworkID

	mu       sync.Mutex // guards the fields below
	revision *publish.Revision
	decided  time.Time
	nodes    map[key.NodeID]*node
	early    map[key.NodeID]news // of nodes that Target has not named
	changed  chan struct{}
}

type node struct {
	admission *papers.Admission
	ack       *papers.Ack
	at        time.Time // when ack, or one that says the same, first came
	expected  key.Hash  // digest under the revision
	online    bool
	since     time.Time // offline since; zero where unknown
}

// news is what a coordinator says of a node.
type news struct {
	note       []byte // nil for none
	online     bool
	since, now time.Time
}

// New makes a Reporter of a network.
func New(network key.NetworkID) *Reporter {
	return &Reporter{network: network, nodes: map[key.NodeID]*node{}, early: map[key.NodeID]news{}, changed: make(chan struct{})}
}

// Target says which revision is to be enforced, and by which nodes. It may be
// called at the same time for a revision and the one before, or for more nodes and
// for fewer: an older revision changes nothing, and within one revision nodes are
// only added, since only the next one's ended list takes any away.
func (r *Reporter) Target(rev *publish.Revision, live []*papers.Admission, decided time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := false
	if r.revision != nil {
		if rev.Manifest.Position.Compare(r.revision.Manifest.Position) < 0 {
			return
		}
		same = r.revision.Manifest.Hash() == rev.Manifest.Hash()
	}
	if !same {
		r.revision, r.decided = rev, decided
	}
	leaves := make(map[string]leaf.Leaf, len(rev.Leaves))
	for _, l := range rev.Leaves {
		leaves[l.Name] = l
	}
	principal := func(name string) (leaf.Principal, bool) {
		l, ok := leaves[name]
		if !ok {
			return leaf.Principal{}, false
		}
		p, err := leaf.DecodePrincipal(l)
		return p, err == nil
	}
	next := make(map[key.NodeID]*node, len(live))
	if same {
		maps.Copy(next, r.nodes)
	}
	for _, a := range live {
		id := a.Identity.NodeID()
		if same && next[id] != nil {
			next[id].admission = a
			continue
		}
		n := r.nodes[id]
		if n == nil {
			n = &node{}
		}
		n.admission = a
		n.expected = netmap.Expected(a, rev.Manifest.Hash(), rev.Tree, principal)
		next[id] = n
		if e, ok := r.early[id]; ok {
			delete(r.early, id)
			// One that does not verify says nothing of the node; whoever sent it was
			// told of no error, since nobody could tell then.
			_ = r.take(n, e)
		}
	}
	r.nodes = next
	r.tell()
}

// Ack takes up what a coordinator says of a node; no note is none. An
// acknowledgement that does not verify is an error and changes nothing. News of a
// node that Target has not named is kept for a while: an acknowledgement may
// overtake the admission that it follows from.
func (r *Reporter) Ack(id key.NodeID, note []byte, online bool, since, now time.Time) error {
	if len(note) > papers.MaxAck {
		return fmt.Errorf("acknowledgement of %s: %d bytes, at most %d", id.Short(), len(note), papers.MaxAck)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := news{note, online, since, now}
	n := r.nodes[id]
	if n == nil {
		e.note = bytes.Clone(note)
		r.keep(id, e)
		return nil
	}
	if err := r.take(n, e); err != nil {
		return err
	}
	r.tell()
	return nil
}

// keep keeps news of an unknown node; the oldest makes room.
func (r *Reporter) keep(id key.NodeID, e news) {
	if _, ok := r.early[id]; !ok && len(r.early) >= maxEarly {
		var oldest key.NodeID
		var at time.Time
		for id, e := range r.early {
			if at.IsZero() || e.now.Before(at) {
				oldest, at = id, e.now
			}
		}
		delete(r.early, oldest)
	}
	r.early[id] = e
}

func (r *Reporter) take(n *node, e news) error {
	if len(e.note) > 0 {
		a, err := papers.OpenAck(e.note, r.network, n.admission.Identity)
		if err != nil {
			return fmt.Errorf("%s: %w", n.admission.Name, err)
		}
		was := n.ack
		newer := was == nil || a.Position.Compare(was.Position) > 0
		if newer || a.Position == was.Position && (a.Manifest != was.Manifest || a.Digest != was.Digest) {
			n.ack, n.at = a, e.now
		}
	}
	n.online, n.since = e.online, e.since
	return nil
}

// enforces reports whether the node's acknowledgement is of this revision.
func (n *node) enforces(rev *publish.Revision) bool {
	return n.ack != nil && n.ack.Manifest == rev.Manifest.Hash() && n.ack.Digest == n.expected
}

func (r *Reporter) missing() (out []Missing) {
	for _, n := range r.nodes {
		if n.enforces(r.revision) {
			continue
		}
		m := Missing{Name: n.admission.Name}
		switch {
		case !n.online && !n.since.IsZero():
			m.Why = "offline since " + n.since.UTC().Format("2006-01-02 15:04 UTC")
		case !n.online:
			m.Why = "not seen"
		case n.ack == nil:
			m.Why = "has acknowledged nothing"
		case n.ack.Manifest == r.revision.Manifest.Hash():
			m.Why = "enforces something else than this revision"
		default:
			m.Why = fmt.Sprintf("enforces %s", n.ack.Position)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Missing) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Convergence is how far the newest revision is enforced, and a channel that is
// closed when that may have changed.
func (r *Reporter) Convergence() (Convergence, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revision == nil {
		return Convergence{}, r.changed
	}
	missing := r.missing()
	c := Convergence{
		Commit: r.revision.Manifest.Commit, Position: r.revision.Manifest.Position, Decided: r.decided,
		Enforced: len(r.nodes) - len(missing), Of: len(r.nodes), Missing: missing,
	}
	if len(missing) == 0 {
		for _, n := range r.nodes {
			if !n.admission.Issued.After(r.decided) {
				c.Took = max(c.Took, n.at.Sub(r.decided))
			}
		}
	}
	return c, r.changed
}

func (r *Reporter) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}
