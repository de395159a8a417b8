//go:build lab

package lab

import (
	"maps"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/agent/packet/packettest"
)

// A node that was admitted turns hostile: its keys drive a WireGuard that has no
// filter.
//
//	                  the Internet
//	      ┌───────────┬─────┴─────┬─────────────┐
//	 coordinator    relay       home          mallory (in accounting, without a filter)
//	                              │
//	                            ledger (tag:ledger)
//
// What it sends under a name that is not its own, to somebody else behind the
// ledger, or as part of a connection that there is not, is dropped and counted by
// the ledger. What the policy lets it do, it may.

const malloryMail = "mallory@acme.example"

func TestForgedPackets(t *testing.T) {
	for _, mode := range []mode{onInterface, inUserspace} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			testForgedPackets(t, mode)
		})
	}
}

func testForgedPackets(t *testing.T, mode mode) {
	l := New(t, "an admitted node forges packets, "+mode.name, "dropped and counted")
	m := l.NewMesh(accounting(aliceMail, malloryMail), Pin{"mallory", malloryMail})
	atLedger := NewHost(NewRouter(l.Inet(), "home", NAT{}), "ledger")
	atLedger.Echo()
	ledger := m.Up(atLedger, "tag:ledger", mode.ledger...)
	atAlice := NewHost(l.Inet(), "alice")
	alice := m.Up(atAlice, aliceMail, mode.alice...)
	m.Know(ledger, alice)
	mallory := m.Intrude(m.Pinned("mallory"), NewHost(l.Inet(), "mallory"), ledger)

	me, her, it := mallory.Address(), alice.Address(), ledger.Address()
	port := func(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }
	// allowed does what the policy allows, and so tells that everything sent before
	// has been judged: a tunnel keeps the order.
	id := uint16(0)
	allowed := func() {
		t.Helper()
		id++
		l.must(mallory.Send(packettest.Ping(me, it, id)))
		pong := packettest.Pong(it, me, id)
		l.must(mallory.Receive(func(p []byte) bool {
			return len(p) >= 28 && p[9] == unix.IPPROTO_ICMP && p[20] == 0 && string(p[24:26]) == string(pong[24:26])
		}))
	}
	allowed()
	for _, tt := range []struct {
		what   string
		pkt    []byte
		reason string // of the filter; none: WireGuard's own
	}{
		{"from alice's address", packettest.Ping(her, it, 7), ""},
		{"from an address that is nobody's", packettest.Ping(netip.MustParseAddr("192.0.2.1"), it, 7), ""},
		{"to alice's address", packettest.Ping(me, her, 7), "not ours"},
		{"to the ledger's LAN", packettest.Ping(me, atLedger.lanRouter().NAT.lan().Addr().Next(), 7), "not ours"},
		{"to the ledger's loopback", packettest.UDP(port(me, 1), netip.MustParseAddrPort("127.0.0.1:53")), "not ours"},
		{"an ACK without a flow, to a port that no rule opens", packettest.TCP(port(me, 5000), port(it, 22), packettest.ACK, 1, 1), "no grant"},
		{"a SYN to a port that no rule opens", packettest.TCP(port(me, 5000), port(it, 22), packettest.SYN, 1, 0), "no grant"},
	} {
		dropped, all := judged(ledger)
		l.must(mallory.Send(tt.pkt))
		allowed()
		droppedNow, allNow := judged(ledger)
		// The echo that is allowed is a packet each way.
		want := maps.Clone(dropped)
		wantAll := all + 2
		if tt.reason != "" {
			want[tt.reason]++
			wantAll++
		}
		if !maps.Equal(droppedNow, want) || allNow != wantAll {
			t.Errorf("%s: got %d packets judged and %v dropped, want %d and %v", tt.what, allNow, droppedNow, wantAll, want)
		}
	}
}

// judged are the packets that an agent's filter dropped, by reason, and how many
// it saw in all.
func judged(a *Agent) (dropped map[string]uint64, all uint64) {
	a.Host.l.t.Helper()
	s, err := a.Status(a.Host.l.t.Context(), -1)
	a.Host.l.must(err)
	dropped = map[string]uint64{}
	for reason, n := range s.Filter.Dropped {
		dropped[reason] = n
		all += n
	}
	for _, n := range s.Filter.Passed {
		all += n
	}
	return dropped, all
}
