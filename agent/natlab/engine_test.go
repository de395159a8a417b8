package natlab_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/stun"
)

// An end is one node with the path engine, sealed messages and a socket, and
// with traffic: a data packet to its peer every 50 ms, which go as the engine
// says. The relay is a channel with a delay.
type end struct {
	// set at construction
	t       *testing.T
	site    natlab.Site
	id      key.NodeID
	secret  key.WGPrivate
	conn    *natlab.Conn
	inbox   chan arrival
	peer    *end
	servers []netip.AddrPort

	// owned by run
	seen    map[netip.AddrPort]netip.AddrPort // by server: where it saw the node
	engine  *path.Engine
	pair    *disco.Pair
	traffic path.Traffic

	mu sync.Mutex
	// guarded by mu
	choice   path.Choice
	verdict  path.Verdict
	learned  map[netip.AddrPort]bool
	received int // data packets
	strange  int // data packets from where none was learned
}

// An arrival is a packet that came, by relay if from is zero.
type arrival struct {
	from    netip.AddrPort
	payload []byte
}

// data is a data packet: anything that is no disco message.
var data = []byte("data")

const (
	relayDelay = 40 * time.Millisecond
	dataEvery  = 50 * time.Millisecond
)

func newEnd(t *testing.T, w *natlab.World, site natlab.Site, number byte) *end {
	e := &end{t: t, site: site, secret: key.NewWG(), inbox: make(chan arrival, 1000), seen: make(map[netip.AddrPort]netip.AddrPort), learned: make(map[netip.AddrPort]bool)}
	e.id[0] = number
	var err error
	if e.conn, err = site.Host.ListenUDP(0); err != nil {
		t.Fatal(err)
	}
	for _, server := range w.Servers {
		for _, a := range server.Addrs() {
			e.servers = append(e.servers, netip.AddrPortFrom(a, 3478))
		}
	}
	return e
}

// ask asks all servers where they see the socket. The node does so when it starts
// and when its direct path fails.
func (e *end) ask() {
	for _, server := range e.servers {
		// Of a family that the host does not have, the send fails.
		e.conn.WriteToUDPAddrPort(stun.Request([stun.TxSize]byte{e.id[0]}), server)
	}
}

// answered takes a server's answer, and tells the engine how the node may be
// found now.
func (e *end) answered(a arrival) {
	_, at, err := stun.ParseResponse(a.payload)
	if err != nil {
		e.t.Errorf("answer of %s: %v", a.from, err)
		return
	}
	e.seen[a.from] = at
	e.tell()
}

func (e *end) tell() {
	var s path.Self
	told := make(map[netip.AddrPort]bool)
	add := func(a netip.AddrPort, k disco.Kind) {
		if a.IsValid() && !told[a] {
			told[a] = true
			s.Endpoints = append(s.Endpoints, disco.Endpoint{Addr: a, Kind: k})
		}
	}
	port := e.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for _, a := range e.site.Host.Addrs() {
		add(netip.AddrPortFrom(a, port), disco.Interface)
	}
	for _, server := range e.servers {
		at := e.seen[server]
		s.UDP4 = s.UDP4 || at.Addr().Is4()
		s.UDP6 = s.UDP6 || at.Addr().Is6()
		add(at, disco.Reflexive)
	}
	e.engine.SetSelf(time.Now(), s)
}

// run is the node's one goroutine that touches the engine. It ends with ctx.
func (e *end) run(ctx context.Context, seed uint64) {
	network := key.NetworkID{1}
	pair, err := disco.NewSelf(e.secret, network, e.id, time.Now()).Pair(e.peer.secret.Public(), e.peer.id)
	if err != nil {
		e.t.Error(err)
		return
	}
	e.pair = pair
	e.engine = path.New(path.Config{
		Rand:    rand.New(rand.NewPCG(seed, uint64(e.id[0]))),
		Traffic: func(key.NodeID) path.Traffic { return e.traffic },
	})
	e.tell()
	e.ask()
	e.engine.SetPeers(time.Now(), []path.Peer{{ID: e.peer.id}})
	e.engine.Wake(time.Now(), e.peer.id)
	sending := time.NewTicker(dataEvery)
	defer sending.Stop()
	looking := time.NewTicker(time.Second)
	defer looking.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		e.act()
		if at, ok := e.engine.Next(); ok {
			due.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			e.engine.Advance(time.Now())
		case <-sending.C:
			e.send()
		case <-looking.C:
			e.look()
		case a := <-e.inbox:
			e.take(a)
		}
	}
}

func (e *end) act() {
	for _, a := range e.engine.Take() {
		switch a := a.(type) {
		case path.Send:
			packet, err := e.pair.Seal(a.Msg)
			if err != nil {
				e.t.Errorf("seal: %v", err)
				continue
			}
			if !a.To.IsValid() {
				e.relay(packet)
			} else if _, err := e.conn.WriteToUDPAddrPort(packet, a.To); err != nil {
				e.engine.Failed(time.Now(), e.peer.id, a.To, err.Error())
			}
		case path.Use:
			if e.choice.Direct.IsValid() && a.Choice.Relay {
				e.ask()
			}
			e.mu.Lock()
			e.choice = a.Choice
			e.mu.Unlock()
		case path.Learn:
			e.mu.Lock()
			e.learned[a.Addr] = !a.Gone
			e.mu.Unlock()
		}
	}
}

// look keeps what the engine knows, for a test that fails.
func (e *end) look() {
	v := e.engine.Verdict(e.peer.id)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verdict = v
}

// known is what the engine knew a second ago or less.
func (e *end) known() path.Verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.verdict
}

// relay sends by relay, which keeps the order.
func (e *end) relay(packet []byte) {
	time.AfterFunc(relayDelay, func() { e.peer.arrive(arrival{payload: packet}) })
}

// arrive queues a packet, or drops it as a full socket does.
func (e *end) arrive(a arrival) {
	select {
	case e.inbox <- a:
	default:
	}
}

// send sends one data packet as the engine chose.
func (e *end) send() {
	direct := e.choice.Direct
	if direct.IsValid() {
		if _, err := e.conn.WriteToUDPAddrPort(data, direct); err != nil {
			e.engine.Failed(time.Now(), e.peer.id, direct, err.Error())
		}
		e.traffic.DirectSent++
	}
	if !direct.IsValid() || e.choice.Relay {
		e.relay(data)
		e.traffic.RelaySent++
	}
}

func (e *end) take(a arrival) {
	switch {
	case stun.Is(a.payload):
		e.answered(a)
		return
	case disco.Is(a.payload):
		// What is sealed for another, or by oneself, does not open: two LANs with
		// the same addresses bring such packets.
		if m, err := e.pair.Open(a.payload); err == nil {
			e.engine.Receive(time.Now(), e.peer.id, a.from, m)
		}
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.received++
	if !a.from.IsValid() {
		e.traffic.RelayReceived++
		return
	}
	e.traffic.DirectReceived++
	if !e.learned[a.from] {
		e.strange++
	}
}

// read hands over what comes by UDP until the socket is closed.
func (e *end) read() {
	b := make([]byte, 2000)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		e.arrive(arrival{from, append([]byte(nil), b[:n]...)})
	}
}

// class is how data goes now: direct also while it goes by relay besides.
func (e *end) class() natlab.Class {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.choice.Direct.IsValid() && !e.choice.Relay {
		return natlab.Direct
	}
	return natlab.Relay
}

// relayed reports whether data goes by relay, whatever else it does.
func (e *end) relayed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.choice.Relay || !e.choice.Direct.IsValid()
}

// count is how many data packets came.
func (e *end) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.received
}

// A duel is two ends that run in one world.
type duel struct {
	*natlab.World
	t    *testing.T
	a, b *end
}

// start lets two nodes of a world meet; they stop with the test.
func start(t *testing.T, w *natlab.World) duel {
	t.Helper()
	d := duel{World: w, t: t, a: newEnd(t, w, w.A, 1), b: newEnd(t, w, w.B, 2)}
	d.a.peer, d.b.peer = d.b, d.a
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		w.Close()
		running.Wait()
	})
	for _, h := range w.Servers {
		server, err := stun.New(stun.Config{})
		if err != nil {
			t.Fatal(err)
		}
		pc, err := h.ListenUDP(3478)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { server.Serve(ctx, pc) })
	}
	for _, e := range []*end{d.a, d.b} {
		running.Go(e.read)
	}
	running.Go(func() { d.a.run(ctx, w.Seed()) })
	running.Go(func() { d.b.run(ctx, w.Seed()) })
	return d
}

// within lets time pass until something holds of both ends, and reports how long
// that took; it fails the test after limit.
func (d duel) within(what string, limit time.Duration, holds func(*end) bool) time.Duration {
	d.t.Helper()
	began := time.Now()
	for time.Since(began) < limit {
		if holds(d.a) && holds(d.b) {
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
	d.t.Errorf("%s: still not after %s: a is by %s (%s) and b by %s (%s)", what, limit,
		d.a.class(), d.a.known().Why, d.b.class(), d.b.known().Why)
	return limit
}

// direct reports whether data goes by a direct path.
func direct(e *end) bool { return e.class() == natlab.Direct }

// are checks what both ends are by.
func (d duel) are(want natlab.Class) {
	d.t.Helper()
	if a, b := d.a.class(), d.b.class(); a != want || b != want {
		d.t.Errorf("a is by %s (%s) and b by %s (%s), want %s", a, d.a.known().Why, b, d.b.known().Why, want)
	}
}

// check looks at both ends after they ran for a while.
func (d duel) check(what string) {
	d.t.Helper()
	for _, e := range []*end{d.a, d.b} {
		e.mu.Lock()
		if e.strange > 0 {
			d.t.Errorf("%s: node %d got %d data packets from addresses that it had not learned, want none", what, e.id[0], e.strange)
		}
		if e.received == 0 {
			d.t.Errorf("%s: node %d got no data", what, e.id[0])
		}
		e.mu.Unlock()
	}
	if d.t.Failed() {
		for _, e := range []*end{d.a, d.b} {
			for _, c := range e.known().Transitions {
				d.t.Logf("node %d at %s: %s to %s (%s): %s", e.id[0], c.At.Format("05.000"), c.From, c.To, c.Addr, c.Why)
			}
		}
		d.t.Logf("%s", tail(d.Log(), 120))
	}
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] == '\n' {
			if lines--; lines < 0 {
				return text[i+1:]
			}
		}
	}
	return text
}

// The engine finds a direct path where the rule says that there is one, for
// every ordered pair of kinds, and none where there is none.
func TestEngineOnEveryPair(t *testing.T) {
	kinds := natlab.Kinds
	kinds = append(kinds[:len(kinds):len(kinds)], natlab.KindNamed("apd-apd").WithIPv6(), natlab.KindNamed("carrier").WithIPv6())
	var slowest time.Duration
	for i, a := range kinds {
		for j, b := range kinds {
			t.Run(fmt.Sprintf("%s and %s", a, b), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := start(t, natlab.Pair(uint64(i*len(kinds)+j), a, b))
					if natlab.Expected(a, b) == natlab.Direct {
						slowest = max(slowest, d.within("direct at first", 5*time.Second, direct))
					}
					time.Sleep(8 * time.Second)
					d.are(natlab.Expected(a, b))
					d.check("at the end")
				})
			})
		}
	}
	t.Logf("the slowest pair was direct after %s", slowest)
}

func TestEngineOnOneLAN(t *testing.T) {
	for _, k := range natlab.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := start(t, natlab.SameLAN(4, k))
				d.within("direct at first", 2*time.Second, direct)
				// Hairpins and servers are further away than the LAN.
				time.Sleep(5 * time.Second)
				for _, e := range []*end{d.a, d.b} {
					e.mu.Lock()
					got, want := e.choice.Direct.Addr(), e.peer.site.Host.Addrs()[0]
					e.mu.Unlock()
					if got != want {
						t.Errorf("node %d sends to %s, want the LAN address %s", e.id[0], got, want)
					}
				}
				d.check("at the end")
			})
		})
	}
}

func TestEngineBehindOneNAT(t *testing.T) {
	for _, hairpin := range []bool{true, false} {
		for _, a := range natlab.Kinds {
			b, shared := natlab.KindNamed("home"), natlab.NAT{Filtering: natlab.AddressAndPortDependent, Hairpin: hairpin}
			t.Run(fmt.Sprintf("hairpin %t, %s and %s", hairpin, a, b), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := start(t, natlab.SameNAT(4, shared, a, b))
					time.Sleep(8 * time.Second)
					d.are(natlab.ExpectedBehind(shared, a, b))
					d.check("at the end")
				})
			})
		}
	}
}

// A direct path that is cut gives way to the relay within a second, and comes
// back when it is mended; so it does when a NAT forgets its mappings.
func TestEngineWhenPathsBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t, natlab.Pair(4, natlab.KindNamed("home"), natlab.KindNamed("carrier")))
		d.within("direct at first", 5*time.Second, direct)
		time.Sleep(20 * time.Second)
		d.Cut(d.A.Edge(), d.B.Edge())
		d.within("by relay after the cut", time.Second, (*end).relayed)
		time.Sleep(20 * time.Second)
		d.are(natlab.Relay)
		d.Mend(d.A.Edge(), d.B.Edge())
		d.within("direct when mended", 61*time.Second, direct) // the longest pause between pings is a minute
		d.check("before the reboot")
		for _, r := range append(d.A.Routers, d.B.Routers...) {
			r.Reboot()
		}
		time.Sleep(5 * time.Second) // the old path is given up by then
		d.within("direct after the reboot", 61*time.Second, direct)
		// Until the new addresses are learned data that comes from them is nobody's.
		// By relay it comes, too.
		began := d.a.count()
		time.Sleep(time.Second)
		if got := d.a.count() - began; got < int(time.Second/dataEvery)-1 {
			t.Errorf("in a second after the reboot: got %d data packets, want one each %s", got, dataEvery)
		}
	})
}
