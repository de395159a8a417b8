package follow_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A pinned coordinator answers with everything, and notes whose key called.
type pinned struct {
	wireconnect.UnimplementedAgentHandler
	update netmap.Update
	called chan key.IdentityPublic
}

func (p *pinned) Follow(ctx context.Context, _ *connect.Request[wire.FollowRequest], s *connect.ServerStream[wire.Update]) error {
	p.called <- ctx.Value(callerKey{}).(key.IdentityPublic)
	m := wire.FromUpdate(p.update)
	m.CaughtUp = true
	if err := s.Send(m); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

type callerKey struct{}

// TestFollowsThePinnedCoordinatorOnly is over TLS on loopback: another machine
// that answers at the address is told nothing and believed nothing.
func TestFollowsThePinnedCoordinatorOnly(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Minute))
	node := w.Admit("ledger-1", "tag:accounting")
	r1 := w.Publish(accounting())
	id := key.NewIdentity()
	p := &pinned{update: w.Everything(node, r1), called: make(chan key.IdentityPublic, 16)}
	mux := http.NewServeMux()
	mux.Handle(wireconnect.NewAgentHandler(p))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		caller, err := tlskey.PeerKey(*r.TLS)
		if err != nil {
			t.Error(err)
		}
		mux.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(tls.NewListener(l, tlskey.ServerConfig(id))) }()
	defer func() { srv.Close(); <-done }()

	for _, test := range []struct {
		name string
		pin  key.IdentityPublic
		ok   bool
	}{{"another machine", key.NewIdentity().Public(), false}, {"the coordinator", id.Public(), true}} {
		t.Run(test.name, func(t *testing.T) {
			f, err := follow.Open(follow.Config{
				Network: w.Network, Identity: node.Key, Self: node.ID, Version: "test", Stream: follow.AsNode,
				Coordinators: []leaf.Coordinator{{Addr: l.Addr().String(), Pin: test.pin}},
				File:         filepath.Join(t.TempDir(), "netmap.state"),
				Adopt:        func(context.Context, netmap.Outcome) {},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			ran := make(chan error, 1)
			news := f.News()
			go func() { ran <- f.Run(ctx) }()
			for s := f.Status(); s.Error == "" && !s.CaughtUp && ctx.Err() == nil; s = f.Status() {
				select {
				case <-news:
				case <-ctx.Done():
				}
				news = f.News()
			}
			s := f.Status()
			cancel()
			<-ran
			switch {
			case test.ok:
				if got := f.State().Netmap(time.Now()).Position; got != r1.Manifest.Position || !s.CaughtUp {
					t.Errorf("got revision %v, want %v; status %+v", got, r1.Manifest.Position, s)
				}
				if got := <-p.called; !got.Equal(node.Key.Public()) {
					t.Errorf("the caller's key: got %v, want the node's", got)
				}
			case !strings.Contains(s.Error, "is not the pinned"):
				t.Errorf("status: got %+v, want the error of the pin", s)
			case len(p.called) != 0 || f.State().Root() != nil:
				t.Error("a machine with another key was asked, or believed")
			}
		})
	}
}
