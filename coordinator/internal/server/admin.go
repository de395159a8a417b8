package server

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
	"time"
)

// SocketName is the admin socket's file in the state directory.
const SocketName = "admin.sock"

// maxSocketPath is how long a socket's path may be on Linux (unix(7)).
const maxSocketPath = 107

// ServeAdmin answers on the Unix socket in the state directory until ctx ends:
// "GET /status" with a Status in JSON. Only root and the user who runs the
// coordinator are answered, whoever may open the file.
func (s *Server) ServeAdmin(ctx context.Context, dir, version string) error {
	path, err := socketPath(dir)
	if err != nil {
		return err
	}
	// The store's lock says that no other coordinator runs here: a socket that
	// exists is left over.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("admin socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("admin socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		st := s.Status()
		st.Version = version
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(st); err != nil {
			s.log.Debug("write status", "err", err)
		}
	})
	h := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	err = h.Serve(&ownListener{l})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("admin socket: %w", err)
}

func socketPath(dir string) (string, error) {
	path := filepath.Join(dir, SocketName)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("admin socket: path %s has %d bytes, a socket's has at most %d: use a shorter state directory", path, len(path), maxSocketPath)
	}
	return path, nil
}

// ownListener accepts only connections of root and of this process's user.
type ownListener struct{ net.Listener }

// Accept implements net.Listener.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (uid == 0 || uid == os.Getuid()) {
			return c, nil
		}
		c.Close()
	}
}

// ReadStatus asks the coordinator that runs on the state directory.
func ReadStatus(ctx context.Context, dir string) (st Status, err error) {
	path, err := socketPath(dir)
	if err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://coordinator/status", nil)
	if err != nil {
		return st, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return st, fmt.Errorf("ask the coordinator on %s: %w", dir, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("ask the coordinator on %s: %s", dir, resp.Status)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxStatus)).Decode(&st); err != nil {
		return st, fmt.Errorf("ask the coordinator on %s: %w", dir, err)
	}
	return st, nil
}

// maxStatus is the largest status in bytes: some hundred thousand nodes.
const maxStatus = 64 << 20
