package node

import (
	"context"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

// An agent is ready without a network: at once if it knows nothing, and
// otherwise when what it knows is in force. The machine's network may be waiting
// for it.
func TestReadyWithoutNetwork(t *testing.T) {
	t.Cleanup(func() { noneLeft(t) })
	m := newMesh(t)
	dir := t.TempDir()
	before := m.up("alice", dir)
	m.coord.WaitEnforced(1)
	want := before.wait("alice is up", func(s *localapi.Status) bool { return s.State == "up" })
	before.stop()
	m.coord.Stop()
	m.relay.Kill()

	for _, tc := range []struct {
		name, dir, state string
		seq              int64
	}{{"alice", dir, "up", want.Seq}, {"bob", t.TempDir(), "waiting", 0}} {
		type found struct {
			s   *localapi.Status
			err error
		}
		ready := make(chan found, 2)
		m.up(tc.name, tc.dir, func(c *Config) {
			api := localapi.Dial(c.Socket)
			c.Ready = func() {
				ctx, cancel := context.WithTimeout(context.Background(), within)
				defer cancel()
				s, err := api.Status(ctx, -1)
				ready <- found{s, err}
			}
		}).wait("the coordinator is missed", func(s *localapi.Status) bool { return s.Coordinator.Error != "" })
		select {
		case f := <-ready:
			if f.err != nil || f.s.State != tc.state || f.s.Seq != tc.seq {
				t.Errorf("%s: ready as %+v, %v; want %s at revision %d", tc.name, f.s, f.err, tc.state, tc.seq)
			}
		case <-time.After(within):
			t.Errorf("%s: not ready within %s", tc.name, within)
		}
		if len(ready) != 0 {
			t.Errorf("%s: ready twice", tc.name)
		}
	}
}
