package server_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

// TestSilentConnectionsEnd: whoever stops talking in a phase is gone five
// seconds later; whoever was admitted, after 100 seconds.
func TestSilentConnectionsEnd(t *testing.T) {
	const upgrade = "GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"
	for _, c := range []struct {
		phase  string
		speak  func(id key.IdentityPrivate, tc *tls.Conn) error
		after  time.Duration
		slack  time.Duration
		metric string
	}{
		{"nothing at all", func(key.IdentityPrivate, *tls.Conn) error { return nil }, 5 * time.Second, 0, "tls"},
		{"TLS", func(_ key.IdentityPrivate, tc *tls.Conn) error { return tc.Handshake() }, 5 * time.Second, 0, "request"},
		{"half a request", func(_ key.IdentityPrivate, tc *tls.Conn) error {
			_, err := io.WriteString(tc, upgrade[:20])
			return err
		}, 5 * time.Second, 0, "request"},
		{"request", func(_ key.IdentityPrivate, tc *tls.Conn) error {
			_, err := io.WriteString(tc, upgrade)
			return err
		}, 5 * time.Second, 0, "hello"},
		{"half a hello", func(id key.IdentityPrivate, tc *tls.Conn) error {
			_, err := tc.Write(frame.AppendHello([]byte(upgrade), 1, relaytest.Papers(id.Public()))[:len(upgrade)+20])
			return err
		}, 5 * time.Second, 0, "hello"},
		{"hello", func(id key.IdentityPrivate, tc *tls.Conn) error {
			_, err := tc.Write(frame.AppendHello([]byte(upgrade), 1, relaytest.Papers(id.Public())))
			return err
		}, 100 * time.Second, time.Second, ""},
		{"half a frame", func(id key.IdentityPrivate, tc *tls.Conn) error {
			b := frame.AppendHello([]byte(upgrade), 1, relaytest.Papers(id.Public()))
			_, err := tc.Write(append(b, byte(frame.Ping), 0, 0))
			return err
		}, 100 * time.Second, time.Second, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := relaytest.NewInMemory(t)
			id := key.NewIdentity()
			r.Admit(id.Public())
			raw, err := r.Config(id).Dial(t.Context(), "tcp", r.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			tc := tls.Client(raw, tlskey.ClientConfig(id, r.Key()))
			if err := c.speak(id, tc); err != nil {
				t.Fatalf("%s: %v", c.phase, err)
			}
			began := time.Now()
			io.Copy(io.Discard, raw)
			if d := time.Since(began); d < c.after || d > c.after+c.slack {
				t.Errorf("%s: ended after %v, want %v", c.phase, d, c.after)
			}
			synctest.Wait()
			if c.metric != "" && r.Metric("writ_relay_failed_connections_total", c.metric) != 1 {
				t.Errorf("%s: not counted as %s", c.phase, c.metric)
			}
			if n := r.Metric("writ_relay_clients"); n != 0 {
				t.Errorf("%s: %v clients remain", c.phase, n)
			}
		})
	}
}

// TestReaderThatStopsIsCutOff: a client that takes nothing is disconnected when
// one record has waited for five seconds, pings or not.
func TestReaderThatStopsIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		ids := members(r, 2)
		raw, err := r.Config(ids[0]).Dial(t.Context(), "tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		tc := tls.Client(raw, tlskey.ClientConfig(ids[0], r.Key()))
		hello := frame.AppendHello([]byte("GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"), 1, relaytest.Papers(ids[0].Public()))
		if _, err := tc.Write(hello); err != nil {
			t.Fatal(err)
		}
		src := relaytest.Connect(t, r.Config(ids[1]))
		synctest.Wait()
		began := time.Now()
		for r.Metric("writ_relay_clients") == 2 {
			for range 3 {
				if err := src.Send(ids[0].Public().NodeID(), transport(1, 9000)); err != nil {
					t.Fatal(err)
				}
			}
			// It goes on talking, which does not help it.
			if _, err := tc.Write(frame.AppendPing(nil, 1)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if time.Since(began) > time.Minute {
				t.Fatal("still connected after a minute")
			}
		}
		if d := time.Since(began); d < 4*time.Second || d > 10*time.Second {
			t.Errorf("cut off after %v, want some 5 s", d)
		}
		if r.Metric("writ_relay_dropped_total", "queue_full") == 0 {
			t.Error("nothing was dropped: the queue has no bound, or was not put to it")
		}
		synctest.Wait()
		if q := r.Metric("writ_relay_queued_bytes"); q != 0 {
			t.Errorf("%v bytes still wait", q)
		}
	})
}

// TestReadsOneByteAtATime: a reader that is very slow gets its control frames in
// the end, whole.
func TestReadsOneByteAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		id := members(r, 1)[0]
		raw, err := r.Config(id).Dial(t.Context(), "tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		tc := tls.Client(dribble{raw}, tlskey.ClientConfig(id, r.Key()))
		hello := frame.AppendHello([]byte("GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"), 1, relaytest.Papers(id.Public()))
		if _, err := tc.Write(frame.AppendPing(hello, 77)); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReaderSize(tc, 16)
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		fr := frame.NewReader(br, frame.Relay)
		for _, want := range []frame.Type{frame.Welcome, frame.Pong} {
			if got, _, err := fr.Next(); err != nil || got != want {
				t.Fatalf("got %v, %v; want %v", got, err, want)
			}
		}
	})
}

// dribble reads a byte every millisecond.
type dribble struct{ net.Conn }

func (d dribble) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return d.Conn.Read(b[:min(1, len(b))])
}

// TestManyStalledReaders: many clients that never read hold no more than their
// limits, and one that reads is served as if they were not there.
func TestManyStalledReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		const n = 30
		ids := members(r, n+2)
		got := make(chan uint32, 1)
		cfg := r.Config(ids[n])
		cfg.Log = nil
		cfg.Receive = func(_ key.NodeID, p []byte) { got <- seq(p) }
		relaytest.Connect(t, cfg)
		cfg = r.Config(ids[n+1])
		cfg.Log = nil
		src := relaytest.Connect(t, cfg)
		for i := range n {
			raw, err := r.Config(ids[i]).Dial(t.Context(), "tcp", r.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			tc := tls.Client(raw, tlskey.ClientConfig(ids[i], r.Key()))
			hello := frame.AppendHello([]byte("GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"), 1, relaytest.Papers(ids[i].Public()))
			if _, err := tc.Write(hello); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if c := r.Metric("writ_relay_clients"); c != n+2 {
			t.Fatalf("%v clients, want %d", c, n+2)
		}
		for round := range uint32(15) {
			for i := range n {
				src.Send(ids[i].Public().NodeID(), transport(round, 9000))
			}
			synctest.Wait()
			began := time.Now()
			if err := src.Send(ids[n].Public().NodeID(), transport(round, 100)); err != nil {
				t.Fatal(err)
			}
			if g := <-got; g != round || time.Since(began) > 0 {
				t.Fatalf("round %d: got %d after %v, want it at once", round, g, time.Since(began))
			}
			if q := r.Metric("writ_relay_queued_bytes"); q > n*512<<10 {
				t.Fatalf("round %d: %v bytes wait", round, q)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}
