// Package state is a coordinator's working set: what it serves, in memory, and
// nothing that it would have to believe. It is rebuilt from the durable store at
// every start, and holds only what was verified on the way in.
//
//	table      row          index                 what
//	roots      Root         id (version)          root documents
//	ended      Ended        id                    the newest ended list
//	revisions  *Revision    id (epoch, seq)       the newest KeepRevisions
//	leaves     *Leaf        id (H(name)), blob    of the newest revision
//	edges      Edge         to, from              selectors between which a grant stands
//	nodes      *Node        id, selector,         admitted nodes
//	                        principal
//	log        LogEntry     id (position)         hashes of the admission log
//	joins      *Join        id                    join requests, not durable
//	presence   *Presence    id, changed           streams and acks, not durable
//
// # Reading
//
// A [Snapshot] never changes. A [Watch] collects what was read from one, and is
// woken when any of it is no longer so. Rows are values that nobody modifies.
//
// # Writing
//
// Each method of [State] that writes is one transaction. Everything a row says is
// an argument or follows from other rows: there is no clock and no random number
// in here, so that two replicas that are told the same hold the same.
//
// # Work is per edge
//
// A node is indexed by every selector that selects it, and grants by the
// selectors at their two ends ([Edge]). Who concerns a node is then found along
// the edges at its own selectors, and a join, a leave or a group edit wakes those
// whom it touches and nobody else.
package state

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// KeepRevisions is how many revisions are kept with their change lists: a node
// that was away for fewer follows them; one that was away longer asks for proofs.
const KeepRevisions = 64

// A State is the working set of one coordinator.
type State struct {
	db *memdb.MemDB

	mu      sync.Mutex // held by the one writer
	changed uint64     // number of the newest change of presence; guarded by mu
}

// New is an empty working set.
func New() (*State, error) {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		return nil, fmt.Errorf("make working set: %w", err)
	}
	return &State{db: db}, nil
}

// write runs f in a transaction: all of it is seen, or nothing.
func (s *State) write(f func(*memdb.Txn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	if err := f(txn); err != nil {
		return err
	}
	txn.Commit()
	return nil
}

// A Snapshot is the working set at one moment.
type Snapshot struct{ txn *memdb.Txn }

// Snapshot is the working set now.
func (s *State) Snapshot() *Snapshot { return &Snapshot{s.db.Txn(false)} }

// A Watch is woken when something that was read with it is no longer so. A nil
// Watch watches nothing.
type Watch struct{ set memdb.WatchSet }

// NewWatch is a Watch of nothing yet.
func NewWatch() *Watch { return &Watch{memdb.NewWatchSet()} }

func (w *Watch) add(ch <-chan struct{}) {
	if w != nil {
		w.set.Add(ch)
	}
}

// Add makes w be woken when o is.
func (w *Watch) Add(o *Watch) {
	if o != nil {
		for ch := range o.set {
			w.set.Add(ch)
		}
	}
}

// Wait returns nil when the watch is woken, and ctx's error when ctx ends first.
func (w *Watch) Wait(ctx context.Context) error { return w.set.WatchCtx(ctx) }

// Woken reports whether anything watched has changed.
func (w *Watch) Woken() bool {
	for ch := range w.set {
		select {
		case <-ch:
			return true
		default:
		}
	}
	return false
}

// all reads every row of an index, or those of one value of it.
func all[T any](s *Snapshot, w *Watch, table, index string, args ...any) []T {
	it, err := s.txn.Get(table, index, args...)
	if err != nil {
		panic(err) // an index that is not in the schema
	}
	w.add(it.WatchCh())
	var out []T
	for row := it.Next(); row != nil; row = it.Next() {
		out = append(out, row.(T))
	}
	return out
}

// one reads the row of one value of a unique index.
func one[T any](s *Snapshot, w *Watch, table, index string, args ...any) (row T, ok bool) {
	ch, v, err := s.txn.FirstWatch(table, index, args...)
	if err != nil {
		panic(err) // an index that is not in the schema
	}
	w.add(ch)
	if v == nil {
		return row, false
	}
	return v.(T), true
}

// last reads the row of the highest key.
func last[T any](s *Snapshot, w *Watch, table string) (row T, ok bool) {
	ch, v, err := s.txn.LastWatch(table, "id")
	if err != nil {
		panic(err) // an index that is not in the schema
	}
	w.add(ch)
	if v == nil {
		return row, false
	}
	return v.(T), true
}
