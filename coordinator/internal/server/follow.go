package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/view"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
)

// maxVersion is the longest name of a program's version that is kept.
const maxVersion = 64

// haveOf reads what a caller says that it has.
func haveOf(m *wire.FollowRequest) (h netmap.Have, err error) {
	h = netmap.Have{
		Root: m.GetRootVersion(), Position: trust.Position{Epoch: m.GetEpoch(), Seq: m.GetSeq()},
		Ended: m.GetEndedNumber(), Admission: m.GetAdmissionSerial(),
		Peers: make(map[key.NodeID]netmap.Serials, len(m.GetPeers())),
	}
	if b := m.GetManifest(); len(b) > 0 {
		if len(b) != len(h.Manifest) {
			return h, fmt.Errorf("follow: manifest's hash of %d bytes", len(b))
		}
		h.Manifest = key.Hash(b)
	}
	for _, p := range m.GetPeers() {
		id, err := wire.NodeID(p.GetNode())
		if err != nil {
			return h, fmt.Errorf("follow: %w", err)
		}
		h.Peers[id] = netmap.Serials{Admission: p.GetAdmissionSerial(), Record: p.GetRecordSerial()}
	}
	if m.GetEverything() {
		h = view.Everything(h)
	}
	return h, nil
}

// A sender is a stream of updates.
type sender interface{ Send(*wire.Update) error }

// following is one stream of an agent or a relay.
type following struct {
	s    *Server
	c    *caller
	out  sender
	have netmap.Have

	peers    *state.Watch // of what the peers sent so far follow from; nil before
	caughtUp bool
	refused  string // what the node was told of its join request
}

// pass sends what the caller lacks of the newest snapshot and says what to wait
// for.
func (f *following) pass(snap *state.Snapshot, id key.NodeID) (*state.Watch, error) {
	w := state.NewWatch()
	next := view.Documents(snap, w, id, f.have)
	f.have = next.Have
	updates := next.Updates
	if next.Withheld != nil {
		f.s.metrics.withheld.Inc()
		f.s.log.Warn("revision withheld", "node", f.c.id.Short(), "why", next.Withheld)
	}
	if !id.IsZero() && (f.peers == nil || f.peers.Woken()) {
		peers := state.NewWatch()
		p := view.Peers(snap, peers, id, f.have, f.s.now())
		f.have = p.Have
		updates = append(updates, p.Updates...)
		if f.peers = peers; !p.Complete {
			f.peers = nil
		}
	}
	if f.peers != nil {
		w.Add(f.peers)
	}
	if !id.IsZero() {
		if j, ok := snap.Join(w, id); ok && j.Refused != f.refused {
			if f.refused = j.Refused; f.refused != "" {
				updates = append(updates, &wire.Update{Refused: f.refused})
			}
		}
	}
	return w, f.send(updates)
}

func (f *following) send(updates []*wire.Update) error {
	if len(updates) == 0 && !f.caughtUp {
		updates = []*wire.Update{{}}
	}
	if n := len(updates); n > 0 {
		updates[n-1].CaughtUp = true
		f.caughtUp = true
	}
	for _, u := range updates {
		if err := f.out.Send(u); err != nil {
			return err
		}
		f.s.metrics.sent(u)
	}
	return nil
}

// run passes and waits until the stream is over. After each pass it asks check
// whether the caller may go on.
func (f *following) run(ctx context.Context, id key.NodeID, check func(*state.Snapshot) error) error {
	f.c.received()
	leave, err := f.s.enter(f.c)
	if err != nil {
		return err
	}
	defer leave()
	for {
		snap := f.s.reg.Snapshot()
		w, err := f.pass(snap, id)
		if err != nil {
			return err
		}
		if err := check(snap); err != nil {
			return err
		}
		for woken := false; !woken; {
			if woken, err = f.s.wait(ctx, w); err != nil {
				return err
			}
			if !woken {
				if err := f.out.Send(&wire.Update{Alive: true}); err != nil {
					return err
				}
			}
		}
	}
}

// pinned reports whether the key is one of a relay of the newest revision. While
// there is none, every key is.
func pinned(snap *state.Snapshot, k key.IdentityPublic) error {
	if snap.Newest(nil) == nil {
		return nil
	}
	var relays leaf.Relays
	if l, ok := snap.Leaf(leaf.NameHash(leaf.NameRelays)); ok && !l.Lost {
		if err := leaf.Decode(l.Leaf, &relays); err != nil {
			return connect.NewError(connect.CodePermissionDenied, errors.New("the leaf relays cannot be read by this version"))
		}
	}
	if slices.ContainsFunc(relays.Relays, func(r leaf.Relay) bool { return r.Key.Equal(k) }) {
		return nil
	}
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s is not the key of a relay of this network", k))
}
