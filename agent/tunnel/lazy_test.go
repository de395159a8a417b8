package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/coordinator/key"
)

// What holds for peers that WireGuard always knows holds for those that it knows
// only when needed.
func TestLazily(t *testing.T) {
	lazily = true
	defer func() { lazily = false }()
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"TransferBothWays", TestTransferBothWays},
		{"PingBothFamilies", TestPingBothFamilies},
		{"FirstPacketWhenThePathAppears", TestFirstPacketWhenThePathAppears},
		{"BindUpdate", TestBindUpdate},
		{"CloseLeavesNothingBehind", TestCloseLeavesNothingBehind},
		{"DeviceLost", TestDeviceLost},
		{"RemovedPeerIsCutAtOnce", TestRemovedPeerIsCutAtOnce},
		{"UnchangedPeerKeepsItsSession", TestUnchangedPeerKeepsItsSession},
		{"KeyRotation", TestKeyRotation},
		{"AddressMoves", TestAddressMoves},
		{"SetPeersRefuses", TestSetPeersRefuses},
		{"PeerAddedWhileTrafficWaits", TestPeerAddedWhileTrafficWaits},
		{"RefusedPacketsNeverArrive", TestRefusedPacketsNeverArrive},
		{"InjectedResetsReachBothEnds", TestInjectedResetsReachBothEnds},
	} {
		t.Run(c.name, c.test)
	}
}

func lazyPair(t testing.TB) (m *mesh, a, b *node) {
	t.Helper()
	lazily = true
	defer func() { lazily = false }()
	return pair(t)
}

// knows is WireGuard's own account of whether it knows a key.
func (nd *node) knows(t testing.TB, other *node) bool {
	t.Helper()
	stats := stats(t, nd, other)
	device := nd.tun.dev.LookupPeer(other.key.Public().Bytes()) != nil
	if stats.Configured != device {
		t.Errorf("statistics say configured %v, WireGuard %v", stats.Configured, device)
	}
	return device
}

// Nobody is configured until there is a packet, and then both ends are; nobody
// is after the idle time, and the counts remain.
func TestPeersComeAndGo(t *testing.T) {
	m, a, b := lazyPair(t)
	c := m.node(t, 3)
	a.setPeers(t, b, c)
	if a.knows(t, b) || a.knows(t, c) || b.knows(t, a) {
		t.Error("WireGuard knows peers before there is a packet")
	}
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	if !a.knows(t, b) || !b.knows(t, a) || a.knows(t, c) {
		t.Error("after a packet WireGuard knows other peers than the one it was for")
	}
	before := stats(t, a, b)
	now := time.Now()
	a.tun.sweep(now) // sees that it was active
	if !a.knows(t, b) {
		t.Error("an active peer was removed")
	}
	a.tun.sweep(now.Add(minIdle - time.Second))
	if !a.knows(t, b) {
		t.Error("a peer was removed before the idle time")
	}
	a.tun.sweep(now.Add(minIdle))
	if a.knows(t, b) {
		t.Error("an idle peer was not removed")
	}
	idle := stats(t, a, b)
	before.Configured = false
	if idle != before {
		t.Errorf("statistics of the idle peer: got %+v, want %+v", idle, before)
	}
	for range 2 { // b first notices that its own session is of no use
		b.tun.sweep(now)
		b.tun.sweep(now.Add(time.Hour))
	}
	if b.knows(t, a) {
		t.Error("an idle peer was not removed")
	}
	// It comes back, from the other side too.
	if _, err := b.net.Ping(withinContext(t), a.v6); err != nil {
		t.Fatal(err)
	}
	if after := stats(t, a, b); !after.Configured || after.RxBytes <= idle.RxBytes || !after.LastHandshake.After(idle.LastHandshake) {
		t.Errorf("got %+v after %+v", after, idle)
	}
}

// One side is idle and forgets, the other does not: the next packet of either
// finds its way without waiting for a retransmission of WireGuard's.
func TestOneSideForgets(t *testing.T) {
	_, a, b := lazyPair(t)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	a.tun.sweep(time.Now())
	a.tun.sweep(time.Now().Add(time.Hour))
	// b answers a's new handshakes at most once in 20 ms.
	<-time.After(50 * time.Millisecond)
	start := time.Now()
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("the first packet took %v", took)
	}
}

func TestConfigure(t *testing.T) {
	m, a, b := lazyPair(t)
	c := m.node(t, 3)
	if err := a.tun.Configure(c.id); !errors.Is(err, ErrNotPeer) {
		t.Errorf("a stranger: got %v, want %v", err, ErrNotPeer)
	}
	for range 2 {
		if err := a.tun.Configure(b.id); err != nil {
			t.Error(err)
		}
	}
	if !a.knows(t, b) {
		t.Error("WireGuard does not know it")
	}
	a.setPeers(t)
	if err := a.tun.Configure(b.id); !errors.Is(err, ErrNotPeer) {
		t.Errorf("a removed peer: got %v, want %v", err, ErrNotPeer)
	}
	a.setPeers(t, b)
	a.tun.Close()
	if err := a.tun.Configure(b.id); err == nil || errors.Is(err, ErrNotPeer) {
		t.Errorf("after Close: got %v, want another error", err)
	}
}

// A node that was restarted has a session before it has anything to say, and so
// the other side, which has one that is of no use any more, can send to it.
func TestHandshake(t *testing.T) {
	m, a, b := lazyPair(t)
	c := m.node(t, 3)
	if err := a.tun.Handshake(c.id); !errors.Is(err, ErrNotPeer) {
		t.Errorf("a stranger: got %v, want %v", err, ErrNotPeer)
	}
	began := func() time.Time {
		for deadline := time.Now().Add(within); ; runtime.Gosched() {
			s := stats(t, b, a)
			if !s.LastHandshake.IsZero() {
				return s.LastHandshake
			}
			if time.Now().After(deadline) {
				t.Fatalf("no session within %v", within)
			}
		}
	}
	if err := a.tun.Handshake(b.id); err != nil {
		t.Error(err)
	}
	first := began()
	// Where there is a session it stays.
	if err := a.tun.Handshake(b.id); err != nil {
		t.Error(err)
	}
	if _, err := b.net.Ping(withinContext(t), a.v4); err != nil {
		t.Error(err)
	}
	if again := began(); !again.Equal(first) {
		t.Errorf("sessions began at %v and %v, want one", first, again)
	}
	a.setPeers(t)
	if err := a.tun.Handshake(b.id); !errors.Is(err, ErrNotPeer) {
		t.Errorf("a removed peer: got %v, want %v", err, ErrNotPeer)
	}
	b.tun.Close()
	if err := b.tun.Handshake(a.id); err != nil {
		t.Errorf("after Close: got %v, want none: there is nobody to shake hands with", err)
	}
}

// A wire is a tunnel over a device of the test's.
type wire struct {
	*node
	ch *tuntest.ChannelTUN
}

func (m *mesh) wire(t testing.TB, n byte) *wire {
	t.Helper()
	nd := &node{id: key.NodeID{0: n, 31: 1}, key: key.NewWG(), v4: netip.AddrFrom4([4]byte{100, 64, 0, n}), v6: netip.AddrFrom16([16]byte{0: 0xfd, 15: n})}
	w := &wire{nd, tuntest.NewChannelTUN()}
	var err error
	if nd.bind, err = bind.New(bind.Config{Sender: door{m, nd.id}, Unknown: m.called(nd)}); err != nil {
		t.Fatal(err)
	}
	nd.tun, err = New(Config{Key: nd.key, Device: w.ch.TUN(), Bind: nd.bind, Idle: m.idle, MTU: 1280, In: filter(&nd.in), Out: filter(&nd.out)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nd.tun.Close() })
	m.mu.Lock()
	m.binds[nd.id] = nd.bind
	m.mu.Unlock()
	return w
}

// numbered is a packet that carries n.
func numbered(src, dst netip.Addr, n uint32) []byte {
	pkt := make([]byte, 32)
	pkt[0], pkt[3], pkt[8], pkt[9] = 0x45, 32, 64, 17
	s, d := src.As4(), dst.As4()
	copy(pkt[12:], s[:])
	copy(pkt[16:], d[:])
	binary.BigEndian.PutUint32(pkt[28:], n)
	return pkt
}

func number(pkt []byte) uint32 { return binary.BigEndian.Uint32(pkt[28:]) }

// Packets that were held go before those that came later, in their order, and
// none is lost below the limit.
func TestHeldPacketsKeepTheirOrder(t *testing.T) {
	lazily = true
	defer func() { lazily = false }()
	m := newMesh()
	a, b := m.wire(t, 1), m.wire(t, 2)
	a.setPeers(t, b.node)
	b.setPeers(t, a.node)
	got := make(chan uint32, 1000)
	watch := func(pkt []byte) bool { got <- number(pkt); return false }
	b.in.Store(&watch)

	// While SetPeers is at work nobody is configured, and packets are held.
	a.tun.peers.mu.Lock()
	for n := range uint32(40) {
		a.ch.Outbound <- numbered(a.v4, b.v4, n)
	}
	await(t, "40 packets to be held", func() bool { return a.tun.Counters().Held == 40 })
	a.tun.peers.mu.Unlock()
	for n := range uint32(20) {
		a.ch.Outbound <- numbered(a.v4, b.v4, 40+n)
	}
	for want := range uint32(60) {
		select {
		case n := <-got:
			if n != want {
				t.Fatalf("got packet %d, want %d", n, want)
			}
		case <-time.After(within):
			t.Fatalf("packet %d does not arrive; %+v", want, a.tun.Counters())
		}
	}
	if c := a.tun.Counters(); c.HeldFull+c.HeldLost+c.NoSession+c.Unrouted != 0 {
		t.Errorf("packets were dropped: %+v", c)
	}
}

// What is held is bounded, and goes when its peer goes.
func TestHeldPacketsAreBounded(t *testing.T) {
	lazily = true
	defer func() { lazily = false }()
	m := newMesh()
	a, b := m.wire(t, 1), m.wire(t, 2)
	a.setPeers(t, b.node)
	a.tun.peers.mu.Lock()
	for n := range uint32(maxHeld + 10) {
		a.ch.Outbound <- numbered(a.v4, b.v4, n)
	}
	await(t, "ten to find no room", func() bool { return a.tun.Counters().HeldFull == 10 })
	a.tun.peers.mu.Unlock()
	await(t, "b to be configured", func() bool { return a.tun.dev.LookupPeer(b.key.Public().Bytes()) != nil })
}

// What is held goes when its member goes or cannot be configured, and the bytes
// of all are bounded too.
func TestHeldPacketsAreDropped(t *testing.T) {
	pass := func([]byte) bool { return true }
	ch := tuntest.NewChannelTUN()
	defer ch.TUN().Close()
	tp := newTap(ch.TUN(), 1280, pass, pass)
	m := &member{}
	for _, why := range []*atomic.Bool{&m.failed, &m.gone} {
		lost := tp.heldLost.Load()
		for range 3 {
			tp.hold(m, make([]byte, 100))
		}
		if tp.heldBytes != 300 || len(tp.calls.take()) != 1 {
			t.Errorf("%d bytes are held, want 300, and one call", tp.heldBytes)
		}
		why.Store(true)
		tp.wake()
		if n := tp.release(nil, nil, 0); n != 0 || tp.heldBytes != 0 || len(tp.holding) != 0 || m.held != nil {
			t.Errorf("%d released, %d bytes and %d members are left", n, tp.heldBytes, len(tp.holding))
		}
		if got := tp.heldLost.Load() - lost; got != 3 {
			t.Errorf("counted %d, want 3", got)
		}
	}
	big := make([]byte, maxHeldBytes/10)
	for range 12 {
		tp.hold(&member{}, big)
	}
	if tp.heldBytes > maxHeldBytes || tp.heldFull.Load() != 2 {
		t.Errorf("%d bytes are held, %d packets found no room; want 10 of 12 held", tp.heldBytes, tp.heldFull.Load())
	}
}

// A member whose prefix lies within another's is always configured: WireGuard
// would take its addresses for the other's.
func TestShadowedPeerIsAlwaysConfigured(t *testing.T) {
	m, a, b := lazyPair(t)
	c := m.node(t, 3)
	pb := Peer{ID: b.id, Key: b.key.Public(), Allowed: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/24")}}
	if err := a.tun.SetPeers([]Peer{pb, c.peer()}); err != nil {
		t.Fatal(err)
	}
	if a.knows(t, b) || !a.knows(t, c) {
		t.Error("want the inner peer configured and the outer not")
	}
	a.tun.sweep(time.Now().Add(time.Hour))
	if !a.knows(t, c) {
		t.Error("it was removed for being idle")
	}
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Error(err)
	}
}

// routes against a search through all prefixes.
func TestRoutes(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	addr := func() netip.Addr {
		if rng.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(rng.IntN(3)), byte(rng.IntN(3)), byte(rng.IntN(3))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(rng.IntN(3)), 15: byte(rng.IntN(3))})
	}
	for range 200 {
		members := make(map[key.NodeID]*member)
		owner := make(map[netip.Prefix]*member)
		for i := range byte(6) {
			m := &member{id: key.NodeID{i}}
			members[m.id] = m
			for range 3 {
				a := addr()
				bits := a.BitLen()
				if rng.IntN(2) == 0 {
					bits -= rng.IntN(bits + 1)
				}
				p, _ := a.Prefix(bits)
				if owner[p] == nil {
					owner[p] = m
					m.peer.Allowed = append(m.peer.Allowed, p)
				}
			}
		}
		r := newRoutes(members)
		for range 50 {
			a := addr()
			var want *member
			best := -1
			for p, m := range owner {
				if p.Contains(a) && p.Bits() > best {
					want, best = m, p.Bits()
				}
			}
			pkt := make([]byte, 40)
			pkt[0] = 0x45
			if a.Is6() {
				pkt[0] = 0x60
				copy(pkt[24:], a.AsSlice())
			} else {
				copy(pkt[16:], a.AsSlice())
			}
			if got := r.to(pkt); got != want {
				t.Fatalf("seed %d: to %s: got %v, want %v", seed, a, got, want)
			}
			if a.Is6() {
				copy(pkt[8:], a.AsSlice())
			} else {
				copy(pkt[12:], a.AsSlice())
			}
			if got := r.from(pkt); got != want {
				t.Fatalf("seed %d: from %s: got %v, want %v", seed, a, got, want)
			}
		}
		for _, m := range members {
			want := false
			for _, p := range m.peer.Allowed {
				for q, other := range owner {
					want = want || other != m && q.Bits() < p.Bits() && q.Contains(p.Addr())
				}
			}
			if got := r.shadowed(m); got != want {
				t.Fatalf("seed %d: %v shadowed: got %v, want %v", seed, m.peer.Allowed, got, want)
			}
		}
	}
	for _, pkt := range [][]byte{nil, {0x45}, {0: 0x45, 18: 0}, {0: 0x60, 38: 0}, make([]byte, 60)} {
		if newRoutes(nil).to(pkt) != nil || newRoutes(nil).from(pkt) != nil {
			t.Errorf("%x has a route", pkt)
		}
	}
}

// Random changes of the peers, packets, idle times and calls, against a model
// that knows whose each address is. Packets reach the owner of their address, and
// never a node that was not its owner at any time since they were sent.
func TestRandomLife(t *testing.T) {
	lazily = true
	defer func() { lazily = false }()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 7))
	steps := 60
	if testing.Short() || raceEnabled {
		steps = 25
	}
	m := newMesh()
	a := m.wire(t, 1)
	var others []*wire
	type arrival struct {
		at *wire
		n  uint32
	}
	arrived := make(chan arrival, 1<<16)
	for i := range byte(4) {
		b := m.wire(t, 2+i)
		b.setPeers(t, a.node)
		watch := func(pkt []byte) bool { arrived <- arrival{b, number(pkt)}; return false }
		b.in.Store(&watch)
		others = append(others, b)
	}
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 1, byte(i)}) }
	const addresses = 6
	owner := make(map[int]*wire)
	declared := make(map[*wire]bool)
	type departure struct{ address, step int }
	departures := make(map[uint32]departure)
	var owners []map[int]*wire // after each step
	var sent uint32

	// Packets that nobody looks at, and questions, all the time.
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(stop)
	running.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case a.ch.Outbound <- numbered(a.v4, address(i%addresses), 1<<31):
				a.tun.Configure(others[i%len(others)].id)
				runtime.Gosched()
			}
		}
	})

	check := func(got arrival) {
		d, ours := departures[got.n]
		if !ours {
			return
		}
		for _, o := range owners[d.step:] {
			if o[d.address] == got.at {
				return
			}
		}
		t.Fatalf("seed %d: packet %d to address %d of step %d arrived at %v", seed, got.n, d.address, d.step, got.at.v4)
	}
	now := time.Now()
	for step := range steps {
		switch rng.IntN(4) {
		case 0, 1:
			clear(owner)
			clear(declared)
			var peers []Peer
			for _, i := range rng.Perm(len(others))[:rng.IntN(len(others)+1)] {
				b := others[i]
				declared[b] = true
				peers = append(peers, Peer{ID: b.id, Key: b.key.Public()})
			}
			for i := range addresses {
				if len(peers) > 0 && rng.IntN(4) > 0 {
					k := rng.IntN(len(peers))
					peers[k].Allowed = append(peers[k].Allowed, netip.PrefixFrom(address(i), 32))
					for _, b := range others {
						if b.id == peers[k].ID {
							owner[i] = b
						}
					}
				}
			}
			if err := a.tun.SetPeers(peers); err != nil {
				t.Fatal(err)
			}
		case 2:
			now = now.Add(time.Hour)
			a.tun.sweep(now)
			now = now.Add(time.Hour)
			a.tun.sweep(now)
		case 3:
			b := others[rng.IntN(len(others))]
			if err := a.tun.Configure(b.id); (err == nil) != declared[b] {
				t.Fatalf("seed %d step %d: configure: got %v, declared %v", seed, step, err, declared[b])
			}
		}
		// A responder takes no two handshakes within 20 ms, and none with an older
		// timestamp, which steps by 16 ms.
		<-time.After(40 * time.Millisecond)
		owners = append(owners, maps.Clone(owner))
		for i := range addresses {
			b := owner[i]
			reached := b == nil
			for deadline := time.Now().Add(within); ; {
				sent++
				departures[sent] = departure{i, step}
				a.ch.Outbound <- numbered(a.v4, address(i), sent)
				if reached {
					break
				}
				for wait := time.After(40 * time.Millisecond); !reached; {
					select {
					case got := <-arrived:
						check(got)
						reached = got.at == b && departures[got.n] == departure{i, step}
						continue
					case <-wait:
						a.bind.RetryAll()
					}
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("seed %d step %d: nothing reaches %v at %v; %+v", seed, step, address(i), b.v4, a.tun.Counters())
				}
			}
		}
		all, err := a.tun.Stats()
		if err != nil || len(all) != len(declared) {
			t.Fatalf("seed %d step %d: statistics of %d peers, %v; want %d", seed, step, len(all), err, len(declared))
		}
		for _, b := range others {
			if known := a.tun.dev.LookupPeer(b.key.Public().Bytes()) != nil; known && !declared[b] {
				t.Fatalf("seed %d step %d: WireGuard knows a peer that is none", seed, step)
			}
		}
	}
}

// What ten thousand peers cost, most of which nobody talks to.
func BenchmarkSetPeers(b *testing.B) {
	for _, idle := range []time.Duration{0, minIdle} {
		name := "eager"
		if idle > 0 {
			name = "lazy"
		}
		b.Run(fmt.Sprintf("peers=10000/%s", name), func(b *testing.B) {
			m := newMesh()
			m.idle = idle
			peers := make([]Peer, 10000)
			for i := range peers {
				peers[i] = Peer{ID: key.NodeID{1, byte(i >> 8), byte(i)}, Key: key.NewWG().Public(), Allowed: []netip.Prefix{
					netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)}), 32),
					netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 14: byte(i >> 8), 15: byte(i)}), 128),
				}}
			}
			a := m.wire(b, 1)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for range b.N {
				if err := a.tun.SetPeers(peers); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/10000, "B/peer")
				if err := a.tun.SetPeers(nil); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
