package server

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/wire"
)

// agentService is what nodes call.
type agentService struct{ s *Server }

// authAgent lets every key call: what it is served follows from whether it is
// admitted.
func (s *Server) authAgent(c *caller) error {
	if n, ok := s.reg.Snapshot().Node(nil, c.id); ok && n.Ended == "" {
		c.node = n
	}
	return nil
}

// Join implements wireconnect.AgentHandler.
func (a agentService) Join(ctx context.Context, req *connect.Request[wire.JoinRequest]) (*connect.Response[wire.JoinResponse], error) {
	c := callerOf(ctx)
	s := a.s
	if doc := req.Msg.GetJoin(); len(doc) > 0 && c.node == nil {
		if err := s.joins.allow(c.network, s.now()); err != nil {
			return nil, err
		}
		if n, ok := s.reg.Snapshot().Node(nil, c.id); ok {
			return nil, out(n)
		}
		if err := s.reg.Join(c.key, c.network, doc); err != nil {
			return nil, s.code(err)
		}
	}
	snap := s.reg.Snapshot()
	m := &wire.JoinResponse{State: wire.JoinResponse_STATE_UNKNOWN}
	for _, r := range snap.Roots(nil) {
		m.Roots = append(m.Roots, r.Doc)
	}
	if n, ok := snap.Node(nil, c.id); ok {
		if n.Ended != "" {
			return nil, out(n)
		}
		m.State, m.Admission = wire.JoinResponse_STATE_ADMITTED, n.AdmissionDoc
	} else if j, ok := snap.Join(nil, c.id); ok {
		m.State = wire.JoinResponse_STATE_PENDING
		if j.Refused != "" {
			m.State, m.Reason = wire.JoinResponse_STATE_REFUSED, j.Refused
		}
	}
	return connect.NewResponse(m), nil
}

// out is the answer to a node on the ended list.
func out(n *state.Node) error {
	return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s (%s) is out of the network (%s); with a new identity key it may ask to join again", n.Admission.Name, n.ID.Short(), n.Ended))
}

// Follow implements wireconnect.AgentHandler.
func (a agentService) Follow(ctx context.Context, req *connect.Request[wire.FollowRequest], stream *connect.ServerStream[wire.Update]) error {
	c := callerOf(ctx)
	s := a.s
	have, err := haveOf(req.Msg)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	version := req.Msg.GetVersion()
	version = version[:min(len(version), maxVersion)]
	online := false
	defer func() {
		if online {
			if err := s.reg.Offline(c.key); err != nil {
				s.log.Error("note that a node is offline", "node", c.id.Short(), "err", err)
			}
		}
	}()
	f := &following{s: s, c: c, out: stream, have: have}
	return f.run(ctx, c.id, func(snap *state.Snapshot) error {
		n, ok := snap.Node(nil, c.id)
		switch {
		case !ok:
			return nil
		case n.Ended != "":
			return out(n)
		case !online:
			online = true
			return s.reg.Online(c.key, version)
		}
		return nil
	})
}

// PutRecord implements wireconnect.AgentHandler.
func (a agentService) PutRecord(ctx context.Context, req *connect.Request[wire.PutRecordRequest]) (*connect.Response[wire.PutRecordResponse], error) {
	c := callerOf(ctx)
	if err := a.s.calls.allow(c.id, a.s.now()); err != nil {
		return nil, err
	}
	if err := a.s.reg.PutRecord(ctx, c.key, req.Msg.GetRecord()); err != nil {
		return nil, withHeld(a.s.code(err), err)
	}
	return connect.NewResponse(&wire.PutRecordResponse{}), nil
}

// withHeld adds to the error of a call the record that is held, if it was refused
// for that.
func withHeld(coded, err error) error {
	var refused *registry.Error
	var ce *connect.Error
	if errors.As(err, &refused) && refused.Held != nil && errors.As(coded, &ce) {
		// A message that was made here can be written.
		if d, err := connect.NewErrorDetail(&wire.PutRecordRequest{Record: refused.Held}); err == nil {
			ce.AddDetail(d)
		}
	}
	return coded
}

// Acknowledge implements wireconnect.AgentHandler.
func (a agentService) Acknowledge(ctx context.Context, req *connect.Request[wire.AcknowledgeRequest]) (*connect.Response[wire.AcknowledgeResponse], error) {
	c := callerOf(ctx)
	if err := a.s.calls.allow(c.id, a.s.now()); err != nil {
		return nil, err
	}
	digest, err := a.s.reg.Acknowledge(c.key, req.Msg.GetAck())
	if err != nil {
		return nil, a.s.code(err)
	}
	if digest == state.DigestWrong {
		a.s.log.Warn("a node enforces something else than the revision it acknowledges", "node", c.id.Short())
	}
	a.s.metrics.acks.WithLabelValues(digest.String()).Inc()
	return connect.NewResponse(&wire.AcknowledgeResponse{}), nil
}

// relayService is what relays call.
type relayService struct{ s *Server }

// authRelay lets pinned keys call, and every key before the first revision.
func (s *Server) authRelay(c *caller) error { return pinned(s.reg.Snapshot(), c.key) }

// Follow implements wireconnect.RelayHandler.
func (r relayService) Follow(ctx context.Context, req *connect.Request[wire.FollowRequest], stream *connect.ServerStream[wire.Update]) error {
	c := callerOf(ctx)
	have, err := haveOf(req.Msg)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	f := &following{s: r.s, c: c, out: stream, have: have}
	return f.run(ctx, relayID, func(snap *state.Snapshot) error { return pinned(snap, c.key) })
}
