package server

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// A gate bounds the connections that nobody has vouched for yet: in all, at
// once from one source, and per second from one source. A source is an IPv4
// address or an IPv6 /64, which is what one customer has.
//
// The rate is for what handshakes cost (50 a second are 5 % of a core); the
// burst is for an office behind one address whose nodes all return at once
// after a restart.
type gate struct {
	// set at construction
	total, perSource, burst int
	rate                    rate.Limit
	maxSources, forgetful   int

	// guarded by mu
	mu      sync.Mutex
	pending int
	sources map[netip.Prefix]*source
}

type source struct {
	pending int
	limiter *rate.Limiter
}

// A turnedAway is why the gate closed a connection at once.
type turnedAway int

const (
	tooManyPending  turnedAway = iota // in all, or too many sources to remember
	sourcePending                     // from this source
	sourceRate                        // from this source, per second
	turnedAwayKinds                   // how many there are
)

func (t turnedAway) String() string {
	return [...]string{"pending", "source_pending", "source_rate"}[t]
}

// maxSources bounds the memory of the gate, some 10 MiB; each time so many as
// forgetful have come it looks for sources that it may forget.
const (
	maxSources = 1 << 16
	forgetful  = 1 << 12
)

func newGate(cfg Config) *gate {
	return &gate{
		total: cfg.MaxPending, perSource: cfg.PendingPerSource,
		rate: rate.Limit(cfg.ConnectRate), burst: cfg.ConnectBurst,
		maxSources: maxSources, forgetful: forgetful,
		sources: make(map[netip.Prefix]*source),
	}
}

// enter counts a connection in. Leave, to be called once, counts it out; it is
// nil when the connection must be closed instead.
func (g *gate) enter(addr net.Addr) (leave func(), reason turnedAway) {
	from := sourceOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending >= g.total {
		return nil, tooManyPending
	}
	src := g.sources[from]
	if src == nil {
		if n := len(g.sources); n >= g.forgetful && n%g.forgetful == 0 {
			g.forget()
		}
		if len(g.sources) >= g.maxSources {
			return nil, tooManyPending
		}
		src = &source{limiter: rate.NewLimiter(g.rate, g.burst)}
		g.sources[from] = src
	}
	if src.pending >= g.perSource {
		return nil, sourcePending
	}
	if !src.limiter.Allow() {
		return nil, sourceRate
	}
	g.pending++
	src.pending++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pending--
		src.pending--
	}, 0
}

// forget drops the sources that would be made anew as they are.
func (g *gate) forget() {
	for from, src := range g.sources {
		if src.pending == 0 && src.limiter.Tokens() >= float64(g.burst) {
			delete(g.sources, from)
		}
	}
}

// sourceOf is the zero prefix for addresses that are not IP (in tests).
func sourceOf(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}
