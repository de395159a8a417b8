package server

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// listener caps how many connections of one network are between TCP's handshake
// and the end of TLS's: until then nothing is known of a caller but its address.
type listener struct {
	net.Listener

	mu      sync.Mutex
	waiting map[string]int // guarded by mu
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, waiting: map[string]int{}}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(c.RemoteAddr().String())
		if l.enter(from) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		c.Close()
	}
}

func (l *listener) enter(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[from] >= maxHandshakes {
		return false
	}
	l.waiting[from]++
	return true
}

func (l *listener) leave(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[from]--; l.waiting[from] == 0 {
		delete(l.waiting, from)
	}
}

type conn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// handshaken is called by net/http as connections change state; the first
// request comes after the handshake.
func handshaken(c net.Conn, s http.ConnState) {
	if s == http.StateNew {
		return
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if w, ok := c.(*conn); ok {
		w.leave()
	}
}

// network is the part of an address that one party holds: an IPv4 address, or
// the /64 of an IPv6 address.
func network(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return addr
	}
	a := ap.Addr().Unmap()
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64)
		if err == nil {
			return p.String()
		}
	}
	return a.String()
}
