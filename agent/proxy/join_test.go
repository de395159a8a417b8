package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// joined are the ways to join two connections: each returns a client's end and a
// server's.
func joined(t *testing.T, each func(t *testing.T, client, server *net.TCPConn)) {
	t.Run("socks", func(t *testing.T) {
		l := newLab(t, nil)
		ln := listen(t)
		c := socksConnect(t, l, "ledger.acme.mesh", port(ln.Addr()))
		each(t, c, acceptOne(t, ln))
	})
	t.Run("connect", func(t *testing.T) {
		l := newLab(t, nil)
		ln := listen(t)
		c := dial(t, l.addr)
		const ok = "HTTP/1.1 200 Connection established\r\n\r\n"
		exchange(t, c, fmt.Appendf(nil, "CONNECT ledger.acme.mesh:%d HTTP/1.1\r\nHost: x\r\n\r\n", port(ln.Addr())), []byte(ok))
		each(t, c, acceptOne(t, ln))
	})
	t.Run("forward", func(t *testing.T) {
		ln, target := listen(t), listen(t)
		f := NewForwarder(nil, nil)
		start(t, func(ctx context.Context) error {
			return f.Serve(ctx, ln, netip.MustParseAddrPort(target.Addr().String()))
		})
		c := dial(t, ln.Addr().String())
		each(t, c, acceptOne(t, target))
	})
}

// Each half ends by itself, and everything sent before its end arrives.
func TestHalfClose(t *testing.T) {
	joined(t, func(t *testing.T, client, server *net.TCPConn) {
		data := make([]byte, 3<<20)
		rng := rand.NewChaCha8([32]byte{1})
		rng.Read(data)
		var running sync.WaitGroup
		for _, dir := range [][2]*net.TCPConn{{client, server}, {server, client}} {
			running.Go(func() {
				dir[0].Write(data)
				dir[0].CloseWrite()
			})
			got, err := io.ReadAll(dir[1])
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, %v; want the %d sent", len(got), err, len(data))
			}
		}
		running.Wait()
	})
}

// A reset of one side is a reset of the other, in every state.
func TestResetPropagates(t *testing.T) {
	for _, half := range []bool{false, true} {
		for _, fromServer := range []bool{false, true} {
			t.Run(fmt.Sprintf("fromServer=%v/half=%v", fromServer, half), func(t *testing.T) {
				joined(t, func(t *testing.T, client, server *net.TCPConn) {
					cut, other := client, server
					if fromServer {
						cut, other = server, client
					}
					exchange(t, cut, []byte("hello"), nil)
					if _, err := io.ReadFull(other, make([]byte, 5)); err != nil {
						t.Fatal(err)
					}
					if half { // the other side is done sending
						other.CloseWrite()
						if _, err := cut.Read(make([]byte, 1)); err != io.EOF {
							t.Fatalf("got %v, want %v", err, io.EOF)
						}
					}
					cut.SetLinger(0)
					cut.Close()
					expectReset(t, "the other side", other)
				})
			})
		}
	}
}

// A memConn is one end of a connection in memory with two halves.
type memConn struct {
	net.Conn // reads, and what is asked of it
	out      net.Conn
	reset    chan struct{}

	mu     sync.Mutex
	linger int
	closed bool
}

func (c *memConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *memConn) CloseWrite() error           { return c.out.Close() }
func (c *memConn) Reset() <-chan struct{}      { return c.reset }
func (c *memConn) SetDeadline(time.Time) error { return nil }
func (c *memConn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.linger = sec
	return nil
}
func (c *memConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.Conn.Close()
	return c.out.Close()
}
func (c *memConn) wasReset() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed && c.linger == 0
}

// memPair are two ends of one connection.
func memPair() (a, b *memConn) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return &memConn{Conn: r1, out: w2, reset: make(chan struct{}), linger: -1},
		&memConn{Conn: r2, out: w1, reset: make(chan struct{}), linger: -1}
}

func TestJoinLimits(t *testing.T) {
	limit := limits{idle: time.Hour, halfIdle: time.Minute}
	for _, c := range []struct {
		name string
		act  func(far1, far2, near1 *memConn, cancel func())
		want error
		took time.Duration
	}{
		{"idle", func(_, _, _ *memConn, _ func()) {}, errIdle, time.Hour},
		{"bytes keep it alive", func(far1, far2, _ *memConn, _ func()) {
			for range 3 {
				time.Sleep(59 * time.Minute)
				far1.Write([]byte("x"))
				far2.Read(make([]byte, 1))
			}
		}, errIdle, 3*59*time.Minute + time.Hour},
		{"half closed", func(far1, far2, _ *memConn, _ func()) {
			time.Sleep(30 * time.Minute)
			far1.CloseWrite()
		}, errHalfIdle, 31 * time.Minute},
		{"half closed, the other half is used", func(far1, far2, _ *memConn, _ func()) {
			far1.CloseWrite()
			for range 3 {
				time.Sleep(59 * time.Second)
				far2.Write([]byte("x"))
				far1.Read(make([]byte, 1))
			}
		}, errHalfIdle, 3*59*time.Second + time.Minute},
		{"nobody reads", func(far1, _, _ *memConn, _ func()) { far1.Write([]byte("x")) }, errIdle, time.Hour},
		{"reset while half closed", func(far1, _, near1 *memConn, _ func()) {
			far1.CloseWrite()
			time.Sleep(time.Second)
			close(near1.reset)
		}, errReset, time.Second},
		{"reset while a write is blocked", func(far1, _, near1 *memConn, _ func()) {
			far1.Write([]byte("x"))
			time.Sleep(time.Second)
			close(near1.reset)
		}, errReset, time.Second},
		{"the proxy ends", func(_, _, _ *memConn, cancel func()) { cancel() }, context.Canceled, 0},
		{"orderly", func(far1, far2, _ *memConn, _ func()) {
			far2.CloseWrite()
			time.Sleep(time.Second)
			far1.CloseWrite()
		}, nil, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far1, near1 := memPair()
				near2, far2 := memPair()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				done := make(chan error)
				go func() { done <- join(ctx, near1, near2, nil, limit) }()
				c.act(far1, far2, near1, cancel)
				err := <-done
				if !errors.Is(err, c.want) || time.Since(began) != c.took {
					t.Errorf("got %v after %v, want %v after %v", err, time.Since(began), c.want, c.took)
				}
				for _, n := range []*memConn{near1, near2} {
					if n.wasReset() != (c.want != nil) {
						t.Errorf("reset %v, want %v", n.wasReset(), c.want != nil)
					}
				}
				far1.Close()
				far2.Close()
			})
		})
	}
}
