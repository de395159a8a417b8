// Package localapi is how programs on a node's own machine talk to its agent.
//
// # Transport
//
// HTTP/1.1 with JSON over a Unix socket of mode 0660 in the agent's state or
// runtime directory; never TCP, so that no web page can reach it. Who calls is
// told by the kernel (SO_PEERCRED) when the connection is made.
//
//	GET  /v1/status            the node, its peers, relays, coordinator   read
//	GET  /v1/status?after=N    the same, once its version is above N;     read
//	                           at most waitLimit later
//	GET  /v1/whois?addr=A      who has the address IP or IP:PORT          read
//	POST /v1/ping?peer=P       one probe to a peer by name or address, on read
//	                           the path that data takes
//	POST /v1/ping?peer=P&icmp  one echo through the tunnel, which a rule  read
//	                           must allow
//	POST /v1/netcheck          how the node looks from outside, measured  read
//	                           now
//	POST /v1/down              the agent ends                             write
//
// Read verbs are for whoever may open the socket; write verbs for root and the
// user that the agent runs as. A request with an Origin or Referer header, a
// Host other than "agent", or a body above 64 KiB is refused. Answers to errors
// are {"error": "…"} with the fitting HTTP status.
//
// # Stability
//
// Fields are added, never renamed; a reader ignores those it does not know.
package localapi

import (
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
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/agent/netcheck"
)

const (
	host      = "agent"
	maxConns  = 64
	maxBody   = 64 << 10
	waitLimit = 30 * time.Second

	// maxPath is the longest path of a socket on Linux, in bytes: unix(7) has 108
	// with the zero at its end.
	maxPath = 107
)

// An Agent answers the verbs.
type Agent interface {
	// Status is the node as it stands, and a channel that is closed when its
	// version has risen.
	Status() (*Status, <-chan struct{})
	// Whois says who has an address of the mesh, or which node's connection
	// comes from a local port.
	Whois(netip.AddrPort) (*Whois, error)
	// Ping probes the path that data to a peer takes.
	Ping(ctx context.Context, peer string) (*Pong, error)
	// Echo sends an ICMP echo to a peer through the tunnel.
	Echo(ctx context.Context, peer string) (*Pong, error)
	// Netcheck measures how the node looks from outside.
	Netcheck(ctx context.Context) (*netcheck.Report, error)
	// Down ends the agent.
	Down()
}

// ErrUnknown means that no such peer or address is known here.
var ErrUnknown = errors.New("unknown")

// A Server serves one agent's socket.
type Server struct {
	listener net.Listener
	http     *http.Server
	agent    Agent
	log      *slog.Logger
	wait     time.Duration // waitLimit
}

// SocketName is the socket's name in the agent's directory.
const SocketName = "agent.sock"

// Listen makes the socket. A socket that nobody answers is replaced; one that
// another agent answers is an error.
func Listen(path string, a Agent, log *slog.Logger) (*Server, error) {
	if err := makeRoom(path); err != nil {
		return nil, fmt.Errorf("local API: %w", err)
	}
	// The socket is made where nobody else can reach it, so that there is no
	// moment at which it has other permissions than its own.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".agent-*")
	if err != nil {
		return nil, fmt.Errorf("local API: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	if len(tmp) > maxPath {
		return nil, fmt.Errorf("local API: the path %s is too long for a socket by %d bytes", path, len(tmp)-maxPath)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false)
		err = os.Chmod(tmp, 0o660)
	}
	var made fs.FileInfo
	if err == nil {
		made, err = os.Lstat(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("local API: %w", err)
	}
	s := &Server{listener: newListener(l, path, made), agent: a, log: log, wait: waitLimit}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      waitLimit + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withCaller,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// makeRoom removes a socket whose agent has ended, and nothing else. Only a connection refused says that nobody listens; a live agent
// that is busy answers otherwise.
func makeRoom(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("another agent answers at %s", path)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("another agent may be at %s: %w", path, err)
	}
	return os.Remove(path)
}

// Serve answers until ctx ends, and returns when the last answer is out, a
// second later at most.
func (s *Server) Serve(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.http.Shutdown(last) != nil {
			s.http.Close()
		}
	})
	err := s.http.Serve(s.listener)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/whois", s.whois)
	mux.HandleFunc("POST /v1/ping", s.ping)
	mux.HandleFunc("POST /v1/netcheck", s.netcheck)
	mux.HandleFunc("POST /v1/down", s.down)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := r.Context().Value(callerKey{}).(caller)
		switch {
		case r.Host != host || r.Header.Get("Origin") != "" || r.Header.Get("Referer") != "":
			fail(w, http.StatusForbidden, errors.New("not for web pages"))
		case !who.known:
			fail(w, http.StatusForbidden, errors.New("the kernel does not say who calls"))
		case !mayCall(who, r.URL.Path):
			s.log.Warn("local API call refused", "uid", who.uid, "path", r.URL.Path)
			fail(w, http.StatusForbidden, fmt.Errorf("user %d may read and not change this agent", who.uid))
		case !drain(w, r):
			w.Header().Set("Connection", "close") // the rest of the body is not waited for
			fail(w, http.StatusRequestEntityTooLarge, fmt.Errorf("a body of more than %d bytes", maxBody))
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// drain reads the body, which no verb has a use for, and reports whether it is
// one that a caller may send.
func drain(w http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength > maxBody {
		return false
	}
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	return err == nil
}

// mayCall says who may call what: the socket's mode has let the caller in for
// reading already.
func mayCall(who caller, path string) bool {
	if path != "/v1/down" {
		return true
	}
	return who.uid == 0 || who.uid == uint32(os.Getuid())
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	after := int64(-1)
	if q := r.URL.Query().Get("after"); q != "" {
		n, err := strconv.ParseInt(q, 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, errors.New("after: not a number"))
			return
		}
		after = n
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.wait)
	defer cancel()
	for {
		st, changed := s.agent.Status()
		if st.Version > after || ctx.Err() != nil {
			reply(w, st)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (s *Server) whois(w http.ResponseWriter, r *http.Request) {
	addr, err := parseAddr(r.URL.Query().Get("addr"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	who, err := s.agent.Whois(addr)
	if err != nil {
		fail(w, http.StatusNotFound, err)
		return
	}
	reply(w, who)
}

// parseAddr reads IP or IP:PORT.
func parseAddr(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("%q: want IP or IP:PORT", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	ping := s.agent.Ping
	if q.Has("icmp") {
		ping = s.agent.Echo
	}
	pong, err := ping(r.Context(), q.Get("peer"))
	switch {
	case errors.Is(err, ErrUnknown):
		fail(w, http.StatusNotFound, err)
	case err != nil:
		fail(w, http.StatusGatewayTimeout, err)
	default:
		reply(w, pong)
	}
}

func (s *Server) netcheck(w http.ResponseWriter, r *http.Request) {
	report, err := s.agent.Netcheck(r.Context())
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	reply(w, report)
}

func (s *Server) down(w http.ResponseWriter, _ *http.Request) {
	reply(w, struct{}{})
	http.NewResponseController(w).Flush() // an error is the caller's having gone
	s.agent.Down()
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error is the caller's having gone
}

func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
