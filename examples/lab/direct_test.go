//go:build lab

package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two nodes at home, each with a real interface: what everybody has.
//
//	                  the Internet
//	      ┌───────────┬─────┴─────┬─────────────┐
//	 coordinator    relay       home-a         home-b
//	              (and STUN)      │              │
//	                            alice          ledger (tag:ledger, 7 echoes)

// A pair is the drawing above, with everything up.
type pair struct {
	*Lab
	*Mesh
	homeA, homeB  *Router
	alice, ledger *Agent
	echo          *Echo
}

func newPair(t *testing.T, mode mode, scenario, expected string, a, b NAT) *pair {
	t.Helper()
	p := &pair{Lab: New(t, scenario, expected)}
	p.Mesh = p.NewMesh(accounting(aliceMail))
	p.homeA, p.homeB = NewRouter(p.Inet(), "home-a", a), NewRouter(p.Inet(), "home-b", b)
	atAlice, atLedger := NewHost(p.homeA, "alice"), NewHost(p.homeB, "ledger")
	p.echo = atLedger.Echo()
	p.ledger = p.Up(atLedger, "tag:ledger", mode.ledger...)
	p.alice = p.Up(atAlice, aliceMail, mode.alice...)
	p.Know(p.alice, p.ledger)
	return p
}

// direct reports whether a path of a status is direct, and nothing besides.
func direct(path string) bool {
	return strings.HasPrefix(path, "direct ") && !strings.Contains(path, " + ")
}

// Reach waits until the agent says that its path to another is as wanted, and
// returns it.
func (a *Agent) Reach(to *Agent, what string, ok func(path string) bool) string {
	t := a.Host.l.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		path := a.Path(to)
		if ok(path) {
			return path
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s reaches %s by %q, want %s", a.Host.Name, to.Host.Name, path, what)
		}
	}
}

// Meet has two agents talk until both say that they have a direct path.
func Meet(a, b *Agent) (there, back string) {
	a.Host.l.t.Helper()
	a.Talk(b)
	return a.Reach(b, "a direct path", direct), b.Reach(a, "a direct path", direct)
}

// crosses says lines over the mesh, and wants as many packets of UDP to have gone
// from one address to another, as the capture counts them.
func crosses(t *testing.T, tap *Tap, c net.Conn, l *Lab, from, to netip.Addr) {
	t.Helper()
	const lines = 20
	before := tap.Count(from, to, unix.IPPROTO_UDP)
	for range lines {
		if err := l.Say(c, "direct"); err != nil {
			t.Fatal(err)
		}
	}
	if got := tap.Count(from, to, unix.IPPROTO_UDP) - before; got < lines {
		t.Errorf("%d lines over the mesh: got %d packets of UDP from %s to %s, want as many at least", lines, got, from, to)
	}
}

func TestDirect(t *testing.T) {
	t.Parallel()
	p := newPair(t, onInterface, "two homes, endpoint-independent NATs", "direct", NAT{}, NAT{})
	began := time.Now()
	c := p.alice.Talk(p.ledger)
	first := time.Since(began)
	p.alice.Reach(p.ledger, "a direct path", direct)
	p.ledger.Reach(p.alice, "a direct path", direct)
	upgrade := time.Since(began)
	crosses(t, p.inet.tap, c, p.Lab, p.homeA.WAN, p.homeB.WAN)
	p.Got("direct after %s (first answer after %s)", upgrade.Round(time.Millisecond), first.Round(time.Millisecond))
}

func TestSameLAN(t *testing.T) {
	t.Parallel()
	l := New(t, "two machines on one LAN", "direct, on the LAN")
	m := l.NewMesh(accounting(aliceMail))
	home := NewRouter(l.Inet(), "home", NAT{})
	atAlice, atLedger := NewHost(home, "alice"), NewHost(home, "ledger")
	atLedger.Echo()
	ledger, alice := m.Up(atLedger, "tag:ledger"), m.Up(atAlice, aliceMail)
	m.Know(alice, ledger)
	there, back := Meet(alice, ledger)
	if !strings.Contains(there, atLedger.V4.String()) || !strings.Contains(back, atAlice.V4.String()) {
		t.Errorf("paths: got %q and %q, want those of the LAN, %s and %s", there, back, atLedger.V4, atAlice.V4)
	}
	crosses(t, home.tap, alice.Talk(ledger), l, atAlice.V4, atLedger.V4)
}

func TestIPv6BetweenSites(t *testing.T) {
	t.Parallel()
	// Their IPv4 cannot meet: the path is by IPv6, or by relay.
	nat := NAT{Mapping: AddressAndPortDependent, IPv6: true}
	p := newPair(t, onInterface, "IPv6 between sites, with firewalls", "direct by IPv6", nat, nat)
	there, back := Meet(p.alice, p.ledger)
	if !strings.Contains(there, p.ledger.Host.V6.String()) || !strings.Contains(back, p.alice.Host.V6.String()) {
		t.Errorf("paths: got %q and %q, want %s and %s", there, back, p.ledger.Host.V6, p.alice.Host.V6)
	}
	crosses(t, p.inet.tap, p.alice.Talk(p.ledger), p.Lab, p.alice.Host.V6, p.ledger.Host.V6)
}

// A stream of numbered datagrams, sent at a steady rate and echoed.
type stream struct {
	l    *Lab
	conn net.Conn
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	sent     map[uint64]time.Time
	echoed   map[uint64]time.Time
	received chan struct{} // closed at the next echo
}

// streamEvery is a hundred datagrams a second, as a call or a game sends them.
const streamEvery = 10 * time.Millisecond

func (a *Agent) stream(to *Agent) *stream {
	l := a.Host.l
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	c, err := a.Host.Dial(ctx, "udp", netip.AddrPortFrom(to.Address(), echoPort).String())
	l.must(err)
	l.cleanup(c)
	s := &stream{l: l, conn: c, stop: make(chan struct{}), sent: map[uint64]time.Time{}, echoed: map[uint64]time.Time{}, received: make(chan struct{})}
	s.done.Go(func() {
		tick := time.NewTicker(streamEvery)
		defer tick.Stop()
		for n := uint64(1); ; n++ {
			s.mu.Lock()
			s.sent[n] = time.Now()
			s.mu.Unlock()
			// A datagram that the kernel refuses is one that is lost.
			_, _ = c.Write(append(binary.BigEndian.AppendUint64(nil, n), l.canary...))
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
		}
	})
	s.done.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, err := c.Read(buf)
			if err != nil {
				select {
				case <-s.stop:
					return
				default: // an ICMP error that was handed to the socket
					continue
				}
			}
			if n < 8 {
				continue
			}
			s.mu.Lock()
			s.echoed[binary.BigEndian.Uint64(buf)] = time.Now()
			close(s.received)
			s.received = make(chan struct{})
			s.mu.Unlock()
		}
	})
	return s
}

// after waits for the echo of a datagram that was sent at that time or later, and
// tells when it came.
func (s *stream) after(at time.Time) time.Time {
	s.l.t.Helper()
	limit := time.After(within)
	for {
		s.mu.Lock()
		first := time.Time{}
		for n, echoed := range s.echoed {
			if !s.sent[n].Before(at) && (first.IsZero() || echoed.Before(first)) {
				first = echoed
			}
		}
		received := s.received
		s.mu.Unlock()
		if !first.IsZero() {
			return first
		}
		select {
		case <-received:
		case <-limit:
			s.l.t.Fatalf("no datagram sent after %s is echoed within %s", at.Format(time.StampMilli), within)
		}
	}
}

// end ends the stream and tells how many datagrams were sent and not echoed, and
// the longest time without an echo.
func (s *stream) end() (sent, lost int, gap time.Duration) {
	close(s.stop)
	s.conn.Close()
	s.done.Wait()
	var at []time.Time
	for _, t := range s.echoed {
		at = append(at, t)
	}
	slices.SortFunc(at, time.Time.Compare)
	for i := 1; i < len(at); i++ {
		gap = max(gap, at[i].Sub(at[i-1]))
	}
	return len(s.sent), len(s.sent) - len(s.echoed), gap
}

// A direct path that dies under load is replaced by the relay, and comes back.
func TestDirectPathBlocked(t *testing.T) {
	for _, tt := range []struct {
		when  string
		carry int // echoes between the upgrade and the block
	}{
		{"at once", 1},
		{"soon", 60},
		{"in use", 300}, // three seconds: what belongs to the upgrade is over
	} {
		t.Run(tt.when, func(t *testing.T) {
			t.Parallel()
			testDirectPathBlocked(t, tt.when, tt.carry)
		})
	}
}

func testDirectPathBlocked(t *testing.T, when string, carry int) {
	p := newPair(t, onInterface, "direct path blocked under load, and back: "+when, "by relay within 1 s, and direct again", NAT{}, NAT{})
	Meet(p.alice, p.ledger)
	s := p.alice.stream(p.ledger)
	for range carry {
		s.after(time.Now())
	}
	p.Inet().Block("udp", p.homeA.WAN, p.homeB.WAN)
	blocked := time.Now()
	t.Logf("blocked at %s", blocked.UTC().Format("15:04:05.000"))
	byRelay := s.after(blocked).Sub(blocked)
	p.alice.Reach(p.ledger, "the relay", func(path string) bool { return path == "relay eu-1" })
	// The relay works well: the stream is steady again.
	s.after(time.Now())
	p.Inet().Unblock()
	open := time.Now()
	p.alice.Reach(p.ledger, "a direct path", direct)
	p.ledger.Reach(p.alice, "a direct path", direct)
	back := time.Since(open)
	s.after(time.Now())
	sent, lost, gap := s.end()
	p.Got("by relay after %s, direct again after %s; %d of %d datagrams lost, silent for %s",
		byRelay.Round(10*time.Millisecond), back.Round(10*time.Millisecond), lost, sent, gap.Round(10*time.Millisecond))
	if gap > time.Second {
		t.Logf("alice: %s", p.alice.steps(p.ledger))
		t.Logf("ledger: %s", p.ledger.steps(p.alice))
	}
	if gap > soon {
		t.Errorf("the longest silence: got %s, want a second or so", gap)
	}
}

// steps are the changes of an agent's path to another, for people.
func (a *Agent) steps(to *Agent) string {
	s, err := a.Status(context.Background(), -1)
	if err != nil {
		return err.Error()
	}
	p := peer(s, to.Host.Name)
	if p == nil {
		return "no peer"
	}
	var b strings.Builder
	for _, step := range p.Steps {
		fmt.Fprintf(&b, "\n  %s %s", step.At.Format("15:04:05.000"), step.Text)
	}
	return b.String()
}

// An agent that is killed leaves nothing behind by which the kernel would send to
// a peer in clear.
func TestKilledAgentLeaksNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, onInterface, "agent killed while programs send", "nothing in clear, and on again", NAT{}, NAT{})
	Meet(p.alice, p.ledger)
	s := p.alice.stream(p.ledger)
	s.after(time.Now())
	p.alice.Kill()
	// The stream goes on into nothing; new sockets are refused.
	at := netip.AddrPortFrom(p.ledger.Address(), echoPort)
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		c, err := p.alice.Host.Dial(ctx, network, at.String())
		cancel()
		if err == nil {
			_, err = c.Write([]byte(p.canary))
			c.Close()
		}
		if err == nil {
			t.Errorf("%s to the ledger: got no error, while there is no way to it", network)
		}
	}
	p.alice.Start()
	p.Know(p.alice, p.ledger)
	s.after(time.Now())
	s.end()
}

// A node that moves to another network keeps its connections.
func TestRoaming(t *testing.T) {
	t.Parallel()
	p := newPair(t, onInterface, "a node moves to another network", "an open connection goes on, direct again", NAT{}, NAT{})
	Meet(p.alice, p.ledger)
	c := p.alice.Talk(p.ledger)
	cafe := NewRouter(p.Inet(), "cafe", NAT{LAN: netip.MustParsePrefix("10.8.8.0/24")})
	p.must(p.alice.Host.IP("link del eth0"))
	began := time.Now()
	cafe.attach(p.alice.Host.Namespace, "eth0", shape(nil))
	if err := p.Say(c, "from the café"); err != nil {
		t.Fatalf("after the move: %v", err)
	}
	on := time.Since(began)
	p.ledger.Reach(p.alice, "a direct path to the café", func(path string) bool {
		return direct(path) && strings.Contains(path, cafe.WAN.String())
	})
	p.Got("goes on after %s, direct again after %s", on.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
}
