package netmap_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// hundred is a policy of some hundred leaves, of which the ledger requires those
// of its own tag; version changes three of them.
func hundred(version int) netmaptest.Policy {
	p := netmaptest.Policy{
		Groups: map[string][]string{"books": {"tag:accounting"}},
		Until:  map[string]time.Time{"books tag:accounting": start.Add(time.Duration(version) * time.Hour)},
	}
	for i := range 60 {
		p.Groups["staff"] = append(p.Groups["staff"], fmt.Sprintf("user-%d@acme.example", i))
	}
	for i := range 35 {
		p.Rules = append(p.Rules, netmaptest.Rule{Name: fmt.Sprintf("rule-%d", i), From: "group:staff", To: fmt.Sprintf("tag:service-%d", i), Allow: "tcp/443"})
	}
	for _, to := range []string{"tag:accounting", "node:ledger-1"} {
		p.Rules = append(p.Rules, netmaptest.Rule{Name: "ledger", From: "group:staff", To: to, Allow: fmt.Sprintf("tcp/%d", 1000+version)})
	}
	return p
}

func BenchmarkAccept(b *testing.B) {
	w := netmaptest.New(b, start)
	ledger, other := w.Admit("ledger-1", "tag:accounting"), w.Admit("other", "tag:other")
	r1 := w.Publish(hundred(1))
	w.Advance(time.Minute)
	r2 := w.Publish(hundred(2))
	for _, run := range []struct {
		name string
		node *netmaptest.Node
	}{{"changed=3of100", ledger}, {"changed=0of100", other}} {
		b.Run(run.name, func(b *testing.B) {
			s := netmap.New(w.Network, run.node.ID).Accept(w.Everything(run.node, r1), w.Now).State
			u := w.Delta(run.node, r1, r2)
			if want := map[string]int{"changed=3of100": 3, "changed=0of100": 0}[run.name]; len(u.Leaves) != want {
				b.Fatalf("%d leaves are sent, want %d", len(u.Leaves), want)
			}
			for b.Loop() {
				if o := s.Accept(u, w.Now); !o.Adopted {
					b.Fatal(o.Refused)
				}
			}
		})
	}
}

func BenchmarkPeers(b *testing.B) {
	const peers = 10_000
	w := netmaptest.New(b, start)
	ledger := w.Admit("ledger-1", "tag:accounting")
	r1 := w.Publish(hundred(1))
	var u netmap.Update
	for i := range peers {
		n := w.Admit(fmt.Sprintf("node-%d", i), fmt.Sprintf("tag:service-%d", i%35))
		u.Peers = append(u.Peers, n.Papers)
	}
	for i := range 35 {
		u.Leaves = append(u.Leaves, w.Prove(r1, fmt.Sprintf("principal/tag:service-%d", i)))
	}
	alone := netmap.New(w.Network, ledger.ID).Accept(w.Everything(ledger, r1), w.Now).State
	full := alone.Accept(u, w.Now).State
	if got := len(full.Netmap(w.Now).Peers); got != peers {
		b.Fatalf("%d peers, want %d", got, peers)
	}
	w.Advance(time.Minute)
	r2 := w.Publish(hundred(2))
	delta := w.Delta(ledger, r1, r2)
	b.Run("papers=10000/new", func(b *testing.B) {
		for b.Loop() {
			alone.Accept(u, w.Now)
		}
	})
	b.Run("papers=10000/known", func(b *testing.B) {
		for b.Loop() {
			if o := full.Accept(netmap.Update{Peers: u.Peers}, w.Now); o.Changed {
				b.Fatal("changed")
			}
		}
	})
	b.Run("revision/peers=10000", func(b *testing.B) {
		for b.Loop() {
			if o := full.Accept(delta, w.Now); !o.Adopted {
				b.Fatal(o.Refused)
			}
		}
	})
	b.Run("netmap/peers=10000", func(b *testing.B) {
		for b.Loop() {
			full.Netmap(w.Now)
		}
	})
	b.Run("marshal/peers=10000", func(b *testing.B) {
		for b.Loop() {
			if _, err := full.Marshal(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
