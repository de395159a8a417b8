package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// epoch is when tests begin.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A universe is a small network in which chance often strikes twice.
type universe struct {
	self    *acl.Subject
	own     []netip.Addr
	peers   []Peer
	strange []netip.Addr // nobody's
}

func newUniverse() *universe {
	u := &universe{
		self: &acl.Subject{ID: key.NodeID{0}, Name: "self", Tags: []string{"db"}},
		own:  []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a::1")},
		strange: []netip.Addr{
			netip.MustParseAddr("100.64.9.9"), netip.MustParseAddr("fd7a::99"), netip.MustParseAddr("192.168.1.1"),
			netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("127.0.0.1"),
		},
	}
	user := func(name string) *acl.User {
		return &acl.User{Issuer: "https://login.example", Subject: name, Email: name + "@example"}
	}
	subjects := []*acl.Subject{
		{Name: "alice", User: user("alice"), Groups: []acl.Membership{{Group: "accounting"}}},
		{Name: "bob", User: user("bob"), Groups: []acl.Membership{{Group: "engineering"}, {Group: "accounting", Until: epoch.Add(10 * time.Minute)}}},
		{Name: "web", Tags: []string{"web"}, Posture: map[string]string{"os": "linux", "osVersion": "13"}},
		{Name: "carol", User: user("carol"), Expires: epoch.Add(5 * time.Minute)},
		{Name: "nobody"},
	}
	for i, s := range subjects {
		s.ID = key.NodeID{byte(i + 1)}
		u.peers = append(u.peers, Peer{s, []netip.Addr{
			netip.AddrFrom4([4]byte{100, 64, 0, byte(10 + i)}),
			netip.MustParseAddr(fmt.Sprintf("fd7a::%d", 10+i)),
		}})
	}
	return u
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// selector is a random one; of kinds that end, if ends.
func (u *universe) selector(r *rand.Rand, ends bool) acl.Selector {
	kinds := []acl.Selector{
		{Kind: acl.KindUser, Name: "alice@example"}, {Kind: acl.KindUser, Name: "carol@example"},
		{Kind: acl.KindTag, Name: "web"}, {Kind: acl.KindTag, Name: "db"}, {Kind: acl.KindNode, Name: "bob"}, {Kind: acl.KindNode, Name: "self"},
		{Kind: acl.KindMember}, {Kind: acl.KindTagged}, {Kind: acl.KindSelf}, {Kind: acl.KindAny}, {Kind: acl.KindAny}, {},
	}
	if ends {
		kinds = append(kinds, acl.Selector{Kind: acl.KindGroup, Name: "accounting"}, acl.Selector{Kind: acl.KindGroup, Name: "engineering"})
	}
	return pick(r, kinds...)
}

func (u *universe) ports(r *rand.Rand) acl.Ports {
	text := pick(r, "tcp/443", "tcp/22-443", "tcp/1-65535", "udp/53", "udp/53-1000", "sctp/22", "icmp", "icmp", "proto/47", "proto/1", "proto/58", "proto/6", "*")
	p, err := acl.ParsePorts(text)
	if err != nil {
		panic(err)
	}
	return p
}

// rules are random. Except selectors that end would open access without a
// compile; only open rules have them.
func (u *universe) rules(r *rand.Rand, opens bool) Rules {
	out := Rules{Self: u.self, Addresses: u.own}
	for _, p := range u.peers {
		if r.IntN(6) > 0 {
			out.Peers = append(out.Peers, p)
		}
	}
	several := func(n int, ends bool) (s []acl.Selector) {
		for range r.IntN(n) {
			s = append(s, u.selector(r, ends))
		}
		return s
	}
	for range r.IntN(4) {
		in := acl.Inbound{To: pick(r, acl.Selector{Kind: acl.KindTag, Name: "db"}, acl.Selector{Kind: acl.KindAny}, u.selector(r, true))}
		for range r.IntN(5) {
			g := acl.Grant{Rule: pick(r, "a", "b", "c", "d"), From: several(4, true), Except: several(2, opens), ToExcept: nil}
			if r.IntN(8) == 0 {
				g.ToExcept = several(2, opens)
			}
			for range r.IntN(4) {
				g.Allow = append(g.Allow, u.ports(r))
			}
			if r.IntN(3) == 0 {
				g.Until = epoch.Add(time.Duration(r.IntN(3600)) * time.Second)
			}
			if r.IntN(6) == 0 {
				g.Posture = acl.Postures{{{Attr: "os", Op: acl.OpSet}}, {{Attr: "osVersion", Op: acl.OpMore, Values: []string{"12"}}}}[r.IntN(2):]
			}
			if r.IntN(6) == 0 && opens { // the epoch's hour begins and ends within the hours that are tried
				day := acl.Days(1 << epoch.Weekday())
				minute := uint16(epoch.Hour()*60 + epoch.Minute())
				g.Hours = acl.Hours{{Days: pick(r, day, acl.EveryDay, acl.EveryDay&^day), Start: minute + uint16(r.IntN(20)), End: minute + 1 + uint16(r.IntN(40)), Zone: "UTC"}}
			}
			in.Grants = append(in.Grants, g)
		}
		out.Inbound = append(out.Inbound, in)
	}
	return out
}

// The compiled form names what acl.Judge names, for as long as it claims to;
// afterwards it allows nothing more.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	u := newUniverse()
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := u.rules(r, true)
		at := epoch.Add(time.Duration(r.IntN(900)) * time.Second)
		c := Compile(rules, at)
		for range 40 {
			p := pick(r, u.peers...)
			target := acl.Target{Proto: pick(r, acl.TCP, acl.UDP, acl.SCTP, acl.ICMP, acl.ICMPv6, 47, 89), Port: pick[uint16](r, 0, 21, 22, 53, 443, 444, 999, 1001, 65535)}
			switch target.Proto {
			case acl.ICMP, acl.ICMPv6:
				target.Port, target.Echo = 0, r.IntN(2) == 0
			case 47, 89:
				target.Port = 0
			}
			now := at.Add(time.Duration(r.IntN(1200)) * time.Second)
			want := acl.Judge(rules.Inbound, acl.Request{From: p.Subject, To: u.self, Target: target, At: now})
			present := slices.ContainsFunc(rules.Peers, func(q Peer) bool { return q.Subject == p.Subject })
			var got acl.Verdict
			a, _ := usable(p.Addresses[0])
			if i, ok := c.byAddr[a]; ok {
				if g := c.peers[i].grants.find(target); g.exists() && now.UnixNano() < g.until {
					got = acl.Verdict{Allowed: true, Rule: c.rules[g.rule]}
					if g.until != nanos(time.Time{}) {
						got.Until = time.Unix(0, g.until).UTC()
					}
				}
			}
			want.To = acl.Selector{}
			exact := c.NextEnd().IsZero() || now.Before(c.NextEnd())
			if !present {
				want, exact = acl.Verdict{}, true
			}
			if exact && got != want || got.Allowed && !want.Allowed {
				t.Fatalf("seed %d: %s to %v at %v, compiled at %v:\n got %+v\nwant %+v\nrules %+v", seed, p.Subject.Name, target, now, at, got, want, rules.Inbound)
			}
		}
	})
}

// A datum describes a packet; the model reads it, the filter its bytes.
type datum struct {
	src, dst         netip.Addr
	proto            acl.Proto
	srcPort, dstPort uint16 // or the echo identifier, in dstPort
	flags            byte
	seq, ack         uint32
	n                int  // bytes of data
	typ              byte // of ICMP
	about            *datum
}

func (d *datum) bytes() []byte {
	src, dst := netip.AddrPortFrom(d.src, d.srcPort), netip.AddrPortFrom(d.dst, d.dstPort)
	switch d.proto {
	case acl.TCP:
		return packettest.TCP(src, dst, d.flags, d.seq, d.ack, make([]byte, d.n)...)
	case acl.UDP:
		return packettest.UDP(src, dst, make([]byte, d.n)...)
	case acl.SCTP:
		return packettest.SCTP(src, dst)
	case acl.ICMP, acl.ICMPv6:
		var data []byte
		if d.about != nil {
			data = d.about.bytes()
		}
		return packettest.ICMP(d.src, d.dst, d.typ, 0, uint32(d.dstPort)<<16, data...)
	default:
		return packettest.Proto(d.src, d.dst, byte(d.proto), make([]byte, d.n)...)
	}
}

func (d *datum) String() string {
	s := fmt.Sprintf("%v %v:%d > %v:%d flags %02x seq %d ack %d type %d", d.proto, d.src, d.srcPort, d.dst, d.dstPort, d.flags, d.seq, d.ack, d.typ)
	if d.about != nil {
		s += " about [" + d.about.String() + "]"
	}
	return s
}

func (d *datum) icmp() bool    { return d.proto == acl.ICMP || d.proto == acl.ICMPv6 }
func (d *datum) request() bool { return d.icmp() && (d.typ == 8 || d.typ == 128) }
func (d *datum) reply() bool   { return d.icmp() && (d.typ == 0 || d.typ == 129) }
func (d *datum) error() bool {
	return d.proto == acl.ICMP && (d.typ == 3 || d.typ == 11 || d.typ == 12) || d.proto == acl.ICMPv6 && 1 <= d.typ && d.typ <= 4
}
func (d *datum) neighbour() bool {
	return d.proto == acl.ICMPv6 && slices.Contains([]byte{133, 134, 135, 136}, d.typ)
}
func (d *datum) redirect() bool { return d.icmp() && (d.typ == 5 || d.typ == 137) }

func (u *universe) datum(r *rand.Rand, dir Direction, errors bool) *datum {
	peers := []netip.Addr{}
	for _, p := range u.peers {
		peers = append(peers, p.Addresses...)
	}
	d := &datum{src: pick(r, peers...), dst: pick(r, u.own...)}
	if r.IntN(20) == 0 {
		d.src = pick(r, u.strange...)
	}
	if r.IntN(20) == 0 {
		d.dst = pick(r, append(u.strange, peers...)...)
	}
	if d.src.Is4() != d.dst.Is4() {
		if d.dst = u.own[1]; d.src.Is4() {
			d.dst = u.own[0]
		}
	}
	d.srcPort, d.dstPort = pick[uint16](r, 443, 1000), pick[uint16](r, 22, 443, 53)
	if dir == Out {
		d.src, d.dst = d.dst, d.src
		d.srcPort, d.dstPort = d.dstPort, d.srcPort
	}
	d.proto = pick(r, acl.TCP, acl.TCP, acl.TCP, acl.UDP, acl.SCTP, acl.ICMP, acl.ICMP, 47)
	d.flags = pick[byte](r, 2, 2, 2, 18, 16, 16, 17, 4, 20, 3, 0)
	d.seq, d.ack, d.n = pick[uint32](r, 100, 101, 102, 1<<31+50), pick[uint32](r, 100, 101, 102), r.IntN(2)
	if d.proto == acl.ICMP {
		d.srcPort, d.dstPort = 0, pick[uint16](r, 1, 2)
		d.typ = pick[byte](r, 8, 8, 0, 0, 3, 11, 5, 13)
		if !d.src.Is4() {
			d.proto = acl.ICMPv6
			d.typ = pick[byte](r, 128, 128, 129, 129, 1, 2, 3, 4, 137, 135, 133, 130)
		}
		if d.error() {
			if !errors {
				return u.datum(r, dir, errors)
			}
			d.dstPort = 0
			d.about = u.datum(r, dir.reverse(), false)
			if r.IntN(8) > 0 {
				if d.about.src.Is4() != d.src.Is4() {
					return u.datum(r, dir, errors)
				}
				d.about.src, d.about.dst = d.dst, d.src
			}
		}
	}
	return d
}

// again is another packet of d's flow, in either direction.
func (d *datum) again(r *rand.Rand, dir Direction) (*datum, Direction) {
	n := *d
	n.seq, n.ack = pick[uint32](r, 100, 101, 102), pick[uint32](r, 100, 101, 102)
	n.flags = pick[byte](r, 2, 18, 16, 16, 16, 16, 17, 17, 4)
	if r.IntN(3) == 0 {
		return &n, dir
	}
	n.src, n.dst = n.dst, n.src
	switch {
	case !n.icmp():
		n.srcPort, n.dstPort = n.dstPort, n.srcPort
	case n.request():
		n.typ = map[acl.Proto]byte{acl.ICMP: 0, acl.ICMPv6: 129}[n.proto]
	case n.reply():
		n.typ = map[acl.Proto]byte{acl.ICMP: 8, acl.ICMPv6: 128}[n.proto]
	}
	if n.about != nil {
		about := *n.about
		about.src, about.dst = about.dst, about.src
		about.srcPort, about.dstPort = about.dstPort, about.srcPort
		n.about = &about
	}
	return &n, dir.reverse()
}

// The model is the filter written slowly: a list of flows, acl.Judge for every
// packet, no cache, no table.
type model struct {
	u     *universe
	rules *Rules // nil before the first swap
	now   time.Time
	flows []*modelFlow
}

type modelFlow struct {
	local, remote netip.Addr
	proto         acl.Proto
	near, far     uint16
	asker         int // of a ping: 1 here, 2 there
	peer          *acl.Subject
	began         Direction
	allowed       bool
	state         string
	seen          time.Time
	sent, fin     [2]bool
	old           [2]bool // next and acked are of before a restart
	next, acked   [2]uint32
}

// peer is who has an address now.
func (m *model) peer(a netip.Addr) *acl.Subject {
	if m.rules == nil || m.u.self.Nobody(m.now) {
		return nil
	}
	for _, p := range m.rules.Peers {
		if slices.Contains(p.Addresses, a) && !p.Subject.Nobody(m.now) {
			return p.Subject
		}
	}
	return nil
}

func (m *model) judge(from *acl.Subject, t acl.Target) bool {
	return acl.Judge(m.rules.Inbound, acl.Request{From: from, To: m.u.self, Target: t, At: m.now}).Allowed
}

// like is the flow that a packet would be of.
func like(d *datum, dir Direction) *modelFlow {
	fl := &modelFlow{local: d.src, remote: d.dst, proto: d.proto, near: d.srcPort, far: d.dstPort}
	if dir == In {
		fl.local, fl.remote, fl.near, fl.far = d.dst, d.src, d.dstPort, d.srcPort
	}
	if d.icmp() {
		fl.near, fl.far = d.dstPort, 0
		fl.asker = 1
		if d.request() == (dir == In) {
			fl.asker = 2
		}
	}
	if fl.proto == 47 {
		fl.near, fl.far = 0, 0
	}
	return fl
}

func (m *model) find(k *modelFlow) *modelFlow {
	for _, fl := range m.flows {
		if fl.local == k.local && fl.remote == k.remote && fl.proto == k.proto && fl.near == k.near && fl.far == k.far && fl.asker == k.asker {
			return fl
		}
	}
	return nil
}

func (m *model) refresh(fl *modelFlow) {
	p := m.peer(fl.remote)
	fl.allowed = p != nil && p == fl.peer && (fl.began == Out || m.judge(p, fl.target()))
}

func (fl *modelFlow) target() acl.Target {
	if fl.asker != 0 {
		return acl.Target{Proto: fl.proto, Echo: true}
	}
	return acl.Target{Proto: fl.proto, Port: fl.near}
}

func (m *model) expire() {
	m.flows = slices.DeleteFunc(m.flows, func(fl *modelFlow) bool {
		limit := 3 * time.Minute
		switch {
		case fl.asker != 0:
			limit = time.Minute
		case fl.proto == acl.TCP && !fl.allowed:
			limit = time.Minute
		case fl.proto == acl.TCP:
			limit = map[string]time.Duration{"opening": 30 * time.Second, "open": 124 * time.Minute, "finished": time.Minute, "aborted": 10 * time.Second}[fl.state]
		}
		return m.now.Sub(fl.seen) > limit
	})
}

func (m *model) swap(r Rules) {
	m.expire()
	m.rules = &r
	for _, fl := range m.flows {
		m.refresh(fl)
	}
}

// restart is the agent's: what this node began goes on, the rest is forgotten.
func (m *model) restart() (kept int) {
	m.expire()
	for _, fl := range m.flows {
		m.refresh(fl)
		fl.old = fl.sent
	}
	m.flows = slices.DeleteFunc(m.flows, func(fl *modelFlow) bool {
		return fl.began == In || !fl.allowed || fl.state != "opening" && fl.state != "open"
	})
	return len(m.flows)
}

// pass is the model's verdict.
func (m *model) pass(d *datum, dir Direction) bool {
	m.expire()
	near, far := d.dst, d.src
	if dir == Out {
		near, far = far, near
	}
	peer := m.peer(far)
	ends := peer != nil && slices.Contains(m.u.own, near)
	tcp := d.proto == acl.TCP
	fin, syn, rst, ack := d.flags&1 != 0, d.flags&2 != 0, d.flags&4 != 0, d.flags&16 != 0
	if tcp && (syn && (fin || rst) || !syn && !rst && !ack) {
		return false
	}
	if d.redirect() || d.neighbour() {
		return false
	}
	if d.icmp() && !d.request() && !d.reply() && !d.error() {
		return ends && (dir == Out || m.judge(peer, acl.Target{Proto: d.proto}))
	}
	if d.error() {
		q := d.about
		if !ends || q.src != d.dst || q.redirect() || q.error() || q.icmp() && !q.request() && !q.reply() {
			return false
		}
		fl := m.find(like(q, dir.reverse()))
		if fl == nil || fl.peer != peer {
			return false
		}
		if fl.allowed {
			m.refresh(fl)
		}
		if !fl.allowed {
			fl.seen = m.now
		}
		return fl.allowed
	}

	k := like(d, dir)
	fl := m.find(k)
	if fl != nil && fl.allowed {
		m.refresh(fl)
	}
	bare := tcp && syn && !ack
	over := fl != nil && (fl.state == "finished" || fl.state == "aborted")
	if fl != nil && !(bare && (fl.began != dir || over || !fl.allowed)) {
		if !fl.allowed {
			fl.seen = m.now
			return false
		}
		m.follow(fl, d, dir)
		return true
	}
	if !ends {
		return false
	}
	began := dir
	ok := dir == Out
	if dir == In || tcp && !bare && !rst {
		began = In
		t := k.target()
		if d.reply() {
			t.Echo = false
		}
		ok = m.judge(peer, t)
	}
	if !ok || rst && tcp || d.reply() {
		return ok
	}
	m.flows = slices.DeleteFunc(m.flows, func(x *modelFlow) bool { return x == fl })
	k.peer, k.began, k.allowed, k.state, k.seen = peer, began, true, "opening", m.now
	m.flows = append(m.flows, k)
	m.follow(k, d, dir)
	return true
}

func (m *model) follow(fl *modelFlow, d *datum, dir Direction) {
	over := fl.state == "finished" || fl.state == "aborted"
	if !over {
		fl.seen = m.now
	}
	if fl.proto != acl.TCP {
		if dir != fl.began {
			fl.state = "open"
		}
		return
	}
	other := 1 - dir
	if d.flags&4 != 0 {
		expected := fl.sent[dir] && d.seq == fl.next[dir] || fl.sent[other] && d.seq == fl.acked[other] ||
			!fl.sent[dir] && d.flags&16 != 0 && d.ack == fl.next[other]
		if !over && expected {
			fl.state = "aborted"
		}
		return
	}
	behind := d.seq + uint32(d.n)
	if d.flags&2 != 0 {
		behind++
	}
	if d.flags&1 != 0 {
		behind++
		fl.fin[dir] = true
	}
	if !fl.sent[dir] || fl.old[dir] || behind-fl.next[dir]-1 < 1<<31-1 {
		fl.next[dir] = behind
	}
	if d.flags&16 != 0 && (fl.acked[dir] == 0 || fl.old[dir] || d.ack-fl.acked[dir]-1 < 1<<31-1) {
		fl.acked[dir] = d.ack
	}
	fl.sent[dir], fl.old[dir] = true, false
	switch {
	case over:
	case fl.fin[0] && fl.fin[1]:
		fl.state = "finished"
	case fl.state == "opening" && dir == fl.began && fl.sent[other]:
		fl.state = "open"
	}
}

// Random packets, swaps and times: the filter passes what the model passes.
func FuzzFilter(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	u := newUniverse()
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := &model{u: u, now: epoch}
		config := Config{Clock: func() time.Time { return m.now }, ClockEvery: -1, Reset: func(Direction, []byte) {}}
		filter := New(config)
		var log []string
		type sent struct {
			d   *datum
			dir Direction
		}
		var recent []sent
		for step := range 400 {
			switch n := r.IntN(100); {
			case n < 2 || step == 3:
				rules := u.rules(r, false)
				c := filter.Swap(Compile(rules, m.now))
				m.swap(rules)
				if want := len(m.flows) - allowedNot(m.flows); c.Kept != want {
					t.Fatalf("seed %d step %d: swap kept %d flows, want %d\n%v", seed, step, c.Kept, want, log)
				}
				log = append(log, fmt.Sprintf("swap %+v", rules.Inbound))
			case n < 3:
				saved := filter.Export(1000)
				want := 0
				if m.rules == nil {
					m.flows = nil
				} else {
					want = m.restart()
				}
				if len(saved) != want {
					t.Fatalf("seed %d step %d: %d flows are exported, want %d: %+v\n%v", seed, step, len(saved), want, saved, log)
				}
				// Time goes on between the two agents, and perhaps the rules.
				later := pick(r, 0, time.Second, 40*time.Second)
				m.now = m.now.Add(later)
				for i := range saved {
					saved[i].Left -= later
				}
				rules := u.rules(r, false)
				if m.rules != nil && r.IntN(2) == 0 {
					rules = *m.rules
				}
				m.swap(rules)
				m.flows = slices.DeleteFunc(m.flows, func(fl *modelFlow) bool { return !fl.allowed })
				filter = New(config)
				filter.Restore(saved)
				if c := filter.Swap(Compile(rules, m.now)); c.Restored != len(m.flows) || c.Kept != c.Restored || len(c.Flows) != 0 {
					t.Fatalf("seed %d step %d: of %+v, %d are restored, %d kept, %d cut, want %d, as many and none\n%v", seed, step, saved, c.Restored, c.Kept, len(c.Flows), len(m.flows), log)
				}
				log = append(log, fmt.Sprintf("restart, %v later, %d flows go on, rules %+v", later, len(m.flows), rules.Inbound))
			case n < 6:
				m.now = m.now.Add(pick(r, time.Second, 9*time.Second, 25*time.Second, 50*time.Second, 2*time.Minute, time.Hour))
				log = append(log, "now "+m.now.Format(time.TimeOnly))
			default:
				dir := Direction(r.IntN(2))
				d := u.datum(r, dir, true)
				if len(recent) > 0 && r.IntN(2) == 0 {
					// More of a recent flow, the same way or the other.
					old := pick(r, recent...)
					d, dir = old.d.again(r, old.dir)
				}
				if recent = append(recent, sent{d, dir}); len(recent) > 12 {
					recent = recent[1:]
				}
				judge := filter.In
				if dir == Out {
					judge = filter.Out
				}
				got, want := judge(d.bytes()), m.pass(d, dir)
				log = append(log, fmt.Sprintf("%v %v: %v", dir, d, got))
				if (got.Action == Pass) != want {
					for _, l := range log {
						t.Log(l)
					}
					t.Fatalf("seed %d step %d: %v %v: got %v, want pass %v", seed, step, dir, d, got, want)
				}
			}
		}
		if live := len(filter.Flows()); live > len(m.flows) {
			t.Fatalf("seed %d: %d flows known, want at most %d", seed, live, len(m.flows))
		}
		checkTable(t, filter)
	})
}

func allowedNot(flows []*modelFlow) (n int) {
	for _, fl := range flows {
		if !fl.allowed {
			n++
		}
	}
	return n
}

// checkTable verifies the invariants of every shard: each flow stands in its
// bucket once, opening flows and no others in the list, free slots in theirs.
func checkTable(t *testing.T, f *Filter) {
	t.Helper()
	perPeer := map[*peerState]int32{}
	for n := range f.shards {
		s := &f.shards[n]
		s.mu.Lock()
		used, chained, listed, unanswered, free := 0, 0, 0, 0, 0
		for i := 1; i < len(s.flows); i++ {
			if fl := &s.flows[i]; fl.peer != nil {
				used++
				perPeer[fl.peer]++
				if fl.state == opening {
					unanswered++
				}
			}
		}
		for b, i := range s.heads {
			for ; i != 0; i = s.flows[i].next {
				chained++
				if got := int(s.secrets.hash(&s.flows[i].key)) & (len(s.heads) - 1); got != b {
					t.Errorf("shard %d: slot %d in bucket %d, want %d", n, i, b, got)
				}
			}
		}
		older := uint32(0)
		for i := s.oldest; i != 0; i = s.flows[i].newer {
			listed++
			if s.flows[i].state != opening || s.flows[i].older != older {
				t.Errorf("shard %d: slot %d in the list of opening flows: state %d, older %d, want %d", n, i, s.flows[i].state, s.flows[i].older, older)
			}
			older = i
		}
		for i := s.free; i != 0; i = s.flows[i].next {
			free++
		}
		if used != s.used || chained != used || listed != unanswered || used+free != len(s.flows)-1 || s.newest != older {
			t.Errorf("shard %d: used %d, counted %d, chained %d, opening %d, listed %d, free %d of %d slots", n, s.used, used, chained, unanswered, listed, free, len(s.flows)-1)
		}
		s.mu.Unlock()
	}
	for p, want := range perPeer {
		if got := p.flows.Load(); got != want {
			t.Errorf("peer %s: counts %d flows, has %d", p.name, got, want)
		}
	}
}
