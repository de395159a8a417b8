package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/server"
	"github.com/writmesh/writ/coordinator/internal/store/bolt"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

func TestOnlyKeysOfTheRootPublish(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	r := w.Publish(accounting())
	ctx := t.Context()
	stranger := wireconnect.NewPublisherClient(c.Client(key.NewIdentity()), c.URL())
	for name, call := range map[string]func() error{
		"Publish": func() error {
			_, err := stranger.Publish(ctx, connect.NewRequest(c.Request(r)))
			return err
		},
		"PutEnded": func() error {
			_, err := stranger.PutEnded(ctx, connect.NewRequest(&wire.PutEndedRequest{Ended: w.EndedDoc}))
			return err
		},
		"Newest": func() error {
			_, err := stranger.Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
			return err
		},
		"Decide": func() error {
			_, err := stranger.Decide(ctx, connect.NewRequest(&wire.DecideRequest{}))
			return err
		},
		"FollowJoins": func() error {
			s, err := stranger.FollowJoins(ctx, connect.NewRequest(&wire.FollowJoinsRequest{}))
			if err == nil {
				s.Receive()
				err = s.Err()
			}
			return err
		},
		"FollowAcks": func() error {
			s, err := stranger.FollowAcks(ctx, connect.NewRequest(&wire.FollowAcksRequest{}))
			if err == nil {
				s.Receive()
				err = s.Err()
			}
			return err
		},
	} {
		if err := call(); code(err) != connect.CodePermissionDenied {
			t.Errorf("%s by a key of nobody: got %v, want permission_denied", name, err)
		}
	}
	id, err := w.AdmissionKey.TLSIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wireconnect.NewPublisherClient(c.Client(id), c.URL()).Newest(ctx, connect.NewRequest(&wire.NewestRequest{})); err != nil {
		t.Errorf("the admission key: %v", err)
	}
	none := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer none.CloseIdleConnections()
	_, err = wireconnect.NewAgentClient(none, c.URL()).Join(ctx, connect.NewRequest(&wire.JoinRequest{}))
	if code(err) != connect.CodeUnauthenticated {
		t.Errorf("without a certificate: got %v, want unauthenticated", err)
	}
}

// A policy key that a new root no longer names loses the streams that it has.
func TestStreamOfAKeyThatTheRootNoLongerNamesEnds(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting()))
	s, err := c.Publisher().FollowJoins(t.Context(), connect.NewRequest(&wire.FollowJoinsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for s.Receive() && !s.Msg().GetCaughtUp() {
	}
	next := *w.Root
	next2, err := trust.NewSigningKey("policy-2")
	if err != nil {
		t.Fatal(err)
	}
	// The old key signs nothing any more; the new one hands in the revision.
	next.PolicyKeys = []trust.VKey{next2.Public()}
	w.Advance(time.Second)
	w.AddRoot(next)
	old := c.Publisher()
	w.PolicyKey = next2
	r := w.Publish(accounting("alice@acme.example"))
	if _, err := old.Publish(t.Context(), connect.NewRequest(c.Request(r))); err != nil {
		t.Fatal(err)
	}
	for s.Receive() {
	}
	if code(s.Err()) != connect.CodePermissionDenied {
		t.Errorf("got %v, want permission_denied", s.Err())
	}
}

func TestStreamsOfOneKeyAreLimited(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	k := key.NewIdentity()
	for i := range 5 {
		s, err := c.Agent(k).Follow(t.Context(), connect.NewRequest(&wire.FollowRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		switch ok := s.Receive(); {
		case i < 4 && !ok:
			t.Fatalf("stream %d: %v", i, s.Err())
		case i == 4 && (ok || code(s.Err()) != connect.CodeResourceExhausted):
			t.Errorf("a fifth stream: got %v, want resource_exhausted", s.Err())
		}
	}
}

func TestRequestsOfStrangersAreSmall(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	_, err := c.Agent(key.NewIdentity()).Join(t.Context(), connect.NewRequest(&wire.JoinRequest{Join: make([]byte, 2<<20)}))
	if got := code(err); got != connect.CodeResourceExhausted && got != connect.CodeInvalidArgument && got != connect.CodeUnknown {
		t.Errorf("2 MiB from a stranger: got %v, want it refused", err)
	}
	if err == nil {
		t.Error("2 MiB from a stranger are taken")
	}
}

// A reader that reads nothing delays nobody, and what it is sent when it reads
// again ends with the newest state.
func TestSlowReaderDelaysNobody(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	big := func(i int) netmaptest.Policy {
		p := accounting("alice@acme.example")
		l, err := leaf.Encode("inbound/tag:accounting", map[string]any{"to": "tag:accounting", "grants": []any{map[string]any{
			"rule": fmt.Sprintf("%d-%s", i, strings.Repeat("x", 1<<20)), "from": []string{"group:accounting"}, "allow": []string{"tcp/80"},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		p.Rules = p.Rules[1:]
		p.Extra = []leaf.Leaf{l}
		return p
	}
	c.Publish(w.Publish(big(0)))
	slow, quick := w.Admit("slow", "tag:accounting"), w.Admit("quick", "tag:accounting")
	c.Admit(slow, quick)
	s, q := newAgent(t, c, slow.Key), newAgent(t, c, quick.Key)
	s.follow(false)
	q.follow(false)
	s.caughtUp()
	q.caughtUp()
	s.bytes = 0
	var last *netmaptest.Revision
	const rounds = 9
	for i := range rounds {
		last = w.Publish(big(i + 1))
		c.Publish(last)
		q.until("the quick one follows", enforces(last))
	}
	s.until("the slow one arrives", enforces(last))
	// HTTP/2 buffers 4 MiB of a stream; what came meanwhile was never sent.
	if limit := 7 << 20; s.bytes > limit {
		t.Errorf("the slow reader was sent %d bytes of %d rounds of 1 MiB, want at most %d: a backlog", s.bytes, rounds, limit)
	}
}

func TestSilentStreamSaysThatItLives(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w, coordtest.WithAliveEvery(10*time.Millisecond))
	c.Publish(w.Publish(accounting()))
	a := newAgent(t, c, key.NewIdentity())
	a.follow(false)
	a.caughtUp()
	for range 3 {
		if m := a.next(); !m.GetAlive() {
			t.Errorf("got %v, want alive", m)
		}
	}
	for name, open := range map[string]func(context.Context) (func() bool, func() bool, error){
		"joins": func(ctx context.Context) (func() bool, func() bool, error) {
			s, err := c.Publisher().FollowJoins(ctx, connect.NewRequest(&wire.FollowJoinsRequest{}))
			return s.Receive, func() bool { return s.Msg().GetAlive() }, err
		},
		"acks": func(ctx context.Context) (func() bool, func() bool, error) {
			s, err := c.Publisher().FollowAcks(ctx, connect.NewRequest(&wire.FollowAcksRequest{}))
			return s.Receive, func() bool { return s.Msg().GetAlive() }, err
		},
	} {
		receive, alive, err := open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for !alive() {
			if !receive() {
				t.Fatalf("%s: the stream ended", name)
			}
		}
	}
}

// A network that opens connections and says nothing does not keep others out.
func TestHalfOpenConnectionsAreLimited(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	for range 40 {
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	// From the same address: kept out until the first ones time out or end.
	conn, err := net.Dial("tcp", c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(4 * time.Second)) // before a handshake times out
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("a connection too many: got %v, want it closed at once", err)
	}
}

func TestAcksReachThePublisherWithPresence(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting()))
	ledger := w.Admit("ledger-1", "tag:accounting")
	c.Admit(ledger)
	s, err := c.Publisher().FollowAcks(t.Context(), connect.NewRequest(&wire.FollowAcksRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	until := func(what string, ok func(*wire.AckEvent) bool) {
		t.Helper()
		for s.Receive() {
			if m := s.Msg(); ok(m) {
				if len(m.GetIdentity()) > 0 && !bytes.Equal(m.GetIdentity(), ledger.Key.Public().Ed25519()) {
					t.Errorf("%s: of %x, want the ledger", what, m.GetIdentity())
				}
				return
			}
		}
		t.Fatalf("%s: stream ended: %v", what, s.Err())
	}
	until("caught up", func(m *wire.AckEvent) bool { return m.GetCaughtUp() })
	a := newAgent(t, c, ledger.Key)
	a.follow(false)
	a.caughtUp()
	until("online", func(m *wire.AckEvent) bool { return m.GetOnline() && len(m.GetAck()) == 0 })
	a.acknowledge()
	until("acknowledged", func(m *wire.AckEvent) bool { return m.GetOnline() && len(m.GetAck()) > 0 })
	c.WaitEnforced(1)
	a.leave()
	until("offline", func(m *wire.AckEvent) bool {
		return !m.GetOnline() && m.GetOfflineSince() > 0 && len(m.GetAck()) > 0
	})
}

// Nothing of a server that was closed goes on: streams, watches and listeners
// have ended.
func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("life", func(t *testing.T) {
		w := world(t)
		c := coordtest.Start(t, w)
		c.Publish(w.Publish(accounting("alice@acme.example")))
		ledger := w.Admit("ledger-1", "tag:accounting")
		c.Admit(ledger)
		for range 3 {
			a := newAgent(t, c, ledger.Key)
			a.follow(false)
			a.caughtUp()
		}
		c.Restart()
	})
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("got %d goroutines, want at most %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

// alone is a server with its registry, without a network.
func alone(t *testing.T) (*server.Server, *registry.Registry, *netmaptest.World) {
	t.Helper()
	w := world(t)
	st, err := bolt.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	reg, err := registry.Open(t.Context(), registry.Config{Store: st, Roots: w.Roots})
	if err != nil {
		t.Fatal(err)
	}
	return server.New(server.Config{Registry: reg, Identity: key.NewIdentity()}), reg, w
}

func TestAdminSocketAndMetrics(t *testing.T) {
	srv, _, _ := alone(t)
	dir, err := os.MkdirTemp("", "writ") // t.TempDir is too long for a socket in some tests' names
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.ServeAdmin(ctx, dir, "test") }()
	var st server.Status
	for st, err = server.ReadStatus(ctx, dir); err != nil; st, err = server.ReadStatus(ctx, dir) {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
			runtime.Gosched()
		}
	}
	if st.Line() != "no revision is published" || st.Version != "test" {
		t.Errorf("got %+v, want a status without a revision", st)
	}
	info, err := os.Stat(filepath.Join(dir, server.SocketName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: got mode %v, %v, want 0600", info.Mode(), err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	rec := httptest.NewRecorder()
	srv.Metrics().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"writ_coordinator_publications_total 0", "writ_coordinator_nodes 0", "writ_coordinator_damaged_rows 0"} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

func TestStatusIsReadable(t *testing.T) {
	at := time.Date(2026, 11, 22, 13, 4, 5, 0, time.UTC)
	st := server.Status{
		Network: "net:abc", Commit: "abc1234def", Epoch: 1, Seq: 9, Total: 4, Online: 3, Enforced: 3,
		Revisions: []server.RevisionAcks{{"abc1234def", 1, 9, 3, 4}, {"0123456789", 1, 8, 1, 4}},
		Nodes: []server.NodeStatus{
			{Name: "alice", Addresses: []string{"100.64.0.1"}, Principals: []string{"alice@acme.example"}, Online: true, Commit: "abc1234def", Epoch: 1, Seq: 9, Digest: "right", Enforces: true},
			{Name: "bob", Addresses: []string{"100.64.0.2"}, Principals: []string{"bob@acme.example"}, Online: true, Commit: "abc1234def", Epoch: 1, Seq: 9, Digest: "right", Enforces: true},
			{Name: "db1", Addresses: []string{"100.64.0.3"}, Principals: []string{"tag:db"}, Online: true, Commit: "abc1234def", Epoch: 1, Seq: 9, Digest: "right", Enforces: true},
			{Name: "db2", Addresses: []string{"100.64.0.4"}, Principals: []string{"tag:db"}, OfflineSince: at, Commit: "0123456789", Epoch: 1, Seq: 8, Digest: "right"},
		},
	}
	var b bytes.Buffer
	if err := st.Print(&b); err != nil {
		t.Fatal(err)
	}
	const want = `network net:abc

NODE   ADDRESS          REVISION  SEEN                  PRINCIPALS
alice  100.64.0.1       abc1234   online                alice@acme.example
bob    100.64.0.2       abc1234   online                bob@acme.example
db1    100.64.0.3       abc1234   online                tag:db
db2    100.64.0.4       0123456   2026-11-22 13:04 UTC  tag:db

revision abc1234: enforced on 3 of 4 nodes; missing: db2 (offline since 2026-11-22 13:04 UTC)
revision 0123456: still enforced on 1 of 4 nodes
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	j, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var back server.Status
	if err := json.Unmarshal(j, &back); err != nil || back.Line() != st.Line() {
		t.Errorf("JSON reads back as %q, %v, want %q", back.Line(), err, st.Line())
	}
}

// HTTP/1.1 serves streams as well: proxies that speak no HTTP/2 are no obstacle.
func TestFollowOverHTTP1(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	r := w.Publish(accounting())
	c.Publish(r)
	transport := &http.Transport{TLSClientConfig: tlskey.ClientConfig(key.NewIdentity(), c.Pin)}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), coordtest.Timeout)
	defer cancel()
	s, err := wireconnect.NewAgentClient(&http.Client{Transport: transport}, c.URL()).Follow(ctx, connect.NewRequest(&wire.FollowRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.Receive() || len(s.Msg().GetRevisions()) != 1 {
		t.Fatalf("got %v, %v, want the revision", s.Msg(), s.Err())
	}
	r = w.Publish(accounting("alice@acme.example"))
	c.Publish(r)
	if !s.Receive() || len(s.Msg().GetRevisions()) != 1 || !bytes.Equal(s.Msg().GetRevisions()[0].GetManifest(), r.Doc.Manifest) {
		t.Errorf("got %v, %v, want the next revision", s.Msg(), s.Err())
	}
}
