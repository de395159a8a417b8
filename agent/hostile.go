package main

import (
	"fmt"
	"strings"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/localapi"
)

// hostile says what was dropped that no honest node or network sends; empty when
// there was none. The other drops are in the JSON.
func hostile(d *localapi.Drops) string {
	var out []string
	for _, h := range []struct {
		n    uint64
		what string
	}{
		{d.Tunnel.ForgedSource, "from a peer with an address that is not its own"},
		{d.Firewall.Source, "from outside with an address of the mesh"},
		{d.Firewall.Destination, "from outside to this node's mesh address"},
		{d.Bind.Forged, "handshakes without this node's key"},
		{d.Underlay["disco "+disco.Forged.String()], "forged path probes"},
		{d.Underlay["disco "+disco.Malformed.String()], "malformed path probes of peers"},
	} {
		if h.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", h.n, h.what))
		}
	}
	return strings.Join(out, ", ")
}
