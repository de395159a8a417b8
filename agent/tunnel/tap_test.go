package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
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

// The filters cost no allocation, with any batch.
func TestNoAllocationPerPacket(t *testing.T) {
	pass := func(pkt []byte) bool { return pkt[0] == 0x45 }
	tp := newTap(discard{}, 0, pass, pass)
	m := &member{peer: Peer{Allowed: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/32")}}}
	m.configured.Store(true)
	tp.routes.Store(newRoutes(map[key.NodeID]*member{{1}: m}))
	tp.outGate.leave(&m.out, 0) // it moves
	bufs, sizes := make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 1500)
		bufs[i][16] = byte(0x45 + i%2)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := tp.Read(bufs, sizes, 16); err != nil {
			t.Fatal(err)
		}
		tp.outGate.leave(&m.out, 64) // WireGuard sent the half that passed
		if _, err := tp.Write(bufs, 16); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per batch, want 0", n)
	}
	if got := tp.outGate.total; got != 0 {
		t.Errorf("%d packets are inside, want none", got)
	}
}

// discard is a device that sends and takes without end.
type discard struct{ tun.Device }
