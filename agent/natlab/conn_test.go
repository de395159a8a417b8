package natlab

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	addrX = netip.MustParseAddr("203.0.113.1")
	addrY = netip.MustParseAddr("203.0.113.2")
	six   = netip.MustParseAddr("2001:db8::1")
)

// two is a pair of hosts, x and y, on the Internet, with a socket on port 1000
// each. It runs in a bubble.
func two(t *testing.T, x, y Link) (n *Net, cx, cy *Conn) {
	t.Helper()
	n = New(1)
	t.Cleanup(n.Close)
	hx, hy := n.Host("x"), n.Host("y")
	hx.Attach(n.Internet(), x, addrX)
	hy.Attach(n.Internet(), y, addrY)
	return n, listen(t, hx, 1000), listen(t, hy, 1000)
}

func listen(t *testing.T, h *Host, port uint16) *Conn {
	t.Helper()
	c, err := h.ListenUDP(port)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c *Conn, text string, to netip.AddrPort) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil {
		t.Fatalf("write to %s: %v", to, err)
	}
}

// next reads one packet; "" if none comes within a minute.
func next(t *testing.T, c *Conn) (string, netip.AddrPort) {
	t.Helper()
	var b [2000]byte
	c.SetReadDeadline(time.Now().Add(time.Minute))
	n, from, err := c.ReadFromUDPAddrPort(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", from
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

func TestConnCarries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, x, y := two(t, Link{Delay: 30 * time.Millisecond}, Link{Delay: 20 * time.Millisecond})
		start := time.Now()
		payload := []byte("hello")
		if n, err := x.WriteTo(payload, &net.UDPAddr{IP: net.ParseIP("203.0.113.2"), Port: 1000}); n != 5 || err != nil {
			t.Fatalf("WriteTo: got %d, %v; want 5, nil", n, err)
		}
		payload[0] = 'J' // the packet is what it was when it was sent
		b := make([]byte, 3)
		n, from, err := y.ReadFrom(b)
		if n != 3 || err != nil || !bytes.Equal(b, []byte("hel")) {
			t.Errorf("ReadFrom: got %q, %v; want the three bytes that fit", b[:n], err)
		}
		if from.String() != "203.0.113.1:1000" {
			t.Errorf("got source %s, want 203.0.113.1:1000", from)
		}
		if got, want := time.Since(start), 50*time.Millisecond; got != want {
			t.Errorf("got there in %s, want %s: both links", got, want)
		}
		// An address mapped into IPv6 is the same address.
		send(t, y, "back", netip.AddrPortFrom(netip.AddrFrom16(addrX.As16()), 1000))
		if got, from := next(t, x); got != "back" || from != netip.AddrPortFrom(addrY, 1000) {
			t.Errorf("got %q from %s, want back from %s:1000", got, from, addrY)
		}
	})
}

func TestConnToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, x, _ := two(t, Link{}, Link{})
		send(t, x, "self", netip.AddrPortFrom(addrX, 1000))
		if got, from := next(t, x); got != "self" || from != netip.AddrPortFrom(addrX, 1000) {
			t.Errorf("got %q from %s, want what it sent itself", got, from)
		}
	})
}

func TestConnSendErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, _ := two(t, Link{MTU: 1280}, Link{})
		bound, err := x.host.ListenAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			from *Conn
			size int
			to   string
			want error
		}{
			{"largest", x, 1280 - 28, "203.0.113.2:1000", nil},
			{"over the MTU", x, 1280 - 27, "203.0.113.2:1000", syscall.EMSGSIZE},
			{"over everything", x, 70000, "203.0.113.2:1000", syscall.EMSGSIZE},
			{"no IPv6 here", x, 1, "[2001:db8::2]:1000", syscall.ENETUNREACH},
			{"IPv6 by an IPv4 socket", bound, 1, "[2001:db8::2]:1000", syscall.EAFNOSUPPORT},
			{"port 0", x, 1, "203.0.113.2:0", syscall.EINVAL},
			{"unspecified", x, 1, "0.0.0.0:1000", syscall.ENETUNREACH},
			{"multicast", x, 1, "224.0.0.1:1000", syscall.ENETUNREACH},
			{"loopback", x, 1, "127.0.0.1:1000", syscall.ENETUNREACH},
		} {
			_, err := c.from.WriteToUDPAddrPort(make([]byte, c.size), netip.MustParseAddrPort(c.to))
			if !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
		}
		if _, err := x.WriteToUDPAddrPort(nil, netip.AddrPort{}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("no address: got %v, want %v", err, syscall.EINVAL)
		}
		if _, err := x.WriteTo(nil, &net.TCPAddr{}); err == nil {
			t.Error("WriteTo a TCP address: got no error")
		}
		x.host.interfaces[0].SetUp(false)
		if _, err := x.WriteToUDPAddrPort(nil, netip.AddrPortFrom(addrY, 1000)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("interface down: got %v, want %v", err, syscall.ENETUNREACH)
		}
		n.Close()
		if _, err := x.WriteToUDPAddrPort(nil, netip.AddrPortFrom(addrY, 1000)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: got %v, want %v", err, net.ErrClosed)
		}
	})
}

func TestConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, x, y := two(t, Link{}, Link{})
		var b [10]byte
		isTimeout := func(what string, err error) {
			t.Helper()
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: got %v, want a timeout", what, err)
			}
		}
		start := time.Now()
		x.SetReadDeadline(start.Add(time.Second))
		_, _, err := x.ReadFromUDPAddrPort(b[:])
		isTimeout("read", err)
		if got := time.Since(start); got != time.Second {
			t.Errorf("read ended after %s, want 1s", got)
		}
		// It goes for packets that wait, too, until it is taken back.
		send(t, y, "a", netip.AddrPortFrom(addrX, 1000))
		time.Sleep(time.Second)
		_, _, err = x.ReadFromUDPAddrPort(b[:])
		isTimeout("read after the deadline", err)
		x.SetReadDeadline(time.Time{})
		if n, _, err := x.ReadFromUDPAddrPort(b[:]); n != 1 || err != nil {
			t.Errorf("read without a deadline: got %d, %v; want 1, nil", n, err)
		}
		// A read that waits already is ended by one that is set now.
		var reader sync.WaitGroup
		reader.Go(func() {
			_, _, err := x.ReadFromUDPAddrPort(b[:])
			isTimeout("read that waits", err)
		})
		synctest.Wait()
		x.SetDeadline(time.Now())
		reader.Wait()
		_, err = x.WriteToUDPAddrPort(nil, netip.AddrPortFrom(addrY, 1000))
		isTimeout("write", err)
	})
}

func TestConnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{}, Link{})
		x.SetReadDeadline(time.Now().Add(time.Hour)) // its timer ends with the socket
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				if _, _, err := x.ReadFromUDPAddrPort(nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read: got %v, want %v", err, net.ErrClosed)
				}
			})
		}
		synctest.Wait()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
		readers.Wait()
		for what, err := range map[string]error{
			"close again": x.Close(), "read deadline": x.SetReadDeadline(time.Time{}), "write deadline": x.SetWriteDeadline(time.Time{}),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: got %v, want %v", what, err, net.ErrClosed)
			}
		}
		send(t, y, "late", netip.AddrPortFrom(addrX, 1000))
		synctest.Wait()
		time.Sleep(time.Second)
		if got := n.Drops()[Drop{"x", NoSocket}]; got != 1 {
			t.Errorf("packets to the closed socket: got %d drops, want 1", got)
		}
		listen(t, x.host, 1000) // the port is free again
	})
}

func TestConnReceiveBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{}, Link{})
		const sent = 1000
		for range sent {
			send(t, x, "", netip.AddrPortFrom(addrY, 1000))
		}
		time.Sleep(time.Second)
		dropped := n.Dropped(BufferFull)
		if want := sent - receiveBuffer/perPacket; dropped != want {
			t.Errorf("got %d drops, want %d", dropped, want)
		}
		for range sent - dropped {
			y.SetReadDeadline(time.Now().Add(time.Second))
			if _, _, err := y.ReadFromUDPAddrPort(nil); err != nil {
				t.Fatal(err)
			}
		}
		send(t, x, "after", netip.AddrPortFrom(addrY, 1000))
		if got, _ := next(t, y); got != "after" {
			t.Errorf("after the buffer was read: got %q, want after", got)
		}
	})
}

func TestListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		h, peer := n.Host("h"), n.Host("peer")
		h.Attach(n.Internet(), Link{}, addrX, six)
		peer.Attach(n.Internet(), Link{}, addrY, six.Next())
		from := listen(t, peer, 0)
		conn := func(addr string, want error) *Conn {
			t.Helper()
			var local netip.AddrPort
			if addr != "" {
				local = netip.MustParseAddrPort(addr)
			}
			c, err := h.ListenAddrPort(local)
			if !errors.Is(err, want) {
				t.Errorf("listen on %q: got %v, want %v", addr, err, want)
			}
			return c
		}
		four := conn("0.0.0.0:53", nil)
		sixth := conn("[::]:53", nil)
		exact := conn("203.0.113.1:53", nil)
		conn("0.0.0.0:53", syscall.EADDRINUSE)
		conn("203.0.113.1:53", syscall.EADDRINUSE)
		conn("203.0.113.77:53", syscall.EADDRNOTAVAIL)
		if _, err := h.ListenUDP(53); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("both families: got %v, want %v", err, syscall.EADDRINUSE)
		}
		send(t, from, "exact", netip.MustParseAddrPort("203.0.113.1:53"))
		send(t, from, "six", netip.MustParseAddrPort("[2001:db8::1]:53"))
		for want, c := range map[string]*Conn{"exact": exact, "six": sixth, "": four} {
			if got, _ := next(t, c); got != want {
				t.Errorf("socket %s: got %q, want %q", c.LocalAddr(), got, want)
			}
		}
		ports := make(map[string]bool)
		for range 100 {
			ports[conn("", nil).LocalAddr().String()] = true
		}
		if len(ports) != 100 {
			t.Errorf("100 sockets without a port of their own have %d, want 100", len(ports))
		}
		n.Close()
		conn("", net.ErrClosed)
	})
}

// Any number of goroutines may use a socket, and the Net, at once; nothing is
// lost where nothing says so.
func TestConnConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, x, y := two(t, Link{Delay: time.Millisecond}, Link{Delay: time.Millisecond})
		const writers, each = 8, 50
		var writing, reading sync.WaitGroup
		got := make(chan byte, writers*each)
		for range 4 {
			reading.Go(func() {
				var b [10]byte
				for {
					if _, _, err := y.ReadFromUDPAddrPort(b[:]); err != nil {
						return
					}
					got <- b[0]
				}
			})
		}
		for i := range writers {
			writing.Go(func() {
				for range each {
					if _, err := x.WriteToUDPAddrPort([]byte{byte(i)}, netip.AddrPortFrom(addrY, 1000)); err != nil {
						t.Error(err)
					}
					n.Drops()
				}
			})
		}
		writing.Wait()
		time.Sleep(time.Second)
		y.Close()
		reading.Wait()
		close(got)
		counts := make(map[byte]int)
		for b := range got {
			counts[b]++
		}
		for i := range writers {
			if counts[byte(i)] != each {
				t.Errorf("of writer %d: got %d packets, want %d", i, counts[byte(i)], each)
			}
		}
	})
}
