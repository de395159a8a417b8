// Package relays carries a node's sealed packets to other nodes by relay: the
// path that always is.
//
// # Which relay
//
// A packet goes by the first connected one of the home relays that the peer's
// record names, or of this node's own where it names none. A node keeps connections to its own home relays, where peers find it, and opens one to
// another relay only while it sends there.
//
// # Home relays
//
// The first maxHome relays of the policy's list are candidates; those that are
// connected are the node's home relays, in the list's order, and are what its
// record names. A relay that is lost leaves the record only once another is
// connected: a record that names none helps nobody.
//
// Nothing here is trusted with more than delivery. A relay that lies about where
// a packet came from costs a handshake message; WireGuard tells.
package relays

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/relay/client"
)

const (
	// maxHome is how many relays a node waits at: one to be found at, one for
	// when that one goes.
	maxHome = 2

	// idleAfter is how long a connection to another node's relay is kept after
	// the last packet: two keepalives of WireGuard (25 s) and some.
	idleAfter = time.Minute
)

// ErrNoPath means that no relay of the node is known or connected.
var ErrNoPath = errors.New("no relay of the node is connected")

// A Config is what Relays are made of.
type Config struct {
	Identity key.IdentityPrivate
	Papers   func() []byte                       // the node's admission note
	Receive  func(src key.NodeID, packet []byte) // must not keep packet
	// Home is told the names of the home relays whenever they change. Calls come
	// one at a time and in order; none begins after Close.
	Home func(names []string)
	// Up is told that a relay has connected, so that waiting handshakes go out.
	Up func()
	// Here is told of a node that has connected to a relay which it was missed at
	// a moment ago. Nil: nobody is told.
	Here func(node key.NodeID)
	// News is told that what States says of a connection's phase is another.
	News func()
	Dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: plain
	Log  *slog.Logger
}

// Relays are a node's connections to relays. The zero value is not usable.
type Relays struct {
	cfg    Config
	ctx    context.Context // of all connections; ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	telling sync.Mutex // held while home relays are told, so that the newest are told last

	mu     sync.RWMutex // guards the fields below
	list   []leaf.Relay
	conns  map[string]*connection  // by name
	homes  map[key.NodeID][]string // of peers
	home   []string                // as last told; by the holder of telling
	closed bool
}

// A connection is to one relay, wanted as home or for a peer.
type connection struct {
	relay  leaf.Relay
	client *client.Client
	cancel context.CancelFunc
	used   time.Time // last packet sent; guarded by Relays.mu
}

// New makes Relays without any relay. Close ends them.
func New(cfg Config) *Relays {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relays{cfg: cfg, ctx: ctx, cancel: cancel, conns: map[string]*connection{}}
	r.tasks.Go(r.sweep)
	return r
}

// Close ends every connection and waits for it.
func (r *Relays) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.tasks.Wait()
}

// Set gives the relays of the policy and the home relays of peers. A relay that
// is gone, or has another key or address, is left at once.
func (r *Relays) Set(list []leaf.Relay, homes map[key.NodeID][]string) {
	r.mu.Lock()
	r.list, r.homes = slices.Clone(list), homes
	for name, c := range r.conns {
		if !slices.ContainsFunc(list, c.relay.Same) {
			c.cancel()
			delete(r.conns, name)
		}
	}
	for _, relay := range list[:min(maxHome, len(list))] {
		r.connect(relay)
	}
	r.mu.Unlock()
	r.tell()
}

// PapersChanged shows the node's new admission to every relay.
func (r *Relays) PapersChanged() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.conns {
		c.client.PapersChanged()
	}
}

// Moved says that the machine's network is another: connections find out whether
// they still stand, and those that wait try again.
func (r *Relays) Moved() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.conns {
		c.client.Kick()
	}
}

// connect begins a connection; r.mu is held.
func (r *Relays) connect(relay leaf.Relay) *connection {
	if c := r.conns[relay.Name]; c != nil || r.closed {
		return c
	}
	cl, err := client.New(client.Config{
		Addr: relay.Addr, Pin: relay.Key, Identity: r.cfg.Identity, Papers: r.cfg.Papers,
		Receive: r.cfg.Receive, Here: r.cfg.Here, Dial: r.cfg.Dial, Log: r.cfg.Log.With("relay", relay.Name),
	})
	if err != nil {
		r.cfg.Log.Error("relay cannot be used", "relay", relay.Name, "err", err)
		return nil
	}
	ctx, cancel := context.WithCancel(r.ctx)
	c := &connection{relay: relay, client: cl, cancel: cancel, used: time.Now()}
	r.conns[relay.Name] = c
	r.tasks.Go(func() { c.client.Run(ctx) })
	r.tasks.Go(func() { r.watch(ctx, c) })
	return c
}

// watch tells of connections that come and go.
func (r *Relays) watch(ctx context.Context, c *connection) {
	was := client.Idle
	for {
		changed := c.client.Changed()
		if phase := c.client.State().Phase; phase != was {
			if phase == client.Connected && r.cfg.Up != nil {
				r.cfg.Up()
			}
			was = phase
			r.tell()
			if r.cfg.News != nil {
				r.cfg.News()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// tell names the home relays to Config.Home if they are others than before.
func (r *Relays) tell() {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return // a node that ends leaves its record as it is
	}
	var home []string
	for _, relay := range r.list[:min(maxHome, len(r.list))] {
		if c := r.conns[relay.Name]; c != nil && c.client.State().Phase == client.Connected {
			home = append(home, relay.Name)
		}
	}
	stay := len(home) == 0 && slices.ContainsFunc(r.home, func(name string) bool { return r.conns[name] != nil })
	if stay || slices.Equal(home, r.home) {
		r.mu.Unlock()
		return
	}
	r.home = home
	r.mu.Unlock()
	if r.cfg.Home != nil {
		r.cfg.Home(home)
	}
}

// sweep leaves relays that are nobody's home here and have not been sent to.
func (r *Relays) sweep() {
	tick := time.NewTicker(idleAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			r.mu.Lock()
			for name, c := range r.conns {
				isHome := slices.ContainsFunc(r.list[:min(maxHome, len(r.list))], func(l leaf.Relay) bool { return l.Name == name })
				if !isHome && now.Sub(c.used) > idleAfter {
					c.cancel()
					delete(r.conns, name)
				}
			}
			r.mu.Unlock()
		}
	}
}

// by is the connection that packets to a peer go by: the first of its home relays
// that is connected, and for a peer whose record names none yet, the first of
// this node's own; r.mu is held.
func (r *Relays) by(dst key.NodeID) *connection {
	homes, known := r.homes[dst]
	if known && len(homes) == 0 {
		homes = r.home
	}
	for _, name := range homes {
		if c := r.conns[name]; c != nil && c.client.State().Phase == client.Connected {
			return c
		}
	}
	return nil
}

// Send carries packets to a node by the first of its home relays that is
// connected. Where none is, it begins to connect to the first, or to the next
// where that was tried and failed, and returns ErrNoPath: WireGuard sends again.
// It never waits.
func (r *Relays) Send(dst key.NodeID, packets [][]byte) error {
	r.mu.RLock()
	homes := r.homes[dst]
	to := r.by(dst)
	r.mu.RUnlock()
	if to == nil {
		r.open(homes)
		return ErrNoPath
	}
	var first error
	for _, p := range packets {
		if err := to.client.Send(dst, p); err != nil && first == nil {
			first = err
		}
	}
	r.touch(to)
	return first
}

// touch notes that a connection is used; once a second is enough.
func (r *Relays) touch(c *connection) {
	now := time.Now()
	r.mu.RLock()
	stale := now.Sub(c.used) > time.Second
	r.mu.RUnlock()
	if stale {
		r.mu.Lock()
		c.used = now
		r.mu.Unlock()
	}
}

// open begins to connect to the first of the named relays, and to the others in
// turn once those before have failed.
func (r *Relays) open(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		if c := r.conns[name]; c != nil {
			if c.client.State().LastError == nil {
				return // on its way
			}
			continue
		}
		if i := slices.IndexFunc(r.list, func(l leaf.Relay) bool { return l.Name == name }); i >= 0 {
			r.connect(r.list[i])
			return
		}
	}
}

// A State is one relay as status shows it.
type State struct {
	Name string
	Home bool
	client.State
}

// States are the relays that the node is connected to or wants to be, in the
// policy's order.
func (r *Relays) States() (out []State) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i, l := range r.list {
		if c := r.conns[l.Name]; c != nil {
			out = append(out, State{Name: l.Name, Home: i < maxHome, State: c.client.State()})
		}
	}
	return out
}

// To is the name of the relay by which packets to the node go now; empty where
// none is connected.
func (r *Relays) To(dst key.NodeID) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c := r.by(dst); c != nil {
		return c.relay.Name
	}
	return ""
}
