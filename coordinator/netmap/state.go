package netmap

import (
	"maps"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// A State is everything a verifier has taken up. It never changes; Accept makes
// the next one.
type State struct {
	network key.NetworkID
	self    key.NodeID // zero for a relay, which has no admission of its own

	roots   []*trust.Root // versions 1, 2, …
	rootDoc [][]byte

	ended    *trust.Ended
	endedDoc []byte

	// The list that the manifest rests on, while ended is already of a later
	// epoch: what it took out stays out as long as that manifest is enforced.
	endedBefore    *trust.Ended
	endedBeforeDoc []byte

	manifest    *trust.Manifest
	manifestDoc []byte
	// manifestRoot is the version of the root document that the manifest names.
	manifestRoot int64
	held         map[string]*held // under manifest, by leaf name; present or absent
	networkLeaf  leaf.Network
	relaysLeaf   leaf.Relays

	admission    *papers.Admission
	admissionDoc []byte

	peers  map[key.NodeID]*peer
	gone   map[key.NodeID]seen // of nodes whose papers were let go
	newest time.Time           // newest issued time verified
}

// held is a leaf proved under the manifest of the state.
type held struct {
	leaf       leaf.Leaf
	nameHash   key.Hash
	hash       key.Hash // zero where absent
	absent     bool
	bad        bool // present, but not readable by this version
	inbound    *acl.Inbound
	unenforced int
	principal  *leaf.Principal
}

// peer is another node's papers without its leaves.
type peer struct {
	admission    *papers.Admission
	admissionDoc []byte
	record       *papers.Record
	recordDoc    []byte
	under        int64 // the newest root version whose keys signed the admission
}

// seen is what stays known of the papers of a node that is gone, so that older
// ones are refused when it comes back.
type seen struct {
	Admission     int64    `json:"admission"` // serial
	AdmissionHash key.Hash `json:"admissionHash"`
	Record        int64    `json:"record"` // serial
	RecordHash    key.Hash `json:"recordHash"`
	Life          key.Hash `json:"life"` // of what the identity key has for life
}

func (p *peer) seen() seen {
	return seen{p.admission.Serial, p.admission.Hash(), p.record.Serial, p.record.Hash(), lifeOf(p.admission)}
}

// out says why a node is on an ended list that counts, or that it is not.
func (s *State) out(id key.NodeID) (why string, out bool) {
	for _, e := range []*trust.Ended{s.ended, s.endedBefore} {
		if e.Has(id) {
			return e.Nodes[id], true
		}
	}
	return "", false
}

// inForce reports whether the keys that admit nodes now have signed a peer's
// admission: those of the root document that the manifest names. Until a
// manifest names a newer one, what they admitted stays.
func (s *State) inForce(p *peer) bool { return p.under >= s.manifestRoot }

// New is the state of a node that knows its network's id and nothing else. The
// zero self is a relay's.
func New(network key.NetworkID, self key.NodeID) *State {
	return &State{network: network, self: self, held: map[string]*held{}, peers: map[key.NodeID]*peer{}, gone: map[key.NodeID]seen{}}
}

// clone copies what Accept may change. Documents are shared.
func (s *State) clone() *State {
	n := *s
	n.held = maps.Clone(s.held)
	n.peers = maps.Clone(s.peers)
	n.gone = maps.Clone(s.gone)
	n.roots = s.roots[:len(s.roots):len(s.roots)]
	n.rootDoc = s.rootDoc[:len(s.rootDoc):len(s.rootDoc)]
	return &n
}

// Root is the newest root document, or nil.
func (s *State) Root() *trust.Root {
	if len(s.roots) == 0 {
		return nil
	}
	return s.roots[len(s.roots)-1]
}

// Manifest is the revision held, or nil.
func (s *State) Manifest() *trust.Manifest { return s.manifest }

// Admission is the node's own admission and its note, or nil.
func (s *State) Admission() (*papers.Admission, []byte) { return s.admission, s.admissionDoc }

// At is the verifier's time: the later of the caller's clock and the newest
// issued time verified.
func (s *State) At(now time.Time) time.Time {
	if s.newest.After(now) {
		return s.newest
	}
	return now
}

// A Have says what a state holds, so that others send only the rest.
type Have struct {
	Root      int64 // newest version
	Position  trust.Position
	Manifest  key.Hash
	Ended     int64
	EndedHash key.Hash
	Admission int64 // serial
	Peers     map[key.NodeID]Serials
}

// Serials are those of the papers held of one peer; zero for a peer whose
// principals are not all proved, so that it is proved again.
type Serials struct{ Admission, Record int64 }

// Have says what the state holds.
func (s *State) Have() Have {
	h := Have{Root: int64(len(s.roots)), Peers: make(map[key.NodeID]Serials, len(s.peers))}
	if s.manifest != nil {
		h.Position, h.Manifest = s.manifest.Position, s.manifest.Hash()
	}
	if s.ended != nil {
		h.Ended, h.EndedHash = s.ended.Number, s.ended.Hash()
	}
	if s.admission != nil {
		h.Admission = s.admission.Serial
	}
	for id, p := range s.peers {
		h.Peers[id] = Serials{}
		if s.proves(p.admission) && s.inForce(p) {
			h.Peers[id] = Serials{p.admission.Serial, p.record.Serial}
		}
	}
	return h
}

// proves reports whether each principal of a node is held, present or absent.
func (s *State) proves(a *papers.Admission) bool {
	for _, p := range a.Principals() {
		if s.held[leaf.PrincipalName(p)] == nil {
			return false
		}
	}
	return true
}

// digest is of the leaves required under the revision held.
func (s *State) digest() key.Hash {
	var records []leaf.Record
	for _, name := range s.required() {
		var h key.Hash
		if l := s.held[name]; l != nil {
			h = l.hash
		}
		records = append(records, leaf.Record{Name: leaf.NameHash(name), Leaf: h})
	}
	return Digest(s.manifest.Hash(), records)
}

// required are the leaves that the node requires as far as its principal leaves
// are held.
func (s *State) required() []string {
	if s.admission == nil {
		return Required(nil, nil, "")
	}
	principals := s.admission.Principals()
	var groups []acl.Membership
	for _, p := range principals {
		if h := s.held[leaf.PrincipalName(p)]; h != nil && h.principal != nil {
			groups = append(groups, h.principal.Groups...)
		}
	}
	return Required(principals, groups, s.admission.Name)
}

// missing are the required leaves that are not held, present or absent.
func (s *State) missing() (out []string) {
	for _, name := range s.required() {
		if s.held[name] == nil {
			out = append(out, name)
		}
	}
	return out
}

// AdmitPapers judges the papers that a client of a relay shows: the admission of
// the identity key that the connection proved. It returns when the admission
// ends, zero for never.
func (s *State) AdmitPapers(id key.IdentityPublic, admission []byte, now time.Time) (until time.Time, err error) {
	if s.manifest == nil { // and so, perhaps, no ended list
		return until, ErrNotReady
	}
	a, err := papers.OpenAdmission(admission, s.Root())
	if err != nil {
		return until, err
	}
	_, out := s.out(id.NodeID())
	switch {
	case !a.Identity.Equal(id):
		return until, errOtherNode
	case out:
		return until, ErrEnded
	case !a.Expires.IsZero() && !s.At(now).Before(a.Expires):
		return until, ErrExpired
	}
	return a.Expires, nil
}
