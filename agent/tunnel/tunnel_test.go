package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	"testing"
	"time"

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

	idle    time.Duration // of the nodes started from now on
	running sync.WaitGroup
}

// lazily makes newMesh one whose nodes configure their peers when needed.
var lazily bool

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
	nd.bind, err = bind.New(bind.Config{Sender: door{m, nd.id}, Unknown: m.called(nd)})
	if err != nil {
		t.Fatal(err)
	}
	nd.net, err = netstack.New(netstack.Config{Addrs: []netip.Addr{nd.v4, nd.v6}, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	nd.tun, err = New(Config{Key: nd.key, Device: nd.net, Bind: nd.bind, Idle: m.idle, In: filter(&nd.in), Out: filter(&nd.out)})
	if err != nil {
		t.Fatal(err)
	}
	tn := nd.tun
	t.Cleanup(func() { tn.Close() })
	m.mu.Lock()
	m.binds[nd.id] = nd.bind
	m.mu.Unlock()
}

// called is what nd does about a packet from a node that its Bind does not know.
func (m *mesh) called(nd *node) func(src key.NodeID, pkt []byte) {
	if m.idle == 0 {
		return nil
	}
	return func(src key.NodeID, pkt []byte) {
		pkt = bytes.Clone(pkt)
		m.running.Go(func() {
			if nd.tun.Configure(src) == nil {
				nd.bind.Deliver(src, pkt)
			}
		})
	}
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

func newMesh() *mesh {
	m := &mesh{binds: make(map[key.NodeID]*bind.Bind)}
	if lazily {
		m.idle = minIdle
	}
	return m
}

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
		"idle time": func(c *Config) { c.Idle = minIdle - 1 },
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
	quiet := (&Tunnel{log: slog.New(slog.NewTextHandler(&buf, nil))}).logger()
	quiet.Verbosef("a %d", 1)
	quiet.Errorf("b %d", 2)
	if buf.Len() != 0 {
		t.Errorf("at level info: %s", buf.String())
	}
	loud := (&Tunnel{log: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))}).logger()
	loud.Verbosef("a %d", 1)
	loud.Errorf("b %d", 2)
	for _, want := range []string{"level=DEBUG", "wireguard: a 1", "wireguard: b 2"} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("got %s, want %q in it", buf.String(), want)
		}
	}
	(&Tunnel{}).logger().Errorf("nowhere")
}

func (discard) Interrupt() {}
func (discard) Read(bufs [][]byte, sizes []int, _ int) (int, error) {
	for i := range bufs {
		sizes[i] = 1000
	}
	return len(bufs), nil
}
func (discard) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func BenchmarkTransfer(b *testing.B) {
	for _, c := range []struct{ mtu, limit int }{{1280, maxInFlight}, {1280, 1 << 30}, {9000, maxInFlight}, {9000, 1 << 30}} {
		mtu := c.mtu
		limited := "limit=none"
		if c.limit == maxInFlight {
			limited = fmt.Sprintf("limit=%d", c.limit)
		}
		b.Run(fmt.Sprintf("mtu=%d/%s", mtu, limited), func(b *testing.B) {
			m := newMesh()
			x := &node{id: key.NodeID{1}, key: key.NewWG(), v4: netip.MustParseAddr("100.64.0.1"), v6: netip.MustParseAddr("fd00::1")}
			y := &node{id: key.NodeID{2}, key: key.NewWG(), v4: netip.MustParseAddr("100.64.0.2"), v6: netip.MustParseAddr("fd00::2")}
			m.start(b, x, mtu)
			m.start(b, y, mtu)
			for _, n := range []*node{x, y} {
				for _, g := range []*gate{n.tun.tap.inGate, n.tun.tap.outGate} {
					g.mu.Lock()
					g.limit = c.limit
					g.mu.Unlock()
				}
			}
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
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			b.ReportMetric(float64(mem.HeapSys-mem.HeapReleased)/1e6, "MB-heap")
			b.ReportMetric(float64(x.tun.Counters().Expired+y.tun.Counters().Expired), "expired")
			b.ReportMetric(float64(x.tun.tap.outGate.waits.Load()), "waits-out")
			b.ReportMetric(float64(y.tun.tap.inGate.waits.Load()), "waits-in")
			b.ReportMetric(float64(x.net.Dropped()+y.net.Dropped()), "stack-drops")
			b.ReportMetric(float64(x.bind.Stats().Full+y.bind.Stats().Full), "bind-drops")
		})
	}
}
