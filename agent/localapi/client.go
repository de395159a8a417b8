package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/writmesh/writ/agent/netcheck"
)

// A Client calls an agent's socket.
type Client struct {
	path string
	http *http.Client
}

// maxAnswer is the largest answer read, in bytes: the status of a node with a
// hundred thousand peers.
const maxAnswer = 64 << 20

// Dial makes a Client; nothing is connected until it is used.
func Dial(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // a connection costs nothing here, and nobody has to close it
	}}}
}

// Status asks for the status once its version is above after; -1 for now.
func (c *Client) Status(ctx context.Context, after int64) (*Status, error) {
	var s Status
	q := url.Values{}
	if after >= 0 {
		q.Set("after", strconv.FormatInt(after, 10))
	}
	return &s, c.call(ctx, http.MethodGet, "status", q, &s)
}

// Whois asks who has an address.
func (c *Client) Whois(ctx context.Context, addr string) (*Whois, error) {
	var w Whois
	return &w, c.call(ctx, http.MethodGet, "whois", url.Values{"addr": {addr}}, &w)
}

// Ping probes the path that data to a peer takes, once.
func (c *Client) Ping(ctx context.Context, peer string) (*Pong, error) {
	var p Pong
	return &p, c.call(ctx, http.MethodPost, "ping", url.Values{"peer": {peer}}, &p)
}

// Echo sends one ICMP echo to a peer through the tunnel.
func (c *Client) Echo(ctx context.Context, peer string) (*Pong, error) {
	var p Pong
	return &p, c.call(ctx, http.MethodPost, "ping", url.Values{"peer": {peer}, "icmp": {""}}, &p)
}

// Netcheck measures how the node looks from outside.
func (c *Client) Netcheck(ctx context.Context) (*netcheck.Report, error) {
	var r netcheck.Report
	return &r, c.call(ctx, http.MethodPost, "netcheck", nil, &r)
}

// Down ends the agent.
func (c *Client) Down(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "down", nil, &struct{}{})
}

func (c *Client) call(ctx context.Context, method, verb string, q url.Values, into any) error {
	u := url.URL{Scheme: "http", Host: host, Path: "/v1/" + verb, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("no agent answers at %s: %w", c.path, op.Err)
		}
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // the URL says nothing to a person
		}
		return fmt.Errorf("%s: the agent at %s: %w", verb, c.path, err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error string }
		if json.NewDecoder(body).Decode(&e) != nil || e.Error == "" {
			return fmt.Errorf("%s: %s", verb, resp.Status)
		}
		return errors.New(e.Error)
	}
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}
