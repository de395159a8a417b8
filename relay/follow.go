package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/frame"
)

// network admits the nodes of one network: those whose admission verifies under
// its newest root document, and that are neither expired nor on the ended list.
// It follows the coordinators as an agent does, and keeps what it has verified,
// so that it admits nodes after a restart without a coordinator.
type network struct {
	follower *follow.Follower
	changed  func()
}

// newNetwork reads what the relay has verified before.
func newNetwork(dir string, join papers.JoinString, identity key.IdentityPrivate, log *slog.Logger) (*network, error) {
	n := &network{changed: func() {}}
	var err error
	n.follower, err = follow.Open(follow.Config{
		Network: join.Network, Identity: identity, Coordinators: join.Coordinators,
		File: filepath.Join(dir, "netmap.state"), Version: version, Stream: follow.AsRelay,
		Adopt: func(context.Context, netmap.Outcome) { n.changed() }, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// forever is the end of an admission that has none: the last second of the year
// 9999, which is the latest that a welcome can name (package frame).
var forever = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)

// Admit implements server.Admitter. Before the relay holds a revision it may hold
// no ended list either, and cannot know who is out: it is not ready, whatever root
// documents it has.
func (n *network) Admit(id key.IdentityPublic, admission []byte) (time.Time, error) {
	until, err := n.follower.State().AdmitPapers(id, admission, time.Now())
	switch {
	case err == nil && until.IsZero():
		return forever, nil
	case err == nil:
		return until, nil
	case errors.Is(err, netmap.ErrNotReady):
		return until, &frame.Refusal{Kind: frame.NotReady}
	case errors.Is(err, netmap.ErrEnded):
		return until, &frame.Refusal{Kind: frame.Revoked, Text: err.Error()}
	case errors.Is(err, netmap.ErrExpired):
		return until, &frame.Refusal{Kind: frame.Ended, Text: err.Error()}
	default:
		return until, fmt.Errorf("admit %s: %w", id.NodeID().Short(), err)
	}
}

// Follow implements admitter.
func (n *network) Follow(ctx context.Context, changed func()) error {
	// Adopt runs within Run alone, so that nothing reads changed before it is set.
	n.changed = changed
	if err := n.follower.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}
