package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// ssh is a TCP connection from this node to alice with a command and its answer.
func ssh(t *testing.T, b *bench) (client, server netip.AddrPort) {
	t.Helper()
	client, server = at4(ledger4, 40000), at4(alice4, 22)
	check(t, b, []row{
		{Out, packettest.TCP(client, server, syn, 1000, 0), Begun},
		{In, packettest.TCP(server, client, synAck, 5000, 1001), Known},
		{Out, packettest.TCP(client, server, ack, 1001, 5001, make([]byte, 10)...), Known},
		{In, packettest.TCP(server, client, ack, 5001, 1011, make([]byte, 300)...), Known},
	})
	return client, server
}

// restarted is a filter that was given what b left, before its first Swap.
func restarted(b *bench, c Config) *bench {
	n := newBench(c)
	n.now = b.now
	n.Restore(b.Export(1 << 20))
	return n
}

func TestFlowsGoOnAfterARestart(t *testing.T) {
	grants := rules(t, "web alice@example tcp/443")
	before := newBench(Config{})
	before.Swap(Compile(grants, before.now))
	client, server := ssh(t, before)
	inbound := at4(bob4, 9)
	before.Swap(Compile(rules(t, "web alice@example tcp/443", "once bob@example udp/53,tcp/53"), before.now))
	connect(t, before, at4(alice4, 40000), at4(ledger4, 443))
	check(t, before, []row{
		{Out, packettest.UDP(at4(ledger6, 5000), at4(bob6, 53)), Begun},
		{Out, packettest.Ping(ledger4, bob4, 7), Begun},
		{Out, packettest.Proto(ledger4, bob4, 47), Begun},
		{Out, packettest.SCTP(at4(ledger4, 1), at4(bob4, 2)), Begun},
		{In, packettest.UDP(inbound, at4(ledger4, 53)), Granted},
		{In, segment(inbound, at4(ledger4, 53), syn), Granted},
	})
	// What arrives first after the restart: all of it from the peers.
	rows := func(known Reason) []row {
		return []row{
			{In, packettest.TCP(server, client, ack, 5301, 1011, make([]byte, 1000)...), known},
			{In, packettest.UDP(at4(bob6, 53), at4(ledger6, 5000)), known},
			{In, packettest.Pong(bob4, ledger4, 7), known},
			{In, packettest.Proto(bob4, ledger4, 47), known},
			{In, packettest.SCTP(at4(bob4, 2), at4(ledger4, 1)), known},
			{In, packettest.UDP(inbound, at4(ledger4, 53)), NoGrant},
			{In, segment(inbound, at4(ledger4, 53), ack), NoGrant},
			{In, packettest.TCP(at4(alice4, 40000), at4(ledger4, 443), ack, 1011, 5301, 1), Granted},
			{In, packettest.Ping(bob4, ledger4, 7), NoGrant},
			{In, segment(server, client, syn), NoGrant},
			{In, segment(server, at4(ledger4, 40001), ack), NoGrant},
		}
	}
	after := restarted(before, Config{})
	check(t, after, []row{
		{In, packettest.TCP(server, client, ack, 5301, 1011, 1), NoRules},
		{Out, packettest.TCP(client, server, ack, 1011, 5301, 1), NoRules},
	})
	if cut := after.Swap(Compile(grants, after.now)); cut.Restored != 5 || cut.Kept != 5 || len(cut.Flows) != 0 {
		t.Errorf("restored %d, kept %d, cut %v, want 5, 5 and none", cut.Restored, cut.Kept, cut.Flows)
	}
	if s := after.take(); len(s) != 0 {
		t.Errorf("%d packets are sent by the restart, want none", len(s))
	}
	check(t, after, rows(Known))
	check(t, after, []row{{Out, packettest.TCP(client, server, ack, 1011, 6301, 1), Known}})
	checkTable(t, after.Filter)

	// The same without what was left: these rows do test something.
	forgotten := newBench(Config{})
	forgotten.Swap(Compile(grants, forgotten.now))
	check(t, forgotten, rows(NoGrant))
	check(t, forgotten, []row{{Out, packettest.TCP(client, server, ack, 1011, 6301, 1), NoFlow}})

	// What one restart leaves to the next is what it was left.
	if o := restarted(before, Config{}).Export(10); len(o) != 0 {
		t.Errorf("%v is exported before there are rules, want nothing", o)
	}
	again := restarted(before, Config{})
	again.Swap(Compile(grants, again.now))
	got, want := again.Export(10), before.Export(10)
	order := func(a, b Outbound) int { return a.Local.Compare(b.Local)*2 + int(a.Proto) - int(b.Proto) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("exported after a restart:\n got %+v\nwant %+v", got, want)
	}
}

func TestRestoreTakesUpOnlyWhatItMay(t *testing.T) {
	alice, bob := key.NodeID{2}, key.NodeID{3}
	udp := Outbound{Peer: alice, Proto: acl.UDP, Local: at4(ledger4, 5000), Remote: at4(alice4, 53), Left: time.Minute}
	with := func(f func(*Outbound)) Outbound { o := udp; f(&o); return o }
	ended := rules(t)
	ended.Peers[1].Subject.Expires = epoch.Add(time.Minute)
	for _, tt := range []struct {
		name  string
		flows []Outbound
		want  int
	}{
		{"a flow", []Outbound{udp}, 1},
		{"a ping", []Outbound{with(func(o *Outbound) {
			o.Proto, o.Echo, o.Remote = acl.ICMP, true, at4(alice4, 0)
		})}, 1},
		{"of another protocol", []Outbound{with(func(o *Outbound) { o.Proto, o.Local, o.Remote = 47, at4(ledger4, 0), at4(alice4, 0) })}, 1},
		{"twice", []Outbound{udp, udp}, 1},
		{"of a peer with another's address", []Outbound{with(func(o *Outbound) { o.Peer = bob })}, 0},
		{"of a node that is no peer", []Outbound{with(func(o *Outbound) { o.Peer = key.NodeID{9} })}, 0},
		{"with an address that no peer has", []Outbound{with(func(o *Outbound) { o.Remote = at4(netip.MustParseAddr("100.64.9.9"), 53) })}, 0},
		{"with this node itself", []Outbound{with(func(o *Outbound) { o.Remote = at4(ledger4, 53) })}, 0},
		{"from an address that is not this node's", []Outbound{with(func(o *Outbound) { o.Local = at4(bob4, 5000) })}, 0},
		{"between two families", []Outbound{with(func(o *Outbound) { o.Local = at4(ledger6, 5000) })}, 0},
		{"without addresses", []Outbound{with(func(o *Outbound) { o.Local, o.Remote = netip.AddrPort{}, netip.AddrPort{} })}, 0},
		{"with a session that ended", []Outbound{with(func(o *Outbound) { o.Peer, o.Remote = bob, at4(bob4, 53) })}, 0},
		{"that expired", []Outbound{with(func(o *Outbound) { o.Left = -1 })}, 0},
		{"a ping of a protocol that has none", []Outbound{with(func(o *Outbound) { o.Echo, o.Remote = true, at4(alice4, 0) })}, 0},
		{"a ping of the other family", []Outbound{with(func(o *Outbound) { o.Proto, o.Echo, o.Remote = acl.ICMPv6, true, at4(alice4, 0) })}, 0},
		{"a ping with two identifiers", []Outbound{with(func(o *Outbound) { o.Proto, o.Echo = acl.ICMP, true })}, 0},
		{"of ICMP that is no ping", []Outbound{with(func(o *Outbound) { o.Proto, o.Local, o.Remote = acl.ICMP, at4(ledger4, 0), at4(alice4, 0) })}, 0},
		{"with ports where there are none", []Outbound{with(func(o *Outbound) { o.Proto = 47 })}, 0},
	} {
		b := newBench(Config{})
		b.Restore(tt.flows)
		b.now = b.now.Add(time.Minute) // the last instant of what has a minute left
		if got := b.Swap(Compile(ended, b.now)); got.Restored != tt.want || len(got.Flows) != 0 {
			t.Errorf("%s: restored %d, cut %v, want %d and none", tt.name, got.Restored, got.Flows, tt.want)
		}
		checkTable(t, b.Filter)
	}

	b := newBench(Config{})
	b.Restore([]Outbound{udp})
	b.now = b.now.Add(time.Minute + 1)
	if got := b.Swap(Compile(rules(t), b.now)); got.Restored != 0 {
		t.Errorf("restored %d of a flow that expired before the rules came, want 0", got.Restored)
	}
	// More than a flow can have left is what it can have.
	b = newBench(Config{})
	b.Restore([]Outbound{with(func(o *Outbound) { o.Left = time.Hour })})
	b.Swap(Compile(rules(t), b.now))
	b.now = b.now.Add(3*time.Minute + 1)
	check(t, b, []row{{In, packettest.UDP(udp.Remote, udp.Local), NoGrant}})
	// A flow that is known is as it was.
	b = newBench(Config{})
	b.Swap(Compile(rules(t, "dns alice@example udp/5000"), b.now))
	check(t, b, []row{{In, packettest.UDP(udp.Remote, udp.Local), Granted}})
	b.Restore([]Outbound{udp})
	if cut := b.Swap(Compile(rules(t), b.now)); cut.Restored != 0 || len(cut.Flows) != 1 {
		t.Errorf("restored %d flows over one that a peer began, cut %v, want none, and it cut", cut.Restored, cut.Flows)
	}
	check(t, b, []row{{In, packettest.UDP(udp.Remote, udp.Local), FlowCut}})
}

// Whatever is restored, under no rules a packet of a peer passes only if it
// answers a restored flow with that peer, and none begins anything.
func FuzzRestore(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	u := newUniverse()
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 3))
		var addrs []netip.Addr
		for _, p := range u.peers {
			addrs = append(addrs, p.Addresses...)
		}
		anywhere := append(append(slices.Clone(addrs), u.own...), u.strange...)
		var flows []Outbound
		for range r.IntN(60) {
			proto := pick(r, acl.TCP, acl.UDP, acl.ICMP, acl.ICMPv6, 47)
			o := Outbound{
				Peer: pick(r, u.peers...).Subject.ID, Proto: proto, Echo: r.IntN(2) == 0,
				Local:    at4(pick(r, u.own...), pick[uint16](r, 0, 22, 443)),
				Remote:   at4(pick(r, addrs...), pick[uint16](r, 0, 443, 1000)),
				Answered: r.IntN(2) == 0, Left: time.Duration(r.Int64N(int64(3*time.Hour))) - time.Hour,
			}
			if r.IntN(4) == 0 {
				o.Local, o.Remote = at4(pick(r, anywhere...), o.Local.Port()), at4(pick(r, anywhere...), o.Remote.Port())
			}
			for i := range o.TCP {
				o.TCP[i] = Sent{r.Uint32(), r.Uint32(), r.IntN(2) == 0, r.IntN(2) == 0}
			}
			flows = append(flows, o)
		}
		b := newBench(Config{})
		b.Restore(flows)
		b.Swap(Compile(Rules{Self: u.self, Addresses: u.own, Peers: u.peers}, b.now))
		m := &model{u: u, now: epoch, rules: &Rules{Self: u.self, Addresses: u.own, Peers: u.peers}}
		for range 400 {
			d := u.datum(r, In, false)
			if d.proto == acl.TCP && d.flags == 2 {
				d.flags = pick[byte](r, 2, 16)
			}
			k := like(d, In)
			answers := slices.ContainsFunc(flows, func(o Outbound) bool {
				p := m.peer(k.remote)
				return p != nil && p.ID == o.Peer && o.Left >= 0 && o.Proto == d.proto &&
					o.Local == at4(k.local, k.near) && o.Remote == at4(k.remote, k.far) && o.Echo == d.reply()
			})
			begins := d.proto == acl.TCP && d.flags&18 == 2
			if got := b.In(d.bytes()); got.Action == Pass && (!answers || begins) {
				t.Fatalf("seed %d: %v: %v, though it answers no flow of %+v", seed, d, got, flows)
			}
		}
		checkTable(t, b.Filter)
	})
}

func TestRestoreMakesNoRoom(t *testing.T) {
	before := newBench(Config{})
	before.Swap(Compile(rules(t), before.now))
	for i := range 100 {
		before.Out(packettest.UDP(at4(ledger4, uint16(i+1)), at4(alice4, 53)))
	}
	after := restarted(before, Config{MaxFlows: 50, MaxPeerFlows: 20})
	if got := after.Swap(Compile(rules(t), after.now)); got.Restored != 20 || after.Stats().Evicted != 0 {
		t.Errorf("restored %d flows of one peer, evicted %d, want its limit of 20 and none", got.Restored, after.Stats().Evicted)
	}
	after = restarted(before, Config{MaxFlows: 50, MaxPeerFlows: 60})
	if got := after.Swap(Compile(rules(t), after.now)); got.Restored != 50 || after.Stats().Evicted != 0 {
		t.Errorf("restored %d flows, evicted %d, want the limit of 50 and none", got.Restored, after.Stats().Evicted)
	}
	checkTable(t, after.Filter)
}

func TestExportPrefersWhatSpokeLast(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t), b.now))
	for i := range 60 {
		b.now = b.now.Add(time.Second)
		b.Out(packettest.UDP(at4(ledger4, uint16(i+1)), at4(alice4, 53)))
	}
	b.now = b.now.Add(time.Second)
	b.Out(packettest.UDP(at4(ledger4, 1), at4(alice4, 53)))
	got := map[uint16]bool{}
	for _, o := range b.Export(10) {
		got[o.Local.Port()] = true
	}
	want := map[uint16]bool{1: true}
	for port := uint16(52); port <= 60; port++ {
		want[port] = true
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("exported ports %v, want %v", got, want)
	}
	if n := len(b.Export(0)); n != 0 {
		t.Errorf("exported %d flows, want none of none", n)
	}
	if a, b := b.Export(100), b.Export(100); !slices.Equal(a, b) {
		t.Errorf("exported twice:\n%v\n%v, want the same order", a, b)
	}
}

func TestExportLeavesOutWhatIsOver(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "all bob@example *"), b.now))
	client, server := ssh(t, b)
	check(t, b, []row{
		{Out, packettest.UDP(at4(ledger4, 1), at4(bob4, 53)), Begun},
		{In, packettest.UDP(at4(bob4, 1), at4(ledger4, 53)), Granted},
	})
	names := func() (out []string) {
		for _, o := range b.Export(10) {
			out = append(out, fmt.Sprint(o.Proto, o.Remote, o.Left))
		}
		slices.Sort(out)
		return out
	}
	want := func(what string, want ...string) {
		t.Helper()
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("%s: exported %q, want %q", what, got, want)
		}
	}
	want("at first", "tcp 100.64.0.2:22 2h4m0s", "udp 100.64.0.3:53 3m0s")
	b.now = b.now.Add(time.Minute)
	want("a minute later", "tcp 100.64.0.2:22 2h3m0s", "udp 100.64.0.3:53 2m0s")
	b.now = b.now.Add(2*time.Minute + 1)
	want("after three minutes", "tcp 100.64.0.2:22 2h0m59.999999999s")
	check(t, b, []row{{Out, packettest.TCP(client, server, ack, 1011, 5301, 1), Known}})
	want("after a segment", "tcp 100.64.0.2:22 2h4m0s")
	none := rules(t)
	none.Peers = none.Peers[1:]
	b.Swap(Compile(none, b.now))
	want("without the peer")
	b.Swap(Compile(rules(t), b.now))
	want("with the peer again", "tcp 100.64.0.2:22 2h4m0s")
	check(t, b, []row{{In, packettest.TCP(server, client, rst, 5301, 0), Known}})
	want("after a reset")
}

// A restored connection that is cut ends at both ends: at the numbers that were
// saved, or at those of the segments since, however far they have come.
func TestRestoredConnectionIsCut(t *testing.T) {
	const far = 3 << 30 // more than half of the sequence numbers
	var offset uint32 = far
	for _, tt := range []struct {
		name    string
		rows    func(client, server netip.AddrPort) []row
		in, out uint32
	}{
		{"silent since", func(_, _ netip.AddrPort) []row { return nil }, 5301, 1011},
		{"with segments since", func(client, server netip.AddrPort) []row {
			return []row{
				{In, packettest.TCP(server, client, ack, 5301+offset, 1011+offset, 1), Known},
				{Out, packettest.TCP(client, server, ack, 1011+offset, 5302+offset, 1, 2), Known},
			}
		}, 5302 + offset, 1013 + offset},
	} {
		before := newBench(Config{})
		before.Swap(Compile(rules(t), before.now))
		client, server := ssh(t, before)
		b := restarted(before, Config{})
		b.Swap(Compile(rules(t), b.now))
		check(t, b, tt.rows(client, server))
		gone := rules(t)
		gone.Peers = gone.Peers[1:]
		if cut := b.Swap(Compile(gone, b.now)); len(cut.Flows) != 1 {
			t.Errorf("%s: cut %v, want the connection", tt.name, cut.Flows)
		}
		got := map[Direction]uint32{}
		for _, s := range b.take() {
			var p packet.Packet
			if r := p.Parse(s.b); r != packet.Whole || !p.Flags.Has(packet.RST) {
				t.Fatalf("%s: sent %x: %v, want a reset", tt.name, s.b, r)
			}
			got[s.dir] = p.Seq
		}
		if want := map[Direction]uint32{In: tt.in, Out: tt.out}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: resets at %v, want %v", tt.name, got, want)
		}
	}
}

// A connection that goes on while the filter takes it up meets no moment in
// which it is unknown: that would reset it.
func TestRestoreLeavesNoGap(t *testing.T) {
	before := newBench(Config{})
	before.Swap(Compile(rules(t), before.now))
	client, server := ssh(t, before)
	saved := before.Export(10)
	compiled := Compile(rules(t), epoch)
	for range 200 {
		f := New(Config{Clock: func() time.Time { return epoch }})
		f.Restore(saved)
		var ready, wg sync.WaitGroup
		ready.Add(2)
		send := func(judge func([]byte) Verdict, pkt []byte) {
			defer wg.Done()
			ready.Done()
			for {
				switch v := judge(pkt); v.Reason {
				case NoRules:
				case Known:
					return
				default:
					t.Errorf("got %v while flows are restored, want %v or %v", v, NoRules, Known)
					return
				}
			}
		}
		wg.Add(2)
		go send(f.In, packettest.TCP(server, client, ack, 5301, 1011, 1))
		go send(f.Out, packettest.TCP(client, server, ack, 1011, 5301, 1))
		ready.Wait()
		f.Swap(compiled)
		wg.Wait()
	}
}
