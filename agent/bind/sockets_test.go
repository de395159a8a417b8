package bind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/agent/path"
)

// A system without one family, or without a port that is free in both.
func TestFamilies(t *testing.T) {
	six := len(loops(t)) == 2
	for _, c := range []struct {
		name         string
		refuse       map[string]error
		times        int // after so many, nothing is refused
		v4, v6, fail bool
	}{
		{"both", nil, 0, true, true, false},
		{"no IPv6", map[string]error{"udp6": syscall.EAFNOSUPPORT}, 1000, true, false, false},
		{"no IPv4", map[string]error{"udp4": syscall.EAFNOSUPPORT}, 1000, false, true, false},
		{"neither", map[string]error{"udp4": syscall.EAFNOSUPPORT, "udp6": syscall.EAFNOSUPPORT}, 1000, false, false, true},
		{"the port is taken in IPv6, 50 times", map[string]error{"udp6": syscall.EADDRINUSE}, 50, true, true, false},
		{"always", map[string]error{"udp6": syscall.EADDRINUSE}, 1000, false, false, true},
		{"no sockets are allowed", map[string]error{"udp4": syscall.EACCES}, 1000, false, false, true},
	} {
		if c.v6 && !six {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			b := newBind(t, Config{UDP: true})
			var opened []*socket
			b.udp.listen = func(network string, port uint16) (*socket, error) {
				if err := c.refuse[network]; err != nil && c.times > 0 {
					c.times--
					return nil, fmt.Errorf("listen: %w", err)
				}
				s, err := listen(network, port)
				if err == nil {
					opened = append(opened, s)
				}
				return s, err
			}
			fns, port, err := b.Open(0)
			if c.fail {
				if err == nil || b.LocalPort() != 0 {
					t.Errorf("Open: port %d, no error", port)
				}
				for _, s := range opened {
					if err := s.conn.Close(); !errors.Is(err, net.ErrClosed) {
						t.Error("a socket was left open")
					}
				}
				if _, _, err := b.Open(0); errors.Is(err, conn.ErrBindAlreadyOpen) {
					t.Error("after a failure: the Bind counts as open")
				}
				return
			}
			if err != nil || port == 0 || port != b.LocalPort() {
				t.Fatalf("Open: port %d, LocalPort %d, %v", port, b.LocalPort(), err)
			}
			defer b.Close()
			want := 1
			for _, loop := range loops(t) {
				has := loop.Is4() && c.v4 || loop.Is6() && c.v6
				out, at := outsider(t, loop)
				err := b.SendTo(at, disco("x"))
				if !has {
					if !errors.Is(err, syscall.EAFNOSUPPORT) {
						t.Errorf("to %s: got %v, want %v", at, err, syscall.EAFNOSUPPORT)
					}
					continue
				}
				want++
				if err != nil {
					t.Errorf("to %s: %v", at, err)
				} else if _, from, err := out.ReadFromUDPAddrPort(make([]byte, 10)); from.Port() != port {
					t.Errorf("from %s, %v; want from port %d", from, err, port)
				}
			}
			if len(fns) != want {
				t.Errorf("%d receive functions, want %d", len(fns), want)
			}
		})
	}
}

// A wire is what a socket writes to, and what is on it in the end: trains taken
// apart by the length that their control message says.
type wire struct {
	refuse  error // of trains
	singles error // of packets alone
	calls   int
	sent    [][]byte
}

func (w *wire) write(b, oob []byte, _ netip.AddrPort) (int, int, error) {
	w.calls++
	if len(oob) > 0 {
		if w.refuse != nil {
			return 0, 0, w.refuse
		}
		size := int(binary.NativeEndian.Uint16(oob[len(oob)-8:])) // the last message's body, padded to 8
		for len(b) > 0 {
			n := min(size, len(b))
			w.sent = append(w.sent, append([]byte(nil), b[:n]...))
			b = b[n:]
		}
		return 0, 0, nil
	}
	if w.singles != nil {
		return 0, 0, w.singles
	}
	w.sent = append(w.sent, append([]byte(nil), b...))
	return 0, 0, nil
}

// Whatever lengths a batch has, the packets leave as they were and in order; also
// when the interface refuses trains, at the first or later.
func TestTrains(t *testing.T) {
	if controlSize == 0 {
		t.Log("this system sends packets one by one")
		return
	}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := &wire{}
		s := &socket{write: w.write}
		s.trains.Store(true)
		switch rng.IntN(4) {
		case 0:
			w.refuse = syscall.EIO
		case 1:
			w.refuse = syscall.EINVAL
		}
		var bufs [][]byte
		size := 1 + rng.IntN(1500)
		for i := range 1 + rng.IntN(BatchSize) {
			if rng.IntN(20) == 0 {
				size = 1 + rng.IntN(9000)
			}
			bufs = append(bufs, data(max(size, 40), i))
		}
		if err := s.send(bufs, netip.AddrPortFrom(loop4, 1), nil); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(w.sent) != len(bufs) {
			t.Fatalf("seed %d: %d packets sent, want %d", seed, len(w.sent), len(bufs))
		}
		for i := range bufs {
			if string(w.sent[i]) != string(bufs[i]) {
				t.Fatalf("seed %d: packet %d of %d bytes went as %d bytes", seed, i, len(bufs[i]), len(w.sent[i]))
			}
		}
		if got, want := s.trains.Load(), w.refuse != syscall.EIO; got != want && w.calls > len(bufs) {
			t.Errorf("seed %d: after %v: trains %t, want %t", seed, w.refuse, got, want)
		}
	}
	// 128 of one length are two trains, and a refusal of everything is an error.
	w := &wire{}
	s := &socket{write: w.write}
	s.trains.Store(true)
	var bufs [][]byte
	for i := range BatchSize {
		bufs = append(bufs, data(512, i))
	}
	if err := s.send(bufs, netip.AddrPortFrom(loop4, 1), nil); err != nil || w.calls != 2 {
		t.Errorf("128 packets of 512 bytes: %d calls, %v; want 2", w.calls, err)
	}
	w.refuse, w.singles = syscall.EIO, syscall.ENETUNREACH
	if err := s.send(bufs, netip.AddrPortFrom(loop4, 1), nil); !errors.Is(err, w.singles) {
		t.Errorf("everything refused: got %v, want %v", err, w.singles)
	}
}

func TestSetMark(t *testing.T) {
	for _, udp := range []bool{false, true} {
		b := newBind(t, Config{UDP: udp})
		if err := b.SetMark(7); err != nil {
			t.Errorf("closed, UDP %t: %v", udp, err)
		}
		if _, _, err := b.Open(0); err != nil {
			t.Fatal(err)
		}
		// Without privilege the kernel says so; with it, it obeys.
		if err := b.SetMark(7); err != nil && !errors.Is(err, syscall.EPERM) {
			t.Errorf("open, UDP %t: %v", udp, err)
		}
		b.Close()
	}
}

func TestPortWithoutUDP(t *testing.T) {
	if _, err := New(Config{Sender: &recorder{}, Port: 1}); err == nil {
		t.Error("a port without UDP: no error")
	}
	b := newBind(t, Config{})
	know(t, b, node(1))
	b.Use(node(1), path.Choice{Direct: netip.MustParseAddrPort("127.0.0.1:1")})
	e, _ := b.ParseEndpoint(node(1).String())
	if err := b.Send([][]byte{data(64, 1)}, e); err != nil {
		t.Errorf("a direct path without UDP: %v, want the relay", err)
	}
	if err := b.SendTo(netip.MustParseAddrPort("127.0.0.1:1"), disco("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SendTo: got %v, want %v", err, net.ErrClosed)
	}
}
