package server

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
)

// relayID is the node id of a relay: none.
var relayID key.NodeID

// publisherService is what sync calls.
type publisherService struct{ s *Server }

// authPublisher lets the policy and admission keys of the newest root call.
func (s *Server) authPublisher(c *caller) error { return s.publisher(s.reg.Snapshot(), nil, c) }

func (s *Server) publisher(snap *state.Snapshot, w *state.Watch, c *caller) error {
	root, ok := snap.Root(w)
	if !ok {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("no network yet"))
	}
	same := func(k trust.VKey) bool { return k.Identity().Equal(c.key) }
	if slices.ContainsFunc(root.Root.PolicyKeys, same) || slices.ContainsFunc(root.Root.AdmissionKeys, same) {
		return nil
	}
	return connect.NewError(connect.CodePermissionDenied, errors.New("not a policy or admission key of the newest root document"))
}

// Publish implements wireconnect.PublisherHandler.
func (p publisherService) Publish(ctx context.Context, req *connect.Request[wire.PublishRequest]) (*connect.Response[wire.PublishResponse], error) {
	m := req.Msg
	pub := registry.Publication{Roots: m.GetRoots(), Manifest: m.GetManifest(), Origins: m.GetOrigins()}
	if b := m.GetChanges(); len(b) > 0 {
		pub.Changes = b
	}
	if b := m.GetEnded(); len(b) > 0 {
		pub.Ended = b
	}
	if b := m.GetPrev(); len(b) > 0 {
		if len(b) != len(pub.Prev) {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("publish: prev is not a hash"))
		}
		pub.Prev = key.Hash(b)
	}
	for _, l := range m.GetLeaves() {
		pub.Leaves = append(pub.Leaves, leaf.Leaf{Name: l.GetName(), Data: l.GetData()})
	}
	if err := p.s.reg.Publish(ctx, pub); err != nil {
		p.s.log.Warn("publication refused", "manifest", key.HashOf(pub.Manifest).Short(), "err", err)
		return nil, p.s.code(err)
	}
	p.s.metrics.published.Inc()
	return connect.NewResponse(&wire.PublishResponse{}), nil
}

// PutEnded implements wireconnect.PublisherHandler.
func (p publisherService) PutEnded(ctx context.Context, req *connect.Request[wire.PutEndedRequest]) (*connect.Response[wire.PutEndedResponse], error) {
	if err := p.s.reg.PutEnded(ctx, req.Msg.GetEnded()); err != nil {
		return nil, p.s.code(err)
	}
	return connect.NewResponse(&wire.PutEndedResponse{}), nil
}

// Newest implements wireconnect.PublisherHandler.
func (p publisherService) Newest(context.Context, *connect.Request[wire.NewestRequest]) (*connect.Response[wire.NewestResponse], error) {
	snap := p.s.reg.Snapshot()
	m := &wire.NewestResponse{Ended: snap.Ended(nil).Doc, Log: p.s.reg.LogHead()}
	if r, ok := snap.Root(nil); ok {
		m.RootVersion = r.Root.Version
	}
	if r := snap.Newest(nil); r != nil {
		m.Manifest = r.Doc
	}
	for _, l := range snap.Leaves() {
		if l.Lost {
			m.Lost = append(m.Lost, l.Leaf.Name)
		}
	}
	return connect.NewResponse(m), nil
}

// Decide implements wireconnect.PublisherHandler.
func (p publisherService) Decide(ctx context.Context, req *connect.Request[wire.DecideRequest]) (*connect.Response[wire.DecideResponse], error) {
	var id key.NodeID
	if b := req.Msg.GetIdentity(); len(b) > 0 {
		k, err := key.IdentityPublicFrom(b)
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		id = k.NodeID()
	}
	var err error
	switch doc, reason := req.Msg.GetAdmission(), req.Msg.GetReason(); {
	case len(doc) > 0 && reason != "":
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("decide: an admission and a refusal"))
	case len(doc) > 0:
		err = p.s.reg.Admit(ctx, id, doc)
	case id.IsZero():
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("decide: a refusal of nobody"))
	default:
		err = p.s.reg.Refuse(id, reason)
	}
	if err != nil {
		return nil, p.s.code(err)
	}
	return connect.NewResponse(&wire.DecideResponse{}), nil
}

// FollowJoins implements wireconnect.PublisherHandler.
func (p publisherService) FollowJoins(ctx context.Context, _ *connect.Request[wire.FollowJoinsRequest], stream *connect.ServerStream[wire.JoinEvent]) error {
	sent := map[key.NodeID]key.Hash{}
	return follow(ctx, p.s, stream, &wire.JoinEvent{Alive: true}, &wire.JoinEvent{CaughtUp: true}, func(snap *state.Snapshot, w *state.Watch) (out []*wire.JoinEvent) {
		joins := snap.Joins(w)
		slices.SortFunc(joins, func(a, b *state.Join) int { return a.Arrived.Compare(b.Arrived) })
		held := make(map[key.NodeID]key.Hash, len(joins))
		for _, j := range joins {
			held[j.ID] = key.HashOf(j.Doc)
			if j.Refused == "" && sent[j.ID] != held[j.ID] {
				out = append(out, &wire.JoinEvent{Identity: j.Identity.Ed25519(), Join: j.Doc})
			}
		}
		sent = held
		return out
	})
}

// FollowAcks implements wireconnect.PublisherHandler.
func (p publisherService) FollowAcks(ctx context.Context, _ *connect.Request[wire.FollowAcksRequest], stream *connect.ServerStream[wire.AckEvent]) error {
	var seen uint64
	return follow(ctx, p.s, stream, &wire.AckEvent{Alive: true}, &wire.AckEvent{CaughtUp: true}, func(snap *state.Snapshot, w *state.Watch) (out []*wire.AckEvent) {
		for _, n := range snap.PresenceSince(w, seen) {
			seen = n.Changed
			e := &wire.AckEvent{Identity: n.Identity.Ed25519(), Ack: n.AckDoc, Online: n.Streams > 0}
			if !n.OfflineSince.IsZero() {
				e.OfflineSince = cmp.Or(n.OfflineSince.Unix(), 1)
			}
			out = append(out, e)
		}
		return out
	})
}

// follow is a stream of a publisher: what read gives of each snapshot, "caught
// up" once, and then whatever is new.
func follow[M any](ctx context.Context, s *Server, stream *connect.ServerStream[M], alive, caughtUp *M, read func(*state.Snapshot, *state.Watch) []*M) error {
	c := callerOf(ctx)
	c.received()
	leave, err := s.enter(c)
	if err != nil {
		return err
	}
	defer leave()
	for first := true; ; first = false {
		snap, w := s.reg.Snapshot(), state.NewWatch()
		if err := s.publisher(snap, w, c); err != nil {
			return err // the newest root no longer names the key
		}
		events := read(snap, w)
		if first {
			events = append(events, caughtUp)
		}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		for woken := false; !woken; {
			if woken, err = s.wait(ctx, w); err != nil {
				return err
			}
			if !woken {
				if err := stream.Send(alive); err != nil {
					return err
				}
			}
		}
	}
}
