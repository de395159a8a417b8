package filter

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/writmesh/writ/agent/packet/packettest"
)

// A kernel speaks to a network interface as if there were a link behind it. None
// of it leaves, each has a reason of its own, and nothing answers it: not even a
// person would want to know.
func TestWhatAKernelSaysToALink(t *testing.T) {
	var (
		none4    = netip.MustParseAddr("0.0.0.0")
		none6    = netip.IPv6Unspecified()
		link4    = netip.MustParseAddr("169.254.7.7")
		link6    = netip.MustParseAddr("fe80::1234")
		everyone = netip.MustParseAddr("255.255.255.255")
		routers  = netip.MustParseAddr("ff02::2")
		reports4 = netip.MustParseAddr("224.0.0.22")
		reports6 = netip.MustParseAddr("ff02::16")
		lan      = netip.MustParseAddr("192.168.1.20")
	)
	// Both carry a router alert, in an option and in a header of its own.
	igmp := packettest.IP(packettest.Header{Src: ledger4, Dst: reports4, Proto: 2, Options: []byte{0x94, 4, 0, 0}}, []byte{0x22, 0, 0xf9, 2, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251})
	mld := func(src netip.Addr) []byte {
		report := packettest.ICMP(src, reports6, 143, 0, 1, slices.Concat([]byte{4, 0, 0, 0}, netip.MustParseAddr("ff02::fb").AsSlice())...)
		return packettest.IP(packettest.Header{Src: src, Dst: reports6, Proto: 0}, slices.Concat([]byte{58, 0, 5, 2, 0, 0, 1, 0}, report[40:]))
	}
	rows := []struct {
		name string
		row
	}{
		{"router solicitation", row{Out, packettest.ICMP(link6, routers, 133, 0, 0), Neighbour}},
		{"duplicate address detection", row{Out, packettest.ICMP(none6, netip.MustParseAddr("ff02::1:ff00:1"), 135, 0, 0, ledger6.AsSlice()...), Neighbour}},
		{"unreachability detection", row{Out, packettest.ICMP(ledger6, alice6, 135, 0, 0, alice6.AsSlice()...), Neighbour}},
		{"neighbour advertisement", row{Out, packettest.ICMP(ledger6, alice6, 136, 0, 0, ledger6.AsSlice()...), Neighbour}},
		{"multicast listener report", row{Out, mld(link6), Multicast}},
		{"multicast listener report without an address", row{Out, mld(none6), Multicast}},
		{"IGMP report", row{Out, igmp, Multicast}},
		{"mDNS", row{Out, packettest.UDP(at4(ledger4, 5353), at4(netip.MustParseAddr("224.0.0.251"), 5353)), Multicast}},
		{"mDNS of IPv6", row{Out, packettest.UDP(at4(link6, 5353), at4(netip.MustParseAddr("ff02::fb"), 5353)), Multicast}},
		{"SSDP", row{Out, packettest.UDP(at4(ledger4, 1900), at4(netip.MustParseAddr("239.255.255.250"), 1900)), Multicast}},
		{"DHCP", row{Out, packettest.UDP(at4(none4, 68), at4(everyone, 67)), Multicast}},
		{"broadcast", row{Out, packettest.UDP(at4(ledger4, 9), at4(everyone, 9)), Multicast}},
		{"a ping to all", row{Out, packettest.Ping(ledger6, netip.MustParseAddr("ff02::1"), 1), Multicast}},
		{"link-local unicast", row{Out, packettest.UDP(at4(link6, 1), at4(netip.MustParseAddr("fe80::9"), 1)), NotOurs}},
		{"an address of another interface", row{Out, segment(at4(lan, 1), at4(alice4, 443), syn), NotOurs}},
		{"a packet that the kernel forwards", row{Out, packettest.UDP(at4(lan, 1), at4(alice4, 53)), NotOurs}},
		{"an automatic address", row{Out, packettest.UDP(at4(link4, 1), at4(alice4, 53)), NotOurs}},
		{"a peer's address", row{Out, packettest.UDP(at4(bob4, 1), at4(alice4, 53)), NotOurs}},
		{"router advertisement of a peer", row{In, packettest.ICMP(alice6, ledger6, 134, 0, 0, make([]byte, 8)...), Neighbour}},
		{"neighbour advertisement of a peer", row{In, packettest.ICMP(alice6, ledger6, 136, 0, 0, bob6.AsSlice()...), Neighbour}},
		{"mDNS of a peer", row{In, packettest.UDP(at4(alice4, 5353), at4(netip.MustParseAddr("224.0.0.251"), 5353)), Multicast}},
		{"broadcast of a peer", row{In, packettest.UDP(at4(alice4, 9), at4(everyone, 9)), Multicast}},
	}
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "all * *"), b.now))
	var want [2][Reasons]uint64
	for _, r := range rows {
		if got := b.judge(r.row); got.Action != Drop || got.Reason != r.want {
			t.Errorf("%s: got %v, want drop: %v", r.name, got, r.want)
		}
		if s := b.take(); len(s) != 0 {
			t.Errorf("%s: answered with %x, want silence", r.name, s[0].b)
		}
		want[r.dir][r.want]++
	}
	if got := b.Stats(); got.Packets != want || got.Flows != 0 {
		t.Errorf("counted %v with %d flows, want %v with none", got.Packets, got.Flows, want)
	}
}

// How long a packet may be is between the kernel, which has the interface's MTU,
// and the tunnel; the filter judges whatever a length field can say.
func TestLengthIsNotTheFiltersQuestion(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "dns alice@example udp/53"), b.now))
	for _, n := range []int{0, 1252, 1253, 9000, 65535 - 28} {
		check(t, b, []row{
			{In, packettest.UDP(at4(alice4, uint16(n)), at4(ledger4, 53), make([]byte, n)...), Granted},
			{Out, packettest.UDP(at4(ledger4, 53), at4(alice4, uint16(n)), make([]byte, n)...), Known},
		})
	}
}
