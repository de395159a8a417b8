package filter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/agent/packet/packettest"
)

func TestFullTable(t *testing.T) {
	b := newBench(Config{MaxFlows: 100, MaxPeerFlows: 60})
	b.Swap(Compile(rules(t, "all * *"), b.now))
	connect(t, b, at4(alice4, 1), at4(ledger4, 443))
	// SYNs that nobody answers push out each other, not the connection.
	for i := range 200 {
		check(t, b, []row{{In, segment(at4(bob4, uint16(i)), at4(ledger4, 80), syn), Granted}})
	}
	if got := b.Stats().Flows; got != 61 {
		t.Errorf("flows after 200 of one peer: %d, want its limit of 60 and one more", got)
	}
	check(t, b, []row{{In, packettest.TCP(at4(alice4, 1), at4(ledger4, 443), ack, 1011, 5301), Known}})
	checkTable(t, b.Filter)

	// Flows that are answered stay, until they were silent for a minute.
	b = newBench(Config{MaxFlows: 10, MaxPeerFlows: 8})
	b.Swap(Compile(rules(t, "all * *"), b.now))
	answered := func(peer netip.Addr, port uint16) Reason {
		v := b.In(packettest.UDP(at4(peer, port), at4(ledger4, 53)))
		if v.Action == Pass {
			b.Out(packettest.UDP(at4(ledger4, 53), at4(peer, port)))
		}
		return v.Reason
	}
	for i := range uint16(8) {
		if got := answered(alice4, i); got != Granted {
			t.Fatalf("flow %d: %v, want %v", i, got, Granted)
		}
	}
	if got := answered(alice4, 9); got != PeerFull {
		t.Errorf("ninth flow of a peer: %v, want %v", got, PeerFull)
	}
	answered(bob4, 1)
	answered(bob4, 2)
	if got := answered(bob4, 3); got != TableFull {
		t.Errorf("eleventh flow: %v, want %v", got, TableFull)
	}
	b.now = b.now.Add(61 * time.Second)
	answered(alice4, 0)
	if got := answered(bob4, 3); got != Granted {
		t.Errorf("eleventh flow after a minute of silence: %v, want %v", got, Granted)
	}
	if got := answered(alice4, 0); got != Known {
		t.Errorf("the flow that was not silent: %v, want %v", got, Known)
	}
	checkTable(t, b.Filter)
}

func TestFlowsExpire(t *testing.T) {
	client, server := at4(alice4, 40000), at4(ledger4, 443)
	known := packettest.TCP(client, server, ack, 1011, 5301)
	start := func() *bench {
		b := newBench(Config{})
		b.Swap(Compile(rules(t, "web alice@example tcp/443", "ping alice@example icmp"), b.now))
		connect(t, b, client, server)
		return b
	}
	for _, tt := range []struct {
		name string
		rows []row
		life time.Duration
	}{
		{"open", nil, 124 * time.Minute},
		{"closed by one end", []row{{In, packettest.TCP(client, server, finAck, 1011, 5301), Known}}, 124 * time.Minute},
		{"closed by both", []row{
			{In, packettest.TCP(client, server, finAck, 1011, 5301), Known},
			{Out, packettest.TCP(server, client, finAck, 5301, 1012), Known},
			{In, packettest.TCP(client, server, ack, 1012, 5302), Known},
		}, time.Minute},
		{"reset", []row{{Out, packettest.TCP(server, client, rst, 5301, 0), Known}}, 10 * time.Second},
		{"reset at a number that its receiver ignores", []row{{Out, packettest.TCP(server, client, rst, 9999, 0), Known}}, 124 * time.Minute},
	} {
		b := start()
		check(t, b, tt.rows)
		b.now = b.now.Add(tt.life)
		if got := len(b.Flows()); got != 1 {
			t.Errorf("%s, after %v: %d flows known, want 1", tt.name, tt.life, got)
		}
		b.now = b.now.Add(1)
		if got := len(b.Flows()); got != 0 {
			t.Errorf("%s, after %v and a nanosecond: %d flows known, want 0", tt.name, tt.life, got)
		}
		check(t, b, []row{{In, known, Granted}})
	}
	// A port that is used again after a close begins a flow.
	b := start()
	check(t, b, []row{
		{In, packettest.TCP(client, server, finAck, 1011, 5301), Known},
		{Out, packettest.TCP(server, client, finAck, 5301, 1012), Known},
		{In, packettest.TCP(client, server, syn, 70000, 0), Granted},
		{Out, packettest.TCP(server, client, synAck, 80000, 70001), Known},
		{In, packettest.TCP(client, server, ack, 70001, 80001), Known},
	})
	b.Swap(Compile(rules(t), b.now))
	for _, s := range b.take() {
		var p packet.Packet
		p.Parse(s.b)
		if want := map[Direction]uint32{In: 70001, Out: 80001}[s.dir]; p.Seq != want {
			t.Errorf("reset %v: sequence number %d, want %d of the second connection", s.dir, p.Seq, want)
		}
	}
}

func TestStats(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "web alice@example tcp/443", "dns * udp/53"), b.now))
	connect(t, b, at4(alice4, 1), at4(ledger4, 443))
	b.In(segment(at4(bob4, 1), at4(ledger4, 443), syn))
	b.In([]byte{0x45})
	b.Out(append(packettest.UDP(at4(ledger4, 1), at4(bob4, 1)), 0))
	st := b.Stats()
	for _, tt := range []struct {
		what      string
		got, want uint64
	}{
		{"in, granted", st.Packets[In][Granted], 1},
		{"in, known", st.Packets[In][Known], 2},
		{"out, known", st.Packets[Out][Known], 2},
		{"in, no grant", st.Packets[In][NoGrant], 1},
		{"in, malformed", st.Packets[In][Malformed], 1},
		{"in, truncated", st.Refused[In][packet.Truncated], 1},
		{"out, trailing", st.Refused[Out][packet.Trailing], 1},
		{"rule web", st.Rules["web"], 1},
		{"rule dns", st.Rules["dns"], 0},
		{"answered", st.Answered, 1},
		{"flows", uint64(st.Flows), 1},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, tt.got, tt.want)
		}
	}
	if len(st.Rules) != 2 {
		t.Errorf("rules %v, want 2", st.Rules)
	}
	b.Swap(Compile(rules(t, "web alice@example tcp/443"), b.now))
	if st := b.Stats(); len(st.Rules) != 1 || st.Rules["web"] != 1 {
		t.Errorf("rules after a swap: %v, want web with 1", st.Rules)
	}
}

func TestPacketsAllocateNothing(t *testing.T) {
	b := newBench(Config{Silent: true})
	b.Filter.reset = nil
	b.Swap(Compile(rules(t, "web alice@example tcp/443,udp/53,icmp"), b.now))
	connect(t, b, at4(alice4, 1), at4(ledger4, 443))
	frags := fragmentsOf(at4(alice6, 1), at4(ledger6, 53), 7)
	for name, r := range map[string]row{
		"established in":   {In, packettest.TCP(at4(alice4, 1), at4(ledger4, 443), ack, 1011, 5301, 1), Known},
		"established out":  {Out, packettest.TCP(at4(ledger4, 443), at4(alice4, 1), ack, 5301, 1011, 1), Known},
		"refused":          {In, segment(at4(bob6, 1), at4(ledger6, 443), syn), NoGrant},
		"nobody":           {Out, packettest.UDP(at4(ledger4, 1), at4(netip.MustParseAddr("10.0.0.1"), 1)), NotAPeer},
		"ping":             {In, packettest.Ping(alice6, ledger6, 1), Known},
		"fragment":         {In, frags[0], Known},
		"later fragment":   {In, frags[1], LaterFragment},
		"error":            {Out, packettest.Unreachable(ledger6, alice6, packettest.UDP(at4(alice6, 1), at4(ledger6, 53))), FlowError},
		"malformed":        {In, []byte{1, 2, 3}, Malformed},
		"neighbour":        {In, packettest.ICMP(alice6, ledger6, 135, 0, 0), Neighbour},
		"no flow, refused": {Out, segment(at4(ledger4, 7), at4(bob4, 7), ack), NoFlow},
	} {
		b.In(packettest.Ping(alice6, ledger6, 1))
		b.In(frags[0])
		if n := testing.AllocsPerRun(100, func() {
			if got := b.judge(r); got.Reason != r.want {
				t.Fatalf("%s: got %v, want %v", name, got, r.want)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations for a packet, want 0", name, n)
		}
	}
	// A new flow in a table that has grown takes a slot that is free.
	b = newBench(Config{MaxFlows: 64})
	b.Swap(Compile(rules(t, "all * *"), b.now))
	pkt := packettest.UDP(at4(alice4, 1), at4(ledger4, 53))
	port := uint16(0)
	begin := func() {
		port++
		pkt[20], pkt[21] = byte(port>>8), byte(port)
		if got := b.In(pkt); got.Reason != Granted {
			t.Fatalf("got %v, want %v", got, Granted)
		}
	}
	for range 100 {
		begin()
	}
	if n := testing.AllocsPerRun(100, begin); n != 0 {
		t.Errorf("new flow: %v allocations, want 0", n)
	}
}
