package node

import (
	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/router"
	"github.com/writmesh/writ/agent/tunnel"
)

// drops are what the parts of the plane dropped, other than the filter.
func (p *plane) drops() localapi.Drops {
	d := localapi.Drops{
		Tunnel:   tunnelDrops(p.tunnel.Counters()),
		Bind:     bindDrops(p.bind.Stats()),
		Underlay: p.underlay.Stats().Dropped(),
	}
	if p.kernel != nil {
		d.Device = p.kernel.device.Invalid()
		// Where the table cannot be read it has been taken away, which is mended
		// and warned of.
		if f, err := p.kernel.router.Drops(); err == nil {
			d.Firewall = firewallDrops(f)
		}
	}
	return d
}

func firewallDrops(f router.Drops) localapi.Firewall { return localapi.Firewall(f) }

func tunnelDrops(c tunnel.Counters) localapi.Tunnel {
	return localapi.Tunnel{
		ForgedSource: c.ForgedSource, Unrouted: c.Unrouted, NoSession: c.NoSession,
		HeldFull: c.HeldFull, HeldLost: c.HeldLost, Expired: c.Expired, InjectFull: c.InjectFull,
	}
}

func bindDrops(s bind.Stats) localapi.Bind {
	return localapi.Bind{
		Forged: s.Forged, Unasked: s.Unasked, Foreign: s.Foreign, Repeated: s.Repeated,
		Full: s.Full, Closed: s.Closed, Size: s.Size, Unsent: s.Unsent,
	}
}
