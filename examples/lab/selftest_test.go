//go:build lab

package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/examples/lab/link"
)

// The instruments are tried before they are believed: the canary is found where
// it is in clear, a blocked path carries nothing, a line is as long as it says,
// and a firewall for IPv6 lets in answers alone.
//
//	             the Internet
//	    ┌─────────────┴───────────┐
//	  router (IPv6)            server
//	    │ LAN
//	  client

func TestCanaryIsFound(t *testing.T) {
	t.Parallel()
	l := New(t, "laboratory: canary", "found in clear, not otherwise")
	server, client := NewHost(l.Inet(), "server"), NewHost(NewRouter(l.Inet(), "router", NAT{}), "client")
	server.Echo()
	c := l.dial(client, server.V4)
	if _, err := io.WriteString(c, "nothing to see"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len("nothing to see"))); err != nil {
		t.Fatal(err)
	}
	if bare, _ := l.inet.tap.bare(); len(bare) != 0 {
		t.Errorf("got the canary in %v, and it was not sent", bare)
	}
	if err := l.Say(c, "in clear"); err != nil {
		t.Fatal(err)
	}
	limit := time.After(within)
	for {
		bare, changed := l.inet.tap.bare()
		if len(bare) > 0 {
			break
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("the canary crossed the Internet in clear and was not found")
		}
	}
	if got := l.inet.tap.Count(client.lanRouter().WAN, server.V4, unix.IPPROTO_TCP); got == 0 {
		t.Error("the capture counts no TCP from the router to the server")
	}
	// This once, what was found is no failure.
	for _, tap := range l.taps {
		tap.forgive()
	}
}

func TestBlock(t *testing.T) {
	t.Parallel()
	l := New(t, "laboratory: a path blocked, and back", "cut, then open")
	server, client := NewHost(l.Inet(), "server"), NewHost(NewRouter(l.Inet(), "router", NAT{}), "client")
	second := netip.MustParseAddr("203.0.113.200")
	server.AddAddress(second)
	server.Echo()
	newObserver(l, server, server.V4, second)
	p := newProbe(l, client)
	at := netip.AddrPortFrom(server.V4, 3478)
	outside, ok := p.ask(at, 0)
	if !ok || outside.Addr() != client.lanRouter().WAN {
		t.Fatalf("before: got an answer %t, seen as %s; want one, as %s", ok, outside, client.lanRouter().WAN)
	}
	l.Inet().Block("udp", client.lanRouter().WAN, server.V4)
	if _, ok := p.ask(at, 0); ok {
		t.Error("blocked: got an answer")
	}
	l.dial(client, server.V4) // TCP is not blocked
	l.Inet().Unblock()
	if _, ok := p.ask(at, 0); !ok {
		t.Error("unblocked: got no answer")
	}
}

// A line with a delay has it, both ways, and what is lost is the share that the
// shape says.
func TestLine(t *testing.T) {
	t.Parallel()
	l := New(t, "laboratory: a line of 40 ms that loses 10 %", "as it says")
	client := NewHost(l.Inet(), "client")
	server := NewHost(l.Inet(), "server", link.Shape{Delay: 40 * time.Millisecond, Loss: 0.1, Seed: 1})
	s, err := server.ListenUDP(netip.AddrPortFrom(server.V4, 9))
	l.must(err)
	l.cleanup(s)
	c, err := client.ListenUDP(netip.AddrPortFrom(client.V4, 0))
	l.must(err)
	l.cleanup(c)
	const n = 400
	go func() {
		buf := make([]byte, 8)
		for {
			n, from, err := s.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			s.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	sent := map[byte]time.Time{}
	shortest, answers := time.Hour, 0
	for i := range n {
		sent[byte(i)] = time.Now()
		if _, err := c.WriteToUDPAddrPort([]byte{byte(i)}, netip.AddrPortFrom(server.V4, 9)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		// A lost datagram is one whose successor's turn has come.
		l.must(c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)))
		if i == n-1 {
			l.must(c.SetReadDeadline(time.Now().Add(time.Second)))
		}
		for {
			if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
				break
			}
			shortest, answers = min(shortest, time.Since(sent[buf[0]])), answers+1
		}
	}
	there, back := l.wires[0].Counts()
	l.Got("%s, %d of %d answered", shortest.Round(time.Millisecond), answers, n)
	if shortest < 80*time.Millisecond {
		t.Errorf("round trip: got %s, want 80 ms at least", shortest)
	}
	// 81 % of 400 are 324; five standard deviations are 39.
	if answers < 285 || answers > 363 {
		t.Errorf("answers: got %d of %d, want some 324; counts %+v and %+v", answers, n, there, back)
	}
}

func TestIPv6Firewall(t *testing.T) {
	t.Parallel()
	l := New(t, "laboratory: IPv6 behind a firewall", "out, not in")
	server, client := NewHost(l.Inet(), "server"), NewHost(NewRouter(l.Inet(), "router", NAT{IPv6: true}), "client")
	server.Echo()
	client.Echo()
	c := l.dial(client, server.V6)
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != client.V6 {
		t.Errorf("the client's address: got %s, want its own, %s", got, client.V6)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := server.Dial(ctx, "tcp", netip.AddrPortFrom(client.V6, echoPort).String()); err == nil {
		t.Error("the server connects to the client through the firewall")
	}
	if rules, err := client.lanRouter().run("", "nft", "list", "chain", "inet", "router", "forward"); err != nil || strings.Contains(rules, `counter packets 0 bytes 0 drop comment "unsolicited"`) {
		t.Errorf("the firewall counts nothing unsolicited: %v\n%s", err, rules)
	}
}

// dial connects to a host's echo server, without any mesh.
func (l *Lab) dial(from *Host, to netip.Addr) net.Conn {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	port := uint16(echoPort)
	c, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(to, port).String())
	l.must(err)
	l.cleanup(c)
	return c
}
