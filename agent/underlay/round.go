package underlay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
)

const (
	// freshFor is how long a measurement is believed while peers are awake: a NAT
	// may forget a mapping after 30 s (RFC 4787 REQ-5 asks for two minutes, many
	// do not keep it). The next begins a random moment before.
	freshFor = 27 * time.Second

	// idleFor is how long a measurement is believed while no peer is awake.
	idleFor = 5 * time.Minute

	// heldFor is how long peers are told what servers said when these no longer
	// answer: as long as RFC 4787 REQ-5 has a NAT keep a mapping.
	heldFor = 2 * time.Minute

	// failedGap is how long after a round without an answer the next begins; twice
	// as long each time. A relay restarts within it.
	failedGap = 5 * time.Second

	// doubtGap is the least time between rounds because direct paths are doubted:
	// when a network fails, those of all peers are.
	doubtGap = 2 * time.Second
)

// network is what is known of this node's place in the network.
type network struct {
	// Interfaces (watch.go).
	looked     bool
	unlisted   bool // the last time, they could not be listed
	interfaces []netcheck.Interface
	at         []netip.AddrPort // see standing

	// Servers (servers.go).
	names   map[string]*name
	servers []netcheck.Server // of the last round

	// Rounds.
	round    *netcheck.Check // nil: none is under way
	answers  bool            // the one under way has had an answer
	again    bool            // after it another begins at once
	due      time.Time       // of the next; zero: not until something happens
	failures int             // rounds in a row without an answer
	report   netcheck.Report // the latest
	held     [2]held         // IPv4 and IPv6
	checking []chan checked  // of Check

	told bool
	self path.Self // as the engine was last told
}

// held is what peers are told of one family: what servers last answered, until it
// is too old.
type held struct {
	family netcheck.Family
	at     time.Time // when the round began that it comes from
}

// A checked is the answer to Check.
type checked struct {
	report netcheck.Report
	err    error
}

// beginRound begins a round; u.mu is held, and the Underlay runs.
func (u *Underlay) beginRound() {
	n := &u.network
	n.servers = u.servers()
	n.round, n.answers, n.again, n.due = nil, false, false, time.Time{}
	port := u.bind.LocalPort()
	if port == 0 || len(n.servers) == 0 {
		n.report, n.held = netcheck.Report{}, [2]held{}
		u.tellSelf()
		u.giveUp()
		return
	}
	// Loopback addresses are this node's own, too, for a relay on this machine.
	f := u.filter()
	f.Loopback = true
	n.round = netcheck.Start(time.Now(), n.servers, f.Local(n.interfaces, port, port), nil)
}

// roundDue is when a round has something to do, or begins; u.mu is held.
func (u *Underlay) roundDue() time.Time {
	if n := &u.network; n.round != nil {
		return n.round.Next()
	}
	return u.network.due
}

// advanceRound begins the round that is due, sends what the one under way has to
// send, and ends it; u.mu is held.
func (u *Underlay) advanceRound() {
	n := &u.network
	now := time.Now()
	if n.round == nil && !n.due.IsZero() && !now.Before(n.due) {
		u.beginRound()
	}
	if n.round == nil {
		return
	}
	for _, p := range n.round.Advance(now) {
		if err := u.bind.SendTo(p.To, p.Data); err != nil {
			n.round.Failed(p.To, err.Error())
		}
	}
	u.weigh()
}

// answered takes a STUN packet; u.mu is held.
func (u *Underlay) answered(now time.Time, p packet) {
	n := &u.network
	if n.round == nil || !n.round.Receive(now, p.from, p.data) {
		u.counts.stun.Add(1)
		return
	}
	n.answers = true
	u.weigh()
}

// weigh takes what the round under way has found out so far, and ends it when it
// is done; u.mu is held.
func (u *Underlay) weigh() {
	n := &u.network
	if n.round.Done() {
		report := n.round.Report()
		n.round = nil
		u.ended(report)
		return
	}
	if !n.round.Changed() || !n.answers {
		return
	}
	// The first answer counts at once where nothing is known: a peer may be waiting
	// for it. What a whole round has said is taken back by half of one only if that
	// half has seen the node elsewhere.
	enough := n.round.Enough()
	report := n.round.Report()
	if !n.report.Done || enough && u.elsewhere(report) {
		u.take(report)
	}
}

// elsewhere reports whether servers saw the node where the last round did not;
// u.mu is held.
func (u *Underlay) elsewhere(r netcheck.Report) bool {
	for i, f := range []netcheck.Family{r.IPv4, r.IPv6} {
		for _, a := range f.Endpoints {
			if !slices.Contains(u.network.held[i].family.Endpoints, a) {
				return true
			}
		}
	}
	return false
}

// take takes a report and tells the engine; u.mu is held.
func (u *Underlay) take(r netcheck.Report) {
	n := &u.network
	n.report = r
	for i, f := range []netcheck.Family{r.IPv4, r.IPv6} {
		h := &n.held[i]
		if f.UDP == netcheck.Works || h.family.UDP != netcheck.Works || time.Since(h.at) > heldFor {
			*h = held{f, r.At}
		}
	}
	u.news = true
	u.tellSelf()
}

// ended takes the report of a whole round; u.mu is held.
func (u *Underlay) ended(r netcheck.Report) {
	n := &u.network
	u.take(r)
	for _, c := range n.checking {
		c <- checked{report: r}
	}
	n.checking = nil
	gap := idleFor
	if len(u.awake) > 0 {
		gap = freshFor - time.Duration(u.rand.Int64N(int64(freshFor/4)))
	}
	if r.IPv4.UDP == netcheck.Works || r.IPv6.UDP == netcheck.Works {
		n.failures = 0
	} else {
		gap = min(gap, failedGap<<min(n.failures, 8))
		n.failures++
	}
	if n.again {
		gap = 0
	}
	n.due = time.Now().Add(gap)
}

// measureAfter has a round begin when the last is so old; u.mu is held.
func (u *Underlay) measureAfter(age time.Duration) {
	n := &u.network
	if n.round == nil && !n.due.IsZero() {
		n.due = earlier(n.due, n.report.At.Add(age))
	}
}

// filter says what peers are not told; u.mu is held.
func (u *Underlay) filter() netcheck.Filter {
	f := netcheck.Filter{Skip: u.cfg.Skip, Mesh: slices.Clone(u.mesh), Loopback: u.cfg.Loopback}
	for _, a := range u.own {
		f.Mesh = append(f.Mesh, netip.PrefixFrom(a, a.BitLen()))
	}
	return f
}

// tellSelf tells the engine where this node may be found, if that is news; u.mu
// is held.
func (u *Underlay) tellSelf() {
	n := &u.network
	if u.phase != running || !n.looked {
		return
	}
	port, f := u.bind.LocalPort(), u.filter()
	known := netcheck.Report{Done: n.report.Done, IPv4: n.held[0].family, IPv6: n.held[1].family}
	self := path.Self{
		Endpoints: f.Endpoints(known, f.Local(n.interfaces, port, port), nil),
		Mapping:   known.Mapping(),
		UDP4:      known.IPv4.UDP == netcheck.Works,
		UDP6:      known.IPv6.UDP == netcheck.Works,
		Mesh:      f.Mesh,
	}
	if n.told && slices.Equal(self.Endpoints, n.self.Endpoints) && self.Mapping == n.self.Mapping &&
		self.UDP4 == n.self.UDP4 && self.UDP6 == n.self.UDP6 && slices.Equal(self.Mesh, n.self.Mesh) {
		return
	}
	n.told, n.self = true, self
	u.engine.SetSelf(time.Now(), self)
}

var (
	// ErrNoServers means that no relay of the policy answers STUN, or that none of
	// their names has an address.
	ErrNoServers = errors.New("no relay of this network answers STUN")
	// ErrNoSocket means that the bind has no socket to measure with.
	ErrNoSocket = errors.New("this node has no UDP socket")
)

// giveUp answers those who wait for a round when there will be none; u.mu is
// held.
func (u *Underlay) giveUp() {
	n := &u.network
	err := ErrNoServers
	switch {
	case n.round != nil || u.asking():
		return
	case u.bind.LocalPort() == 0:
		err = ErrNoSocket
	}
	for _, c := range n.checking {
		c <- checked{err: err}
	}
	n.checking = nil
}

// Check measures how the node looks from outside, now. It returns when a whole
// round is over.
func (u *Underlay) Check(ctx context.Context) (netcheck.Report, error) {
	answer := make(chan checked, 1)
	u.do(func() {
		n := &u.network
		if u.phase != running {
			answer <- checked{err: ErrClosed}
			return
		}
		n.checking = append(n.checking, answer)
		if n.round != nil {
			return
		}
		if len(u.servers()) == 0 {
			u.forgetNames() // somebody waits: do not wait for the next attempt
			u.resolveDue()
		}
		u.beginRound()
	})
	select {
	case c := <-answer:
		return c.report, c.err
	case <-u.ctx.Done():
		return netcheck.Report{}, ErrClosed
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
