//go:build lab

package lab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// A neighbour on the LAN, who is no node, writes a peer's mesh address on its
// packets and sends them to a node's mesh address, by the node's LAN address. The
// kernel alone would take them: it accepts its addresses on every interface.
//
//	  the Internet ─── coordinator, relay, ledger
//	       │
//	     home
//	  ┌────┴────┐
//	alice      eve
func TestSpoofedOnTheLAN(t *testing.T) {
	t.Parallel()
	l := New(t, "a neighbour on the LAN sends under a peer's address", "dropped, both ways")
	m := l.NewMesh(accounting(aliceMail))
	home := NewRouter(l.Inet(), "home", NAT{})
	atAlice, eve := NewHost(home, "alice"), NewHost(home, "eve")
	ledger, alice := m.Up(NewHost(l.Inet(), "ledger"), "tag:ledger"), m.Up(atAlice, aliceMail)
	m.Know(alice, ledger)
	her, it := alice.Address(), ledger.Address()
	l.must(eve.IP(fmt.Sprintf("addr add %s/32 dev eth0", it), fmt.Sprintf("route add %s via %s", her, atAlice.V4)))

	heard, err := atAlice.ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), 9999))
	l.must(err)
	l.cleanup(heard)
	send := func(from, to netip.Addr, what string) {
		t.Helper()
		c, err := eve.ListenUDP(netip.AddrPortFrom(from, 0))
		l.must(err)
		_, err = c.WriteToUDPAddrPort([]byte(what), netip.AddrPortFrom(to, 9999))
		l.must(err)
		c.Close()
	}
	for range retries { // the first waits for the link address
		send(it, her, "as the ledger")
		send(eve.V4, her, "as herself, to the mesh address")
		send(it, atAlice.V4, "as the ledger, to the LAN address")
		send(eve.V4, atAlice.V4, "as herself")
	}
	l.must(heard.SetReadDeadline(time.Now().Add(within)))
	buf := make([]byte, 100)
	for range retries {
		n, from, err := heard.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if string(buf[:n]) != "as herself" {
			t.Errorf("got %q from %s, want only what eve sends as herself to the LAN address", buf[:n], from)
		}
	}
}
