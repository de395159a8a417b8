package view_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/internal/view"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/wire"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// nowhere is a store that keeps nothing: these tests do not restart.
type nowhere struct{}

func (nowhere) Apply(context.Context, store.Batch) error     { return nil }
func (nowhere) Load(context.Context) (store.Contents, error) { return store.Contents{}, nil }
func (nowhere) Close() error                                 { return nil }

// courier is a registry that a world publishes to.
type courier struct {
	tb  testing.TB
	w   *netmaptest.World
	reg *registry.Registry
}

func newCourier(tb testing.TB, w *netmaptest.World) *courier {
	reg, err := registry.Open(context.Background(), registry.Config{Store: nowhere{}, Roots: w.Roots, Now: func() time.Time { return w.Now }})
	if err != nil {
		tb.Fatal(err)
	}
	return &courier{tb, w, reg}
}

func (c *courier) publish(p netmaptest.Policy) *netmaptest.Revision {
	c.tb.Helper()
	r := c.w.Publish(p)
	pub := registry.Publication{Roots: c.w.Roots, Manifest: r.Doc.Manifest, Changes: r.Doc.Changes, Ended: c.w.EndedDoc}
	var before map[string]leaf.Leaf
	if n := len(c.w.Revisions); n > 1 {
		before, pub.Prev = c.w.Revisions[n-2].Leaves, c.w.Revisions[n-2].Manifest.Hash()
	}
	for name, l := range r.Leaves {
		if string(before[name].Data) != string(l.Data) {
			pub.Leaves = append(pub.Leaves, l)
		}
	}
	if err := c.reg.Publish(context.Background(), pub); err != nil {
		c.tb.Fatal(err)
	}
	return r
}

func (c *courier) admit(n *netmaptest.Node) {
	c.tb.Helper()
	if err := c.reg.Admit(context.Background(), n.ID, n.Papers.Admission); err != nil {
		c.tb.Fatal(err)
	}
	c.record(n)
}

func (c *courier) record(n *netmaptest.Node) {
	c.tb.Helper()
	if err := c.reg.PutRecord(context.Background(), n.Key.Public(), n.Papers.Record); err != nil {
		c.tb.Fatal(err)
	}
}

// client is a verifier that takes up views.
type client struct {
	n     *netmaptest.Node
	state *netmap.State
	bytes int
}

// request is what the client says that it has, as it comes over the wire.
func (c *client) request(everything bool) netmap.Have {
	h := c.state.Have()
	h.EndedHash = key.Hash{} // which the protocol does not carry
	if everything {
		return view.Everything(h)
	}
	return h
}

// take takes up messages, all or the first few, and reports what was refused.
func (c *client) take(w *netmaptest.World, updates []*wire.Update, atMost int) (refused []netmap.Refusal, err error) {
	for i, m := range updates {
		if i == atMost {
			break
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		if len(b) > wire.MaxMessage {
			return nil, fmt.Errorf("a message of %d bytes", len(b))
		}
		c.bytes += len(b)
		var over wire.Update
		if err := proto.Unmarshal(b, &over); err != nil {
			return nil, err
		}
		u, err := wire.ToUpdate(&over)
		if err != nil {
			return nil, err
		}
		o := c.state.Accept(u, w.Now)
		refused = append(refused, o.Refused...)
		c.state = o.State
	}
	return refused, nil
}

// oracle is what a node that was just told everything of the world enforces.
// Whom it must know is found by asking acl-like questions of each pair of nodes,
// not by any index.
func oracle(rt *rapid.T, w *netmaptest.World, n *netmaptest.Node, r *netmaptest.Revision) *netmap.Netmap {
	var peers []*netmaptest.Node
	for _, m := range w.Nodes {
		if m != n && !w.Ended.Has(m.ID) && !w.Ended.Has(n.ID) && m.Record != nil && (reaches(w, r, m, n) || reaches(w, r, n, m)) {
			peers = append(peers, m)
		}
	}
	s := netmap.New(w.Network, n.ID)
	o := s.Accept(w.Everything(n, r, peers...), w.Now)
	if len(o.Refused) > 0 {
		rt.Fatalf("the oracle is refused %v", o.Refused)
	}
	return o.State.Netmap(w.Now)
}

// reaches reports whether any grant is from a and to b, whatever it excepts.
func reaches(w *netmaptest.World, r *netmaptest.Revision, a, b *netmaptest.Node) bool {
	for name, l := range r.Leaves {
		if len(name) < 8 || name[:8] != "inbound/" {
			continue
		}
		in, _, err := leaf.DecodeInbound(l)
		if err != nil {
			continue
		}
		if !selects(w, r, in.To.String(), b, a) {
			continue
		}
		for _, g := range in.Grants {
			for _, f := range g.From {
				if selects(w, r, f.String(), a, b) {
					return true
				}
			}
		}
	}
	return false
}

func selects(w *netmaptest.World, r *netmaptest.Revision, sel string, n, other *netmaptest.Node) bool {
	a := n.Admission
	switch sel {
	case "*", "node:" + a.Name:
		return true
	case "autogroup:member":
		return a.User != nil
	case "autogroup:tagged":
		return a.User == nil
	case "autogroup:self":
		o := other.Admission
		return a.User != nil && o.User != nil && a.User.Issuer == o.User.Issuer && a.User.Subject == o.User.Subject
	}
	if a.User != nil && sel == a.User.Email {
		return true
	}
	for _, t := range a.Tags {
		if sel == "tag:"+t {
			return true
		}
	}
	for _, g := range w.Groups(r, a) {
		if sel == "group:"+g.Group {
			return true
		}
	}
	return false
}

var (
	users  = []string{"alice@acme.example", "bob@acme.example", "carol@acme.example"}
	tags   = []string{"tag:db", "tag:web", "tag:db tag:web"}
	groups = []string{"it", "eng"}
	ends   = []string{"alice@acme.example", "bob@acme.example", "tag:db", "tag:web", "group:it", "group:eng", "autogroup:member",
		"autogroup:tagged", "autogroup:self", "*", "node:n1", "node:n2"}
)

func drawPolicy(t *rapid.T, now time.Time) netmaptest.Policy {
	p := netmaptest.Policy{Groups: map[string][]string{}, Until: map[string]time.Time{}}
	for _, g := range groups {
		members := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"alice@acme.example", "bob@acme.example", "tag:db", "tag:web"}), rapid.ID).Draw(t, g)
		if len(members) > 0 {
			p.Groups[g] = members
		}
		for _, m := range members {
			if rapid.Bool().Draw(t, "until") {
				p.Until[g+" "+m] = now.Add(time.Duration(rapid.IntRange(-2, 48).Draw(t, "hours")) * time.Hour)
			}
		}
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
		p.Rules = append(p.Rules, netmaptest.Rule{
			Name:  fmt.Sprintf("r%d", i),
			From:  rapid.SampledFrom(ends).Draw(t, "from"),
			To:    rapid.SampledFrom(ends).Draw(t, "to"),
			Allow: rapid.SampledFrom([]string{"tcp/80", "tcp/22", "*"}).Draw(t, "allow"),
		})
	}
	return p
}

// Whatever happened before, and whatever a client has, a view brings it to where
// one is that was told everything; nothing of it is refused; and following in one
// stream comes to the same.
func TestEveryClientConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := netmaptest.New(t, start)
		c := newCourier(t, w)
		w.Advance(time.Second)
		r := c.publish(drawPolicy(rt, w.Now))
		var clients []*client
		// stream is a client that followed from the beginning without a break.
		stream := map[*netmaptest.Node]*following{}
		for range rapid.IntRange(2, 24).Draw(rt, "steps") {
			w.Advance(time.Second)
			switch step := rapid.SampledFrom([]string{"join", "join", "publish", "publish", "record", "end", "renew", "root", "catch up", "break off", "everything"}).Draw(rt, "step"); step {
			case "join":
				if len(w.Nodes) == 8 {
					continue
				}
				who := rapid.SampledFrom(append(slices.Clone(users), tags...)).Draw(rt, "who")
				n := w.Admit(fmt.Sprintf("n%d", len(w.Nodes)+1), who)
				c.admit(n)
				clients = append(clients, &client{n: n, state: netmap.New(w.Network, n.ID)})
				f := &following{client: client{n: n, state: netmap.New(w.Network, n.ID)}}
				f.have = f.request(false)
				stream[n] = f
			case "publish":
				r = c.publish(drawPolicy(rt, w.Now))
			case "root":
				next := *w.Root
				if rapid.Bool().Draw(rt, "raise epoch") {
					next.Epoch++
					w.AddRoot(next)
					w.End()
				} else {
					w.AddRoot(next)
				}
				r = c.publish(drawPolicy(rt, w.Now))
			case "record":
				if n := pick(rt, w); n != nil {
					w.SignRecord(n, nil)
					c.record(n)
				}
			case "renew":
				if n := pick(rt, w); n != nil {
					last := w.Nodes[len(w.Nodes)-1].Admission
					for _, m := range w.Nodes {
						if m.Admission.Log > last.Log {
							last = m.Admission
						}
					}
					a := *n.Admission
					a.Log, a.Prev, a.Serial, a.Issued = last.Log+1, last.Hash(), a.Serial+1, w.Now
					w.SignAdmission(n, a)
					// The world admits the next node after its newest one: a renewal ends
					// the joining of this run.
					if err := c.reg.Admit(context.Background(), n.ID, n.Papers.Admission); err != nil {
						rt.Fatal(err)
					}
					for len(w.Nodes) < 8 {
						w.Nodes = append(w.Nodes, n)
					}
				}
			case "end":
				if n := pick(rt, w); n != nil {
					if err := c.reg.PutEnded(context.Background(), w.End(n.ID)); err != nil {
						rt.Fatal(err)
					}
				}
			default:
				if len(clients) == 0 {
					continue
				}
				cl := clients[rapid.IntRange(0, len(clients)-1).Draw(rt, "client")]
				next := view.For(c.reg.Snapshot(), cl.n.ID, cl.request(step == "everything"), w.Now)
				atMost := len(next.Updates)
				if step == "break off" && atMost > 0 {
					atMost = rapid.IntRange(0, atMost).Draw(rt, "messages")
				}
				refused, err := cl.take(w, next.Updates, atMost)
				if err != nil || len(refused) > 0 {
					rt.Fatalf("%s of %s: refused %v, %v", step, cl.n.Admission.Name, refused, err)
				}
			}
			for _, n := range slices.SortedFunc(maps.Keys(stream), func(a, b *netmaptest.Node) int { return int(a.Admission.Log - b.Admission.Log) }) {
				if f := stream[n]; rapid.IntRange(0, 2).Draw(rt, "slow") > 0 {
					f.pass(rt, c)
				}
			}
		}
		for _, cl := range clients {
			want := oracle(rt, w, cl.n, r)
			next := view.For(c.reg.Snapshot(), cl.n.ID, cl.request(false), w.Now)
			refused, err := cl.take(w, next.Updates, -1)
			if err != nil || len(refused) > 0 {
				rt.Fatalf("%s: refused %v, %v", cl.n.Admission.Name, refused, err)
			}
			same(rt, "a new stream of "+cl.n.Admission.Name, cl.state.Netmap(w.Now), want)
			f := stream[cl.n]
			f.pass(rt, c)
			same(rt, "the old stream of "+cl.n.Admission.Name, f.state.Netmap(w.Now), want)
			if again := view.For(c.reg.Snapshot(), cl.n.ID, cl.request(false), w.Now); len(again.Updates) > 0 && want.Out == "" {
				rt.Fatalf("%s lacks nothing and is sent %v", cl.n.Admission.Name, again.Updates)
			}
		}
	})
}

// following is a client of one stream, as the server keeps it.
type following struct {
	client
	have  netmap.Have
	peers *state.Watch
}

func (f *following) pass(rt *rapid.T, c *courier) {
	snap := c.reg.Snapshot()
	next := view.Documents(snap, state.NewWatch(), f.n.ID, f.have)
	f.have = next.Have
	updates := next.Updates
	if f.peers == nil || f.peers.Woken() {
		f.peers = state.NewWatch()
		p := view.Peers(snap, f.peers, f.n.ID, f.have, c.w.Now)
		f.have = p.Have
		updates = append(updates, p.Updates...)
		if !p.Complete {
			f.peers = nil
		}
	}
	refused, err := f.take(c.w, updates, -1)
	if err != nil || len(refused) > 0 {
		rt.Fatalf("stream of %s: refused %v, %v", f.n.Admission.Name, refused, err)
	}
}

func pick(rt *rapid.T, w *netmaptest.World) *netmaptest.Node {
	var in []*netmaptest.Node
	for i, n := range w.Nodes {
		if !w.Ended.Has(n.ID) && slices.Index(w.Nodes, n) == i {
			in = append(in, n)
		}
	}
	if len(in) == 0 {
		return nil
	}
	return in[rapid.IntRange(0, len(in)-1).Draw(rt, "node")]
}

func same(rt *rapid.T, what string, got, want *netmap.Netmap) {
	if want.Out != "" {
		// One that was out before it was ever told that it is in knows nothing.
		if got.Self != nil || got.Out == "" && len(got.Addresses) > 0 {
			rt.Fatalf("%s: it is out (%s) and does not know", what, want.Out)
		}
		return
	}
	if diff := cmp.Diff(plain(want), plain(got)); diff != "" {
		rt.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func person(s *acl.Subject) string {
	if s == nil {
		return ""
	}
	user := acl.User{}
	if s.User != nil {
		user = *s.User
	}
	return fmt.Sprint(s.ID, s.Name, user, s.Groups, s.Tags, s.Expires)
}

// plain is a netmap without what two verifiers may differ in: nobodies that one
// of them was never told of.
func plain(n *netmap.Netmap) map[string]any {
	peers := map[string]string{}
	for _, p := range n.Peers {
		peers[p.Subject.Name] = fmt.Sprint(p.Identity, p.WG, p.Relays, p.Addresses, person(p.Subject))
	}
	return map[string]any{
		"position": n.Position, "manifest": n.Manifest, "digest": n.Digest, "ended": n.Ended,
		"self": person(n.Self), "peers": peers, "inbound": fmt.Sprintf("%+v", n.Inbound), "nobodies": len(n.Nobodies),
	}
}
