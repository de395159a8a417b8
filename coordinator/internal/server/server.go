// Package server is a coordinator on the network: the three services of
// wire.proto over TLS, the admin socket, and metrics.
//
// # A call, phase by phase
//
//	phase             ends after    limit
//	TCP, TLS          5 s           32 connections of one network at once
//	header            5 s           16 KiB
//	request           30 s          8 MiB; 1 MiB of a key that is not admitted;
//	                                64 MiB to Publish
//	each write        30 s
//	idle              2 min
//	HTTP/2 ping       30 s, 15 s
//
// A key has at most 4 streams, and all keys together that are not admitted have
// 1024; a node may put a record or acknowledge twice a second, and a network may
// hand in two join requests a second, each after a burst.
//
// # Streams
//
// Each stream reads a snapshot, sends what its caller lacks of it, and waits for
// any of what it read to change. It holds nothing but what its caller has, so
// that a reader that is slow delays itself alone and is then sent the newest
// state.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

const (
	// headerTimeout is for networks with seconds of delay, for TLS and the header,
	// not for people who type.
	headerTimeout = 5 * time.Second
	callTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute

	maxHeader     = 16 << 10
	maxStranger   = 1 << 20 // request of a key that is not admitted
	maxStreams    = 4       // of one key: an old one may not be known dead yet
	maxStrangers  = 1024    // streams of keys that are not admitted
	maxHandshakes = 32      // of one network at once

	// stopTimeout is how long calls may go on when the server stops.
	stopTimeout = 5 * time.Second
)

// A Config is what a Server needs. All fields but Log, AliveEvery and Now are
// required.
type Config struct {
	Registry   *registry.Registry
	Identity   key.IdentityPrivate // of its TLS certificate
	AliveEvery time.Duration       // zero for wire.AliveEvery
	Log        *slog.Logger
	Now        func() time.Time
}

// A Server serves one network.
type Server struct {
	// set at construction
	cfg      Config
	reg      *registry.Registry
	log      *slog.Logger
	now      func() time.Time
	alive    time.Duration
	metrics  *metrics
	http     *http.Server
	stopping context.Context // ends streams; calls go on
	stop     context.CancelFunc
	calls    *limiter[key.NodeID]
	joins    *limiter[string]
	running  sync.WaitGroup // calls and streams

	mu        sync.Mutex // guards the fields below
	streams   map[key.NodeID]int
	strangers int
	finished  bool
}

// New makes a server.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, reg: cfg.Registry, log: cfg.Log, now: cfg.Now, alive: cfg.AliveEvery,
		streams: map[key.NodeID]int{},
		calls:   newLimiter[key.NodeID](2, 20),
		joins:   newLimiter[string](2, 50),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.alive <= 0 {
		s.alive = wire.AliveEvery
	}
	s.metrics = newMetrics(s)
	s.stopping, s.stop = context.WithCancel(context.Background())
	tlsConfig := tlskey.ServerConfig(cfg.Identity)
	tlsConfig.NextProtos = []string{"h2", "http/1.1"}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	s.http = &http.Server{
		Handler:           s.handler(),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: headerTimeout, // bounds the TLS handshake as well
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 16,
			SendPingTimeout:      wire.AliveEvery,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     writeTimeout,
		},
		ConnState: handshaken,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(wire.MaxMessage),
		connect.WithSendMaxBytes(wire.MaxMessage),
		// Signed documents compress little, and a compressed request can be small
		// on the wire and large in memory.
		connect.WithCompression("gzip", nil, nil),
	}
	mount := func(path string, h http.Handler, auth func(*caller) error) {
		mux.Handle(path, s.admit(h, auth))
	}
	path, h := wireconnect.NewAgentHandler(agentService{s}, options...)
	mount(path, h, s.authAgent)
	path, h = wireconnect.NewRelayHandler(relayService{s}, options...)
	mount(path, h, s.authRelay)
	path, h = wireconnect.NewPublisherHandler(publisherService{s}, append(options, connect.WithReadMaxBytes(wire.MaxPublish))...)
	mount(path, h, s.authPublisher)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// Serve serves on the listener until ctx ends, then lets calls finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.ServeTLS(newListener(l), "", "") }()
	defer s.finish()
	select {
	case err := <-served:
		if s.stopping.Err() != nil {
			return nil
		}
		s.stop()
		s.http.Close()
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stop()
	wait, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(wait); err != nil {
		s.http.Close()
	}
	<-served
	return nil
}

// begin counts a call; done is called when it ends. No call begins once the
// server has finished.
func (s *Server) begin() (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return nil, false
	}
	s.running.Add(1)
	return s.running.Done, true
}

// finish waits for every call that began.
func (s *Server) finish() {
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	s.running.Wait()
}

// Close ends connections where they are, as the end of the process would; Serve
// then returns.
func (s *Server) Close() {
	s.stop()
	s.http.Close()
}

// A caller is who makes a call.
type caller struct {
	key      key.IdentityPublic
	id       key.NodeID
	network  string // of its address, for fairness
	node     *state.Node
	received func() // the request is read: nothing more is to come
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// admit knows the caller by its certificate, asks auth whether it may call, and
// sets the deadlines of the call.
func (s *Server) admit(h http.Handler, auth func(*caller) error) http.Handler {
	errs := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done, ok := s.begin()
		if !ok {
			http.Error(w, "the coordinator stops", http.StatusServiceUnavailable)
			return
		}
		defer done()
		c := &caller{network: network(r.RemoteAddr)}
		err := s.identify(c, r.TLS)
		if err == nil {
			err = auth(c)
		}
		rc := http.NewResponseController(w)
		rc.SetReadDeadline(time.Now().Add(callTimeout))
		rc.SetWriteDeadline(time.Now().Add(callTimeout))
		if err != nil {
			s.metrics.denied.WithLabelValues(connect.CodeOf(err).String()).Inc()
			if errs.IsSupported(r) {
				errs.Write(w, r, err)
			} else {
				http.Error(w, err.Error(), http.StatusForbidden)
			}
			return
		}
		if c.node == nil {
			r.Body = http.MaxBytesReader(w, r.Body, stranger(r))
		}
		c.received = func() { rc.SetReadDeadline(time.Time{}) }
		h.ServeHTTP(&deadlineWriter{w, rc}, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// stranger is how large a request of a key may be that is no node's: publishers
// are known by other keys.
func stranger(r *http.Request) int64 {
	if r.URL.Path == wireconnect.PublisherPublishProcedure {
		return wire.MaxPublish
	}
	return maxStranger
}

func (s *Server) identify(c *caller, cs *tls.ConnectionState) (err error) {
	if cs == nil {
		return connect.NewError(connect.CodeUnauthenticated, errors.New("no TLS"))
	}
	if c.key, err = tlskey.PeerKey(*cs); err != nil {
		return connect.NewError(connect.CodeUnauthenticated, err)
	}
	c.id = c.key.NodeID()
	return nil
}

// deadlineWriter gives each write its own deadline. Between writes there is
// none: HTTP/2 ends a stream whose deadline passes while nothing is written.
type deadlineWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w *deadlineWriter) Write(b []byte) (int, error) {
	w.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	defer w.rc.SetWriteDeadline(time.Time{})
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *deadlineWriter) Flush() {
	w.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	defer w.rc.SetWriteDeadline(time.Time{})
	w.rc.Flush() // an error shows again at the next write
}

// Unwrap is for http.ResponseController.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// enter counts a stream of the caller; leave is called when it ends. The count
// is of the node, or of the strangers where there is none.
func (s *Server) enter(c *caller) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unknown := c.node == nil
	switch {
	case s.streams[c.id] >= maxStreams:
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d streams of this key already", maxStreams))
	case unknown && s.strangers >= maxStrangers:
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too many streams of keys that are not admitted"))
	}
	s.streams[c.id]++
	if unknown {
		s.strangers++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[c.id]--; s.streams[c.id] == 0 {
			delete(s.streams, c.id)
		}
		if unknown {
			s.strangers--
		}
	}, nil
}

// code is the error as a call ends with it.
func (s *Server) code(err error) error {
	var e *registry.Error
	if err == nil {
		return nil
	}
	if !errors.As(err, &e) {
		s.log.Error("call", "err", err)
		return connect.NewError(connect.CodeInternal, errors.New("the coordinator could not do it"))
	}
	s.metrics.refused.WithLabelValues(e.Kind.String()).Inc()
	switch e.Kind {
	case registry.Invalid:
		return connect.NewError(connect.CodeInvalidArgument, e)
	case registry.Conflict:
		return connect.NewError(connect.CodeAborted, e)
	case registry.Denied:
		return connect.NewError(connect.CodePermissionDenied, e)
	case registry.Limit:
		return connect.NewError(connect.CodeResourceExhausted, e)
	}
	s.log.Error("store", "err", err)
	return connect.NewError(connect.CodeInternal, errors.New("the coordinator's store could not keep it"))
}

// wait returns true when the watch is woken, false when it is time to say that
// the stream lives, and an error when it is over.
func (s *Server) wait(ctx context.Context, w *state.Watch) (bool, error) {
	timed, cancel := context.WithTimeout(ctx, s.alive)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err := w.Wait(timed)
	switch {
	case s.stopping.Err() != nil:
		return false, connect.NewError(connect.CodeUnavailable, errors.New("the coordinator stops"))
	case ctx.Err() != nil:
		return false, ctx.Err()
	}
	return err == nil, nil
}

// limiter is a rate for each key.
type limiter[K comparable] struct {
	every rate.Limit
	burst int

	mu  sync.Mutex
	per map[K]*rate.Limiter // guarded by mu
}

// maxLimited is how many keys are told apart. Beyond it all begin anew, which
// lets a crowd through sooner and keeps nobody out.
const maxLimited = 1 << 16

func newLimiter[K comparable](perSecond float64, burst int) *limiter[K] {
	return &limiter[K]{every: rate.Limit(perSecond), burst: burst, per: map[K]*rate.Limiter{}}
}

func (l *limiter[K]) allow(k K, at time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.per[k]
	if r == nil {
		if len(l.per) >= maxLimited {
			clear(l.per)
		}
		r = rate.NewLimiter(l.every, l.burst)
		l.per[k] = r
	}
	if !r.AllowN(at, 1) {
		return connect.NewError(connect.CodeResourceExhausted, errors.New("too many calls"))
	}
	return nil
}
