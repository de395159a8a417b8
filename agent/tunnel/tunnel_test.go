package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/tunnel/netstack"
	"github.com/writmesh/writ/coordinator/key"
)

// within is how long anything in these tests may take before it counts as hung.
const within = 30 * time.Second

func withinContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	t.Cleanup(cancel)
	return ctx
}

// A mesh is nodes whose Binds deliver to each other in memory.
type mesh struct {
	mu    sync.Mutex
	binds map[key.NodeID]*bind.Bind
	down  bool // every Send is refused
}

var errNoPath = errors.New("no path")

// A door is one node's Sender into the mesh.
type door struct {
	m    *mesh
	from key.NodeID
}

func (d door) Send(dst key.NodeID, pkts [][]byte) error {
	d.m.mu.Lock()
	to, down := d.m.binds[dst], d.m.down
	d.m.mu.Unlock()
	if to == nil || down {
		return errNoPath
	}
	for _, p := range pkts {
		to.Deliver(d.from, p)
	}
	return nil
}

func (m *mesh) setDown(down bool) {
	m.mu.Lock()
	m.down = down
	m.mu.Unlock()
}

// A node is a tunnel over a netstack, and what its filters refuse.
type node struct {
	id     key.NodeID
	key    key.WGPrivate
	v4, v6 netip.Addr
	bind   *bind.Bind
	net    *netstack.Device
	tun    *Tunnel

	in, out atomic.Pointer[func([]byte) bool] // nil passes
}

func filter(p *atomic.Pointer[func([]byte) bool]) func([]byte) bool {
	return func(pkt []byte) bool {
		f := p.Load()
		return f == nil || (*f)(pkt)
	}
}

func (m *mesh) node(t testing.TB, n byte) *node {
	t.Helper()
	nd := &node{
		id: key.NodeID{0: n, 31: 1}, key: key.NewWG(),
		v4: netip.AddrFrom4([4]byte{100, 64, 0, n}), v6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n}),
	}
	m.start(t, nd, 1280)
	return nd
}

// start gives nd a tunnel with its present key.
func (m *mesh) start(t testing.TB, nd *node, mtu int) {
	t.Helper()
	var err error
	nd.bind, err = bind.New(bind.Config{Sender: door{m, nd.id}})
	if err != nil {
		t.Fatal(err)
	}
	nd.net, err = netstack.New(netstack.Config{Addrs: []netip.Addr{nd.v4, nd.v6}, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	nd.tun, err = New(Config{Key: nd.key, Device: nd.net, Bind: nd.bind, In: filter(&nd.in), Out: filter(&nd.out)})
	if err != nil {
		t.Fatal(err)
	}
	tn := nd.tun
	t.Cleanup(func() { tn.Close() })
	m.mu.Lock()
	m.binds[nd.id] = nd.bind
	m.mu.Unlock()
}

func (nd *node) peer() Peer {
	return Peer{ID: nd.id, Key: nd.key.Public(), Allowed: []netip.Prefix{
		netip.PrefixFrom(nd.v4, 32), netip.PrefixFrom(nd.v6, 128),
	}}
}

func (nd *node) setPeers(t testing.TB, others ...*node) {
	t.Helper()
	var peers []Peer
	for _, o := range others {
		peers = append(peers, o.peer())
	}
	if err := nd.tun.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
}

func newMesh() *mesh { return &mesh{binds: make(map[key.NodeID]*bind.Bind)} }

// pair is two nodes that are each other's peers.
func pair(t testing.TB) (m *mesh, a, b *node) {
	t.Helper()
	m = newMesh()
	a, b = m.node(t, 1), m.node(t, 2)
	a.setPeers(t, b)
	b.setPeers(t, a)
	return m, a, b
}

// connect opens a TCP connection from a to b, and returns both ends.
func connect(t testing.TB, a, b *node) (client, server *netstack.Conn) {
	t.Helper()
	l, err := b.net.Listen("tcp", netip.AddrPortFrom(b.v4, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.net.Dial(withinContext(t), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	c.SetDeadline(time.Now().Add(within))
	s.SetDeadline(time.Now().Add(within))
	return c.(*netstack.Conn), s.(*netstack.Conn)
}

func stats(t testing.TB, nd *node, of *node) PeerStats {
	t.Helper()
	all, err := nd.tun.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.ID == of.id {
			return s
		}
	}
	t.Fatalf("no statistics of %s", of.id.Short())
	return PeerStats{}
}

func TestNewRefuses(t *testing.T) {
	b, err := bind.New(bind.Config{Sender: door{newMesh(), key.NodeID{}}})
	if err != nil {
		t.Fatal(err)
	}
	dev := tuntest.NewChannelTUN().TUN()
	defer dev.Close()
	pass := func([]byte) bool { return true }
	good := Config{Key: key.NewWG(), Device: dev, Bind: b, In: pass, Out: pass}
	for name, spoil := range map[string]func(*Config){
		"no in":     func(c *Config) { c.In = nil },
		"no out":    func(c *Config) { c.Out = nil },
		"no device": func(c *Config) { c.Device = nil },
		"no bind":   func(c *Config) { c.Bind = nil },
		"no key":    func(c *Config) { c.Key = key.WGPrivate{} },
		"mtu":       func(c *Config) { c.MTU = -1 },
	} {
		cfg := good
		spoil(&cfg)
		if tn, err := New(cfg); err == nil {
			tn.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// A hundred megabytes each way at once, over one connection.
func TestTransferBothWays(t *testing.T) {
	size := 100 << 20
	if testing.Short() || raceEnabled {
		size = 3 << 20
	}
	_, a, b := pair(t)
	client, server := connect(t, a, b)
	deadline := time.Now().Add(4 * within)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	var running sync.WaitGroup
	for _, dir := range []struct {
		name     string
		from, to *netstack.Conn
		seed     byte
	}{{"client to server", client, server, 1}, {"server to client", server, client, 2}} {
		sent := make(chan [32]byte, 1)
		running.Go(func() {
			h := sha256.New()
			src := rand.NewChaCha8([32]byte{dir.seed})
			n, err := io.CopyN(io.MultiWriter(dir.from, h), src, int64(size))
			if err != nil {
				t.Errorf("%s: sent %d bytes, %v", dir.name, n, err)
			}
			dir.from.CloseWrite()
			sent <- [32]byte(h.Sum(nil))
		})
		running.Go(func() {
			h := sha256.New()
			n, err := io.Copy(h, struct{ io.Reader }{dir.to})
			if want := <-sent; err != nil || n != int64(size) || [32]byte(h.Sum(nil)) != want {
				t.Errorf("%s: received %d bytes, %v, hash %x; want %d, %x", dir.name, n, err, h.Sum(nil), size, want)
			}
		})
	}
	running.Wait()
	s := stats(t, a, b)
	if s.TxBytes < uint64(size) || s.RxBytes < uint64(size) || time.Since(s.LastHandshake) > 10*within {
		t.Errorf("statistics: got %+v, want more than %d bytes each way", s, size)
	}
}

func TestPingBothFamilies(t *testing.T) {
	_, a, b := pair(t)
	for _, addr := range []netip.Addr{b.v4, b.v6} {
		if _, err := a.net.Ping(withinContext(t), addr); err != nil {
			t.Error(err)
		}
	}
}

// A peer that is removed hears and is heard no more, from the moment SetPeers
// returns: the other side's filter, which sees every packet that gets through,
// is the witness.
func TestRemovedPeerIsCutAtOnce(t *testing.T) {
	_, a, b := pair(t)
	u, err := a.net.Dial(withinContext(t), "udp", netip.AddrPortFrom(b.v4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var done atomic.Bool
	running.Go(func() {
		for !done.Load() {
			// Nobody listens: what comes of that, an error now and then, is no news.
			_, _ = u.Write(make([]byte, 1000))
			runtime.Gosched()
		}
		u.Close()
	})
	defer running.Wait()
	defer done.Store(true)
	var removed atomic.Bool
	var late atomic.Uint64
	flowing := make(chan struct{})
	var once sync.Once
	watch := func([]byte) bool {
		once.Do(func() { close(flowing) })
		if removed.Load() {
			late.Add(1)
		}
		return true
	}
	b.in.Store(&watch)
	<-flowing
	b.setPeers(t) // b drops a
	removed.Store(true)
	// a goes on sending; that b received some of it shows that time has passed.
	before := b.bind.Stats().Unknown
	await(t, "a to go on sending", func() bool { return b.bind.Stats().Unknown >= before+20 })
	if n := late.Load(); n != 0 {
		t.Errorf("%d packets of a removed peer came through", n)
	}
	if all, _ := b.tun.Stats(); len(all) != 0 {
		t.Errorf("statistics of %d peers, want none", len(all))
	}
}

// An unchanged peer keeps its session through any number of SetPeers.
func TestUnchangedPeerKeepsItsSession(t *testing.T) {
	m, a, b := pair(t)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	before := stats(t, a, b)
	c, d := m.node(t, 3), m.node(t, 4)
	for _, others := range [][]*node{{b, c}, {c, b, d}, {b}, {b, d}} {
		a.setPeers(t, others...)
	}
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	after := stats(t, a, b)
	if !after.LastHandshake.Equal(before.LastHandshake) || after.RxBytes <= before.RxBytes {
		t.Errorf("got %+v after %+v, want the same handshake and more bytes", after, before)
	}
}

// A peer comes back with another key: the old one is gone, the new one works.
func TestKeyRotation(t *testing.T) {
	m, a, b := pair(t)
	client, _ := connect(t, a, b)
	old := b.key.Public()

	// b restarts its tunnel with a new key, and a new stack with the same addresses.
	b.key = key.NewWG()
	b.tun.Close()
	m.start(t, b, 1280)
	b.setPeers(t, a)
	a.setPeers(t, b)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	text, err := a.tun.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, old.Hex()) {
		t.Error("the old key is still there")
	}
	if !strings.Contains(text, b.key.Public().Hex()) {
		t.Error("the new key is not there")
	}
	// The stack behind b is new, and knows nothing of the connection.
	client.Write([]byte("x"))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection to the old stack: got %v, want %v", err, syscall.ECONNRESET)
	}
}

// An address goes from b to c: what a sends there goes to c, and what b sends
// from there is no longer taken.
func TestAddressMoves(t *testing.T) {
	m, a, b := pair(t)
	c := m.node(t, 3)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	moved := netip.PrefixFrom(b.v4, 32)
	pb, pc := b.peer(), c.peer()
	pb.Allowed = pb.Allowed[1:]
	pc.Allowed = append(pc.Allowed, moved)
	if err := a.tun.SetPeers([]Peer{pb, pc}); err != nil {
		t.Fatal(err)
	}
	c.setPeers(t, a)
	got := make(chan netip.Addr, 100)
	watch := func(name *node) *func([]byte) bool {
		f := func(pkt []byte) bool {
			if len(pkt) >= 20 && pkt[0]>>4 == 4 {
				select {
				case got <- name.v4:
				default:
				}
			}
			return true
		}
		return &f
	}
	b.in.Store(watch(b))
	c.in.Store(watch(c))
	ctx, cancel := context.WithCancel(withinContext(t))
	var running sync.WaitGroup
	running.Go(func() { a.net.Ping(ctx, b.v4) })
	if to := <-got; to != c.v4 {
		t.Errorf("the packet went to %s, want %s", to, c.v4)
	}
	cancel()
	running.Wait()
	// The other direction: b speaks from the address that is c's now.
	heard := make(chan string, 100)
	listen := func(pkt []byte) bool {
		heard <- netip.AddrFrom4([4]byte(pkt[12:16])).String()
		return true
	}
	a.in.Store(&listen)
	heardBefore := stats(t, a, b).RxBytes
	bctx, bcancel := context.WithCancel(withinContext(t))
	running.Go(func() { b.net.Ping(bctx, a.v4) })
	await(t, "a's WireGuard to decrypt something of b's", func() bool { return stats(t, a, b).RxBytes > heardBefore })
	bcancel()
	running.Wait()
	select {
	case s := <-heard:
		t.Errorf("a took a packet from %s", s)
	default:
	}
}

func TestSetPeersRefuses(t *testing.T) {
	_, a, b := pair(t)
	other := Peer{ID: key.NodeID{9}, Key: key.NewWG().Public()}
	with := func(change func(*Peer)) []Peer {
		p := other
		change(&p)
		return []Peer{b.peer(), p}
	}
	for name, peers := range map[string][]Peer{
		"no id":            with(func(p *Peer) { p.ID = key.NodeID{} }),
		"no key":           with(func(p *Peer) { p.Key = key.WGPublic{} }),
		"own key":          with(func(p *Peer) { p.Key = a.key.Public() }),
		"same key":         with(func(p *Peer) { p.Key = b.key.Public() }),
		"same node":        with(func(p *Peer) { p.ID = b.id }),
		"same address":     with(func(p *Peer) { p.Allowed = b.peer().Allowed }),
		"no prefix":        with(func(p *Peer) { p.Allowed = []netip.Prefix{{}} }),
		"host bits":        with(func(p *Peer) { p.Allowed = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }),
		"IPv4 as IPv6":     with(func(p *Peer) { p.Allowed = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} }),
		"too many of them": make([]Peer, 1<<16+1),
	} {
		if err := a.tun.SetPeers(peers); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Nothing changed.
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Error(err)
	}
}

// The truth is WireGuard's own account of its peers; the sets come at random.
func TestSetPeersAgainstDevice(t *testing.T) {
	m := newMesh()
	a := m.node(t, 1)
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 3))
		keys := make([]key.WGPublic, 6)
		for i := range keys {
			keys[i] = key.NewWG().Public()
		}
		for step := range 60 {
			ids, owners := rng.Perm(8), rng.Perm(len(keys))
			var peers []Peer
			want := make(map[string]bool)
			for i := range rng.IntN(len(keys) + 1) {
				peers = append(peers, Peer{ID: key.NodeID{byte(1 + ids[i])}, Key: keys[owners[i]]})
			}
			for n := range byte(10) {
				if len(peers) > 0 && rng.IntN(3) > 0 {
					p := &peers[rng.IntN(len(peers))]
					p.Allowed = append(p.Allowed, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 1, n}), 32))
				}
			}
			for _, p := range peers {
				want[fmt.Sprintf("public_key=%s endpoint=%s", p.Key.Hex(), p.ID)] = true
				for _, x := range p.Allowed {
					want[fmt.Sprintf("public_key=%s allowed_ip=%s", p.Key.Hex(), x)] = true
				}
			}
			if err := a.tun.SetPeers(peers); err != nil {
				t.Fatal(err)
			}
			text, err := a.tun.dev.IpcGet()
			if err != nil {
				t.Fatal(err)
			}
			var current string
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				switch name, _, _ := strings.Cut(line, "="); name {
				case "public_key":
					current = line
				case "endpoint", "allowed_ip":
					if !want[current+" "+line] {
						t.Errorf("seed %d step %d: WireGuard has %s %s", seed, step, current, line)
					}
					delete(want, current+" "+line)
				}
			}
			for missing := range want {
				t.Errorf("seed %d step %d: WireGuard lacks %s", seed, step, missing)
			}
			if t.Failed() {
				return
			}
		}
	}
}

// What a filter refuses does not arrive, and does not hold up what it allows.
func TestRefusedPacketsNeverArrive(t *testing.T) {
	_, a, b := pair(t)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	isUDP := func(pkt []byte) bool { return len(pkt) > 28 && pkt[0]>>4 == 4 && pkt[9] == 17 }
	for _, c := range []struct {
		name    string
		where   *atomic.Pointer[func([]byte) bool]
		refused func() uint64
	}{
		{"in", &b.in, func() uint64 { return b.tun.Counters().RefusedIn }},
		{"out", &a.out, func() uint64 { return a.tun.Counters().RefusedOut }},
	} {
		t.Run(c.name, func(t *testing.T) {
			odd := func(pkt []byte) bool { return !isUDP(pkt) || pkt[28]%2 == 0 }
			c.where.Store(&odd)
			defer c.where.Store(nil)
			pc, err := b.net.ListenPacket("udp", netip.AddrPortFrom(b.v4, 53).String())
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			pc.SetDeadline(time.Now().Add(within))
			u, err := a.net.Dial(withinContext(t), "udp", netip.AddrPortFrom(b.v4, 53).String())
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			before := c.refused()
			buf := make([]byte, 10)
			for n := range byte(100) {
				if _, err := u.Write([]byte{n}); err != nil {
					t.Fatal(err)
				}
				if n%2 == 1 {
					continue
				}
				if got, _, err := pc.ReadFrom(buf); err != nil || got != 1 || buf[0] != n {
					t.Fatalf("got %v, %v; want [%d]", buf[:got], err, n)
				}
			}
			// The last one is odd: wait for its refusal.
			await(t, "the last refusal", func() bool { return c.refused() >= before+50 })
			if got := c.refused() - before; got != 50 {
				t.Errorf("%d refused, want 50", got)
			}
		})
	}
}

// reset is the TCP segment that ends the connection of pkt: toward pkt's
// destination (as if from its source), or back. It takes sequence numbers from
// pkt, an IPv4 TCP packet without options.
func reset(pkt []byte, back bool) []byte {
	ihl := int(pkt[0]&15) * 4
	tcp := pkt[ihl:]
	total := int(binary.BigEndian.Uint16(pkt[2:]))
	payload := total - ihl - int(tcp[12]>>4)*4
	src, dst := pkt[12:16], pkt[16:20]
	sport, dport := tcp[0:2], tcp[2:4]
	seq, ack := binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	if back {
		src, dst, sport, dport = dst, src, dport, sport
		seq, ack = ack, seq+uint32(payload)
	}
	r := make([]byte, 40)
	r[0], r[3], r[8], r[9] = 0x45, 40, 64, 6
	copy(r[12:], src)
	copy(r[16:], dst)
	binary.BigEndian.PutUint16(r[10:], ^sum(0, r[:20]))
	t := r[20:]
	copy(t[0:], sport)
	copy(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, 0x14 // RST, ACK
	binary.BigEndian.PutUint16(t[16:], ^sum(sum(6+20, r[12:20]), t))
	return r
}

// sum is the one's complement sum of RFC 1071.
func sum(from uint16, b []byte) uint16 {
	s := uint32(from)
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// The filter of the destination cuts a flow while both ends are idle, and both
// learn of it by a reset, although every packet of the flow is refused from
// then on.
func TestInjectedResetsReachBothEnds(t *testing.T) {
	_, a, b := pair(t)
	last := make(chan []byte, 1000)
	keep := func(pkt []byte) bool {
		if len(pkt) > 20 && pkt[9] == 6 {
			last <- bytes.Clone(pkt)
		}
		return true
	}
	b.in.Store(&keep)
	client, server := connect(t, a, b)
	client.Write([]byte("hello"))
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var pkt []byte
	for pkt == nil || !bytes.HasSuffix(pkt, []byte("hello")) {
		pkt = <-last
	}
	// Both devices are idle: their Reads wait.
	none := func([]byte) bool { return false }
	b.in.Store(&none)
	b.out.Store(&none)
	if !b.tun.InjectIn(reset(advance(pkt, 5), false)) || !b.tun.InjectOut(reset(pkt, true)) {
		t.Fatal("an injection was refused")
	}
	for name, c := range map[string]*netstack.Conn{"client": client, "server": server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want %v", name, err, syscall.ECONNRESET)
		}
		select {
		case <-c.Reset():
		case <-time.After(within):
			t.Errorf("%s: Reset is not closed", name)
		}
	}
}

// advance is pkt with its sequence number n further: what its sender sends next.
func advance(pkt []byte, n uint32) []byte {
	p := bytes.Clone(pkt)
	ihl := int(p[0]&15) * 4
	binary.BigEndian.PutUint32(p[ihl+4:], binary.BigEndian.Uint32(p[ihl+4:])+n)
	return p
}

// Injection is bounded and never blocks, also when nothing drains it.
func TestInjectionIsBounded(t *testing.T) {
	ch := tuntest.NewChannelTUN()
	pass := func([]byte) bool { return true }
	tp := newTap(ch.TUN(), 1280, pass, pass)
	pkt := make([]byte, 40)
	for i := range injectLength {
		if !tp.injectIn(pkt) || !tp.injectOut(pkt) {
			t.Fatalf("packet %d was refused, limit %d", i, injectLength)
		}
	}
	if tp.injectIn(pkt) || tp.injectOut(pkt) {
		t.Error("more than the limit was taken")
	}
	if got := tp.injectFull.Load(); got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
	ch.TUN().Close()
}

// A device that cannot be interrupted: packets cross in both directions, and an
// injection arrives while its Read waits.
func TestDeviceWithoutInterrupt(t *testing.T) {
	m := newMesh()
	b := m.node(t, 2)
	a := &node{id: key.NodeID{0: 1, 31: 1}, key: key.NewWG(), v4: netip.MustParseAddr("100.64.0.1"), v6: netip.MustParseAddr("fd00::1")}
	ch := tuntest.NewChannelTUN()
	if _, ok := ch.TUN().(interrupter); ok {
		t.Fatal("the test device can be interrupted")
	}
	var err error
	if a.bind, err = bind.New(bind.Config{Sender: door{m, a.id}}); err != nil {
		t.Fatal(err)
	}
	m.binds[a.id] = a.bind
	a.tun, err = New(Config{Key: a.key, Device: ch.TUN(), Bind: a.bind, MTU: 1280, In: filter(&a.in), Out: filter(&a.out)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.tun.Close()
	a.setPeers(t, b)
	b.setPeers(t, a)
	arrived := make(chan []byte, 10)
	watch := func(pkt []byte) bool { arrived <- bytes.Clone(pkt); return false }
	b.in.Store(&watch)
	expect := func(what string, want []byte) {
		t.Helper()
		select {
		case got := <-arrived:
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got %x, want %x", what, got, want)
			}
		case <-time.After(within):
			t.Fatalf("%s: nothing arrived", what)
		}
	}
	ping := tuntest.Ping(b.v4, a.v4)
	for range 5 {
		ch.Outbound <- ping
		expect("sent", ping)
		injected := tuntest.Ping(b.v4, a.v4)
		if !a.tun.InjectOut(injected) {
			t.Fatal("refused")
		}
		expect("injected out", injected)
	}
	inbound := tuntest.Ping(a.v4, b.v4)
	if !b.tun.InjectOut(inbound) || !a.tun.InjectIn(inbound) {
		t.Fatal("refused")
	}
	for range 2 {
		select {
		case got := <-ch.Inbound:
			if !bytes.Equal(got, inbound) {
				t.Errorf("inbound: got %x, want %x", got, inbound)
			}
		case <-time.After(within):
			t.Fatal("inbound: nothing arrived")
		}
	}
}

// Traffic waits for a peer that has no path. When the path appears, Retry lets
// it go at once; without it WireGuard would wait for five seconds.
func TestFirstPacketWhenThePathAppears(t *testing.T) {
	m, a, b := pair(t)
	m.setDown(true)
	type result struct {
		conn net.Conn
		err  error
	}
	l, err := b.net.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan result, 1)
	go func() {
		c, err := a.net.Dial(withinContext(t), "tcp", netip.AddrPortFrom(b.v4, 80).String())
		dialled <- result{c, err}
	}()
	await(t, "the handshake to find no path", func() bool { return a.bind.Stats().Unsent > 0 })
	m.setDown(false)
	start := time.Now()
	a.bind.RetryAll()
	r := <-dialled
	took := time.Since(start)
	if r.err != nil {
		t.Fatal(r.err)
	}
	r.conn.Close()
	if got := a.bind.Stats().Retried; got != 1 {
		t.Errorf("%d handshakes were retried, want 1", got)
	}
	// WireGuard's own retry comes after 5 s, the stack's second SYN after 1 s.
	if took > 900*time.Millisecond {
		t.Errorf("the first packet took %v", took)
	}
	t.Logf("connected %v after the path appeared", took)
}

// A peer is added while traffic for it is already being sent.
func TestPeerAddedWhileTrafficWaits(t *testing.T) {
	m := newMesh()
	a, b := m.node(t, 1), m.node(t, 2)
	b.setPeers(t, a)
	sent := make(chan struct{}, 100)
	watch := func([]byte) bool {
		select {
		case sent <- struct{}{}:
		default:
		}
		return true
	}
	a.out.Store(&watch)
	pinged := make(chan error, 1)
	go func() {
		_, err := a.net.Ping(withinContext(t), b.v4)
		pinged <- err
	}()
	<-sent // lost: there is no such peer
	a.setPeers(t, b)
	if err := <-pinged; err != nil {
		t.Error(err)
	}
}

// The bind is closed and opened under traffic, as WireGuard does when its port
// changes.
func TestBindUpdate(t *testing.T) {
	_, a, b := pair(t)
	for range 20 {
		if err := a.tun.dev.BindUpdate(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Error(err)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		m := newMesh()
		a, b := m.node(t, 1), m.node(t, 2)
		a.setPeers(t, b)
		b.setPeers(t, a)
		connect(t, a, b)
		select {
		case <-a.tun.Done():
			t.Error("Done before Close")
		default:
		}
		a.tun.Close()
		a.tun.Close()
		<-a.tun.Done()
		if err := a.tun.SetPeers([]Peer{b.peer(), {ID: key.NodeID{7}, Key: key.NewWG().Public()}}); err == nil {
			t.Error("SetPeers after Close: no error")
		}
		a.tun.InjectIn(make([]byte, 20))
		a.tun.InjectOut(make([]byte, 20))
		b.tun.Close()

		ch := tuntest.NewChannelTUN()
		bd, _ := bind.New(bind.Config{Sender: door{m, key.NodeID{5}}})
		c, err := New(Config{Key: key.NewWG(), Device: ch.TUN(), Bind: bd, In: filter(&a.in), Out: filter(&a.out)})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}()
	waitForGoroutines(t, before)
}

// The device goes away under the tunnel, which notices.
func TestDeviceLost(t *testing.T) {
	before := runtime.NumGoroutine()
	a := newMesh().node(t, 1)
	a.net.Close()
	select {
	case <-a.tun.Done():
	case <-time.After(within):
		t.Fatal("the tunnel goes on without its device")
	}
	a.tun.Close()
	waitForGoroutines(t, before)
}

func waitForGoroutines(t testing.TB, want int) {
	t.Helper()
	await(t, fmt.Sprintf("no more than %d goroutines", want), func() bool { return runtime.NumGoroutine() <= want })
}

// await waits until ok, with everybody else running.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("waited in vain for %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestLogger(t *testing.T) {
	var buf bytes.Buffer
	quiet := logger(slog.New(slog.NewTextHandler(&buf, nil)))
	quiet.Verbosef("a %d", 1)
	quiet.Errorf("b %d", 2)
	if buf.Len() != 0 {
		t.Errorf("at level info: %s", buf.String())
	}
	loud := logger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})))
	loud.Verbosef("a %d", 1)
	loud.Errorf("b %d", 2)
	for _, want := range []string{"level=DEBUG", "wireguard: a 1", "wireguard: b 2"} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("got %s, want %q in it", buf.String(), want)
		}
	}
	logger(nil).Errorf("nowhere")
}

func TestParseStats(t *testing.T) {
	k := key.NewWG().Public()
	known := map[string]key.NodeID{k.Hex(): {1}}
	text := "private_key=00\nlisten_port=1\npublic_key=ff\nrx_bytes=9\npublic_key=" + k.Hex() +
		"\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=7\nrx_bytes=1\ntx_bytes=2\nallowed_ip=1.2.3.4/32\n"
	got, err := parseStats(text, known)
	want := PeerStats{ID: key.NodeID{1}, LastHandshake: time.Unix(5, 7), RxBytes: 1, TxBytes: 2}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseStats("public_key="+k.Hex()+"\nrx_bytes=x\n", known); err == nil {
		t.Error("not a number: no error")
	}
}

// The filters cost no allocation, with any batch.
func TestNoAllocationPerPacket(t *testing.T) {
	pass := func(pkt []byte) bool { return pkt[0] == 0x45 }
	tp := &tap{Device: discard{}, in: pass, out: pass, source: discard{}}
	bufs, sizes := make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 1500)
		bufs[i][16] = byte(0x45 + i%2)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := tp.Read(bufs, sizes, 16); err != nil {
			t.Fatal(err)
		}
		if _, err := tp.Write(bufs, 16); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per batch, want 0", n)
	}
}

// discard is a device that sends and takes without end.
type discard struct{ tun.Device }

func (discard) Interrupt() {}
func (discard) Read(bufs [][]byte, sizes []int, _ int) (int, error) {
	for i := range bufs {
		sizes[i] = 1000
	}
	return len(bufs), nil
}
func (discard) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func BenchmarkTransfer(b *testing.B) {
	for _, mtu := range []int{1280, 9000} {
		b.Run(fmt.Sprintf("mtu=%d", mtu), func(b *testing.B) {
			m := newMesh()
			x := &node{id: key.NodeID{1}, key: key.NewWG(), v4: netip.MustParseAddr("100.64.0.1"), v6: netip.MustParseAddr("fd00::1")}
			y := &node{id: key.NodeID{2}, key: key.NewWG(), v4: netip.MustParseAddr("100.64.0.2"), v6: netip.MustParseAddr("fd00::2")}
			m.start(b, x, mtu)
			m.start(b, y, mtu)
			x.setPeers(b, y)
			y.setPeers(b, x)
			client, server := connect(b, x, y)
			client.SetDeadline(time.Time{})
			server.SetDeadline(time.Time{})
			got := make(chan int64)
			go func() {
				n, _ := io.Copy(io.Discard, struct{ io.Reader }{server})
				got <- n
			}()
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			b.ResetTimer()
			for range b.N {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			client.CloseWrite()
			if n := <-got; n != int64(b.N)*int64(len(buf)) {
				b.Errorf("got %d bytes, want %d", n, int64(b.N)*int64(len(buf)))
			}
			b.ReportMetric(float64(x.net.Dropped()+y.net.Dropped()), "stack-drops")
			b.ReportMetric(float64(x.bind.Stats().Full+y.bind.Stats().Full), "bind-drops")
		})
	}
}
