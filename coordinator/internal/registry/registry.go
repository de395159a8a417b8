// Package registry is the way into a coordinator's state. Whatever anybody hands
// in is, in this order, verified, made durable, and only then seen by others:
//
//	documents ──► verify (trust, papers, leaf) ──► store ──► state
//
// A coordinator that is killed between the second step and the third finds the
// documents at its next start, where [Open] verifies all of them again. One that
// is killed before the second step has changed nothing.
//
// # What a publication must be
//
//  1. Its root documents extend the chain held.
//  2. Its manifest is signed to threshold under the newest of them, comes after
//     the newest held in (epoch, seq) and names it as prev, and so does the
//     caller: compare-and-set.
//  3. The ended list that the manifest names, or one that follows it, is given or
//     held, and follows the one held.
//  4. The change list, if the manifest names one, is what the trees differ by.
//  5. The leaves given, with those held that the list does not name, are exactly
//     those of the tree; without a list, the leaves given are all there are.
//
// The newest revision published again changes nothing, and gives back leaves
// whose content the disk has lost.
//
// # A damaged store
//
// A row that does not check or does not verify is set aside, logged by name and
// counted. What follows from its loss is refused rather than guessed:
//
//	root document     the coordinator does not start until it is given again
//	manifest, ended   no revision is served until sync publishes again; what was
//	list, a record    the newest is remembered, and nothing older is taken
//	of a leaf
//	change list       nodes get proofs instead
//	leaf's content    nodes that require the leaf stay where they are, until the
//	                  revision is published again
//	admission         its log position is asked for again; the node is unknown
//	                  until then
//	record            its node puts it again
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Kind says why something is refused.
type Kind uint8

// The kinds of refusals.
const (
	Invalid  Kind = iota + 1 // a document that does not verify, or is older than what is held
	Conflict                 // it builds on something else than what is held
	Denied                   // this caller may not
	Limit                    // too much
	Broken                   // the store could not keep it
)

func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Conflict:
		return "conflict"
	case Denied:
		return "denied"
	case Limit:
		return "limit"
	case Broken:
		return "broken"
	default:
		return "none"
	}
}

// An Error is a refusal. It changed nothing.
type Error struct {
	Kind Kind
	Err  error
	Held []byte // the document that is held instead, where that helps the caller
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func refuse(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

func invalid(err error) error { return &Error{Kind: Invalid, Err: err} }

// maxJoins is how many undecided or refused join requests are held: more than
// any fleet that joins at once, and at most 64 MiB with MaxJoin.
const maxJoins = 1024

// A Config is what a Registry needs.
type Config struct {
	Store store.Store
	Roots [][]byte // root documents given at start; needed for an empty store
	Log   *slog.Logger
	Now   func() time.Time
}

// A Registry is the one writer of a coordinator's state.
type Registry struct {
	// set at construction
	store   store.Store
	state   *state.State
	network key.NetworkID
	log     *slog.Logger
	now     func() time.Time
	started time.Time
	damage  []store.Damage

	mu    sync.Mutex  // from verifying a document to its being seen; guards the fields below
	head  store.Head  // newest manifest ever held, whole or not
	stale []store.Ref // rows of a revision that is not whole: the next one replaces them
	next  int64       // the log position after the last of those without a gap
}

// Network is the network served.
func (r *Registry) Network() key.NetworkID { return r.network }

// Snapshot is what is served now.
func (r *Registry) Snapshot() *state.Snapshot { return r.state.Snapshot() }

// Damaged are the rows set aside at start.
func (r *Registry) Damaged() []store.Damage { return r.damage }

// Started is when the registry was opened: it has seen no node before.
func (r *Registry) Started() time.Time { return r.started }

// LogHead is the highest position of the admission log below which none lacks.
func (r *Registry) LogHead() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next - 1
}

func (r *Registry) apply(ctx context.Context, b store.Batch) error {
	switch err := r.store.Apply(ctx, b); {
	case errors.Is(err, store.ErrConflict):
		return &Error{Kind: Conflict, Err: err}
	case err != nil:
		return &Error{Kind: Broken, Err: err}
	}
	return nil
}

// future refuses what is issued too far ahead of this clock: every verifier
// would.
func (r *Registry) future(what string, issued time.Time) error {
	if ahead := issued.Sub(r.now()); ahead > trust.MaxAhead {
		return refuse(Invalid, "%s: issued %s, %s ahead of this clock", what, issued.Format(time.RFC3339), ahead.Round(time.Second))
	}
	return nil
}

// PutEnded takes up a newer ended list.
func (r *Registry) PutEnded(ctx context.Context, doc []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.state.Snapshot()
	root, _ := snap.Root(nil)
	list, err := trust.OpenEnded(doc, root.Root)
	if err != nil {
		return invalid(err)
	}
	if err := r.future("ended list", list.Issued); err != nil {
		return err
	}
	newer, err := list.Follows(snap.Ended(nil).List)
	switch {
	case err != nil:
		return invalid(err)
	case !newer:
		return nil
	}
	if err := r.apply(ctx, store.Batch{Put: []store.Document{endedRow(doc)}}); err != nil {
		return err
	}
	return r.state.SetEnded(state.Ended{List: list, Doc: doc})
}

// Admit takes up an admission; id, unless it is zero, is the node whose request
// it answers.
func (r *Registry) Admit(ctx context.Context, id key.NodeID, doc []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.state.Snapshot()
	root, _ := snap.Root(nil)
	a, err := papers.OpenAdmission(doc, root.Root)
	if err != nil {
		return invalid(err)
	}
	node := a.Identity.NodeID()
	if !id.IsZero() && id != node {
		return refuse(Invalid, "admission: of another node than the request it answers")
	}
	if err := r.future("admission", a.Issued); err != nil {
		return err
	}
	newest := snap.Newest(nil)
	if newest == nil || newest.Manifest.Position.Compare(a.Decided) < 0 {
		return refuse(Conflict, "admission: decided under revision %s, which is not here yet: publish it first", a.Decided)
	}
	if held, ok := snap.LogAt(a.Log); ok {
		if held.Hash != a.Hash() {
			return refuse(Conflict, "admission: position %d of the log is another", a.Log)
		}
		return nil
	}
	if before, ok := snap.LogAt(a.Log - 1); a.Log > 1 && (!ok || before.Hash != a.Prev) {
		return refuse(Conflict, "admission: position %d of the log does not follow what is held: the log goes on from %d", a.Log, r.next)
	}
	if after, ok := snap.LogAt(a.Log + 1); ok && after.Prev != a.Hash() {
		return refuse(Conflict, "admission: position %d of the log does not precede what is held", a.Log)
	}
	if held, ok := snap.Node(nil, node); ok && a.Log > held.Admission.Log && a.Serial <= held.Admission.Serial {
		return refuse(Invalid, "admission: serial %d of %s, %d is held", a.Serial, a.Name, held.Admission.Serial)
	}
	if err := r.apply(ctx, store.Batch{Put: []store.Document{admissionRow(a.Log, doc)}}); err != nil {
		return err
	}
	if err := r.state.Admit(a, doc); err != nil {
		return err
	}
	r.advance()
	return nil
}

// advance moves next over the log positions that are held.
func (r *Registry) advance() {
	snap := r.state.Snapshot()
	for {
		if _, ok := snap.LogAt(r.next); !ok {
			return
		}
		r.next++
	}
}

// Refuse answers a join request with sync's reason.
func (r *Registry) Refuse(id key.NodeID, reason string) error {
	const maxReason = 1024 // for a person to read
	if len(reason) > maxReason {
		return refuse(Invalid, "refusal: reason of %d bytes, at most %d", len(reason), maxReason)
	}
	if reason == "" {
		return refuse(Invalid, "refusal: no reason")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	j, ok := r.state.Snapshot().Join(nil, id)
	if !ok {
		return nil // decided before, or dropped: its node asks again
	}
	refused := *j
	refused.Refused = reason
	return r.state.PutJoin(&refused, nil)
}

// Join takes up a join request; from is the network that it came from. It is
// answered by Node or Join of a snapshot.
func (r *Registry) Join(id key.IdentityPublic, from string, doc []byte) error {
	j, err := papers.OpenJoin(doc, r.network, id)
	if err != nil {
		return invalid(err)
	}
	if err := r.future("join request", j.Issued); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.state.Snapshot()
	node := id.NodeID()
	if _, ok := snap.Node(nil, node); ok {
		return nil
	}
	var drop *key.NodeID
	if _, ok := snap.Join(nil, node); !ok {
		if drop, err = room(snap.Joins(nil), from); err != nil {
			return err
		}
	}
	return r.state.PutJoin(&state.Join{ID: node, Identity: id, Doc: doc, From: from, Arrived: r.now()}, drop)
}

// room finds a request to drop where there are too many: one that was refused,
// or the oldest of the network that has the most, if that has more than the
// newcomer's.
func room(held []*state.Join, from string) (*key.NodeID, error) {
	if len(held) < maxJoins {
		return nil, nil
	}
	counts := map[string]int{}
	most := from
	var refused *state.Join
	for _, j := range held {
		counts[j.From]++
		if j.Refused != "" && (refused == nil || j.Arrived.Before(refused.Arrived)) {
			refused = j
		}
	}
	if refused != nil {
		return &refused.ID, nil
	}
	for network, n := range counts {
		if n > counts[most] || n == counts[most] && most != from && network < most {
			most = network
		}
	}
	if most == from {
		return nil, refuse(Limit, "join request: %d are waiting already", len(held))
	}
	var oldest *state.Join
	for _, j := range held {
		if j.From == most && (oldest == nil || j.Arrived.Before(oldest.Arrived)) {
			oldest = j
		}
	}
	return &oldest.ID, nil
}

// live is the node with that identity key, if it may speak.
func (r *Registry) live(snap *state.Snapshot, id key.NodeID) (*state.Node, error) {
	n, ok := snap.Node(nil, id)
	switch {
	case !ok:
		return nil, refuse(Denied, "%s is not admitted", id.Short())
	case n.Ended != "":
		return nil, refuse(Denied, "%s (%s) is out: %s", n.Admission.Name, id.Short(), n.Ended)
	}
	return n, nil
}

// PutRecord takes up a node's record.
func (r *Registry) PutRecord(ctx context.Context, id key.IdentityPublic, doc []byte) error {
	rec, err := papers.OpenRecord(doc, r.network, id)
	if err != nil {
		return invalid(err)
	}
	if err := r.future("record", rec.Issued); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.live(r.state.Snapshot(), id.NodeID())
	switch {
	case err != nil:
		return err
	case n.Record != nil && rec.Serial == n.Record.Serial && rec.Hash() == n.Record.Hash():
		return nil
	case n.Record != nil && rec.Serial <= n.Record.Serial:
		return &Error{
			Kind: Invalid, Held: n.RecordDoc,
			Err: fmt.Errorf("record: serial %d of %s, %d is held", rec.Serial, n.Admission.Name, n.Record.Serial),
		}
	case !r.now().Before(rec.Expires):
		return refuse(Invalid, "record: ended %s", rec.Expires.Format(time.RFC3339))
	}
	if err := r.apply(ctx, store.Batch{Put: []store.Document{recordRow(id, doc)}}); err != nil {
		return err
	}
	return r.state.SetRecord(n.ID, rec, doc)
}

// Acknowledge takes up a node's acknowledgement, in memory alone: a node says it
// again on each stream.
func (r *Registry) Acknowledge(id key.IdentityPublic, doc []byte) (state.Digest, error) {
	a, err := papers.OpenAck(doc, r.network, id)
	if err != nil {
		return state.DigestUnknown, invalid(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.state.Snapshot()
	n, err := r.live(snap, id.NodeID())
	if err != nil {
		return state.DigestUnknown, err
	}
	if p, ok := snap.Presence(nil, n.ID); ok && p.Ack != nil && a.Position.Compare(p.Ack.Position) < 0 {
		return state.DigestUnknown, refuse(Invalid, "acknowledgement: of %s, %s is held", a.Position, p.Ack.Position)
	}
	digest := state.DigestUnknown
	for _, rev := range snap.Revisions() {
		if rev.Manifest.Position != a.Position {
			continue
		}
		if rev.Manifest.Hash() != a.Manifest {
			return state.DigestUnknown, refuse(Invalid, "acknowledgement: of another revision %s than the one served", a.Position)
		}
		if want, ok := snap.Expected(n); ok && rev.Tree != nil {
			digest = state.DigestWrong
			if want == a.Digest {
				digest = state.DigestRight
			}
		}
	}
	return digest, r.state.Acknowledge(id, a, doc, digest)
}

// Online notes a stream of an admitted node.
func (r *Registry) Online(id key.IdentityPublic, version string) error {
	return r.state.Online(id, version)
}

// Offline notes the end of a stream that Online noted.
func (r *Registry) Offline(id key.IdentityPublic) error { return r.state.Offline(id, r.now()) }
