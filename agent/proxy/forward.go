package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Forward hands a port of the mesh address to a local server. Its text is
// "tcp/80=127.0.0.1:8080".
type Forward struct {
	Port   uint16         // of the mesh address
	Target netip.AddrPort // of the local server
}

// ParseForward reads a Forward. The target is an address literal: a name could
// mean another server tomorrow.
func ParseForward(s string) (Forward, error) {
	var f Forward
	from, to, ok := strings.Cut(s, "=")
	network, port, ok2 := strings.Cut(from, "/")
	if !ok || !ok2 {
		return f, fmt.Errorf("forward %q: want tcp/PORT=ADDRESS:PORT", s)
	}
	if network != "tcp" {
		return f, fmt.Errorf("forward %q: only tcp can be forwarded", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return f, fmt.Errorf("forward %q: port %q, want 1 to 65535", s, port)
	}
	f.Port = uint16(n)
	f.Target, err = netip.ParseAddrPort(to)
	if err != nil || f.Target.Port() == 0 || f.Target.Addr().IsUnspecified() || f.Target.Addr().IsMulticast() {
		return Forward{}, fmt.Errorf("forward %q: target %q, want an address and a port", s, to)
	}
	return f, nil
}

func (f Forward) String() string { return fmt.Sprintf("tcp/%d=%s", f.Port, f.Target) }

// Peer is, in the context that a Forwarder's dial gets, the address of the mesh
// that the connection comes from.
func Peer(ctx context.Context) (net.Addr, bool) {
	a, ok := ctx.Value(peerKey{}).(net.Addr)
	return a, ok
}

type peerKey struct{}

// A Forwarder serves Forwards.
type Forwarder struct {
	// set at construction
	dial  Dialer
	log   *slog.Logger
	gate  gate
	limit limits
}

// NewForwarder makes a Forwarder. A nil dial is the kernel's.
func NewForwarder(dial Dialer, log *slog.Logger) *Forwarder {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	limit := defaultLimits
	limit.dial = localDialTimeout
	return &Forwarder{dial: dial, log: logger(log), gate: gate{max: maxConns}, limit: limit}
}

// localDialTimeout is for a server of this machine or next to it: the peer's
// connection is open already, and waits.
const localDialTimeout = 5 * time.Second

// Stats returns the counts so far, over all listeners.
func (f *Forwarder) Stats() Stats { return f.gate.stats() }

// Serve connects what ln accepts to target, until ctx ends; then it closes ln,
// resets what is open and waits for it. It returns nil when ctx ended.
func (f *Forwarder) Serve(ctx context.Context, ln net.Listener, target netip.AddrPort) error {
	return f.gate.serve(ctx, ln, func(ctx context.Context, c *client) {
		dctx, cancel := context.WithTimeout(context.WithValue(ctx, peerKey{}, c.RemoteAddr()), f.limit.dial)
		conn, err := f.dial(dctx, "tcp", target.String())
		cancel()
		if err != nil {
			f.log.Warn("forward has no server", "target", target, "error", err)
			c.abort()
			return
		}
		if err := join(ctx, c, conn, nil, f.limit); err != nil {
			f.log.Debug("forwarded connection ended", "peer", c.RemoteAddr(), "target", target, "error", err)
		}
	})
}
