package state

import (
	"time"

	"github.com/hashicorp/go-memdb"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
)

// A Join is a join request that is not decided, or was refused. It is kept in
// memory alone, so that nobody without papers makes a coordinator write to its
// disk: a node whose request is not known hands it in again.
type Join struct {
	ID       key.NodeID
	Identity key.IdentityPublic
	Doc      []byte
	From     string // the network the request came from, for fairness
	Arrived  time.Time
	Refused  string // sync's reason; empty while it waits
}

// A Digest says whether a node enforces what it should.
type Digest uint8

// What may be said of an acknowledged digest.
const (
	DigestUnknown Digest = iota // of a revision that was not the newest when it arrived
	DigestRight
	DigestWrong
)

func (d Digest) String() string {
	switch d {
	case DigestRight:
		return "right"
	case DigestWrong:
		return "wrong"
	default:
		return "unknown"
	}
}

// A Presence is what this replica has seen of a node since it started.
type Presence struct {
	ID           key.NodeID
	Identity     key.IdentityPublic
	Streams      int       // now
	OfflineSince time.Time // zero while online
	Version      string    // of its program
	Ack          *papers.Ack
	AckDoc       []byte
	Digest       Digest
	Changed      uint64 // of all rows, the number of the change that made this one
}

// PutJoin adds or replaces a join request, and drops another one to make room.
func (s *State) PutJoin(j *Join, drop *key.NodeID) error {
	return s.write(func(txn *memdb.Txn) error {
		if drop != nil {
			if old, ok := one[*Join](&Snapshot{txn}, nil, tableJoins, indexID, *drop); ok {
				if err := txn.Delete(tableJoins, old); err != nil {
					return err
				}
			}
		}
		return txn.Insert(tableJoins, j)
	})
}

// Join is what became of a node's join request.
func (s *Snapshot) Join(w *Watch, id key.NodeID) (*Join, bool) {
	return one[*Join](s, w, tableJoins, indexID, id)
}

// Joins are all join requests held.
func (s *Snapshot) Joins(w *Watch) []*Join { return all[*Join](s, w, tableJoins, indexID) }

// touch changes the presence of a node.
func (s *State) touch(id key.IdentityPublic, change func(*Presence)) error {
	return s.write(func(txn *memdb.Txn) error {
		next := &Presence{ID: id.NodeID(), Identity: id}
		if old, ok := one[*Presence](&Snapshot{txn}, nil, tablePresence, indexID, next.ID); ok {
			*next = *old
		}
		change(next)
		s.changed++
		next.Changed = s.changed
		return txn.Insert(tablePresence, next)
	})
}

// Online notes that a node opened a stream.
func (s *State) Online(id key.IdentityPublic, version string) error {
	return s.touch(id, func(p *Presence) {
		p.Streams++
		p.OfflineSince = time.Time{}
		p.Version = version
	})
}

// Offline notes that a stream of a node ended at that time.
func (s *State) Offline(id key.IdentityPublic, at time.Time) error {
	return s.touch(id, func(p *Presence) {
		p.Streams--
		if p.Streams == 0 {
			p.OfflineSince = at
		}
	})
}

// Acknowledge keeps a node's newest acknowledgement.
func (s *State) Acknowledge(id key.IdentityPublic, a *papers.Ack, doc []byte, d Digest) error {
	return s.touch(id, func(p *Presence) { p.Ack, p.AckDoc, p.Digest = a, doc, d })
}

// Presence is what is known of a node's presence.
func (s *Snapshot) Presence(w *Watch, id key.NodeID) (*Presence, bool) {
	return one[*Presence](s, w, tablePresence, indexID, id)
}

// PresenceSince are the rows changed after the change of that number, in order.
func (s *Snapshot) PresenceSince(w *Watch, changed uint64) []*Presence {
	whole, err := s.txn.Get(tablePresence, indexChanged)
	if err != nil {
		panic(err) // an index that is not in the schema
	}
	w.add(whole.WatchCh())
	it, err := s.txn.LowerBound(tablePresence, indexChanged, int64(changed)+1)
	if err != nil {
		panic(err) // an index that is not in the schema
	}
	var out []*Presence
	for row := it.Next(); row != nil; row = it.Next() {
		out = append(out, row.(*Presence))
	}
	return out
}
