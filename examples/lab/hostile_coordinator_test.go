//go:build lab

package lab

import (
	"context"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/key/keyfile"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A replayer is a coordinator in hostile hands, or restored from a backup by one
// that does not care what callers say they have: it gives everybody an older
// revision whole, with every proof.
type replayer struct {
	wireconnect.UnimplementedAgentHandler
	update *wire.Update
}

// Follow implements the Agent service.
func (r *replayer) Follow(ctx context.Context, _ *connect.Request[wire.FollowRequest], s *connect.ServerStream[wire.Update]) error {
	if err := s.Send(r.update); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Replay kills the coordinator and takes its place, its address and its key, to
// offer an older revision.
func (m *Mesh) Replay(old *netmaptest.Revision) {
	m.l.t.Helper()
	m.Coordinator.Kill()
	u := netmap.Update{Roots: m.Roots, Ended: m.EndedDoc, Revisions: []netmap.Revision{{Manifest: old.Doc.Manifest}}}
	var names []string
	m.mu.Lock()
	for name, who := range m.who {
		a := admission(who)
		names = append(names, netmap.Required(a.Principals(), m.Groups(old, &a), name)...)
	}
	m.mu.Unlock()
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		u.Leaves = append(u.Leaves, m.Prove(old, name))
	}
	r := &replayer{update: wire.FromUpdate(u)}
	r.update.CaughtUp = true

	id, err := keyfile.Identity(filepath.Join(m.l.dir, "coordinator", "identity.key"))
	m.l.must(err)
	at, err := netip.ParseAddrPort(m.coord.Addr)
	m.l.must(err)
	l, err := m.Coordinator.host.ListenTCP(at)
	m.l.must(err)
	mux := http.NewServeMux()
	mux.Handle(wireconnect.NewAgentHandler(r))
	s := &http.Server{Handler: mux, TLSConfig: tlskey.ServerConfig(id), ReadHeaderTimeout: within}
	go s.ServeTLS(l, "", "")
	m.l.cleanup(s)
}
