package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/relaytest"
)

// The whole of it in one process, each part the real one:
//
//	                       coordinator
//	           ┌────────────────┼─────────────────┐
//	           │ signed documents over TLS        │
//	           ▼                ▼                 ▼
//	alice (accounting)   bob (engineering)   ledger (tag:ledger)
//	  ▲     │                   │               ▲    │ forwards
//	SOCKS5  └─────── relay ◄────┴───────────────┘    ├ tcp/80 ─► HTTP server
//	  │              sealed packets                  └ tcp/7  ─► echo server
//	the test
//
// The policy gives accounting tcp/80, tcp/7 and icmp on tag:ledger; bob is
// given nothing.

// within is how long a step of the story may take.
const within = 20 * time.Second

type mesh struct {
	t     *testing.T
	w     *netmaptest.World
	coord *coordtest.Coordinator
	relay *relaytest.Relay
}

func newMesh(t *testing.T) *mesh {
	m := &mesh{t: t, w: netmaptest.New(t, time.Now().Add(-time.Hour)), relay: relaytest.New(t)}
	m.coord = coordtest.Start(t, m.w)
	first := m.w.Publish(m.policy("alice@acme.example"))
	m.coord.Publish(first)
	// The relay knows the network as a relay does, and judges real papers.
	known := netmap.New(m.w.Network, key.NodeID{}).Accept(m.w.Everything(nil, first), time.Now()).State
	m.relay.AdmitBy(func(id key.IdentityPublic, papers []byte) (time.Time, error) {
		until, err := known.AdmitPapers(id, papers, time.Now())
		if until.IsZero() {
			until = time.Now().AddDate(1, 0, 0)
		}
		return until, err
	})
	m.coord.DecideJoins(func(j *papers.Join, p *papers.Proof) (papers.Admission, error) {
		switch {
		case j.Name == "alice" || j.Name == "bob":
			email := j.Name + "@acme.example"
			return papers.Admission{User: &acl.User{Email: email, Issuer: "git", Subject: email}}, nil
		case p.Kind == papers.ProofEnrolment && p.Entry == "ledger-fleet":
			return papers.Admission{Tags: p.Tags, Basis: papers.Basis{Kind: "enrolment", Name: p.Entry}}, nil
		}
		return papers.Admission{}, fmt.Errorf("nothing admits %s", j.Name)
	})
	return m
}

func (m *mesh) policy(accounting ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": accounting},
		Rules:  []netmaptest.Rule{{Name: "ledger", From: "group:accounting", To: "tag:ledger", Allow: "tcp/80 tcp/7 icmp"}},
		Relays: []leaf.Relay{{Name: "eu-1", Addr: m.relay.Addr(), Key: m.relay.Key()}},
	}
}

func (m *mesh) publish(accounting ...string) {
	m.w.Advance(time.Minute)
	m.coord.Publish(m.w.Publish(m.policy(accounting...)))
}

// An agent runs until stop is called, at the test's end at the latest.
type agent struct {
	*localapi.Client
	t    *testing.T
	dir  string
	stop func()
}

func (m *mesh) up(name, dir string, change ...func(*Config)) *agent {
	m.t.Helper()
	cfg := Config{
		Dir: dir, Socket: filepath.Join(dir, localapi.SocketName), Join: m.coord.JoinString(), Name: name,
		Proxy: "127.0.0.1:0", Version: "test", NoDirect: true,
		Log: slog.New(slog.NewTextHandler(m.t.Output(), nil)).With("node", name),
	}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	a := &agent{Client: localapi.Dial(cfg.Socket), t: m.t, dir: dir}
	a.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				m.t.Errorf("%s: Run: got %v, want nil", name, err)
			}
		case <-time.After(within):
			m.t.Errorf("%s: Run does not return", name)
		}
	})
	m.t.Cleanup(a.stop)
	return a
}

// wait waits for a status.
func (a *agent) wait(what string, ok func(*localapi.Status) bool) *localapi.Status {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond) // until the socket is there
	defer tick.Stop()
	after := int64(-1)
	for {
		s, err := a.Status(ctx, after)
		switch {
		case err == nil && ok(s):
			return s
		case err == nil:
			after = s.Version
		case ctx.Err() != nil:
			s, err := a.Status(context.Background(), -1)
			a.t.Fatalf("%s: not within %s: %+v, %v", what, within, s, err)
		default:
			<-tick.C
		}
	}
}

func hasPeer(name string) func(*localapi.Status) bool {
	return func(s *localapi.Status) bool {
		for _, p := range s.Peers {
			if p.Name == name {
				return true
			}
		}
		return false
	}
}

// get reads a page by the agent's SOCKS5 proxy.
func (a *agent) get(page string) (string, error) {
	a.t.Helper()
	s, err := a.Status(a.t.Context(), -1)
	if err != nil {
		a.t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: s.Proxy}), DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(a.t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.Status + " " + string(b), err
}

// connect opens a connection by the agent's HTTP proxy.
func (a *agent) connect(to string) net.Conn {
	a.t.Helper()
	s, err := a.Status(a.t.Context(), -1)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.Proxy)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(within))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		a.t.Fatalf("CONNECT %s: got %v, %v, want 200", to, resp, err)
	}
	if r.Buffered() > 0 {
		a.t.Fatalf("CONNECT %s: %d bytes before anything was said", to, r.Buffered())
	}
	return c
}

// echo is a server that sends back what it reads, and tells how each of its
// connections ended.
func echo(t *testing.T) (at netip.AddrPort, ended chan error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 16)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, err := io.Copy(c, c)
				c.Close()
				ended <- err
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort(), ended
}

// say sends a line over an echo connection and wants it back.
func say(c net.Conn, line string) error {
	c.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return err
	}
	got := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != line+"\n" {
		return fmt.Errorf("got %q, want %q", got, line)
	}
	return nil
}

func TestMesh(t *testing.T) {
	t.Cleanup(func() { noneLeft(t) })
	m := newMesh(t)
	echoAt, echoEnded := echo(t)
	var ledger *agent
	books := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := ledger.Whois(r.Context(), r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "the ledger, for %s of %s", who.User, strings.Join(who.Groups, " "))
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { books.Serve(l) })
	t.Cleanup(func() {
		books.Close()
		serving.Wait()
	})

	ledger = m.up("ledger", t.TempDir(), func(c *Config) {
		c.Secret = papers.EnrolSecret{Entry: "ledger-fleet", Tags: []string{"ledger"}, Key: key.NewEnrol()}
		c.Forwards = []Forward{{Port: 80, Target: l.Addr().(*net.TCPAddr).AddrPort()}, {Port: 7, Target: echoAt}}
	})
	bob := m.up("bob", t.TempDir())
	aliceDir := t.TempDir()
	alice := m.up("alice", aliceDir)
	m.coord.WaitEnforced(3)
	s := alice.wait("alice knows the ledger", hasPeer("ledger"))
	if s.State != "up" || s.Name != "alice" || strings.Join(s.Who, " ") != "alice@acme.example" {
		t.Errorf("status: got %s %s %v, want up alice alice@acme.example", s.State, s.Name, s.Who)
	}
	ledger.wait("the ledger knows alice", hasPeer("alice"))

	// Alice reads the ledger, and the ledger's server knows that it is her.
	const page = "200 OK the ledger, for alice@acme.example of accounting"
	for _, host := range []string{"ledger", "ledger.acme.mesh"} {
		if got, err := alice.get("http://" + host + "/"); err != nil || got != page {
			t.Errorf("alice reads http://%s/: got %q, %v, want %q", host, got, err, page)
		}
	}
	if pong, err := alice.Ping(t.Context(), "ledger"); err != nil || pong.Path != "relay eu-1" {
		t.Errorf("alice pings the ledger: got %+v, %v, want an answer by relay eu-1", pong, err)
	}
	// Bob does not, and is told so at once.
	if got, err := bob.get("http://ledger/"); err == nil {
		t.Errorf("bob reads the ledger: got %q, want a refusal", got)
	}

	// A revision takes alice's access away while she has a connection open.
	conn := alice.connect("ledger:7")
	if err := say(conn, "before"); err != nil {
		t.Fatal(err)
	}
	cut := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		io.Copy(io.Discard, conn)
		cut <- time.Since(began)
	}()
	conn.SetDeadline(time.Now().Add(within))
	m.publish()
	select {
	case d := <-cut:
		t.Logf("cut %s after the publication began", d.Round(time.Millisecond))
	case <-time.After(within):
		t.Fatal("the open connection lives on after the revision that revokes it")
	}
	select {
	case <-echoEnded: // at the ledger's end too
	case <-time.After(within):
		t.Fatal("the ledger's server still has the connection")
	}
	m.coord.WaitEnforced(3)
	if err := say(conn, "after"); err == nil {
		t.Error("a line passes over the connection that was cut")
	}
	if got, err := alice.get("http://ledger/"); err == nil {
		t.Errorf("alice reads the ledger after that: got %q, want a refusal", got)
	}

	// Another gives it back, and then the coordinator goes.
	m.publish("alice@acme.example")
	m.coord.WaitEnforced(3)
	alice.wait("alice knows the ledger again", hasPeer("ledger"))
	if got, err := alice.get("http://ledger/"); err != nil || got != page {
		t.Errorf("alice reads again: got %q, %v, want %q", got, err, page)
	}
	before := alice.wait("alice is up", func(s *localapi.Status) bool { return s.State == "up" })
	m.coord.Stop()
	if got, err := alice.get("http://ledger/"); err != nil || got != page {
		t.Errorf("alice reads without a coordinator: got %q, %v, want %q", got, err, page)
	}
	alice.stop()
	alice = m.up("alice", aliceDir)
	after := alice.wait("alice is up from disk", func(s *localapi.Status) bool { return s.State == "up" })
	if after.Digest != before.Digest || after.Seq != before.Seq || after.Node != before.Node {
		t.Errorf("from disk: got revision %d %s of %s, want %d %s of %s", after.Seq, after.Digest, after.Node, before.Seq, before.Digest, before.Node)
	}
	if got, err := alice.get("http://ledger/"); err != nil || got != page {
		t.Errorf("alice reads after a restart without a coordinator: got %q, %v, want %q", got, err, page)
	}
	if s := alice.wait("the loss is told", func(s *localapi.Status) bool { return s.Coordinator.Error != "" }); s.Coordinator.CaughtUp {
		t.Errorf("coordinator: got %+v, want none", s.Coordinator)
	}

	// Down answers, and takes the socket away.
	if err := bob.Down(t.Context()); err != nil {
		t.Errorf("down: %v", err)
	}
	bob.stop()
	if _, err := bob.Status(t.Context(), -1); err == nil {
		t.Error("bob answers after down")
	}
}

// A grant ends by the node's own clock: no revision says so, and the coordinator
// is gone.
func TestGrantEndsByTheClock(t *testing.T) {
	t.Cleanup(func() { noneLeft(t) })
	m := newMesh(t)
	echoAt, echoEnded := echo(t)
	m.up("ledger", t.TempDir(), func(c *Config) {
		c.Secret = papers.EnrolSecret{Entry: "ledger-fleet", Tags: []string{"ledger"}, Key: key.NewEnrol()}
		c.Forwards = []Forward{{Port: 7, Target: echoAt}}
	})
	alice := m.up("alice", t.TempDir())
	m.coord.WaitEnforced(2)
	alice.wait("alice knows the ledger", hasPeer("ledger"))
	conn := alice.connect("ledger:7")
	if err := say(conn, "before"); err != nil {
		t.Fatal(err)
	}
	p := m.policy("alice@acme.example")
	until := time.Now().Add(2 * time.Second).Truncate(time.Second)
	p.Rules[0].Until = until
	m.w.Advance(time.Minute)
	m.coord.Publish(m.w.Publish(p))
	m.coord.WaitEnforced(2)
	m.coord.Stop()
	conn.SetDeadline(time.Now().Add(within))
	if n, err := io.Copy(io.Discard, conn); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes and %v, want the connection cut", n, err)
	}
	if early := time.Until(until); early > 0 {
		t.Errorf("cut %s before its time", early)
	}
	select {
	case <-echoEnded:
	case <-time.After(within):
		t.Fatal("the ledger's server still has the connection")
	}
}

// A node whose key no policy names is told why, and has no data plane.
func TestRefusedNode(t *testing.T) {
	t.Cleanup(func() { noneLeft(t) })
	m := newMesh(t)
	eve := m.up("eve", t.TempDir())
	s := eve.wait("eve is refused", func(s *localapi.Status) bool { return s.State == "refused" })
	if s.Why != "nothing admits eve" || len(s.Addrs) != 0 || len(s.Peers) != 0 || len(s.Relays) != 0 {
		t.Errorf("got %+v, want the reason and nothing else", s)
	}
	if got, err := eve.get("http://ledger/"); err == nil {
		t.Errorf("eve reads the ledger: got %q, want a refusal", got)
	}
	if _, err := eve.Ping(t.Context(), "ledger"); err == nil {
		t.Error("eve pings the ledger")
	}
}

func TestSecondAgentInOneDirectory(t *testing.T) {
	m := newMesh(t)
	dir := t.TempDir()
	alice := m.up("alice", dir)
	alice.wait("alice is up", func(s *localapi.Status) bool { return s.State == "up" })
	err := Run(t.Context(), Config{Dir: dir, Socket: filepath.Join(t.TempDir(), "s"), Join: m.coord.JoinString(), Log: slog.New(slog.DiscardHandler)})
	if want := fmt.Sprintf("another agent (process %d) uses %s", os.Getpid(), dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	alice.stop()
	// The directory is free when the first has ended.
	m.up("alice", dir).wait("alice is up again", func(s *localapi.Status) bool { return s.State == "up" })
}

// noneLeft fails if a goroutine of an agent is left. Those of the libraries end
// a moment after their connections, and are waited for.
func noneLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		buf := make([]byte, 4<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, g := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(g, "writ/agent/") && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "testing.(*M)") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines are left, one of them:\n%s", len(left), left[0])
			return
		}
	}
}
