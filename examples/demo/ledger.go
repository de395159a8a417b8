package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// serveLedger is what an accounting server serves: a page, and a stream that
// stays open.
func serveLedger(ctx context.Context, name string) (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Q3 ledger")
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := fmt.Fprintln(w, "entry of", name); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { s.Close() })
	go s.Serve(l)
	return l.Addr().String(), nil
}

// through is an HTTP client that goes by an agent's proxy, with a connection of
// its own for every request.
func through(proxy string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "socks5h", Host: proxy}),
		DisableKeepAlives: true,
	}, Timeout: 20 * time.Second}
}

// An answer is what became of a request.
type answer struct {
	text    string // "200", or "refused (no rule)"
	body    string
	took    time.Duration
	refused bool
}

// get asks for a page through an agent's proxy.
func get(ctx context.Context, proxy, url string) (a answer, err error) {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	resp, err := through(proxy).Do(req)
	a.took = time.Since(began)
	if err != nil {
		if isRefusal(err) {
			a.text, a.refused = "refused (no rule)", true
			return a, nil
		}
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	a.text, a.body, a.took = fmt.Sprint(resp.StatusCode), strings.TrimSpace(string(b)), time.Since(began)
	return a, err
}

// isRefusal tells the proxy's "not allowed by ruleset" (RFC 1928, reply 2), which
// says that the node is not visible from here, and the reset by which the far
// end's filter refuses (reply 5).
func isRefusal(err error) bool {
	return strings.Contains(err.Error(), "not allowed by ruleset") || strings.Contains(err.Error(), "connection refused")
}

// An openStream is a connection that stays open until somebody ends it.
type openStream struct {
	cut chan time.Time // gets the moment when it ended, and is closed
	err error          // why; to be read after cut
}

// open opens the ledger's stream and reads it until it ends; it returns once the
// first entry has come.
func open(ctx context.Context, proxy, url string) (*openStream, error) {
	client := through(proxy)
	client.Timeout = 0
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 512)
	if _, err := resp.Body.Read(b); err != nil {
		resp.Body.Close()
		return nil, err
	}
	s := &openStream{cut: make(chan time.Time, 1)}
	go func() {
		defer resp.Body.Close()
		for {
			if _, s.err = resp.Body.Read(b); s.err != nil {
				s.cut <- time.Now()
				close(s.cut)
				return
			}
		}
	}()
	return s, nil
}

// wait waits until the stream is cut.
func (s *openStream) wait(ctx context.Context) (time.Time, error) {
	select {
	case at := <-s.cut:
		if errors.Is(s.err, io.EOF) {
			return at, errors.New("the open connection ended in order, instead of being cut")
		}
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("the open connection is not cut: %w", context.Cause(ctx))
	}
}
