// Package underlay brings a node's packets onto the network beneath the mesh: it
// drives the path engine (package path) over real sockets and clocks.
//
//	                ┌───────────── run: one goroutine ─────────────┐
//	bind ──Control──► STUN ──► netcheck ──► own endpoints ──┐      │
//	     ──Woken────►                                       ▼      │
//	     ──Failed───► disco, opened ────────────────► path engine  │
//	relays ─Packet──►                                       │      │
//	       ─Up,Here─►     bind.Use, Learn ◄──── actions ────┤      │
//	                      disco, sealed ──► bind or relay ◄─┘      │
//	                └──────────────────────────────────────────────┘
//
// # What it does
//
//  1. It measures how the node looks from outside (package netcheck) when it
//     starts, when the network changes, and again and again while peers are
//     awake, from the very socket that carries data: another would have another
//     mapping. What it learns are the endpoints that the engine tells peers.
//  2. It opens the disco messages that come by UDP and by relay and hands them to
//     the engine, which has never seen a packet that its peer did not seal. What
//     cannot be opened is dropped and counted by reason.
//  3. It does what the engine says: seals messages and sends them, and tells the
//     bind by which path data goes.
//
// # Promises
//
// Callbacks of bind and relays never wait: they put an event into a bounded
// queue. Events beyond it are dropped and counted, like packets. Nothing of the
// engine runs on their goroutines, so that they may hold what locks they like.
package underlay

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// A Bind is what the underlay needs of package bind's.
type Bind interface {
	Use(id key.NodeID, c path.Choice)
	Learn(addr netip.AddrPort, id key.NodeID)
	Unlearn(addr netip.AddrPort, id key.NodeID)
	Remove(id key.NodeID)
	ClearSources()
	SendTo(addr netip.AddrPort, pkt []byte) error
	LocalPort() uint16
	Traffic(id key.NodeID) path.Traffic
}

// Relays carry packets that go by relay.
type Relays interface {
	Send(dst key.NodeID, packets [][]byte) error
}

// A Config is what an Underlay is made of.
type Config struct {
	Network key.NetworkID
	Self    key.NodeID
	Key     key.WGPrivate
	Relays  Relays

	// Skip names interfaces whose addresses no peer is to be told: the mesh's own.
	Skip []string
	// Loopback makes loopback addresses endpoints like others: for nodes that
	// share a machine, in tests.
	Loopback bool
	// News is told that the path of a peer, or what is known of the network, is
	// another. It must not block.
	News func()
	// Resolve looks up the addresses of a STUN server's name. Nil: the machine's
	// resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Interfaces lists the machine's. Nil: the kernel's.
	Interfaces func() ([]netcheck.Interface, error)
	Log        *slog.Logger
}

const (
	// queueLength is how many packets and events may wait: a burst of probes from
	// a hundred peers that wake at once.
	queueLength = 512

	// freshFor is how long a measurement is believed while peers are awake: a NAT
	// may forget a mapping after 30 s (RFC 4787 REQ-5 asks for two minutes, many
	// do not keep it). The next begins a random moment before.
	freshFor = 27 * time.Second

	// lookEvery is how often the machine's interfaces are looked at, for systems
	// and privileges where nothing tells of changes.
	lookEvery = 10 * time.Second
)

// A Peer is a node that this one may have a path to.
type Peer struct {
	ID     key.NodeID
	WG     key.WGPublic
	Static []netip.AddrPort // where the policy says that it may be found
	Inside []netip.Addr     // its addresses in the mesh
}

// A Mesh is what lies inside the mesh, where no endpoint can be: what is sent
// there would go through the tunnel that it is to find a path for.
type Mesh struct {
	Prefix6 netip.Prefix // the network's own
	Own     []netip.Addr // this node's addresses
}

// An Underlay drives the path engine. Start it once.
type Underlay struct {
	// set at construction
	cfg    Config
	events chan event
	poke   chan struct{} // capacity 1: there is something to look at
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	counts counts

	bind Bind // set by Start

	wokenMu sync.Mutex
	woken   []key.NodeID // guarded by wokenMu: that the engine has not been told of

	mu       sync.Mutex // guards the fields below
	engine   *path.Engine
	rand     *rand.Rand
	pairs    pairs
	mesh     []netip.Prefix
	own      []netip.Addr        // of this node, in the mesh
	inside   map[netip.Addr]bool // all addresses of the mesh
	relays   []leaf.Relay
	network  measured
	awake    map[key.NodeID]bool
	waiting  map[key.NodeID][]chan path.Ponged // of Ping
	checking []chan netcheck.Report            // of Check
}

// counts are packets dropped.
type counts struct {
	full    atomic.Uint64                      // the queue had no room
	unknown atomic.Uint64                      // disco: the tag or the relay names no peer
	disco   [disco.Malformed + 1]atomic.Uint64 // by reason
	stun    atomic.Uint64                      // STUN: answers nothing that was asked
}

// An event is something that happened to the underlay.
type event struct {
	kind eventKind
	peer key.NodeID     // of relayed, failed and here
	addr netip.AddrPort // of received and failed
	data []byte         // of received and relayed
	text string         // of failed
}

type eventKind byte

const (
	received eventKind = iota // a packet by UDP
	relayed                   // a packet by relay
	failed                    // the socket does not send there
	here                      // a relay says that the peer has connected
	relayUp                   // one of this node's relay connections is up
	moved                     // the machine's network is another
)

// New makes an Underlay. Run starts it; until then events wait.
func New(cfg Config) (*Underlay, error) {
	switch {
	case cfg.Relays == nil:
		return nil, errors.New("new underlay: no relays")
	case cfg.Self.IsZero() || cfg.Key.Equal(key.WGPrivate{}):
		return nil, errors.New("new underlay: no key")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if cfg.Interfaces == nil {
		cfg.Interfaces = netcheck.Interfaces
	}
	if cfg.News == nil {
		cfg.News = func() {}
	}
	u := &Underlay{
		cfg:     cfg,
		events:  make(chan event, queueLength),
		poke:    make(chan struct{}, 1),
		rand:    rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		awake:   map[key.NodeID]bool{},
		waiting: map[key.NodeID][]chan path.Ponged{},
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.pairs.init(disco.NewSelf(cfg.Key, cfg.Network, cfg.Self, time.Now()))
	u.engine = path.New(path.Config{
		Rand:     u.rand,
		Traffic:  func(id key.NodeID) path.Traffic { return u.bind.Traffic(id) },
		Loopback: cfg.Loopback,
	})
	return u, nil
}

// Start runs the underlay over an open bind until Close.
func (u *Underlay) Start(b Bind) {
	u.bind = b
	u.tasks.Go(func() { u.run(u.ctx) })
	u.tasks.Go(func() { u.makePairs(u.ctx) })
}

// Close ends what Start began.
func (u *Underlay) Close() {
	u.cancel()
	u.tasks.Wait()
}

// Set says who the peers are, which relays there are, and what is inside the
// mesh. It is called after Start.
func (u *Underlay) Set(peers []Peer, relays []leaf.Relay, mesh Mesh) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range u.pairs.set(peers) {
		delete(u.awake, id)
		defer u.bind.Remove(id) // once the engine has let it go
	}
	list := make([]path.Peer, len(peers))
	for i, p := range peers {
		list[i] = path.Peer{ID: p.ID, Static: p.Static}
	}
	u.inside = make(map[netip.Addr]bool, 2*len(peers)+len(mesh.Own))
	for _, a := range mesh.Own {
		u.inside[a] = true
	}
	for _, p := range peers {
		for _, a := range p.Inside {
			u.inside[a] = true
		}
	}
	u.engine.SetPeers(time.Now(), list)
	u.perform()
	news := !slices.EqualFunc(relays, u.relays, func(a, b leaf.Relay) bool { return slices.Equal(a.STUN, b.STUN) })
	u.own = slices.Clone(mesh.Own)
	u.mesh, u.relays = []netip.Prefix{mesh.Prefix6}, slices.Clone(relays)
	if u.network.interfaces == nil {
		u.lookAround(true)
		return
	}
	if news {
		u.resolve()
		u.beginCheck()
	}
	u.tellSelf()
	u.look()
}

// put queues an event. It never waits.
func (u *Underlay) put(e event) {
	select {
	case u.events <- e:
	default:
		u.counts.full.Add(1)
	}
}

// Control takes a packet that is not WireGuard's and came by UDP. It copies pkt.
func (u *Underlay) Control(src netip.AddrPort, pkt []byte) {
	if len(pkt) > maxControl {
		u.counts.disco[disco.Long].Add(1)
		return
	}
	u.put(event{kind: received, addr: src, data: slices.Clone(pkt)})
}

// maxControl is the longest packet of disco or STUN: a ping padded to the
// longest packet of a mesh.
const maxControl = 9216

// Relayed takes a disco packet that came from a node by relay. It copies pkt.
func (u *Underlay) Relayed(src key.NodeID, pkt []byte) {
	if len(pkt) > maxControl {
		u.counts.disco[disco.Long].Add(1)
		return
	}
	u.put(event{kind: relayed, peer: src, data: slices.Clone(pkt)})
}

// Woken says that there is traffic of a peer whose path sleeps. The bind says it
// once, so that it is never dropped.
func (u *Underlay) Woken(id key.NodeID) {
	u.wokenMu.Lock()
	u.woken = append(u.woken, id)
	u.wokenMu.Unlock()
	u.look()
}

// Failed says that the socket refused to send to a peer's address.
func (u *Underlay) Failed(id key.NodeID, to netip.AddrPort, err error) {
	u.put(event{kind: failed, peer: id, addr: to, text: err.Error()})
}

// Here says that a node has connected to a relay which it was missed at.
func (u *Underlay) Here(id key.NodeID) { u.put(event{kind: here, peer: id}) }

// RelayUp says that a connection to a relay is up.
func (u *Underlay) RelayUp() { u.put(event{kind: relayUp}) }

// Moved says that the machine's interfaces, addresses or routes have changed.
func (u *Underlay) Moved() { u.put(event{kind: moved}) }
