package relays

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/relaytest"
)

// Everything here runs in a synctest bubble over real relays in memory: minutes
// pass in no time, and a goroutine that is left over fails the test.

// A mesh is the relays of a policy, by name.
type mesh struct {
	t      *testing.T
	relays map[string]*relaytest.Relay
}

func newMesh(t *testing.T, names ...string) *mesh {
	m := &mesh{t: t, relays: map[string]*relaytest.Relay{}}
	for _, name := range names {
		m.relays[name] = relaytest.NewInMemory(t)
	}
	return m
}

// list is the policy's list of relays, in this order.
func (m *mesh) list(names ...string) (out []leaf.Relay) {
	for _, name := range names {
		out = append(out, leaf.Relay{Name: name, Addr: name + ".test:443", Key: m.relays[name].Key()})
	}
	return out
}

// dial reaches the relay that has the address.
func (m *mesh) dial(ctx context.Context, network, address string) (net.Conn, error) {
	r := m.relays[strings.TrimSuffix(address, ".test:443")]
	if r == nil {
		return nil, fmt.Errorf("no relay at %s", address)
	}
	return r.Config(key.NewIdentity()).Dial(ctx, network, address)
}

// connected is how many nodes are connected to the relay.
func (m *mesh) connected(name string) int {
	return int(m.relays[name].Metric("writ_relay_clients"))
}

// A node is one side of the test with what it was told.
type node struct {
	*Relays
	id key.NodeID

	mu   sync.Mutex
	got  []string // "from text"
	told []string // home relays, each telling
	ups  int
	seen string // what states said at the last news
}

func (m *mesh) node() *node {
	id := key.NewIdentity()
	for _, r := range m.relays {
		r.Admit(id.Public())
	}
	n := &node{id: id.Public().NodeID()}
	n.Relays = New(Config{
		Identity: id, Papers: func() []byte { return relaytest.Papers(id.Public()) }, Dial: m.dial,
		Receive: func(src key.NodeID, packet []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.got = append(n.got, src.Short()+" "+string(packet[4:]))
		},
		Home: func(names []string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.told = append(n.told, strings.Join(names, " "))
		},
		Up: func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.ups++
		},
		News: func() {
			seen := n.states()
			n.mu.Lock()
			defer n.mu.Unlock()
			n.seen = seen
		},
	})
	m.t.Cleanup(n.Close)
	return n
}

// packet is a WireGuard transport packet as far as relays look at it.
func packet(text string) []byte {
	return append([]byte{4, 0, 0, 0}, fmt.Sprintf("%-60s", text)...)
}

func (n *node) received() (out []string) {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.got {
		out = append(out, strings.TrimSpace(s))
	}
	n.got = nil
	return out
}

func (n *node) tellings() (out []string) {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	out, n.told = n.told, nil
	return out
}

// has is which relays the node has, with their phase.
func (n *node) has() string {
	synctest.Wait()
	return n.states()
}

func (n *node) states() string {
	var out []string
	for _, s := range n.States() {
		text := s.Name + " " + s.Phase.String()
		if s.Home {
			text += " home"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func wantString(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func wantStrings(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestPacketsByHomeRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b")
		alice, bob := m.node(), m.node()
		homes := map[key.NodeID][]string{alice.id: {"a", "b"}, bob.id: {"b", "a"}}
		alice.Set(m.list("a", "b"), homes)
		bob.Set(m.list("a", "b"), homes)
		wantString(t, "alice's relays", alice.has(), "a connected home, b connected home")
		wantString(t, "path to bob", alice.To(bob.id), "b")
		wantString(t, "path to alice", bob.To(alice.id), "a")
		if err := alice.Send(bob.id, [][]byte{packet("one"), packet("two")}); err != nil {
			t.Errorf("alice sends: %v", err)
		}
		if err := bob.Send(alice.id, [][]byte{packet("three")}); err != nil {
			t.Errorf("bob sends: %v", err)
		}
		wantStrings(t, "bob", bob.received(), alice.id.Short()+" one", alice.id.Short()+" two")
		wantStrings(t, "alice", alice.received(), bob.id.Short()+" three")

		// The first home relay is lost: the next one carries.
		m.relays["b"].Kill()
		synctest.Wait()
		wantString(t, "path to bob", alice.To(bob.id), "a")
		if err := alice.Send(bob.id, [][]byte{packet("four")}); err != nil {
			t.Errorf("alice sends: %v", err)
		}
		wantStrings(t, "bob", bob.received(), alice.id.Short()+" four")
	})
}

func TestSendToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a")
		alice := m.node()
		stranger, elsewhere := key.NewIdentity().Public().NodeID(), key.NewIdentity().Public().NodeID()
		alice.Set(m.list("a"), map[key.NodeID][]string{elsewhere: {"gone"}})
		synctest.Wait()
		for _, id := range []key.NodeID{stranger, elsewhere} {
			if err := alice.Send(id, [][]byte{packet("x")}); !errors.Is(err, ErrNoPath) {
				t.Errorf("got %v, want %v", err, ErrNoPath)
			}
		}
		wantString(t, "relays", alice.has(), "a connected home")
	})
}

// A node's first record is written before it is connected to a relay.
func TestPeerWhoseRecordNamesNoRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b")
		alice, bob := m.node(), m.node()
		bob.Set(m.list("b"), nil)
		alice.Set(m.list("a", "b"), map[key.NodeID][]string{bob.id: nil})
		synctest.Wait()
		m.relays["a"].Kill()
		synctest.Wait()
		wantString(t, "path", alice.To(bob.id), "b")
		if err := alice.Send(bob.id, [][]byte{packet("hello")}); err != nil {
			t.Error(err)
		}
		wantStrings(t, "bob", bob.received(), alice.id.Short()+" hello")
	})
}

// A relay where only a peer waits is connected to when there is something to
// send, and left when there is not.
func TestPeerAtAnotherRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b", "c", "d")
		alice, bob := m.node(), m.node()
		alice.Set(m.list("a", "b", "c", "d"), map[key.NodeID][]string{bob.id: {"c", "d"}})
		bob.Set(m.list("c", "d", "a", "b"), nil)
		wantString(t, "before", alice.has(), "a connected home, b connected home")
		wantString(t, "path before", alice.To(bob.id), "")
		alice.mu.Lock()
		ups := alice.ups
		alice.mu.Unlock()
		if ups != 2 {
			t.Errorf("told of %d connections, want 2", ups)
		}
		for range 2 { // the second does not open another relay while the first is on its way
			if err := alice.Send(bob.id, [][]byte{packet("lost")}); !errors.Is(err, ErrNoPath) {
				t.Errorf("before: got %v, want %v", err, ErrNoPath)
			}
		}
		wantString(t, "after", alice.has(), "a connected home, b connected home, c connected")
		alice.mu.Lock()
		ups = alice.ups
		alice.mu.Unlock()
		if ups != 3 {
			t.Errorf("told of %d connections, want 3", ups)
		}
		if err := alice.Send(bob.id, [][]byte{packet("hello")}); err != nil {
			t.Errorf("after: %v", err)
		}
		wantStrings(t, "bob", bob.received(), alice.id.Short()+" hello")

		// It stays while it is used, however long that is.
		for range 10 {
			time.Sleep(idleAfter / 2)
			if err := alice.Send(bob.id, [][]byte{packet("again")}); err != nil {
				t.Fatalf("in use: %v", err)
			}
		}
		wantString(t, "in use", alice.has(), "a connected home, b connected home, c connected")
		time.Sleep(idleAfter / 2)
		wantString(t, "not yet idle", alice.has(), "a connected home, b connected home, c connected")
		time.Sleep(idleAfter)
		wantString(t, "idle", alice.has(), "a connected home, b connected home")
		if n := m.connected("c"); n != 1 {
			t.Errorf("%d nodes at c, want bob alone", n)
		}
		// Home relays are never left.
		time.Sleep(10 * idleAfter)
		wantString(t, "long idle", alice.has(), "a connected home, b connected home")
		// And it is there again when it is needed again.
		alice.Send(bob.id, [][]byte{packet("lost")})
		synctest.Wait()
		if err := alice.Send(bob.id, [][]byte{packet("back")}); err != nil {
			t.Errorf("back: %v", err)
		}
	})
}

func TestPeerAtARelayThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b", "c", "d")
		m.relays["c"].Kill()
		alice, bob := m.node(), m.node()
		alice.Set(m.list("a", "b", "c", "d"), map[key.NodeID][]string{bob.id: {"c", "d"}})
		bob.Set(m.list("c", "d", "a", "b"), nil)
		synctest.Wait()
		for range 2 {
			if err := alice.Send(bob.id, [][]byte{packet("lost")}); !errors.Is(err, ErrNoPath) {
				t.Errorf("got %v, want %v", err, ErrNoPath)
			}
			synctest.Wait()
		}
		wantString(t, "path", alice.To(bob.id), "d")
		if err := alice.Send(bob.id, [][]byte{packet("hello")}); err != nil {
			t.Errorf("after: %v", err)
		}
		wantStrings(t, "bob", bob.received(), alice.id.Short()+" hello")
	})
}

func TestHomeRelaysAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b", "c")
		alice := m.node()
		const longestDelay = 31 * time.Second // of a client that connects again
		if got := alice.tellings(); len(got) != 0 {
			t.Errorf("before there are relays: told %q", got)
		}
		m.relays["b"].Kill()
		alice.Set(m.list("a", "b", "c"), nil)
		wantStrings(t, "one of two is there", alice.tellings(), "a")
		m.relays["b"].Start()
		time.Sleep(longestDelay)
		wantStrings(t, "both are there", alice.tellings(), "a b")
		alice.Set(m.list("a", "b", "c"), nil)
		alice.Set(m.list("a", "b"), nil)
		wantStrings(t, "nothing changed", alice.tellings())
		m.relays["a"].Kill()
		wantStrings(t, "the first is lost", alice.tellings(), "b")
		m.relays["b"].Kill()
		wantStrings(t, "both are lost", alice.tellings())
		time.Sleep(10 * longestDelay)
		wantStrings(t, "both are lost for long", alice.tellings())
		m.relays["a"].Start()
		time.Sleep(longestDelay)
		wantStrings(t, "the other is back", alice.tellings(), "a")
		m.relays["b"].Start()
		time.Sleep(longestDelay)
		wantStrings(t, "both are back", alice.tellings(), "a b")
		alice.Set(m.list("b", "a"), nil)
		wantStrings(t, "the policy prefers the other", alice.tellings(), "b a")
		alice.Set(m.list("c"), nil)
		if got := alice.tellings(); len(got) == 0 || got[len(got)-1] != "c" {
			t.Errorf("the policy has another: told %q, want c at last", got)
		}
		alice.Set(nil, nil)
		wantStrings(t, "the policy has none", alice.tellings(), "")
		wantString(t, "relays", alice.has(), "")
		alice.Set(m.list("a"), nil)
		wantStrings(t, "the policy has one", alice.tellings(), "a")
		alice.Close()
		wantStrings(t, "closed", alice.tellings())
	})
}

// Who looks at the states whenever there is news has seen what they are.
func TestNewsOfEveryPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b")
		alice := m.node()
		const longestDelay = 31 * time.Second
		sees := func(when, want string) {
			t.Helper()
			wantString(t, when, alice.has(), want)
			alice.mu.Lock()
			defer alice.mu.Unlock()
			wantString(t, when+": seen at the last news", alice.seen, want)
		}
		alice.Set(m.list("a", "b"), nil)
		sees("both are there", "a connected home, b connected home")
		m.relays["a"].Kill()
		time.Sleep(longestDelay)
		alice.mu.Lock()
		wantString(t, "one is lost: seen at the last news", alice.seen, alice.states())
		alice.mu.Unlock()
		m.relays["a"].Start()
		time.Sleep(longestDelay)
		sees("both are back", "a connected home, b connected home")
	})
}

// A relay whose key or address is another in the policy is left before Set
// returns: nothing more is sent to who has the old key.
func TestRelayReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "thief")
		alice := m.node()
		peer := key.NewIdentity().Public().NodeID()
		homes := map[key.NodeID][]string{peer: {"a"}}
		stolen := m.list("a")
		stolen[0].Addr, stolen[0].Key = "thief.test:443", m.relays["thief"].Key()
		alice.Set(stolen, homes)
		wantString(t, "before", alice.has(), "a connected home")
		alice.Set(m.list("a"), homes)
		if err := alice.Send(peer, [][]byte{packet("secret")}); !errors.Is(err, ErrNoPath) {
			t.Errorf("at once: got %v, want %v", err, ErrNoPath)
		}
		wantString(t, "after", alice.has(), "a connected home")
		if at, thief := m.connected("a"), m.connected("thief"); at != 1 || thief != 0 {
			t.Errorf("connected: got %d to a and %d to the one before, want 1 and 0", at, thief)
		}
		if n := m.relays["thief"].Metric("writ_relay_packets_total"); n != 0 {
			t.Errorf("the one before got %v packets, want 0", n)
		}
	})
}

// A relay that accepts everything and forwards nothing costs packets, not time.
func TestSendNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a")
		alice, bob := m.node(), m.node()
		alice.Set(m.list("a"), map[key.NodeID][]string{bob.id: {"a"}})
		synctest.Wait()
		m.relays["a"].Blackhole(true)
		began := time.Now()
		big := make([]byte, 1400)
		big[0] = 4
		batch := slices.Repeat([][]byte{big}, 128)
		for range 100 {
			alice.Send(bob.id, batch)
		}
		// In the bubble time passes only when everybody waits.
		if took := time.Since(began); took != 0 {
			t.Errorf("12,800 packets took %s, want no time", took)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b", "c")
		m.relays["b"].Kill()
		alice, bob := m.node(), m.node()
		alice.Set(m.list("a", "b", "c"), map[key.NodeID][]string{bob.id: {"c"}})
		alice.Send(bob.id, [][]byte{packet("x")})
		alice.Close() // with one connected, one waiting, one just begun
		for _, s := range alice.States() {
			if s.Phase != client.Idle {
				t.Errorf("relay %s is %s after Close, want idle", s.Name, s.Phase)
			}
		}
		synctest.Wait()
		for name, r := range m.relays {
			if name != "b" && r.Metric("writ_relay_clients") != 0 {
				t.Errorf("%s still has a node", name)
			}
		}
		alice.Close()
		alice.Set(m.list("a"), nil)
		if err := alice.Send(bob.id, [][]byte{packet("x")}); err == nil {
			t.Error("a packet is sent after Close")
		}
		alice.PapersChanged()
	})
}

// The record of a node that ends stays as it is, in whatever order its
// connections end.
func TestCloseTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b")
		for range 20 {
			alice := m.node()
			alice.Set(m.list("a", "b"), nil)
			alice.tellings()
			alice.Close()
			wantStrings(t, "closed", alice.tellings())
		}
	})
}

// Everything at once, for the race detector; and packets arrive in between.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, "a", "b", "c")
		alice, bob := m.node(), m.node()
		homes := map[key.NodeID][]string{bob.id: {"c", "a"}, alice.id: {"a"}}
		bob.Set(m.list("c", "a"), homes)
		lists := [][]leaf.Relay{m.list("a", "b", "c"), m.list("b", "c", "a"), m.list("c", "a"), m.list("a")}
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for j := range 50 {
					switch i {
					case 0:
						alice.Set(lists[j%len(lists)], homes)
					case 1:
						p := packet("")
						binary.BigEndian.PutUint32(p[4:], uint32(j))
						alice.Send(bob.id, [][]byte{p})
					case 2:
						alice.States()
						alice.To(bob.id)
					case 3:
						alice.PapersChanged()
					}
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		alice.Set(lists[0], homes)
		synctest.Wait()
		alice.Send(bob.id, [][]byte{packet("last")})
		got := bob.received()
		if len(got) == 0 || got[len(got)-1] != alice.id.Short()+" last" {
			t.Errorf("bob: got %d packets, want them to end with the last", len(got))
		}
	})
}
