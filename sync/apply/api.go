package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/writmesh/writ/policy/reach"
)

// SocketName is the status socket in sync's state directory: HTTP over a Unix
// socket of mode 0600.
//
//	GET /v1/status           the status, as JSON
//	GET /v1/status?after=N   the same once its version is above N, at most
//	                         waitLimit later
//	GET /v1/inventory        the admitted nodes, as policy diff --inventory reads
const SocketName = "sync.sock"

const waitLimit = 30 * time.Second

// ServeStatus answers on the socket until ctx ends.
func (a *Applier) ServeStatus(ctx context.Context) error {
	path := filepath.Join(a.cfg.Dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("status socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("status socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.serveStatus)
	mux.HandleFunc("GET /v1/inventory", a.serveInventory)
	return Serve(ctx, l, mux)
}

// lastAnswers is how long requests may still take once their server ends.
const lastAnswers = 3 * time.Second

// Serve answers HTTP on a listener until ctx ends, which requests see too, and
// returns when they are answered.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: waitLimit + 10*time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return errors.Join(err, s.Close())
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswers)
	defer cancel()
	if s.Shutdown(last) != nil {
		s.Close() // cuts off who is slow to read
	}
	<-ended
	return nil
}

func (a *Applier) serveStatus(w http.ResponseWriter, r *http.Request) {
	after := int64(-1)
	if q := r.URL.Query().Get("after"); q != "" {
		var err error
		if after, err = strconv.ParseInt(q, 10, 64); err != nil {
			http.Error(w, "after: not a number", http.StatusBadRequest)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), waitLimit)
	defer cancel()
	for {
		s, changed := a.Status()
		if s.Version > after || ctx.Err() != nil {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(s) // an error is the caller's having gone
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (a *Applier) serveInventory(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	inv, _ := a.inventory(a.publisher.Current())
	json.NewEncoder(w).Encode(inv) // an error is the caller's having gone
}

// A Client asks a running sync.
type Client struct {
	path string
	http *http.Client
}

// DialStatus makes a Client for the sync with this state directory.
func DialStatus(dir string) *Client {
	path := filepath.Join(dir, SocketName)
	return &Client{path, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // so that there is nothing to close
	}, Timeout: waitLimit + 10*time.Second}}
}

// Status asks for the status once its version is above after; -1 for now.
func (c *Client) Status(ctx context.Context, after int64) (s Status, err error) {
	q := ""
	if after >= 0 {
		q = "?after=" + strconv.FormatInt(after, 10)
	}
	return s, c.get(ctx, "/v1/status"+q, &s)
}

// Inventory asks for the admitted nodes.
func (c *Client) Inventory(ctx context.Context) (inv reach.Inventory, err error) {
	return inv, c.get(ctx, "/v1/inventory", &inv)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sync"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("no sync answers at %s: %w", c.path, op.Err)
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
