package netcheck_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/natlab"
	"github.com/writmesh/writ/agent/netcheck"
	"github.com/writmesh/writ/relay/stun"
)

// TestKindsOfNAT asks real STUN servers from behind every kind of NAT that natlab
// has, and compares with what the NAT was made to do.
//
//	node ─── its routers ─── the Internet ─┬─ server1: ports 3478, 3479
//	                                       └─ server2: ports 3478, 3479
func TestKindsOfNAT(t *testing.T) {
	for _, kind := range natlab.Kinds {
		for _, k := range []natlab.Kind{kind, kind.WithIPv6()} {
			t.Run(k.Name, func(t *testing.T) {
				seed := rand.Uint64()
				synctest.Test(t, func(t *testing.T) {
					w := natlab.Pair(seed, k, k)
					defer w.Close()
					r, local := ask(t, w)
					want, reach := behaviour(k)
					if r.IPv4.Behaviour != want || r.IPv4.UDP != reach {
						t.Errorf("seed %d: got %s, UDP %s, want %s, UDP %s\n%s", seed, r.IPv4.Behaviour, r.IPv4.UDP, want, reach, r)
					}
					if !k.IPv6 && r.IPv6.UDP != netcheck.NoAddress {
						t.Errorf("seed %d: UDP over IPv6 %s, want %s", seed, r.IPv6.UDP, netcheck.NoAddress)
					}
					if k.IPv6 && !k.UDPBlocked && (r.IPv6.UDP != netcheck.Works || r.IPv6.Behaviour != netcheck.None) {
						t.Errorf("seed %d: IPv6 %+v, want no NAT", seed, r.IPv6)
					}
					for _, s := range r.Servers {
						if s.Lie != "" {
							t.Errorf("seed %d: %s is said to lie: %s", seed, s.Addr, s.Lie)
						}
					}
					list := netcheck.Filter{}.Endpoints(r, local, nil)
					if len(list) < len(local) {
						t.Errorf("seed %d: tells %v, want its own addresses %v at least", seed, list, local)
					}
				})
			})
		}
	}
}

// behaviour is what a report must say of a kind, when two servers answer on two
// ports each.
func behaviour(k natlab.Kind) (netcheck.Behaviour, netcheck.Reach) {
	if k.UDPBlocked {
		return netcheck.BehaviourBlocked, netcheck.Blocked
	}
	translates := false
	for _, l := range k.Layers {
		translates = translates || !l.Transparent
	}
	switch {
	case !translates:
		return netcheck.None, netcheck.Works
	case k.Mapping == natlab.AddressDependent:
		return netcheck.AddressDependent, netcheck.Works
	case k.Mapping == natlab.AddressAndPortDependent:
		return netcheck.AddressAndPortDependent, netcheck.Works
	}
	return netcheck.EndpointIndependent, netcheck.Works
}

// ask plays one round on site A of a world.
func ask(t *testing.T, w *natlab.World) (netcheck.Report, []netip.AddrPort) {
	t.Helper()
	server, err := stun.New(stun.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	var servers []netcheck.Server
	for _, h := range w.Servers {
		for _, port := range []uint16{3478, 3479} {
			c, err := h.ListenUDP(port)
			if err != nil {
				t.Fatal(err)
			}
			serving.Go(func() {
				if err := server.Serve(ctx, c); err != nil && ctx.Err() == nil {
					t.Errorf("serve: %v", err)
				}
			})
			for _, a := range h.Addrs() {
				servers = append(servers, netcheck.Server{Name: h.Name(), Addr: netip.AddrPortFrom(a, port)})
			}
		}
	}

	c, err := w.A.Host.ListenUDP(40001)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eth := netcheck.Interface{Name: "eth0", Up: true, Addrs: w.A.Host.Addrs()}
	local := netcheck.Filter{}.Local([]netcheck.Interface{eth}, 40001, 40001)
	check := netcheck.Start(time.Now(), servers, local, nil)
	b := make([]byte, 2048)
	for {
		for _, p := range check.Advance(time.Now()) {
			if _, err := c.WriteToUDPAddrPort(p.Data, p.To); err != nil {
				check.Failed(p.To, err.Error())
			}
		}
		next := check.Next()
		if next.IsZero() {
			return check.Report(), local
		}
		if err := c.SetReadDeadline(next); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			t.Fatal(err)
		default:
			check.Receive(time.Now(), from, b[:n])
		}
	}
}
