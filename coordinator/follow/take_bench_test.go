package follow

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/wire"
)

// BenchmarkTake takes a revision up as a node does: the update is verified, of a
// policy of a hundred leaves three that the node requires having changed, and
// the state is written and synced. "disk" is the writing and syncing alone, of
// as many bytes.
func BenchmarkTake(b *testing.B) {
	begin := time.Now().UTC().Truncate(time.Second)
	w := netmaptest.New(b, begin)
	node := w.Admit("ledger-1", "tag:accounting")
	// Version changes the node's principal leaf and two of what may reach it.
	policy := func(version int) netmaptest.Policy {
		p := netmaptest.Policy{
			Groups: map[string][]string{"books": {"tag:accounting"}},
			Until:  map[string]time.Time{"books tag:accounting": begin.Add(time.Duration(version) * time.Hour)},
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
	first := w.Publish(policy(1))
	before := netmap.New(w.Network, node.ID).Accept(w.Everything(node, first), w.Now).State
	second := w.Publish(policy(2))
	u := w.Delta(node, first, second)
	if size := second.Tree.Size(); len(u.Leaves) != 3 || size < 95 || size > 105 {
		b.Fatalf("%d of %d leaves change, want 3 of some 100", len(u.Leaves), size)
	}
	msg := wire.FromUpdate(u)
	adopted := 0
	f, err := Open(Config{
		Network: w.Network, Identity: node.Key, Self: node.ID, Version: "bench",
		Coordinators: []leaf.Coordinator{{Addr: "one.test:443", Pin: key.NewIdentity().Public()}},
		File:         filepath.Join(b.TempDir(), "netmap.state"),
		Adopt:        func(context.Context, netmap.Outcome) { adopted++ },
		Log:          slog.New(slog.DiscardHandler), Now: func() time.Time { return w.Now },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("revision", func(b *testing.B) {
		adopted = 0
		n := 0
		for b.Loop() {
			f.state = before
			if written, incomplete := f.take(b.Context(), msg); !written || incomplete {
				b.Fatalf("written %t, incomplete %t", written, incomplete)
			}
			n++
		}
		if adopted != n {
			b.Fatalf("adopted %d of %d revisions", adopted, n)
		}
	})
	content, err := f.State().Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("disk", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "netmap.state")
		for b.Loop() {
			if err := statefile.Write(path, FileKind, content); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(content)), "bytes")
	})
}
