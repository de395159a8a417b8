// Package proxy joins local programs to the mesh of a node that has no network
// interface: a SOCKS5 and HTTP proxy outwards, and port forwards inwards.
//
// # Outwards
//
// A Server accepts on one loopback port and tells the protocols apart by the
// first byte: 5 is SOCKS5 (RFC 1928), an ASCII letter is HTTP/1 (RFC 9112), and
// anything else is hung up on. Each request goes
//
//	host → checked → Resolver → address → Dialer → connection → join
//
// Every host passes the Resolver, names and address literals alike, so that one
// place says what is of this mesh and visible from this node. A Resolver or
// Dialer that refuses by policy answers with an error that is ErrDenied.
//
// SOCKS5: method 0 (no authentication), command 1 (CONNECT), address types 1, 3
// and 4. Replies:
//
//	0x00 connected
//	0x01 anything that is none of the following, and what is malformed
//	0x02 the error is ErrDenied
//	0x03 network unreachable
//	0x04 host unreachable, no such name, no answer in time
//	0x05 connection refused, or reset while it was opened
//	0x07 BIND, UDP ASSOCIATE or an unknown command
//	0x08 an address type that is none of the three
//
// HTTP: CONNECT, and requests in absolute form with the scheme http. A request
// in origin form is a web page's attempt to talk to the proxy itself, and is
// refused (400). Denied is 403, no answer in time 504, everything else that
// keeps a connection from being made 502. Names are resolved for every request,
// also when a connection is reused.
//
// # Inwards
//
// A Forwarder accepts on a listener of the mesh address and connects each
// connection to a local server. A connection whose server does not answer is
// reset.
//
// # Joined connections
//
// A half that one side closes is closed on the other side, and the other half
// goes on. Whatever else ends a connection (a reset, because the policy cut the
// flow; an error; a limit; the proxy's end) resets both sides: what was cut is
// seen to be cut, and never looks like an orderly end.
//
// # Limits
//
// 1024 connections per Server or Forwarder; what comes beyond is reset and
// counted. Ten seconds for a request, thirty for the connection it asks for. A
// connection that moves no byte is reset after two hours, one that is half
// closed after ten minutes. Only loopback listeners are served, and only
// loopback clients, unless Config says otherwise: whoever reaches the port acts
// as this node. That includes every user of this machine.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConns bounds what a local program, or a peer, can make the agent hold:
	// some 130 MB of buffers in the worst case.
	maxConns = 1024

	// requestTimeout is how long a client may take to say what it wants.
	requestTimeout = 10 * time.Second

	// dialTimeout leaves room for a WireGuard handshake that has to be repeated
	// (every 5 s) and for a lost SYN.
	dialTimeout = 30 * time.Second

	// idleTimeout is as long as the kernel leaves a silent connection alone.
	idleTimeout = 2 * time.Hour

	// halfIdleTimeout is shorter: a half-closed connection waits for the rest of
	// an answer, and nobody would notice that its reader is gone.
	halfIdleTimeout = 10 * time.Minute
)

// ErrDenied is what a Resolver's or Dialer's error is when no rule lets this
// node reach the host, or the host is not visible from it.
var ErrDenied = errors.New("not allowed by the network's policy")

// A Resolver says which address a host is. The host is a name in lower case
// without a final dot, or an address literal.
type Resolver func(ctx context.Context, host string) (netip.Addr, error)

// A Dialer connects to an address of the mesh. A connection it returns should
// have CloseWrite, SetLinger and, if the transport can tell, Reset (see
// netstack.Conn).
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Config is what a Server is made of.
type Config struct {
	Resolve Resolver     // required
	Dial    Dialer       // required
	Log     *slog.Logger // nil: nothing is logged

	// Anywhere lets the Server listen on other addresses than loopback, and
	// serve other clients. They all act as this node.
	Anywhere bool
}

// Stats are counts since the Server or Forwarder was made.
type Stats struct {
	Open   int64  // connections now
	Served uint64 // connections taken, ever
	Over   uint64 // connections reset because there were too many
}

// A Server is a SOCKS5 and HTTP proxy.
type Server struct {
	// set at construction
	cfg   Config
	log   *slog.Logger
	gate  gate
	limit limits
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Resolve == nil || cfg.Dial == nil {
		return nil, errors.New("new proxy: no resolver or no dialer")
	}
	return &Server{cfg: cfg, log: logger(cfg.Log), gate: gate{max: maxConns}, limit: defaultLimits}, nil
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats { return s.gate.stats() }

// Serve serves ln until ctx ends, then closes it, resets what is open and waits
// for it. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if !s.cfg.Anywhere && !isLoopback(ln.Addr()) {
		ln.Close()
		return fmt.Errorf("serve proxy on %s: not a loopback address", ln.Addr())
	}
	web := newWeb(ctx, s)
	defer web.close()
	return s.gate.serve(ctx, ln, func(ctx context.Context, c *client) {
		if !s.cfg.Anywhere && !isLoopback(c.RemoteAddr()) {
			c.abort()
			return
		}
		c.SetReadDeadline(time.Now().Add(s.limit.request))
		switch first := c.peek(); {
		case first == socksVersion:
			s.socks(ctx, c)
		case 'A' <= first && first <= 'Z' || 'a' <= first && first <= 'z':
			web.serve(ctx, c)
		default:
			c.Close()
		}
	})
}

// connect resolves host and connects to it.
func (s *Server) connect(ctx context.Context, host string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit.dial)
	defer cancel()
	addr, err := s.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	return s.dial(ctx, netip.AddrPortFrom(addr, port))
}

func (s *Server) resolve(ctx context.Context, host string) (netip.Addr, error) {
	host, err := checkHost(host)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := s.cfg.Resolve(ctx, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", host, err)
	}
	return addr, nil
}

func (s *Server) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := s.cfg.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return conn, nil
}

// checkHost brings a host into the form that a Resolver gets, or refuses it.
func checkHost(host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "", errors.New("host: address has a zone")
		}
		return a.Unmap().String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	// RFC 1035 section 2.3.4: 255 octets on the wire are 253 characters.
	if host == "" || len(host) > 253 {
		return "", fmt.Errorf("host: name of %d characters, want 1 to 253", len(host))
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return "", fmt.Errorf("host: label of %d characters, want 1 to 63", len(label))
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", fmt.Errorf("host: character %q in a name", c)
			}
		}
	}
	return host, nil
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// A gate accepts connections and lets so many of them in.
type gate struct {
	max    int64
	open   atomic.Int64
	served atomic.Uint64
	over   atomic.Uint64
}

func (g *gate) stats() Stats {
	return Stats{Open: g.open.Load(), Served: g.served.Load(), Over: g.over.Load()}
}

// serve runs handle for every connection of ln, each in a goroutine, until ctx
// ends. It closes ln, and returns when all of them have returned. When handle
// returns, its connection is closed.
func (g *gate) serve(ctx context.Context, ln net.Listener, handle func(context.Context, *client)) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isPassing(err) {
				return fmt.Errorf("serve %s: %w", ln.Addr(), err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(acceptPause):
			}
			continue
		}
		c := &client{Conn: conn}
		if g.open.Add(1) > g.max {
			g.open.Add(-1)
			g.over.Add(1)
			c.abort()
			continue
		}
		g.served.Add(1)
		running.Go(func() {
			defer g.open.Add(-1)
			defer c.Close()
			// Whatever handle waits for on this connection ends with ctx.
			defer context.AfterFunc(ctx, c.abort)()
			handle(ctx, c)
		})
	}
}

// acceptPause is how long a listener rests that cannot accept because the
// process is out of descriptors: until then, connections wait in the backlog.
const acceptPause = 50 * time.Millisecond

// isPassing reports whether a listener's error is about one connection or the
// moment, and not about the listener.
func isPassing(err error) bool {
	var ne net.Error
	return !errors.Is(err, net.ErrClosed) && errors.As(err, &ne) && (ne.Timeout() || isResourceError(err))
}
