package stun

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"
)

// serve runs a Server on a socket until the test ends.
func serve(t *testing.T, cfg Config, network, addr string) (at netip.AddrPort, s *Server) {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort(), s
}

// A client is a socket that asks one server and hears nobody else.
type client struct {
	t *testing.T
	*net.UDPConn
}

func dial(t *testing.T, to netip.AddrPort) *client {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{t, c}
}

func (c *client) say(p []byte) {
	c.t.Helper()
	if _, err := c.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

// hear is the next answer's transaction id, when it names this socket.
func (c *client) hear() [TxSize]byte {
	c.t.Helper()
	b := make([]byte, 2000)
	n, err := c.Read(b)
	if err != nil {
		c.t.Fatal(err)
	}
	id, addr, err := ParseResponse(b[:n])
	if want := c.LocalAddr().(*net.UDPAddr).AddrPort(); err != nil || addr != want {
		c.t.Errorf("answer %v, %v; want %v", addr, err, want)
	}
	return id
}

func TestServeAnswersFromTheAddressAsked(t *testing.T) {
	for _, c := range []struct{ network, listen, ask string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1"},
		{"udp4", "0.0.0.0:0", "127.0.0.1"},
		{"udp4", "0.0.0.0:0", "127.0.0.2"}, // the kernel would choose 127.0.0.1 itself
		{"udp4", "0.0.0.0:0", "127.5.6.7"},
		{"udp6", "[::]:0", "::1"},
		{"udp6", "[::1]:0", "::1"},
		{"udp", "[::]:0", "127.0.0.2"}, // both families on one socket
		{"udp", "[::]:0", "::1"},
	} {
		if c.network != "udp4" && !haveIPv6() {
			t.Logf("%s %s: this machine has no IPv6", c.network, c.listen)
			continue
		}
		at, s := serve(t, Config{}, c.network, c.listen)
		cl := dial(t, netip.AddrPortFrom(netip.MustParseAddr(c.ask), at.Port()))
		for i := range byte(3) {
			id := [TxSize]byte{i}
			cl.say(Request(id))
			if got := cl.hear(); got != id {
				t.Errorf("%s asked at %s: answer to %x, want %x", c.listen, c.ask, got, id)
			}
		}
		if n := s.Counts().Answered; n != 3 {
			t.Errorf("%s: %v counted as answered, want 3", c.listen, n)
		}
	}
}

func haveIPv6() bool {
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		return false
	}
	pc.Close()
	return true
}

// TestServeDropsByReason: what gets no answer is counted, and what follows is
// answered all the same.
func TestServeDropsByReason(t *testing.T) {
	at, s := serve(t, Config{SourceRate: 1, SourceBurst: 3}, "udp4", "127.0.0.1:0")
	c := dial(t, at)
	c.say(nil)
	c.say([]byte("GET / HTTP/1.1\r\n\r\n"))
	c.say(make([]byte, 60_000))
	c.say(unhex(t, "00010000 2112a442"+countTx))
	c.say(unhex(t, answer4))
	c.say(unhex(t, rfcRequest))
	for i := range byte(10) {
		c.say(Request([TxSize]byte{i}))
	}
	// From another source, so that all before has been looked at.
	other, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetDeadline(time.Now().Add(10 * time.Second))
	end := &client{t, other}
	end.say(Request([TxSize]byte{99}))
	if id := end.hear(); id[0] != 99 {
		t.Errorf("answer to %d, want 99", id[0])
	}
	for i := range byte(3) {
		if id := c.hear(); id[0] != i {
			t.Errorf("answer to %d, want %d", id[0], i)
		}
	}
	c.SetReadDeadline(time.Now().Add(-1))
	if n, err := c.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more answer: %d bytes, %v", n, err)
	}
	want := Counts{
		Answered: 4,
		Dropped:  map[Drop]uint64{Malformed: 3, Short: 1, NotBinding: 1, Unknown: 1, Source: 0, SourceRate: 7, Rate: 0},
	}
	if got := s.Counts(); !reflect.DeepEqual(got, want) {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// memory is a PacketConn that is not a socket, and stumbles once.
type memory struct {
	net.PacketConn // nil: the rest is not called
	in             chan []byte
	out            chan []byte
	closed         chan struct{}
}

var peer = &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4242}

func (m *memory) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-m.in:
		if p == nil {
			return 0, nil, errors.New("stumbled")
		}
		return copy(b, p), peer, nil
	case <-m.closed:
		return 0, nil, net.ErrClosed
	}
}

func (m *memory) WriteTo(b []byte, to net.Addr) (int, error) {
	m.out <- append([]byte(nil), b...)
	return len(b), nil
}

func (m *memory) LocalAddr() net.Addr { return &net.UDPAddr{} }

func (m *memory) Close() error {
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	return nil
}

// TestServeOnAnyPacketConn: also over what is no socket, through an error of one
// datagram, until the context ends.
func TestServeOnAnyPacketConn(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{in: make(chan []byte), out: make(chan []byte), closed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, m) }()
	for i := range byte(3) {
		m.in <- nil
		m.in <- Request([TxSize]byte{i})
		id, addr, err := ParseResponse(<-m.out)
		if err != nil || id[0] != i || addr.String() != peer.String() {
			t.Errorf("answer to %x from %v, %v; want %d from %v", id, addr, err, i, peer)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve ends with %v, want nil: it was asked to", err)
	}
	// A socket that somebody else closed is an error.
	m = &memory{closed: make(chan struct{})}
	m.Close()
	if err := s.Serve(t.Context(), m); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve on a closed socket: %v, want %v", err, net.ErrClosed)
	}
}

func TestLimitsAreChecked(t *testing.T) {
	for _, cfg := range []Config{{SourceRate: -1}, {Rate: 2e9}, {Burst: -5}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v: taken", cfg)
		}
	}
}
