// Package admit decides who becomes a node, and who is out. It is where join
// requests meet the policy; the coordinator that carried them decides nothing.
//
// # Joining
//
// A request is judged against the revision in force (a [Standing]):
//
//  1. It is signed by the identity key that handed it in, and its proof, sealed to
//     sync, is about this request.
//  2. An identity key that is out, stays out. One that is admitted gets the
//     admission it has: a key has one name, address pair and principal for life.
//  3. A pinned node: the policy names its identity key. It gets the name, user or
//     tags, and address of the pin.
//  4. An enrolment: the entry is in the policy and has not ended, its key signed
//     this identity key, name and exactly the entry's tags, the name matches the
//     entry's patterns, and no pin names the identity key: that one is to join as
//     the policy says. Whom an entry admitted before its end, stays.
//  5. The name is not that of a live node, and not pinned for another key.
//  6. The address is the pin's, or the lowest of the network's prefix that no
//     live node and no pin has.
//
// The admission is signed, appended to the log and synced before anybody sees it.
//
// # Ending
//
// A node is out for good when what its admission rests on is gone from the
// policy (the pin, or its user, tags or address; the enrolment entry, or its
// tags), or the policy revokes it. Package publish signs the ended list.
package admit

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// Issuer is the issuer of users whose nodes Git pins: no provider has vouched
// for them.
const Issuer = "git"

// A Standing is what a revision says about admission. It never changes.
type Standing struct {
	Position   trust.Position
	Prefix4    netip.Prefix
	Pins       map[string]leaf.Node // by name
	Enrolments map[string]leaf.Enrolment
	Revoked    map[key.NodeID]bool
	Ended      *trust.Ended
}

// NewStanding reads a revision's leaves. Ended may be nil before the first
// revision.
func NewStanding(at trust.Position, leaves []leaf.Leaf, revoked []key.NodeID, ended *trust.Ended) (*Standing, error) {
	s := &Standing{
		Position: at, Pins: map[string]leaf.Node{}, Enrolments: map[string]leaf.Enrolment{},
		Revoked: map[key.NodeID]bool{}, Ended: ended,
	}
	for _, l := range leaves {
		var err error
		switch {
		case l.Name == leaf.NameNetwork:
			var n leaf.Network
			err = leaf.Decode(l, &n)
			s.Prefix4 = n.Prefix4
		case strings.HasPrefix(l.Name, "node/"):
			var n leaf.Node
			err = leaf.Decode(l, &n)
			s.Pins[n.Name] = n
		case strings.HasPrefix(l.Name, "enrolment/"):
			var e leaf.Enrolment
			err = leaf.Decode(l, &e)
			s.Enrolments[e.Name] = e
		}
		if err != nil {
			return nil, err
		}
	}
	for _, id := range revoked {
		s.Revoked[id] = true
	}
	return s, nil
}

// An Admitter admits nodes. Its methods may be called at the same time.
type Admitter struct {
	Network key.NetworkID
	Sign    trust.SigningKey // an admission key
	Seal    key.SealPrivate  // opens proofs

	mu       sync.Mutex // guards the fields below and the log
	Log      *Log
	standing *Standing
	from     netip.Addr // no address below it is free
}

// SetStanding puts a revision in force for admission.
func (a *Admitter) SetStanding(s *Standing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.standing = s
	a.from = netip.Addr{}
}

// ErrNotReady means that no revision is in force yet.
var ErrNotReady = errors.New("no revision of the policy is in force yet")

// A Refusal says to the person at the node why it is not admitted. What it says
// is known to that person already, or to anybody who reads the policy.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// Decide answers a join request. The error is a *Refusal where the node is to be
// told, and another where sync itself could not decide.
func (a *Admitter) Decide(id key.IdentityPublic, join []byte, now time.Time) (*papers.Admission, []byte, error) {
	j, err := papers.OpenJoin(join, a.Network, id)
	if err != nil {
		return nil, nil, refuse("the join request does not verify")
	}
	p, err := j.Unseal(a.Seal)
	if err != nil {
		return nil, nil, refuse("the join request's proof cannot be opened: it was sealed for another sync, or damaged")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.standing == nil {
		return nil, nil, ErrNotReady
	}
	if err := a.Log.settle(); err != nil {
		return nil, nil, err
	}
	node := id.NodeID()
	if a.standing.Ended.Has(node) || a.standing.Revoked[node] {
		return nil, nil, refuse("this identity key is out of the network (%s); a new one may join", a.why(node))
	}
	if e, ok := a.Log.Newest(node); ok {
		return e.Admission, e.Note, nil
	}
	ad, err := a.judge(j, p, now)
	if err != nil {
		return nil, nil, err
	}
	now = now.UTC().Truncate(time.Second)
	ad.Network, ad.Identity, ad.Name = a.Network, id, j.Name
	ad.Log, ad.Prev, ad.Serial = a.Log.Len()+1, a.Log.Head(), 1
	ad.IPv6 = papers.Address6(a.Network, id)
	ad.Decided, ad.Issued = a.standing.Position, now
	signed, err := papers.NewAdmission(*ad)
	if err != nil {
		return nil, nil, err
	}
	note, err := trust.Sign(signed.Text(), a.Sign)
	if err != nil {
		return nil, nil, err
	}
	if err := a.Log.Append(signed, note); err != nil {
		return nil, nil, err
	}
	return signed, note, nil
}

func (a *Admitter) why(id key.NodeID) string {
	if a.standing.Ended.Has(id) {
		return a.standing.Ended.Nodes[id]
	}
	return "revoked"
}

// judge checks the proof and fills in principal, basis and IPv4 address.
func (a *Admitter) judge(j *papers.Join, p *papers.Proof, now time.Time) (*papers.Admission, error) {
	ad := &papers.Admission{}
	pin, reserved := a.standing.Pins[j.Name]
	own, pinned := a.pinOf(j.Identity)
	switch p.Kind {
	case papers.ProofPin:
		switch {
		case !pinned:
			return nil, refuse("the policy has no node %q with the identity key %s", j.Name, j.Identity)
		case own != j.Name:
			return nil, refuse("the policy pins this identity key as %q, not as %q", own, j.Name)
		}
		if pin.User != "" {
			ad.User = &acl.User{Email: pin.User, Issuer: Issuer, Subject: pin.User}
		}
		ad.Tags = pin.Tags
		ad.Basis = papers.Basis{Kind: "pin", Name: pin.Name}
	case papers.ProofEnrolment:
		entry, ok := a.standing.Enrolments[p.Entry]
		switch {
		case !ok:
			return nil, refuse("the policy has no enrolment entry %q", p.Entry)
		case !entry.Key.Verify(papers.EnrolText(a.Network, j.Identity, j.Name, p.Tags), p.Signature):
			return nil, refuse("the secret is not the one of enrolment entry %q", p.Entry)
		case !entry.Expires.IsZero() && !now.Before(entry.Expires):
			return nil, refuse("enrolment entry %q ended at %s", p.Entry, entry.Expires.UTC().Format(time.RFC3339))
		case !slices.Equal(p.Tags, entry.Tags): // said to nobody without the secret
			return nil, refuse("enrolment entry %q gives the tags %s, the secret is for %s", p.Entry, strings.Join(entry.Tags, ", "), strings.Join(p.Tags, ", "))
		case !matches(entry.Names, j.Name):
			return nil, refuse("enrolment entry %q is for nodes named %s, not %q", p.Entry, strings.Join(entry.Names, ", "), j.Name)
		case pinned:
			return nil, refuse("the policy pins this identity key as %q; it joins without an enrolment secret", own)
		case reserved:
			return nil, refuse("the policy pins the name %q for another identity key", j.Name)
		}
		ad.Tags = entry.Tags
		ad.Basis = papers.Basis{Kind: "enrolment", Name: entry.Name}
	default:
		return nil, refuse("this way to join (%s) is unknown here", p.Kind)
	}
	used, err := a.used(j)
	if err != nil {
		return nil, err
	}
	ad.IPv4 = pin.Address4
	if ad.Basis.Kind != "pin" || !ad.IPv4.IsValid() {
		ad.IPv4, err = a.lease(used)
	} else if used[ad.IPv4] {
		err = refuse("the pinned address %s is still another node's", ad.IPv4)
	}
	return ad, err
}

// pinOf finds the name under which the policy pins an identity key. Where it
// stands twice, the first in the order of names counts.
func (a *Admitter) pinOf(id key.IdentityPublic) (name string, ok bool) {
	for _, pin := range a.standing.Pins {
		if pin.Key.Equal(id) && (!ok || pin.Name < name) {
			name, ok = pin.Name, true
		}
	}
	return name, ok
}

// used are the addresses of live nodes; it refuses a name that a live node has.
func (a *Admitter) used(j *papers.Join) (map[netip.Addr]bool, error) {
	used := map[netip.Addr]bool{}
	for _, e := range a.Log.Nodes() {
		if a.standing.Ended.Has(e.Admission.Identity.NodeID()) {
			continue
		}
		if e.Admission.Name == j.Name {
			return nil, refuse("the name %q is another node's", j.Name)
		}
		used[e.Admission.IPv4] = true
	}
	return used, nil
}

// lease finds the lowest free address of the network's prefix. The first address
// and the last stay free, which some systems take for others than a node's.
func (a *Admitter) lease(used map[netip.Addr]bool) (netip.Addr, error) {
	pinned := map[netip.Addr]bool{}
	for _, p := range a.standing.Pins {
		pinned[p.Address4] = true
	}
	prefix := a.standing.Prefix4
	addr := prefix.Masked().Addr().Next()
	if a.from.IsValid() && prefix.Contains(a.from) {
		addr = a.from
	}
	for prefix.Contains(addr) && prefix.Contains(addr.Next()) {
		if !used[addr] && !pinned[addr] {
			a.from = addr
			return addr, nil
		}
		addr = addr.Next()
	}
	return netip.Addr{}, fmt.Errorf("lease an address: every address of %s is taken", prefix)
}

// matches reports whether a name matches one of the patterns, in which '*' stands
// for any characters, and every other character for itself.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		first, rest, star := strings.Cut(p, "*")
		if !star {
			return p == name
		}
		name, ok := strings.CutPrefix(name, first)
		if !ok {
			return false
		}
		for {
			// Each part is taken where it first occurs, the last where the name ends.
			part, after, more := strings.Cut(rest, "*")
			if !more {
				return strings.HasSuffix(name, part)
			}
			if _, name, ok = strings.Cut(name, part); !ok {
				return false
			}
			rest = after
		}
	})
}

// Succeed puts the next revision in force: decide is given the admitted nodes that
// it puts out, and why, and the head of the log that was judged; what it returns
// is the standing from then on. Nobody is admitted meanwhile, so that no node
// slips in between that the next revision would have put out.
func (a *Admitter) Succeed(next *Standing, decide func(ending map[key.NodeID]string, head key.Hash) (*Standing, error)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.Log.settle(); err != nil {
		return err // an admission that is not counted yet may be one that ends
	}
	ending := map[key.NodeID]string{}
	for _, e := range a.Log.Nodes() {
		id := e.Admission.Identity.NodeID()
		if next.Ended.Has(id) {
			continue
		}
		if why := next.gone(e.Admission); why != "" {
			ending[id] = why
		}
	}
	for id := range next.Revoked {
		if !next.Ended.Has(id) {
			ending[id] = "revoked"
		}
	}
	s, err := decide(ending, a.Log.Head())
	if err != nil {
		return err
	}
	a.standing, a.from = s, netip.Addr{}
	return nil
}

// gone says in one word why an admission no longer rests on the policy.
func (s *Standing) gone(ad *papers.Admission) string {
	switch ad.Basis.Kind {
	case "pin":
		pin, ok := s.Pins[ad.Basis.Name]
		user := ""
		if ad.User != nil {
			user = ad.User.Email
		}
		if !ok || !pin.Key.Equal(ad.Identity) || pin.User != user || !slices.Equal(pin.Tags, ad.Tags) ||
			pin.Address4.IsValid() && pin.Address4 != ad.IPv4 {
			return "pin"
		}
	case "enrolment":
		if entry, ok := s.Enrolments[ad.Basis.Name]; !ok || !slices.Equal(entry.Tags, ad.Tags) {
			return "enrolment"
		}
	}
	return ""
}

// Inventory are the admissions of nodes that are not on the list, in the log's
// order, the log's head, and its length.
func (a *Admitter) Inventory(ended *trust.Ended) (live []*papers.Admission, head key.Hash, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.Log.Nodes() {
		if !ended.Has(e.Admission.Identity.NodeID()) {
			live = append(live, e.Admission)
		}
	}
	return live, a.Log.Head(), a.Log.Len()
}

// After are the notes of the admissions after number n.
func (a *Admitter) After(n int64) []Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.Log.After(n))
}

// Len is the number of admissions ever signed.
func (a *Admitter) Len() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Log.Len()
}

// Has reports whether the log has an admission with this hash; the zero hash is
// the head of an empty log, which every log begins with.
func (a *Admitter) Has(h key.Hash) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return h.IsZero() || slices.ContainsFunc(a.Log.After(0), func(e Entry) bool { return e.Admission.Hash() == h })
}
