package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/tunnel"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
)

// Status implements localapi.Agent.
func (a *Agent) Status() (*localapi.Status, <-chan struct{}) {
	n, _ := a.control.Netmap()
	following, refused := a.control.Status()
	a.mu.Lock()
	p, version, changed, proxy, began := a.plane, a.version, a.changed, a.proxyAddr, a.failed
	a.mu.Unlock()

	s := &localapi.Status{
		Version: version, Program: a.cfg.Version,
		Network: a.cfg.Join.Network.String(), Node: a.identity.Public().NodeID().String(),
		Addrs: n.Addresses, Proxy: proxy, Interface: a.cfg.Interface,
		Coordinator: localapi.Coordinator{
			Addr: following.Coordinator, Since: following.Since, Heard: following.Heard,
			CaughtUp: following.CaughtUp, Error: following.Error,
		},
	}
	switch {
	case n.Self != nil && p == nil:
		s.State, s.Why, s.Name = "waiting", "starting", n.Self.Name
	case n.Self != nil:
		s.State, s.Name, s.Who, s.Expires = "up", n.Self.Name, who(n.Self), n.Self.Expires
	case n.Out != "":
		s.State, s.Why = "out", n.Out
	case refused != "":
		s.State, s.Why = "refused", refused
	default:
		s.State, s.Why = "waiting", "not admitted yet"
	}
	if n.Position.Seq != 0 {
		s.Commit, s.Epoch, s.Seq, s.Issued = string(n.Commit), n.Position.Epoch, n.Position.Seq, n.Issued
		s.Digest = n.Digest.String()
	}
	for _, b := range n.Nobodies {
		s.Nobodies = append(s.Nobodies, localapi.Nobody{Node: b.ID.String(), Name: b.Name, Why: b.Why})
	}
	s.Alarms = a.alarms(n, began)
	if len(following.Refusals) > 0 {
		s.Refusals = map[string]int64{}
		for k, count := range following.Refusals {
			s.Refusals[string(k)] = count
		}
	}
	if p != nil {
		a.planeStatus(s, n, p)
	}
	return s, changed
}

func (a *Agent) planeStatus(s *localapi.Status, n *netmap.Netmap, p *plane) {
	for _, r := range p.relays.States() {
		out := localapi.Relay{Name: r.Name, Addr: r.Addr, Home: r.Home, State: r.Phase.String(), RTT: r.RTT}
		if r.LastError != nil {
			out.Error = r.LastError.Error()
		}
		s.Relays = append(s.Relays, out)
	}
	s.Port = p.bind.LocalPort()
	s.NAT = nat(p)
	s.Drops = p.drops()
	if p.kernel != nil {
		for _, w := range p.kernel.warnings() {
			s.Alarms = append(s.Alarms, localapi.Alarm{Text: w})
		}
	}
	stats, err := p.tunnel.Stats()
	if err != nil {
		s.Alarms = append(s.Alarms, localapi.Alarm{Text: "WireGuard: " + err.Error()})
	}
	byID := make(map[key.NodeID]tunnel.PeerStats, len(stats))
	for _, st := range stats {
		byID[st.ID] = st
	}
	for _, peer := range n.Peers {
		id := peer.Subject.ID
		st := byID[id]
		out := localapi.Peer{
			Node: id.String(), Name: peer.Subject.Name, Who: who(peer.Subject), Addrs: peer.Addresses,
			Handshake: st.LastHandshake, Rx: st.RxBytes, Tx: st.TxBytes,
		}
		p.pathStatus(&out, p.underlay.Verdict(id), id)
		s.Peers = append(s.Peers, out)
	}
	f := p.filter.Stats()
	p.mu.Lock()
	s.Filter = localapi.Filter{
		Flows: f.Flows, Rules: f.Rules, LastCut: p.lastCut,
		Passed: map[string]uint64{}, Dropped: map[string]uint64{}, Contests: p.rules.Contested(),
	}
	p.mu.Unlock()
	for _, byReason := range f.Packets {
		for i, count := range byReason {
			if count == 0 {
				continue
			}
			reason := filter.Reason(i)
			into := s.Filter.Dropped
			if reason.Action() == filter.Pass {
				into = s.Filter.Passed
			}
			into[reason.String()] += count
		}
	}
}

// alarms are what a person at this node should know.
func (a *Agent) alarms(n *netmap.Netmap, failed error) (out []localapi.Alarm) {
	add := func(at time.Time, format string, args ...any) {
		out = append(out, localapi.Alarm{At: at, Text: fmt.Sprintf(format, args...)})
	}
	following, _ := a.control.Status()
	if failed != nil {
		add(time.Time{}, "%v", failed)
	}
	if following.Damaged != "" {
		add(time.Time{}, "%s", following.Damaged)
	}
	if following.Unwritten != "" {
		add(time.Time{}, "a newer state is not obeyed, because it cannot be kept: %s", following.Unwritten)
	}
	if why := a.control.Unput(); why != "" {
		add(time.Time{}, "others do not learn of this node's key and relays: %s", why)
	}
	for _, r := range following.Recent {
		times := ""
		if r.Count > 1 {
			times = fmt.Sprintf(", the newest of %d", r.Count)
		}
		add(r.At, "%s refused (%s): %s%s", r.Document, r.Kind, r.Why, times)
	}
	if n.Unenforced > 0 {
		add(time.Time{}, "%d grants of this revision give no access here: this version cannot enforce them", n.Unenforced)
	}
	return out
}

func who(s *acl.Subject) (out []string) {
	if s.User != nil {
		return []string{s.User.Email}
	}
	for _, t := range s.Tags {
		out = append(out, "tag:"+t)
	}
	return out
}

// Whois implements localapi.Agent. An address of this machine with a port is
// looked up among the connections that are handed to local servers.
func (a *Agent) Whois(ap netip.AddrPort) (*localapi.Whois, error) {
	if remote, ok := a.handed.find(ap); ok {
		ap = remote
	}
	n, _ := a.control.Netmap()
	if n.Self != nil && slices.Contains(n.Addresses, ap.Addr()) {
		return whois(n.Self, n.Addresses, a.now(), true), nil
	}
	peer, ok := n.Peer(ap.Addr())
	if !ok {
		return nil, fmt.Errorf("%w: no peer has %s", localapi.ErrUnknown, ap.Addr())
	}
	w := whois(peer.Subject, peer.Addresses, a.now(), false)
	w.Capabilities = acl.Capabilities(n.Inbound, acl.Request{From: peer.Subject, To: n.Self, At: a.now()})
	return w, nil
}

func whois(s *acl.Subject, addrs []netip.Addr, at time.Time, self bool) *localapi.Whois {
	w := &localapi.Whois{Node: s.ID.String(), Name: s.Name, Tags: s.Tags, Addrs: addrs, Self: self, Posture: s.Posture}
	if s.User != nil {
		w.User = s.User.Email
	}
	for _, m := range s.Groups {
		if s.In(m.Group, at) && !slices.Contains(w.Groups, m.Group) {
			w.Groups = append(w.Groups, m.Group)
		}
	}
	slices.Sort(w.Groups)
	return w
}

// find finds a peer by address, or by name with or without the domain.
func find(n *netmap.Netmap, name string) (*netmap.Peer, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		if peer, ok := n.Peer(addr.Unmap()); ok {
			return peer, nil
		}
		return nil, fmt.Errorf("%w: no peer has %s", localapi.ErrUnknown, addr)
	}
	if peer, ok := n.Named(name); ok {
		return peer, nil
	}
	return nil, fmt.Errorf("%w: no peer is named %q; a node is a peer if a rule lets it reach this one, or this one reach it", localapi.ErrUnknown, name)
}

// Down implements localapi.Agent.
func (a *Agent) Down() { a.stop() }
