package relaytest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/writmesh/writ/relay/stun"
)

// A STUN is a STUN server as a relay runs one, under a test's control.
type STUN struct {
	addr netip.AddrPort
	stop func()
}

// NewSTUN starts a STUN server on a free UDP port of the given address, which is
// 127.0.0.1 if none is. A relay with two ports is two of these.
func NewSTUN(t testing.TB, host ...netip.Addr) *STUN {
	t.Helper()
	ip, network := netip.AddrFrom4([4]byte{127, 0, 0, 1}), "udp6"
	if len(host) > 0 {
		ip = host[0]
	}
	if ip.Is4() {
		network = "udp4"
	}
	// A test is one source; the limits have tests of their own.
	s, err := stun.New(stun.Config{
		Log:        slog.New(slog.NewTextHandler(t.Output(), nil)),
		SourceRate: 1e6, SourceBurst: 1e6, Rate: 1e6, Burst: 1e6,
	})
	if err != nil {
		t.Fatalf("relaytest: %v", err)
	}
	c, err := stun.Listen(t.Context(), network, netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		t.Fatalf("relaytest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Serve(ctx, c); err != nil {
			t.Errorf("relaytest: %v", err)
		}
	}()
	stop := func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return &STUN{c.LocalAddr().(*net.UDPAddr).AddrPort(), stop}
}

// Addr is where the server answers.
func (s *STUN) Addr() netip.AddrPort { return s.addr }

// Stop ends the server: requests get no answer from here on.
func (s *STUN) Stop() { s.stop() }
