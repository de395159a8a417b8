package view_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/internal/view"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// BenchmarkBytes reports what a revision in which one membership changes costs an
// agent on the wire, by the size of the policy: one that the change does not
// concern ("unconcerned"), the destination that the new member may now reach
// ("concerned"), and, to compare, an unconcerned one that holds nothing yet
// ("first"). Each update is taken up by the verifier before it is counted.
func BenchmarkBytes(b *testing.B) {
	for _, leaves := range []int{100, 10_000} {
		w := netmaptest.New(b, start)
		c := newCourier(b, w)
		policy := func(member string) netmaptest.Policy {
			p := netmaptest.Policy{
				Groups: map[string][]string{"accounting": {"alice@acme.example", member}},
				Rules: []netmaptest.Rule{
					{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"},
					{Name: "ci", From: "tag:ci", To: "tag:ci", Allow: "tcp/22"},
				},
			}
			for i := range leaves/2 - 4 {
				p.Groups["staff"] = append(p.Groups["staff"], fmt.Sprintf("user-%d@acme.example", i))
				p.Rules = append(p.Rules, netmaptest.Rule{Name: fmt.Sprintf("rule-%d", i), From: "group:staff", To: fmt.Sprintf("tag:service-%d", i), Allow: "tcp/443"})
			}
			return p
		}
		first := c.publish(policy("bob@acme.example"))
		if n := first.Tree.Size(); n < int64(leaves)*9/10 || n > int64(leaves)*11/10 {
			b.Fatalf("%d leaves, want some %d", n, leaves)
		}
		ledger, ci := w.Admit("ledger", "tag:accounting"), w.Admit("ci", "tag:ci")
		for _, n := range []*netmaptest.Node{ledger, ci, w.Admit("carol", "carol@acme.example")} {
			c.admit(n)
		}
		held := map[*netmaptest.Node]*netmap.State{}
		for _, n := range []*netmaptest.Node{ledger, ci} {
			cl := &client{n: n, state: netmap.New(w.Network, n.ID)}
			if refused, err := cl.take(w, view.For(c.reg.Snapshot(), n.ID, cl.request(false), w.Now).Updates, -1); err != nil || len(refused) > 0 {
				b.Fatalf("refused %v, %v", refused, err)
			}
			held[n] = cl.state
		}
		w.Advance(time.Second)
		second := c.publish(policy("carol@acme.example"))
		snap := c.reg.Snapshot()
		for _, run := range []struct {
			name  string
			node  *netmaptest.Node
			state *netmap.State
		}{{"unconcerned", ci, held[ci]}, {"concerned", ledger, held[ledger]}, {"first", ci, netmap.New(w.Network, ci.ID)}} {
			b.Run(fmt.Sprintf("leaves=%d/%s", leaves, run.name), func(b *testing.B) {
				cl := &client{n: run.node, state: run.state}
				have := cl.request(false)
				bytes := 0
				b.ReportAllocs()
				var next view.Next
				for b.Loop() {
					next = view.For(snap, run.node.ID, have, w.Now)
				}
				for _, u := range next.Updates {
					bytes += proto.Size(u)
				}
				if refused, err := cl.take(w, next.Updates, -1); err != nil || len(refused) > 0 {
					b.Fatalf("refused %v, %v", refused, err)
				}
				if got := cl.state.Netmap(w.Now).Manifest; got != second.Manifest.Hash() {
					b.Fatalf("holds %s, want the newest revision", got.Short())
				}
				b.ReportMetric(float64(bytes), "bytes/agent")
			})
		}
	}
}
