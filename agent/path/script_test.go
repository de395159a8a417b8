package path

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// A script is bytes that say what happens to an engine: whatever they are, they
// mean something. Peers lie in it, relays and STUN servers too, and sockets
// refuse; sometimes a peer answers as it should, so that paths come to be. While
// it is played an oracle checks every action.
type script struct {
	t      testing.TB
	in     []byte
	e      *Engine
	now    time.Time
	begin  time.Time
	ids    []key.NodeID
	mesh   []netip.Prefix
	count  map[key.NodeID]*Traffic
	played []Action

	listed  map[key.NodeID]bool
	pinged  map[key.NodeID]map[disco.TxID]netip.AddrPort
	recent  map[key.NodeID][]disco.TxID
	long    map[key.NodeID]map[disco.TxID]bool
	mine    map[key.NodeID]map[netip.AddrPort]bool
	theirs  map[key.NodeID]map[netip.AddrPort]bool
	learned map[netip.AddrPort]key.NodeID
	choice  map[key.NodeID]Choice
	tokens  float64
	checks  int
	filled  time.Time
}

// next takes a byte below n from the script.
func (s *script) next(n int) int {
	if len(s.in) == 0 {
		return 0
	}
	b := int(s.in[0])
	s.in = s.in[1:]
	return b % n
}

// scriptAddrs are addresses of every sort, good ones first.
var scriptAddrs = func() []netip.AddrPort {
	var list []netip.AddrPort
	for i := range 40 {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i / 4)}), uint16(1000+i)))
	}
	for _, a := range []string{
		"192.168.1.2:4242", "10.0.0.1:4242", "[2001:db8::1]:4242", "[::ffff:203.0.113.1]:1000",
		"0.0.0.0:1", "0.1.2.3:1", "[::]:1", "127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "224.0.0.1:1", "[ff02::1]:1",
		"255.255.255.255:1", "[fe80::1]:1", "[fe80::1%eth0]:1", "203.0.113.1:0", "100.64.1.2:4242", "[fd00:1::2]:4242",
	} {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return append(list, netip.AddrPort{}, netip.AddrPortFrom(netip.Addr{}, 7))
}()

// meshes are the prefixes of the mesh, and others that it may have later.
var meshes = [2][]netip.Prefix{
	{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00:1::/64")},
	{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("203.0.113.8/29")},
}

func (s *script) addr() netip.AddrPort { return scriptAddrs[s.next(len(scriptAddrs))] }

// never is the list of the design, written without the engine's.
func (s *script) never(a netip.AddrPort) bool {
	ip := a.Addr()
	bad := !ip.IsValid() || a.Port() == 0 || ip.Is4In6() || ip.Zone() != "" || ip.IsMulticast() || ip.IsLoopback() ||
		ip == netip.IPv6Unspecified() || ip.Is4() && (ip.As4()[0] == 0 || ip.As4() == [4]byte{255, 255, 255, 255}) ||
		ip.Is6() && ip.As16()[0] == 0xfe && ip.As16()[1]&0xc0 == 0x80
	for _, p := range s.mesh {
		bad = bad || p.Contains(ip)
	}
	return bad
}

func (s *script) list() []disco.Endpoint {
	list := make([]disco.Endpoint, s.next(50))
	for i := range list {
		list[i] = disco.Endpoint{Addr: s.addr(), Kind: disco.Kind(s.next(5))}
	}
	return list
}

// peers are those that the engine is told of.
func (s *script) peers() {
	var list []Peer
	s.listed = map[key.NodeID]bool{}
	mask := s.next(256)
	for i, id := range s.ids {
		if mask>>i&1 == 0 && i > 0 {
			continue
		}
		p := Peer{ID: id}
		for range s.next(12) {
			p.Static = append(p.Static, s.addr())
		}
		list = append(list, p)
		s.listed[id] = true
	}
	s.e.SetPeers(s.now, list)
	s.check()
	for _, id := range s.ids {
		if !s.listed[id] {
			s.long[id] = map[disco.TxID]bool{}
			s.pinged[id], s.mine[id], s.theirs[id], s.recent[id] = map[disco.TxID]netip.AddrPort{}, map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}, nil
		}
	}
}

// answer has a peer answer one of the last pings of an address, as it should.
func (s *script) answer(id key.NodeID) {
	if n := len(s.recent[id]); n > 0 {
		tx := s.recent[id][n-1-s.next(min(n, 8))]
		at, before := s.pinged[id][tx], n
		s.receive(id, at, &disco.Pong{Tx: tx, Proved: s.next(4) > 0})
		s.check()
		// A short ping is followed by a long one, which is mostly answered too.
		if recent := s.recent[id]; len(recent) > before && s.next(4) > 0 {
			tx = recent[len(recent)-1]
			s.receive(id, s.pinged[id][tx], &disco.Pong{Tx: tx, Proved: s.next(4) > 0})
		}
	}
}

// receive hands the engine a message, as the oracle sees it.
func (s *script) receive(id key.NodeID, from netip.AddrPort, m disco.Message) {
	at := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if s.listed[id] && from != (netip.AddrPort{}) {
		switch m := m.(type) {
		case *disco.Ping:
			if m != nil && m.Proved {
				s.theirs[id][at] = true
			}
		case *disco.Pong:
			if to, ok := s.pinged[id][m.Tx]; ok && to == at {
				s.mine[id][at] = s.mine[id][at] || s.long[id][m.Tx]
				if m.Proved {
					s.theirs[id][at] = true
				}
			}
		}
	}
	s.e.Receive(s.now, id, from, m)
}

// step plays one thing.
func (s *script) step() {
	op := s.next(24)
	id := s.ids[s.next(len(s.ids))]
	switch op {
	case 0:
		s.e.Wake(s.now, id)
	case 1, 2, 3:
		s.receive(id, s.addr(), &disco.Ping{Proved: s.next(2) == 0})
	case 4:
		var tx disco.TxID
		if n := len(s.recent[id]); n > 0 && s.next(2) == 0 {
			tx = s.recent[id][n-1]
		}
		s.receive(id, s.addr(), &disco.Pong{Tx: tx, Proved: s.next(2) == 0}) // from anywhere
	case 5, 6, 7, 8:
		s.answer(id)
	case 9, 10:
		s.receive(id, netip.AddrPort{}, &disco.Endpoints{Reply: s.next(2) == 0, Mapping: disco.Mapping(s.next(7)), List: s.list()})
	case 11:
		s.receive(id, s.addr(), &disco.Endpoints{List: s.list()}) // by UDP
	case 12:
		s.e.Failed(s.now, id, s.addr(), "no route to host")
	case 13:
		s.e.Here(s.now, id)
	case 14:
		switch s.next(8) {
		case 0:
			s.e.RelayUp(s.now)
		case 1:
			s.e.Moved(s.now)
		case 2:
			s.peers()
		case 3:
			s.mesh = meshes[s.next(2)]
			s.e.SetSelf(s.now, Self{Endpoints: s.list(), Mapping: disco.Mapping(s.next(5)), UDP4: s.next(2) == 0, Mesh: s.mesh})
		case 4:
			s.e.Probe(s.now, id)
		case 5:
			s.receive(id, netip.AddrPort{}, &disco.Ping{Tx: disco.TxID{byte(s.next(256))}})
		case 6:
			s.receive(id, netip.AddrPort{}, nil)
			s.receive(id, s.addr(), (*disco.Ping)(nil))
		case 7:
			s.now = s.now.Add(-time.Duration(s.next(256)) * time.Second) // a clock set back
		}
	case 15, 16:
		c := s.count[id]
		c.DirectSent += uint64(s.next(20))
		c.DirectReceived += uint64(s.next(2) * s.next(20))
		c.RelayReceived += uint64(s.next(2) * s.next(20))
		c.RelaySent += uint64(s.next(2))
	default:
		d := time.Duration(s.next(256)) * time.Millisecond
		if op == 23 {
			d *= 100
		}
		s.advance(s.now.Add(d))
	}
	s.check()
}

// advance lets time pass, stopping whenever the engine wants.
func (s *script) advance(to time.Time) {
	for range 10_000 {
		at, ok := s.e.Next()
		if !ok || at.After(to) {
			s.now = to
			return
		}
		if at.After(s.now) {
			s.now = at
		}
		s.e.Advance(s.now)
		s.check()
		if at, ok := s.e.Next(); ok && !at.After(s.e.now) {
			s.t.Fatalf("Advance at %v leaves %v due", s.e.now, at)
		}
	}
	s.t.Fatalf("10,000 timers between %v and %v", s.now, to)
}

// check judges the actions and the bounds.
func (s *script) check() {
	now := s.e.now
	for _, a := range s.e.Take() {
		s.played = append(s.played, a)
		switch a := a.(type) {
		case Send:
			s.checkSend(now, a)
		case Use:
			if d := a.Choice.Direct; d.IsValid() && (!s.mine[a.Peer][d] || !s.theirs[a.Peer][d]) {
				s.t.Fatalf("data to %v: own ping answered %v, peer's ping answered %v; want both", d, s.mine[a.Peer][d], s.theirs[a.Peer][d])
			}
			if a.Choice == s.choice[a.Peer] {
				s.t.Fatalf("told twice to use %v", a.Choice)
			}
			s.choice[a.Peer] = a.Choice
			if d := a.Choice.Direct; d.IsValid() && s.learned[d] != a.Peer {
				s.t.Fatalf("data to %v, which is learned for %v; want %v", d, s.learned[d], a.Peer)
			}
		case Learn:
			owner, ok := s.learned[a.Addr]
			if a.Gone {
				if !ok || owner != a.Peer {
					s.t.Fatalf("%v is gone for %v, which has it: %v", a.Addr, a.Peer, ok)
				}
				delete(s.learned, a.Addr)
				continue
			}
			if ok || !s.mine[a.Peer][a.Addr] {
				s.t.Fatalf("learn %v for %v: taken %v, answered %v; want free and answered", a.Addr, a.Peer, ok, s.mine[a.Peer][a.Addr])
			}
			s.learned[a.Addr] = a.Peer
		case Sleep:
			if s.choice[a.Peer] != (Choice{}) {
				s.t.Fatalf("sleeps, and uses %v", s.choice[a.Peer])
			}
		}
	}
	s.checks++
	perPeer := map[key.NodeID]int{}
	for _, id := range s.learned {
		perPeer[id]++
	}
	waiting, candidates := 0, 0
	for u := range s.e.line.queues {
		waiting += s.e.line.queues[u].n
	}
	for _, p := range s.e.order {
		candidates += len(p.candidates)
		if len(p.candidates) > 48 || perPeer[p.id] > 8 || len(p.transitions) > 16 {
			s.t.Fatalf("%d candidates, %d learned, %d transitions; want at most 48, 8 and 16", len(p.candidates), perPeer[p.id], len(p.transitions))
		}
		for _, c := range p.candidates {
			if len(c.probes) > 8 {
				s.t.Fatalf("%d probes of %v, want at most 8", len(c.probes), c.addr)
			}
		}
		if s.checks%16 != 0 {
			continue
		}
		v := s.e.Verdict(p.id)
		if (v.Why == "") != v.Choice.Direct.IsValid() {
			s.t.Fatalf("choice %v, why not direct %q", v.Choice, v.Why)
		}
	}
	if waiting > candidates {
		s.t.Fatalf("%d wait in line, of %d candidates", waiting, candidates)
	}
}

// checkSend judges a message.
func (s *script) checkSend(now time.Time, a Send) {
	if !s.listed[a.Peer] && s.e.peers[a.Peer] == nil {
		s.t.Fatalf("%T to a node that is no peer", a.Msg)
	}
	ping, ok := a.Msg.(*disco.Ping)
	if m, ok := a.Msg.(*disco.Endpoints); ok && (a.To.IsValid() || len(m.List) > disco.MaxEndpoints) {
		s.t.Fatalf("%d endpoints to %v, want at most %d, by relay", len(m.List), a.To, disco.MaxEndpoints)
	}
	if a.To == (netip.AddrPort{}) {
		return
	}
	if s.never(a.To) {
		s.t.Fatalf("%T to %v, which is never sent to", a.Msg, a.To)
	}
	if !ok {
		return
	}
	s.tokens = min(200, s.tokens+now.Sub(s.filled).Seconds()*100) - 1
	s.filled = now
	if s.tokens < -0.01 {
		s.t.Fatalf("%v after the beginning, more pings than 100 a second and 200 at once", now.Sub(s.begin))
	}
	s.pinged[a.Peer][ping.Tx], s.long[a.Peer][ping.Tx] = a.To, ping.Padding == 1228
	if ping.Padding != 0 && ping.Padding != 1228 || ping.Proved && ping.Padding == 0 {
		s.t.Fatalf("a ping with a padding of %d, proved %v; want none or 1228, and that if it is proved", ping.Padding, ping.Proved)
	}
	s.recent[a.Peer] = append(s.recent[a.Peer], ping.Tx)
}

// play plays a script to its end.
func play(t testing.TB, in []byte) []Action {
	s := &script{
		t: t, in: in,
		now:   time.Unix(1_700_000_000, 0),
		mesh:  meshes[0],
		count: map[key.NodeID]*Traffic{}, pinged: map[key.NodeID]map[disco.TxID]netip.AddrPort{}, recent: map[key.NodeID][]disco.TxID{}, long: map[key.NodeID]map[disco.TxID]bool{},
		mine: map[key.NodeID]map[netip.AddrPort]bool{}, theirs: map[key.NodeID]map[netip.AddrPort]bool{},
		learned: map[netip.AddrPort]key.NodeID{}, choice: map[key.NodeID]Choice{}, tokens: 200,
	}
	s.begin, s.filled = s.now, s.now
	for i := range 4 {
		id := key.NodeID{byte(i + 1)}
		s.ids = append(s.ids, id)
		s.count[id] = new(Traffic)
		s.long[id] = map[disco.TxID]bool{}
		s.pinged[id], s.mine[id], s.theirs[id] = map[disco.TxID]netip.AddrPort{}, map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	}
	s.e = New(Config{Rand: rand.New(rand.NewPCG(1, 2)), Traffic: func(id key.NodeID) Traffic { return *s.count[id] }})
	s.e.SetSelf(s.now, Self{Mesh: s.mesh})
	s.peers()
	for len(s.in) > 0 {
		s.step()
	}
	s.advance(s.now.Add(10 * time.Second))
	return s.played
}

// randomScript is a script of n bytes.
func randomScript(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	in := make([]byte, n)
	for i := range in {
		in[i] = byte(r.Uint32())
	}
	return in
}

func TestScripts(t *testing.T) {
	var direct, slept int
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			for _, a := range play(t, randomScript(seed, 2000)) {
				switch a := a.(type) {
				case Use:
					if a.Choice.Direct.IsValid() {
						direct++
					}
				case Sleep:
					slept++
				}
			}
		})
	}
	if direct < 120 || slept < 5 {
		t.Errorf("%d times direct, %d times asleep: the scripts do not get far", direct, slept)
	}
}

func TestSameInputsSameActions(t *testing.T) {
	for seed := range uint64(6) {
		in := randomScript(seed, 2000)
		one, two := play(t, in), play(t, in)
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("seed %d: other actions the second time", seed)
		}
	}
}

func FuzzScript(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(randomScript(seed, 400))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<10 {
			return
		}
		play(t, in)
	})
}
