package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// measured is what is known of this node's place in the network.
type measured struct {
	servers    []netcheck.Server // of the relays, with addresses
	resolving  bool
	resolved   time.Time // when names were last looked up
	interfaces []netcheck.Interface
	looked     time.Time // when interfaces were

	check  *netcheck.Check // nil: none is under way
	due    time.Time       // of the next
	report netcheck.Report // the latest, of a check that has ended or has something to say

	told bool
	self path.Self // as the engine was last told
}

// resolveAgain is how long addresses of names are believed.
const resolveAgain = 10 * time.Minute

// idleFor is how long a measurement is believed while no peer is awake.
const idleFor = 5 * time.Minute

// lookAround looks at the machine's interfaces and, if they are others than
// before or it is certain that something has changed, begins anew; u.mu is held.
func (u *Underlay) lookAround(certain bool) {
	now := time.Now()
	n := &u.network
	n.looked = now
	interfaces, err := u.cfg.Interfaces()
	if err != nil {
		u.cfg.Log.Warn("the machine's interfaces cannot be listed", "err", err)
		return
	}
	interfaces = slices.DeleteFunc(interfaces, func(i netcheck.Interface) bool { return !i.Up || slices.Contains(u.cfg.Skip, i.Name) })
	if !certain && slices.EqualFunc(interfaces, n.interfaces, sameInterface) {
		return
	}
	first := n.interfaces == nil
	n.interfaces = interfaces
	n.report = netcheck.Report{}
	if !first {
		u.engine.Moved(now)
	}
	u.tellSelf()
	u.resolve()
	u.beginCheck()
}

// resolve looks up the addresses of STUN servers, aside; u.mu is held.
func (u *Underlay) resolve() {
	n := &u.network
	if n.resolving {
		return
	}
	var literal []netcheck.Server
	names := false
	for _, r := range u.relays {
		for _, s := range r.STUN {
			if a, err := netip.ParseAddrPort(s); err == nil {
				literal = append(literal, netcheck.Server{Name: r.Name, Addr: a})
			} else {
				names = true
			}
		}
	}
	if !names {
		n.servers, n.resolved = literal, time.Now()
		return
	}
	if n.servers == nil {
		n.servers = literal
	}
	n.resolving = true
	relays := slices.Clone(u.relays)
	u.tasks.Go(func() { u.lookUp(relays) })
}

// lookUpTimeout is how long names may take together.
const lookUpTimeout = 10 * time.Second

// lookUp resolves the servers of relays, and has a check begin when others came
// out than before.
func (u *Underlay) lookUp(relays []leaf.Relay) {
	ctx, cancel := context.WithTimeout(u.ctx, lookUpTimeout)
	defer cancel()
	var servers []netcheck.Server
	for _, r := range relays {
		for _, s := range r.STUN {
			host, port, err := net.SplitHostPort(s)
			if err != nil {
				continue
			}
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				continue
			}
			addrs := []netip.Addr{}
			if a, err := netip.ParseAddr(host); err == nil {
				addrs = append(addrs, a)
			} else if addrs, err = u.cfg.Resolve(ctx, host); err != nil {
				u.cfg.Log.Debug("a STUN server's name has no address", "relay", r.Name, "name", host, "err", err)
			}
			for _, a := range addrs {
				servers = append(servers, netcheck.Server{Name: r.Name, Addr: netip.AddrPortFrom(a.Unmap(), uint16(number))})
			}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n := &u.network
	n.resolving, n.resolved = false, time.Now()
	if len(servers) > 0 && !slices.Equal(servers, n.servers) {
		n.servers = servers
		u.beginCheck()
	}
	u.look()
}

// beginCheck begins a measurement; u.mu is held.
func (u *Underlay) beginCheck() {
	n := &u.network
	now := time.Now()
	port := u.bind.LocalPort()
	if port == 0 || len(n.servers) == 0 {
		n.check = nil
		n.due = now.Add(idleFor)
		u.endCheck(netcheck.Report{At: now})
		return
	}
	// Loopback addresses are this node's own, too, for a relay on this machine.
	f := u.filter()
	f.Loopback = true
	n.check = netcheck.Start(now, n.servers, f.Local(n.interfaces, port, port), nil)
	u.advanceCheck()
	u.look()
}

// advanceCheck sends what the check under way has to send, and takes its result
// when it has one; u.mu is held.
func (u *Underlay) advanceCheck() {
	n := &u.network
	now := time.Now()
	if now.Sub(n.looked) >= lookEvery {
		u.lookAround(false)
	}
	if n.check == nil {
		if !n.due.IsZero() && !now.Before(n.due) {
			if now.Sub(n.resolved) > resolveAgain {
				u.resolve()
			}
			u.beginCheck()
		}
		return
	}
	for _, p := range n.check.Advance(now) {
		if err := u.bind.SendTo(p.To, p.Data); err != nil {
			n.check.Failed(p.To, err.Error())
		}
	}
	u.checked()
}

// filter says what peers are not told; u.mu is held.
func (u *Underlay) filter() netcheck.Filter {
	f := netcheck.Filter{Skip: u.cfg.Skip, Mesh: slices.Clone(u.mesh), Loopback: u.cfg.Loopback}
	for _, a := range u.own {
		f.Mesh = append(f.Mesh, netip.PrefixFrom(a, a.BitLen()))
	}
	return f
}

func sameInterface(a, b netcheck.Interface) bool {
	return a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs)
}

// rouse notes that a peer is awake; u.mu is held. What was measured when nobody
// was may be stale, and the peer is about to be told of it.
func (u *Underlay) rouse(id key.NodeID) {
	u.awake[id] = true
	n := &u.network
	if stale := n.report.At.Add(freshFor); n.check == nil && stale.Before(n.due) {
		n.due = stale
	}
}

// answered takes a STUN packet; u.mu is held.
func (u *Underlay) answered(now time.Time, e event) {
	n := &u.network
	if n.check == nil || !n.check.Receive(now, e.addr, e.data) {
		u.counts.stun.Add(1)
		return
	}
	u.checked()
}

// checked takes what the check has found out so far, and ends it when it has
// ended; u.mu is held.
func (u *Underlay) checked() {
	n := &u.network
	if !n.check.Changed() && !n.check.Done() {
		return
	}
	report := n.check.Report()
	if !n.check.Done() && !n.check.Enough() {
		// The first answer counts at once: a peer may be waiting for it. What a
		// whole check has said is not taken back by half of one.
		if len(n.report.IPv4.Endpoints)+len(n.report.IPv6.Endpoints) == 0 {
			n.report = report
			u.tellSelf()
		}
		return
	}
	n.check = nil
	u.endCheck(report)
	fresh := idleFor
	if len(u.awake) > 0 {
		fresh = freshFor - time.Duration(u.rand.Int64N(int64(freshFor/4)))
	}
	n.due = time.Now().Add(fresh)
}

func (u *Underlay) endCheck(report netcheck.Report) {
	n := &u.network
	n.report = report
	for _, c := range u.checking {
		c <- report
	}
	u.checking = nil
	u.tellSelf()
	u.cfg.News()
}

// tellSelf tells the engine where this node may be found, if that is news; u.mu
// is held.
func (u *Underlay) tellSelf() {
	n := &u.network
	port, f := u.bind.LocalPort(), u.filter()
	self := path.Self{
		Endpoints: f.Endpoints(n.report, f.Local(n.interfaces, port, port), nil),
		Mapping:   n.report.Mapping(),
		UDP4:      n.report.IPv4.UDP == netcheck.Works,
		UDP6:      n.report.IPv6.UDP == netcheck.Works,
		Mesh:      f.Mesh,
	}
	if n.told && slices.Equal(self.Endpoints, n.self.Endpoints) && self.Mapping == n.self.Mapping &&
		self.UDP4 == n.self.UDP4 && self.UDP6 == n.self.UDP6 && slices.Equal(self.Mesh, n.self.Mesh) {
		return
	}
	n.told, n.self = true, self
	u.engine.SetSelf(time.Now(), self)
	u.perform()
}

// checkDue is when the check has something to do; u.mu is held.
func (u *Underlay) checkDue() time.Time {
	n := &u.network
	due := n.looked.Add(lookEvery)
	switch {
	case n.check != nil:
		due = earlier(due, n.check.Next())
	case !n.due.IsZero():
		due = earlier(due, n.due)
	}
	return due
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// ErrNoServers means that no relay of the policy answers STUN, or that there is
// no UDP socket.
var ErrNoServers = errors.New("no relay of this network answers STUN")

// Check measures how the node looks from outside, now.
func (u *Underlay) Check(ctx context.Context) (netcheck.Report, error) {
	c := make(chan netcheck.Report, 1)
	u.mu.Lock()
	if len(u.network.servers) == 0 && !u.network.resolving {
		u.mu.Unlock()
		return netcheck.Report{}, ErrNoServers
	}
	u.checking = append(u.checking, c)
	if u.network.check == nil {
		u.beginCheck()
	}
	u.mu.Unlock()
	u.look()
	select {
	case r := <-c:
		return r, nil
	case <-ctx.Done():
		return netcheck.Report{}, ctx.Err()
	}
}

// Report is the latest measurement, and the endpoints that peers are told.
func (u *Underlay) Report() (netcheck.Report, []disco.Endpoint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.network.report, slices.Clone(u.network.self.Endpoints)
}
