package relaytest_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/relay/relaytest"
	"github.com/writmesh/writ/relay/stun"
)

func TestSTUN(t *testing.T) {
	one, two := relaytest.NewSTUN(t), relaytest.NewSTUN(t, netip.MustParseAddr("127.0.0.2"))
	if two.Addr().Addr() != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("the second answers at %v, want 127.0.0.2", two.Addr())
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 600)
	for i, s := range []*relaytest.STUN{one, two} {
		if _, err := c.WriteToUDPAddrPort(stun.Request([stun.TxSize]byte{byte(i)}), s.Addr()); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		tx, addr, err := stun.ParseResponse(b[:n])
		if want := c.LocalAddr().(*net.UDPAddr).AddrPort(); err != nil || tx[0] != byte(i) || addr.String() != want.String() || from != s.Addr() {
			t.Errorf("%v answers %v to %d, %v, from %v; want %v to %d", s.Addr(), addr, tx[0], err, from, want, i)
		}
	}
	one.Stop()
	if pc, err := net.ListenPacket("udp4", one.Addr().String()); err != nil {
		t.Errorf("after Stop: %v, want the port to be free", err)
	} else {
		pc.Close()
	}
}
