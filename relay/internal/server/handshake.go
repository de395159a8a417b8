package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/outbox"
	"github.com/writmesh/writ/relay/internal/socket"
)

const (
	// maxRequest bounds the HTTP request's head. The client's is 100 bytes;
	// proxies and browsers add a few hundred.
	maxRequest = 4096
	// readBuffer is each client's, and most of what an idle one costs. It
	// holds two packets of the usual MTU.
	readBuffer = 4096
)

// handle takes one connection through its life. Leave tells the gate that the
// connection is no stranger's any more.
func (s *Server) handle(ctx context.Context, raw net.Conn, leave func()) {
	defer leave()
	socket.Tune(raw)
	tc := tls.Server(raw, s.tls)

	tc.SetDeadline(time.Now().Add(tlsTimeout))
	if err := tc.HandshakeContext(ctx); err != nil {
		s.stranger(raw, "tls", err)
		return
	}
	// Everything goes through limit, which stops counting after the request.
	limit := &io.LimitedReader{R: tc, N: maxRequest}
	br := bufio.NewReaderSize(limit, readBuffer)
	tc.SetDeadline(time.Now().Add(requestTimeout))
	req, err := http.ReadRequest(br)
	if err != nil {
		s.stranger(raw, "request", err)
		switch {
		case limit.N <= 0:
			answer(tc, http.StatusRequestHeaderFieldsTooLarge, "request too large")
		case !errors.Is(err, io.EOF):
			answer(tc, http.StatusBadRequest, "not an HTTP request")
		}
		return
	}
	limit.N = math.MaxInt64
	if !s.upgrade(tc, req) {
		return
	}
	id, err := tlskey.PeerKey(tc.ConnectionState())
	if err != nil {
		s.stranger(raw, "key", err)
		answer(tc, http.StatusForbidden, "a certificate of the node's identity key is required")
		return
	}
	if _, err := io.WriteString(tc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+frame.Protocol+"\r\n\r\n"); err != nil {
		s.stranger(raw, "request", err)
		return
	}

	c := &conn{
		s: s, id: id, node: id.NodeID(), tc: tc,
		fr:        frame.NewReader(br, frame.Node),
		box:       outbox.New(s.budget, &s.queues, maxControl),
		gone:      rate.NewLimiter(3, 3),
		here:      rate.NewLimiter(hereRate, hereBurst),
		renewals:  rate.NewLimiter(1, 5),
		takeovers: rate.NewLimiter(rate.Every(10*time.Second), 5),
	}
	tc.SetDeadline(time.Now().Add(helloTimeout))
	if err := c.hello(); err != nil {
		var r *frame.Refusal
		if !errors.As(err, &r) {
			s.stranger(raw, "hello", err)
			return
		}
		s.counts.refused(r.Kind)
		if s.noisy.Allow() {
			s.log.Info("node refused", "node", c.node.Short(), "from", raw.RemoteAddr(), "why", r)
		}
		tc.SetDeadline(time.Now().Add(linger))
		if _, err := tc.Write(frame.AppendRefusal(nil, r)); err == nil && tc.CloseWrite() == nil {
			io.Copy(io.Discard, tc)
		}
		return
	}
	leave()
	s.mu.Lock()
	if _, ok := s.open[raw]; ok {
		s.open[raw] = true
	}
	s.mu.Unlock()
	s.log.Info("node connected", "node", c.node.Short(), "from", raw.RemoteAddr())
	err = c.serve()
	s.log.Info("node left", "node", c.node.Short(), "from", raw.RemoteAddr(), "why", err)
}

// stranger counts and logs the end of a connection that proved nothing.
func (s *Server) stranger(raw net.Conn, phase string, err error) {
	s.counts.stranger(phase)
	s.log.Debug("connection ended before hello", "phase", phase, "from", raw.RemoteAddr(), "err", err)
}

// upgrade reports whether req asks for the protocol, and answers it if not.
func (s *Server) upgrade(tc *tls.Conn, req *http.Request) bool {
	switch {
	case req.URL.Path == "/healthz" && req.Method == http.MethodGet:
		if s.draining.Load() {
			answer(tc, http.StatusServiceUnavailable, "draining")
		} else {
			answer(tc, http.StatusOK, "ok")
		}
	case req.URL.Path != frame.Path:
		s.counts.stranger("request")
		answer(tc, http.StatusNotFound, "this is a Writ relay")
	case req.Method != http.MethodGet:
		s.counts.stranger("request")
		answer(tc, http.StatusMethodNotAllowed, "want GET")
	case !hasToken(req.Header, "Connection", "upgrade") || !hasToken(req.Header, "Upgrade", frame.Protocol):
		s.counts.stranger("request")
		answer(tc, http.StatusUpgradeRequired, "this relay speaks "+frame.Protocol)
	case req.ContentLength != 0 || !req.ProtoAtLeast(1, 1):
		s.counts.stranger("request")
		answer(tc, http.StatusBadRequest, "want HTTP/1.1 without a body")
	default:
		return true
	}
	return false
}

// hasToken reports whether a comma-separated header holds the token.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for v := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(v), token) {
				return true
			}
		}
	}
	return false
}

// answer is the whole of an HTTP exchange that ends here.
func answer(tc *tls.Conn, status int, text string) {
	extra := ""
	if status == http.StatusUpgradeRequired {
		extra = "Upgrade: " + frame.Protocol + "\r\n"
	}
	fmt.Fprintf(tc, "HTTP/1.1 %d %s\r\nConnection: close\r\n%sContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s\n",
		status, http.StatusText(status), extra, len(text)+1, text)
	tc.CloseWrite()
}

// hello reads the node's first frame, judges it, and enters the node into the
// table. The error is a *frame.Refusal where the node is to be told.
func (c *conn) hello() error {
	t, body, err := c.fr.Next()
	if err != nil {
		var d *frame.Defect
		if errors.As(err, &d) {
			return &frame.Refusal{Kind: frame.Violation, Text: d.Error()}
		}
		return err
	}
	if t != frame.Hello {
		return &frame.Refusal{Kind: frame.Violation, Text: t.String() + " frame before hello"}
	}
	// From here on the deadlines are those of the reader, the writer and
	// refuse, which may be called as soon as the node is in the table.
	c.tc.SetDeadline(time.Time{})
	_, papers, err := frame.ParseHello(body)
	if err != nil {
		return &frame.Refusal{Kind: frame.Violation, Text: err.Error()}
	}
	rechecks := c.s.rechecks.Load()
	until, err := c.s.admit(c.id, papers)
	if err != nil {
		return err
	}
	c.papers = append([]byte(nil), papers...)
	c.until.Store(until.Unix())
	if c.s.draining.Load() || c.s.table.len() >= c.s.cfg.MaxClients {
		return &frame.Refusal{Kind: frame.Busy}
	}
	c.box.Control(frame.AppendWelcome(nil, frame.Version, until))
	old, wished, ok := c.s.table.put(c, c.s.now())
	if !ok {
		return &frame.Refusal{Kind: frame.Busy, Text: "this identity connects from several places; give the copy a key of its own"}
	}
	if old != nil {
		old.refuse(&frame.Refusal{Kind: frame.Replaced})
	}
	c.s.grant(c.node, wished)
	// A Recheck that began after this node was judged may have looked through
	// the table before the node was in it.
	if c.s.rechecks.Load() != rechecks {
		c.judge()
	}
	return nil
}

// admit asks the Admitter. The error is always a *frame.Refusal.
func (s *Server) admit(id key.IdentityPublic, papers []byte) (until time.Time, err error) {
	if s.cfg.Admitter == nil {
		return until, &frame.Refusal{Kind: frame.NotReady}
	}
	until, err = s.cfg.Admitter.Admit(id, papers)
	if err != nil {
		var r *frame.Refusal
		if !errors.As(err, &r) || r.Kind == 0 {
			s.log.Debug("papers refused", "node", id.NodeID().Short(), "err", err)
			r = &frame.Refusal{Kind: frame.NotAdmitted}
		}
		return until, r
	}
	if !until.After(time.Now()) {
		return until, &frame.Refusal{Kind: frame.Ended}
	}
	return until, nil
}
