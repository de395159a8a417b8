//go:build lab

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// echoPort is where hosts echo: RFC 862.
const echoPort = 7

// An Echo is a server on a host that sends back what it reads, by TCP and by
// UDP.
type Echo struct {
	Ended chan error // gets how each TCP connection ended; nil is in order

	tcp net.Listener
	udp *net.UDPConn
	all sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	conns  []net.Conn
	closed bool
}

// Echo starts a server on every address of the host.
func (h *Host) Echo() *Echo {
	h.l.t.Helper()
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), echoPort)
	e := &Echo{Ended: make(chan error, 64)}
	var err error
	e.tcp, err = h.ListenTCP(at)
	h.l.must(err)
	e.udp, err = h.ListenUDP(at)
	if err != nil {
		h.l.must(errors.Join(err, e.tcp.Close()))
	}
	e.all.Go(e.serve)
	e.all.Go(e.answer)
	h.l.cleanup(e)
	return e
}

func (e *Echo) serve() {
	for {
		c, err := e.tcp.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		e.conns = append(e.conns, c)
		closed := e.closed
		e.mu.Unlock()
		if closed {
			c.Close()
			return
		}
		e.all.Go(func() {
			_, err := io.Copy(c, c)
			c.Close()
			select {
			case e.Ended <- err:
			default: // nobody asks about so many
			}
		})
	}
}

func (e *Echo) answer() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := e.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		// An answer that cannot be sent is one that is lost.
		_, _ = e.udp.WriteToUDPAddrPort(buf[:n], from)
	}
}

// Close ends the server and every connection.
func (e *Echo) Close() error {
	err := errors.Join(e.tcp.Close(), e.udp.Close())
	e.mu.Lock()
	e.closed = true
	for _, c := range e.conns {
		c.Close()
	}
	e.mu.Unlock()
	e.all.Wait()
	return err
}

// forwardEcho makes an agent in userspace mode hand the echo port to the host's
// server.
var forwardEcho = fmt.Sprintf("--forward=tcp/%d=127.0.0.1:%d", echoPort, echoPort)

// proxyConnect asks an agent's HTTP proxy for a connection.
func proxyConnect(c net.Conn, to string) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("CONNECT %s: %w", to, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT %s: %s", to, resp.Status)
	}
	if r.Buffered() > 0 {
		return fmt.Errorf("CONNECT %s: %d bytes before anything was said", to, r.Buffered())
	}
	return c.SetDeadline(time.Time{})
}

// Say sends a line with the canary over an echo connection and wants it back.
func (l *Lab) Say(c net.Conn, line string) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	line += " " + l.canary + "\n"
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("got %q, want %q", got, line)
	}
	return nil
}

var errOpen = errors.New("a connection that no rule allows comes about")

// Talk opens an echo connection from one agent to another and says a line.
func (a *Agent) Talk(to *Agent) net.Conn {
	a.Host.l.t.Helper()
	c, err := a.Connect(to, echoPort)
	if err == nil {
		err = a.Host.l.Say(c, "hello")
	}
	if err != nil {
		a.Host.l.t.Fatalf("%s talks to %s: %v", a.Host.Name, to.Host.Name, err)
	}
	return c
}

// Cut waits until a connection ends, and wants it to have been reset: an end in
// order would look to a program as if its peer had said all it had to say.
func (l *Lab) Cut(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	switch {
	case err == nil:
		return errors.New("it ended in order, instead of being reset")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it lives on after %s", within)
	}
	return nil
}
