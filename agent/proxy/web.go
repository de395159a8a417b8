package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	// maxHeader bounds a request's header: four times what browsers send.
	maxHeader = 64 << 10
	// keepIdle is how long a client may leave its connection open between requests,
	// and a server's may wait for the next one.
	keepIdle = 90 * time.Second
)

// A web is the HTTP half of a Server.
type web struct {
	// set at construction
	s         *Server
	server    *http.Server
	transport *http.Transport
	accepted  chan net.Conn
	running   sync.WaitGroup

	closeOnce sync.Once
	closed    chan struct{}
}

// clientKey is the context key of a request's *client.
type clientKey struct{}

func newWeb(ctx context.Context, s *Server) *web {
	w := &web{s: s, accepted: make(chan net.Conn), closed: make(chan struct{})}
	w.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, addr string) (net.Conn, error) { return w.dial(ctx, addr) },
		DisableCompression:  true, // the client's business
		IdleConnTimeout:     keepIdle,
		MaxIdleConnsPerHost: 4,
		MaxIdleConns:        64,
	}
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	proxy := &httputil.ReverseProxy{
		Transport:     w.transport,
		ErrorLog:      errorLog,
		FlushInterval: -1, // events and long answers go out as they come
		ErrorHandler:  w.failed,
		Rewrite: func(r *httputil.ProxyRequest) {
			for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[h]; ok {
					r.Out.Header[h] = v
				}
			}
		},
	}
	w.server = &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			// The answer may be cut in the middle; the client must see that, also
			// when its length was not announced.
			defer func() {
				if p := recover(); p != nil {
					if c, ok := r.Context().Value(clientKey{}).(*client); ok {
						c.abort()
					}
					panic(p)
				}
			}()
			w.handle(proxy, rw, r)
		}),
		ReadHeaderTimeout: s.limit.request,
		IdleTimeout:       keepIdle,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c.(*served).client)
		},
		ErrorLog: errorLog,
	}
	w.running.Go(func() { _ = w.server.Serve(w) }) // ends with Close, and says so
	return w
}

func (w *web) close() {
	w.server.Close()
	w.Close()
	w.running.Wait()
	w.transport.CloseIdleConnections()
}

// serve hands c to the HTTP server and waits until it is done with it.
func (w *web) serve(ctx context.Context, c *client) {
	c.SetReadDeadline(time.Time{}) // the server sets its own
	sc := &served{client: c, done: make(chan struct{})}
	select {
	case w.accepted <- sc:
	case <-ctx.Done():
		return
	}
	// The server closes it, or the one who took it over does; abort closes it
	// when ctx ends, and then the server does so too.
	<-sc.done
}

// A served is a client that tells when it was closed.
type served struct {
	*client
	once sync.Once
	done chan struct{}
}

func (c *served) Close() error {
	defer c.once.Do(func() { close(c.done) })
	return c.client.Close()
}

// Accept, Close and Addr make a web the net.Listener of its server.

func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.accepted:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *web) Close() error {
	w.closeOnce.Do(func() { close(w.closed) })
	return nil
}

func (w *web) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects to an address that handle has resolved.
func (w *web) dial(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.s.limit.dial)
	defer cancel()
	return w.s.dial(ctx, ap)
}

// handle serves one request.
func (w *web) handle(proxy http.Handler, rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		w.connect(rw, r)
		return
	}
	if r.URL.Host == "" || r.URL.Scheme != "http" {
		http.Error(rw, "this is a proxy: it takes http:// requests and CONNECT", http.StatusBadRequest)
		return
	}
	port := uint16(80)
	if p := r.URL.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			http.Error(rw, "port out of range", http.StatusBadRequest)
			return
		}
		port = uint16(n)
	}
	ctx, cancel := context.WithTimeout(r.Context(), w.s.limit.dial)
	addr, err := w.s.resolve(ctx, r.URL.Hostname())
	cancel()
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	// A proxy may ignore an upgrade (RFC 9110 section 7.8), and what follows one
	// is for CONNECT, whose connections are joined.
	r.Header.Del("Upgrade")
	// The request keeps its Host; the connection is to the address, so that one
	// that is reused is one to the address that the name means now.
	r.URL.Host = netip.AddrPortFrom(addr, port).String()
	proxy.ServeHTTP(rw, r)
}

// connect serves CONNECT.
func (w *web) connect(rw http.ResponseWriter, r *http.Request) {
	host, service, err := net.SplitHostPort(r.Host)
	port, perr := strconv.ParseUint(service, 10, 16)
	if err != nil || perr != nil || port == 0 {
		http.Error(rw, "CONNECT wants host:port", http.StatusBadRequest)
		return
	}
	conn, err := w.s.connect(r.Context(), host, uint16(port))
	if err != nil {
		w.failed(rw, r, err)
		return
	}
	hijacker, ok := rw.(http.Hijacker)
	if !ok {
		reset(conn)
		http.Error(rw, "CONNECT wants HTTP/1", http.StatusHTTPVersionNotSupported)
		return
	}
	taken, buffered, err := hijacker.Hijack()
	if err != nil {
		reset(conn)
		return
	}
	defer taken.Close()
	early := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered, early); err != nil {
		reset(conn)
		return
	}
	taken.SetWriteDeadline(time.Now().Add(w.s.limit.request))
	if _, err := io.WriteString(taken, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		reset(conn)
		return
	}
	c := taken.(*served).client
	if err := join(r.Context(), c, conn, early, w.s.limit); err != nil {
		w.s.log.Debug("proxied connection ended", "host", r.Host, "error", err)
	}
}

// failed answers a request whose connection could not be made.
func (w *web) failed(rw http.ResponseWriter, r *http.Request, err error) {
	w.s.log.Debug("http request refused", "host", r.Host, "error", err)
	if errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // nobody is there to read an answer
	}
	code := http.StatusBadGateway
	switch {
	case errors.Is(err, ErrDenied):
		code = http.StatusForbidden
	case isTimeout(err):
		code = http.StatusGatewayTimeout
	}
	http.Error(rw, fmt.Sprintf("%s: %v", http.StatusText(code), err), code)
}
