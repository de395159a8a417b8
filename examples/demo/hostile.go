package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/node"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
)

// loot is what whoever owns the coordinator has seen: the signed documents of the
// revision in which Bob had access.
type loot struct {
	commit   string
	manifest []byte
	ended    []byte
}

// keepManifest keeps the newest signed documents, as the coordinator has them.
func (st *story) keepManifest(ctx context.Context) error {
	c, err := publish.Dial(st.leafCoordinators()[0], st.policy)
	if err != nil {
		return err
	}
	defer c.HTTP.CloseIdleConnections()
	n, err := c.API.Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
	if err != nil {
		return err
	}
	m, err := trust.OpenManifest(n.Msg.GetManifest(), st.root)
	if err != nil {
		return err
	}
	st.loot = loot{string(m.Commit), n.Msg.GetManifest(), n.Msg.GetEnded()}
	return nil
}

func (st *story) leafCoordinators() []leaf.Coordinator {
	return []leaf.Coordinator{{Addr: st.coordinator, Pin: st.pin}}
}

// A hostile coordinator has the real one's key and address, and gives everybody
// who asks the older revision whole, with every proof and all papers.
type hostile struct {
	wireconnect.UnimplementedAgentHandler
	st     *story
	tree   *leaf.Tree
	leaves map[string]leaf.Leaf
	nodes  []admit.Entry
	bob    []byte // Bob's record
	once   sync.Once
	done   chan struct{} // closed when the first agent was given the revision
}

// newHostile compiles the older commit again, which anybody can, and collects the
// papers of all nodes.
func (st *story) newHostile(ctx context.Context) (*hostile, error) {
	h := &hostile{st: st, leaves: map[string]leaf.Leaf{}, done: make(chan struct{})}
	repo, err := source.Open(st.repo.dir)
	if err != nil {
		return nil, err
	}
	tree, err := repo.Tree(st.loot.commit)
	if err != nil {
		return nil, err
	}
	r, err := build.Check(ctx, build.Request{Tree: tree})
	if err != nil {
		return nil, err
	}
	h.tree = r.Hashed
	for _, l := range r.Leaves {
		h.leaves[l.Name] = l
	}
	log, err := admit.OpenLog(st.path("sync"), []*trust.Root{st.root})
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h.nodes = log.Nodes()
	h.bob, err = statefile.Read(st.path("bob", "record.state"), "record")
	return h, err
}

// Follow gives the older revision.
func (h *hostile) Follow(ctx context.Context, _ *connect.Request[wire.FollowRequest], s *connect.ServerStream[wire.Update]) error {
	u := netmap.Update{Roots: [][]byte{h.st.rootDoc}, Ended: h.st.loot.ended, Revisions: []netmap.Revision{{Manifest: h.st.loot.manifest}}}
	names := []string{}
	for _, e := range h.nodes {
		groups := []acl.Membership{}
		for _, p := range e.Admission.Principals() {
			if l, ok := h.leaves[leaf.PrincipalName(p)]; ok {
				if c, err := leaf.DecodePrincipal(l); err == nil {
					groups = append(groups, c.Groups...)
				}
			}
		}
		names = append(names, netmap.Required(e.Admission.Principals(), groups, e.Admission.Name)...)
		if e.Admission.Name == "bob" {
			u.Peers = append(u.Peers, netmap.Papers{Admission: e.Note, Record: h.bob})
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		p, err := h.tree.Prove(name)
		if err != nil {
			return err
		}
		l, present := h.leaves[name]
		u.Leaves = append(u.Leaves, netmap.Proved{Name: name, Data: l.Data, Absent: !present, Proof: p.Append(nil)})
	}
	m := wire.FromUpdate(u)
	m.CaughtUp = true
	if err := s.Send(m); err != nil {
		return err
	}
	h.once.Do(func() { close(h.done) })
	<-ctx.Done()
	return nil
}

// serve takes the real coordinator's place until ctx ends.
func (h *hostile) serve(ctx context.Context) error {
	id, err := node.Identity(h.st.path("coordinator"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", h.st.coordinator)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(wireconnect.NewAgentHandler(h))
	s := &http.Server{Handler: mux, TLSConfig: tlskey.ServerConfig(id), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { s.Close() })
	go s.ServeTLS(l, "", "")
	return nil
}

func (st *story) chapterHostile(ctx context.Context) error {
	title(5, "The coordinator dies; a hostile one takes its place")
	st.coordinatorProc.kill()
	line(5, "coordinator killed")
	if err := st.reads(ctx, st.alice, ""); err != nil {
		return err
	}
	st.alice.proc.kill()
	began := time.Now()
	if err := st.up(st.alice); err != nil {
		return err
	}
	if _, err := st.alice.status(ctx, "up again", func(s *localapi.Status) bool { return s.State == "up" && s.Proxy != "" }); err != nil {
		return err
	}
	a, err := get(ctx, st.alice.proxy, ledger)
	if err == nil && a.text != "200" {
		err = errors.New(a.text)
	}
	if err != nil {
		return fmt.Errorf("alice reads the ledger after her agent's restart: %w", err)
	}
	line(5, fmt.Sprintf("alice ▸ agent killed, restarted from disk; GET   %s", a.text), time.Since(began))

	h, err := st.newHostile(ctx)
	if err != nil {
		return err
	}
	hctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := h.serve(hctx); err != nil {
		return err
	}
	line(5, fmt.Sprintf("a hostile coordinator, with the key, replays %s (Bob's access)", short(st.loot.commit)))
	var alarm string
	s, err := st.ledger1.status(ctx, "refuses the older revision", func(s *localapi.Status) bool {
		for _, a := range s.Alarms {
			if strings.Contains(a.Text, "rollback") {
				alarm = a.Text
				return true
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	wrap(5, "ledger-1 ▸ ", len([]rune("ledger-1 ▸ ")), strings.Fields(alarm))
	line(5, fmt.Sprintf("ledger-1 ▸ still enforces %s", short(s.Commit)))
	return st.refused(ctx, st.bob)
}

// wrap prints words behind a head, and further lines at a deeper indent.
func wrap(indent int, head string, deeper int, words []string) {
	out := strings.Repeat(" ", indent) + head
	hang := strings.Repeat(" ", indent+deeper)
	for i, w := range words {
		switch {
		case i == 0:
			out += w
		case len([]rune(out))+1+len([]rune(w)) > width-2:
			fmt.Println(out)
			out = hang + w
		default:
			out += " " + w
		}
	}
	fmt.Println(out)
}
