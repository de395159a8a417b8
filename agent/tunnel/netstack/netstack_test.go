package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	a4, b4 = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	a6, b6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

// within is how long anything in these tests may take before it counts as hung.
const within = 20 * time.Second

func withinContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	t.Cleanup(cancel)
	return ctx
}

func newDevice(t testing.TB, mtu int, addrs ...netip.Addr) *Device {
	t.Helper()
	d, err := New(Config{Addrs: addrs, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// A wire joins two devices. carry sees every packet, and may drop it (false).
func wire(t testing.TB, a, b *Device, carry func(from *Device, pkt []byte) bool) {
	t.Helper()
	var running sync.WaitGroup
	for _, dir := range [][2]*Device{{a, b}, {b, a}} {
		running.Go(func() {
			from, to := dir[0], dir[1]
			const offset = 16
			size := from.BatchSize()
			bufs, sizes := make([][]byte, size), make([]int, size)
			for i := range bufs {
				bufs[i] = make([]byte, offset+maxMTU)
			}
			for {
				n, err := from.Read(bufs, sizes, offset)
				if err != nil {
					return
				}
				var out [][]byte
				for i := range n {
					if sizes[i] > from.mtu {
						t.Errorf("a packet of %d bytes left a device of MTU %d", sizes[i], from.mtu)
					}
					if pkt := bufs[i][:offset+sizes[i]]; carry == nil || carry(from, pkt[offset:]) {
						out = append(out, pkt)
					}
				}
				if len(out) > 0 {
					to.Write(out, offset)
				}
			}
		})
	}
	t.Cleanup(func() { a.Close(); b.Close(); running.Wait() })
}

func pair(t testing.TB, mtu int, carry func(from *Device, pkt []byte) bool) (a, b *Device) {
	a, b = newDevice(t, mtu, a4, a6), newDevice(t, mtu, b4, b6)
	wire(t, a, b, carry)
	return a, b
}

// accept accepts one connection and hands it to serve.
func accept(t testing.TB, l net.Listener, serve func(c *Conn)) (done <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(within))
		serve(c.(*Conn))
	}()
	return ended
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{MTU: 1280},
		{MTU: 1279, Addrs: []netip.Addr{a4}},
		{MTU: 9001, Addrs: []netip.Addr{a4}},
		{MTU: 1280, Addrs: []netip.Addr{{}}},
		{MTU: 1280, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{MTU: 1280, Addrs: []netip.Addr{netip.MustParseAddr("::")}},
		{MTU: 1280, Addrs: []netip.Addr{netip.MustParseAddr("::ffff:100.64.0.1")}},
		{MTU: 1280, Addrs: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		{MTU: 1280, Addrs: []netip.Addr{a4, a4}},
		{MTU: 1280, Addrs: []netip.Addr{a4}, Routes: []netip.Prefix{{}}},
	} {
		if d, err := New(cfg); err == nil {
			d.Close()
			t.Errorf("New(%+v): no error", cfg)
		}
	}
}

func TestTransferBothWays(t *testing.T) {
	for _, c := range []struct {
		name string
		to   netip.Addr
		mtu  int
		loss int // one packet in so many
	}{
		{"v4", b4, 1280, 0},
		{"v6", b6, 1280, 0},
		{"v4/mtu=9000", b4, 9000, 0},
		{"v4/loss=1in200", b4, 1280, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			rng := rand.New(rand.NewPCG(1, 2))
			a, b := pair(t, c.mtu, func(*Device, []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				return c.loss == 0 || rng.IntN(c.loss) != 0
			})
			l, err := b.Listen("tcp", netip.AddrPortFrom(c.to, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			sent := make([]byte, 1<<20)
			for i := range sent {
				sent[i] = byte(rng.Uint32())
			}
			want := sha256.Sum256(sent)
			done := accept(t, l, func(c *Conn) {
				got, err := io.ReadAll(c) // until the client's half is closed
				if err != nil || sha256.Sum256(got) != want {
					t.Errorf("server read %d bytes, %v; want the %d sent", len(got), err, len(sent))
				}
				if _, err := c.Write(got); err != nil {
					t.Error(err)
				}
			})
			conn, err := a.Dial(withinContext(t), "tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(within))
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*Conn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || sha256.Sum256(got) != want {
				t.Errorf("client read %d bytes, %v; want the %d sent", len(got), err, len(sent))
			}
			<-done
		})
	}
}

func TestErrnos(t *testing.T) {
	a, b := pair(t, 1280, nil)
	if _, err := a.Dial(withinContext(t), "tcp", "100.64.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: got %v, want %v", err, syscall.ECONNREFUSED)
	}
	l, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := b.Listen("tcp", ":80"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("same port twice: got %v, want %v", err, syscall.EADDRINUSE)
	}
	if _, err := b.Listen("tcp", "100.64.0.9:90"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: got %v, want %v", err, syscall.EADDRNOTAVAIL)
	}
	if _, err := b.ListenPacket("udp", "[fd00::9]:90"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: got %v, want %v", err, syscall.EADDRNOTAVAIL)
	}
	only4, err := New(Config{Addrs: []netip.Addr{a4}, Routes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}, MTU: 1280})
	if err != nil {
		t.Fatal(err)
	}
	defer only4.Close()
	for _, addr := range []string{"10.0.0.1:80", "[fd00::2]:80"} {
		_, err := only4.Dial(withinContext(t), "tcp", addr)
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: got %v, want an unreachable network or host", addr, err)
		}
	}
	// Nobody answers: the context decides.
	ctx, cancel := context.WithCancel(context.Background())
	cancelled := make(chan error)
	go func() {
		_, err := only4.Dial(ctx, "tcp", "100.64.0.2:80")
		cancelled <- err
	}()
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

func TestRefusedArguments(t *testing.T) {
	a := newDevice(t, 1280, a4, a6)
	for _, c := range [][2]string{
		{"tcp", "example.com:80"}, {"tcp", "100.64.0.2"}, {"tcp", ":80"}, {"tcp4", "[fd00::2]:80"},
		{"tcp6", "100.64.0.2:80"}, {"ip", "100.64.0.2:80"}, {"tcp5", "100.64.0.2:80"}, {"", "100.64.0.2:80"},
		{"unix", "/tmp/x"}, {"tcp", "[fe80::1%1]:80"}, {"udp", "x:1"},
	} {
		if c, err := a.Dial(withinContext(t), c[0], c[1]); err == nil {
			t.Errorf("Dial(%v): no error", c)
		}
	}
	for _, c := range [][2]string{{"udp", ":80"}, {"tcp", "80"}, {"tcp", "localhost:80"}} {
		if _, err := a.Listen(c[0], c[1]); err == nil {
			t.Errorf("Listen(%v): no error", c)
		}
	}
	if _, err := a.ListenPacket("tcp", ":80"); err == nil {
		t.Error("ListenPacket of tcp: no error")
	}
}

func TestReset(t *testing.T) {
	a, b := pair(t, 1280, nil)
	l, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wait := make(chan struct{})
	done := accept(t, l, func(c *Conn) {
		// The client has closed its half, so no Read would notice the reset.
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		close(wait)
		select {
		case <-c.Reset():
		case <-time.After(within):
			t.Error("the reset was not noticed")
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after reset: got %v, want %v", err, syscall.ECONNABORTED)
		}
	})
	conn, err := a.Dial(withinContext(t), "tcp", "[fd00::2]:80")
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*Conn)
	c.CloseWrite()
	<-wait
	select {
	case <-c.Reset():
		t.Error("reset before it was")
	default:
	}
	c.SetLinger(0)
	c.Close()
	<-done
}

func TestReadReportsReset(t *testing.T) {
	a, b := pair(t, 1280, nil)
	l, err := b.Listen("tcp4", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := accept(t, l, func(c *Conn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
	})
	conn, err := a.Dial(withinContext(t), "tcp", "100.64.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("x"))
	<-done
	conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestPing(t *testing.T) {
	a, _ := pair(t, 1280, nil)
	for _, addr := range []netip.Addr{b4, b6, a4, netip.AddrFrom16(b4.As16())} {
		rtt, err := a.Ping(withinContext(t), addr)
		if err != nil || rtt <= 0 || rtt > within {
			t.Errorf("Ping(%s): %v, %v", addr, rtt, err)
		}
	}
	if _, err := a.Ping(withinContext(t), netip.Addr{}); err == nil {
		t.Error("ping of no address: no error")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Ping(ctx, netip.MustParseAddr("100.64.0.77")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: got %v, want %v", err, context.DeadlineExceeded)
	}
}

// The first request is lost; the second is answered, and only its time counts.
func TestPingAgain(t *testing.T) {
	var mu sync.Mutex
	lost := 0
	a, _ := pair(t, 1280, func(*Device, []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		lost++
		return lost > 1
	})
	rtt, err := a.Ping(withinContext(t), b4)
	if err != nil || rtt >= pingInterval {
		t.Errorf("got %v, %v; want less than %v", rtt, err, pingInterval)
	}
}

func TestUDP(t *testing.T) {
	a, b := pair(t, 1280, nil)
	pc, err := b.ListenPacket("udp", "100.64.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := a.Dial(withinContext(t), "udp", "100.64.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(within)
	pc.SetDeadline(deadline)
	c.SetDeadline(deadline)
	for _, size := range []int{0, 1, 1252} {
		sent := bytes.Repeat([]byte{7}, size)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		n, from, err := pc.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("got %d bytes, %v; want %d", n, err, size)
		}
		if _, err := pc.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if n, err = c.Read(buf); err != nil || n != size {
			t.Fatalf("echo: got %d bytes, %v; want %d", n, err, size)
		}
	}
}

func TestDialOwnAddress(t *testing.T) {
	a := newDevice(t, 1280, a4, a6)
	l, err := a.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := accept(t, l, func(c *Conn) { io.Copy(c, c) })
	c, err := a.Dial(withinContext(t), "tcp", "100.64.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-done
}

// A reader with nothing to read returns when interrupted, and an interruption
// before the read is not lost.
func TestInterrupt(t *testing.T) {
	a := newDevice(t, 1280, a4)
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	for range 100 {
		a.Interrupt()
		if n, err := a.Read(bufs, sizes, 0); n != 0 || err != nil {
			t.Fatalf("got %d, %v; want 0 and no error", n, err)
		}
		go a.Interrupt()
		if n, err := a.Read(bufs, sizes, 0); n != 0 || err != nil {
			t.Fatalf("got %d, %v; want 0 and no error", n, err)
		}
	}
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		a, b := newDevice(t, 1280, a4), newDevice(t, 1280, b4)
		wire(t, a, b, nil)
		l, err := b.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan *Conn, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				accepted <- c.(*Conn)
			}
			_, err = l.Accept()
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: got %v, want %v", err, net.ErrClosed)
			}
			close(accepted)
		}()
		c, err := a.Dial(withinContext(t), "tcp", "100.64.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		server := <-accepted
		l.Close()
		<-accepted
		a.Close()
		c.SetDeadline(time.Now().Add(within))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read from a closed stack: no error")
		}
		select {
		case <-server.Reset():
		case <-time.After(within):
			t.Error("the peer of a closed stack was not reset")
		}
		a.Close()
		b.Close()
		if _, err := a.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read: got %v, want %v", err, os.ErrClosed)
		}
		if _, err := a.Write([][]byte{make([]byte, 20)}, 0); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write: got %v, want %v", err, os.ErrClosed)
		}
		if _, open := <-a.Events(); open {
			if _, open := <-a.Events(); open {
				t.Error("Events is open")
			}
		}
	}()
	waitForGoroutines(t, before)
}

// waitForGoroutines waits until there are no more than want.
func waitForGoroutines(t testing.TB, want int) {
	t.Helper()
	deadline := time.Now().Add(within)
	for runtime.NumGoroutine() > want {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, want %d\n%s", runtime.NumGoroutine(), want, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

// FuzzWrite: no packet makes the stack panic or hang, whatever came before.
func FuzzWrite(f *testing.F) {
	a, err := New(Config{Addrs: []netip.Addr{a4, a6}, MTU: 1280})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { a.Close() })
	b, err := New(Config{Addrs: []netip.Addr{b4, b6}, MTU: 1280})
	if err != nil {
		f.Fatal(err)
	}
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	for _, to := range []string{"100.64.0.1:80", "[fd00::1]:80"} {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		c, _ := b.Dial(context.Background(), "udp", to)
		c.Write([]byte("seed"))
		if n, err := b.Read(bufs, sizes, 0); n == 1 && err == nil {
			f.Add(bytes.Clone(bufs[0][:sizes[0]]))
		}
		b.Dial(ctx, "tcp", to)
		b.Ping(ctx, netip.MustParseAddrPort(to).Addr())
		if n, err := b.Read(bufs, sizes, 0); n == 1 && err == nil {
			f.Add(bytes.Clone(bufs[0][:sizes[0]]))
		}
	}
	b.Close()
	f.Add([]byte{})
	f.Add([]byte{0x45})
	f.Add([]byte{0x60, 0, 0, 0, 0xff, 0xff})
	l, err := a.Listen("tcp", ":80")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, pkt []byte) {
		if _, err := a.Write([][]byte{bytes.Clone(pkt), bytes.Clone(pkt)}, 0); err != nil {
			t.Fatal(err)
		}
		a.Interrupt()
		if _, err := a.Read(bufs, sizes, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkTransfer(b *testing.B) {
	for _, mtu := range []int{1280, 9000} {
		b.Run(fmt.Sprintf("mtu=%d", mtu), func(b *testing.B) {
			x, y := pair(b, mtu, nil)
			l, err := y.Listen("tcp", ":80")
			if err != nil {
				b.Fatal(err)
			}
			got := make(chan int64)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
				got <- n
			}()
			c, err := x.Dial(withinContext(b), "tcp", "100.64.0.2:80")
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			b.ResetTimer()
			for range b.N {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			c.(*Conn).CloseWrite()
			if n := <-got; n != int64(b.N)*int64(len(buf)) {
				b.Errorf("got %d bytes, want %d", n, int64(b.N)*int64(len(buf)))
			}
			b.ReportMetric(float64(x.Dropped()+y.Dropped()), "drops")
		})
	}
}
