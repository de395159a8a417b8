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
//  1. It measures how the node looks from outside (package netcheck): when it
//     starts, when the network or the policy's relays change, again and again
//     while peers are awake, and when a direct path is doubted, because a NAT
//     that restarted shows the node at another address. The questions leave from
//     the very socket that carries data: another would have another mapping. What
//     it learns are the endpoints that the engine tells peers.
//  2. It opens the disco messages that come by UDP and by relay and hands them to
//     the engine, which has never seen a packet that its peer did not seal. What
//     cannot be opened is dropped and counted by reason.
//  3. It does what the engine says: seals messages and sends them, and tells the
//     bind by which path data goes.
//
// # When STUN servers fail
//
// What servers said is told to peers for two minutes after the last answer, so
// that a relay that restarts takes no path from anybody. A round without an
// answer is repeated after 5 s, then 10 and so on. Names of servers are looked up
// each aside, again after ten minutes, and after 5 s, then 10 and so on where that
// failed; their last addresses are used meanwhile. Addresses inside the mesh are
// never asked.
//
// # Promises
//
// Callbacks of bind and relays never wait and take no lock that is held over a
// call out of this package, so that they may be called with any lock held. What
// is said once (there is traffic, the socket refuses, a node or relay connected,
// the network moved) is never dropped. Packets wait in a bounded queue; those
// beyond it are dropped and counted.
//
// Every method may be called at any time from any goroutine. What is Set before
// Start holds when it starts; after Close nothing has an effect. Close returns
// when nothing runs any more.
package underlay

import (
	"context"
	crand "crypto/rand"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// A Bind is what the underlay needs of package bind's. Its methods must not call
// back into the Underlay except by the callbacks of inbox.go.
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

// Relays carry packets that go by relay. Send must not wait.
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
	// another. It must not wait; calls may overlap.
	News func()
	// Elsewhere is told that the node stands elsewhere in the network, or that the
	// machine slept: connections to relays may be dead. It must not wait. Nil:
	// nobody is told.
	Elsewhere func()
	// Resolve looks up the addresses of a STUN server's name. It must end when its
	// context does. Nil: the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Interfaces lists the machine's. Nil: the kernel's.
	Interfaces func() ([]netcheck.Interface, error)
	// Boottime is the time since the machine was started, including that in which
	// it slept. Nil: the kernel's.
	Boottime func() time.Duration
	// Rand is for jitter. Nil: one with a random seed.
	Rand *rand.Rand
	Log  *slog.Logger
}

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

// ErrClosed means that the Underlay does not run.
var ErrClosed = errors.New("the underlay does not run")

// An Underlay drives the path engine.
//
//	new ──Start──► running ──Close──► closed
//	 └───────────────Close──────────────┘
type Underlay struct {
	// set at construction
	cfg    Config
	inbox  inbox
	moved  chan struct{}   // capacity 1: the network is another
	glance chan struct{}   // capacity 1: it may be
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // begun with mu held, while running
	counts counts

	mu      sync.Mutex // guards the fields below
	phase   phase
	bind    Bind // nil until Start
	engine  *path.Engine
	rand    *rand.Rand
	pairs   pairs
	mesh    []netip.Prefix      // of the whole mesh
	own     []netip.Addr        // of this node, in the mesh
	inside  map[netip.Addr]bool // all addresses of the mesh
	relays  []leaf.Relay
	network network
	awake   map[key.NodeID]path.Choice // by which path data goes; none for peers that sleep
	waiting map[key.NodeID][]chan path.Ponged
	news    bool // Config.News is to be told
	went    bool // Config.Elsewhere is
}

type phase byte

const (
	created phase = iota
	running
	closed
)

// New makes an Underlay.
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
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if cfg.Elsewhere == nil {
		cfg.Elsewhere = func() {}
	}
	if cfg.Boottime == nil {
		cfg.Boottime = boottime
	}
	if cfg.News == nil {
		cfg.News = func() {}
	}
	u := &Underlay{
		cfg:     cfg,
		moved:   make(chan struct{}, 1),
		glance:  make(chan struct{}, 1),
		rand:    cfg.Rand,
		awake:   map[key.NodeID]path.Choice{},
		waiting: map[key.NodeID][]chan path.Ponged{},
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.inbox.init()
	u.pairs.init(disco.NewSelf(cfg.Key, cfg.Network, cfg.Self, time.Now()))
	u.network.names = map[string]*name{}
	u.engine = path.New(path.Config{
		Rand: u.rand,
		// Whoever could tell the next id could answer a ping that it has not seen,
		// from another's address.
		NewTx: func() (tx disco.TxID) {
			crand.Read(tx[:])
			return tx
		},
		Traffic:  func(id key.NodeID) path.Traffic { return u.bind.Traffic(id) },
		Loopback: cfg.Loopback,
	})
	return u, nil
}

// Start runs the underlay over an open bind until Close. It has an effect once.
func (u *Underlay) Start(b Bind) {
	interfaces, err := u.cfg.Interfaces()
	u.do(func() {
		if u.phase != created {
			return
		}
		u.phase, u.bind = running, b
		u.looked(interfaces, err, false)
		u.tasks.Go(func() { u.run(u.ctx) })
		u.tasks.Go(func() { u.watch(u.ctx) })
		u.tasks.Go(func() { u.makePairs(u.ctx) })
	})
}

// Close ends what Start began.
func (u *Underlay) Close() {
	u.mu.Lock()
	u.phase = closed
	u.mu.Unlock()
	u.cancel()
	u.tasks.Wait()
}

// Set says who the peers are, which relays there are, and what is inside the
// mesh.
func (u *Underlay) Set(peers []Peer, relays []leaf.Relay, mesh Mesh) {
	u.do(func() {
		if u.phase == closed {
			return
		}
		now := time.Now()
		u.mesh, u.own = []netip.Prefix{mesh.Prefix6}, slices.Clone(mesh.Own)
		u.inside = make(map[netip.Addr]bool, 2*len(peers)+len(mesh.Own))
		for _, a := range mesh.Own {
			u.inside[a] = true
		}
		list := make([]path.Peer, len(peers))
		for i, p := range peers {
			list[i] = path.Peer{ID: p.ID, Static: p.Static}
			for _, a := range p.Inside {
				u.inside[a] = true
			}
		}
		u.tellSelf() // what is inside the mesh, before peers' endpoints are tried
		gone, renewed := u.pairs.set(peers)
		u.engine.SetPeers(now, list)
		for _, id := range renewed {
			u.engine.Here(now, id) // it has not understood this node since it has the key
		}
		u.relays = slices.Clone(relays)
		u.relaysChanged()
		if u.phase != running {
			return
		}
		u.perform()
		for _, id := range gone {
			u.bind.Remove(id) // the engine has let it go
		}
	})
}

// do changes what mu guards by f, does what comes of it, and has run look at the
// time again.
func (u *Underlay) do(f func()) {
	u.locked(f)
	u.inbox.look()
}

// locked is do for run itself. It returns when something is due; the zero time
// means never.
func (u *Underlay) locked(f func()) (next time.Time) {
	u.mu.Lock()
	f()
	if u.phase == running {
		u.advanceRound()
		u.perform()
		next = u.next()
	}
	news, went := u.news, u.went
	u.news, u.went = false, false
	u.mu.Unlock()
	if went {
		u.cfg.Elsewhere()
	}
	if news {
		u.cfg.News()
	}
	return next
}
