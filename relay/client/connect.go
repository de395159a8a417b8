package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/socket"
)

const (
	// phaseTimeout is for each of the TCP connection, TLS, and the answer to
	// request and hello.
	phaseTimeout = 5 * time.Second
	// maxResponse bounds the head of the HTTP response.
	maxResponse = 4096
	// readBuffer holds a TLS record, and so every frame but the largest.
	readBuffer = 16 << 10
)

// connect opens the connection, up to and including the relay's welcome. The
// error is a *frame.Refusal where the relay said why.
func (c *Client) connect(ctx context.Context) (tc *tls.Conn, fr *frame.Reader, until time.Time, err error) {
	papers := c.cfg.Papers()
	if len(papers) == 0 || len(papers) > frame.MaxPapers {
		return nil, nil, until, fmt.Errorf("connect to relay: %d bytes of papers, want 1 to %d", len(papers), frame.MaxPapers)
	}
	dctx, cancel := context.WithTimeout(ctx, phaseTimeout)
	defer cancel()
	raw, err := c.cfg.Dial(dctx, "tcp", c.cfg.Addr)
	if err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: %w", err)
	}
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	// From here on the end of ctx closes the connection under whoever waits.
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	socket.Tune(raw)
	tc = tls.Client(raw, c.tls)
	tc.SetDeadline(time.Now().Add(phaseTimeout))
	if err := tc.Handshake(); err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: TLS: %w", err)
	}
	tc.SetDeadline(time.Now().Add(phaseTimeout))
	// Request and hello leave together: this end trusts the relay's key, not
	// its answer.
	hello := []byte("GET " + frame.Path + " HTTP/1.1\r\nHost: " + c.cfg.Addr +
		"\r\nConnection: Upgrade\r\nUpgrade: " + frame.Protocol + "\r\n\r\n")
	if _, err := tc.Write(frame.AppendHello(hello, frame.Version, papers)); err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: send hello: %w", err)
	}
	limit := &io.LimitedReader{R: tc, N: maxResponse}
	br := bufio.NewReaderSize(limit, readBuffer)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: response: %w", err)
	}
	limit.N = math.MaxInt64
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), frame.Protocol) {
		return nil, nil, until, fmt.Errorf("connect to relay: answered %q, want 101 and %s", resp.Status, frame.Protocol)
	}
	fr = frame.NewReader(br, frame.Relay)
	t, body, err := fr.Next()
	if err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: welcome: %w", err)
	}
	switch t {
	case frame.Welcome:
		_, until, err = frame.ParseWelcome(body)
	case frame.Refuse:
		var r *frame.Refusal
		if r, err = frame.ParseRefusal(body); err == nil {
			err = r
		}
	default:
		err = errors.New(t.String() + " frame before welcome")
	}
	if err != nil {
		return nil, nil, until, fmt.Errorf("connect to relay: %w", err)
	}
	tc.SetDeadline(time.Time{})
	return tc, fr, until, nil
}
