package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/writmesh/writ/agent/proxy"
)

// A Forward hands a port of the mesh address to a local server.
type Forward = proxy.Forward

// handed are the connections that forwards have open to local servers: by the
// local end, who is at the other end of the mesh.
type handed struct {
	mu    sync.Mutex
	peers map[netip.AddrPort]netip.AddrPort
}

func (h *handed) set(local, remote netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.peers == nil {
		h.peers = map[netip.AddrPort]netip.AddrPort{}
	}
	h.peers[local] = remote
}

func (h *handed) drop(local netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.peers, local)
}

// find says which node's connection comes to a local server from this address.
func (h *handed) find(local netip.AddrPort) (netip.AddrPort, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	remote, ok := h.peers[local]
	return remote, ok
}

// serveLocal runs the proxy from the beginning, and the forwards once the node is
// admitted.
func (a *Agent) serveLocal(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	if a.cfg.Proxy != "" {
		s, err := proxy.New(proxy.Config{Resolve: a.resolve, Dial: a.dial, Log: a.log})
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", a.cfg.Proxy)
		if err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		a.mu.Lock()
		a.proxyAddr = ln.Addr().String()
		a.mu.Unlock()
		a.bump()
		tasks.Go(func() error { return s.Serve(ctx, ln) })
	}
	if len(a.cfg.Forwards) > 0 {
		tasks.Go(func() error { return a.serveForwards(ctx) })
	}
	<-ctx.Done()
	return tasks.Wait()
}

func (a *Agent) serveForwards(ctx context.Context) error {
	p, err := a.waitPlane(ctx)
	if err != nil {
		return err
	}
	tasks, ctx := errgroup.WithContext(ctx)
	for _, addr := range p.stack.Addrs() {
		for _, f := range a.cfg.Forwards {
			ln, err := p.stack.Listen("tcp", net.JoinHostPort(addr.String(), strconv.Itoa(int(f.Port))))
			if err != nil {
				return fmt.Errorf("forward %s: %w", f, err)
			}
			fw := proxy.NewForwarder(a.dialLocal, a.log)
			tasks.Go(func() error { return fw.Serve(ctx, ln, f.Target) })
		}
	}
	return tasks.Wait()
}

// waitPlane waits until the node is admitted.
func (a *Agent) waitPlane(ctx context.Context) (*plane, error) {
	for {
		a.mu.Lock()
		p, changed := a.plane, a.changed
		a.mu.Unlock()
		if p != nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// resolve is the proxy's: a peer's name or address, or proxy.ErrDenied.
func (a *Agent) resolve(_ context.Context, host string) (netip.Addr, error) {
	n, _ := a.control.Netmap()
	if n.Self != nil {
		if addr, err := netip.ParseAddr(host); err == nil && slices.Contains(n.Addresses, addr) {
			return addr, nil
		}
	}
	peer, err := find(n, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: no rule lets this node reach it, or there is no such node: %w", host, proxy.ErrDenied)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), nil
	}
	return peer.Addresses[0], nil
}

// dial is the proxy's: through the mesh and nowhere else.
func (a *Agent) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	a.mu.Lock()
	p := a.plane
	a.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("this node is not admitted yet: %w", proxy.ErrDenied)
	}
	return p.stack.Dial(ctx, network, addr)
}

// dialLocal is the forwards': to a local server, remembering for whom.
func (a *Agent) dialLocal(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	peer, known := proxy.Peer(ctx)
	if !ok || !known {
		return c, nil
	}
	local := tcp.LocalAddr().(*net.TCPAddr).AddrPort()
	remote, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return c, nil
	}
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	a.handed.set(local, remote)
	return &handedConn{TCPConn: tcp, drop: sync.OnceFunc(func() { a.handed.drop(local) })}, nil
}

// A handedConn forgets whose it was when it is closed.
type handedConn struct {
	*net.TCPConn
	drop func()
}

func (c *handedConn) Close() error {
	c.drop()
	return c.TCPConn.Close()
}
