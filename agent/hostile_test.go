package main

import (
	"strings"
	"testing"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/underlay"
)

// Status has a line about what was dropped only where somebody meant harm.
func TestStatusTellsOfHostilePackets(t *testing.T) {
	probes := func(r disco.Reason) map[string]uint64 {
		return underlay.Stats{Disco: map[disco.Reason]uint64{r: 7}}.Dropped()
	}
	for _, tc := range []struct {
		name  string
		drops localapi.Drops
		want  string
	}{
		{"nothing", localapi.Drops{}, ""},
		{"an ordinary day", localapi.Drops{
			Firewall: localapi.Firewall{Clear: 1}, Device: 2,
			Tunnel:   localapi.Tunnel{Unrouted: 3, NoSession: 4, HeldFull: 5, HeldLost: 6, Expired: 7, InjectFull: 8},
			Bind:     localapi.Bind{Unasked: 9, Foreign: 10, Repeated: 11, Full: 12, Closed: 13, Size: 14, Unsent: 15},
			Underlay: probes(disco.Replay),
		}, ""},
		{"a forged inner source", localapi.Drops{Tunnel: localapi.Tunnel{ForgedSource: 3}}, "3 from a peer with an address that is not its own"},
		{"neighbours", localapi.Drops{Firewall: localapi.Firewall{Source: 1, Destination: 2}},
			"1 from outside with an address of the mesh, 2 from outside to this node's mesh address"},
		{"handshakes", localapi.Drops{Bind: localapi.Bind{Forged: 5}}, "5 handshakes without this node's key"},
		{"probes", localapi.Drops{Underlay: probes(disco.Forged)}, "7 forged path probes"},
		{"a peer's probes", localapi.Drops{Underlay: probes(disco.Malformed)}, "7 malformed path probes of peers"},
	} {
		var out strings.Builder
		printStatus(&out, &localapi.Status{State: "up", Name: "n", Drops: tc.drops})
		_, line, found := strings.Cut(out.String(), "\ndropped ")
		line, _, _ = strings.Cut(line, "\n")
		if found != (tc.want != "") || strings.TrimSpace(line) != tc.want {
			t.Errorf("%s: got %q, want %q in\n%s", tc.name, line, tc.want, out.String())
		}
	}
}
