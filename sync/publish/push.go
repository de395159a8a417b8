package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// callTimeout bounds one call to a coordinator; a first revision of many leaves
// takes longest.
const callTimeout = 30 * time.Second

// A Coordinator is one that sync publishes to.
type Coordinator struct {
	leaf.Coordinator
	HTTP *http.Client
	API  wireconnect.PublisherClient
}

// Dial makes a Coordinator; nothing is connected until it is called. sync shows
// its policy key, which the root document names.
func Dial(c leaf.Coordinator, k trust.SigningKey) (*Coordinator, error) {
	id, err := k.TLSIdentity()
	if err != nil {
		return nil, err
	}
	hc := follow.Client(id, c.Pin)
	return &Coordinator{c, hc, wireconnect.NewPublisherClient(hc, "https://"+c.Addr, connect.WithReadMaxBytes(wire.MaxMessage))}, nil
}

// Push brings a coordinator to the revision, and gives it what it lacks of one that
// it has: later root documents, and leaves that a damaged store has lost. It
// returns the highest number of the admissions that the coordinator has.
func (p *Publisher) Push(ctx context.Context, c *Coordinator, r *Revision, roots [][]byte) (admissions int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	newest, err := c.API.Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
	var has *wire.NewestResponse
	switch {
	case connect.CodeOf(err) == connect.CodeFailedPrecondition:
		has = &wire.NewestResponse{} // it has no root document yet
	case err != nil:
		return 0, fmt.Errorf("publish to %s: %w", c.Addr, err)
	default:
		has = newest.Msg
	}
	prev, err := hashOf(has.GetManifest())
	if err != nil {
		return 0, fmt.Errorf("publish to %s: the manifest it has: %w", c.Addr, err)
	}
	whole := len(has.GetLost()) == 0
	if prev == r.Manifest.Hash() && whole && has.GetRootVersion() >= int64(len(roots)) {
		return has.GetLog(), nil
	}
	manifest, ended, err := p.Notes(r)
	if err != nil {
		return 0, err
	}
	req := &wire.PublishRequest{
		Roots: roots, Manifest: manifest, Changes: r.Changes, Ended: ended, Origins: r.Origins, Leaves: all(r),
	}
	if !prev.IsZero() {
		req.Prev = prev[:]
		if prev == r.Manifest.Prev && r.Changes != nil && whole {
			if req.Leaves, err = changed(r); err != nil {
				return 0, err
			}
		}
	}
	if _, err := c.API.Publish(ctx, connect.NewRequest(req)); err != nil {
		return 0, fmt.Errorf("publish to %s: %w", c.Addr, err)
	}
	return has.GetLog(), nil
}

func hashOf(note []byte) (key.Hash, error) {
	if len(note) == 0 {
		return key.Hash{}, nil
	}
	text, err := trust.Text(note)
	if err != nil {
		return key.Hash{}, err
	}
	return key.HashOf([]byte(text)), nil
}

func all(r *Revision) (out []*wire.Leaf) {
	for _, l := range r.Leaves {
		out = append(out, &wire.Leaf{Name: l.Name, Data: l.Data})
	}
	return out
}

// changed are the leaves on the revision's change list.
func changed(r *Revision) (out []*wire.Leaf, err error) {
	list, err := leaf.ParseChangeList(r.Changes)
	if err != nil {
		return nil, err
	}
	is := make(map[key.Hash]bool, len(list.Changes))
	for _, ch := range list.Changes {
		is[ch.Name] = true
	}
	for _, l := range r.Leaves {
		if is[leaf.NameHash(l.Name)] {
			out = append(out, &wire.Leaf{Name: l.Name, Data: l.Data})
		}
	}
	return out, nil
}

// Refused reports whether a coordinator's error will not go away by trying
// again: it does not accept what was published.
func Refused(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return err != nil
	}
	return errors.Is(err, trust.ErrUnsigned)
}
