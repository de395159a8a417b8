package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// within is how long anything in these tests may take before it counts as hung.
const within = 20 * time.Second

// A lab is a proxy on loopback whose mesh is loopback too.
type lab struct {
	server *Server
	addr   string
	stop   func() // ends the proxy and waits for it

	mu       sync.Mutex
	resolved []string
}

// resolve knows one name, and denies another.
func (l *lab) resolve(_ context.Context, host string) (netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resolved = append(l.resolved, host)
	switch host {
	case "ledger.acme.mesh":
		return netip.MustParseAddr("127.0.0.1"), nil
	case "secret.acme.mesh":
		return netip.Addr{}, fmt.Errorf("secret: %w", ErrDenied)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	return netip.Addr{}, &net.DNSError{Err: "no such node", Name: host, IsNotFound: true}
}

func newLab(t testing.TB, dial Dialer, change ...func(*Server)) *lab {
	t.Helper()
	l := new(lab)
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var err error
	if l.server, err = New(Config{Resolve: l.resolve, Dial: dial}); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(l.server)
	}
	ln := listen(t)
	l.addr = ln.Addr().String()
	l.stop = start(t, func(ctx context.Context) error { return l.server.Serve(ctx, ln) })
	return l
}

// start runs serve until stop, or the end of the test.
func start(t testing.TB, serve func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(within):
			buf := make([]byte, 1<<20)
			t.Errorf("Serve does not end\n%s", buf[:runtime.Stack(buf, true)])
		}
	})
	t.Cleanup(stop)
	return stop
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(within))
	return c.(*net.TCPConn)
}

func acceptOne(t testing.TB, ln net.Listener) *net.TCPConn {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(within))
	return c.(*net.TCPConn)
}

func port(addr net.Addr) uint16 { return addr.(*net.TCPAddr).AddrPort().Port() }

// closedPort is a port that nobody listens on.
func closedPort(t testing.TB) uint16 {
	ln := listen(t)
	defer ln.Close()
	return port(ln.Addr())
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exchange sends in and reads as many bytes as want has.
func exchange(t testing.TB, c net.Conn, in, want []byte) {
	t.Helper()
	if _, err := c.Write(in); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("sent %x, got %x, %v; want %x", in, got, err, want)
	}
}

func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the end", n, err)
	}
}

func expectReset(t testing.TB, what string, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{c}); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read %d bytes, %v; want %v", what, n, err, syscall.ECONNRESET)
	}
}

// dialReset connects to where connections are reset, which the kernel may report
// as the outcome of connecting.
func dialReset(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(within))
	expectReset(t, addr, c)
}

// socksConnect opens a connection through the proxy by name.
func socksConnect(t testing.TB, l *lab, host string, port uint16) *net.TCPConn {
	t.Helper()
	c := dial(t, l.addr)
	exchange(t, c, []byte{5, 1, 0}, []byte{5, 0})
	req := append([]byte{5, 1, 0, 3, byte(len(host))}, host...)
	if _, err := c.Write(append(req, byte(port>>8), byte(port))); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != 5 || head[1] != 0 {
		t.Fatalf("reply %x, %v; want success", head, err)
	}
	return c
}

// The proxy's own end is seen as a cut, not as an end.
func TestStopResets(t *testing.T) {
	l := newLab(t, nil)
	ln := listen(t)
	c := socksConnect(t, l, "ledger.acme.mesh", port(ln.Addr()))
	server := acceptOne(t, ln)
	l.stop()
	expectReset(t, "client", c)
	expectReset(t, "server", server)
	if got := l.server.Stats(); got.Open != 0 || got.Served != 1 {
		t.Errorf("got %+v, want none open of 1", got)
	}
}

func TestForwardWithoutServer(t *testing.T) {
	ln := listen(t)
	f := NewForwarder(nil, nil)
	start(t, func(ctx context.Context) error {
		return f.Serve(ctx, ln, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), closedPort(t)))
	})
	dialReset(t, ln.Addr().String())
}

func TestOnlyLoopback(t *testing.T) {
	s, err := New(Config{Resolve: new(lab).resolve, Dial: new(net.Dialer).DialContext})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(context.Background(), ln); err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
	s.cfg.Anywhere = true
	ln, err = net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, func(ctx context.Context) error { return s.Serve(ctx, ln) })
	c := dial(t, fmt.Sprintf("127.0.0.1:%d", port(ln.Addr())))
	exchange(t, c, []byte{5, 1, 0}, []byte{5, 0})
	if _, err := New(Config{}); err == nil {
		t.Error("New without resolver: no error")
	}
}

func TestTooManyConnections(t *testing.T) {
	l := newLab(t, nil, func(s *Server) { s.gate.max = 2 })
	for range 2 {
		c := dial(t, l.addr)
		exchange(t, c, []byte{5, 1, 0}, []byte{5, 0})
	}
	dialReset(t, l.addr)
	if got := l.server.Stats(); got.Open != 2 || got.Over != 1 {
		t.Errorf("got %+v, want 2 open, 1 over", got)
	}
}

// A client that does not say what it wants is hung up on.
func TestRequestTimeout(t *testing.T) {
	for _, in := range []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03\xff", "GET http://ledger"} {
		l := newLab(t, nil, func(s *Server) { s.limit.request = 50 * time.Millisecond })
		c := dial(t, l.addr)
		io.WriteString(c, in)
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: still connected", in)
		}
		l.stop()
	}
}

func TestNothingLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	l := newLab(t, nil)
	ln := listen(t)
	socksConnect(t, l, "127.0.0.1", port(ln.Addr()))
	acceptOne(t, ln)
	c := dial(t, l.addr)
	fmt.Fprintf(c, "GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n", port(ln.Addr()))
	acceptOne(t, ln)
	dial(t, l.addr)
	l.stop()
	deadline := time.Now().Add(within)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, want %d\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

func TestCheckHost(t *testing.T) {
	for in, want := range map[string]string{
		"Ledger.ACME.mesh.":             "ledger.acme.mesh",
		"a":                             "a",
		"100.64.0.1":                    "100.64.0.1",
		"FD00::1":                       "fd00::1",
		"::ffff:100.64.0.1":             "100.64.0.1",
		"_x-1.b":                        "_x-1.b",
		"fe80::1%eth0":                  "",
		"":                              "",
		".":                             "",
		"a..b":                          "",
		".a":                            "",
		"a b":                           "",
		"a\x00":                         "",
		"bücher":                        "",
		"[::1]":                         "",
		"a:80":                          "",
		strings.Repeat("a", 64):         "",
		strings.Repeat("a.", 127) + "a": "",
	} {
		got, err := checkHost(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("checkHost(%q): got %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseForward(t *testing.T) {
	for _, s := range []string{"tcp/80=127.0.0.1:8080", "tcp/65535=[::1]:1"} {
		f, err := ParseForward(s)
		if err != nil || f.String() != s {
			t.Errorf("ParseForward(%q): got %q, %v", s, f, err)
		}
	}
	for _, s := range []string{
		"", "tcp/80", "80=127.0.0.1:80", "udp/53=127.0.0.1:53", "tcp/0=127.0.0.1:80", "tcp/080=127.0.0.1:80",
		"tcp/65536=127.0.0.1:80", "tcp/-1=127.0.0.1:80", "tcp/+80=127.0.0.1:80", "tcp/80=localhost:80",
		"tcp/80=127.0.0.1", "tcp/80=127.0.0.1:0", "tcp/80=0.0.0.0:80", "tcp/80=:80", "tcp/80=127.0.0.1:80=x", "TCP/80=127.0.0.1:80",
	} {
		if f, err := ParseForward(s); err == nil {
			t.Errorf("ParseForward(%q): got %v, want an error", s, f)
		}
	}
}

func FuzzParseForward(f *testing.F) {
	f.Add("tcp/80=127.0.0.1:8080")
	f.Add("tcp/1=[fd00::1%x]:1")
	f.Fuzz(func(t *testing.T, s string) {
		if fw, err := ParseForward(s); err == nil {
			if again, err := ParseForward(fw.String()); err != nil || again != fw {
				t.Errorf("%q: got %v, %v from %v", s, again, err, fw)
			}
		}
	})
}
