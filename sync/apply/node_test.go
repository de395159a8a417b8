package apply

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A node is what of an agent sync sees: it asks to join, verifies what it is
// sent, and acknowledges what it then would enforce.
type node struct {
	t      testing.TB
	name   string
	id     key.IdentityPrivate
	secret papers.EnrolSecret // zero: by pin
	seal   key.SealPublic

	follower *follow.Follower
	wake     chan struct{}
	stop     func()

	mu      sync.Mutex // guards the fields below
	refused string
	changed chan struct{}
}

func (b *bench) node(name string, secret papers.EnrolSecret) *node {
	return &node{
		t: b.t, name: name, id: key.NewIdentity(), secret: secret, seal: b.world.Seal.Public(),
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// up starts the node, which follows these coordinators.
func (b *bench) up(n *node, coordinators ...leaf.Coordinator) {
	b.t.Helper()
	if coordinators == nil {
		coordinators = []leaf.Coordinator{b.coord.Coordinator()}
	}
	var err error
	n.follower, err = follow.Open(follow.Config{
		Network: b.world.Network, Identity: n.id, Self: n.id.Public().NodeID(), Coordinators: coordinators,
		File: filepath.Join(b.t.TempDir(), "netmap.state"), Stream: follow.AsNode, Version: "test",
		Adopt: func(context.Context, netmap.Outcome) { n.tell("") }, Refused: n.tell, Connected: n.beside,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.follower.Run(ctx)
	}()
	n.stop = func() { cancel(); <-done }
	b.t.Cleanup(n.stop)
}

func (n *node) tell(refused string) {
	n.mu.Lock()
	n.refused = refused
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// beside joins and acknowledges.
func (n *node) beside(ctx context.Context, hc *http.Client, url string) {
	api := wireconnect.NewAgentClient(hc, url)
	var asked, acked trust.Position
	for {
		s := n.follower.State()
		m := s.Netmap(time.Now())
		_, admission := s.Admission()
		switch {
		case s.Manifest() == nil:
		case admission == nil && m.Position != asked:
			asked = m.Position
			proof := papers.Proof{Kind: papers.ProofPin}
			if n.secret.Entry != "" {
				proof = n.secret.Proof(s.Root().Network, n.id.Public(), n.name)
			}
			join, err := papers.NewJoin(s.Root().Network, n.id, n.name, time.Now(), n.seal, proof)
			if err != nil {
				n.t.Error(err)
				return
			}
			if _, err := api.Join(ctx, connect.NewRequest(&wire.JoinRequest{Join: join})); err != nil {
				return
			}
		case m.Self != nil && m.Position != acked:
			ack, err := papers.SignAck(papers.Ack{
				Network: s.Root().Network, Position: m.Position, Manifest: m.Manifest, Digest: m.Digest, Issued: time.Now(),
			}, n.id)
			if err != nil {
				n.t.Error(err)
				return
			}
			if _, err := api.Acknowledge(ctx, connect.NewRequest(&wire.AcknowledgeRequest{Ack: ack})); err != nil {
				return
			}
			acked = m.Position
		}
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
	}
}

// wait waits until the node's state, or why it was refused, is as it should be.
func (n *node) wait(what string, ok func(s *netmap.State, refused string) bool) {
	n.t.Helper()
	limit := time.After(timeout)
	for {
		n.mu.Lock()
		refused, changed := n.refused, n.changed
		n.mu.Unlock()
		s := n.follower.State()
		if ok(s, refused) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			ad, _ := s.Admission()
			n.t.Fatalf("wait until %s %s: got admission %v, refused %q, status %+v", n.name, what, ad, refused, n.follower.Status())
		}
	}
}

// admitted waits until the node is admitted and returns its admission.
func (n *node) admitted() (ad *papers.Admission, note []byte) {
	n.t.Helper()
	n.wait("is admitted", func(s *netmap.State, _ string) bool {
		ad, note = s.Admission()
		return ad != nil
	})
	return ad, note
}

// isOut reports whether the node itself knows that it is out.
func (n *node) isOut() string {
	return n.follower.State().Netmap(time.Now()).Out
}
