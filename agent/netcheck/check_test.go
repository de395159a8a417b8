package netcheck

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

// Three relays; the first two answer on two ports.
var (
	a1   = Server{"fra", ap("203.0.113.1:3478")}
	a2   = Server{"fra", ap("203.0.113.1:3479")}
	b1   = Server{"nyc", ap("198.51.100.1:3478")}
	b2   = Server{"nyc", ap("198.51.100.1:3479")}
	c1   = Server{"tyo", ap("192.0.2.1:3478")}
	a6   = Server{"fra", ap("[2001:db8:a::1]:3478")}
	b6   = Server{"nyc", ap("[2001:db8:b::1]:3478")}
	home = ap("192.168.1.10:40001")
	wan6 = ap("[2001:db8:77::10]:40006")
)

func rtts(servers ...Server) map[netip.AddrPort]time.Duration {
	m := map[netip.AddrPort]time.Duration{}
	for i, s := range servers {
		m[s.Addr] = time.Duration(20+10*i) * time.Millisecond
	}
	return m
}

// A mapper is a NAT with one internal endpoint: by RFC 4787 section 4.1, it makes
// a mapping for each key that its behaviour makes of a destination.
type mapper struct {
	key  func(netip.AddrPort) any
	made map[any]netip.AddrPort
}

func (m *mapper) sees(dst netip.AddrPort) netip.AddrPort {
	k := m.key(dst)
	if _, ok := m.made[k]; !ok {
		if m.made == nil {
			m.made = map[any]netip.AddrPort{}
		}
		m.made[k] = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.77"), uint16(50000+len(m.made)))
	}
	return m.made[k]
}

var behaviours = map[Behaviour]func(netip.AddrPort) any{
	EndpointIndependent:     func(netip.AddrPort) any { return nil },
	AddressDependent:        func(a netip.AddrPort) any { return a.Addr() },
	AddressAndPortDependent: func(a netip.AddrPort) any { return a },
}

// What the report says of a NAT is what the NAT is, or less.
func TestClassification(t *testing.T) {
	for nat, servers := range map[Behaviour]map[Behaviour][][]Server{
		EndpointIndependent: {
			Unknown:             {{a1}},
			NotPortDependent:    {{a1, a2}},
			EndpointIndependent: {{a1, b1}, {a1, b1, c1}, {a1, a2, b1}, {a1, a2, b1, b2, c1}},
		},
		AddressDependent: {
			Unknown:           {{a1}},
			NotPortDependent:  {{a1, a2}},
			EndpointDependent: {{a1, b1}, {a1, b1, c1}},
			AddressDependent:  {{a1, a2, b1}, {a1, b1, b2}, {a1, a2, b1, b2, c1}},
		},
		AddressAndPortDependent: {
			Unknown:                 {{a1}},
			AddressAndPortDependent: {{a1, a2}, {a1, a2, b1}, {a1, b1, b2}, {a1, a2, b1, b2, c1}},
			EndpointDependent:       {{a1, b1}, {a1, b1, c1}},
		},
	} {
		for want, lists := range servers {
			for _, list := range lists {
				m := &mapper{key: behaviours[nat]}
				c := Start(epoch, list, []netip.AddrPort{home}, nil)
				world{sees: m.sees, rtt: rtts(list...)}.run(t, c, nil)
				r := c.Report()
				if got := r.IPv4.Behaviour; got != want || r.IPv4.UDP != Works || r.IPv4.PortKept {
					t.Errorf("%s NAT, servers %v: got %q (udp %s, port kept %v), want %q", nat, list, got, r.IPv4.UDP, r.IPv4.PortKept, want)
				}
				if got := len(r.IPv4.Endpoints); got != len(m.made) {
					t.Errorf("%s NAT, servers %v: got %d endpoints, want %d", nat, list, got, len(m.made))
				}
				if r.Nearest != "fra" || r.Servers[0].RTT != 20*time.Millisecond {
					t.Errorf("nearest %s, first after %v, want fra after 20ms", r.Nearest, r.Servers[0].RTT)
				}
			}
		}
	}
}

func TestWithoutNAT(t *testing.T) {
	for _, list := range [][]Server{{a1}, {a1, b1}} {
		public := ap("198.18.0.5:40001")
		c := Start(epoch, list, []netip.AddrPort{ap("10.0.0.1:40001"), public}, nil)
		world{sees: func(netip.AddrPort) netip.AddrPort { return public }, rtt: rtts(list...)}.run(t, c, nil)
		if r := c.Report(); r.IPv4.Behaviour != None || r.Mapping() != disco.MappingNone || r.IPv4.PortKept || r.IPv4.Carrier {
			t.Errorf("got %+v, want no NAT", r.IPv4)
		}
	}
	// Another host has the same port at the same address: this is a NAT.
	c := Start(epoch, []Server{a1}, []netip.AddrPort{ap("198.18.0.5:40001")}, nil)
	world{sees: func(netip.AddrPort) netip.AddrPort { return ap("198.18.0.5:40002") }, rtt: rtts(a1)}.run(t, c, nil)
	if r := c.Report(); r.IPv4.Behaviour != Unknown || r.IPv4.PortKept {
		t.Errorf("own address, another port: got %+v, want an unknown NAT that changes the port", r.IPv4)
	}
}

func TestPortKeptAndCarrier(t *testing.T) {
	for _, v := range []struct {
		local, seen   string
		kept, carrier bool
	}{
		{"192.168.1.10:40001", "203.0.113.7:40001", true, false},
		{"192.168.1.10:40001", "203.0.113.7:40002", false, false},
		{"100.64.3.4:40001", "203.0.113.7:40002", false, true},
		{"100.127.255.255:40001", "203.0.113.7:40001", true, true},
		{"100.128.0.1:40001", "203.0.113.7:40001", true, false},
	} {
		c := Start(epoch, []Server{a1, b1}, []netip.AddrPort{ap(v.local), wan6}, nil)
		world{sees: func(netip.AddrPort) netip.AddrPort { return ap(v.seen) }, rtt: rtts(a1, b1)}.run(t, c, nil)
		if f := c.Report().IPv4; f.PortKept != v.kept || f.Carrier != v.carrier {
			t.Errorf("%s seen as %s: got port kept %v, carrier %v, want %v, %v", v.local, v.seen, f.PortKept, f.Carrier, v.kept, v.carrier)
		}
	}
}

func TestReach(t *testing.T) {
	local := []netip.AddrPort{home, wan6}
	sees := func(s netip.AddrPort) netip.AddrPort {
		if s.Addr().Is6() {
			return wan6
		}
		return ap("203.0.113.7:1024")
	}
	for name, v := range map[string]struct {
		servers []Server
		local   []netip.AddrPort
		w       world
		v4, v6  Reach
		mapping disco.Mapping
	}{
		"both":              {[]Server{a1, b1, a6}, local, world{rtt: rtts(a1, b1, a6)}, Works, Works, disco.MappingEndpointIndependent},
		"blocked":           {[]Server{a1, b1, a6}, local, world{}, Blocked, Blocked, disco.MappingBlocked},
		"IPv6 only":         {[]Server{a1, a6}, local, world{rtt: rtts(a6)}, Blocked, Works, disco.MappingNone},
		"no IPv6 address":   {[]Server{a1, b1, a6}, local[:1], world{rtt: rtts(a1, b1, a6)}, Works, NoAddress, disco.MappingEndpointIndependent},
		"no IPv6 server":    {[]Server{a1, b1}, local, world{rtt: rtts(a1, b1)}, Works, NoServer, disco.MappingEndpointIndependent},
		"nobody to ask":     {nil, local, world{}, NoServer, NoServer, disco.MappingUnknown},
		"local not known":   {[]Server{a1, a6}, nil, world{rtt: rtts(a1, a6)}, Works, Works, disco.MappingUnknown},
		"no route for IPv6": {[]Server{a1, b1, a6}, local, world{rtt: rtts(a1, b1, a6), fail: only(a6, "network is unreachable")}, Works, Blocked, disco.MappingEndpointIndependent},
	} {
		v.w.sees = sees
		c := Start(epoch, v.servers, v.local, nil)
		v.w.run(t, c, func(time.Time) {
			if r := c.Report(); !r.Done && (r.IPv4.UDP == Blocked && r.IPv6.UDP == Blocked || r.Mapping() == disco.MappingBlocked) {
				t.Errorf("%s: blocked before the round is done", name)
			}
		})
		r := c.Report()
		if r.IPv4.UDP != v.v4 || r.IPv6.UDP != v.v6 || r.Mapping() != v.mapping || !r.Done {
			t.Errorf("%s: got %s, %s, %s, done %v; want %s, %s, %s", name, r.IPv4.UDP, r.IPv6.UDP, r.Mapping(), r.Done, v.v4, v.v6, v.mapping)
		}
	}
}

func only(s Server, cause string) func(netip.AddrPort) string {
	return func(a netip.AddrPort) string {
		if a == s.Addr {
			return cause
		}
		return ""
	}
}

func TestSchedule(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, n := range n {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	for name, v := range map[string]struct {
		w    world
		want []time.Duration
		end  time.Duration
	}{
		"silent":          {world{}, ms(0, 100, 300, 700, 1500), 3 * time.Second},
		"answers at once": {world{rtt: rtts(a1)}, ms(0), 20 * time.Millisecond},
		"first two lost":  {world{rtt: rtts(a1), lose: func(_ netip.AddrPort, nth int) bool { return nth < 2 }}, ms(0, 100, 300), 320 * time.Millisecond},
		"slow":            {world{rtt: map[netip.AddrPort]time.Duration{a1.Addr: 450 * time.Millisecond}}, ms(0, 100, 300), 450 * time.Millisecond},
		"slower than we":  {world{rtt: map[netip.AddrPort]time.Duration{a1.Addr: 3100 * time.Millisecond}}, ms(0, 100, 300, 700, 1500), 3 * time.Second},
		"socket refuses":  {world{fail: only(a1, "no route to host")}, ms(0), 0},
	} {
		v.w.sees = func(netip.AddrPort) netip.AddrPort { return ap("203.0.113.7:1024") }
		c := Start(epoch, []Server{a1}, nil, nil)
		sent := v.w.run(t, c, nil)
		if got := sent[a1.Addr]; !slices.Equal(got, v.want) || c.now.Sub(epoch) != v.end || !c.Done() || !c.Enough() {
			t.Errorf("%s: asked after %v and done after %v, want %v and %v", name, got, c.now.Sub(epoch), v.want, v.end)
		}
	}
}

// A round trip is from the request that was answered, not from the first.
func TestRoundTripOfARepeatedRequest(t *testing.T) {
	c := Start(epoch, []Server{a1}, nil, nil)
	world{
		sees: func(netip.AddrPort) netip.AddrPort { return ap("203.0.113.7:1024") }, rtt: rtts(a1),
		lose: func(_ netip.AddrPort, nth int) bool { return nth == 0 },
	}.run(t, c, nil)
	if got := c.Report().Servers[0].RTT; got != 20*time.Millisecond {
		t.Errorf("got %v, want 20ms", got)
	}
}

// A node that sleeps between two steps does not send what it missed at once, and
// a round that begins late still has its three seconds.
func TestLateAdvance(t *testing.T) {
	c := Start(epoch, []Server{a1}, nil, nil)
	for i, v := range []struct {
		after time.Duration
		want  int
		next  time.Duration
	}{
		{10 * time.Second, 1, 10100 * time.Millisecond},
		{10800 * time.Millisecond, 1, 11500 * time.Millisecond},
		{10900 * time.Millisecond, 0, 11500 * time.Millisecond},
		{time.Second, 0, 11500 * time.Millisecond}, // backwards
		{11600 * time.Millisecond, 1, 13 * time.Second},
		{time.Hour, 0, -1},
	} {
		got := c.Advance(epoch.Add(v.after))
		next := c.Next().Sub(epoch)
		if v.next < 0 {
			if len(got) != v.want || !c.Done() {
				t.Errorf("step %d: %d packets, done %v, want %d and done", i, len(got), c.Done(), v.want)
			}
		} else if len(got) != v.want || next != v.next {
			t.Errorf("step %d: %d packets and next at %v, want %d and %v", i, len(got), next, v.want, v.next)
		}
	}
}

// The report of a node is useful with the first answer.
func TestEarlyReports(t *testing.T) {
	c := Start(epoch, []Server{a1, b1, c1, a6}, []netip.AddrPort{home, wan6}, nil)
	var changes []string
	enough := time.Duration(-1)
	world{
		sees: func(s netip.AddrPort) netip.AddrPort { return ap("203.0.113.7:1024") }, rtt: rtts(a1, b1), // tyo and IPv6 are silent
	}.run(t, c, func(now time.Time) {
		if enough < 0 && c.Enough() {
			enough = now.Sub(epoch)
		}
		if c.Changed() {
			r := c.Report()
			changes = append(changes, fmt.Sprintf("%dms %s %s %d", now.Sub(epoch).Milliseconds(), r.IPv4.UDP, r.IPv4.Behaviour, len(r.IPv4.Endpoints)))
		}
		if c.Changed() {
			t.Error("changed right after a report")
		}
	})
	want := []string{"0ms unknown unknown 0", "20ms works unknown 1", "30ms works endpoint-independent 1", "3000ms works endpoint-independent 1"}
	if !slices.Equal(changes, want) {
		t.Errorf("reports: got %q, want %q", changes, want)
	}
	if enough != 700*time.Millisecond { // the first step that is 330 ms into the round
		t.Errorf("enough after %v, want 700ms", enough)
	}
}

// Only the server that was asked can answer, and only what it was asked.
func TestAnswersThatDoNotCount(t *testing.T) {
	var made [][12]byte
	c := Start(epoch, []Server{a1, b1}, nil, func() (tx [12]byte) {
		binary.BigEndian.PutUint64(tx[4:], uint64(len(made)+1))
		made = append(made, tx)
		return tx
	})
	if got := len(c.Advance(epoch)); got != 2 {
		t.Fatalf("%d packets, want 2", got)
	}
	seen := ap("203.0.113.7:1024")
	good := response(made[0], seen)
	for name, v := range map[string]struct {
		src    netip.AddrPort
		packet []byte
		want   Dropped
	}{
		"another server":       {b1.Addr, good, Dropped{Unasked: 1}},
		"another port":         {a2.Addr, good, Dropped{Unasked: 1}},
		"a stranger":           {ap("192.0.2.99:3478"), good, Dropped{Unasked: 1}},
		"another transaction":  {a1.Addr, response([12]byte{1}, seen), Dropped{Unasked: 1}},
		"b's transaction":      {a1.Addr, response(made[1], seen), Dropped{Unasked: 1}},
		"nothing":              {a1.Addr, nil, Dropped{Malformed: 1}},
		"cut":                  {a1.Addr, good[:len(good)-4], Dropped{Malformed: 1}},
		"its own request":      {a1.Addr, append([]byte{0, 1}, good[2:]...), Dropped{Malformed: 1}},
		"an error":             {a1.Addr, append([]byte{1, 0x11}, good[2:]...), Dropped{Malformed: 1}},
		"an answer, but silly": {a1.Addr, response(made[0], ap("203.0.113.7:0")), Dropped{Malformed: 1}},
	} {
		before := c.dropped
		took := c.Receive(epoch.Add(time.Millisecond), v.src, v.packet)
		got := Dropped{c.dropped.Malformed - before.Malformed, c.dropped.Unasked - before.Unasked, c.dropped.Late - before.Late}
		if took || got != v.want {
			t.Errorf("%s: took %v, dropped %+v, want %+v", name, took, got, v.want)
		}
	}
	if !c.Receive(epoch.Add(20*time.Millisecond), netip.AddrPortFrom(netip.AddrFrom16(a1.Addr.Addr().As16()), 3478), good) {
		t.Error("the answer, from the address in IPv6 form: not taken")
	}
	if c.Receive(epoch.Add(21*time.Millisecond), a1.Addr, good) || c.dropped.Late != 1 {
		t.Errorf("the answer again: dropped %+v, want one late", c.dropped)
	}
	if c.Receive(epoch.Add(GiveUp), b1.Addr, response(made[1], seen)) || c.dropped.Late != 2 {
		t.Errorf("an answer after three seconds: dropped %+v, want two late", c.dropped)
	}
}

func TestLies(t *testing.T) {
	own := ap("10.1.2.3:40001")
	for _, v := range []struct {
		server, seen string
		lie          bool
	}{
		{"203.0.113.1:3478", "198.51.100.7:1", false},
		{"203.0.113.1:3478", "10.1.2.3:40001", false}, // own
		{"203.0.113.1:3478", "10.1.2.3:40002", true},
		{"203.0.113.1:3478", "192.168.0.1:7", true},
		{"203.0.113.1:3478", "100.64.0.1:7", true},
		{"203.0.113.1:3478", "127.0.0.1:7", true},
		{"203.0.113.1:3478", "169.254.1.1:7", true},
		{"203.0.113.1:3478", "224.0.0.1:7", true},
		{"203.0.113.1:3478", "255.255.255.255:7", true},
		{"203.0.113.1:3478", "0.0.0.0:7", true},
		{"203.0.113.1:3478", "198.51.100.7:0", true},
		{"203.0.113.1:3478", "[2001:db8::1]:7", true},
		{"10.9.9.9:3478", "10.8.8.8:7", false},
		{"10.9.9.9:3478", "127.0.0.1:7", true},
		{"100.64.9.9:3478", "10.8.8.8:7", false},
		{"127.0.0.1:3478", "127.0.0.1:7", false},
		{"169.254.9.9:3478", "169.254.1.1:7", false},
		{"[2001:db8::1]:3478", "[2001:db8::2]:7", false},
		{"[2001:db8::1]:3478", "[fd00::2]:7", true},
		{"[2001:db8::1]:3478", "[fe80::2]:7", true},
		{"[2001:db8::1]:3478", "[ff02::1]:7", true},
		{"[2001:db8::1]:3478", "[::]:7", true},
		{"[2001:db8::1]:3478", "[::1]:7", true},
		{"[2001:db8::1]:3478", "198.51.100.7:1", true},
		{"[fd00::1]:3478", "[fd00::2]:7", false},
	} {
		if got := lie(ap(v.server), ap(v.seen), []netip.AddrPort{own}); (got != "") != v.lie {
			t.Errorf("%s sees %s: got %q, want a lie %v", v.server, v.seen, got, v.lie)
		}
	}
}

// A lie changes nothing but its own line.
func TestLiesAreNotUsed(t *testing.T) {
	list := []Server{a1, b1, c1}
	c := Start(epoch, list, []netip.AddrPort{home}, nil)
	world{sees: func(s netip.AddrPort) netip.AddrPort {
		if s == b1.Addr {
			return ap("10.66.66.66:53")
		}
		return ap("203.0.113.7:1024")
	}, rtt: rtts(list...)}.run(t, c, nil)
	r := c.Report()
	if r.IPv4.Behaviour != EndpointIndependent || !slices.Equal(r.IPv4.Endpoints, []netip.AddrPort{ap("203.0.113.7:1024")}) {
		t.Errorf("got %+v, want one endpoint and endpoint-independent mapping", r.IPv4)
	}
	if r.Servers[0].Lie != "" || r.Servers[1].Lie == "" || r.Servers[2].Lie != "" {
		t.Errorf("lies: got %+v, want one of nyc", r.Servers)
	}
	// Alone, it leaves nothing to advertise; UDP works all the same.
	c = Start(epoch, list[1:2], []netip.AddrPort{home}, nil)
	world{sees: func(netip.AddrPort) netip.AddrPort { return ap("10.66.66.66:53") }, rtt: rtts(b1)}.run(t, c, nil)
	if r := c.Report(); r.IPv4.UDP != Works || len(r.IPv4.Endpoints) != 0 || r.IPv4.Behaviour != Unknown {
		t.Errorf("a lie alone: got %+v", r.IPv4)
	}
}

func TestChoose(t *testing.T) {
	var many []Server
	for relay := range 5 {
		for port := range 4 {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(relay + 1)}), uint16(3478+port))
			many = append(many, Server{fmt.Sprint(relay), addr}, Server{fmt.Sprint(relay), addr})
		}
	}
	got := choose(many, false)
	count := map[string]int{}
	for _, s := range got {
		count[s.Name]++
	}
	want := map[string]int{"0": 2, "1": 2, "2": 2, "3": 1, "4": 1}
	if len(got) != MaxServers || !maps.Equal(count, want) {
		t.Errorf("got %v, want %v", count, want)
	}
	bad := []Server{{"x", netip.AddrPort{}}, {"x", ap("192.0.2.1:0")}, {"x", ap("[::ffff:192.0.2.1]:1")}, a6}
	if got, want := choose(bad, false), []Server{{"x", ap("192.0.2.1:1")}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := choose(bad, true); !reflect.DeepEqual(got, []Server{a6}) {
		t.Errorf("got %v, want %v", got, a6)
	}
}

// The same answers in any order give the same report.
func TestOrderOfAnswersDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	list := []Server{a1, a2, b1, b2, c1}
	for _, key := range behaviours {
		var first *Family
		for range 20 {
			rtt := map[netip.AddrPort]time.Duration{}
			for _, s := range list {
				rtt[s.Addr] = time.Duration(1+rng.IntN(90)) * time.Millisecond
			}
			m := &mapper{key: key}
			for _, s := range list {
				m.sees(s.Addr) // the same mappings in each run
			}
			c := Start(epoch, list, []netip.AddrPort{home}, nil)
			world{sees: m.sees, rtt: rtt}.run(t, c, nil)
			f := c.Report().IPv4
			if first == nil {
				first = &f
			} else if !reflect.DeepEqual(f, *first) {
				t.Fatalf("seed %d: got %+v, and before %+v", seed, f, *first)
			}
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(true, response([12]byte{11: 1}, ap("203.0.113.7:1024")))
	f.Add(true, response([12]byte{11: 2}, ap("10.0.0.7:1024")))
	f.Add(false, response([12]byte{11: 1}, ap("[2001:db8::1]:1024")))
	f.Add(true, []byte{})
	f.Fuzz(func(t *testing.T, asked bool, packet []byte) {
		n := byte(0)
		c := Start(epoch, []Server{a1, b1, a6}, nil, func() [12]byte { n++; return [12]byte{11: n} })
		c.Advance(epoch)
		src := a1.Addr
		if !asked {
			src = c1.Addr
		}
		took := c.Receive(epoch.Add(time.Millisecond), src, packet)
		r := c.Report()
		if d := r.Dropped.Malformed + r.Dropped.Unasked + r.Dropped.Late; took == (d == 1) || d > 1 {
			t.Fatalf("took %v, dropped %+v", took, r.Dropped)
		}
		if took != (r.Servers[0].Outcome == Answered) || took && !asked {
			t.Fatalf("took %v, asked %v, %+v", took, asked, r.Servers[0])
		}
		for _, e := range (Filter{}).Endpoints(r, nil, nil) {
			if a := e.Addr.Addr(); !a.Is4() || !public(a) || e.Addr.Port() == 0 {
				t.Fatalf("advertises %v", e)
			}
		}
		_ = r.String()
	})
}

func TestEndpointSeenByMostComesFirst(t *testing.T) {
	list := []Server{a1, b1, c1}
	c := Start(epoch, list, []netip.AddrPort{home}, nil)
	world{sees: func(s netip.AddrPort) netip.AddrPort {
		if s == a1.Addr {
			return ap("203.0.113.77:1")
		}
		return ap("203.0.113.77:2")
	}, rtt: rtts(list...)}.run(t, c, nil)
	if got, want := c.Report().IPv4.Endpoints, []netip.AddrPort{ap("203.0.113.77:2"), ap("203.0.113.77:1")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
