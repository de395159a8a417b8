package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// within is how long anything in these tests may take before it counts as hung.
const within = 30 * time.Second

// A namespace is a network of its own, held by one thread. Nothing in it
// touches the machine's network; it ends with its last thread, socket and
// device.
//
//	namespace a                         namespace b
//	programs ─ writ0 ◄── a copier in the test ──► writ0 ─ programs
//	      10.99.0.1, fd99::1                 10.99.0.2, fd99::2
type namespace struct {
	calls chan func()
	dev   *Device
	v4    netip.Addr
	v6    netip.Addr
}

// newNamespace skips the test loudly for who may not make one; a test run that
// must be complete (CI) is run by root.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{calls: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nobody else
		// is put into its network.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		if os.Getenv("CI") != "true" && errors.Is(err, unix.EPERM) {
			t.Skipf("SKIPPED: kernel devices are not tested: a network namespace needs root: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.calls) })
	return n
}

// do runs f on the namespace's thread.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() { defer close(done); f() }
	<-done
}

func (n *namespace) device(t *testing.T, mtu int) *Device {
	t.Helper()
	var dev *Device
	var err error
	n.do(func() { dev, err = New(Config{Name: "writ0", MTU: mtu}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	n.dev = dev
	return dev
}

// ip runs the command of that name in the namespace.
func (n *namespace) ip(t *testing.T, args string) {
	t.Helper()
	var out []byte
	var err error
	n.do(func() { out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput() })
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// up gives the device addresses that end in host, and no traffic of its own.
func (n *namespace) up(t *testing.T, host byte) {
	t.Helper()
	n.v4, n.v6 = netip.AddrFrom4([4]byte{10, 99, 0, host}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 15: host})
	n.ip(t, "link set writ0 addrgenmode none")
	n.ip(t, "addr add "+n.v4.String()+"/24 dev writ0")
	n.ip(t, "addr add "+n.v6.String()+"/64 dev writ0 nodad")
	n.ip(t, "link set writ0 up")
}

// batch is what WireGuard reads into.
func batch() (bufs [][]byte, sizes []int) {
	bufs, sizes = make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16-1)
	}
	return bufs, sizes
}

const offset = 16

// copier carries packets from one device to another until the first is closed,
// through see, which may be nil.
func copier(t *testing.T, from, to *Device, see func(pkt []byte)) {
	bufs, sizes := batch()
	out := make([][]byte, 0, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, offset)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			return
		}
		out = out[:0]
		for i := range n {
			if see != nil {
				see(bufs[i][offset : offset+sizes[i]])
			}
			out = append(out, bufs[i][:offset+sizes[i]])
		}
		if _, err := to.Write(out, offset); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	}
}

// pair is two namespaces whose devices are joined. What see is told are the
// packets as they come out of a.
func pair(t *testing.T, see func(pkt []byte)) (a, b *namespace) {
	t.Helper()
	a, b = newNamespace(t), newNamespace(t)
	a.device(t, 1380)
	b.device(t, 1380)
	a.up(t, 1)
	b.up(t, 2)
	var running sync.WaitGroup
	running.Go(func() { copier(t, a.dev, b.dev, see) })
	running.Go(func() { copier(t, b.dev, a.dev, nil) })
	t.Cleanup(func() {
		a.dev.Close()
		b.dev.Close()
		running.Wait()
		if x := a.dev.Invalid() + b.dev.Invalid(); x != 0 {
			t.Errorf("%d packets of the kernel's were refused", x)
		}
	})
	return a, b
}

// The kernel's own segments are cut right: what its TCP sends arrives at the
// other kernel's, which verifies every checksum.
func TestTransfer(t *testing.T) {
	var longest atomic.Int64
	a, b := pair(t, func(pkt []byte) { longest.Store(max(longest.Load(), int64(len(pkt)))) })
	const size = 32 << 20
	for _, dst := range []netip.Addr{b.v4, b.v6} {
		var l net.Listener
		var c net.Conn
		var err error
		b.do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 80).String()) })
		if err != nil {
			t.Fatal(err)
		}
		a.do(func() { c, err = (&net.Dialer{Timeout: within}).Dial("tcp", l.Addr().String()) })
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		deadline := time.Now().Add(within)
		c.SetDeadline(deadline)
		s.SetDeadline(deadline)
		sent := make(chan [32]byte, 1)
		go func() {
			h := sha256.New()
			_, err := io.CopyN(io.MultiWriter(c, h), rand.NewChaCha8([32]byte{1}), size)
			if err != nil {
				t.Error(err)
			}
			c.(*net.TCPConn).CloseWrite()
			sent <- [32]byte(h.Sum(nil))
		}()
		h := sha256.New()
		n, err := io.Copy(h, s)
		if want := <-sent; err != nil || n != size || [32]byte(h.Sum(nil)) != want {
			t.Errorf("%s: got %d bytes, %v, hash %x; want %d, %x", dst, n, err, h.Sum(nil), size, want)
		}
		c.Close()
		s.Close()
	}
	if got := longest.Load(); got != 1380 {
		t.Errorf("the longest packet was %d bytes, want 1380", got)
	}
}

// Datagrams arrive in their order and unharmed, those that the kernel was given
// in one piece (UDP_SEGMENT) and empty ones among them.
func TestDatagramsKeepTheirOrder(t *testing.T) {
	a, b := pair(t, nil)
	for _, dst := range []netip.Addr{b.v4, b.v6} {
		var pc, c *net.UDPConn
		var err error
		b.do(func() { pc, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9))) })
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		a.do(func() { c, err = net.DialUDP("udp", nil, pc.LocalAddr().(*net.UDPAddr)) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		pc.SetDeadline(time.Now().Add(within))
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		buf := make([]byte, 2000)
		var next uint32
		for range 300 {
			// One piece of up to 40 datagrams, cut by the kernel or by us, then
			// perhaps an empty one.
			size, count := 8+rng.IntN(1200), 1+rng.IntN(40)
			piece := make([]byte, 0, size*count)
			var want [][]byte
			for range count {
				d := make([]byte, size)
				binary.BigEndian.PutUint32(d, next)
				next++
				for i := 4; i < len(d); i++ {
					d[i] = byte(rng.Uint32())
				}
				piece = append(piece, d...)
				want = append(want, d)
			}
			for len(piece) > 60000 {
				piece, want = piece[:len(piece)-size], want[:len(want)-1]
			}
			if rng.IntN(2) == 0 {
				want[len(want)-1] = want[len(want)-1][:4]
				piece = piece[:len(piece)-size+4]
			}
			if err := segmentedWrite(raw, piece, size); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(2) == 0 {
				want = append(want, nil)
				if _, err := c.Write(nil); err != nil {
					t.Fatal(err)
				}
			}
			more := []byte("and one behind")
			want = append(want, more)
			if _, err := c.Write(more); err != nil {
				t.Fatal(err)
			}
			for i, w := range want {
				n, _, err := pc.ReadFrom(buf)
				if err != nil || !bytes.Equal(buf[:n], w) {
					t.Fatalf("%s: datagram %d of %d: got %x, %v; want %x", dst, i, len(want), buf[:n], err, w)
				}
			}
		}
	}
}

// segmentedWrite sends b as datagrams of size bytes, in one call.
func segmentedWrite(raw syscall.RawConn, b []byte, size int) error {
	var failed error
	err := raw.Write(func(fd uintptr) bool {
		oob := make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
		binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
		_, failed = unix.SendmsgN(int(fd), b, oob, nil, 0)
		return failed != unix.EAGAIN
	})
	return errors.Join(err, failed)
}

// One wake-up reads all that is there: this is the reason for the package.
func TestReadTakesAllThatWaits(t *testing.T) {
	n := newNamespace(t)
	dev := n.device(t, 1380)
	n.up(t, 1)
	var c net.Conn
	var err error
	n.do(func() { c, err = net.Dial("udp", "10.99.0.2:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range byte(200) {
		if _, err := c.Write([]byte{i}); err != nil {
			t.Fatal(err)
		}
	}
	bufs, sizes := batch()
	for _, want := range []int{128, 72} {
		got, err := dev.Read(bufs, sizes, offset)
		if got != want || err != nil {
			t.Errorf("read %d packets, %v; want %d", got, err, want)
		}
	}
}

// A wide segment is cut into more packets than the batch holds; the rest comes
// with the next Read.
func TestRestOfASuperpacket(t *testing.T) {
	n := newNamespace(t)
	dev := n.device(t, 1380)
	n.up(t, 1)
	var c *net.UDPConn
	var err error
	n.do(func() {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.99.0.2:9")))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 60*1000)
	for i := range 60 {
		piece[i*1000] = byte(i)
	}
	if err := segmentedWrite(raw, piece, 1000); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := batch()
	next := 0
	for _, want := range []int{25, 25, 10} {
		got, err := dev.Read(bufs[:25], sizes, offset)
		if got != want || err != nil {
			t.Fatalf("read %d packets, %v; want %d", got, err, want)
		}
		for i := range got {
			if pkt := bufs[i][offset : offset+sizes[i]]; len(pkt) != 1028 || pkt[28] != byte(next) {
				t.Errorf("packet %d is %x, %d bytes", next, pkt[28], len(pkt))
			}
			next++
		}
	}
}

func TestInterruptAndClose(t *testing.T) {
	n := newNamespace(t)
	dev := n.device(t, 1380)
	bufs, sizes := batch()
	type result struct {
		n   int
		err error
	}
	read := func() chan result {
		c := make(chan result, 1)
		go func() { n, err := dev.Read(bufs, sizes, offset); c <- result{n, err} }()
		return c
	}
	get := func(c chan result) result {
		t.Helper()
		select {
		case r := <-c:
			return r
		case <-time.After(within):
			t.Fatal("Read does not return")
			return result{}
		}
	}
	for range 100 {
		c := read() // may wait already or not
		dev.Interrupt()
		if r := get(c); r.n != 0 || r.err != nil {
			t.Fatalf("interrupted: got %d packets, %v; want none", r.n, r.err)
		}
	}
	dev.Interrupt()
	dev.Interrupt()
	if r := get(read()); r.n != 0 || r.err != nil {
		t.Errorf("interrupted before: got %d packets, %v; want none", r.n, r.err)
	}
	// Once answered, an interrupt is over: the next Read has a packet.
	n.up(t, 1)
	c := read()
	n.do(func() {
		u, err := net.Dial("udp", "10.99.0.2:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer u.Close()
		u.Write([]byte("x"))
	})
	if r := get(c); r.n != 1 || r.err != nil {
		t.Errorf("got %d packets, %v; want 1", r.n, r.err)
	}
	c = read()
	dev.Close()
	if r := get(c); !errors.Is(r.err, os.ErrClosed) {
		t.Errorf("closed: got %v, want %v", r.err, os.ErrClosed)
	}
	if r := get(read()); !errors.Is(r.err, os.ErrClosed) {
		t.Errorf("read after Close: got %v, want %v", r.err, os.ErrClosed)
	}
	dev.Interrupt()
	if _, ok := <-dev.Events(); ok {
		t.Error("an event, want none")
	}
	var err error
	n.do(func() { _, err = net.InterfaceByName("writ0") })
	if err == nil {
		t.Error("the device is still there")
	}
}

func TestDeviceRemovedByOthers(t *testing.T) {
	n := newNamespace(t)
	dev := n.device(t, 1380)
	bufs, sizes := batch()
	done := make(chan error, 1)
	go func() { _, err := dev.Read(bufs, sizes, offset); done <- err }()
	n.ip(t, "link del writ0")
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(within):
		t.Fatal("Read goes on without its device")
	}
	if _, err := dev.Write([][]byte{make([]byte, offset+40)}, offset); err == nil {
		t.Error("write: no error")
	}
}

// What is not ours is refused: also a TUN device that is there for anybody to
// open.
func TestNameInUse(t *testing.T) {
	n := newNamespace(t)
	n.device(t, 1380)
	n.ip(t, "tuntap add dev idle mode tun")
	for _, name := range []string{"writ0", "idle", "lo"} {
		n.do(func() {
			d, err := New(Config{Name: name, MTU: 1380})
			if err == nil {
				d.Close()
				t.Errorf("%s: taken", name)
			} else if !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: got %v, want that the name is in use", name, err)
			}
		})
	}
	n.ip(t, "link show idle") // it is still there
}

func TestDeviceIsWhatWasAsked(t *testing.T) {
	n := newNamespace(t)
	dev := n.device(t, 1420)
	var i *net.Interface
	var err error
	n.do(func() { i, err = net.InterfaceByName("writ0") })
	if err != nil || i.MTU != 1420 || i.Flags&net.FlagUp != 0 {
		t.Errorf("the kernel has %+v, %v; want mtu 1420, down", i, err)
	}
	mtu, _ := dev.MTU()
	if name, _ := dev.Name(); mtu != 1420 || name != "writ0" || dev.BatchSize() != 128 {
		t.Errorf("got name %s, mtu %d, batch %d", name, mtu, dev.BatchSize())
	}
}

// Without the capability the refusal names it; with it alone, root is not
// needed.
func TestPrivileges(t *testing.T) {
	for _, c := range []struct {
		name string
		caps uint32
	}{{"none", 0}, {"CAP_NET_ADMIN", 1 << unix.CAP_NET_ADMIN}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNamespace(t)
			n.do(func() { // on a thread that ends with the test
				h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				data := [2]unix.CapUserData{{Effective: c.caps, Permitted: c.caps}}
				if err := unix.Capset(&h, &data[0]); err != nil {
					t.Error(err)
					return
				}
				d, err := New(Config{Name: "writ0", MTU: 1380})
				switch {
				case c.caps != 0 && err != nil:
					t.Error(err)
				case c.caps == 0 && err == nil:
					t.Error("no error")
				case err != nil && !strings.Contains(err.Error(), "CAP_NET_ADMIN"):
					t.Errorf("got %v, want CAP_NET_ADMIN named", err)
				}
				if err == nil {
					d.Close()
				}
			})
		})
	}
}

func TestConfigRefused(t *testing.T) {
	for _, c := range []Config{
		{MTU: 1380}, {Name: "sixteen-bytes-xx", MTU: 1380}, {Name: "a/b", MTU: 1380}, {Name: "a b", MTU: 1380},
		{Name: "writ%d", MTU: 1380}, {Name: ".", MTU: 1380}, {Name: "..", MTU: 1380}, {Name: "é", MTU: 1380},
		{Name: "writ0"}, {Name: "writ0", MTU: 1279}, {Name: "writ0", MTU: 9001},
	} {
		if d, err := New(c); err == nil {
			d.Close()
			t.Errorf("%+v: no error", c)
		}
	}
}
