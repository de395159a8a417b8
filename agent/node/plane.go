package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/agent/relays"
	"github.com/writmesh/writ/agent/tunnel"
	"github.com/writmesh/writ/agent/tunnel/netstack"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
)

// mtu of the mesh: what WireGuard carries over the smallest Internet path that
// IPv6 allows (1280) would be 1200; relays carry any size, so that the inner
// minimum of IPv6 holds.
const mtu = 1280

// A plane is a node's data plane: stack, filter, tunnel and relays. It exists
// from the node's admission to the agent's end.
type plane struct {
	stack  *netstack.Device
	filter *filter.Filter
	tunnel *tunnel.Tunnel
	relays *relays.Relays
	bind   *bind.Bind
	early  early
	clock  func() time.Time // the verifier's
	papers func() []byte    // the node's admission
	log    *slog.Logger

	// injector is the tunnel, once there is one: the filter is built first.
	injector atomic.Pointer[tunnel.Tunnel]

	adopting sync.Mutex // held by adopt and close; guards the fields below
	closed   bool
	shown    []byte // the papers that relays were shown; nil before the first

	mu      sync.Mutex // guards the fields below
	lastCut int
	homes   map[key.NodeID][]string // home relays of peers, as last adopted
	rules   *filter.Compiled
	timer   *time.Timer // fires when a grant, membership or session ends
}

type planeConfig struct {
	identity  key.IdentityPrivate
	wg        key.WGPrivate
	addresses []netip.Addr
	admission func() []byte
	home      func([]string)
	news      func() // the state of a relay is another
	clock     func() time.Time
	log       *slog.Logger
}

// newPlane starts a data plane that passes nothing: the filter is in place, and
// empty, before there is a tunnel.
func newPlane(cfg planeConfig) (*plane, error) {
	p := &plane{clock: cfg.clock, papers: cfg.admission, log: cfg.log}
	p.filter = filter.New(filter.Config{Clock: cfg.clock, Reset: p.reset})
	var err error
	if p.stack, err = netstack.New(netstack.Config{Addrs: cfg.addresses, MTU: mtu}); err != nil {
		return nil, fmt.Errorf("start data plane: %w", err)
	}
	p.relays = relays.New(relays.Config{
		Identity: cfg.identity, Papers: cfg.admission, Home: cfg.home, Log: cfg.log,
		Receive: func(src key.NodeID, packet []byte) { p.bind.Deliver(src, packet) },
		Up:      func() { p.bind.RetryAll() },
		News:    cfg.news,
	})
	if p.bind, err = bind.New(bind.Config{Sender: p.relays, Unknown: p.early.keep}); err != nil {
		p.relays.Close()
		p.stack.Close()
		return nil, fmt.Errorf("start data plane: %w", err)
	}
	p.tunnel, err = tunnel.New(tunnel.Config{
		Key: cfg.wg, Device: p.stack, Bind: p.bind, MTU: mtu, Log: cfg.log,
		In:  func(pkt []byte) bool { return p.filter.In(pkt).Action == filter.Pass },
		Out: func(pkt []byte) bool { return p.filter.Out(pkt).Action == filter.Pass },
	})
	if err != nil {
		p.relays.Close()
		return nil, fmt.Errorf("start data plane: %w", err)
	}
	p.injector.Store(p.tunnel)
	return p, nil
}

// reset sends what the filter has to say.
func (p *plane) reset(dir filter.Direction, pkt []byte) {
	t := p.injector.Load()
	switch {
	case t == nil:
	case dir == filter.Out:
		t.InjectOut(pkt)
	default:
		t.InjectIn(pkt)
	}
}

// adopt puts a netmap in force and returns when it is: the filter first, so that
// what is no longer allowed ends before anything else is done. A plane that is
// closed has nothing to put it in force in.
func (p *plane) adopt(n *netmap.Netmap, judge func()) {
	p.adopting.Lock()
	defer p.adopting.Unlock()
	if p.closed {
		return
	}
	rules := filter.Rules{Self: n.Self, Addresses: n.Addresses, Inbound: n.Inbound}
	peers := make([]tunnel.Peer, len(n.Peers))
	homes := make(map[key.NodeID][]string, len(n.Peers))
	for i, peer := range n.Peers {
		rules.Peers = append(rules.Peers, filter.Peer{Subject: peer.Subject, Addresses: peer.Addresses})
		peers[i] = tunnel.Peer{ID: peer.Subject.ID, Key: peer.WG}
		for _, a := range peer.Addresses {
			peers[i].Allowed = append(peers[i].Allowed, netip.PrefixFrom(a, a.BitLen()))
		}
		homes[peer.Subject.ID] = peer.Relays
	}
	compiled := filter.Compile(rules, p.clock())
	cut := p.filter.Swap(compiled)
	for _, f := range cut.Flows {
		p.log.Info("flow cut by rule change", "flow", f.String())
	}
	p.relays.Set(n.Relays, homes)
	papers := p.papers()
	if p.shown != nil && !bytes.Equal(papers, p.shown) {
		p.relays.PapersChanged()
	}
	p.shown = papers
	if err := p.tunnel.SetPeers(peers); err != nil {
		p.log.Error("WireGuard does not take the peers", "err", err)
	}
	p.meet(homes)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = compiled
	p.lastCut = len(cut.Flows)
	p.arm(compiled, judge)
}

// lookEvery is how long the timer of the next end trusts the clock: a clock that
// is set, or a machine that slept, moves the end.
const lookEvery = time.Minute

// arm has judge called when something that these rules allow has ended; p.mu is
// held.
func (p *plane) arm(rules *filter.Compiled, judge func()) {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	next := rules.NextEnd()
	if next.IsZero() {
		return
	}
	// By the machine's own clock: the verifier's stands still while that clock is
	// behind the newest document.
	p.timer = time.AfterFunc(min(max(0, time.Until(next)), lookEvery), func() {
		if !p.clock().Before(next) {
			judge()
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.rules == rules && p.timer != nil {
			p.arm(rules, judge)
		}
	})
}

// meet has handshakes go on that could not until now: those of peers that called
// before this node knew them, and those to peers that are newly found. WireGuard
// by itself would call again after five seconds.
func (p *plane) meet(homes map[key.NodeID][]string) {
	p.mu.Lock()
	before := p.homes
	p.homes = homes
	p.mu.Unlock()
	for id, relays := range homes {
		if pkt := p.early.take(id); pkt != nil {
			p.bind.Deliver(id, pkt)
		}
		if was, known := before[id]; !known || !slices.Equal(was, relays) {
			p.bind.Retry(id)
		}
	}
}

func (p *plane) close() {
	p.adopting.Lock()
	defer p.adopting.Unlock()
	p.closed = true
	p.mu.Lock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	p.tunnel.Close() // closes the stack
	p.relays.Close()
}
