package underlay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/coordinator/leaf"
)

const (
	// maxNames is how many names of STUN servers are looked up. A round asks
	// netcheck.MaxServers of each family, the first relays first; the others are
	// for names without an address.
	maxNames = 2 * netcheck.MaxServers

	// maxAddrs is how many addresses of one name are used.
	maxAddrs = 8

	// lookUpTimeout is how long one name may take: two tries of most resolvers.
	lookUpTimeout = 10 * time.Second

	// believed is how long the addresses of a name are used without looking it up
	// again. After a failure that is done after lookUpFirst, then twice as long
	// each time, up to the same.
	believed    = 10 * time.Minute
	lookUpFirst = 5 * time.Second
)

// A name is that of STUN servers.
type name struct {
	addrs    []netip.Addr // as last looked up
	asking   bool         // a look-up is under way
	due      time.Time    // of the next
	failures int          // in a row
}

// A stunAddr is where a relay answers STUN, as the policy writes it.
type stunAddr struct {
	relay string
	addr  netip.Addr // of a literal
	host  string     // of a name
	port  uint16
}

// stunAddrs are those of all relays, in order. What is no address is left out.
func stunAddrs(relays []leaf.Relay) (out []stunAddr) {
	for _, r := range relays {
		for _, s := range r.STUN {
			host, port, err := net.SplitHostPort(s)
			if err != nil {
				continue
			}
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil || number == 0 {
				continue
			}
			a := stunAddr{relay: r.Name, host: host, port: uint16(number)}
			if addr, err := netip.ParseAddr(host); err == nil {
				a.addr, a.host = addr.Unmap(), ""
			}
			out = append(out, a)
		}
	}
	return out
}

// servers are the STUN servers with the addresses that are known; u.mu is held.
func (u *Underlay) servers() (out []netcheck.Server) {
	add := func(relay string, addr netip.Addr, port uint16) {
		if addr = addr.Unmap(); !u.isInside(addr) {
			out = append(out, netcheck.Server{Name: relay, Addr: netip.AddrPortFrom(addr, port)})
		}
	}
	for _, s := range stunAddrs(u.relays) {
		if s.host == "" {
			add(s.relay, s.addr, s.port)
		} else if n := u.network.names[s.host]; n != nil {
			for _, a := range n.addrs {
				add(s.relay, a, s.port)
			}
		}
	}
	return out
}

// isInside reports whether an address is the mesh's; u.mu is held.
func (u *Underlay) isInside(a netip.Addr) bool {
	return u.inside[a] || slices.ContainsFunc(u.mesh, func(p netip.Prefix) bool { return p.Contains(a) })
}

// relaysChanged takes the policy's relays; u.mu is held.
func (u *Underlay) relaysChanged() {
	names := map[string]*name{}
	for _, s := range stunAddrs(u.relays) {
		if s.host == "" || names[s.host] != nil || len(names) == maxNames {
			continue
		}
		names[s.host] = u.network.names[s.host]
		if names[s.host] == nil {
			names[s.host] = &name{due: time.Now()}
		}
	}
	u.network.names = names
	u.serversChanged()
}

// serversChanged begins a round if there are other servers than in the last;
// u.mu is held. One that has had answers goes on first.
func (u *Underlay) serversChanged() {
	n := &u.network
	if u.phase != running || slices.Equal(u.servers(), n.servers) {
		return
	}
	if n.round != nil && n.answers {
		n.again = true
		return
	}
	u.beginRound()
}

// forgetNames has every name looked up again: on another network it may mean
// another server; u.mu is held.
func (u *Underlay) forgetNames() {
	for _, m := range u.network.names {
		m.due, m.failures = time.Now(), 0
	}
}

// nextLookUp is when a name is to be looked up; u.mu is held.
func (u *Underlay) nextLookUp() (next time.Time) {
	for _, m := range u.network.names {
		if !m.asking {
			next = earlier(next, m.due)
		}
	}
	return next
}

// asking reports whether a look-up is under way; u.mu is held.
func (u *Underlay) asking() bool {
	for _, m := range u.network.names {
		if m.asking {
			return true
		}
	}
	return false
}

// resolveDue begins the look-ups that are due; u.mu is held.
func (u *Underlay) resolveDue() {
	now := time.Now()
	for host, m := range u.network.names {
		if !m.asking && !now.Before(m.due) {
			m.asking = true
			u.tasks.Go(func() { u.lookUp(host, m) })
		}
	}
}

// lookUp looks one name up.
func (u *Underlay) lookUp(host string, m *name) {
	ctx, cancel := context.WithTimeout(u.ctx, lookUpTimeout)
	defer cancel()
	addrs, err := u.cfg.Resolve(ctx, host)
	u.do(func() {
		m.asking = false
		if u.phase != running || u.network.names[host] != m {
			return // the policy no longer names it
		}
		if err != nil || len(addrs) == 0 {
			u.cfg.Log.Debug("a STUN server's name has no address", "name", host, "err", err)
			m.due = time.Now().Add(min(lookUpFirst<<min(m.failures, 8), believed))
			m.failures++
		} else {
			m.addrs = slices.Clone(addrs[:min(len(addrs), maxAddrs)])
			m.due, m.failures = time.Now().Add(believed), 0
		}
		u.serversChanged()
		u.giveUp()
	})
}
