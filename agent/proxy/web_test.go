package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
)

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
