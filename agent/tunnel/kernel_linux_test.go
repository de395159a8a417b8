package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/tunnel/kernel"
	"github.com/writmesh/writ/coordinator/key"
)

// A kernelNode is a tunnel over the kernel's device, in a network namespace that
// one thread holds and nobody else enters:
//
//	namespace of a                                      namespace of b
//	programs ─ writ0 ─ tunnel ◄── Binds in memory ──► tunnel ─ writ0 ─ programs
//	  100.64.0.1, fd00::1                               100.64.0.2, fd00::2
type kernelNode struct {
	*node
	calls chan func()
}

func (n *kernelNode) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() { defer close(done); f() }
	<-done
}

// newKernelDevice makes the device of a node.
func newKernelDevice() (tun.Device, error) {
	return kernel.New(kernel.Config{Name: "writ0", MTU: 1280})
}

// kernelNode skips loudly for who may not make a namespace; a run that must be
// complete (CI) is root's.
func (m *mesh) kernelNode(t testing.TB, n byte, create func() (tun.Device, error)) *kernelNode {
	t.Helper()
	kn := &kernelNode{calls: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for f := range kn.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		if os.Getenv("CI") != "true" && errors.Is(err, unix.EPERM) {
			t.Skipf("SKIPPED: tunnels over kernel devices are not tested: a network namespace needs root: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { close(kn.calls) })
	var dev tun.Device
	var err error
	kn.do(func() { dev, err = create() })
	if err != nil {
		t.Fatal(err)
	}
	nd := &node{
		id: key.NodeID{0: n, 31: 1}, key: key.NewWG(),
		v4: netip.AddrFrom4([4]byte{100, 64, 0, n}), v6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n}),
	}
	kn.node = nd
	if nd.bind, err = bind.New(bind.Config{Sender: door{m, nd.id}, Unknown: m.called(nd)}); err != nil {
		t.Fatal(err)
	}
	nd.tun, err = New(Config{Key: nd.key, Device: dev, Bind: nd.bind, Idle: m.idle, MTU: 1280, In: filter(&nd.in), Out: filter(&nd.out)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nd.tun.Close() })
	m.mu.Lock()
	m.binds[nd.id] = nd.bind
	m.mu.Unlock()
	for _, args := range []string{
		"link set writ0 addrgenmode none",
		"addr add " + nd.v4.String() + "/24 dev writ0",
		"addr add " + nd.v6.String() + "/64 dev writ0 nodad",
		"link set writ0 up",
	} {
		var out []byte
		kn.do(func() { out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput() })
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	return kn
}

func kernelPair(t testing.TB, create func() (tun.Device, error)) (a, b *kernelNode) {
	t.Helper()
	m := newMesh()
	m.idle = minIdle
	a, b = m.kernelNode(t, 1, create), m.kernelNode(t, 2, create)
	a.setPeers(t, b.node)
	b.setPeers(t, a.node)
	return a, b
}

// kernelConnect opens a connection between programs of a and b.
func kernelConnect(t testing.TB, a, b *kernelNode, to netip.Addr) (client, server *net.TCPConn) {
	t.Helper()
	var l net.Listener
	var c net.Conn
	var err error
	b.do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(to, 80).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.do(func() { c, err = (&net.Dialer{Timeout: within}).Dial("tcp", l.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// Programs talk over both devices and WireGuard between them, in both families,
// with peers that are configured by the first packet.
func TestKernelDevice(t *testing.T) {
	a, b := kernelPair(t, newKernelDevice)
	if a.tun.tap.pump != nil {
		t.Error("the kernel's device needs a pump")
	}
	const size = 8 << 20
	for _, to := range []netip.Addr{b.v4, b.v6} {
		start := time.Now()
		client, server := kernelConnect(t, a, b, to)
		if took := time.Since(start); took > 900*time.Millisecond {
			t.Errorf("%s: the first connection took %v: a packet was lost", to, took)
		}
		client.SetDeadline(time.Now().Add(within))
		server.SetDeadline(time.Now().Add(within))
		sent := make(chan [32]byte, 1)
		go func() {
			h := sha256.New()
			if _, err := io.CopyN(io.MultiWriter(client, h), rand.NewChaCha8([32]byte{1}), size); err != nil {
				t.Error(err)
			}
			client.CloseWrite()
			sent <- [32]byte(h.Sum(nil))
		}()
		h := sha256.New()
		n, err := io.Copy(h, server)
		if want := <-sent; err != nil || n != size || [32]byte(h.Sum(nil)) != want {
			t.Errorf("%s: got %d bytes, %v, hash %x; want %d, %x", to, n, err, h.Sum(nil), size, want)
		}
	}
}

// The filter's own packets reach both ends while the devices are idle.
func TestKernelDeviceInjects(t *testing.T) {
	a, b := kernelPair(t, newKernelDevice)
	last := make(chan []byte, 1000)
	keep := func(pkt []byte) bool {
		if len(pkt) > 20 && pkt[0]>>4 == 4 && pkt[9] == 6 {
			last <- bytes.Clone(pkt)
		}
		return true
	}
	b.in.Store(&keep)
	client, server := kernelConnect(t, a, b, b.v4)
	client.SetDeadline(time.Now().Add(within))
	server.SetDeadline(time.Now().Add(within))
	client.Write([]byte("hello"))
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var pkt []byte
	for pkt == nil || !bytes.HasSuffix(pkt, []byte("hello")) {
		pkt = <-last
	}
	none := func([]byte) bool { return false }
	b.in.Store(&none)
	b.out.Store(&none)
	if !b.tun.InjectIn(reset(advance(pkt, 5), false)) || !b.tun.InjectOut(reset(pkt, true)) {
		t.Fatal("an injection was refused")
	}
	for name, c := range map[string]*net.TCPConn{"client": client, "server": server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: got %v, want %v", name, err, unix.ECONNRESET)
		}
	}
}

// One TCP connection through two kernel devices and two tunnels, in one process,
// with and without the limit.
func BenchmarkKernelTransfer(b *testing.B) {
	for _, limit := range []int{maxInFlight, 1 << 30} {
		name := fmt.Sprintf("limit=%d", limit)
		if limit > maxInFlight {
			name = "limit=none"
		}
		b.Run(name, func(b *testing.B) {
			x, y := kernelPair(b, newKernelDevice)
			for _, n := range []*kernelNode{x, y} {
				for _, g := range []*gate{n.tun.tap.inGate, n.tun.tap.outGate} {
					g.mu.Lock()
					g.limit = limit
					g.mu.Unlock()
				}
			}
			client, server := kernelConnect(b, x, y, y.v4)
			got := make(chan int64)
			go func() {
				n, _ := io.Copy(io.Discard, struct{ io.Reader }{server})
				got <- n
			}()
			buf := make([]byte, 256<<10)
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
			b.ReportMetric(float64(x.bind.Stats().Full+y.bind.Stats().Full), "bind-drops")
			b.ReportMetric(float64(x.tun.tap.outGate.waits.Load()), "waits-out")
			b.ReportMetric(float64(y.tun.tap.inGate.waits.Load()), "waits-in")
		})
	}
}

// Small datagrams as fast as a program can send them, read by this module's
// device and by wireguard-go's. Loss stands beside the rate: faster with drops
// is not faster.
func BenchmarkKernelDatagrams(b *testing.B) {
	for _, c := range []struct {
		name   string
		create func() (tun.Device, error)
	}{
		{"kernel", newKernelDevice},
		{"wireguard-go", func() (tun.Device, error) { return tun.CreateTUN("writ0", 1280) }},
	} {
		b.Run("64B/"+c.name, func(b *testing.B) {
			x, y := kernelPair(b, c.create)
			client, _ := kernelConnect(b, x, y, y.v4)
			client.Close() // there is a session now
			var received atomic.Uint64
			count := func(pkt []byte) bool {
				if len(pkt) == 92 && pkt[9] == 17 {
					received.Add(1)
				}
				return false
			}
			y.in.Store(&count)
			var u net.Conn
			var err error
			x.do(func() { u, err = net.Dial("udp", netip.AddrPortFrom(y.v4, 9).String()) })
			if err != nil {
				b.Fatal(err)
			}
			defer u.Close()
			buf := make([]byte, 64)
			b.ResetTimer()
			for range b.N {
				if _, err := u.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			took := b.Elapsed()
			b.ReportMetric(float64(received.Load())/took.Seconds(), "packets/s")
			b.ReportMetric(100*(1-float64(received.Load())/float64(b.N)), "%lost")
		})
	}
}
