package filter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
)

func TestRefusedPacketsAreAnswered(t *testing.T) {
	l := at4(ledger4, 80)
	for _, tt := range []struct {
		name string
		row  row
		want string // direction and what is sent, "" for nothing
	}{
		{"SYN of a peer", row{In, segment(at4(bob4, 1), l, syn), NoGrant}, "out tcp RST|ACK"},
		{"segment of a peer", row{In, segment(at4(bob4, 1), l, ack), NoGrant}, "out tcp RST"},
		{"datagram of a peer", row{In, packettest.UDP(at4(bob4, 1), l), NoGrant}, "out icmp4 3/13"},
		{"datagram of a peer in IPv6", row{In, packettest.UDP(at4(bob6, 1), at4(ledger6, 1)), NoGrant}, "out icmp6 1/1"},
		{"ping of a peer", row{In, packettest.Ping(bob4, ledger4, 1), NoGrant}, "out icmp4 3/13"},
		{"reset of a peer", row{In, segment(at4(bob4, 1), l, rst), NoGrant}, ""},
		{"error of a peer", row{In, packettest.Unreachable(bob4, ledger4, packettest.UDP(l, at4(bob4, 1))), NoFlow}, ""},
		{"pong of a peer", row{In, packettest.Pong(bob4, ledger4, 1), NoGrant}, ""},
		{"SYN of a stranger", row{In, segment(at4(netip.MustParseAddr("100.64.9.9"), 1), l, syn), NotAPeer}, ""},
		{"SYN for a stranger", row{In, segment(at4(bob4, 1), at4(netip.MustParseAddr("100.64.9.9"), 1), syn), NotOurs}, ""},
		{"SYN to nobody", row{Out, segment(l, at4(netip.MustParseAddr("100.64.9.9"), 1), syn), NotAPeer}, "in tcp RST|ACK"},
		{"datagram to nobody", row{Out, packettest.UDP(l, at4(netip.MustParseAddr("100.64.9.9"), 1)), NotAPeer}, "in icmp4 3/13"},
		{"datagram to many", row{Out, packettest.UDP(l, at4(netip.MustParseAddr("224.0.0.1"), 1)), Multicast}, ""},
		{"segment of no flow", row{Out, segment(l, at4(bob4, 1), ack), NoFlow}, "in tcp RST"},
		{"datagram of a false source", row{Out, packettest.UDP(at4(bob4, 1), at4(alice4, 1)), NotOurs}, ""},
	} {
		for _, silent := range []bool{false, true} {
			b := newBench(Config{Silent: silent})
			b.Swap(Compile(rules(t), b.now))
			check(t, b, []row{tt.row})
			var got []string
			for _, s := range b.take() {
				var p, q packet.Packet
				q.Parse(tt.row.pkt)
				if r := p.Parse(s.b); r != packet.Whole || p.Src != q.Dst || p.Dst != q.Src {
					t.Errorf("%s: sent %x: %v from %v to %v", tt.name, s.b, r, p.Src, p.Dst)
				}
				what := fmt.Sprintf("%v %v ", s.dir, p.Proto)
				switch {
				case p.Proto != acl.TCP:
					what += fmt.Sprintf("%d/%d", p.Type, p.Code)
				case p.Flags.Has(packet.ACK):
					what += "RST|ACK"
				default:
					what += "RST"
				}
				got = append(got, what)
			}
			want := tt.want
			if silent {
				want = ""
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s, silent %v: sent %q, want %q", tt.name, silent, got, want)
			}
		}
	}
}

func TestAnswersAreLimited(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t), b.now))
	flood := func(peer netip.Addr, n int) int {
		for i := range n {
			b.In(segment(at4(peer, uint16(i)), at4(ledger4, 80), syn))
		}
		return len(b.take())
	}
	if got := flood(bob4, 500); got != answerBurst {
		t.Errorf("answers to a burst: %d, want %d", got, answerBurst)
	}
	if got := flood(alice4, 1); got != 1 {
		t.Errorf("answers to another peer: %d, want 1", got)
	}
	b.now = b.now.Add(time.Second / 2)
	if got := flood(bob4, 500); got != 32 {
		t.Errorf("answers after half a second: %d, want 32", got)
	}
	b.now = b.now.Add(-time.Hour) // the clock is set back
	flood(bob4, 1)
	if got := flood(bob4, 1); got != 1 {
		t.Errorf("answers after the clock went back: %d, want 1", got)
	}
}
