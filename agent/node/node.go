// Package node assembles an agent from its parts and holds them together; it
// decides nothing.
//
//	coordinators ─► control ─► netmap ─► plane: filter, tunnel, bind, underlay, relays
//	                                        │
//	local programs ─► proxy, forwards ─► netstack   or   kernel interface and router
//
//	                                     localapi: status, ping, netcheck, whois …
//
// The order at every new netmap is: the filter is swapped, which cuts flows that
// are no longer allowed; the kernel's routes, relays, paths and WireGuard's peers
// follow; then control acknowledges. The data plane is built when the node is first admitted, its
// filter empty and in place before anything can pass.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/agent/control"
	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/posture"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Config is what an agent runs with.
type Config struct {
	Dir    string // state directory; private to the agent
	Socket string // of the local API
	Join   papers.JoinString
	Kept   string             // file that keeps the join string for the next start; empty: it is there
	Name   string             // the name to ask for
	Secret papers.EnrolSecret // the zero Secret asks by pin
	// Interface is the name of the kernel's network interface. Empty: userspace,
	// which alone has Proxy and Forwards.
	Interface  string
	NoNftables bool   // neighbours on the LAN may reach the mesh address past the filter
	Proxy      string // where SOCKS5 and HTTP proxies listen; empty for none
	Forwards   []Forward
	Port       uint16 // of UDP; zero for any that is free
	NoDirect   bool   // packets go by relay only
	Loopback   bool   // loopback addresses are endpoints: for nodes that share a machine
	Version    string
	Posture    string // file of custom attributes that the record reports; empty: there is none
	Ready      func() // called once, when what was known before is in force; nil: nobody waits
	Log        *slog.Logger
}

// An Agent is a running node.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	identity key.IdentityPrivate
	wg       key.WGPrivate
	control  *control.Client
	stop     context.CancelFunc
	handed   handed // connections that forwards handed to local servers

	// owned by adopt, whose calls come one at a time
	enforced trust.Position // as last logged
	ready    bool           // cfg.Ready was called

	mu        sync.Mutex // guards the fields below
	plane     *plane
	proxyAddr string
	version   int64 // of the status
	changed   chan struct{}
	failed    error
}

func (a *Agent) now() time.Time { return time.Now() }

// Run runs an agent until ctx ends, it is told to go down, or a part of it
// fails.
func Run(ctx context.Context, cfg Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a := &Agent{cfg: cfg, log: cfg.Log, stop: stop, changed: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := preflight(cfg); err != nil {
		return err
	}
	if cfg.Kept != "" {
		if err := replace(cfg.Kept, cfg.Join.String()+"\n"); err != nil {
			return fmt.Errorf("keep the join string: %w", err)
		}
	}
	if a.identity, err = Identity(cfg.Dir); err != nil {
		return err
	}
	if a.wg, err = wireGuard(cfg.Dir); err != nil {
		return err
	}
	a.control, err = control.Open(control.Config{
		Network: cfg.Join.Network, Identity: a.identity, WG: a.wg, Coordinators: cfg.Join.Coordinators,
		Dir: cfg.Dir, Version: cfg.Version, Name: cfg.Name, Secret: cfg.Secret,
		Adopt: a.adopt, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	api, err := localapi.Listen(cfg.Socket, a, cfg.Log)
	if err != nil {
		return err
	}
	tasks, ctx := errgroup.WithContext(ctx)
	defer func() {
		a.mu.Lock()
		p := a.plane
		a.mu.Unlock()
		if p != nil {
			p.close()
		}
	}()
	tasks.Go(func() error { return api.Serve(ctx) })
	tasks.Go(func() error { return a.control.Run(ctx) })
	tasks.Go(func() error { return a.watchStatus(ctx) })
	tasks.Go(func() error { return posture.Source{Version: cfg.Version, File: cfg.Posture}.Watch(ctx, a.report) })
	tasks.Go(func() error { return a.serveLocal(ctx) })
	err = tasks.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return a.failed
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// adopt puts a netmap in force and returns when it is. The first is that of the
// state on disk, if only to say that there is none.
func (a *Agent) adopt(n *netmap.Netmap) {
	a.mu.Lock()
	p := a.plane
	a.mu.Unlock()
	if p == nil && n.Self != nil {
		var err error
		p, err = newPlane(planeConfig{
			dir: a.cfg.Dir, network: a.cfg.Join.Network, identity: a.identity, wg: a.wg, addresses: n.Addresses,
			netIf: a.cfg.Interface, noNftables: a.cfg.NoNftables, port: a.cfg.Port, noDirect: a.cfg.NoDirect, loopback: a.cfg.Loopback,
			admission: a.control.Admission, home: a.control.SetRelays, news: a.bump, clock: a.control.Time, log: a.log,
		})
		if err != nil {
			a.fail(err)
			return
		}
		a.log.Info("admitted", "name", n.Self.Name, "who", strings.Join(who(n.Self), " "), "addresses", n.Addresses)
	}
	if p != nil {
		p.adopt(n, a.control.Judge)
	}
	a.mu.Lock()
	a.plane = p
	a.mu.Unlock()
	a.bump()
	if n.Position != a.enforced {
		a.enforced = n.Position
		a.log.Info("revision enforced", "commit", n.Commit.Short(), "revision", n.Position, "peers", len(n.Peers))
	}
	if !a.ready && a.cfg.Ready != nil {
		a.cfg.Ready()
	}
	a.ready = true
}

// fail ends the agent: a part without which it would not be what it says.
func (a *Agent) fail(err error) {
	a.mu.Lock()
	if a.failed == nil {
		a.failed = err
	}
	a.mu.Unlock()
	a.stop()
}

// bump tells those who wait for the status that it is another.
func (a *Agent) bump() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	close(a.changed)
	a.changed = make(chan struct{})
}

// report puts into the record what the node says of itself.
func (a *Agent) report(attrs map[string]string, err error) {
	if err != nil {
		a.log.Warn("custom attributes are not reported", "err", err)
	}
	if err := a.control.SetPosture(attrs); err != nil {
		a.log.Error("posture is not reported", "err", err)
	}
}

// watchStatus bumps the version when control has news that is not a netmap, such
// as a refusal.
func (a *Agent) watchStatus(ctx context.Context) error {
	for {
		following := a.control.News()
		_, joining := a.control.Netmap()
		a.bump()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-following:
		case <-joining:
		}
	}
}

// replace replaces a file whole.
func replace(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.WriteString(content)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}

// lock keeps a second agent from the state directory.
func lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		b := make([]byte, 32)
		n, _ := f.Read(b)
		f.Close()
		if pid := strings.TrimSpace(string(b[:n])); pid != "" {
			return nil, fmt.Errorf("another agent (process %s) uses %s", pid, dir)
		}
		return nil, fmt.Errorf("another agent uses %s", dir)
	}
	f.Truncate(0)
	f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	return func() { f.Close() }, nil
}
