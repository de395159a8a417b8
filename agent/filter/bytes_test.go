package filter

import (
	"testing"

	"github.com/writmesh/writ/agent/packet/packettest"
)

// FuzzBytes gives the filter anything, both ways and twice: it does not panic,
// its table stays sound, and what nobody allowed does not pass.
func FuzzBytes(f *testing.F) {
	for _, b := range [][]byte{
		packettest.TCP(at4(alice4, 1), at4(ledger4, 443), syn, 1, 0),
		packettest.TCP(at4(ledger6, 1), at4(alice6, 443), syn, 1, 0),
		packettest.UDP(at4(bob4, 1), at4(ledger4, 53)),
		packettest.Ping(alice6, ledger6, 1),
		packettest.Unreachable(alice4, ledger4, packettest.UDP(at4(ledger4, 1), at4(alice4, 53))),
		packettest.Unreachable(ledger6, alice6, packettest.Ping(alice6, ledger6, 1)),
		fragmentsOf(at4(alice4, 1), at4(ledger4, 443), 1)[0],
		fragmentsOf(at4(alice6, 1), at4(ledger6, 443), 1)[1],
		packettest.Proto(alice4, ledger4, 47, 1, 2, 3),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		b := newBench(Config{MaxFlows: 4})
		b.Swap(Compile(rules(t, "web alice@example tcp/443"), b.now))
		if got := b.In(pkt); got.Action == Pass && b.Stats().Rules["web"] != 1 {
			t.Errorf("%x: %v, though no rule let it in", pkt, got)
		}
		b.Out(pkt)
		b.In(pkt)
		b.Swap(nil)
		for _, v := range []Verdict{b.In(pkt), b.Out(pkt)} {
			if v.Action == Pass {
				t.Errorf("%x: %v under no rules", pkt, v)
			}
		}
		checkTable(t, b.Filter)
	})
}
