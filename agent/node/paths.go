package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
)

// pathStatus says how packets to a peer go.
func (p *plane) pathStatus(out *localapi.Peer, v path.Verdict, id key.NodeID) {
	out.Path, out.Direct = p.pathTo(v.Choice, id)
	out.RTT, out.NotDirect = v.RTT, p.notDirect(v)
	for _, c := range v.Candidates {
		out.Endpoints = append(out.Endpoints, localapi.Endpoint{Addr: c.Addr, Kind: c.Kind, Result: c.Result, RTT: c.RTT})
	}
	for _, t := range v.Transitions {
		text := t.To.String()
		if t.Addr.IsValid() {
			text += " " + t.Addr.String()
		}
		out.Steps = append(out.Steps, localapi.Step{At: t.At, Text: text + ": " + t.Why})
	}
}

// pathTo names the path that a choice is.
func (p *plane) pathTo(c path.Choice, id key.NodeID) (name string, direct bool) {
	relay := "none"
	if by := p.relays.To(id); by != "" {
		relay = "relay " + by
	}
	switch {
	case !c.Direct.IsValid():
		return relay, false
	case c.Relay:
		return "direct " + c.Direct.String() + " + " + relay, true
	}
	return "direct " + c.Direct.String(), true
}

// notDirect is the fact that blocks a direct path to a peer.
func (p *plane) notDirect(v path.Verdict) string {
	if p.bind.LocalPort() > 0 {
		return v.Why
	}
	if err := p.bind.UDPError(); err != nil {
		return "this node has no UDP socket: " + err.Error()
	}
	return "this node was started without direct paths"
}

// nat says how the node looks from outside; nil before it has been measured.
func nat(p *plane) *localapi.NAT {
	report, endpoints := p.underlay.Report()
	if report.At.IsZero() {
		return nil
	}
	out := &localapi.NAT{At: report.At, Mapping: report.Mapping().String(), Words: report.Words()}
	for _, e := range endpoints {
		out.Endpoints = append(out.Endpoints, e.Addr)
	}
	return out
}

// pingTimeout is how long a ping waits: a handshake that is sent again once.
const pingTimeout = 6 * time.Second

// target finds the peer of a ping.
func (a *Agent) target(name string) (*plane, *netmap.Peer, netip.Addr, error) {
	n, _ := a.control.Netmap()
	peer, err := find(n, name)
	if err != nil {
		return nil, nil, netip.Addr{}, err
	}
	a.mu.Lock()
	p := a.plane
	a.mu.Unlock()
	if p == nil {
		return nil, nil, netip.Addr{}, fmt.Errorf("%w: this node is not up", localapi.ErrUnknown)
	}
	addr := peer.Addresses[0]
	if want, err := netip.ParseAddr(name); err == nil {
		addr = want.Unmap()
	}
	return p, peer, addr, nil
}

// Ping implements localapi.Agent.
func (a *Agent) Ping(ctx context.Context, name string) (*localapi.Pong, error) {
	p, peer, addr, err := a.target(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	id := peer.Subject.ID
	pong, err := p.underlay.Ping(ctx, id)
	v := p.underlay.Verdict(id)
	if err != nil {
		why := "its agent does not answer"
		if by, _ := p.pathTo(v.Choice, id); by == "none" {
			why = "no relay of the two nodes is connected"
		}
		return nil, fmt.Errorf("ping %s (%s): %s", peer.Subject.Name, addr, why)
	}
	choice := v.Choice
	if !pong.Direct {
		choice = path.Choice{Relay: true}
	}
	out := &localapi.Pong{Name: peer.Subject.Name, Addr: addr, RTT: pong.RTT, NotDirect: p.notDirect(v)}
	out.Path, out.Direct = p.pathTo(choice, id)
	return out, nil
}

// Echo implements localapi.Agent.
func (a *Agent) Echo(ctx context.Context, name string) (*localapi.Pong, error) {
	p, peer, addr, err := a.target(name)
	if err != nil {
		return nil, err
	}
	if p.stack == nil {
		return nil, fmt.Errorf("%w: this node has a kernel interface: use the machine's own ping", localapi.ErrUnknown)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	rtt, err := p.stack.Ping(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("ping %s (%s): %w (an echo needs a rule that allows icmp)", peer.Subject.Name, addr, err)
	}
	out := &localapi.Pong{Name: peer.Subject.Name, Addr: addr, RTT: rtt}
	v := p.underlay.Verdict(peer.Subject.ID)
	out.Path, out.Direct = p.pathTo(v.Choice, peer.Subject.ID)
	out.NotDirect = p.notDirect(v)
	return out, nil
}

// netcheckTimeout is above what a check takes at most.
const netcheckTimeout = 10 * time.Second

// Netcheck implements localapi.Agent.
func (a *Agent) Netcheck(ctx context.Context) (*netcheck.Report, error) {
	a.mu.Lock()
	p := a.plane
	a.mu.Unlock()
	if p == nil {
		return nil, errors.New("this node is not admitted yet, and learns of relays, which are asked, when it is")
	}
	ctx, cancel := context.WithTimeout(ctx, netcheckTimeout)
	defer cancel()
	r, err := p.underlay.Check(ctx)
	return &r, err
}
