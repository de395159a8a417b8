package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/agent/relays"
	"github.com/writmesh/writ/agent/router"
	"github.com/writmesh/writ/agent/tunnel"
	"github.com/writmesh/writ/agent/tunnel/netstack"
	"github.com/writmesh/writ/agent/underlay"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
)

// mtu of the mesh: what WireGuard carries over the smallest Internet path that
// IPv6 allows (1280) would be 1200; relays carry any size, so that the inner
// minimum of IPv6 holds.
const mtu = 1280

// idleAfter is how long WireGuard keeps the state of a peer that nothing is heard
// of or sent to: three lives of a session (180 s) and some.
const idleAfter = 10 * time.Minute

// A plane is a node's data plane: device, filter, tunnel, and the paths beneath.
// It exists from the node's admission to the agent's end.
type plane struct {
	stack    *netstack.Device // nil with a kernel interface
	kernel   *kernelNet       // nil in userspace mode
	flows    *keptFlows       // nil in userspace mode, whose connections end with the process
	filter   *filter.Filter
	tunnel   *tunnel.Tunnel
	relays   *relays.Relays
	bind     *bind.Bind
	underlay *underlay.Underlay
	early    early
	clock    func() time.Time // the verifier's
	shows    func() []byte    // the node's admission
	log      *slog.Logger
	mesh     netip.Prefix // the network's own IPv6 prefix
	calls    *calls       // of peers that WireGuard does not have yet
	stop     context.CancelFunc
	tasks    sync.WaitGroup

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
	dir        string // the state directory
	network    key.NetworkID
	identity   key.IdentityPrivate
	wg         key.WGPrivate
	addresses  []netip.Addr
	netIf      string // of the kernel; empty for userspace
	noNftables bool   // go without
	port       uint16 // of UDP; zero for any
	noDirect   bool   // by relay only
	loopback   bool   // peers may be on this machine
	admission  func() []byte
	home       func([]string)
	news       func() // the state of a relay, path or network is another
	clock      func() time.Time
	log        *slog.Logger
}

// newPlane starts a data plane that passes nothing: the filter is in place, and
// empty, before there is a tunnel.
func newPlane(cfg planeConfig) (p *plane, err error) {
	p = &plane{
		clock: cfg.clock, shows: cfg.admission, log: cfg.log,
		mesh: papers.Prefix6(cfg.network), calls: newCalls(),
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	defer func() {
		if err != nil {
			err = fmt.Errorf("start data plane: %w", err)
			p.close()
		}
	}()
	p.filter = filter.New(filter.Config{Clock: cfg.clock, Reset: p.reset})
	p.relays = relays.New(relays.Config{
		Identity: cfg.identity, Papers: cfg.admission, Home: cfg.home, Log: cfg.log,
		Receive: func(src key.NodeID, packet []byte) {
			if disco.Is(packet) {
				p.underlay.Relayed(src, packet)
			} else {
				p.bind.Deliver(src, packet)
			}
		},
		Up: func() {
			p.bind.RetryAll()
			p.underlay.RelayUp()
		},
		Here: func(id key.NodeID) {
			p.bind.Retry(id)
			p.underlay.Here(id)
		},
		News: cfg.news,
	})
	p.underlay, err = underlay.New(underlay.Config{
		Network: cfg.network, Self: cfg.identity.Public().NodeID(), Key: cfg.wg, Relays: p.relays,
		Skip: []string{cfg.netIf}, Loopback: cfg.loopback,
		Elsewhere: p.relays.Moved, News: cfg.news, Log: cfg.log,
	})
	if err != nil {
		return p, err
	}
	p.bind, err = bind.New(bind.Config{
		Sender: p.relays, Unknown: p.unknown, UDP: !cfg.noDirect, Port: cfg.port,
		Control: p.underlay.Control, Woken: p.underlay.Woken, Failed: p.underlay.Failed,
	})
	if err != nil {
		return p, err
	}
	carried := tunnel.Config{
		Key: cfg.wg, Bind: p.bind, MTU: mtu, Idle: idleAfter, Log: cfg.log,
		In:  func(pkt []byte) bool { return p.filter.In(pkt).Action == filter.Pass },
		Out: func(pkt []byte) bool { return p.filter.Out(pkt).Action == filter.Pass },
	}
	if cfg.netIf == "" {
		if p.stack, err = netstack.New(netstack.Config{Addrs: cfg.addresses, MTU: mtu}); err != nil {
			return p, err
		}
		carried.Device = p.stack
	} else {
		if p.kernel, err = newKernelNet(cfg.netIf, cfg.noNftables, cfg.log); err != nil {
			return p, err
		}
		carried.Device = p.kernel.device
		p.flows = newKeptFlows(cfg, p.filter)
		p.flows.restore()
	}
	if p.tunnel, err = tunnel.New(carried); err != nil {
		return p, err
	}
	p.injector.Store(p.tunnel)
	p.underlay.Start(p.bind)
	p.tasks.Go(func() { p.answer(ctx) })
	if p.kernel != nil {
		p.tasks.Go(func() { p.kernel.watch(ctx, p.underlay.Moved) })
		p.tasks.Go(func() { p.flows.run(ctx) })
	}
	return p, nil
}

// unknown takes a packet from a node that WireGuard has no state for: of a peer
// that has been silent for long, or of a node that is no peer yet.
func (p *plane) unknown(src key.NodeID, pkt []byte) {
	if p.knows(src) {
		p.calls.heard(src, pkt)
		return
	}
	p.early.keep(src, pkt)
	// It may have become a peer in between, after meet looked for its message.
	if p.knows(src) {
		if first := p.early.take(src); first != nil {
			p.calls.add(src, first)
		}
	}
}

// knows reports whether a node is a peer of the netmap in force.
func (p *plane) knows(id key.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.homes[id]
	return known
}

// answer has WireGuard know the peers that call, and hands it their first
// messages.
func (p *plane) answer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.calls.ready:
		}
		c, ok := p.calls.next()
		if !ok || p.tunnel.Configure(c.from) != nil {
			continue // it is no peer any more
		}
		if c.first != nil {
			p.bind.Deliver(c.from, c.first)
		}
		if c.wish {
			// Its session, if it has one, ended with the agent before this
			// one. By itself it would notice after fifteen seconds.
			_ = p.tunnel.Handshake(c.from)
		}
	}
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
	beneath := make([]underlay.Peer, len(n.Peers))
	var addresses []netip.Addr
	homes := make(map[key.NodeID][]string, len(n.Peers))
	for i, peer := range n.Peers {
		rules.Peers = append(rules.Peers, filter.Peer{Subject: peer.Subject, Addresses: peer.Addresses})
		peers[i] = tunnel.Peer{ID: peer.Subject.ID, Key: peer.WG}
		beneath[i] = underlay.Peer{ID: peer.Subject.ID, WG: peer.WG, Static: peer.Endpoints, Inside: peer.Addresses}
		for _, a := range peer.Addresses {
			peers[i].Allowed = append(peers[i].Allowed, netip.PrefixFrom(a, a.BitLen()))
		}
		addresses = append(addresses, peer.Addresses...)
		homes[peer.Subject.ID] = peer.Relays
	}
	compiled := filter.Compile(rules, p.clock())
	cut := p.filter.Swap(compiled)
	if p.flows != nil {
		p.flows.swapped(cut.Restored)
	}
	for _, f := range cut.Flows {
		p.log.Info("flow cut by rule change", "flow", f.String())
	}
	if p.kernel != nil {
		p.kernel.set(router.State{Addresses: n.Addresses, Peers: addresses, Prefix6: p.mesh, MTU: mtu})
	}
	p.relays.Set(n.Relays, homes)
	p.underlay.Set(beneath, n.Relays, underlay.Mesh{Prefix6: p.mesh, Own: n.Addresses})
	admission := p.shows()
	if p.shown != nil && !bytes.Equal(admission, p.shown) {
		p.relays.PapersChanged()
	}
	p.shown = admission
	if err := p.tunnel.SetPeers(peers); err != nil {
		p.log.Error("WireGuard does not take the peers", "err", err)
	}
	p.meet(homes)
	if p.flows != nil {
		for _, id := range p.flows.partners() {
			p.calls.add(id, nil)
		}
	}
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
	p.stop()
	p.tasks.Wait()
	if p.underlay != nil {
		p.underlay.Close()
	}
	switch {
	case p.tunnel != nil:
		p.tunnel.Close() // closes the device
	case p.stack != nil:
		p.stack.Close()
	case p.kernel != nil:
		p.kernel.device.Close()
	}
	if p.kernel != nil {
		p.kernel.close()
	}
	if p.flows != nil {
		p.flows.end() // no packet passes any more
	}
	p.relays.Close()
}
