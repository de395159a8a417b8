package follow_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A call is one Follow that a coordinator answers as its test says.
type call struct {
	n    int // from 1
	at   time.Duration
	addr string
	req  *wire.FollowRequest
	ctx  context.Context
	send func(netmap.Update)
	raw  func(*wire.Update)
}

// caughtUp sends that nothing more is known.
func (c *call) caughtUp() { c.raw(&wire.Update{CaughtUp: true}) }

// hold keeps the stream open, and silent, until the follower leaves.
func (c *call) hold() error { <-c.ctx.Done(); return nil }

// A bench is a follower with coordinators whose answers the test writes, over
// pipes in the memory of a synctest bubble: time passes when all wait.
type bench struct {
	*netmaptest.World
	t     *testing.T
	node  *netmaptest.Node
	alice *netmaptest.Node
	r1    *netmaptest.Revision
	cfg   follow.Config
	f     *follow.Follower
	begin time.Time

	answer func(*call) error

	mu      sync.Mutex // guards the fields below
	calls   []*call
	adopted []*netmap.State
	asleep  map[string]bool // addresses that refuse connections
}

func newBench(t *testing.T) *bench {
	w := netmaptest.New(t, time.Now())
	b := &bench{World: w, t: t, begin: time.Now(), asleep: map[string]bool{}}
	b.node, b.alice = w.Admit("ledger-1", "tag:accounting"), w.Admit("alice", "alice@acme.example")
	b.r1 = w.Publish(accounting("alice@acme.example"))
	b.cfg = follow.Config{
		Network: w.Network, Identity: b.node.Key, Self: b.node.ID, Version: "test",
		Coordinators: []leaf.Coordinator{{Addr: "one.test:443", Pin: key.NewIdentity().Public()}},
		File:         filepath.Join(t.TempDir(), "netmap.state"),
		Adopt: func(_ context.Context, o netmap.Outcome) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.adopted = append(b.adopted, o.State)
		},
	}
	b.cfg.Stream = func(ctx context.Context, _ *http.Client, url string, req *wire.FollowRequest) (*connect.ServerStreamForClient[wire.Update], error) {
		hc := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialTLSContext:    func(ctx context.Context, _, addr string) (net.Conn, error) { return b.dial(addr) },
		}}
		return wireconnect.NewAgentClient(hc, url).Follow(ctx, connect.NewRequest(req))
	}
	return b
}

func accounting(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"}},
	}
}

// dial connects to a server of its own for this connection.
func (b *bench) dial(addr string) (net.Conn, error) {
	b.mu.Lock()
	asleep := b.asleep[addr]
	b.mu.Unlock()
	if asleep {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	mux := http.NewServeMux()
	mux.Handle(wireconnect.NewAgentHandler(&coordinator{b: b, addr: addr}))
	l := &once{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- far
	srv := &http.Server{Handler: mux, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			l.Close()
		}
	}}
	go srv.Serve(l)
	return near, nil
}

// once is a listener of one connection.
type once struct {
	conn   chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *once) Close() error   { l.close.Do(func() { close(l.closed) }); return nil }
func (l *once) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

type coordinator struct {
	wireconnect.UnimplementedAgentHandler
	b    *bench
	addr string
}

func (c *coordinator) Follow(ctx context.Context, req *connect.Request[wire.FollowRequest], s *connect.ServerStream[wire.Update]) error {
	b := c.b
	b.mu.Lock()
	raw := func(m *wire.Update) { s.Send(m) } // an error is the follower's leaving
	x := &call{n: len(b.calls) + 1, at: time.Since(b.begin), addr: c.addr, req: req.Msg, ctx: ctx, raw: raw,
		send: func(u netmap.Update) { raw(wire.FromUpdate(u)) }}
	b.calls = append(b.calls, x)
	b.mu.Unlock()
	return b.answer(x)
}

// follow opens the follower and runs it for that long.
func (b *bench) follow(d time.Duration) {
	b.t.Helper()
	f, err := follow.Open(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.f = f
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := f.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		b.t.Errorf("run: got %v, want the deadline", err)
	}
	synctest.Wait()
}

// enforces fails the test unless the follower's state is at the revision.
func (b *bench) enforces(r *netmaptest.Revision) {
	b.t.Helper()
	if got := b.f.State().Netmap(time.Now()).Position; got != r.Manifest.Position {
		b.t.Errorf("state: got revision %v, want %v", got, r.Manifest.Position)
	}
}

func (b *bench) everything() netmap.Update { return b.Everything(b.node, b.r1, b.alice) }

func (b *bench) incomplete() netmap.Update {
	u := b.everything()
	u.Leaves = u.Leaves[1:]
	return u
}

func TestObeysWhatIsOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		adopt := b.cfg.Adopt
		written := 0
		b.cfg.Adopt = func(ctx context.Context, o netmap.Outcome) {
			adopt(ctx, o)
			content, err := statefile.Read(b.cfg.File, follow.FileKind)
			if err != nil {
				return // before the first
			}
			s, err := netmap.Load(b.Network, b.node.ID, content)
			if got, want := s.Netmap(time.Now()).Digest, o.State.Netmap(time.Now()).Digest; err != nil || got != want {
				t.Errorf("adopted %s with %s on the disk (%v)", want, got, err)
			}
			written++
		}
		b.answer = func(c *call) error {
			c.send(b.everything())
			c.caughtUp()
			return c.hold()
		}
		b.follow(time.Second)
		b.enforces(b.r1)
		if len(b.adopted) != 2 || written != 1 {
			t.Errorf("adopted %d states, %d of them written; want the one at start and the revision, written", len(b.adopted), written)
		}
		if s := b.f.Status(); s.Updates != 2 || s.Bytes == 0 || s.Unwritten != "" || s.Damaged != "" {
			t.Errorf("status: got %+v", s)
		}

		// Without a coordinator, the state on the disk is put in force.
		b.asleep["one.test:443"] = true
		b.adopted = nil
		b.follow(time.Minute)
		b.enforces(b.r1)
		if len(b.adopted) != 1 || b.adopted[0].Netmap(time.Now()).Position != b.r1.Manifest.Position {
			t.Errorf("adopted %d states without a coordinator, want the one on the disk", len(b.adopted))
		}
		if s := b.f.Status(); !strings.Contains(s.Error, "connection refused") || s.Coordinator != "" {
			t.Errorf("status: got %+v, want the refused connection", s)
		}
	})
}

func TestSilenceIsTakenForDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(c *call) error {
			c.send(b.everything())
			if c.n == 1 {
				return c.hold()
			}
			for range 20 { // now and then a sign of life is enough
				select {
				case <-c.ctx.Done():
					return nil
				case <-time.After(wire.AliveEvery):
					c.raw(&wire.Update{Alive: true})
				}
			}
			return c.hold()
		}
		b.follow(wire.SilenceAfter + 5*time.Minute)
		if len(b.calls) != 2 {
			t.Fatalf("%d calls, want one that went silent and one that lives", len(b.calls))
		}
		if got := b.calls[1].at; got < wire.SilenceAfter || got > wire.SilenceAfter+time.Second {
			t.Errorf("called again after %s, want soon after %s", got, wire.SilenceAfter)
		}
		b.enforces(b.r1)
	})
}

func TestSilentCoordinatorIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(c *call) error {
			if c.n > 1 {
				b.mu.Lock()
				b.asleep["one.test:443"] = true
				b.mu.Unlock()
				s := b.f.Status()
				if !strings.Contains(s.Error, "one.test:443") || !strings.Contains(s.Error, "nothing heard for 1m30s") {
					t.Errorf("status: got error %q, want the silence of one.test", s.Error)
				}
			}
			return c.hold()
		}
		b.f = nil
		f, err := follow.Open(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		b.f = f
		ctx, cancel := context.WithTimeout(t.Context(), 2*wire.SilenceAfter)
		defer cancel()
		f.Run(ctx)
		if len(b.calls) != 2 {
			t.Errorf("%d calls, want 2: a coordinator that accepts and says nothing is left after %s", len(b.calls), wire.SilenceAfter)
		}
	})
}

func TestRefusalsChangeNothingAndAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Advance(time.Minute)
		r2 := b.Publish(accounting())
		b.answer = func(c *call) error {
			c.send(b.Everything(b.node, r2, b.alice))
			news := b.f.News()
			for range 20 {
				c.send(netmap.Update{Revisions: []netmap.Revision{b.r1.Doc}}) // a replay
			}
			c.raw(&wire.Update{Gone: [][]byte{{1, 2, 3}}}) // no id
			c.send(netmap.Update{Peers: []netmap.Papers{{Admission: []byte("garbage")}}})
			synctest.Wait()
			select {
			case <-news:
			default:
				t.Error("a refusal is no news")
			}
			c.caughtUp()
			return c.hold()
		}
		b.follow(time.Second)
		b.enforces(r2)
		s := b.f.Status()
		if s.Refusals[netmap.Rollback] != 20 || s.Refusals[netmap.Invalid] != 2 || len(s.Recent) != 3 {
			t.Fatalf("refusals: got %v and %d recent, want 20 rollbacks, 2 invalid, 3 recent; status %+v", s.Refusals, len(s.Recent), s)
		}
		first, last := s.Recent[0], s.Recent[2]
		if first.Document != "manifest" || first.Count != 20 || first.Kind != netmap.Rollback || first.Hash != key.HashOf(b.r1.Doc.Manifest) || first.Why == "" || last.Document != "admission" {
			t.Errorf("recent: got %+v … %+v", first, last)
		}
		if len(b.adopted) != 2 || len(b.calls) != 1 {
			t.Errorf("%d states adopted in %d calls, want 2 in 1", len(b.adopted), len(b.calls))
		}
	})
}

func TestStateThatCannotBeWrittenIsNotObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		dir := filepath.Join(t.TempDir(), "gone")
		b.cfg.File = filepath.Join(dir, "netmap.state")
		b.answer = func(c *call) error {
			if c.n == 3 {
				if s := b.f.Status(); !strings.Contains(s.Unwritten, "no such file") || !strings.Contains(s.Error, "could not be written") {
					t.Errorf("status: got %+v, want that the state is not written", s)
				}
				if len(b.adopted) != 1 || b.f.State().Manifest() != nil {
					t.Errorf("a state that is not written is obeyed: %d adopted", len(b.adopted))
				}
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Error(err)
				}
			}
			c.send(b.everything())
			return c.hold()
		}
		b.follow(wire.SilenceAfter / 2)
		b.enforces(b.r1)
		if s := b.f.Status(); len(b.calls) != 3 || len(b.adopted) != 2 || s.Unwritten != "" {
			t.Errorf("got %d calls, %d adopted, unwritten %q; want 3, 2 and written", len(b.calls), len(b.adopted), s.Unwritten)
		}
	})
}

func TestIncompleteRevisionIsAskedForWholeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(c *call) error {
			if c.req.GetEverything() {
				c.send(b.everything())
			} else {
				c.send(b.incomplete())
			}
			return c.hold()
		}
		b.follow(time.Minute)
		b.enforces(b.r1)
		if len(b.calls) != 2 || b.calls[0].req.GetEverything() || !b.calls[1].req.GetEverything() || b.calls[1].at != b.calls[0].at {
			t.Errorf("got %d calls, want one, and at once one for everything", len(b.calls))
		}
	})
}

// However many coordinators withhold, and whatever the others do, each is asked
// twice in a round, and rounds are apart.
func TestCoordinatorsThatWithholdAreAskedWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Coordinators = append([]leaf.Coordinator{{Addr: "dead.test:443"}}, b.cfg.Coordinators...)
		b.cfg.Coordinators = append(b.cfg.Coordinators, leaf.Coordinator{Addr: "two.test:443"})
		b.asleep["dead.test:443"] = true
		b.answer = func(c *call) error {
			c.send(b.incomplete())
			return c.hold()
		}
		b.follow(3 * time.Minute)
		if b.f.State().Manifest() != nil {
			t.Error("a revision without all that it requires is enforced")
		}
		if n := len(b.calls); n < 4*10 || n > 4*40 {
			t.Errorf("%d calls in three minutes, want some 4 every 15 s", n)
		}
		for i, c := range b.calls {
			everything, addr := i%2 == 1, []string{"one.test:443", "one.test:443", "two.test:443", "two.test:443"}[i%4]
			if c.req.GetEverything() != everything || c.addr != addr {
				t.Fatalf("call %d: to %s, everything %v; want %s, %v", c.n, c.addr, c.req.GetEverything(), addr, everything)
			}
			if i >= 4 && i%4 == 0 && c.at-b.calls[i-1].at < 100*time.Millisecond {
				t.Fatalf("round %d begins %s after the one before", i/4, c.at-b.calls[i-1].at)
			}
		}
	})
}

func TestNextCoordinatorIsAskedWhenOneIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Coordinators = append([]leaf.Coordinator{{Addr: "dead.test:443"}}, b.cfg.Coordinators...)
		b.asleep["dead.test:443"] = true
		b.answer = func(c *call) error { c.send(b.everything()); return c.hold() }
		b.follow(time.Second)
		b.enforces(b.r1)
		if len(b.calls) != 1 || b.calls[0].at != 0 {
			t.Errorf("%d calls, want one at once", len(b.calls))
		}
	})
}

func TestPausesGrowAndAKickEndsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(*call) error { return connect.NewError(connect.CodeUnavailable, errors.New("going away")) }
		f, err := follow.Open(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		time.Sleep(3 * time.Minute) // of the bubble
		synctest.Wait()
		n := len(b.calls)
		if n < 10 || n > 40 {
			t.Errorf("%d calls in three minutes, want one every 15 s or so", n)
		}
		if s := f.Status(); !strings.Contains(s.Error, "going away") {
			t.Errorf("status: got error %q, want the coordinator's words", s.Error)
		}
		f.Kick()
		synctest.Wait()
		if len(b.calls) != n+1 {
			t.Errorf("%d calls after a kick, want %d", len(b.calls), n+1)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: got %v, want canceled", err)
		}
	})
}

func TestANodeThatIsOutAsksWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(c *call) error {
			c.send(b.everything())
			c.caughtUp()
			return connect.NewError(connect.CodePermissionDenied, errors.New("out of the network"))
		}
		b.follow(3 * time.Minute)
		b.enforces(b.r1)
		if n := len(b.calls); n < 10 || n > 40 {
			t.Errorf("%d calls in three minutes, want one every 15 s or so", n)
		}
	})
}

func TestConnectedLivesAsLongAsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var began, over int
		var reasons []string
		b.cfg.Refused = func(reason string) { reasons = append(reasons, reason) }
		b.cfg.Connected = func(ctx context.Context, hc *http.Client, url string) {
			began++
			if hc == nil || url != "https://one.test:443" {
				t.Errorf("connected to %s", url)
			}
			<-ctx.Done()
			over++
		}
		b.answer = func(c *call) error {
			if c.n > 1 {
				if began != 1 || over != 1 {
					t.Errorf("at the next call: %d began, %d over, want one and one", began, over)
				}
				return c.hold()
			}
			c.caughtUp()
			c.raw(&wire.Update{CaughtUp: true, Refused: "no such entry"})
			synctest.Wait()
			if s := b.f.Status(); !s.CaughtUp || s.Coordinator != "one.test:443" {
				t.Errorf("status: got %+v, want caught up with one.test", s)
			}
			return nil
		}
		b.follow(5 * time.Second)
		if began != 1 || over != 1 || len(reasons) != 1 || reasons[0] != "no such entry" {
			t.Errorf("connected %d times, over %d times, refused %q", began, over, reasons)
		}
	})
}

// A revision that is being put in force when the stream ends is put in force.
func TestAdoptionOutlivesTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Adopt = func(ctx context.Context, o netmap.Outcome) {
			if o.State.Manifest() == nil {
				return
			}
			time.Sleep(2 * wire.SilenceAfter) // a slow one; time of the bubble
			if err := ctx.Err(); err != nil {
				t.Errorf("adoption is given up: %v", err)
			}
		}
		b.answer = func(c *call) error { c.send(b.everything()); return c.hold() }
		b.follow(3 * wire.SilenceAfter)
		b.enforces(b.r1)
	})
}

func TestOpen(t *testing.T) {
	w := netmaptest.New(t, time.Now())
	node := w.Admit("ledger-1", "tag:accounting")
	r1 := w.Publish(accounting())
	content, err := netmap.New(w.Network, node.ID).Accept(w.Everything(node, r1), w.Now).State.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good := statefile.Encode(follow.FileKind, content)
	for _, test := range []struct {
		name       string
		file, prev []byte
		network    key.NetworkID
		fails      string
		damaged    bool
		begins     bool // without a state
	}{
		{name: "no file", begins: true},
		{name: "a whole file", file: good},
		{name: "a damaged file with a whole copy", file: good[:len(good)-1], prev: good, damaged: true},
		{name: "a damaged file", file: good[:len(good)-1], fails: "no whole copy"},
		{name: "an empty file", file: []byte{}, fails: "no whole copy"},
		{name: "a file of another kind", file: statefile.Encode("admit", content), fails: `holds "admit"`},
		{name: "a file of another network", file: good, network: key.NetworkID{1}, fails: "of network"},
		{name: "a whole file that is no state", file: statefile.Encode(follow.FileKind, []byte("{}")), fails: "version 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := follow.Config{Network: w.Network, Identity: node.Key, Self: node.ID, File: filepath.Join(t.TempDir(), "netmap.state")}
			if test.network != (key.NetworkID{}) {
				cfg.Network = test.network
			}
			for path, b := range map[string][]byte{cfg.File: test.file, cfg.File + ".prev": test.prev} {
				if b != nil {
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			f, err := follow.Open(cfg)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want an error with %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Status().Damaged != ""; got != test.damaged {
				t.Errorf("damaged: got %v, want %v", got, test.damaged)
			}
			if got := f.State().Manifest() == nil; got != test.begins {
				t.Errorf("begins without a state: got %v, want %v", got, test.begins)
			}
		})
	}
}
