package filter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet/packettest"
)

// fragmentsOf is a datagram in fragments of 48 bytes of data.
func fragmentsOf(src, dst netip.AddrPort, id uint32) [][]byte {
	return packettest.Fragments(packettest.UDP(src, dst, make([]byte, 130)...), id, 48)
}

func TestFragments(t *testing.T) {
	for _, self := range []netip.Addr{ledger4, ledger6} {
		alice := alice4
		if self == ledger6 {
			alice = alice6
		}
		b := newBench(Config{})
		b.Swap(Compile(rules(t, "dns alice@example udp/53"), b.now))
		allowed := fragmentsOf(at4(alice, 1), at4(self, 53), 7)
		refused := fragmentsOf(at4(alice, 1), at4(self, 54), 8)
		check(t, b, []row{
			{In, allowed[1], UnknownFragment}, // before its first
			{In, allowed[0], Granted},
			{In, allowed[1], LaterFragment},
			{In, allowed[2], LaterFragment},
			{Out, allowed[1], UnknownFragment},
			{In, refused[0], NoGrant},
			{In, refused[1], UnknownFragment},
		})
		// A later fragment that reaches into the first ends the packet.
		overlap := packettest.Fragments(packettest.UDP(at4(alice, 1), at4(self, 53), make([]byte, 130)...), 7, 40)
		check(t, b, []row{
			{In, overlap[1], OverlapFragment},
			{In, allowed[2], UnknownFragment},
			{In, allowed[0], Known},
			{In, allowed[2], LaterFragment},
		})
		b.now = b.now.Add(31 * time.Second)
		check(t, b, []row{
			{In, allowed[2], UnknownFragment},
			{In, allowed[0], Known},
		})
		b.Swap(Compile(rules(t), b.now))
		check(t, b, []row{
			{In, allowed[2], FlowCut},
			{In, allowed[0], FlowCut},
		})
	}
}

// The same two nodes may number their packets alike: what passed one way opens
// nothing the other way.
func TestFragmentsOfTheOtherDirection(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "dns alice@example udp/53"), b.now))
	for id := range uint32(1500) { // enough for some to share a set
		check(t, b, []row{
			{In, fragmentsOf(at4(alice6, 1), at4(ledger6, 53), id)[0], []Reason{Granted, Known}[min(id, 1)]},
			{Out, fragmentsOf(at4(ledger6, 53), at4(alice6, 1), id)[1], UnknownFragment},
		})
	}
}
