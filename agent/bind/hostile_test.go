package bind

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/frame"
)

func stunMessage(t testing.TB) []byte {
	t.Helper()
	// RFC 5769, section 2.1: its header, with the length of no attributes.
	b, err := hex.DecodeString("000100002112a442b7e7a701bc34d686fa87dfae")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClassify(t *testing.T) {
	stun := stunMessage(t)
	alter := func(b []byte, at int, v byte) []byte {
		c := append([]byte(nil), b...)
		c[at] = v
		return c
	}
	for _, c := range []struct {
		name string
		pkt  []byte
		want Class
	}{
		{"nothing", nil, Foreign},
		{"one byte", []byte{4}, Foreign},
		{"data, shortest", message(4, 32), Data},
		{"data, shorter", message(4, 31), Foreign},
		{"data, longest", message(4, MaxPacket), Data},
		{"data, longer", message(4, MaxPacket+1), Foreign},
		{"data, a reserved byte", alter(message(4, 64), 2, 1), Foreign},
		{"initiation", message(1, 148), Handshake},
		{"initiation, longer", message(1, 149), Foreign},
		{"response", message(2, 92), Handshake},
		{"response, shorter", message(2, 91), Foreign},
		{"cookie", message(3, 64), Handshake},
		{"type 5", message(5, 64), Foreign},
		{"disco", disco("x"), Disco},
		{"disco, long", disco(string(make([]byte, 1200))), Disco},
		{"disco, magic only", []byte(frame.DiscoMagic), Foreign},
		{"disco, another version", alter(disco("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 5, 2), Foreign},
		{"STUN", stun, STUN},
		{"STUN answer", alter(stun, 0, 1), STUN},
		{"STUN, shorter than its header", stun[:19], Foreign},
		{"STUN, another length", append(stun, 0, 0, 0, 0), Foreign},
		{"STUN, another cookie", alter(stun, 7, 0), Foreign},
		{"STUN, a type that is none", alter(stun, 0, 0x40), Foreign},
		{"data whose index is STUN's cookie", func() []byte {
			p := message(4, 64)
			binary.BigEndian.PutUint32(p[4:], 0x2112a442)
			return p
		}(), Data},
	} {
		if got := Classify(c.pkt); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// Whatever comes by UDP is WireGuard's by the table, or Control's, or dropped
// and counted; nothing is two of these, and nothing else reaches WireGuard.
func TestHostilePackets(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	s.endpoint(t, node(1))
	s.Learn(at, node(1))
	rng := rand.New(rand.NewPCG(1, 2))
	seeds := [][]byte{message(4, 32), message(4, 1300), message(1, 148), message(2, 92), message(3, 64), disco("probe"), stunMessage(t)}
	want := map[Class]uint64{}
	const packets = 3000
	for range packets {
		p := append([]byte(nil), seeds[rng.IntN(len(seeds))]...)
		for range rng.IntN(3) {
			p[rng.IntN(min(len(p), 8))] = byte(rng.IntN(8))
		}
		if len(p) >= 32 {
			binary.LittleEndian.PutUint64(p[12:], rng.Uint64()) // no two handshakes are alike
		}
		if rng.IntN(4) == 0 {
			p = p[:rng.IntN(len(p)+1)]
		}
		class := slowClassify(p)
		if len(p) > 0 { // an empty datagram is nobody's business
			want[class]++
		}
		s.forgetHandshakes(node(1)) // so that there is room for this one
		if _, err := c.WriteToUDPAddrPort(p, s.at(loop4)); err != nil {
			t.Fatal(err)
		}
		switch {
		case class == Data || class == Handshake:
			if got := next(t, s.got, "WireGuard's"); string(got.pkt) != string(p) || got.id != node(1) {
				t.Fatalf("WireGuard got %x of %v, want %x", got.pkt, got.id, p)
			}
		case class == Disco || class == STUN:
			if got := next(t, s.control, "Control's"); string(got.pkt) != string(p) || got.from != at {
				t.Fatalf("Control got %x from %s, want %x", got.pkt, got.from, p)
			}
		}
	}
	c.WriteToUDPAddrPort(disco("end"), s.at(loop4))
	next(t, s.control, "end")
	none(t, s.got, "WireGuard")
	none(t, s.control, "Control")
	st := s.Stats()
	if st.Foreign != want[Foreign] || st.Control != want[Disco]+want[STUN]+1 {
		t.Errorf("got %+v, want %v", st, want)
	}
	if got := s.Traffic(node(1)).DirectReceived; got != want[Data] {
		t.Errorf("%d data packets, want %d", got, want[Data])
	}
}

// forgetHandshakes forgets which handshakes of id came.
func (b *Bind) forgetHandshakes(id key.NodeID) {
	o := &b.find(id).peer.once
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handshakes, o.cookies = [ways]ring{}, [ways]ring{}
}

// slowClassify is the table of the package comment, read row by row.
func slowClassify(p []byte) Class {
	is := func(prefix string) bool { return len(p) >= len(prefix) && string(p[:len(prefix)]) == prefix }
	switch {
	case is("\x04\x00\x00\x00"):
		if len(p) >= 32 && len(p) <= 9216 {
			return Data
		}
	case is("\x01\x00\x00\x00") && len(p) == 148, is("\x02\x00\x00\x00") && len(p) == 92, is("\x03\x00\x00\x00") && len(p) == 64:
		return Handshake
	case is("writd\x01") && len(p) >= 7 && len(p) <= 9216:
		return Disco
	}
	if len(p) >= 20 && len(p) <= 9216 && p[0]>>6 == 0 && len(p)%4 == 0 && int(p[2])<<8+int(p[3]) == len(p)-20 && string(p[4:8]) == "\x21\x12\xa4\x42" {
		return STUN
	}
	return Foreign
}

// FuzzClassify: the table is what is done. What the relay carries and what comes
// by UDP are of one kind by both.
func FuzzClassify(f *testing.F) {
	for _, p := range [][]byte{nil, message(4, 32), message(1, 148), message(2, 92), message(3, 64), disco("x"), stunMessage(f), make([]byte, MaxPacket+1)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		got, want := Classify(p), slowClassify(p)
		if got != want {
			t.Errorf("%x: got %s, want %s", p, got, want)
		}
	})
}

// A flood of packets that look like probes, each from another address, leaves no
// more behind than the last few.
func TestFloodOfProbes(t *testing.T) {
	b := newBind(t, Config{UDP: true})
	b.Learn(netip.MustParseAddrPort("192.0.2.1:1"), node(1))
	b.Use(node(2), path.Choice{Direct: netip.MustParseAddrPort("192.0.2.2:1")})
	var a [4]byte
	for i := range uint32(10 * heardLength) {
		binary.BigEndian.PutUint32(a[:], 0x0a000000+i)
		b.heard(&origin{addr: netip.AddrPortFrom(netip.AddrFrom4(a), 1), to: local{loop4, 1}})
	}
	if got := len(b.book.byAddr); got != heardLength+2 {
		t.Errorf("%d addresses remembered, want %d", got, heardLength+2)
	}
	b.heard(&origin{addr: netip.MustParseAddrPort("192.0.2.1:1"), to: local{loop4, 1}})
	if b.book.byAddr[netip.MustParseAddrPort("192.0.2.1:1")].local.Load() == nil {
		t.Error("a learned address is not remembered after the flood")
	}
}

// The book against a model: who is at an address, and that an address is there
// exactly as long as it is for something.
func TestBookAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		b := newBind(t, Config{UDP: true})
		r := &udpReceiver{bind: b}
		addrs := make([]netip.AddrPort, 6)
		for i := range addrs {
			addrs[i] = netip.AddrPortFrom(loop4, uint16(i+1))
		}
		learned := map[netip.AddrPort]key.NodeID{}
		route := map[key.NodeID]path.Choice{}
		configured, followed := map[key.NodeID]bool{}, map[key.NodeID]bool{}
		for step := range 2000 {
			id, a := node(byte(1+rng.IntN(4))), addrs[rng.IntN(len(addrs))]
			switch rng.IntN(8) {
			case 0:
				b.Learn(a, id)
				learned[a], followed[id] = id, true
			case 1:
				b.Unlearn(a, id)
				if learned[a] == id {
					delete(learned, a)
				}
			case 2:
				c := path.Choice{Direct: a, Relay: rng.IntN(2) == 0}
				b.Use(id, c)
				route[id], followed[id] = c, true
			case 3:
				b.Sleep(id)
				delete(route, id)
			case 4:
				b.Remove(id)
				delete(route, id)
				delete(followed, id)
				for a, of := range learned {
					if of == id {
						delete(learned, a)
					}
				}
			case 5:
				know(t, b, id)
				configured[id] = true
			case 6:
				b.Forget(id)
				delete(configured, id)
			}
			a = addrs[rng.IntN(len(addrs))]
			h := r.look(a)
			of, known := learned[a]
			if known != (h.stranger == nil) || known && (h.id != of || (h.endpoint != nil) != configured[of]) {
				t.Fatalf("seed %d, step %d: at %s is %v (configured %t), want %v (%t)", seed, step, a, h.id, h.endpoint != nil, of, configured[of])
			}
			want := map[netip.AddrPort]bool{}
			for a := range learned {
				want[a] = true
			}
			for _, c := range route {
				want[c.Direct] = true
			}
			if len(b.book.byAddr) != len(want) {
				t.Fatalf("seed %d, step %d: %d addresses, want %d", seed, step, len(b.book.byAddr), len(want))
			}
			for n := range byte(4) {
				id := node(n + 1)
				p := b.peers[id]
				if (p != nil) != (configured[id] || followed[id]) {
					t.Fatalf("seed %d, step %d: %v known is %t, configured %t, followed %t", seed, step, id, p != nil, configured[id], followed[id])
				}
				if p == nil {
					continue
				}
				var got path.Choice
				if now := p.route.Load(); now.to != nil {
					got = path.Choice{Direct: now.to.addr, Relay: now.relay}
				}
				if got != route[id] {
					t.Fatalf("seed %d, step %d: route of %v is %v, want %v", seed, step, id, got, route[id])
				}
			}
		}
	}
}

// Everything at once, for the race detector: packets both ways by both paths,
// while choices, addresses and peers change and the sockets open and close.
func TestEverythingAtOnce(t *testing.T) {
	s := newStation(t, func(c *Config) {
		c.Sender, c.Control, c.Unknown, c.Failed, c.Woken = nowhere{}, func(netip.AddrPort, []byte) {}, nil, nil, func(key.NodeID) {}
	})
	c, at := outsider(t, loop4)
	stop := make(chan struct{})
	var all sync.WaitGroup
	forever := func(f func()) {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	all.Go(func() { // read as station's readers would block on a full channel
		for {
			select {
			case <-s.got:
			case <-stop:
				return
			}
		}
	})
	to := s.at(loop4)
	forever(func() {
		for _, p := range [][]byte{data(64, 1), disco("x"), message(1, 148)} {
			c.WriteToUDPAddrPort(p, to)
		}
	})
	forever(func() { s.Deliver(node(1), data(64, 1)) })
	forever(func() {
		e := s.endpoint(t, node(1))
		s.Send([][]byte{message(device.MessageInitiationType, device.MessageInitiationSize)}, e)
		s.Send([][]byte{data(64, 1), data(64, 2)}, e)
		e.ClearSrc()
	})
	forever(func() { s.SendTo(at, disco("x")); s.RetryAll(); s.Stats(); s.Traffic(node(1)); s.Volume(node(1)) })
	for i := range 300 {
		s.Learn(at, node(1))
		s.Use(node(1), path.Choice{Direct: at, Relay: i%2 == 0})
		if i%10 == 0 {
			s.close(t)
			s.open(t)
		}
		if i%3 == 0 {
			s.Forget(node(1))
		}
		s.ClearSources()
		s.Sleep(node(1))
		s.Unlearn(at, node(1))
		s.Remove(node(1))
	}
	close(stop)
	all.Wait()
	drained := make(chan struct{})
	go func() { s.close(t); close(drained) }()
	for {
		select {
		case <-s.got:
			continue
		case <-drained:
			return
		}
	}
}

type nowhere struct{}

func (nowhere) Send(key.NodeID, [][]byte) error { return net.ErrClosed }
