package underlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/relay/stun"
)

// A lab is nodes on an Internet in memory: each is an Underlay with a socket on a
// host of package natlab, real disco and real STUN servers. The relay is a delay.
//
//	node ── Underlay ── double of bind ── natlab socket ~~~ NATs ~~~ other nodes
//	           └─────── relay ─────────────────────────────────────── other nodes
type lab struct {
	t     *testing.T
	net   *natlab.Net
	relay *relay
	stun  []string // where the servers answer
	nodes []*node

	ctx     context.Context
	running sync.WaitGroup
}

var (
	network1 = key.NetworkID{1}
	prefix6  = netip.MustParsePrefix("fd00:1::/48")
	prefix4  = netip.MustParsePrefix("100.127.0.0/16")
)

// newLab makes a lab in which each server answers on two ports of its first IPv4
// address, and of its first IPv6 address if it has one.
func newLab(t *testing.T, n *natlab.Net, servers ...*natlab.Host) *lab {
	ctx, stop := context.WithCancel(context.Background())
	l := &lab{t: t, net: n, ctx: ctx}
	l.relay = &relay{delay: 20 * time.Millisecond, rand: rand.New(rand.NewPCG(n.Seed(), 7)), nodes: map[key.NodeID]*node{}}
	n.Describe(describe)
	t.Cleanup(func() {
		if t.Failed() {
			l.print()
		}
		for _, x := range l.nodes {
			x.stop()
		}
		stop()
		n.Close()
		l.running.Wait()
	})
	for _, h := range servers {
		for _, port := range []uint16{3478, 3479} {
			l.serve(h, port)
			for _, a := range h.Addrs() {
				l.stun = append(l.stun, netip.AddrPortFrom(a, port).String())
			}
		}
	}
	return l
}

// serve runs a STUN server on a host.
func (l *lab) serve(h *natlab.Host, port uint16) *stun.Server {
	server, err := stun.New(stun.Config{})
	if err != nil {
		l.t.Fatal(err)
	}
	pc, err := h.ListenUDP(port)
	if err != nil {
		l.t.Fatal(err)
	}
	l.running.Go(func() { server.Serve(l.ctx, pc) })
	return server
}

// pair is a lab with the two nodes of a natlab world, each the other's peer.
func pair(t *testing.T, w *natlab.World) (l *lab, a, b *node) {
	l = newLab(t, w.Net, w.Servers[:]...)
	a, b = l.node("a", w.A.Host), l.node("b", w.B.Host)
	l.mesh()
	return l, a, b
}

// mesh makes every node every other's peer.
func (l *lab) mesh() {
	for _, n := range l.nodes {
		n.peers()
	}
}

// print says what happened, for a test that fails.
func (l *lab) print() {
	lines := strings.Split(l.net.Log(), "\n")
	l.t.Logf("%s\n%s\n%s", lines[0], strings.Join(lines[max(1, len(lines)-100):], "\n"), "(the end of natlab's log)")
	for _, n := range l.nodes[:min(len(l.nodes), 4)] {
		for _, o := range l.nodes[:min(len(l.nodes), 4)] {
			if n == o {
				continue
			}
			v := n.u.Verdict(o.id)
			l.t.Logf("%s to %s: %s %+v: %s", n.name, o.name, v.State, v.Choice, v.Why)
			for _, c := range v.Candidates {
				l.t.Logf("    %s %s: %s", c.Kind, c.Addr, c.Result)
			}
			for _, s := range v.Transitions {
				l.t.Logf("    %s %s to %s %v: %s", s.At.Format("05.000"), s.From, s.To, s.Addr, s.Why)
			}
		}
		r, told := n.u.Report()
		l.t.Logf("%s: tells %v, report %+v, dropped %+v", n.name, told, r, n.u.Stats())
	}
}

func describe(p []byte) string {
	switch bind.Classify(p) {
	case bind.Data:
		return "data"
	case bind.Disco:
		return fmt.Sprintf("disco %d", len(p))
	case bind.STUN:
		return "stun"
	}
	return ""
}

// A relay carries packets between nodes.
type relay struct {
	nodes map[key.NodeID]*node // as tests set it up

	mu    sync.Mutex
	rand  *rand.Rand
	delay time.Duration
	loss  float64
	down  bool
	// lie is what the relay says to be the source; nil: the truth.
	lie func(src, dst key.NodeID) key.NodeID
	// saw is told of every packet; nil: nobody is.
	saw func(src, dst key.NodeID, pkt []byte)
}

var errDown = errors.New("no relay")

func (r *relay) set(change func(*relay)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *relay) send(src, dst key.NodeID, packets [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return errDown
	}
	for _, p := range packets {
		p = slices.Clone(p)
		if r.saw != nil {
			r.saw(src, dst, p)
		}
		to, claim := r.nodes[dst], src
		if to == nil || r.rand.Float64() < r.loss {
			continue
		}
		if r.lie != nil {
			claim = r.lie(src, dst)
		}
		boot := to.boots
		time.AfterFunc(r.delay, func() { to.byRelay(claim, p, boot) })
	}
	return nil
}

// A node is an Underlay and the double of its bind.
type node struct {
	l      *lab
	name   string
	host   *natlab.Host
	id     key.NodeID
	secret key.WGPrivate
	conn   *natlab.Conn
	u      *Underlay
	boots  int // how often it started; written while it stands still
	cfg    func(*Config)
	tap    func(pkt []byte) // is given disco packets that come by UDP; nil: nobody is
	read   sync.WaitGroup

	truth // the oracle

	mu sync.Mutex // guards the fields below
	double
	got     map[uint64]time.Time // data by number: when it first came
	strange int                  // data packets from where nobody was learned
	next    uint64
}

// double is the state of the bind.
type double struct {
	choice  map[key.NodeID]path.Choice
	learned map[netip.AddrPort]key.NodeID
	traffic map[key.NodeID]*path.Traffic
	removed []key.NodeID
	asleep  map[key.NodeID]bool // false: Woken was called
	sentTo  int                 // packets of SendTo
	cleared int                 // calls of ClearSources
}

// node puts a node on a host and starts it.
func (l *lab) node(name string, h *natlab.Host, cfg ...func(*Config)) *node {
	n := &node{l: l, name: name, host: h, secret: key.NewWG(), got: map[uint64]time.Time{}, next: uint64(len(l.nodes)+1) << 32}
	n.cfg = func(c *Config) {
		for _, f := range cfg {
			f(c)
		}
	}
	copy(n.id[:], name)
	l.nodes = append(l.nodes, n)
	l.relay.nodes[n.id] = n
	n.start()
	return n
}

// start starts the node, afresh if it ran.
func (n *node) start() {
	var err error
	if n.conn, err = n.host.ListenUDP(0); err != nil {
		n.l.t.Fatal(err)
	}
	n.l.relay.set(func(*relay) { n.boots++ })
	n.mu.Lock()
	n.double = double{
		choice: map[key.NodeID]path.Choice{}, learned: map[netip.AddrPort]key.NodeID{},
		traffic: map[key.NodeID]*path.Traffic{}, asleep: map[key.NodeID]bool{},
	}
	n.mu.Unlock()
	n.truth.reset(n)
	cfg := Config{
		Network: network1, Self: n.id, Key: n.secret, Relays: sender{n},
		Interfaces: func() ([]netcheck.Interface, error) {
			return []netcheck.Interface{{Name: "eth0", Up: true, Addrs: n.host.Addrs()}}, nil
		},
		Rand:    rand.New(rand.NewPCG(n.l.net.Seed(), n.next+uint64(n.boots))),
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no names here") },
	}
	n.cfg(&cfg)
	if n.u, err = New(cfg); err != nil {
		n.l.t.Fatal(err)
	}
	conn := n.conn
	n.read.Go(func() { n.receive(conn) })
	n.u.Start(n)
}

// stop stops the node.
func (n *node) stop() {
	n.u.Close()
	n.conn.Close()
	n.read.Wait()
}

// restart is a new process with the old keys. A bind has another port then.
func (n *node) restart() {
	n.stop()
	n.start()
	n.peers()
}

// peers tells the node of all others.
func (n *node) peers(except ...*node) {
	var peers []Peer
	for _, o := range n.l.nodes {
		if o != n && !slices.Contains(except, o) {
			peers = append(peers, Peer{ID: o.id, WG: o.secret.Public(), Inside: []netip.Addr{o.inside()}})
		}
	}
	n.u.Set(peers, n.l.relays(), Mesh{Prefix6: prefix6, Own: []netip.Addr{n.inside()}})
}

// relays are the policy's.
func (l *lab) relays() []leaf.Relay { return []leaf.Relay{{Name: "relay", STUN: l.stun}} }

// inside is the node's address in the mesh.
func (n *node) inside() netip.Addr {
	a := prefix4.Addr().As4()
	a[3] = byte(slices.Index(n.l.nodes, n) + 1)
	return netip.AddrFrom4(a)
}

// sender is the node as Relays.
type sender struct{ n *node }

func (s sender) Send(dst key.NodeID, packets [][]byte) error {
	return s.n.l.relay.send(s.n.id, dst, packets)
}

// byRelay takes a packet from the relay; what it held for an earlier start is
// lost.
func (n *node) byRelay(src key.NodeID, pkt []byte, boot int) {
	n.l.relay.mu.Lock()
	current := n.boots == boot
	u := n.u
	n.l.relay.mu.Unlock()
	switch {
	case !current:
	case disco.Is(pkt):
		u.Relayed(src, pkt)
	default:
		n.data(pkt, netip.AddrPort{})
	}
}

// receive reads the socket until it is closed, as the bind does.
func (n *node) receive(conn *natlab.Conn) {
	b := make([]byte, bind.MaxPacket+1)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		switch bind.Classify(b[:size]) {
		case bind.Data:
			n.data(slices.Clone(b[:size]), from)
		case bind.Disco:
			n.truth.arrived(from, b[:size])
			if n.tap != nil {
				n.tap(b[:size])
			}
			n.u.Control(from, b[:size])
		case bind.STUN:
			n.u.Control(from, b[:size])
		}
	}
}

// A data packet has WireGuard's form: type 4, three zeros, and 28 bytes, of which
// these tests use 8 for a number and the rest for the sender's id.
func dataPacket(from key.NodeID, number uint64) []byte {
	p := append([]byte{4, 0, 0, 0}, make([]byte, 8)...)
	binary.BigEndian.PutUint64(p[4:], number)
	return append(p, from[:20]...)
}

// data takes a data packet: by UDP, or by relay if from is zero.
func (n *node) data(pkt []byte, from netip.AddrPort) {
	var src key.NodeID
	copy(src[:], pkt[12:])
	number := binary.BigEndian.Uint64(pkt[4:])
	n.mu.Lock()
	if _, twice := n.got[number]; !twice {
		n.got[number] = time.Now()
	}
	t := n.counters(src)
	switch {
	case !from.IsValid():
		t.RelayReceived++
	case n.learned[from] == src:
		t.DirectReceived++
	default:
		n.strange++
	}
	wake := n.rouse(src)
	n.mu.Unlock()
	if wake {
		n.u.Woken(src)
	}
}

// counters are those of a peer; n.mu is held.
func (n *node) counters(id key.NodeID) *path.Traffic {
	if n.traffic[id] == nil {
		n.traffic[id] = new(path.Traffic)
	}
	return n.traffic[id]
}

// rouse reports whether the peer slept; n.mu is held.
func (n *node) rouse(id key.NodeID) bool {
	asleep, known := n.asleep[id]
	if known && !asleep {
		return false
	}
	n.asleep[id] = false
	return true
}

// send sends a data packet as the bind would, and returns its number.
func (n *node) send(to *node) uint64 {
	n.mu.Lock()
	n.next++
	number := n.next
	c, t := n.choice[to.id], n.counters(to.id)
	wake := n.rouse(to.id)
	pkt := dataPacket(n.id, number)
	conn := n.conn
	n.mu.Unlock()
	if wake {
		n.u.Woken(to.id)
	}
	if c.Direct.IsValid() {
		if _, err := conn.WriteToUDPAddrPort(pkt, c.Direct); err != nil {
			n.u.Failed(to.id, c.Direct, err)
			c.Relay = true
		} else {
			n.mu.Lock()
			t.DirectSent++
			n.mu.Unlock()
		}
	}
	if (c.Relay || !c.Direct.IsValid()) && n.l.relay.send(n.id, to.id, [][]byte{pkt}) == nil {
		n.mu.Lock()
		t.RelaySent++
		n.mu.Unlock()
	}
	return number
}

// stream has both nodes send to each other until stopped.
func (l *lab) stream(a, b *node, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(l.ctx)
	var done sync.WaitGroup
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		done.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				x[0].send(x[1])
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	stop = func() {
		cancel()
		done.Wait()
	}
	l.t.Cleanup(stop)
	return stop
}

// The double of package bind.

func (n *node) Use(id key.NodeID, c path.Choice) {
	n.truth.used(id, c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.choice[id] = c
	n.asleep[id] = c == path.Choice{}
}

func (n *node) Learn(addr netip.AddrPort, id key.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.learned[addr] = id
}

func (n *node) Unlearn(addr netip.AddrPort, id key.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.learned[addr] == id {
		delete(n.learned, addr)
	}
}

func (n *node) Remove(id key.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = append(n.removed, id)
	delete(n.choice, id)
	delete(n.asleep, id)
	delete(n.traffic, id)
	for a, who := range n.learned {
		if who == id {
			delete(n.learned, a)
		}
	}
}

func (n *node) ClearSources() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cleared++
}

func (n *node) SendTo(addr netip.AddrPort, pkt []byte) error {
	if prefix4.Contains(addr.Addr()) || prefix6.Contains(addr.Addr()) {
		n.l.t.Errorf("%s sends to %s, which is inside the mesh", n.name, addr)
	}
	n.truth.sent(addr, pkt)
	n.mu.Lock()
	n.sentTo++
	n.mu.Unlock()
	_, err := n.conn.WriteToUDPAddrPort(pkt, addr)
	return err
}

func (n *node) LocalPort() uint16 { return n.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (n *node) Traffic(id key.NodeID) path.Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	return *n.counters(id)
}

// truth checks what the Underlay has the bind do against what passed the socket.
// It opens the packets with pairs of its own.
type truth struct {
	n *node

	tmu    sync.Mutex
	mine   map[key.NodeID]*disco.Pair // of this node, by peer
	theirs map[key.NodeID]*disco.Pair // of peers with this node, by peer
	pings  map[disco.TxID]netip.AddrPort
	proved map[netip.AddrPort]*[2]bool // own ping answered; peer said Proved
	who    map[netip.AddrPort]key.NodeID
}

func (o *truth) reset(n *node) {
	o.tmu.Lock()
	defer o.tmu.Unlock()
	o.n = n
	o.mine, o.theirs = map[key.NodeID]*disco.Pair{}, map[key.NodeID]*disco.Pair{}
	o.pings, o.proved = map[disco.TxID]netip.AddrPort{}, map[netip.AddrPort]*[2]bool{}
	o.who = map[netip.AddrPort]key.NodeID{}
}

// open finds the node that a packet is between this one and, with the pairs of one
// side; o.tmu is held.
func (o *truth) open(pkt []byte, incoming bool) (key.NodeID, disco.Message) {
	pairs := o.theirs
	if incoming {
		pairs = o.mine
	}
	for _, peer := range o.n.l.nodes {
		if peer == o.n {
			continue
		}
		p := pairs[peer.id]
		if p == nil {
			self, of := disco.NewSelf(o.n.secret, network1, o.n.id, time.Now()), peer
			if !incoming {
				self, of = disco.NewSelf(peer.secret, network1, peer.id, time.Now()), o.n
			}
			var err error
			if p, err = self.Pair(of.secret.Public(), of.id); err != nil {
				o.n.l.t.Error(err)
				return key.NodeID{}, nil
			}
			pairs[peer.id] = p
		}
		if m, err := p.Open(pkt); err == nil {
			return peer.id, m
		}
	}
	return key.NodeID{}, nil
}

// sent takes a packet of SendTo.
func (o *truth) sent(to netip.AddrPort, pkt []byte) {
	if !disco.Is(pkt) {
		return
	}
	o.tmu.Lock()
	defer o.tmu.Unlock()
	if _, m := o.open(pkt, false); m != nil {
		if ping, ok := m.(*disco.Ping); ok {
			o.pings[ping.Tx] = to
		}
	}
}

// arrived takes a packet from the socket.
func (o *truth) arrived(from netip.AddrPort, pkt []byte) {
	o.tmu.Lock()
	defer o.tmu.Unlock()
	id, m := o.open(pkt, true)
	at := o.proved[from]
	if at == nil || o.who[from] != id {
		at = new([2]bool)
	}
	switch m := m.(type) {
	case *disco.Ping:
		at[1] = at[1] || m.Proved
	case *disco.Pong:
		at[0] = at[0] || o.pings[m.Tx] == from
		at[1] = at[1] || m.Proved
	default:
		return
	}
	o.proved[from], o.who[from] = at, id
}

// used takes what the bind is told.
func (o *truth) used(id key.NodeID, c path.Choice) {
	if !c.Direct.IsValid() {
		return
	}
	o.tmu.Lock()
	defer o.tmu.Unlock()
	if at := o.proved[c.Direct]; at == nil || *at != [2]bool{true, true} || o.who[c.Direct] != id {
		o.n.l.t.Errorf("%s sends data for %s to %s: proved there %v for %s, want both ways for that peer", o.n.name, id.Short(), c.Direct, at, o.who[c.Direct].Short())
	}
}

// What tests ask.

func (n *node) to(o *node) path.Choice {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.choice[o.id]
}

// arrivals is when each of the data packets came that did, in order of time.
func (n *node) arrivals() (at []time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.got {
		at = append(at, t)
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// longestGap is the longest time without a data packet since began.
func (n *node) longestGap(began time.Time) (gap time.Duration) {
	last := began
	for _, t := range n.arrivals() {
		if t.After(last) {
			gap = max(gap, t.Sub(last))
			last = t
		}
	}
	return max(gap, time.Since(last))
}

// bothDirect reports whether data goes by a direct path both ways; also by relay
// it may.
func bothDirect(a, b *node) func() bool {
	return func() bool { return a.to(b).Direct.IsValid() && b.to(a).Direct.IsValid() }
}

// bothOnlyDirect is bothDirect with nothing by relay.
func bothOnlyDirect(a, b *node) func() bool {
	return func() bool { return bothDirect(a, b)() && !a.to(b).Relay && !b.to(a).Relay }
}

// bothRelayed reports whether data goes by relay both ways, and no other way.
func bothRelayed(a, b *node) func() bool {
	return func() bool { return !a.to(b).Direct.IsValid() && !b.to(a).Direct.IsValid() }
}

// within lets time pass until something holds, and says how long that took.
func (l *lab) within(what string, limit time.Duration, holds func() bool) time.Duration {
	l.t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		if holds() {
			return time.Since(began)
		}
		if time.Since(began) >= limit {
			l.t.Fatalf("%s: still not after %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// count counts what comes to a socket that nobody of the mesh has: packets of the
// path engine, and data.
func (l *lab) count(conn *natlab.Conn) (hits func() (probes, data int)) {
	var mu sync.Mutex
	var probes, data int
	l.running.Go(func() {
		b := make([]byte, bind.MaxPacket)
		for {
			n, _, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mu.Lock()
			if bind.Classify(b[:n]) == bind.Data {
				data++
			} else {
				probes++
			}
			mu.Unlock()
		}
	})
	return func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return probes, data
	}
}

// forget has the pairs with a peer made anew: its key is another, or this node
// forgot it.
func (o *truth) forget(id key.NodeID) {
	o.tmu.Lock()
	defer o.tmu.Unlock()
	delete(o.mine, id)
	delete(o.theirs, id)
}
