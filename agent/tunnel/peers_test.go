package tunnel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
)

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
