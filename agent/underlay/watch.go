package underlay

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/netcheck"
)

const (
	// lookEvery is how often the machine's interfaces are looked at, for systems
	// and privileges where nothing tells of changes.
	lookEvery = 10 * time.Second

	// lookGap is the least time between two looks. A change of network comes in
	// steps, each of which takes every proof of every path back.
	lookGap = 500 * time.Millisecond
)

// watch looks at the machine's interfaces until ctx ends: when it is said that they
// changed, when a direct path is doubted, and every lookEvery. It lists them without
// the lock: on a machine with thousands it takes long.
func (u *Underlay) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	clocks := readClocks(u.cfg.Boottime)
	gap := time.NewTimer(lookGap)
	defer gap.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
		}
		certain := false
		select {
		case <-ctx.Done():
			return
		case <-u.moved:
			certain = true
		case <-u.glance:
		case <-tick.C:
		}
		now := readClocks(u.cfg.Boottime)
		slept, set := now.since(clocks)
		clocks = now
		interfaces, err := u.cfg.Interfaces()
		u.do(func() {
			if u.phase == running {
				if set {
					u.pairs.renew(time.Now())
				}
				certain = certain || slept
				u.looked(interfaces, err, certain)
			}
		})
		gap.Reset(lookGap)
	}
}

// looked takes the machine's interfaces. If their addresses are others than
// before, or it is certain that something has changed, what was measured and
// proved is worth nothing; u.mu is held.
func (u *Underlay) looked(interfaces []netcheck.Interface, err error, certain bool) {
	n := &u.network
	if failed := err != nil; failed != n.unlisted {
		n.unlisted = failed
		if failed {
			u.cfg.Log.Warn("the machine's interfaces cannot be listed", "err", err)
		}
	}
	if err == nil {
		n.interfaces = slices.DeleteFunc(slices.Clone(interfaces), func(i netcheck.Interface) bool {
			return !i.Up || slices.Contains(u.cfg.Skip, i.Name)
		})
	}
	at := u.standing()
	first := !n.looked
	if !first && !certain && slices.Equal(at, n.at) {
		u.tellSelf() // networks inside the machine may be others
		return
	}
	n.looked, n.at = true, at
	n.report, n.held = netcheck.Report{}, [2]held{}
	if !first {
		u.bind.ClearSources()
		u.engine.Moved(time.Now())
		u.went = true
	}
	u.tellSelf()
	u.forgetNames()
	u.beginRound()
}

// standing are the addresses and the port by which the node stands in networks
// outside of the machine, in order; u.mu is held. Those of containers come and go
// without a path being another.
func (u *Underlay) standing() []netip.AddrPort {
	outside := slices.DeleteFunc(slices.Clone(u.network.interfaces), netcheck.Interface.Virtual)
	port := u.bind.LocalPort()
	at := netcheck.Filter{Loopback: u.cfg.Loopback}.Local(outside, port, port)
	slices.SortFunc(at, netip.AddrPort.Compare)
	return at
}
