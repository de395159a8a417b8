package localapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/netcheck"
)

// within is how long a test waits for what must happen.
const within = 10 * time.Second

// fakeAgent is a node that has one peer, db at 100.64.0.2.
type fakeAgent struct {
	asked chan struct{} // one for each Status
	downs chan struct{} // one for each Down

	mu      sync.Mutex
	version int64
	changed chan struct{}
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{asked: make(chan struct{}, 1000), downs: make(chan struct{}, 1000), version: 7, changed: make(chan struct{})}
}

func (a *fakeAgent) Status() (*Status, <-chan struct{}) {
	a.asked <- struct{}{}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Status{Version: a.version, Name: "alice-laptop", State: "up"}, a.changed
}

func (a *fakeAgent) bump() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAgent) Whois(ap netip.AddrPort) (*Whois, error) {
	if ap.Addr() != netip.MustParseAddr("100.64.0.2") {
		return nil, fmt.Errorf("%w: no peer has %s", ErrUnknown, ap.Addr())
	}
	return &Whois{Name: "db", Tags: []string{"db"}, Addrs: []netip.Addr{ap.Addr()}}, nil
}

func (a *fakeAgent) Ping(_ context.Context, peer string) (*Pong, error) {
	switch peer {
	case "db":
		return &Pong{Name: "db", RTT: time.Millisecond}, nil
	case "silent":
		return nil, errors.New("ping silent: no answer")
	}
	return nil, fmt.Errorf("%w: no peer is named %q", ErrUnknown, peer)
}

func (a *fakeAgent) Echo(_ context.Context, peer string) (*Pong, error) {
	return &Pong{Name: peer, RTT: time.Second}, nil
}

func (a *fakeAgent) Netcheck(context.Context) (*netcheck.Report, error) {
	return &netcheck.Report{Nearest: "eu-1"}, nil
}

func (a *fakeAgent) Down() { a.downs <- struct{}{} }

// serving is a server that serves.
type serving struct {
	*Server
	agent *fakeAgent
	path  string
	stop  func() error // ends it and returns what Serve returned
}

func serve(t *testing.T, prepare ...func(*Server)) *serving {
	t.Helper()
	return serveAt(t, filepath.Join(t.TempDir(), SocketName), prepare...)
}

func serveAt(t *testing.T, path string, prepare ...func(*Server)) *serving {
	t.Helper()
	a := newFakeAgent()
	s, err := Listen(path, a, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prepare {
		p(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	out := &serving{Server: s, agent: a, path: path}
	out.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(within):
			return errors.New("Serve does not return")
		}
	})
	t.Cleanup(func() {
		if err := out.stop(); err != nil {
			t.Error(err)
		}
	})
	return out
}

func (s *serving) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(within))
	return c
}

// ask sends one request as it is and reads the answer.
func ask(t *testing.T, c net.Conn, request string) (code int, text string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return answer(t, c)
}

func answer(t *testing.T, c net.Conn) (code int, text string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e struct{ Error string }
	if resp.StatusCode != http.StatusOK {
		if err := json.Unmarshal(b, &e); err != nil {
			return resp.StatusCode, string(b)
		}
		return resp.StatusCode, e.Error
	}
	return resp.StatusCode, string(b)
}

func request(method, target string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\n" + strings.Join(append(header, "", ""), "\r\n")
}

func TestRequests(t *testing.T) {
	s := serve(t)
	const host = "Host: agent"
	for _, c := range []struct {
		name, request string
		code          int
		text          string // in the error, or in the answer
	}{
		{"status", request("GET", "/v1/status", host), 200, `"name":"alice-laptop"`},
		{"status after an older version", request("GET", "/v1/status?after=6", host), 200, `"version":7`},
		{"status after a word", request("GET", "/v1/status?after=x", host), 400, "after: not a number"},
		{"whois", request("GET", "/v1/whois?addr=100.64.0.2", host), 200, `"name":"db"`},
		{"whois with a port", request("GET", "/v1/whois?addr=100.64.0.2:443", host), 200, `"name":"db"`},
		{"whois of IPv4 in IPv6", request("GET", "/v1/whois?addr=::ffff:100.64.0.2", host), 200, `"name":"db"`},
		{"whois of a stranger", request("GET", "/v1/whois?addr=100.64.0.9", host), 404, "unknown: no peer has 100.64.0.9"},
		{"whois of a word", request("GET", "/v1/whois?addr=db", host), 400, `"db": want IP or IP:PORT`},
		{"whois of nothing", request("GET", "/v1/whois", host), 400, `"": want IP or IP:PORT`},
		{"ping", request("POST", "/v1/ping?peer=db", host, "Content-Length: 0"), 200, `"rtt":1000000`},
		{"echo", request("POST", "/v1/ping?peer=db&icmp", host, "Content-Length: 0"), 200, `"rtt":1000000000`},
		{"netcheck", request("POST", "/v1/netcheck", host, "Content-Length: 0"), 200, `"nearest":"eu-1"`},
		{"ping a stranger", request("POST", "/v1/ping?peer=eve", host, "Content-Length: 0"), 404, `unknown: no peer is named "eve"`},
		{"ping without an answer", request("POST", "/v1/ping?peer=silent", host, "Content-Length: 0"), 504, "no answer"},
		{"ping by GET", request("GET", "/v1/ping?peer=db", host), 405, ""},
		{"down by GET", request("GET", "/v1/down", host), 405, ""},
		{"no such verb", request("GET", "/v1/keys", host), 404, ""},
		{"other host", request("GET", "/v1/status", "Host: localhost"), 403, "not for web pages"},
		{"host with a port", request("GET", "/v1/status", "Host: agent:80"), 403, "not for web pages"},
		{"rebound host", request("POST", "/v1/down", "Host: evil.example", "Content-Length: 0"), 403, "not for web pages"},
		{"origin", request("GET", "/v1/status", host, "Origin: https://evil.example"), 403, "not for web pages"},
		{"origin null", request("POST", "/v1/down", host, "Origin: null", "Content-Length: 0"), 403, "not for web pages"},
		{"referer", request("GET", "/v1/status", host, "Referer: https://evil.example/"), 403, "not for web pages"},
		{"absolute target", request("GET", "http://evil.example/v1/status", host), 403, "not for web pages"},
		{"body at the limit", request("POST", "/v1/ping?peer=db", host, fmt.Sprintf("Content-Length: %d", maxBody)) + strings.Repeat("x", maxBody), 200, "db"},
		{"body above the limit", request("POST", "/v1/ping?peer=db", host, fmt.Sprintf("Content-Length: %d", maxBody+1)), 413, "a body of more than 65536 bytes"},
		{"chunks above the limit", request("POST", "/v1/ping?peer=db", host, "Transfer-Encoding: chunked") +
			fmt.Sprintf("%x\r\n%s\r\n", maxBody+1, strings.Repeat("x", maxBody+1)), 413, "a body of more than 65536 bytes"},
		{"header above the limit", request("GET", "/v1/status", host, "X: "+strings.Repeat("x", 64<<10)), 431, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, text := ask(t, s.dial(t), c.request)
			if code != c.code || !strings.Contains(text, c.text) {
				t.Errorf("got %d %q, want %d and %q in it", code, text, c.code, c.text)
			}
		})
	}
	if n := len(s.agent.downs); n != 0 {
		t.Errorf("the agent was told to go down %d times by requests that were refused, want 0", n)
	}
}

func TestStatusWaits(t *testing.T) {
	s := serve(t)
	got := make(chan any, 1)
	go func() {
		st, err := Dial(s.path).Status(t.Context(), 7)
		if err != nil {
			got <- err
			return
		}
		got <- st.Version
	}()
	<-s.agent.asked
	select {
	case v := <-got:
		t.Fatalf("got %v before the version rose", v)
	default:
	}
	s.agent.bump()
	if v := <-got; v != int64(8) {
		t.Errorf("got %v, want version 8", v)
	}
}

// The server's time for reading a request must not end a wait that is longer.
func TestStatusWaitsLongerThanARequestMayTake(t *testing.T) {
	const readTimeout = 50 * time.Millisecond
	s := serve(t, func(s *Server) { s.http.ReadTimeout = readTimeout })
	got := make(chan any, 1)
	go func() {
		st, err := Dial(s.path).Status(t.Context(), 7)
		if err != nil {
			got <- err
			return
		}
		got <- st.Version
	}()
	<-s.agent.asked
	select {
	case v := <-got:
		t.Fatalf("got %v before the version rose", v)
	case <-time.After(4 * readTimeout): // the time that passes is what is tested
	}
	s.agent.bump()
	if v := <-got; v != int64(8) {
		t.Errorf("got %v, want version 8", v)
	}
}

func TestStatusWaitEnds(t *testing.T) {
	s := serve(t, func(s *Server) { s.wait = 20 * time.Millisecond })
	st, err := Dial(s.path).Status(t.Context(), 7)
	if err != nil || st.Version != 7 {
		t.Errorf("got %+v, %v, want version 7 when the wait is over", st, err)
	}
}

// A caller that leaves frees its connection at once.
func TestStatusWaitLeft(t *testing.T) {
	s := serve(t)
	l := s.listener.(*listener)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := Dial(s.path).Status(ctx, 7)
		got <- err
	}()
	<-s.agent.asked
	if n := len(l.free); n > maxConns-1 {
		t.Fatalf("%d connections are free while one waits, want fewer than %d", n, maxConns)
	}
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
	var taken []struct{}
	deadline := time.After(within)
	for len(taken) < maxConns-1 { // the listener itself may hold one, for the next Accept
		select {
		case v := <-l.free:
			taken = append(taken, v)
		case <-deadline:
			t.Fatalf("%d connections are free after the caller has left, want at least %d", len(taken), maxConns-1)
		}
	}
	for _, v := range taken {
		l.free <- v
	}
}

func TestEnd(t *testing.T) {
	s := serve(t)
	got := make(chan any, 1)
	go func() {
		st, err := Dial(s.path).Status(t.Context(), 7)
		if err != nil {
			got <- err
			return
		}
		got <- st.Version
	}()
	<-s.agent.asked
	if err := s.stop(); err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
	// The one who waits is answered before Serve returns.
	if v := <-got; v != int64(7) {
		t.Errorf("the waiting caller got %v, want version 7", v)
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: got %v, want no socket", err)
	}
	_, err := Dial(s.path).Status(t.Context(), -1)
	if want := "no agent answers at " + s.path; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

// A caller of down has its answer although the agent ends at once.
func TestDownIsAnswered(t *testing.T) {
	for range 20 {
		s := serve(t)
		ended := make(chan error, 1)
		go func() {
			<-s.agent.downs
			ended <- s.stop()
		}()
		if err := Dial(s.path).Down(t.Context()); err != nil {
			t.Fatalf("down: got %v, want nil", err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnectionsLimited(t *testing.T) {
	s := serve(t)
	get := request("GET", "/v1/status", "Host: agent")
	var conns []net.Conn
	for range maxConns {
		c := s.dial(t)
		if code, text := ask(t, c, get); code != 200 {
			t.Fatalf("got %d %s, want 200", code, text)
		}
		conns = append(conns, c)
	}
	if n := len(s.listener.(*listener).free); n != 0 {
		t.Errorf("%d connections are free, want 0", n)
	}
	over := s.dial(t)
	if _, err := io.WriteString(over, get); err != nil {
		t.Fatal(err)
	}
	over.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := over.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("connection %d: got %d bytes and %v, want no answer while %d are open", maxConns+1, n, err, maxConns)
	}
	over.SetReadDeadline(time.Now().Add(within))
	conns[17].Close()
	if code, text := answer(t, over); code != 200 {
		t.Errorf("got %d %s once a connection is free, want 200", code, text)
	}
}

func TestClientErrors(t *testing.T) {
	s := serve(t)
	c := Dial(s.path)
	ctx := t.Context()
	if who, err := c.Whois(ctx, "100.64.0.2:5432"); err != nil || who.Name != "db" {
		t.Errorf("whois: got %+v, %v, want db", who, err)
	}
	if pong, err := c.Ping(ctx, "db"); err != nil || pong.RTT != time.Millisecond {
		t.Errorf("ping: got %+v, %v, want 1 ms", pong, err)
	}
	_, err := c.Ping(ctx, "eve & co")
	if want := `unknown: no peer is named "eve & co"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	for name, text := range map[string]string{
		"no JSON":         "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"cut short":       "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{",
		"ended":           "",
		"no HTTP":         "SSH-2.0-OpenSSH_9.2\r\n",
		"error of others": "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			path := answering(t, text)
			_, err := Dial(path).Status(ctx, -1)
			if err == nil || !strings.Contains(err.Error(), "status: ") || strings.Contains(err.Error(), "http://") {
				t.Errorf("got %v, want an error that names the verb and no URL", err)
			}
		})
	}
}

// answering is a socket that answers every request with the text.
func answering(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, text)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return path
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"100.64.0.2", "100.64.0.2:443", "::1", "[::1]:53", "::ffff:1.2.3.4", "[::ffff:1.2.3.4]:1",
		"fe80::1%eth0", "[fe80::1%eth0]:1", "", ":", "1.2.3.4:65536", "1.2.3.4:-1", "01.2.3.4", "[::1]", "::1:53"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ap, err := parseAddr(s)
		if err != nil {
			if ap.IsValid() {
				t.Errorf("%q: got %v beside the error %v, want none", s, ap, err)
			}
			return
		}
		if !ap.IsValid() || ap.Addr().Is4In6() {
			t.Errorf("%q: got %v, want a valid address that is not IPv4 in IPv6", s, ap)
		}
		again, err := parseAddr(ap.String())
		if err != nil || again != ap {
			t.Errorf("%q: got %v, and from that %v, %v, want the same", s, ap, again, err)
		}
	})
}
