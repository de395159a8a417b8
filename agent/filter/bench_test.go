package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// office is a server with rules for n groups, each of which may reach one port
// of its own; peers are in one group each, and the first of them in group 0.
func office(rules, peers int) Rules {
	r := Rules{
		Self:      &acl.Subject{Name: "db1", Tags: []string{"accounting"}},
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a::1")},
	}
	in := acl.Inbound{To: acl.Selector{Kind: acl.KindTag, Name: "accounting"}}
	for i := range rules {
		in.Grants = append(in.Grants, acl.Grant{
			Rule:  fmt.Sprintf("rule-%d", i),
			From:  []acl.Selector{{Kind: acl.KindGroup, Name: fmt.Sprintf("group-%d", i)}, {Kind: acl.KindGroup, Name: "busy"}},
			Allow: []acl.Ports{{Range: acl.RangePorts, Proto: acl.TCP, First: uint16(2*i + 1), Last: uint16(2*i + 1)}, {Range: acl.RangePorts, Proto: acl.UDP, First: uint16(2*i + 1), Last: uint16(2*i + 1)}},
		})
	}
	r.Inbound = []acl.Inbound{in}
	for i := range peers {
		email := fmt.Sprintf("user%d@example", i)
		s := &acl.Subject{ID: key.NodeID{byte(i), byte(i >> 8), 1}, Name: fmt.Sprintf("n%d", i), User: &acl.User{Issuer: "i", Subject: email, Email: email}}
		s.Groups = []acl.Membership{{Group: fmt.Sprintf("group-%d", i%max(rules, 1))}}
		if i == 0 {
			s.Groups = append(s.Groups, acl.Membership{Group: "busy"})
		}
		r.Peers = append(r.Peers, Peer{s, []netip.Addr{
			netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)}),
			netip.MustParseAddr(fmt.Sprintf("fd7a::1:%x", i)),
		}})
	}
	return r
}

// family is the same addresses in IPv4 or IPv6.
func family(r Rules, six int) (self, peer netip.Addr) {
	return r.Addresses[six], r.Peers[0].Addresses[six]
}

func BenchmarkIn(b *testing.B) {
	for _, rules := range []int{10, 1000} {
		r := office(rules, 100)
		for six, name := range []string{"v4", "v6"} {
			self, peer := family(r, six)
			prefix := fmt.Sprintf("rules=%d/%s/", rules, name)
			f := New(Config{MaxPeerFlows: DefaultMaxFlows})
			f.Swap(Compile(r, epoch))
			syn := packettest.TCP(netip.AddrPortFrom(peer, 40000), netip.AddrPortFrom(self, 1), packettest.SYN, 1, 0)
			ack := packettest.TCP(netip.AddrPortFrom(peer, 40000), netip.AddrPortFrom(self, 1), packettest.ACK, 2, 1, make([]byte, 1000)...)
			udp := packettest.UDP(netip.AddrPortFrom(peer, 40000), netip.AddrPortFrom(self, 1), make([]byte, 1000)...)
			miss := packettest.TCP(netip.AddrPortFrom(peer, 40000), netip.AddrPortFrom(self, 2), packettest.SYN, 1, 0)
			run := func(name string, pkt []byte, want Reason) {
				b.Run(prefix+name, func(b *testing.B) {
					f.In(syn)
					f.In(pkt)
					for b.Loop() {
						if got := f.In(pkt); got.Reason != want {
							b.Fatalf("got %v, want %v", got, want)
						}
					}
				})
			}
			run("established/tcp", ack, Known)
			run("established/udp", udp, Known)
			run("miss", miss, NoGrant)
			b.Run(prefix+"new", func(b *testing.B) {
				pkt := append([]byte(nil), udp...)
				at := len(pkt) - 1008
				for n := 0; b.Loop(); n++ {
					pkt[at], pkt[at+1] = byte(n>>8), byte(n)
					pkt[at+3] = byte(n>>16)*2 | 1
					if got := f.In(pkt); got.Action != Pass {
						if got.Reason == NoGrant {
							continue
						}
						b.Fatalf("got %v, want pass", got)
					}
				}
			})
		}
	}
}

// Many live flows, in random order: what the cache of the processor makes of it.
func BenchmarkInManyFlows(b *testing.B) {
	for six, name := range []string{"v4", "v6"} {
		b.Run("flows=10000/"+name+"/established", func(b *testing.B) {
			r := office(10, 100)
			self, peer := family(r, six)
			f := New(Config{})
			f.Swap(Compile(r, epoch))
			pkts := make([][]byte, 10000)
			for i := range pkts {
				pkts[i] = packettest.UDP(netip.AddrPortFrom(peer, uint16(i+1)), netip.AddrPortFrom(self, 1), make([]byte, 16)...)
				f.In(pkts[i])
			}
			rand.Shuffle(len(pkts), func(i, j int) { pkts[i], pkts[j] = pkts[j], pkts[i] })
			for i := 0; b.Loop(); i++ {
				if got := f.In(pkts[i%len(pkts)]); got.Reason != Known {
					b.Fatalf("got %v, want %v", got, Known)
				}
			}
		})
	}
}

func BenchmarkOut(b *testing.B) {
	r := office(1000, 100)
	for six, name := range []string{"v4", "v6"} {
		self, peer := family(r, six)
		f := New(Config{})
		f.Swap(Compile(r, epoch))
		pkt := packettest.UDP(netip.AddrPortFrom(self, 40000), netip.AddrPortFrom(peer, 53), make([]byte, 1000)...)
		f.Out(pkt)
		b.Run(name+"/established", func(b *testing.B) {
			for b.Loop() {
				if got := f.Out(pkt); got.Reason != Known {
					b.Fatalf("got %v, want %v", got, Known)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []struct{ rules, peers int }{{100, 100}, {1000, 1000}} {
		b.Run(fmt.Sprintf("rules=%d/peers=%d", n.rules, n.peers), func(b *testing.B) {
			r := office(n.rules, n.peers)
			for b.Loop() {
				Compile(r, epoch)
			}
		})
	}
}

func BenchmarkSwap(b *testing.B) {
	r := office(100, 100)
	f := New(Config{})
	c := Compile(r, epoch)
	f.Swap(c)
	self, peer := family(r, 0)
	for i := range 10000 {
		f.In(packettest.UDP(netip.AddrPortFrom(peer, uint16(i+1)), netip.AddrPortFrom(self, 1)))
	}
	b.Run("flows=10000/kept", func(b *testing.B) {
		for b.Loop() {
			if cut := f.Swap(c); len(cut.Flows) != 0 {
				b.Fatalf("cut %d flows, want 0", len(cut.Flows))
			}
		}
	})
}

// How long an export keeps packets from a shard is what it costs them; the whole
// of it costs the node.
func BenchmarkExport(b *testing.B) {
	for _, n := range []int{1 << 16, 100000} {
		r := office(1, 100)
		f := New(Config{MaxFlows: n + n/8, MaxPeerFlows: n})
		f.Swap(Compile(r, epoch))
		for i := range n {
			f.Out(packettest.UDP(netip.AddrPortFrom(r.Addresses[0], uint16(i)), netip.AddrPortFrom(r.Peers[i>>16].Addresses[0], 53)))
		}
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			var got []Outbound
			for b.Loop() {
				got = f.Export(DefaultMaxFlows)
			}
			if len(got) != min(f.Stats().Flows, DefaultMaxFlows) {
				b.Fatalf("exported %d of %d flows, want all up to %d", len(got), f.Stats().Flows, DefaultMaxFlows)
			}
		})
		b.Run(fmt.Sprintf("flows=%d/locked", n), func(b *testing.B) {
			var longest, all time.Duration
			live := make([]flow, 0, 1<<14)
			rounds := 0
			for b.Loop() {
				now := f.clock.renew()
				for i := range f.shards {
					s := &f.shards[i]
					s.mu.Lock()
					began := time.Now()
					live = s.outbound(f.active.Load(), now, live[:0])
					held := time.Since(began)
					s.mu.Unlock()
					longest = max(longest, held)
					all += held
				}
				rounds++
			}
			b.ReportMetric(float64(longest.Nanoseconds()), "ns-longest")
			b.ReportMetric(float64(all.Nanoseconds())/float64(rounds*len(f.shards)), "ns-mean")
		})
		saved := f.Export(n)
		b.Run(fmt.Sprintf("flows=%d/restore", n), func(b *testing.B) {
			c := Compile(r, epoch)
			for b.Loop() {
				g := New(Config{MaxFlows: n + n/8, MaxPeerFlows: n})
				g.Restore(saved)
				g.Swap(c)
			}
		})
	}
}
