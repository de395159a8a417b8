package filter

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
)

// connect opens a TCP connection from a peer and exchanges a request and an
// answer; the sequence numbers are those of RFC 9293 figure 6, on.
func connect(t *testing.T, b *bench, client, server netip.AddrPort) {
	t.Helper()
	check(t, b, []row{
		{In, packettest.TCP(client, server, syn, 1000, 0), Granted},
		{Out, packettest.TCP(server, client, synAck, 5000, 1001), Known},
		{In, packettest.TCP(client, server, ack, 1001, 5001), Known},
		{In, packettest.TCP(client, server, ack, 1001, 5001, make([]byte, 10)...), Known},
		{Out, packettest.TCP(server, client, ack, 5001, 1011, make([]byte, 300)...), Known},
	})
}

func TestSwapCutsLiveFlowsAndResetsBothEnds(t *testing.T) {
	client, server := at4(alice4, 40000), at4(ledger4, 443)
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "web alice@example tcp/443", "dns alice@example udp/53"), b.now))
	connect(t, b, client, server)
	check(t, b, []row{
		{In, packettest.UDP(at4(alice4, 9), at4(ledger4, 53)), Granted},
		{Out, packettest.UDP(at4(ledger4, 9), at4(bob4, 53)), Begun},
		{Out, packettest.TCP(at4(ledger4, 9), at4(alice4, 22), syn, 1, 0), Begun},
	})
	// Another rule allows the same: nothing is cut.
	cut := b.Swap(Compile(rules(t, "other * *"), b.now))
	if len(cut.Flows) != 0 || cut.Kept != 4 {
		t.Fatalf("a swap that still allows: cut %v kept %d, want none and 4", cut.Flows, cut.Kept)
	}
	if s := b.take(); len(s) != 0 {
		t.Fatalf("a swap that still allows sent %d packets, want 0", len(s))
	}

	cut = b.Swap(Compile(rules(t), b.now))
	want := []string{
		"tcp 100.64.0.2:40000 -> 100.64.0.1:443 (alice) by other",
		"udp 100.64.0.2:9 -> 100.64.0.1:53 (alice) by other",
	}
	if got := fmt.Sprint(cut.Flows); got != fmt.Sprint(want) || cut.Kept != 2 {
		t.Errorf("cut:\n got %v, kept %d\nwant %v, kept 2", got, cut.Kept, want)
	}
	// RFC 5961: each end accepts a reset only at the next byte it expects.
	sent := b.take()
	if len(sent) != 2 {
		t.Fatalf("sent %d packets, want a reset to each end", len(sent))
	}
	for _, s := range sent {
		var p packet.Packet
		if r := p.Parse(s.b); r != packet.Whole || !p.Flags.Has(packet.RST) {
			t.Fatalf("sent %x: %v, want a reset", s.b, r)
		}
		wantSeq, wantDst := uint32(1011), ledger4 // what alice sends next
		if s.dir == Out {
			wantSeq, wantDst = 5301, alice4
		}
		if p.Seq != wantSeq || p.Dst.Netip() != wantDst {
			t.Errorf("reset %v to %v: sequence number %d, want %d to %v", s.dir, p.Dst, p.Seq, wantSeq, wantDst)
		}
	}
	check(t, b, []row{
		{In, packettest.TCP(client, server, ack, 1011, 5301, 1), FlowCut},
		{Out, packettest.TCP(server, client, ack, 5301, 1011, 1), FlowCut},
		{In, packettest.UDP(at4(alice4, 9), at4(ledger4, 53)), FlowCut},
		{Out, packettest.UDP(at4(ledger4, 53), at4(alice4, 9)), FlowCut},
		{In, packettest.TCP(client, server, syn, 1, 0), NoGrant},
		{In, packettest.Unreachable(alice4, ledger4, packettest.UDP(at4(ledger4, 53), at4(alice4, 9))), FlowCut},
	})
	// The stack that did not believe the reset is told again, at its own number.
	for _, s := range b.take() {
		var p packet.Packet
		if p.Parse(s.b); p.Proto == acl.TCP && s.dir == In && p.Seq != 1011 {
			t.Errorf("answer to the server's segment: sequence number %d, want its acknowledgement 1011", p.Seq)
		}
	}
	if cut := b.Swap(Compile(rules(t), b.now)); len(cut.Flows) != 0 {
		t.Errorf("the next swap tells of %v again", cut.Flows)
	}
}

// A server that goes on sending datagrams must not open again what was cut.
func TestCutDatagramFlowStaysCut(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "media alice@example udp/5004"), b.now))
	in, out := packettest.UDP(at4(alice4, 9), at4(ledger4, 5004)), packettest.UDP(at4(ledger4, 5004), at4(alice4, 9))
	check(t, b, []row{{In, in, Granted}, {Out, out, Known}})
	b.Swap(Compile(rules(t), b.now))
	for range 10 {
		b.now = b.now.Add(2 * time.Minute)
		check(t, b, []row{{Out, out, FlowCut}})
	}
	check(t, b, []row{{In, in, FlowCut}})
	b.Swap(Compile(rules(t, "media alice@example udp/5004"), b.now))
	check(t, b, []row{{In, in, Known}, {Out, out, Known}})
}

func TestFlowsOfAPeerThatIsGone(t *testing.T) {
	b := newBench(Config{})
	r := rules(t)
	b.Swap(Compile(r, b.now))
	check(t, b, []row{{Out, packettest.UDP(at4(ledger4, 1), at4(bob4, 53)), Begun}})
	r.Peers = r.Peers[:1]
	if cut := b.Swap(Compile(r, b.now)); len(cut.Flows) != 1 || cut.Flows[0].Name != "bob" || cut.Flows[0].Began != Out {
		t.Errorf("cut %v, want the flow to bob", cut.Flows)
	}
	check(t, b, []row{{In, packettest.UDP(at4(bob4, 53), at4(ledger4, 1)), FlowCut}})
	// The address is another node's now: the flow was with bob.
	r.Peers[0].Addresses = append(r.Peers[0].Addresses, bob4)
	b.Swap(Compile(r, b.now))
	check(t, b, []row{{In, packettest.UDP(at4(bob4, 53), at4(ledger4, 1)), FlowCut}})
}

func TestGrantEndsWithoutASwap(t *testing.T) {
	client, server := at4(alice4, 40000), at4(ledger4, 443)
	b := newBench(Config{})
	r := rules(t, "web alice@example tcp/443 1m")
	c := Compile(r, b.now)
	if got, want := c.NextEnd(), epoch.Add(time.Minute); !got.Equal(want) {
		t.Errorf("next end %v, want %v", got, want)
	}
	b.Swap(c)
	connect(t, b, client, server)
	b.now = epoch.Add(time.Minute - 1)
	check(t, b, []row{{In, packettest.TCP(client, server, ack, 1011, 5301), Known}})
	b.now = epoch.Add(time.Minute)
	check(t, b, []row{
		{In, packettest.TCP(client, server, ack, 1011, 5301), FlowCut},
		{Out, packettest.TCP(server, client, ack, 5301, 1011), FlowCut},
		{In, packettest.TCP(at4(alice4, 40001), server, syn, 1, 0), Ended},
	})
	b.take()
	cut := b.Swap(Compile(r, b.now))
	if len(cut.Flows) != 1 || !cut.Flows[0].Ended && cut.Flows[0].Allowed || cut.Flows[0].Rule != "web" {
		t.Errorf("cut %+v, want the flow that web allowed", cut.Flows)
	}
	if n := len(b.take()); n != 2 {
		t.Errorf("sent %d packets, want 2 resets", n)
	}
}

func TestSessionEnds(t *testing.T) {
	b := newBench(Config{})
	r := rules(t, "all * *")
	r.Peers[0].Subject.Expires = epoch.Add(time.Minute)
	b.Swap(Compile(r, b.now))
	out := packettest.UDP(at4(ledger4, 1), at4(alice4, 53))
	check(t, b, []row{{Out, out, Begun}, {In, packettest.UDP(at4(alice4, 9), at4(ledger4, 9)), Granted}})
	b.now = epoch.Add(time.Minute)
	check(t, b, []row{
		{Out, out, FlowCut},
		{In, packettest.UDP(at4(alice4, 53), at4(ledger4, 1)), FlowCut},
		{In, packettest.UDP(at4(alice4, 9), at4(ledger4, 9)), FlowCut},
		{Out, packettest.UDP(at4(ledger4, 2), at4(alice4, 53)), Ended},
		{In, packettest.UDP(at4(alice4, 10), at4(ledger4, 9)), Ended},
	})
	b.Swap(Compile(r, b.now))
	check(t, b, []row{
		{Out, packettest.UDP(at4(ledger4, 2), at4(alice4, 53)), NotAPeer},
		{In, packettest.UDP(at4(alice4, 10), at4(ledger4, 9)), NotAPeer},
	})
}

// Under concurrent packets and swaps no packet passes that neither of the two
// rule sets allows; and once Swap has returned, none that the new one refuses.
func TestSwapUnderLoad(t *testing.T) {
	// Even rules allow alice port 443, odd ones port 444; neither allows 445.
	even := Compile(rules(t, "even alice@example tcp/443,udp/443"), epoch)
	odd := Compile(rules(t, "odd alice@example tcp/444,udp/444"), epoch)
	var sent atomic.Int64
	f := New(Config{Reset: func(Direction, []byte) { sent.Add(1) }})
	f.Swap(even)

	var phase sync.RWMutex // held for writing while a swap is under way
	allowed := uint16(443) // guarded by phase
	stop := make(chan struct{})
	step := make(chan struct{}) // a packet was judged
	var wg sync.WaitGroup
	var passed [3]int // by goroutine, read after wg
	for g := range 3 {
		wg.Go(func() {
			src := at4(alice4, uint16(1000+g))
			if g == 2 {
				src = at4(alice4, 1000) // the flow of the first goroutine too
			}
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case step <- struct{}{}:
				}
				port := 443 + uint16(i%3)
				pkt := packettest.UDP(src, at4(ledger4, port))
				if i%2 == 0 {
					pkt = packettest.TCP(src, at4(ledger4, port), ack, uint32(i), 1)
				}
				if g == 1 {
					// Beside the swaps: whichever rules hold, 445 is not in them.
					if f.In(pkt).Action == Pass && port == 445 {
						t.Error("port 445 passed, which neither rule set allows")
						return
					}
					passed[g]++
					continue
				}
				phase.RLock()
				got, want := f.In(pkt), port == allowed
				phase.RUnlock()
				if (got.Action == Pass) != want {
					t.Errorf("port %d after the swap: %v, want pass %v", port, got, want)
					return
				}
				if want {
					passed[g]++
				}
			}
		})
	}
	for i := range 400 {
		c, port := odd, uint16(444)
		if i%2 == 1 {
			c, port = even, 443
		}
		phase.Lock()
		f.Swap(c)
		allowed = port
		phase.Unlock()
		for range 20 {
			<-step
		}
	}
	close(stop)
	wg.Wait()
	checkTable(t, f)
	if sent.Load() == 0 {
		t.Error("no reset was sent for a cut connection")
	}
	for g, n := range passed {
		if n == 0 {
			t.Errorf("goroutine %d passed nothing: the test tested nothing", g)
		}
	}
}

// Between the exchange of the pointer and the walk over a shard, packets that
// meet a flow judge it by the new rules, and the walk still tells of the cut.
func TestPacketBeforeTheWalkJudgesItsFlow(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t, "web alice@example tcp/443"), b.now))
	connect(t, b, at4(alice4, 40000), at4(ledger4, 443))
	a := b.bind(Compile(rules(t), b.now))
	b.active.Store(a)
	check(t, b, []row{
		{In, packettest.TCP(at4(alice4, 40000), at4(ledger4, 443), ack, 1011, 5301), FlowCut},
		{Out, packettest.TCP(at4(ledger4, 443), at4(alice4, 40000), ack, 5301, 1011), FlowCut},
	})
	var cut Cut
	var resets []reset
	for i := range b.shards {
		resets = b.shards[i].swap(a, b.now.UnixNano(), &cut, resets)
	}
	if len(cut.Flows) != 1 || len(resets) != 2 {
		t.Errorf("the walk told of %d flows and made %d resets, want 1 and 2", len(cut.Flows), len(resets))
	}
}

// New rules are in force before the first shard is walked, not after the last.
func TestSwapExchangesBeforeItWalks(t *testing.T) {
	b := newBench(Config{})
	b.Swap(Compile(rules(t), b.now))
	s := &b.shards[0]
	s.mu.Lock()
	done := make(chan struct{})
	go func() { defer close(done); b.Swap(nil) }()
	for deadline := time.Now().Add(10 * time.Second); b.active.Load().generation != 2; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Error("the old rules are in force while the shards are walked")
			break
		}
	}
	s.mu.Unlock()
	<-done
}

// A packet that waits for its shard while the rules change is judged by the new.
func TestPacketReadsRulesUnderTheLock(t *testing.T) {
	web, none := Compile(rules(t, "web alice@example tcp/443"), epoch), Compile(rules(t), epoch)
	reached := make(chan struct{}, 8)
	f := New(Config{MaxFlows: 1, ClockEvery: -1, Clock: func() time.Time {
		reached <- struct{}{}
		return epoch
	}})
	for i := range 200 {
		f.Swap(web)
		<-reached
		s := &f.shards[0]
		s.mu.Lock()
		verdicts := make(chan Verdict)
		go func() { verdicts <- f.In(segment(at4(alice4, uint16(i)), at4(ledger4, 443), syn)) }()
		<-reached // it is about to wait for the lock
		for range 10 {
			runtime.Gosched()
		}
		f.active.Store(f.bind(none))
		s.mu.Unlock()
		if got := <-verdicts; got.Action == Pass {
			t.Fatalf("round %d: %v, though the rules that allow it are gone", i, got)
		}
	}
}
