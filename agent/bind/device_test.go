package bind

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
)

// A cable is the relay between two Binds, in memory.
type cable struct {
	from key.NodeID
	to   *Bind
}

func (c *cable) Send(_ key.NodeID, pkts [][]byte) error {
	for _, p := range pkts {
		c.to.Deliver(c.from, p)
	}
	return nil
}

// A wgNode is a WireGuard device over a Bind with sockets.
type wgNode struct {
	id   key.NodeID
	key  key.WGPrivate
	addr netip.Addr
	bind *Bind
	tun  *tuntest.ChannelTUN
	dev  *device.Device
}

// An accepting device tells the Bind of what WireGuard writes, as the tunnel does.
type accepting struct {
	tun.Device
	bind *Bind
	from key.NodeID
}

func (a *accepting) Write(bufs [][]byte, offset int) (int, error) {
	a.bind.Accepted(a.from, bufs)
	return a.Device.Write(bufs, offset)
}

func newWGNode(t testing.TB, n byte, relay Sender) *wgNode {
	t.Helper()
	w := &wgNode{
		id: node(n), key: key.NewWG(), addr: netip.AddrFrom4([4]byte{100, 64, 0, n}),
		bind: newBind(t, Config{Sender: relay, UDP: true}), tun: tuntest.NewChannelTUN(),
	}
	w.bind.SetKey(w.key.Public())
	w.dev = device.NewDevice(&accepting{w.tun.TUN(), w.bind, node(3 - n)}, w.bind, device.NewLogger(device.LogLevelSilent, ""))
	w.dev.DisableSomeRoamingForBrokenMobileSemantics()
	t.Cleanup(w.dev.Close)
	return w
}

// up configures other as the peer, and starts.
func (w *wgNode) up(t testing.TB, other *wgNode) {
	t.Helper()
	if err := w.dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/32\n",
		w.key.Hex(), other.key.Public().Hex(), other.id, other.addr)); err != nil {
		t.Fatal(err)
	}
	if err := w.dev.Up(); err != nil {
		t.Fatal(err)
	}
}

func (w *wgNode) at() netip.AddrPort { return netip.AddrPortFrom(loop4, w.bind.LocalPort()) }

// ip is an IPv4 packet from w to other with a number.
func (w *wgNode) ip(other *wgNode, number uint32) []byte {
	p := make([]byte, 24)
	p[0], p[3], p[8], p[9] = 0x45, 24, 64, 253
	copy(p[12:], w.addr.AsSlice())
	copy(p[16:], other.addr.AsSlice())
	binary.BigEndian.PutUint32(p[20:], number)
	return p
}

// burst sends n packets from a to b, and returns how many of them arrived before
// the deadline. None may arrive twice.
func burst(t *testing.T, a, b *wgNode, first, n uint32, deadline time.Duration) (arrived uint32) {
	t.Helper()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			a.tun.Outbound <- a.ip(b, first+i)
		}
	}()
	defer func() { <-sent }()
	seen := make(map[uint32]bool)
	timeout := time.After(deadline)
	for arrived < n {
		select {
		case p := <-b.tun.Inbound:
			number := binary.BigEndian.Uint32(p[20:])
			if seen[number] {
				t.Errorf("packet %d arrived twice", number)
			}
			if seen[number] = true; number >= first && number < first+n {
				arrived++
			}
		case <-timeout:
			return arrived
		}
	}
	return arrived
}

func wgPair(t testing.TB) (a, b *wgNode) {
	toA, toB := &cable{from: node(2)}, &cable{from: node(1)}
	a, b = newWGNode(t, 1, toB), newWGNode(t, 2, toA)
	toA.to, toB.to = a.bind, b.bind
	a.up(t, b)
	b.up(t, a)
	return a, b
}

// Two WireGuard devices, whose choices change under traffic: nothing is lost and
// nothing comes twice, whatever they choose, and WireGuard's endpoint stays.
func TestChoiceChangesUnderTraffic(t *testing.T) {
	a, b := wgPair(t)
	a.bind.Learn(b.at(), b.id)
	b.bind.Learn(a.at(), a.id)
	choices := func(at netip.AddrPort) []path.Choice {
		return []path.Choice{{}, {Direct: at}, {Direct: at, Relay: true}, {Relay: true}}
	}
	const n = 64
	var number uint32
	for i := range 4 * 4 * 2 {
		a.bind.Use(b.id, choices(b.at())[i%4])
		b.bind.Use(a.id, choices(a.at())[i/4%4])
		for _, way := range [][2]*wgNode{{a, b}, {b, a}} {
			if got := burst(t, way[0], way[1], number, n, within); got != n {
				t.Fatalf("round %d: %d of %d packets arrived", i, got, n)
			}
			number += n
		}
	}
	for _, w := range []*wgNode{a, b} {
		conf, err := w.dev.IpcGet()
		if err != nil || !strings.Contains(conf, "endpoint=nid:") {
			t.Errorf("WireGuard's endpoint is no node any more: %v\n%s", err, conf)
		}
	}
	got := a.bind.Traffic(b.id)
	// Half of the rounds use a path, half of those it alone. The copies that were
	// second may wait in the socket still, so that only the latter are sure.
	if half := uint64(n * 16); got.DirectSent < half || got.RelaySent < half || got.DirectReceived < half/2 || got.RelayReceived < half/2 {
		t.Errorf("traffic %+v: want at least %d sent and %d received by each", got, half, half/2)
	}
	if s := a.bind.Stats(); s.Refused != 0 || s.Unsent != 0 || s.Foreign != 0 {
		t.Errorf("stats %+v: want nothing refused, unsent or foreign", s)
	}
}

// The direct path swallows what it is given: with both paths nothing is lost;
// with the direct one alone everything is, so that it was the relay that carried.
func TestBothPathsWhileOneIsDead(t *testing.T) {
	a, b := wgPair(t)
	const n = 100 // WireGuard holds 128 while it shakes hands
	if got := burst(t, a, b, 0, n, within); got != n {
		t.Fatalf("by relay: %d of %d arrived", got, n)
	}
	_, hole := outsider(t, loop4)
	a.bind.Use(b.id, path.Choice{Direct: hole, Relay: true})
	if got := burst(t, a, b, n, n, within); got != n {
		t.Errorf("both, one of them dead: %d of %d arrived", got, n)
	}
	a.bind.Use(b.id, path.Choice{Direct: hole})
	if got := burst(t, a, b, 2*n, n, 300*time.Millisecond); got != 0 {
		t.Errorf("dead alone: %d of %d arrived, want none", got, n)
	}
	// Back: what is sent from now on arrives.
	a.bind.Use(b.id, path.Choice{Direct: b.at()})
	if got := burst(t, a, b, 3*n, n, within); got != n {
		t.Errorf("direct: %d of %d arrived", got, n)
	}
}

// Every handshake comes by both paths at once, the same moment. A session that is
// begun twice counts from zero again, so that its packets are replays: as many are
// lost as were sent before. Without Repeated some of these rounds fail.
func TestHandshakesBothWays(t *testing.T) {
	for round := range uint32(30) {
		a, b := wgPair(t)
		a.bind.Learn(b.at(), b.id)
		b.bind.Learn(a.at(), a.id)
		a.bind.Use(b.id, path.Choice{Direct: b.at()})
		b.bind.Use(a.id, path.Choice{Direct: a.at()})
		for i := range uint32(3) {
			if got := burst(t, a, b, 100*i, 20, within); got != 20 {
				t.Fatalf("round %d, burst %d: %d of 20 arrived", round, i, got)
			}
		}
		// What b sends is behind the response in a's socket.
		if got := burst(t, b, a, 1000, 20, within); got != 20 {
			t.Fatalf("round %d, back: %d of 20 arrived", round, got)
		}
		if got := a.bind.Stats().Repeated + b.bind.Stats().Repeated; got < 2 {
			t.Errorf("round %d: %d copies dropped, want those of the initiation and the response", round, got)
		}
		a.dev.Close()
		b.dev.Close()
	}
}

// After a peer's NAT moved it, its data comes from an address that is nobody's
// yet, and is taken.
func TestDataOfStranger(t *testing.T) {
	a, b := wgPair(t)
	a.bind.Use(b.id, path.Choice{Direct: b.at()})
	if got := burst(t, a, b, 0, 100, within); got != 100 {
		t.Fatalf("%d of 100 arrived", got)
	}
	if s := b.bind.Stats(); s.Strangers < 100 || s.Unasked < 1 {
		t.Errorf("got %+v, want all data a stranger's and the handshake's copy dropped", s)
	}
}

// BindUpdate is what follows a change of networks: the sockets are closed and
// opened again under WireGuard, and traffic goes on.
func TestBindUpdate(t *testing.T) {
	a, b := wgPair(t)
	a.bind.Learn(b.at(), b.id)
	b.bind.Learn(a.at(), a.id)
	a.bind.Use(b.id, path.Choice{Direct: b.at()})
	b.bind.Use(a.id, path.Choice{Direct: a.at()})
	was := a.at()
	for i := range uint32(5) {
		if got := burst(t, a, b, 100*i, 50, within); got != 50 {
			t.Fatalf("opening %d: %d of 50 arrived", i, got)
		}
		if err := a.dev.BindUpdate(); err != nil {
			t.Fatal(err)
		}
		if a.at() != was {
			t.Fatalf("opening %d: at %s, was at %s", i, a.at(), was)
		}
	}
	if got := a.bind.Stats().Refused; got != 0 {
		t.Errorf("%d packets refused, want none", got)
	}
}
