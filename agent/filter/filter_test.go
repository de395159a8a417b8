package filter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// A bench is a filter on a clock, and what it sent.
type bench struct {
	*Filter
	now  time.Time
	sent []sentPacket
}

type sentPacket struct {
	dir Direction
	b   []byte
}

func newBench(c Config) *bench {
	b := &bench{now: epoch}
	c.Clock = func() time.Time { return b.now }
	c.ClockEvery = -1
	c.Reset = func(dir Direction, pkt []byte) { b.sent = append(b.sent, sentPacket{dir, append([]byte(nil), pkt...)}) }
	b.Filter = New(c)
	return b
}

// take is what was sent since the last call.
func (b *bench) take() []sentPacket {
	s := b.sent
	b.sent = nil
	return s
}

// rules reads a policy of one line a rule: "NAME FROM ALLOW[,ALLOW]" for all
// that is tag:accounting.
func rules(t testing.TB, lines ...string) Rules {
	t.Helper()
	user := func(name string) *acl.User {
		return &acl.User{Issuer: "https://login.example", Subject: name, Email: name + "@example"}
	}
	r := Rules{
		Self:      &acl.Subject{ID: key.NodeID{1}, Name: "ledger", Tags: []string{"accounting"}},
		Addresses: []netip.Addr{ledger4, ledger6},
		Peers: []Peer{
			{&acl.Subject{ID: key.NodeID{2}, Name: "alice", User: user("alice")}, []netip.Addr{alice4, alice6}},
			{&acl.Subject{ID: key.NodeID{3}, Name: "bob", User: user("bob")}, []netip.Addr{bob4, bob6}},
		},
	}
	in := acl.Inbound{To: acl.Selector{Kind: acl.KindTag, Name: "accounting"}}
	for _, line := range lines {
		f := strings.Fields(line)
		from, err := acl.ParseSelector(f[1])
		if err != nil {
			t.Fatal(err)
		}
		g := acl.Grant{Rule: f[0], From: []acl.Selector{from}}
		for _, p := range strings.Split(f[2], ",") {
			ports, err := acl.ParsePorts(p)
			if err != nil {
				t.Fatal(err)
			}
			g.Allow = append(g.Allow, ports)
		}
		if len(f) > 3 {
			d, err := time.ParseDuration(f[3])
			if err != nil {
				t.Fatal(err)
			}
			g.Until = epoch.Add(d)
		}
		in.Grants = append(in.Grants, g)
	}
	r.Inbound = []acl.Inbound{in}
	return r
}

var (
	ledger4 = netip.MustParseAddr("100.64.0.1")
	alice4  = netip.MustParseAddr("100.64.0.2")
	bob4    = netip.MustParseAddr("100.64.0.3")
	ledger6 = netip.MustParseAddr("fd7a::1")
	alice6  = netip.MustParseAddr("fd7a::2")
	bob6    = netip.MustParseAddr("fd7a::3")
)

func at4(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// segment is a TCP segment without data.
func segment(src, dst netip.AddrPort, flags byte) []byte {
	return packettest.TCP(src, dst, flags, 100, 100)
}

const (
	syn    = packettest.SYN
	ack    = packettest.ACK
	synAck = packettest.SYN | packettest.ACK
	finAck = packettest.FIN | packettest.ACK
	rst    = packettest.RST
)

// A row is a packet and what happens to it; rows of a table share one filter.
type row struct {
	dir  Direction
	pkt  []byte
	want Reason
}

func (b *bench) judge(r row) Verdict {
	if r.dir == In {
		return b.In(r.pkt)
	}
	return b.Out(r.pkt)
}

func check(t *testing.T, b *bench, rows []row) {
	t.Helper()
	for i, r := range rows {
		want := Verdict{r.want.Action(), r.want}
		if got := b.judge(r); got != want {
			t.Errorf("row %d (%v): got %v, want %v", i, r.dir, got, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	l, a, bo := at4(ledger4, 443), at4(alice4, 40000), at4(bob4, 40000)
	l6, a6 := at4(ledger6, 443), at4(alice6, 40000)
	for _, tt := range []struct {
		name  string
		rules []string
		rows  []row
	}{
		{"no rules, no access", nil, []row{
			{In, segment(a, l, syn), NoGrant},
			{In, packettest.UDP(a, l), NoGrant},
			{In, packettest.Ping(alice4, ledger4, 1), NoGrant},
			{In, packettest.Proto(alice4, ledger4, 47), NoGrant},
		}},
		{"a port opens itself and nothing else", []string{"web alice@example tcp/443"}, []row{
			{In, segment(a, l, syn), Granted},
			{Out, segment(l, a, synAck), Known},
			{In, segment(a, l, ack), Known},
			{In, segment(at4(alice4, 40001), at4(ledger4, 444), syn), NoGrant},
			{In, packettest.UDP(a, l), NoGrant},
			{In, packettest.Ping(alice4, ledger4, 1), NoGrant},
			{In, segment(bo, l, syn), NoGrant},
		}},
		{"the same in IPv6", []string{"web alice@example tcp/443"}, []row{
			{In, segment(a6, l6, syn), Granted},
			{Out, segment(l6, a6, synAck), Known},
			{In, segment(a6, at4(ledger6, 444), syn), NoGrant},
			{In, segment(at4(bob6, 1), l6, syn), NoGrant},
		}},
		{"a segment without a flow is judged, not taken for established", []string{"web alice@example tcp/443"}, []row{
			{In, segment(bo, l, ack), NoGrant},
			{In, segment(bo, l, synAck), NoGrant},
			{In, segment(bo, l, finAck), NoGrant},
			{In, segment(bo, l, rst), NoGrant},
			{In, segment(a, l, ack), Granted}, // the agent restarted
			{In, segment(a, l, ack), Known},
		}},
		{"out of this node only SYN begins a connection", []string{"web alice@example tcp/443"}, []row{
			{Out, segment(at4(ledger4, 5000), bo, ack), NoFlow},
			{In, segment(bo, at4(ledger4, 5000), ack), NoGrant},
			{Out, segment(at4(ledger4, 5000), bo, syn), Begun},
			{In, segment(bo, at4(ledger4, 5000), synAck), Known},
			{Out, segment(l, a, ack), Granted}, // the answer to a flow that alice may begin
			{In, segment(a, l, ack), Known},
		}},
		{"a peer cannot begin a connection under one that this node began", nil, []row{
			{Out, segment(l, bo, syn), Begun},
			{In, segment(bo, l, syn), NoGrant},
			{In, segment(bo, l, synAck), Known},
			{In, segment(bo, l, syn), NoGrant},
			{Out, segment(l, bo, ack), Known},
		}},
		{"answers need no grant", nil, []row{
			{Out, packettest.UDP(at4(ledger4, 5000), at4(bob4, 53)), Begun},
			{In, packettest.UDP(at4(bob4, 53), at4(ledger4, 5000)), Known},
			{In, packettest.UDP(at4(bob4, 53), at4(ledger4, 5001)), NoGrant},
			{Out, packettest.Ping(ledger4, bob4, 9), Begun},
			{In, packettest.Pong(bob4, ledger4, 9), Known},
			{In, packettest.Pong(bob4, ledger4, 8), NoGrant},
			{In, packettest.Ping(bob4, ledger4, 9), NoGrant},
			{Out, packettest.Proto(ledger4, bob4, 47), Begun},
			{In, packettest.Proto(bob4, ledger4, 47), Known},
			{In, packettest.Proto(bob4, ledger4, 50), NoGrant},
		}},
		{"icmp is ping, of both families", []string{"ping alice@example icmp"}, []row{
			{In, packettest.Ping(alice4, ledger4, 1), Granted},
			{Out, packettest.Pong(ledger4, alice4, 1), Known},
			{In, packettest.Ping(alice6, ledger6, 1), Granted},
			{Out, packettest.Pong(ledger6, alice6, 1), Known},
			{In, packettest.ICMP(alice4, ledger4, 13, 0, 0), NoGrant},  // timestamp
			{In, packettest.ICMP(alice6, ledger6, 130, 0, 0), NoGrant}, // multicast listener query
			{In, packettest.Pong(alice4, ledger4, 2), NoGrant},
			{In, segment(a, l, syn), NoGrant},
			{Out, packettest.Ping(ledger4, alice4, 1), Begun}, // the same identifier, another flow
		}},
		{"everything is everything but redirects and neighbour discovery", []string{"all alice@example *"}, []row{
			{In, packettest.Proto(alice4, ledger4, 89), Granted},
			{In, packettest.SCTP(a, l), Granted},
			{In, packettest.ICMP(alice4, ledger4, 13, 0, 0), Granted},
			{In, packettest.ICMP(alice4, ledger4, 5, 0, 0, packettest.UDP(l, a)...), Redirect},
			{In, packettest.ICMP(alice6, ledger6, 137, 0, 0, make([]byte, 32)...), Redirect},
			{In, packettest.ICMP(alice6, ledger6, 132, 0, 0), Granted},
			{In, packettest.ICMP(alice6, ledger6, 133, 0, 0), Neighbour},  // router solicitation
			{In, packettest.ICMP(alice6, ledger6, 134, 0, 0), Neighbour},  // router advertisement
			{In, packettest.ICMP(alice6, ledger6, 135, 0, 0), Neighbour},  // neighbour solicitation
			{Out, packettest.ICMP(ledger6, alice6, 136, 0, 0), Neighbour}, // neighbour advertisement
			{In, packettest.ICMP(alice4, ledger4, 135, 0, 0), Granted},    // nothing of the kind in IPv4
			{Out, packettest.ICMP(ledger4, alice4, 5, 0, 0, packettest.UDP(a, l)...), Redirect},
		}},
		{"TCP flags that no host sends", []string{"all alice@example *"}, []row{
			{In, segment(a, l, 0), BadFlags},
			{In, segment(a, l, syn|packettest.FIN), BadFlags},
			{In, segment(a, l, syn|rst), BadFlags},
			{In, segment(a, l, packettest.FIN|packettest.PSH|32), BadFlags},
			{Out, segment(l, a, 0), BadFlags},
		}},
		{"the source is the peer's and the destination ours", []string{"all * *"}, []row{
			{In, segment(at4(netip.MustParseAddr("100.64.0.9"), 1), l, syn), NotAPeer},
			{In, segment(at4(netip.MustParseAddr("192.168.0.1"), 1), l, syn), NotAPeer},
			{In, segment(at4(netip.MustParseAddr("127.0.0.1"), 1), l, syn), NotAPeer},
			{In, segment(at4(netip.MustParseAddr("224.0.0.1"), 1), l, syn), NotAPeer},
			{In, segment(at4(netip.MustParseAddr("fe80::1"), 1), l6, syn), NotAPeer},
			{In, segment(l, l, syn), NotAPeer},
			{In, packettest.UDP(a, at4(netip.MustParseAddr("100.64.0.9"), 1)), NotOurs},
			{In, packettest.UDP(a, bo), NotOurs},
			{In, packettest.UDP(a, at4(netip.MustParseAddr("255.255.255.255"), 1)), Multicast},
			{In, packettest.UDP(a6, at4(netip.MustParseAddr("ff02::1"), 1)), Multicast},
			{In, append(packettest.UDP(a, l), 0), Malformed},
			{In, nil, Malformed},
		}},
		{"out of this node: from its address, to a peer's", nil, []row{
			{Out, packettest.UDP(at4(netip.MustParseAddr("192.168.0.1"), 1), a), NotOurs},
			{Out, packettest.UDP(a, bo), NotOurs},
			{Out, packettest.UDP(l, at4(netip.MustParseAddr("100.64.0.9"), 1)), NotAPeer},
			{Out, packettest.UDP(l, at4(netip.MustParseAddr("10.0.0.1"), 1)), NotAPeer},
			{Out, packettest.UDP(l, at4(netip.MustParseAddr("224.0.0.251"), 5353)), Multicast},
			{Out, packettest.UDP(l, l), NotAPeer},
		}},
		{"errors pass for a live flow with their sender", []string{"dns alice@example udp/53"}, []row{
			{Out, packettest.UDP(at4(ledger4, 5000), at4(bob4, 53)), Begun},
			{In, packettest.Unreachable(bob4, ledger4, packettest.UDP(at4(ledger4, 5000), at4(bob4, 53))), FlowError},
			{In, packettest.Unreachable(bob4, ledger4, packettest.UDP(at4(ledger4, 5001), at4(bob4, 53))), NoFlow},
			{In, packettest.Unreachable(bob4, ledger4, packettest.UDP(at4(bob4, 53), at4(ledger4, 5000))), NoFlow},       // quotes the wrong direction
			{In, packettest.Unreachable(alice4, ledger4, packettest.UDP(at4(ledger4, 5000), at4(bob4, 53))), NoFlow},     // about another peer
			{In, packettest.Unreachable(bob4, ledger4, packettest.Unreachable(ledger4, bob4, make([]byte, 28))), NoFlow}, // about an error
			{In, packettest.Unreachable(bob4, ledger4, make([]byte, 28)), NoFlow},
			{In, packettest.ICMP(bob4, ledger4, 3, 3, 0), NoFlow},
			{In, packettest.UDP(at4(alice6, 7), at4(ledger6, 53)), Granted},
			{Out, packettest.Unreachable(ledger6, alice6, packettest.UDP(at4(alice6, 7), at4(ledger6, 53))), FlowError},
			{Out, packettest.Unreachable(ledger6, alice6, packettest.UDP(at4(ledger6, 53), at4(alice6, 7))), NoFlow},
			{Out, packettest.Ping(ledger4, bob4, 3), Begun},
			{In, packettest.Unreachable(bob4, ledger4, packettest.Ping(ledger4, bob4, 3)), FlowError},
			{In, packettest.Unreachable(bob4, ledger4, packettest.Ping(ledger4, bob4, 4)), NoFlow},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(Config{})
			b.Swap(Compile(rules(t, tt.rules...), b.now))
			check(t, b, tt.rows)
			checkTable(t, b.Filter)
		})
	}
}

func TestNothingPassesBeforeTheFirstSwap(t *testing.T) {
	b := newBench(Config{})
	check(t, b, []row{
		{In, segment(at4(alice4, 1), at4(ledger4, 443), syn), NoRules},
		{Out, segment(at4(ledger4, 1), at4(alice4, 443), syn), NoRules},
		{Out, packettest.Ping(ledger4, alice4, 1), NoRules},
	})
	if cut := b.Swap(nil); len(cut.Flows) != 0 {
		t.Errorf("swap to nothing cut %v, want nothing", cut.Flows)
	}
	check(t, b, []row{{In, segment(at4(alice4, 1), at4(ledger4, 443), syn), NotAPeer}})
}

func TestContestedAddressIsNobodys(t *testing.T) {
	r := rules(t, "all * *")
	r.Peers[1].Addresses = append(r.Peers[1].Addresses, alice4, ledger6, netip.MustParseAddr("::ffff:100.64.0.77"), netip.MustParseAddr("127.0.0.1"))
	c := Compile(r, epoch)
	if got, want := fmt.Sprint(c.Contested()), fmt.Sprint([]netip.Addr{alice4, ledger6}); got != want {
		t.Errorf("contested %v, want %v", got, want)
	}
	b := newBench(Config{})
	b.Swap(c)
	check(t, b, []row{
		{In, packettest.UDP(at4(alice4, 1), at4(ledger4, 1)), NotAPeer},
		{In, packettest.UDP(at4(alice6, 1), at4(ledger6, 1)), Granted},
		{In, packettest.UDP(at4(ledger6, 1), at4(ledger6, 1)), NotAPeer},
		{In, packettest.UDP(at4(netip.MustParseAddr("100.64.0.77"), 1), at4(ledger4, 1)), Granted},
		{In, packettest.UDP(at4(netip.MustParseAddr("127.0.0.1"), 1), at4(ledger4, 1)), NotAPeer},
	})
}

func TestEveryReasonHasAName(t *testing.T) {
	seen := map[string]bool{}
	for r := range Reason(Reasons) {
		if s := r.String(); s == "" || seen[s] {
			t.Errorf("reason %d: name %q is empty or another's", r, s)
		}
		seen[r.String()] = true
	}
	if (Verdict{}).Action != Drop || Reason(0).Action() != Drop {
		t.Error("the zero verdict passes")
	}
}
