package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/server"
	"github.com/writmesh/writ/relay/relaytest"
)

// transport is a WireGuard transport message of n bytes that carries a number.
func transport(seq uint32, n int) []byte {
	p := make([]byte, n)
	p[0] = 4
	binary.BigEndian.PutUint32(p[8:], seq)
	return p
}

func seq(p []byte) uint32 { return binary.BigEndian.Uint32(p[8:]) }

// members are identities that the relay admits.
func members(r *relaytest.Relay, n int) []key.IdentityPrivate {
	out := make([]key.IdentityPrivate, n)
	for i := range out {
		out[i] = key.NewIdentity()
		r.Admit(out[i].Public())
	}
	return out
}

// A wire is a connection spoken by hand, for what the client would not say.
type wire struct {
	t  *testing.T
	tc *tls.Conn
	br *bufio.Reader
	fr *frame.Reader
}

func dial(t *testing.T, r *relaytest.Relay, conf *tls.Config) *wire {
	t.Helper()
	raw, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	w := &wire{t: t, tc: tls.Client(raw, conf)}
	w.br = bufio.NewReader(w.tc)
	return w
}

// upgraded is a wire after the server's 101.
func upgraded(t *testing.T, r *relaytest.Relay, id key.IdentityPrivate) *wire {
	t.Helper()
	w := dial(t, r, tlskey.ClientConfig(id, r.Key()))
	w.say([]byte("GET /relay HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"))
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("upgrade: got %v, %v", resp, err)
	}
	w.fr = frame.NewReader(w.br, frame.Relay)
	return w
}

// welcomed is a wire after the relay's welcome.
func welcomed(t *testing.T, r *relaytest.Relay, id key.IdentityPrivate) *wire {
	t.Helper()
	w := upgraded(t, r, id)
	w.say(frame.AppendHello(nil, 1, relaytest.Papers(id.Public())))
	if typ, _ := w.hear(); typ != frame.Welcome {
		t.Fatalf("got %v, want welcome", typ)
	}
	return w
}

func (w *wire) say(b []byte) {
	w.t.Helper()
	if _, err := w.tc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) hear() (frame.Type, []byte) {
	w.t.Helper()
	typ, body, err := w.fr.Next()
	if err != nil {
		w.t.Fatalf("hear: %v", err)
	}
	return typ, body
}

// refused reads up to the refusal, and the end of the stream behind it.
func (w *wire) refused() *frame.Refusal {
	w.t.Helper()
	for {
		typ, body := w.hear()
		if typ != frame.Refuse {
			continue
		}
		r, err := frame.ParseRefusal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, _, err := w.fr.Next(); err != io.EOF {
			w.t.Errorf("after the refusal: %v, want the end", err)
		}
		return r
	}
}

func TestTwoNodesExchangePackets(t *testing.T) {
	r := relaytest.New(t)
	ids := members(r, 2)
	type got struct {
		src key.NodeID
		pkt []byte
	}
	var in [2]chan got
	var c [2]*client.Client
	for i := range c {
		in[i] = make(chan got, 10)
		cfg := r.Config(ids[i])
		cfg.Receive = func(src key.NodeID, p []byte) { in[i] <- got{src, bytes.Clone(p)} }
		c[i] = relaytest.Connect(t, cfg)
	}
	for n, size := range []int{32, 148, 1452, frame.MaxPacket} {
		for i := range c {
			p := transport(uint32(n), size)
			if err := c[i].Send(ids[1-i].Public().NodeID(), p); err != nil {
				t.Fatal(err)
			}
			select {
			case g := <-in[1-i]:
				if g.src != ids[i].Public().NodeID() || !bytes.Equal(g.pkt, p) {
					t.Errorf("got %d bytes from %v, want %d from %v", len(g.pkt), g.src, size, ids[i].Public().NodeID())
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("a packet of %d bytes did not arrive", size)
			}
		}
	}
}

// TestSlowReaderHarmsNobody: a node floods one that never reads, while it and
// another exchange packets; all of those arrive.
func TestSlowReaderHarmsNobody(t *testing.T) {
	r := relaytest.New(t)
	ids := members(r, 3)
	welcomed(t, r, ids[2]) // and never reads again

	const n = 200
	in := make(chan uint32, n)
	cfg := r.Config(ids[1])
	cfg.Receive = func(_ key.NodeID, p []byte) { in <- seq(p) }
	relaytest.Connect(t, cfg)
	a := relaytest.Connect(t, r.Config(ids[0]))
	b := ids[1].Public().NodeID()

	// Far more than the sockets hold between the relay and the one that does
	// not read: it must come to dropping.
	flood := transport(0, 9000)
	for i := range uint32(n) {
		for range 10 {
			for errors.Is(a.Send(ids[2].Public().NodeID(), flood), client.ErrFull) {
				runtime.Gosched()
			}
		}
		if err := a.Send(b, transport(i, 1000)); err != nil && !errors.Is(err, client.ErrFull) {
			t.Fatal(err)
		}
		select {
		case got := <-in:
			if got != i {
				t.Fatalf("got packet %d, want %d", got, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("packet %d did not arrive", i)
		}
	}
	if dropped(r) == 0 {
		t.Error("nothing was dropped: the reader was not slow enough to prove anything")
	}
	// Only the one that does not read has a queue.
	if q := r.Metric("writ_relay_queued_bytes"); q > 512<<10 {
		t.Errorf("%v bytes wait, at most 512 KiB", q)
	}
}

// dropped is how many packets waited in the relay and were not sent.
func dropped(r *relaytest.Relay) float64 {
	return r.Metric("writ_relay_dropped_total", "queue_full") + r.Metric("writ_relay_dropped_total", "queue_old") +
		r.Metric("writ_relay_dropped_total", "closing")
}

func TestWhoIsRefused(t *testing.T) {
	r := relaytest.New(t)
	stranger, ended, revoked := key.NewIdentity(), key.NewIdentity(), key.NewIdentity()
	r.AdmitUntil(time.Now().Add(-time.Second), ended.Public())
	r.Refuse(frame.Revoked, revoked.Public())
	for _, c := range []struct {
		name   string
		id     key.IdentityPrivate
		papers []byte
		want   frame.Refusal
	}{
		{"unknown", stranger, relaytest.Papers(stranger.Public()), frame.Refusal{Kind: frame.NotAdmitted}},
		{"other's papers", ended, relaytest.Papers(stranger.Public()), frame.Refusal{Kind: frame.NotAdmitted}},
		{"ended", ended, relaytest.Papers(ended.Public()), frame.Refusal{Kind: frame.Ended}},
		{"revoked", revoked, relaytest.Papers(revoked.Public()), frame.Refusal{Kind: frame.Revoked, Text: "relaytest"}},
	} {
		w := upgraded(t, r, c.id)
		w.say(frame.AppendHello(nil, 1, c.papers))
		if got := w.refused(); *got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, *got, c.want)
		}
	}
}

func TestDefectsEndTheConnection(t *testing.T) {
	r := relaytest.New(t)
	id := members(r, 1)[0]
	hello := frame.AppendHello(nil, 1, relaytest.Papers(id.Public()))
	send := frame.AppendSend(nil, id.Public().NodeID(), transport(0, 32))
	for _, c := range []struct {
		name string
		say  []byte
		want string
	}{
		{"data before hello", append(bytes.Clone(send), hello...), "send frame before hello"},
		{"papers before hello", frame.AppendPapers(nil, []byte("x")), "papers frame before hello"},
		{"version 0", frame.AppendHello(nil, 0, []byte("x")), "hello frame: version 0"},
		{"second hello", append(bytes.Clone(hello), hello...), "hello frame: a second time"},
		{"other direction", append(bytes.Clone(hello), frame.AppendPong(nil, 1)...), "pong frame: sent by a node"},
		{"unknown type", append(bytes.Clone(hello), 0x70, 0, 0, 0, 0), "0x70 frame: unknown type"},
		{"length 2^32-1", append(bytes.Clone(hello), 3, 255, 255, 255, 255), "send frame: body of 4294967295 bytes, want 33 to 9248"},
		{"papers without end", append(bytes.Clone(hello), bytes.Repeat(frame.AppendPapers(nil, relaytest.Papers(id.Public())), 10)...), "papers frame: more than one a second"},
	} {
		w := upgraded(t, r, id)
		w.say(c.say)
		// What follows a defect is not read as frames, nor does it cost the
		// node the reason.
		w.say(bytes.Repeat(send, 100))
		if got := w.refused(); got.Kind != frame.Violation || got.Text != c.want {
			t.Errorf("%s: got %+v, want %q", c.name, *got, c.want)
		}
	}
	// Unknown frames that may be skipped are.
	w := upgraded(t, r, id)
	w.say(append(bytes.Clone(hello), 0xf0, 0, 0, 0, 2, 'x', 'y'))
	w.say(frame.AppendPing(nil, 42))
	w.hear() // welcome
	typ, body := w.hear()
	if token, err := frame.ParsePong(body); typ != frame.Pong || token != 42 || err != nil {
		t.Errorf("got %v %d, %v; want the pong", typ, token, err)
	}
}

func TestRecheckDisconnects(t *testing.T) {
	r := relaytest.New(t)
	ids := members(r, 2)
	out, stays := welcomed(t, r, ids[0]), welcomed(t, r, ids[1])
	r.Refuse(frame.Revoked, ids[0].Public())
	// Recheck has returned: packets to the node go nowhere from here on.
	stays.say(frame.AppendSend(nil, ids[0].Public().NodeID(), transport(1, 32)))
	if typ, _ := stays.hear(); typ != frame.Gone {
		t.Errorf("to the revoked node: got %v, want gone", typ)
	}
	if got := out.refused(); got.Kind != frame.Revoked {
		t.Errorf("got %v, want revoked", got)
	}
	stays.say(frame.AppendPing(nil, 1))
	if typ, _ := stays.hear(); typ != frame.Pong {
		t.Errorf("the other node: got %v, want pong", typ)
	}
}

// slowDoor lets one Admit wait, so that a Recheck can pass it by.
type slowDoor struct {
	entered, release chan struct{}
	closed           atomic.Bool
}

func (d *slowDoor) Admit(key.IdentityPublic, []byte) (time.Time, error) {
	if d.closed.Load() {
		return time.Time{}, &frame.Refusal{Kind: frame.Revoked}
	}
	d.entered <- struct{}{}
	<-d.release
	return time.Now().Add(time.Hour), nil
}

// TestRecheckDuringAdmission: the Admitter changes its mind, and Recheck runs,
// after a node was judged and before it is in the table.
func TestRecheckDuringAdmission(t *testing.T) {
	door := &slowDoor{entered: make(chan struct{}), release: make(chan struct{})}
	relay, node := key.NewIdentity(), key.NewIdentity()
	s, addr := serve(t, server.Config{Identity: relay, Admitter: door})
	cfg := client.Config{Addr: addr, Pin: relay.Public(), Identity: node,
		Papers: func() []byte { return []byte("x") }, Receive: func(key.NodeID, []byte) {}}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	relaytest.Run(t, c)
	<-door.entered
	door.closed.Store(true)
	s.Recheck()
	close(door.release)
	st := relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Waiting })
	var refusal *frame.Refusal
	if !errors.As(st.LastError, &refusal) || refusal.Kind != frame.Revoked {
		t.Errorf("got %v, want revoked", st.LastError)
	}
}

// serve runs a Server until the test ends.
func serve(t *testing.T, cfg server.Config) (*server.Server, string) {
	t.Helper()
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		s.Close()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return s, ln.Addr().String()
}

func TestWithoutAdmitterNobodyEnters(t *testing.T) {
	relay, node := key.NewIdentity(), key.NewIdentity()
	_, addr := serve(t, server.Config{Identity: relay})
	c, err := client.New(client.Config{Addr: addr, Pin: relay.Public(), Identity: node,
		Papers: func() []byte { return []byte("x") }, Receive: func(key.NodeID, []byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	relaytest.Run(t, c)
	st := relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Waiting })
	var r *frame.Refusal
	if !errors.As(st.LastError, &r) || r.Kind != frame.NotReady {
		t.Errorf("got %v, want not ready", st.LastError)
	}
}

func TestNewestConnectionWins(t *testing.T) {
	r := relaytest.New(t)
	ids := members(r, 2)
	other := welcomed(t, r, ids[1])
	last := welcomed(t, r, ids[0])
	for range 5 {
		next := welcomed(t, r, ids[0])
		if got := last.refused(); got.Kind != frame.Replaced {
			t.Fatalf("older connection: got %v, want replaced", got)
		}
		last = next
	}
	other.say(frame.AppendSend(nil, ids[0].Public().NodeID(), transport(7, 32)))
	if typ, body := last.hear(); typ != frame.Recv || seq(body[frame.NodeSize:]) != 7 {
		t.Errorf("newest connection: got %v, want the packet", typ)
	}
	// Two that fight over an identity get no further: the newcomer waits.
	w := upgraded(t, r, ids[0])
	w.say(frame.AppendHello(nil, 1, relaytest.Papers(ids[0].Public())))
	if got := w.refused(); got.Kind != frame.Busy {
		t.Errorf("seventh connection: got %v, want busy", got)
	}
	last.say(frame.AppendPing(nil, 1))
	if typ, _ := last.hear(); typ != frame.Pong {
		t.Errorf("the one that is connected: got %v, want pong", typ)
	}
}

func TestDropsAreCountedByReason(t *testing.T) {
	r := relaytest.New(t)
	id := members(r, 1)[0]
	w := welcomed(t, r, id)
	self, nobody := id.Public().NodeID(), key.NewIdentity().Public().NodeID()
	w.say(frame.AppendSend(nil, self, transport(1, 64)))
	w.say(frame.AppendSend(nil, nobody, []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")))
	for range 50 {
		w.say(frame.AppendSend(nil, nobody, transport(1, 64)))
	}
	w.say(frame.AppendPing(nil, 9))
	gone := 0
	for {
		typ, body := w.hear()
		if typ == frame.Pong {
			break
		}
		if n, err := frame.ParseGone(body); typ != frame.Gone || err != nil || n != nobody {
			t.Fatalf("got %v %v, %v; want gone", typ, n, err)
		}
		gone++
	}
	if gone < 3 || gone > 10 { // three at once, three a second
		t.Errorf("%d gone frames for 50 packets, want 3", gone)
	}
	for _, c := range []struct {
		name, label string
		want        float64
	}{
		{"writ_relay_dropped_total", "self", 1},
		{"writ_relay_dropped_total", "foreign", 1},
		{"writ_relay_dropped_total", "not_connected", 50},
	} {
		if got := r.Metric(c.name, c.label); got != c.want {
			t.Errorf("%s %s: got %v, want %v", c.name, c.label, got, c.want)
		}
	}
	for name, want := range map[string]float64{
		"writ_relay_clients": 1, "writ_relay_packets_total": 52, "writ_relay_bytes_total": 51*64 + 37,
		"writ_relay_accepted_connections_total": 1, "writ_relay_queued_bytes": 0,
	} {
		if got := r.Metric(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	r := relaytest.New(t)
	anonymous := func() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
	node := func() *tls.Config { return tlskey.ClientConfig(key.NewIdentity(), r.Key()) }
	const upgrade = "Connection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"
	for _, c := range []struct {
		name    string
		conf    *tls.Config
		request string
		want    int
	}{
		{"health without a key", anonymous(), "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"relay without a key", anonymous(), "GET /relay HTTP/1.1\r\nHost: x\r\n" + upgrade, 403},
		{"no upgrade", node(), "GET /relay HTTP/1.1\r\nHost: x\r\n\r\n", 426},
		{"other protocol", node(), "GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 426},
		{"other path", node(), "GET /secret HTTP/1.1\r\nHost: x\r\n" + upgrade, 404},
		{"POST", node(), "POST /relay HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + upgrade, 405},
		{"HTTP/1.0", node(), "GET /relay HTTP/1.0\r\nHost: x\r\n" + upgrade, 400},
		{"with a body", node(), "GET /relay HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + upgrade, 400},
		{"not HTTP", node(), "\x01\x00\x00\x00\x08\r\n\r\n", 400},
		{"endless header", node(), "GET /relay HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 5000), 431},
	} {
		w := dial(t, r, c.conf)
		w.say([]byte(c.request))
		resp, err := http.ReadResponse(w.br, nil)
		if err != nil || resp.StatusCode != c.want {
			t.Errorf("%s: got %v, %v; want %d", c.name, resp, err, c.want)
			continue
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("%s: body: %v", c.name, err)
		}
		if _, err := w.br.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the answer: %v, want the end", c.name, err)
		}
	}
}

func TestDrainLetsEverybodyLeave(t *testing.T) {
	r := relaytest.New(t)
	ids := members(r, 3)
	var cs []*client.Client
	for _, id := range ids {
		cs = append(cs, relaytest.Connect(t, r.Config(id)))
	}
	began := time.Now()
	r.Stop()
	// 50 ms to leave; a node that did not would be waited for a second more.
	if d := time.Since(began); d > time.Second {
		t.Errorf("the drain took %v", d)
	}
	for _, c := range cs {
		relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase != client.Connected })
	}
	r.Start()
	for _, c := range cs {
		c.Kick()
		relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Connected && s.Connects == 2 })
	}
}

func TestNoGoroutineStays(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("a busy life", func(t *testing.T) {
		r := relaytest.New(t)
		ids := members(r, 8)
		var cs []*client.Client
		for _, id := range ids {
			cs = append(cs, relaytest.Connect(t, r.Config(id)))
		}
		welcomed(t, r, ids[0]) // a clone that never reads
		for range 100 {
			for i, c := range cs {
				c.Send(ids[(i+1)%len(ids)].Public().NodeID(), transport(1, 1400))
			}
		}
		r.Refuse(frame.Revoked, ids[1].Public())
		r.Kill()
		r.Start()
	})
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

// TestManyPairs has everybody talk to everybody. Every packet arrives once or
// is counted where it was dropped (on a slow machine some wait too long).
func TestManyPairs(t *testing.T) {
	r := relaytest.New(t)
	const n, each = 6, 200
	ids := members(r, n)
	var got atomic.Int64
	arrived := make(chan struct{}, 1)
	var cs [n]*client.Client
	for i, id := range ids {
		cfg := r.Config(id)
		cfg.Receive = func(key.NodeID, []byte) {
			got.Add(1)
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
		cs[i] = relaytest.Connect(t, cfg)
	}
	var wg sync.WaitGroup
	for i := range cs {
		wg.Go(func() {
			for s := range uint32(each) {
				for j := range cs {
					if err := cs[i].Send(ids[j].Public().NodeID(), transport(s, 100)); i != j && err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for limit := time.After(20 * time.Second); ; {
		select {
		case <-arrived:
			if got.Load() < n*(n-1)*each {
				continue
			}
		case <-time.After(50 * time.Millisecond): // a drop tells nobody
		case <-limit:
			t.Fatalf("%d packets arrived; with those counted as dropped that is not %d", got.Load(), n*n*each)
		}
		sum := float64(got.Load()) + dropped(r) + r.Metric("writ_relay_dropped_total", "self")
		for _, c := range cs {
			s := c.State()
			sum += float64(s.DroppedFull + s.DroppedOld)
		}
		if sum == n*n*each {
			return
		}
	}
}

// BenchmarkForward: node to relay to node over loopback TCP and TLS, with at
// most 128 KiB in flight. Two ends of TLS are in the time, beside the relay.
func BenchmarkForward(b *testing.B) {
	for _, size := range []int{64, 1452, 9032} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			r := relaytest.New(b)
			ids := members(r, 2)
			inFlight := make(chan struct{}, min(128<<10/size, 500))
			cfg := r.Config(ids[1])
			cfg.Log = nil
			cfg.Receive = func(key.NodeID, []byte) { <-inFlight }
			relaytest.Connect(b, cfg)
			cfg = r.Config(ids[0])
			cfg.Log = nil
			src := relaytest.Connect(b, cfg)
			p, to := transport(0, size), ids[1].Public().NodeID()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			lost := 0
			for b.Loop() {
				select {
				case inFlight <- struct{}{}:
				default:
					select {
					case inFlight <- struct{}{}:
					case <-time.After(2 * time.Second): // all of them were dropped
						for len(inFlight) > 0 {
							<-inFlight
							lost++
						}
						inFlight <- struct{}{}
					}
				}
				if err := src.Send(to, p); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(lost), "lost")
		})
	}
}
