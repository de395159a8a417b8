package netmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// An Update is a set of documents from anybody. Nil means nothing of the kind.
type Update struct {
	Roots     [][]byte // the versions after the one held, in order
	Ended     []byte
	Revisions []Revision // oldest first
	Leaves    []Proved
	Admission []byte // the node's own
	Peers     []Papers
	Gone      []key.NodeID // nodes this one no longer needs to know
}

// A Revision is a manifest and the change list that leads to it; nil for none.
type Revision struct{ Manifest, Changes []byte }

// A Proved is a leaf, or the absence of one, with its proof.
type Proved struct {
	Name   string
	Data   []byte // nil where absent
	Absent bool
	Proof  []byte // empty where the change list followed says what the leaf became
}

// Papers are what makes a peer somebody, without its principal leaves.
type Papers struct{ Admission, Record []byte }

// A Kind says why a document is refused.
type Kind string

// The kinds of refusals. The list is closed and only grows.
const (
	Invalid      Kind = "invalid"      // malformed, unsigned, of another network, not proved
	Rollback     Kind = "rollback"     // older than what is held
	Equivocation Kind = "equivocation" // a second document under one number
	Ahead        Kind = "ahead"        // issued in the future
	Incomplete   Kind = "incomplete"   // a revision without all that it requires
	Expired      Kind = "expired"      // a record or session that has ended
	Out          Kind = "out"          // about a node on the ended list
	Conflict     Kind = "conflict"     // claims a name, address or key of another node
)

// A Refusal is a document that was not taken up. It changed nothing.
type Refusal struct {
	Kind     Kind
	Document string   // "manifest", "leaf inbound/tag:db", "record of nid:…"
	Hash     key.Hash // of the bytes refused
	Err      error
}

func (r Refusal) Error() string {
	return fmt.Sprintf("%s refused (%s, %s): %v", r.Document, r.Kind, r.Hash.Short(), r.Err)
}

// An Outcome is what became of an update.
type Outcome struct {
	State   *State    // the next state; the one before where nothing changed
	Changed bool      // State is not the one before
	Adopted bool      // it enforces another revision than the one before
	Refused []Refusal // in the order of the documents
	Missing []string  // leaves without which a newer revision was not adopted
}

var errOtherNode = errors.New("the admission is of another node")

// Limits on one update, before anything of it is read.
const (
	maxRoots     = 1024
	maxRevisions = 1024
	maxLeaves    = 1 << 16
	maxPeers     = 1 << 16
)

// maxHeldPeers is how many nodes' papers one state holds.
const maxHeldPeers = 1 << 17

// Accept takes up what of an update is signed, proved, and not older than what
// the state holds. It never fails: what is refused is in the outcome.
func (s *State) Accept(u Update, now time.Time) Outcome {
	c := &candidate{State: s.clone(), before: s, now: now}
	if len(u.Roots) > maxRoots || len(u.Revisions) > maxRevisions || len(u.Leaves) > maxLeaves || len(u.Peers) > maxPeers {
		c.refuse(Invalid, "update", nil, errors.New("too many documents"))
		return Outcome{State: s, Refused: c.refused}
	}
	c.roots_(u.Roots)
	if c.Root() == nil {
		if len(u.Ended) > 0 || len(u.Revisions) > 0 || len(u.Admission) > 0 || len(u.Peers) > 0 {
			c.refuse(Invalid, "update", nil, ErrNotReady)
		}
		return c.outcome()
	}
	c.ended_(u.Ended)
	c.revision(u)
	c.papers(u.Peers)
	for _, id := range u.Gone {
		if c.peers[id] == nil {
			continue
		}
		if err := c.forget(id); err != nil {
			c.refuse(Invalid, "departure of "+id.Short(), nil, err)
		}
	}
	c.prune()
	return c.outcome()
}

// A candidate is the next state in the making.
type candidate struct {
	*State
	before   *State
	now      time.Time
	changed  bool
	adopted  bool
	refused  []Refusal
	missing_ []string
	gained   bool                  // leaves, and nothing else
	lost     bool                  // peers
	claimed  map[string]key.NodeID // by claims; may name nodes that are gone
	known    map[uint64]*peer      // by hash of admission; a hint
}

func (c *candidate) outcome() Outcome {
	o := Outcome{State: c.before, Refused: c.refused, Missing: c.missing_}
	if c.changed || c.gained && !maps.Equal(c.held, c.before.held) {
		o.State, o.Changed, o.Adopted = c.State, true, c.adopted
	}
	return o
}

// forget lets the papers of a peer go, but for their serials.
func (c *candidate) forget(id key.NodeID) error {
	if len(c.gone) >= maxHeldPeers {
		return fmt.Errorf("%d nodes that are gone are remembered already", maxHeldPeers)
	}
	c.gone[id] = c.peers[id].seen()
	delete(c.peers, id)
	c.changed, c.lost = true, true
	return nil
}

// prune lets leaves go that neither this node requires nor a peer's papers need:
// without it, a sender of proofs could fill the memory.
func (c *candidate) prune() {
	if c.manifest == nil || !c.gained && !c.adopted && !c.lost {
		return
	}
	need := make(map[string]bool, len(c.held))
	for _, name := range c.required() {
		need[name] = true
	}
	seen := make(map[acl.Selector]bool) // many peers, few principals
	mark := func(sel acl.Selector) {
		if !seen[sel] {
			seen[sel], need[leaf.PrincipalName(sel)] = true, true
		}
	}
	for _, p := range c.peers {
		if u := p.admission.User; u != nil {
			mark(acl.Selector{Kind: acl.KindUser, Name: u.Email})
		}
		for _, tag := range p.admission.Tags {
			mark(acl.Selector{Kind: acl.KindTag, Name: tag})
		}
	}
	maps.DeleteFunc(c.held, func(name string, _ *held) bool { return !need[name] })
}

func (c *candidate) refuse(k Kind, document string, doc []byte, err error) {
	c.refused = append(c.refused, Refusal{k, document, key.HashOf(doc), err})
}

func (c *candidate) saw(issued time.Time) {
	if issued.After(c.newest) {
		c.newest = issued
	}
}

// future reports and refuses a document issued too far ahead of the clock.
func (c *candidate) future(document string, doc []byte, issued time.Time) bool {
	if ahead := issued.Sub(c.now); ahead > trust.MaxAhead {
		c.refuse(Ahead, document, doc, fmt.Errorf("issued %s, %s ahead of this clock", issued.Format(time.RFC3339), ahead.Round(time.Second)))
		return true
	}
	return false
}

func (c *candidate) roots_(docs [][]byte) {
	for _, doc := range docs {
		var r *trust.Root
		var err error
		if held := c.Root(); held == nil {
			r, err = trust.OpenFirstRoot(doc, c.network)
		} else {
			if c.hasRoot(doc) {
				continue
			}
			r, err = trust.OpenNextRoot(doc, held)
		}
		if err != nil {
			c.refuse(Invalid, "root document", doc, err)
			return
		}
		if c.future("root document", doc, r.Issued) {
			return
		}
		c.roots = append(c.roots, r)
		c.rootDoc = append(c.rootDoc, doc)
		c.saw(r.Issued)
		c.changed = true
	}
}

// hasRoot reports whether doc is a root document held, whoever signed the copy.
func (c *candidate) hasRoot(doc []byte) bool {
	text, err := trust.Text(doc)
	if err != nil {
		return false
	}
	for _, r := range c.roots {
		if r.Hash() == key.HashOf([]byte(text)) {
			return true
		}
	}
	return false
}

func (c *candidate) ended_(doc []byte) {
	if doc == nil {
		return
	}
	e, err := trust.OpenEnded(doc, c.Root())
	if err != nil {
		c.refuse(Invalid, "ended list", doc, err)
		return
	}
	if c.future("ended list", doc, e.Issued) {
		return
	}
	newer, err := e.Follows(c.ended)
	switch {
	case err != nil && c.ended != nil && e.Epoch == c.ended.Epoch && e.Number == c.ended.Number:
		c.refuse(Equivocation, "ended list", doc, err)
	case err != nil:
		c.refuse(Rollback, "ended list", doc, err)
	case newer:
		if m := c.manifest; m != nil && c.ended.Epoch == m.Epoch && e.Epoch > m.Epoch {
			c.endedBefore, c.endedBeforeDoc = c.ended, c.endedDoc
		}
		c.ended, c.endedDoc = e, doc
		c.saw(e.Issued)
		c.changed = true
	}
}

// revision moves to the newest manifest of the update, with its leaves and the
// node's own admission, or stays where it is.
func (c *candidate) revision(u Update) {
	if len(u.Revisions) == 0 && len(u.Leaves) == 0 && u.Admission == nil {
		return
	}
	next := c.clone()
	moved := false
	expected := map[key.Hash]key.Hash{} // H(name) → H(leaf) of change lists followed
	for _, r := range u.Revisions {
		m, ok := c.manifestAfter(next, r.Manifest)
		if !ok {
			continue
		}
		list, follows := c.follow(next, m, r.Changes)
		if !follows {
			clear(next.held)
			clear(expected)
		}
		for _, ch := range list {
			expected[ch.Name] = ch.New
		}
		if len(list) > 0 {
			for name, h := range next.held {
				if _, changed := expected[h.nameHash]; changed {
					delete(next.held, name)
				}
			}
		}
		next.manifest, next.manifestDoc = m, r.Manifest
		moved = true
	}
	if next.manifest == nil {
		if len(u.Leaves) > 0 || u.Admission != nil {
			c.refuse(Incomplete, "update", nil, errors.New("no manifest is held yet"))
		}
		return
	}
	gained := c.leaves(next, u.Leaves, expected)
	admitted := c.admission_(next, u.Admission)
	if !moved && !admitted {
		if gained {
			c.State, c.gained = next, true
		}
		return
	}
	if err := next.whole(); err != nil {
		c.missing_ = next.missing()
		c.refuse(Incomplete, "revision "+next.manifest.Position.String(), next.manifestDoc, err)
		return
	}
	c.take(next, moved)
}

// take makes next the candidate. Next was a copy of it, with what it had taken up.
func (c *candidate) take(next *State, adopted bool) {
	c.State = next
	c.changed = true
	c.adopted = c.adopted || adopted
}

// manifestAfter verifies a manifest and checks that it comes after the one that
// next holds.
func (c *candidate) manifestAfter(next *State, doc []byte) (*trust.Manifest, bool) {
	m, err := trust.OpenManifest(doc, c.Root())
	if err != nil {
		c.refuse(c.kindOfOld(doc), "manifest", doc, err)
		return nil, false
	}
	root := c.versionOf(m.Root)
	if root == 0 {
		c.refuse(Invalid, "manifest", doc, errors.New("signed under a root document that is not held"))
		return nil, false
	}
	if c.future("manifest", doc, m.Issued) {
		return nil, false
	}
	if held := next.manifest; held != nil {
		switch order := m.Position.Compare(held.Position); {
		case order < 0:
			c.refuse(Rollback, "manifest", doc, fmt.Errorf("revision %s is older than %s, which stays enforced", m.Position, held.Position))
			return nil, false
		case order == 0 && m.Hash() != held.Hash():
			c.refuse(Equivocation, "manifest", doc, fmt.Errorf("two revisions %s: %s and %s, which stays enforced", m.Position, m.Hash().Short(), held.Hash().Short()))
			return nil, false
		case order == 0:
			return nil, false
		case root < c.versionOf(held.Root):
			c.refuse(Rollback, "manifest", doc, fmt.Errorf("names root document version %d, the revision held %d", root, c.versionOf(held.Root)))
			return nil, false
		}
	}
	return m, true
}

// kindOfOld tells a manifest of an earlier epoch, which is a rollback, from one
// that was never good.
func (c *candidate) kindOfOld(doc []byte) Kind {
	for _, r := range c.roots[:len(c.roots)-1] {
		if _, err := trust.OpenManifest(doc, r); err == nil && r.Epoch < c.Root().Epoch {
			return Rollback
		}
	}
	return Invalid
}

// follow returns the changes from the manifest that next holds to m. The second
// result is false where there is no chain from the one to the other.
func (c *candidate) follow(next *State, m *trust.Manifest, doc []byte) ([]leaf.Change, bool) {
	if doc == nil || next.manifest == nil {
		return nil, false
	}
	if key.HashOf(doc) != m.Changes {
		c.refuse(Invalid, "change list", doc, errors.New("is not the manifest's"))
		return nil, false
	}
	list, err := leaf.ParseChangeList(doc)
	switch {
	case err != nil:
	case list.Network != c.network:
		err = fmt.Errorf("of network %s", list.Network)
	case list.Base != next.manifest.Hash():
		return nil, false // a gap: proofs are needed
	}
	if err != nil {
		c.refuse(Invalid, "change list", doc, err)
		return nil, false
	}
	return list.Changes, true
}

// leaves takes up the leaves that are proved under the manifest of next.
func (c *candidate) leaves(next *State, docs []Proved, expected map[key.Hash]key.Hash) (gained bool) {
	for _, d := range docs {
		h, err := provedLeaf(next.manifest, d, expected)
		if err != nil {
			c.refuse(Invalid, "leaf "+clip(d.Name), d.Data, err)
			continue
		}
		if old := next.held[d.Name]; old != nil && old.hash == h.hash {
			continue
		}
		next.held[d.Name] = h
		gained = true
	}
	return gained
}

func provedLeaf(m *trust.Manifest, d Proved, expected map[key.Hash]key.Hash) (*held, error) {
	if len(d.Name) > leaf.MaxName || len(d.Data) > leaf.MaxSize {
		return nil, errors.New("too large")
	}
	l := leaf.Leaf{Name: d.Name, Data: d.Data}
	var want key.Hash
	var present bool
	if len(d.Proof) == 0 {
		h, ok := expected[leaf.NameHash(d.Name)]
		if !ok {
			return nil, errors.New("no proof, and on no change list followed")
		}
		want, present = h, !h.IsZero()
	} else {
		p, err := leaf.ParseProof(d.Proof)
		if err != nil {
			return nil, err
		}
		if want, present, err = p.Check(m.Tree, m.Leaves, d.Name); err != nil {
			return nil, err
		}
	}
	switch {
	case present == d.Absent:
		return nil, errors.New("is not what the proof proves")
	case !present && len(d.Data) > 0:
		return nil, errors.New("has content, and is proved absent")
	case !present:
		return absentLeaf(d.Name), nil
	case l.Hash() != want:
		return nil, errors.New("is not the content proved")
	}
	return readLeaf(l, want), nil
}

func absentLeaf(name string) *held {
	return &held{leaf: leaf.Leaf{Name: name}, nameHash: leaf.NameHash(name), absent: true}
}

// readLeaf decodes what the verifier uses of a proved leaf. One that cannot be
// read gives nothing.
func readLeaf(l leaf.Leaf, hash key.Hash) *held {
	h := &held{leaf: l, nameHash: leaf.NameHash(l.Name), hash: hash}
	switch {
	case strings.HasPrefix(l.Name, "inbound/"):
		in, unenforced, err := leaf.DecodeInbound(l)
		h.bad, h.unenforced = err != nil, unenforced
		if err == nil {
			h.inbound = &in
		}
	case strings.HasPrefix(l.Name, "principal/"):
		p, err := leaf.DecodePrincipal(l)
		h.bad = err != nil
		if err == nil {
			h.principal = &p
		}
	}
	return h
}

// admission_ takes up the node's own admission into next.
func (c *candidate) admission_(next *State, doc []byte) bool {
	if doc == nil {
		return false
	}
	a, err := papers.OpenAdmission(doc, c.Root())
	switch held := next.admission; {
	case err != nil:
		c.refuse(Invalid, "own admission", doc, err)
	case a.Identity.NodeID() != c.self:
		c.refuse(Invalid, "own admission", doc, errOtherNode)
	case c.future("own admission", doc, a.Issued):
	case held != nil && a.Serial < held.Serial:
		c.refuse(Rollback, "own admission", doc, fmt.Errorf("serial %d, %d is held", a.Serial, held.Serial))
	case held != nil && a.Serial == held.Serial && a.Hash() != held.Hash():
		c.refuse(Equivocation, "own admission", doc, fmt.Errorf("two of serial %d", a.Serial))
	case held != nil && a.Serial == held.Serial && c.signedNow(next.admissionDoc):
	case held != nil && lifeOf(a) != lifeOf(held):
		c.refuse(Conflict, "own admission", doc, errors.New("another name, address or principal than this identity key was admitted with"))
	default:
		next.admission, next.admissionDoc = a, doc
		if a.Issued.After(next.newest) {
			next.newest = a.Issued
		}
		return true
	}
	return false
}

// signedNow reports whether the keys of the newest root document signed an
// admission: where they did not, a copy that they signed replaces it.
func (c *candidate) signedNow(doc []byte) bool {
	_, err := papers.OpenAdmission(doc, c.Root())
	return err == nil
}

// lifeOf is of what an identity key has for life: two admissions that differ in
// it cannot be of one node.
func lifeOf(a *papers.Admission) key.Hash {
	who := "tags " + strings.Join(a.Tags, " ")
	if u := a.User; u != nil {
		who = strings.Join([]string{"user", u.Email, u.Issuer, u.Subject}, " ") // none holds a space
	}
	return key.HashOf([]byte(strings.Join([]string{a.Name, a.IPv4.String(), a.IPv6.String(), who}, "\n")))
}

// whole completes a state that has a new manifest or admission, or says what it
// lacks.
func (s *State) whole() error {
	m, ended := s.manifest, s.ended
	if b := s.endedBefore; b != nil && b.Epoch == m.Epoch {
		ended = b
	}
	if ended == nil || ended.Epoch != m.Epoch || ended.Number < m.EndedNumber ||
		ended.Number == m.EndedNumber && ended.Hash() != m.Ended {
		return fmt.Errorf("the ended list number %d is not held", m.EndedNumber)
	}
	if a := s.admission; a != nil && m.Position.Compare(a.Decided) < 0 {
		return fmt.Errorf("this node was admitted under the newer revision %s", a.Decided)
	}
	if missing := s.missing(); len(missing) > 0 {
		return fmt.Errorf("%d required leaves are not proved: %s", len(missing), clip(strings.Join(missing, ", ")))
	}
	for _, f := range []struct {
		name string
		want key.Hash
		into any
	}{
		{leaf.NameNetwork, m.NetworkLeaf, &s.networkLeaf},
		{leaf.NameRelays, m.RelaysLeaf, &s.relaysLeaf},
	} {
		h := s.held[f.name]
		if h.absent || h.hash != f.want {
			return fmt.Errorf("leaf %s is not the manifest's", f.name)
		}
		switch into := f.into.(type) {
		case *leaf.Network:
			*into = leaf.Network{}
		case *leaf.Relays:
			*into = leaf.Relays{}
		}
		if err := leaf.Decode(h.leaf, f.into); err != nil {
			return err
		}
	}
	if ended == s.ended {
		s.endedBefore, s.endedBeforeDoc = nil, nil
	}
	if m.Issued.After(s.newest) {
		s.newest = m.Issued
	}
	s.rootNamed()
	return nil
}

// versionOf is the version of the root document of that hash; zero for none held.
func (s *State) versionOf(root key.Hash) int64 {
	for _, r := range s.roots {
		if r.Hash() == root {
			return r.Version
		}
	}
	return 0
}

// rootNamed looks again, where the manifest names a newer root document than the
// one before, at which admissions its keys signed.
func (s *State) rootNamed() {
	named := s.versionOf(s.manifest.Root)
	if named == s.manifestRoot {
		return
	}
	s.manifestRoot = named
	for id, p := range s.peers {
		for _, r := range slices.Backward(s.roots[named-1:]) {
			if p.under >= named {
				break
			}
			if _, err := papers.OpenAdmission(p.admissionDoc, r); err == nil {
				again := *p
				again.under = r.Version
				s.peers[id] = &again
				break
			}
		}
	}
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
