//go:build linux

package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

// Router keeps the kernel as the State says.
type Router struct {
	// Set at construction.
	cfg Config
	log *slog.Logger
	k   *kernel

	// Owned by Watch: the machine's network as last seen, at first by New.
	seen *surface

	// What Set may rely on without reading the kernel's routes: while Watch runs and
	// has seen nothing of others since, they are as Set left them. Set by Watch.
	watching, stale atomic.Bool

	mu sync.Mutex

	// Guarded by mu.
	state    State          // as last given to Set
	given    bool           // Set was called
	off6     bool           // IPv6 was off for the interface then
	have     map[route]bool // our routes as the last Set left them; nil if it failed
	foreign  []string       // others' routes in our table, as read with them
	table    *table         // the nftables table; nil without nftables
	warnings []string
	closed   bool
}

// New prepares a Router. It changes nothing yet but that the interface, if it is
// there, says that an agent runs.
func New(cfg Config) (*Router, error) {
	if err := checkName(cfg.Interface); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg, log: cfg.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	r.k = k
	if err := r.prepare(); err != nil {
		k.close()
		return nil, err
	}
	return r, nil
}

// prepare looks whether there is room for this Router, and whether the kernel can
// do what it needs.
func (r *Router) prepare() error {
	found, _, err := r.k.routes()
	if err != nil {
		return err
	}
	for have := range found {
		if have.kind != device {
			continue
		}
		if l, err := r.k.plain.LinkByIndex(have.link); err == nil && l.Attrs().Name != r.cfg.Interface {
			return fmt.Errorf("routing table %d leads to interface %s: another agent runs in this network namespace", Table, l.Attrs().Name)
		}
	}
	r.seen = new(surface)
	if r.seen.addrs, err = r.k.surfaceAddrs(r.cfg.Interface); err != nil {
		return err
	}
	if r.seen.defaults, err = r.k.defaults(); err != nil {
		return err
	}
	if !r.cfg.WithoutNftables {
		if err := probeTable(); err != nil {
			return fmt.Errorf("use nftables: %w (without it, neighbours on the local network reach this node past WireGuard)", err)
		}
		r.table = newTable(r.cfg.Interface)
	}
	link, err := r.k.plain.LinkByName(r.cfg.Interface)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return nil // Set will find it
	case err != nil:
		return fmt.Errorf("find interface %s: %w", r.cfg.Interface, err)
	}
	return r.k.claim(link)
}

// checkName refuses what can be no interface of ours. The name stands in rules
// that say whom to trust.
func checkName(name string) error {
	const longest = 15 // IFNAMSIZ, with its zero byte
	if name == "" || len(name) > longest || name == "lo" || name == "." || name == ".." {
		return fmt.Errorf("interface name %q: want 1 to %d bytes, and not the loopback interface", name, longest)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == ':' || c == '%' {
			return fmt.Errorf("interface name %q: byte %q is not allowed", name, c)
		}
	}
	return nil
}

// errClosed is what a closed Router answers.
var errClosed = errors.New("router is closed")

// Set makes the kernel hold s, and repairs what others took away. What protects
// comes first: the packet filter, then unreachable routes and rules, and only then
// addresses and routes to the interface. A packet filter that cannot be set keeps
// the node from having addresses, not from having unreachable routes.
func (r *Router) Set(ctx context.Context, s State) error {
	s, err := s.checked()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	var warnings []string
	if r.k.no6 {
		warnings = append(warnings, "this kernel runs without IPv6: peers are reached by IPv4 alone")
		s = s.only4()
	}
	// 0. Nobody else does the same here.
	link, err := r.k.plain.LinkByName(r.cfg.Interface)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		// What protects is set all the same, beside nobody.
		if name, _ := r.k.claimant(); name != "" {
			return errClaimed(name)
		}
	case err != nil:
		return fmt.Errorf("find interface %s: %w", r.cfg.Interface, err)
	default:
		if err := r.k.claim(link); err != nil {
			return err
		}
	}
	r.state, r.given, r.off6 = s, true, false

	// 1. The packet filter learns what is new.
	var unfiltered error
	if r.table != nil {
		unfiltered = r.table.admit(s)
	} else {
		warnings = append(warnings, "nftables is not used: neighbours on the local network can reach this node's addresses past WireGuard")
	}

	// 2. Unreachable routes, and the rules that lead to them.
	have, err := r.known()
	if err != nil {
		return err
	}
	around := surroundings{routes: r.foreign}
	if err := r.setRoutes(ctx, s.routes(0), have, unreachable); err != nil {
		return err
	}
	if around.rules, err = r.k.setRules(); err != nil {
		return err
	}

	if unfiltered != nil {
		return fmt.Errorf("set nftables table inet %s: %w", TableName, unfiltered)
	}

	// 3. The interface and its addresses. Here the kernel may drop routes.
	if link == nil {
		return fmt.Errorf("find interface %s: %w", r.cfg.Interface, gone)
	}
	changed, off6, err := r.k.setLink(link, s)
	if err != nil {
		return err
	}
	if r.off6 = off6; off6 {
		warnings = append(warnings, fmt.Sprintf("IPv6 is switched off here (for interface %s): peers are reached by IPv4 alone", r.cfg.Interface))
	}
	if changed {
		if have, r.foreign, err = r.k.routes(); err != nil {
			return err
		}
	}

	// 4. The routes to the interface.
	if err := r.setRoutes(ctx, s.routesWith(link.Attrs().Index, off6), have, 0); err != nil {
		return err
	}
	r.have = have

	// 5. The packet filter forgets what is gone.
	if r.table != nil {
		if err := r.table.forget(s); err != nil {
			return fmt.Errorf("set nftables table inet %s: %w", TableName, err)
		}
	}

	if around.addresses, err = r.k.otherAddresses(r.cfg.Interface); err != nil {
		return err
	}
	r.warn(append(warnings, s.conflicts(around)...))
	return nil
}

// known returns our routes as they are. The caller owns them: r.have is nil until
// it gives them back, so that a Set that failed is followed by a look.
func (r *Router) known() (map[route]bool, error) {
	have := r.have
	r.have = nil
	// In this order: what Watch sees after the look makes it stale again.
	if stale := r.stale.Swap(false); have != nil && r.watching.Load() && !stale {
		return have, nil
	}
	have, foreign, err := r.k.routes()
	r.foreign = foreign
	return have, err
}

// setRoutes makes the table's routes of ours those wanted, or only adds those of
// one kind. It keeps have as they are.
func (r *Router) setRoutes(ctx context.Context, want, have map[route]bool, only routeKind) error {
	remove, add := routeChanges(want, have)
	if only != 0 {
		remove = nil
	}
	if len(remove)+len(add) > 0 {
		r.log.Debug("routes change", "add", len(add), "remove", len(remove))
	}
	for i, x := range remove {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.k.removeRoute(x); err != nil {
			return err
		}
		delete(have, x)
	}
	for i, x := range add {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if only != 0 && x.kind != only {
			continue
		}
		if err := r.k.addRoute(x); err != nil {
			return err
		}
		have[x] = true
	}
	return nil
}

// warn keeps the warnings and logs those that are new. r.mu is held.
func (r *Router) warn(now []string) {
	for _, w := range now {
		if !slices.Contains(r.warnings, w) {
			r.log.Warn(w)
		}
	}
	r.warnings = now
}

// Warnings says what of the machine's network contradicted the last Set, in
// sentences for people. None is nil.
func (r *Router) Warnings() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.warnings)
}

// Drops returns how many packets the nftables table dropped since New.
func (r *Router) Drops() (Drops, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.table == nil {
		return Drops{}, nil
	}
	return r.table.drops()
}

// Close takes the node's addresses from the interface, the routes to it, and the
// nftables table. The unreachable routes and their rules stay: what was for the
// mesh does not continue in clear because the agent stopped. The interface itself
// is its maker's.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	defer r.k.close()
	var errs []error
	if r.given {
		have, _, err := r.k.routes()
		errs = append(errs, err)
		for x := range have {
			if x.kind != unreachable {
				errs = append(errs, r.k.removeRoute(x))
			}
		}
	}
	link, err := r.k.plain.LinkByName(r.cfg.Interface)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone): // and everything on it
	case err != nil:
		errs = append(errs, fmt.Errorf("find interface %s: %w", r.cfg.Interface, err))
	default:
		if r.given {
			_, _, err := r.k.setAddresses(link, nil)
			errs = append(errs, err)
		}
	}
	if r.given && r.table != nil {
		errs = append(errs, removeTable())
	}
	if link != nil {
		errs = append(errs, r.k.unclaim(link))
	}
	return errors.Join(errs...)
}

// Cleanup removes everything of ours from this network namespace: what Close
// leaves, what a killed agent left, and the routes of addresses that were a
// peer's. It refuses while an agent runs, which would put everything back.
func Cleanup(ctx context.Context) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	name, err := k.claimant()
	if err != nil {
		return err
	}
	if name != "" {
		return fmt.Errorf("interface %s: an agent runs in this network namespace", name)
	}
	// Rules first: a rule to an empty table is harmless, too, but costs a look.
	errs := []error{k.removeRules()}
	have, _, err := k.routes()
	errs = append(errs, err)
	for x := range have {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		errs = append(errs, k.removeRoute(x))
	}
	if probeTable() == nil {
		errs = append(errs, removeTable())
	}
	return errors.Join(errs...)
}
