package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
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

func TestSocksGreeting(t *testing.T) {
	l := newLab(t, nil)
	for _, c := range []struct{ name, in, want string }{
		{"no authentication", "05 01 00", "05 00"},
		{"among others", "05 03 02 01 00", "05 00"},
		{"password only", "05 01 02", "05 ff"},
		{"no method", "05 00", "05 ff"},
	} {
		conn := dial(t, l.addr)
		exchange(t, conn, unhex(t, c.in), unhex(t, c.want))
	}
	for _, in := range []string{"04 01 00 50 7f 00 00 01 00", "00", "16 03 01"} {
		conn := dial(t, l.addr)
		conn.Write(unhex(t, in))
		expectEnd(t, conn)
	}
}

func TestSocksReplies(t *testing.T) {
	refuse := map[string]error{
		"203.0.113.1:80":   syscall.ENETUNREACH,
		"203.0.113.2:80":   syscall.EHOSTUNREACH,
		"203.0.113.3:80":   context.DeadlineExceeded,
		"203.0.113.4:80":   syscall.ECONNREFUSED,
		"203.0.113.5:80":   ErrDenied,
		"203.0.113.6:80":   errors.New("something else"),
		"203.0.113.7:80":   syscall.ECONNRESET,
		"203.0.113.8:80":   &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT},
		"[2001:db8::1]:80": syscall.EHOSTUNREACH,
	}
	l := newLab(t, func(_ context.Context, network, addr string) (net.Conn, error) {
		err := refuse[addr]
		if network != "tcp" || err == nil {
			t.Errorf("dialled %s %s", network, addr)
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	})
	name := func(s string) string { return fmt.Sprintf("03 %02x %x", len(s), s) }
	for _, c := range []struct {
		name, request string
		code          byte
	}{
		{"network unreachable", "05 01 00 01 cb 00 71 01 00 50", 3},
		{"host unreachable", "05 01 00 01 cb 00 71 02 00 50", 4},
		{"timeout", "05 01 00 01 cb 00 71 03 00 50", 4},
		{"refused", "05 01 00 01 cb 00 71 04 00 50", 5},
		{"denied by dialer", "05 01 00 01 cb 00 71 05 00 50", 2},
		{"anything else", "05 01 00 01 cb 00 71 06 00 50", 1},
		{"reset", "05 01 00 01 cb 00 71 07 00 50", 5},
		{"kernel timeout", "05 01 00 01 cb 00 71 08 00 50", 4},
		{"IPv6", "05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 00 50", 4},
		{"denied by resolver", "05 01 00" + name("Secret.ACME.mesh.") + "00 50", 2},
		{"no such name", "05 01 00" + name("nobody.acme.mesh") + "00 50", 4},
		{"address in a name", "05 01 00" + name("203.0.113.4") + "00 50", 5},
		{"mapped address", "05 01 00 04 00000000 00000000 0000ffff cb007104 00 50", 5},
		{"bind", "05 02 00 01 cb 00 71 04 00 50", 7},
		{"udp associate", "05 03 00 01 00 00 00 00 00 00", 7},
		{"unknown command", "05 09 00" + name("x") + "00 50", 7},
		{"unknown address type", "05 01 00 02", 8},
		{"empty name", "05 01 00 03 00 00 50", 1},
		{"bad name", "05 01 00" + name("a b") + "00 50", 1},
		{"port 0", "05 01 00 01 cb 00 71 04 00 00", 1},
	} {
		conn := dial(t, l.addr)
		exchange(t, conn, []byte{5, 1, 0}, []byte{5, 0})
		if _, err := conn.Write(unhex(t, c.request)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		want := append([]byte{5, c.code, 0, 1}, make([]byte, 6)...)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v; want %x", c.name, got, err, want)
		}
	}
	for _, in := range []string{"04 01 00 01 cb 00 71 04 00 50", "05 01 01 01 cb 00 71 04 00 50"} {
		conn := dial(t, l.addr)
		exchange(t, conn, []byte{5, 1, 0}, []byte{5, 0})
		conn.Write(unhex(t, in))
		if got, _ := io.ReadAll(conn); len(got) != 10 || got[1] != 1 {
			t.Errorf("%s: got %x, want a general failure", in, got)
		}
	}
}

// What a client sends right behind its request belongs to the connection.
func TestSocksEarlyData(t *testing.T) {
	l := newLab(t, nil)
	ln := listen(t)
	c := dial(t, l.addr)
	p := port(ln.Addr())
	req := append([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, byte(p >> 8), byte(p)}, "early"...)
	c.Write(req)
	server := acceptOne(t, ln)
	got := make([]byte, 5)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "early" {
		t.Fatalf("got %q, %v; want %q", got, err, "early")
	}
	local := server.RemoteAddr().(*net.TCPAddr).AddrPort()
	want := append([]byte{5, 0, 5, 0, 0, 1, 127, 0, 0, 1}, byte(local.Port()>>8), byte(local.Port()))
	reply := make([]byte, len(want))
	if _, err := io.ReadFull(c, reply); err != nil || !bytes.Equal(reply, want) {
		t.Errorf("got %x, %v; want %x", reply, err, want)
	}
}

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

// The proxy as curl and browsers use it.
func TestHTTPClients(t *testing.T) {
	ledger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %q %q", r.Method, r.URL, r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("Proxy-Connection"))
	}))
	defer ledger.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "secure") }))
	defer secure.Close()
	l := newLab(t, nil)
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			tr := secure.Client().Transport.(*http.Transport).Clone()
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: l.addr})
			tr.TLSClientConfig.InsecureSkipVerify = true
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: within}
			get := func(u string) (int, string) {
				t.Helper()
				req, _ := http.NewRequest("GET", u, nil)
				req.Header.Set("Proxy-Connection", "keep-alive")
				resp, err := client.Do(req)
				if err != nil {
					return 0, err.Error()
				}
				defer resp.Body.Close()
				b, _ := io.ReadAll(resp.Body)
				return resp.StatusCode, string(b)
			}
			host := fmt.Sprintf("ledger.acme.mesh:%d", port(ledger.Listener.Addr()))
			for range 3 {
				code, body := get("http://" + host + "/books?y=2026")
				pc := `""`
				if scheme == "socks5" {
					pc = `"keep-alive"` // no business of a tunnel's
				}
				if want := "GET /books?y=2026 " + host + ` "" ` + pc; code != 200 || body != want {
					t.Errorf("got %d %q, want 200 %q", code, body, want)
				}
			}
			if code, body := get(fmt.Sprintf("https://ledger.acme.mesh:%d/", port(secure.Listener.Addr()))); code != 200 || body != "secure" {
				t.Errorf("https: got %d %q, want 200 secure", code, body)
			}
			if scheme == "http" {
				for u, want := range map[string]int{
					"http://secret.acme.mesh/":                         403,
					"http://nobody.acme.mesh/":                         502,
					fmt.Sprintf("http://127.0.0.1:%d/", closedPort(t)): 502,
					"http://ledger.acme.mesh:0/":                       400,
					"http://ledger.acme.mesh:70000/":                   400,
					"http://bad_host!/":                                502,
				} {
					if code, body := get(u); code != want {
						t.Errorf("%s: got %d %q, want %d", u, code, body, want)
					}
				}
			}
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, h := range l.resolved {
		if h == "ledger.acme.mesh" {
			n++
		}
	}
	// http: 3 requests, 1 CONNECT; 2 that fail later. socks5: one per connection.
	if n < 4+2 {
		t.Errorf("the name was resolved %d times; want once per request", n)
	}
}

func TestHTTPRefusals(t *testing.T) {
	l := newLab(t, func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, context.DeadlineExceeded })
	for _, c := range []struct {
		request string
		want    int
	}{
		{"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400}, // a web page talks to the proxy
		{"GET https://ledger.acme.mesh/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"GET ftp://ledger.acme.mesh/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT ledger.acme.mesh HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT ledger.acme.mesh:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT secret.acme.mesh:443 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT ledger.acme.mesh:443 HTTP/1.1\r\nHost: x\r\n\r\n", 504},
		{"GET http://ledger.acme.mesh/ HTTP/1.1\r\nHost: x\r\n\r\n", 504},
		{"nonsense\r\n\r\n", 400},
		{"GET http://ledger.acme.mesh/ HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", maxHeader+8192) + "\r\n\r\n", 431},
	} {
		conn := dial(t, l.addr)
		go io.WriteString(conn, c.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != c.want {
			t.Errorf("%.60q: got %v, %v; want %d", c.request, resp, err, c.want)
		}
		conn.Close()
	}
}

// An answer that is cut in the middle does not look complete to a client that
// waits for the connection's end.
func TestHTTPAnswerCut(t *testing.T) {
	l := newLab(t, nil)
	ln := listen(t)
	c := dial(t, l.addr)
	fmt.Fprintf(c, "GET http://ledger.acme.mesh:%d/ HTTP/1.0\r\n\r\n", port(ln.Addr()))
	server := acceptOne(t, ln)
	if _, err := http.ReadRequest(bufio.NewReader(server)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(server, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	server.SetLinger(0)
	server.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestUpgradeIsIgnored(t *testing.T) {
	l := newLab(t, nil)
	ln := listen(t)
	c := dial(t, l.addr)
	fmt.Fprintf(c, "GET http://ledger.acme.mesh:%d/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", port(ln.Addr()))
	server := acceptOne(t, ln)
	req, err := http.ReadRequest(bufio.NewReader(server))
	if err != nil || req.Header.Get("Upgrade") != "" || req.Header.Get("Connection") != "" {
		t.Errorf("got %v, %v; want no upgrade", req, err)
	}
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

// FuzzSocks: whatever is read as a request is one whose canonical form reads the
// same, and nothing beyond it is read.
func FuzzSocks(f *testing.F) {
	for _, s := range []string{
		"050100", "05ff00", "0500", "05010001cb00710400ff", "0501000309ledger", "05030001000000000000",
		"0501000420010db8000000000000000000000001" + "0050", "05010003076c656467657221" + "0050", "0501000306" + "6c6564676572" + "0050",
	} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		if ok, err := readGreeting(r); err != nil && ok {
			t.Error("a greeting that is wrong and right")
		}
		r.Reset(in)
		host, port, err := readRequest(r)
		if err != nil {
			return
		}
		if port == 0 {
			t.Error("port 0")
		}
		if again, err := checkHost(host); err != nil || again != host {
			t.Errorf("host %q is not in its simplest form: %q, %v", host, again, err)
		}
		used := len(in) - r.Len()
		want := 4 + 4 + 2
		switch in[3] {
		case addressIPv6:
			want = 4 + 16 + 2
		case addressName:
			want = 4 + 1 + int(in[4]) + 2
		}
		if used != want {
			t.Errorf("read %d bytes, want %d", used, want)
		}
	})
}
