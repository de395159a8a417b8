//go:build lab

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
)

// A Mesh is one Writ network: a coordinator and a relay on the Internet, both
// the real programs, and agents wherever they are started. The network's keys,
// which sync holds in life, are the test's.
type Mesh struct {
	*netmaptest.World
	Coordinator, Relay *Program
	RelayAt            *Host
	STUN               []string // where the relay answers

	l      *Lab
	coord  *coordtest.Coordinator
	policy netmaptest.Policy
	newest *netmaptest.Revision

	mu  sync.Mutex
	who map[string]string // node → user or tags
}

// A Pin is a node whose keys the test makes and keeps.
type Pin struct{ Name, Who string }

// NewMesh starts a coordinator and a relay and publishes the policy.
func (l *Lab) NewMesh(p netmaptest.Policy, pins ...Pin) *Mesh {
	l.t.Helper()
	m := &Mesh{World: netmaptest.New(l.t, time.Now().Add(-time.Hour)), l: l, policy: p, who: map[string]string{}}

	at := NewHost(l.inet, "coordinator")
	state, roots := filepath.Join(l.dir, "coordinator"), filepath.Join(l.dir, "trust")
	l.must(os.Mkdir(roots, 0o700))
	l.must(os.WriteFile(filepath.Join(roots, "root-1.note"), m.Roots[0], 0o600))
	pin, err := key.ParseIdentityPublic(l.once("coordinator", "id", "--state", state))
	l.must(err)
	addr := netip.AddrPortFrom(at.V4, 7443).String()
	m.Coordinator = at.program("coordinator", "coordinator", "run", "--state", state, "--listen", addr, "--root", roots)
	m.Coordinator.Start()
	m.Coordinator.WaitLog("coordinator runs")
	m.coord = coordtest.Start(l.t, m.World, coordtest.At(addr, pin, at.Dial))

	// Two addresses with two ports each, by which a node tells what kind of NAT is
	// before it.
	m.RelayAt = NewHost(l.inet, "relay")
	second := netip.MustParseAddr("203.0.113.201")
	m.RelayAt.AddAddress(second)
	for _, a := range []netip.Addr{m.RelayAt.V4, second, m.RelayAt.V6} {
		for _, port := range []uint16{3478, 3479} {
			m.STUN = append(m.STUN, netip.AddrPortFrom(a, port).String())
		}
	}
	slices.Sort(m.STUN)
	state = filepath.Join(l.dir, "relay")
	relayKey, err := key.ParseIdentityPublic(l.once("relay", "id", "--state", state))
	l.must(err)
	addr = netip.AddrPortFrom(m.RelayAt.V4, 443).String()
	m.policy.Relays = []leaf.Relay{{Name: "eu-1", Addr: addr, Key: relayKey, STUN: m.STUN}}
	m.Publish(func(*netmaptest.Policy) {})
	m.Relay = m.RelayAt.program("relay", "relay", "serve", "--state", state, "--listen", addr, "--stun", ":3478", "--stun", ":3479", "--join", m.Join())
	m.Relay.Start()
	m.Relay.WaitLog("relay listens")
	for _, p := range pins {
		n := m.Admit(p.Name, p.Who)
		m.SignRecord(n, []string{m.policy.Relays[0].Name})
		m.coord.Admit(n)
		m.coord.PutRecord(n)
	}
	m.coord.DecideJoins(m.decide)
	return m
}

// Pinned is a node that NewMesh was given as a Pin.
func (m *Mesh) Pinned(name string) *netmaptest.Node {
	m.l.t.Helper()
	for _, n := range m.Nodes {
		if n.Admission.Name == name {
			return n
		}
	}
	m.l.t.Fatalf("no node %s was pinned", name)
	return nil
}

// Join is the network's join string.
func (m *Mesh) Join() string { return m.coord.JoinString().String() }

// Publish changes the policy and publishes the next revision.
func (m *Mesh) Publish(change func(*netmaptest.Policy)) {
	m.l.t.Helper()
	change(&m.policy)
	m.Advance(time.Minute)
	m.newest = m.World.Publish(m.policy)
	m.coord.Publish(m.newest)
}

// decide admits the nodes that Up has named.
func (m *Mesh) decide(j *papers.Join, _ *papers.Proof) (papers.Admission, error) {
	m.mu.Lock()
	who := m.who[j.Name]
	m.mu.Unlock()
	if who == "" {
		return papers.Admission{}, fmt.Errorf("nothing admits %s", j.Name)
	}
	return admission(who), nil
}

// admission is who a node is, from a user's e-mail address or from tags.
func admission(who string) papers.Admission {
	if !strings.HasPrefix(who, "tag:") {
		return papers.Admission{User: &acl.User{Email: who, Issuer: "git", Subject: who}}
	}
	var tags []string
	for _, t := range strings.Fields(who) {
		tags = append(tags, strings.TrimPrefix(t, "tag:"))
	}
	slices.Sort(tags)
	return papers.Admission{Tags: tags}
}

// An Agent is a node: the agent program on a host.
type Agent struct {
	*Program
	*localapi.Client
	Host      *Host
	State     string // its state directory
	Userspace bool
}

// Up starts an agent on a host, under the host's name, for a user or for tags.
// Flags are given to agent up as they are.
func (m *Mesh) Up(h *Host, who string, flags ...string) *Agent {
	m.l.t.Helper()
	m.mu.Lock()
	m.who[h.Name] = who
	m.mu.Unlock()
	a := &Agent{Host: h, State: filepath.Join(m.l.dir, "agent-"+h.Name), Userspace: slices.Contains(flags, "--userspace")}
	args := []string{"--state", a.State, "up", "--join", m.Join(), "--name", h.Name, "--log", "debug"}
	a.Program = h.program(h.Name, "agent", append(args, flags...)...)
	a.Client = localapi.Dial(filepath.Join(a.State, localapi.SocketName))
	m.l.mu.Lock()
	m.l.agents = append(m.l.agents, a)
	m.l.mu.Unlock()
	a.Start()
	return a
}

// Wait waits until the agent's status is as wanted.
func (a *Agent) Wait(what string, ok func(*localapi.Status) bool) *localapi.Status {
	t := a.Host.l.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond) // until the socket is there
	defer tick.Stop()
	after := int64(-1)
	for {
		s, err := a.Status(ctx, after)
		switch {
		case err == nil && ok(s):
			return s
		case err == nil:
			after = s.Version
		case ctx.Err() != nil:
			t.Fatalf("%s: %s: not within %s", a.Host.Name, what, within)
		default: // it does not run yet, or not any more: what it says starts anew
			after = -1
			<-tick.C
		}
	}
}

// Know waits until the agents enforce the newest revision, have a relay, and are
// peers of each other.
func (m *Mesh) Know(agents ...*Agent) {
	m.l.t.Helper()
	for _, a := range agents {
		a.Wait("it is up, with a relay and its peers", func(s *localapi.Status) bool {
			connected := slices.ContainsFunc(s.Relays, func(r localapi.Relay) bool { return r.State == "connected" })
			if s.State != "up" || s.Seq < m.newest.Manifest.Seq || !connected {
				return false
			}
			for _, other := range agents {
				if other != a && peer(s, other.Host.Name) == nil {
					return false
				}
			}
			return true
		})
	}
}

// peer is a peer of a status, by name.
func peer(s *localapi.Status, name string) *localapi.Peer {
	for i := range s.Peers {
		if s.Peers[i].Name == name {
			return &s.Peers[i]
		}
	}
	return nil
}

// Address is the agent's IPv4 address in the mesh.
func (a *Agent) Address() netip.Addr {
	a.Host.l.t.Helper()
	return a.Wait("it is up", func(s *localapi.Status) bool { return s.State == "up" }).Addrs[0]
}

// Path is how the agent says that it reaches a peer.
func (a *Agent) Path(to *Agent) string {
	a.Host.l.t.Helper()
	s, err := a.Status(a.Host.l.t.Context(), -1)
	a.Host.l.must(err)
	p := peer(s, to.Host.Name)
	if p == nil {
		return "no peer"
	}
	return p.Path
}

// Connect opens a TCP connection over the mesh: by the interface, or in
// userspace mode by the agent's proxy.
func (a *Agent) Connect(to *Agent, port uint16) (net.Conn, error) {
	a.Host.l.t.Helper()
	at := netip.AddrPortFrom(to.Address(), port)
	ctx, cancel := context.WithTimeout(a.Host.l.t.Context(), within)
	defer cancel()
	if !a.Userspace {
		c, err := a.Host.Dial(ctx, "tcp", at.String())
		if err == nil {
			a.Host.l.cleanup(c)
		}
		return c, err
	}
	s, err := a.Status(ctx, -1)
	if err != nil {
		return nil, err
	}
	c, err := a.Host.Dial(ctx, "tcp", s.Proxy)
	if err != nil {
		return nil, err
	}
	a.Host.l.cleanup(c)
	return c, proxyConnect(c, at.String())
}
