package bind

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

// within is how long anything in these tests may take before it counts as hung.
const within = 20 * time.Second

var (
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.MustParseAddr("::1")
)

// A heard is a packet as a callback saw it.
type heard struct {
	from netip.AddrPort
	id   key.NodeID
	pkt  []byte
}

// loops are the loopback addresses that this system has: some containers have no
// IPv6.
func loops(t testing.TB) []netip.Addr {
	c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loop6, 0)))
	if err != nil {
		t.Logf("IPv4 only: %v", err)
		return []netip.Addr{loop4}
	}
	c.Close()
	return []netip.Addr{loop4, loop6}
}

// A station is an open Bind with sockets. Somebody reads each of its receive
// functions, as WireGuard does, and puts what is left of a batch into got.
type station struct {
	*Bind
	relay   recorder
	got     chan heard // given to WireGuard; id is zero for a stranger's
	control chan heard
	unknown chan heard
	failed  chan heard
	woken   chan key.NodeID
	reading sync.WaitGroup
}

func newStation(t testing.TB, change func(*Config)) *station {
	t.Helper()
	s := &station{
		got: make(chan heard, 4096), control: make(chan heard, 4096), unknown: make(chan heard, 64),
		failed: make(chan heard, 64), woken: make(chan key.NodeID, 64),
	}
	cfg := Config{
		Sender:  &s.relay,
		UDP:     true,
		Control: func(src netip.AddrPort, pkt []byte) { s.control <- heard{from: src, pkt: bytes.Clone(pkt)} },
		Unknown: func(id key.NodeID, pkt []byte) { s.unknown <- heard{id: id, pkt: bytes.Clone(pkt)} },
		Failed: func(id key.NodeID, to netip.AddrPort, err error) {
			s.failed <- heard{from: to, id: id, pkt: []byte(err.Error())}
		},
		Woken: func(id key.NodeID) { s.woken <- id },
	}
	if change != nil {
		change(&cfg)
	}
	s.Bind = newBind(t, cfg)
	s.open(t)
	t.Cleanup(func() { s.close(t) })
	return s
}

func (s *station) open(t testing.TB) {
	t.Helper()
	fns, port, err := s.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	if port != s.LocalPort() || port == 0 {
		t.Fatalf("Open: port %d, LocalPort %d", port, s.LocalPort())
	}
	for _, fn := range fns {
		s.reading.Go(func() {
			b := newBatch()
			for {
				n, err := fn(b.bufs, b.sizes, b.eps)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("receive: %v", err)
					}
					return
				}
				for i := range n {
					if b.sizes[i] == 0 {
						continue
					}
					h := heard{pkt: bytes.Clone(b.bufs[i][:b.sizes[i]])}
					switch e := b.eps[i].(type) {
					case *Endpoint:
						h.id = e.Node()
						s.accept(h.id, b.bufs[i][:b.sizes[i]])
					case *stranger:
						h.from = e.addr
					}
					s.got <- h
				}
			}
		})
	}
}

// accept is WireGuard, which takes every packet for authentic.
func (b *Bind) accept(id key.NodeID, pkt []byte) {
	switch {
	case Classify(pkt) != Data:
	case len(pkt) == device.MessageKeepaliveSize:
		b.AcceptedKeepalive(id)
	default:
		b.Accepted(id, [][]byte{pkt})
	}
}

func (s *station) close(t testing.TB) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s.reading.Wait()
}

// at is the station's address on loopback.
func (s *station) at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, s.LocalPort()) }

func (s *station) endpoint(t testing.TB, id key.NodeID) *Endpoint {
	t.Helper()
	e, err := s.ParseEndpoint(id.String())
	if err != nil {
		t.Fatal(err)
	}
	return e.(*Endpoint)
}

// next is what comes out of c.
func next[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(within):
		t.Fatalf("%s: nothing came", what)
		panic("not reached")
	}
}

// none fails if anything is in c.
func none[T any](t testing.TB, c <-chan T, what string) {
	t.Helper()
	select {
	case v := <-c:
		t.Errorf("%s: got %v, want nothing", what, v)
	default:
	}
}

// An outsider is the socket of a program that knows nothing of meshes.
func outsider(t testing.TB, a netip.Addr) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(within))
	return c, plain(c.LocalAddr().(*net.UDPAddr).AddrPort())
}

func disco(text string) []byte { return append([]byte(frame.DiscoMagic), text...) }

// data is a WireGuard data message of a size, with its number in it.
func data(size, number int) []byte {
	m := message(device.MessageTransportType, size)
	copy(m[16:], fmt.Sprintf("%d", number))
	return m
}

// Both families: an address that was learned is the node's; one that was not is
// a stranger's; after Unlearn it is a stranger's again, and an address that went
// from one node to another is not unlearned by the first.
func TestAttribution(t *testing.T) {
	for _, loop := range loops(t) {
		t.Run(loop.String(), func(t *testing.T) {
			s := newStation(t, nil)
			c, at := outsider(t, loop)
			s.endpoint(t, node(1))
			s.endpoint(t, node(2))
			number := 0
			send := func() []byte {
				t.Helper()
				number++
				p := data(64, number)
				if _, err := c.WriteToUDPAddrPort(p, s.at(loop)); err != nil {
					t.Fatal(err)
				}
				return p
			}
			check := func(step string, want heard) {
				t.Helper()
				want.pkt = send()
				got := next(t, s.got, step)
				if got.id != want.id || got.from != want.from || !bytes.Equal(got.pkt, want.pkt) {
					t.Errorf("%s: got a packet of %v from %v, want of %v from %v", step, got.id, got.from, want.id, want.from)
				}
			}
			check("before Learn", heard{from: at})
			s.Learn(at, node(1))
			check("after Learn", heard{id: node(1)})
			s.Learn(at, node(2))
			check("another node's", heard{id: node(2)})
			s.Unlearn(at, node(1))
			check("unlearned for the former node", heard{id: node(2)})
			s.Unlearn(at, node(2))
			check("after Unlearn", heard{from: at})

			s.Learn(at, node(3))
			p := send()
			if got := next(t, s.unknown, "not configured"); got.id != node(3) || !bytes.Equal(got.pkt, p) {
				t.Errorf("not configured: Unknown was told of %v, want %v", got.id, node(3))
			}
			s.endpoint(t, node(3))
			check("configured", heard{id: node(3)})
			s.Forget(node(3))
			send()
			if got := next(t, s.unknown, "forgotten"); got.id != node(3) {
				t.Errorf("forgotten: Unknown was told of %v, want %v", got.id, node(3))
			}
			s.Remove(node(3))
			check("removed", heard{from: at})

			want := path.Traffic{DirectReceived: 2}
			if got := s.Traffic(node(2)); got != want {
				t.Errorf("traffic: got %+v, want %+v", got, want)
			}
			if got := s.Volume(node(2)); got != (Volume{DirectReceived: 128}) {
				t.Errorf("volume: got %+v, want 128 bytes received by direct", got)
			}
			if got := s.Stats(); got.Strangers != 3 || got.Unknown != 2 {
				t.Errorf("stats: got %+v, want 3 strangers, 2 unknown", got)
			}
		})
	}
}

// What a stranger sends: data reaches WireGuard, a handshake does not, and nothing
// can be sent back.
func TestStranger(t *testing.T) {
	b := newBind(t, Config{UDP: true})
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c, at := outsider(t, loop4)
	buf := newBatch()
	for _, p := range [][]byte{message(1, 148), message(2, 92), message(3, 64), message(4, 64)} {
		if _, err := c.WriteToUDPAddrPort(p, netip.AddrPortFrom(loop4, port)); err != nil {
			t.Fatal(err)
		}
		n, err := fns[1](buf.bufs, buf.sizes, buf.eps)
		if n != 1 || err != nil {
			t.Fatalf("received %d, %v", n, err)
		}
		if got, want := buf.sizes[0] != 0, messageType(p) == 4; got != want {
			t.Errorf("type %d: given to WireGuard is %t, want %t", messageType(p), got, want)
		}
	}
	if got := buf.eps[0].DstToString(); got != at.String() {
		t.Errorf("endpoint: got %s, want %s", got, at)
	}
	if err := b.Send([][]byte{message(3, 64)}, buf.eps[0]); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("Send: got %v, want %v", err, conn.ErrWrongEndpointType)
	}
	if s := b.Stats(); s.Unasked != 3 || s.Strangers != 1 {
		t.Errorf("got %+v, want 3 unasked, 1 stranger's", s)
	}
}

func TestSendTo(t *testing.T) {
	for _, loop := range loops(t) {
		s := newStation(t, nil)
		c, at := outsider(t, loop)
		to := at
		if loop.Is4() {
			to = netip.AddrPortFrom(netip.AddrFrom16(loop.As16()), at.Port()) // IPv4 within IPv6
		}
		if err := s.SendTo(to, disco("ping")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != string(disco("ping")) || plain(from) != s.at(loop) {
			t.Fatalf("got %q from %s, %v; want from %s", buf[:n], from, err, s.at(loop))
		}
		c.WriteToUDPAddrPort(disco("pong"), from)
		if got := next(t, s.control, "pong"); got.from != at || !bytes.Equal(got.pkt, disco("pong")) {
			t.Errorf("Control: got %q from %s, want %q from %s", got.pkt, got.from, disco("pong"), at)
		}
	}
	s := newStation(t, nil)
	for _, bad := range []netip.AddrPort{{}, netip.AddrPortFrom(loop4, 0), netip.MustParseAddrPort("[fe80::1%lo]:7")} {
		if err := s.SendTo(bad, disco("x")); err == nil {
			t.Errorf("SendTo(%s): no error", bad)
		}
	}
	s.Close()
	if err := s.SendTo(s.at(loop4), disco("x")); err == nil {
		t.Error("SendTo after Close: no error")
	}
}

// The columns are those of the package comment's table.
func TestChoice(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	e := s.endpoint(t, node(1))
	initiation := message(device.MessageInitiationType, device.MessageInitiationSize)
	payload := data(64, 1)
	direct := func(what string, want []byte) {
		t.Helper()
		buf := make([]byte, 2000)
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || !bytes.Equal(buf[:n], want) || plain(from) != s.at(loop4) {
			t.Fatalf("%s: got %x from %s, %v", what, buf[:n], from, err)
		}
	}
	for _, k := range []struct {
		choice                                         path.Choice
		dataDirect, dataRelay, shakeDirect, shakeRelay bool
	}{
		{path.Choice{}, false, true, false, true},
		{path.Choice{Relay: true}, false, true, false, true},
		{path.Choice{Direct: at, Relay: true}, true, true, true, true},
		{path.Choice{Direct: at}, true, false, true, true},
		{path.Choice{Relay: true}, false, true, false, true},
	} {
		s.Use(node(1), k.choice)
		for _, m := range []struct {
			pkt           []byte
			direct, relay bool
		}{{payload, k.dataDirect, k.dataRelay}, {initiation, k.shakeDirect, k.shakeRelay}} {
			s.relay.sent, s.relay.to = nil, nil
			before := s.Traffic(node(1))
			if err := s.Send([][]byte{m.pkt}, e); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("%+v, %s", k.choice, Classify(m.pkt))
			if m.direct {
				direct(what, m.pkt)
			}
			if got := len(s.relay.sent) == 1 && bytes.Equal(s.relay.sent[0], m.pkt); got != m.relay {
				t.Errorf("%s: by relay is %t, want %t", what, got, m.relay)
			}
			want := before
			if &m.pkt[0] == &payload[0] {
				if m.direct {
					want.DirectSent++
				}
				if m.relay {
					want.RelaySent++
				}
			}
			if got := s.Traffic(node(1)); got != want {
				t.Errorf("%s: traffic %+v, want %+v", what, got, want)
			}
		}
	}
	// Nothing went by UDP that was not asked for above: what was sent last is
	// what is read next.
	s.SendTo(at, disco("end"))
	direct("end", disco("end"))
}

// A packet that the socket refuses goes by relay at once, and Failed is told of
// the first of a run. What every socket refuses, on any host, is a packet longer
// than UDP can carry.
func TestRefused(t *testing.T) {
	s := newStation(t, nil)
	_, at := outsider(t, loop4)
	_, other := outsider(t, loop4)
	e := s.endpoint(t, node(1))
	good, bad := data(64, 1), data(1<<16, 2)
	for _, k := range []struct {
		name   string
		do     func()
		send   []byte
		relays int
		failed netip.AddrPort // zero: Failed is not told
	}{
		{"taken", func() { s.Use(node(1), path.Choice{Direct: at}) }, good, 0, netip.AddrPort{}},
		{"refused", func() {}, bad, 1, at},
		{"refused again", func() {}, bad, 1, netip.AddrPort{}},
		{"the same path, both", func() { s.Use(node(1), path.Choice{Direct: at, Relay: true}) }, bad, 1, netip.AddrPort{}},
		{"taken again", func() {}, good, 1, netip.AddrPort{}},
		{"another run", func() {}, bad, 1, at},
		{"another path", func() { s.Use(node(1), path.Choice{Direct: other}) }, bad, 1, other},
		{"closed", func() { s.close(t); s.Use(node(1), path.Choice{Direct: at}) }, good, 1, at},
	} {
		k.do()
		s.relay.sent = nil
		if err := s.Send([][]byte{k.send}, e); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if got := len(s.relay.sent); got != k.relays {
			t.Errorf("%s: %d packets by relay, want %d", k.name, got, k.relays)
		}
		if k.failed.IsValid() {
			if got := next(t, s.failed, k.name); got.id != node(1) || got.from != k.failed {
				t.Errorf("%s: Failed told of %v at %s, want %v at %s", k.name, got.id, got.from, node(1), k.failed)
			}
		}
		none(t, s.failed, k.name)
	}
	if got := s.Stats(); got.Refused != 6 || got.Unsent != 0 {
		t.Errorf("got %+v, want 6 refused, none unsent", got)
	}
	// It is an error only when both refuse.
	s.relay.err = errors.New("no relay")
	if err := s.Send([][]byte{good}, e); !errors.Is(err, s.relay.err) {
		t.Errorf("both refuse: got %v, want %v", err, s.relay.err)
	}
	s.open(t)
	s.Use(node(1), path.Choice{Direct: at, Relay: true})
	if err := s.Send([][]byte{good}, e); err != nil {
		t.Errorf("direct takes it, the relay does not: %v", err)
	}
}

// A handshake that was not answered goes again by both paths.
func TestRetryByBothPaths(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	s.Use(node(1), path.Choice{Direct: at})
	m := message(device.MessageInitiationType, device.MessageInitiationSize)
	if err := s.Send([][]byte{m}, s.endpoint(t, node(1))); err != nil {
		t.Fatal(err)
	}
	s.Retry(node(1))
	s.RetryAll()
	for i := range 3 {
		buf := make([]byte, 2000)
		if n, _, err := c.ReadFromUDPAddrPort(buf); err != nil || !bytes.Equal(buf[:n], m) {
			t.Errorf("direct, %d: got %d bytes, %v", i, n, err)
		}
	}
	if got := len(s.relay.sent); got != 3 {
		t.Errorf("by relay: %d, want 3", got)
	}
	if got := s.Stats().Retried; got != 2 {
		t.Errorf("Retried: got %d, want 2", got)
	}
}

func TestWoken(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	e := s.endpoint(t, node(1))
	s.Learn(at, node(1))
	for _, k := range []struct {
		name string
		do   func()
		want bool
	}{
		{"first packet to it", func() { s.Send([][]byte{data(64, 1)}, e) }, true},
		{"second", func() { s.Send([][]byte{data(64, 1)}, e) }, false},
		{"by relay in use", func() { s.Use(node(1), path.Choice{Relay: true}); s.Deliver(node(1), data(64, 1)) }, false},
		{"asleep, but nothing of WireGuard", func() { s.Sleep(node(1)); s.Deliver(node(1), []byte("hello")) }, false},
		{"first packet from it", func() { s.Deliver(node(1), message(1, 148)) }, true},
		{"second from it", func() { s.Deliver(node(1), data(64, 1)) }, false},
		{"Sleep arms", func() { s.Sleep(node(1)); s.Send([][]byte{data(64, 1)}, e) }, true},
		{"Use of nothing arms", func() { s.Use(node(1), path.Choice{}); s.Send([][]byte{data(64, 1)}, e) }, true},
		{"first packet by UDP", func() {
			s.Sleep(node(1))
			for len(s.got) > 0 {
				<-s.got
			}
			c.WriteToUDPAddrPort(data(64, 1), s.at(loop4))
			for next(t, s.got, "packet by UDP").id != node(1) {
			}
		}, true},
		{"Retry is no traffic of WireGuard's", func() { s.Sleep(node(1)); s.Retry(node(1)) }, false},
	} {
		k.do()
		if k.want {
			if got := next(t, s.woken, k.name); got != node(1) {
				t.Errorf("%s: woken %v, want %v", k.name, got, node(1))
			}
		}
		none(t, s.woken, k.name)
	}
}

// The port is kept from opening to opening, and given up only to who has it.
func TestReopen(t *testing.T) {
	s := newStation(t, nil)
	first := s.LocalPort()
	for range 5 {
		s.close(t)
		if got := s.LocalPort(); got != 0 {
			t.Errorf("closed: LocalPort %d, want 0", got)
		}
		s.open(t)
		if got := s.LocalPort(); got != first {
			t.Errorf("port %d, then %d", first, got)
		}
	}
	s.close(t)
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(first)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.open(t)
	if got := s.LocalPort(); got == first {
		t.Error("two sockets have one port")
	}
	if err := s.SendTo(s.at(loop4), disco("self")); err != nil {
		t.Fatal(err)
	}
	next(t, s.control, "packet to itself after all that")

	// A fixed port that is taken is an error.
	fixed := newBind(t, Config{Sender: &recorder{}, UDP: true, Port: first})
	if _, _, err := fixed.Open(0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("fixed port, taken: got %v, want %v", err, syscall.EADDRINUSE)
	}
	taken.Close()
	if _, port, err := fixed.Open(0); port != first || err != nil {
		t.Errorf("fixed port, free: got %d, %v; want %d", port, err, first)
	}
	// Taken at a later opening: the relay goes on, and the error is kept.
	fixed.Close()
	again, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(first)})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	fns, _, err := fixed.Open(0)
	if len(fns) != 1 || err != nil || !errors.Is(fixed.UDPError(), syscall.EADDRINUSE) || fixed.LocalPort() != 0 {
		t.Errorf("later: %d functions, %v, UDPError %v; want 1, nil, %v", len(fns), err, fixed.UDPError(), syscall.EADDRINUSE)
	}
	fixed.Close()
}
