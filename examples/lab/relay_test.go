//go:build lab

package lab

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/examples/lab/link"
)

// The mesh by relay, and what it outlives. Alice sits where UDP is blocked, as in
// some offices; the ledger is behind a home router.
//
//	                  the Internet
//	      ┌───────────┬─────┴─────┬─────────────┐
//	 coordinator    relay      office          home
//	                            │ UDP blocked   │
//	                          alice           ledger (tag:ledger, tcp/7 echoes)
//
// The policy gives accounting tcp/7 and icmp on tag:ledger; alice is in
// accounting.

// accounting is the policy: who is in the group, and what it may reach.
func accounting(members ...string) netmaptest.Policy {
	return netmaptest.Policy{
		Groups: map[string][]string{"accounting": members},
		Rules:  []netmaptest.Rule{{Name: "ledger", From: "group:accounting", To: "tag:ledger", Allow: "tcp/7 udp/7 icmp"}},
	}
}

const aliceMail = "alice@acme.example"

// A mode is how agents run: the flags of each.
type mode struct {
	name          string
	alice, ledger []string
}

var (
	onInterface = mode{"interface", nil, nil}
	inUserspace = mode{"userspace", []string{"--userspace"}, []string{"--userspace", forwardEcho}}
)

// An office is the drawing above, with everything up.
type office struct {
	*Lab
	*Mesh
	alice, ledger *Agent
	echo          *Echo
}

func newOffice(t *testing.T, mode mode, scenario, expected string, line ...link.Shape) *office {
	t.Helper()
	o := &office{Lab: New(t, scenario, expected)}
	o.Mesh = o.NewMesh(accounting(aliceMail))
	atLedger := NewHost(NewRouter(o.Inet(), "home", NAT{}), "ledger")
	atAlice := NewHost(NewRouter(o.Inet(), "office", NAT{BlockUDP: true}, line...), "alice")
	o.echo = atLedger.Echo()
	o.ledger = o.Up(atLedger, "tag:ledger", mode.ledger...)
	o.alice = o.Up(atAlice, aliceMail, mode.alice...)
	o.Know(o.alice, o.ledger)
	return o
}

func TestUDPBlocked(t *testing.T) {
	for _, mode := range []mode{onInterface, inUserspace} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, mode, "UDP blocked at one site, "+mode.name, "by relay: UDP is blocked here")
			o.alice.Talk(o.ledger)
			o.Got("%s", strings.Replace(o.alice.Path(o.ledger), "relay eu-1", "by relay", 1)+": "+o.alice.whyNot(o.ledger, true))
			if o.row.got != o.row.expected {
				t.Errorf("got %s, want %s", o.row.got, o.row.expected)
			}
		})
	}
}

// Alice's office is far away, behind a poor line: what she sends arrives whole.
func TestPoorLine(t *testing.T) {
	t.Parallel()
	o := newOffice(t, onInterface, "a line of 30 ms ± 10, 8 Mbit/s, 1 % lost, 1 % reordered", "512 KiB there and back",
		link.Shape{Delay: 30 * time.Millisecond, Jitter: 10 * time.Millisecond, Rate: 8e6, Loss: 0.01, Reorder: 0.01, Seed: 1})
	c := o.alice.Talk(o.ledger)
	data := make([]byte, 512<<10)
	rand.NewChaCha8([32]byte{1}).Read(data)
	o.must(c.SetDeadline(time.Now().Add(within)))
	began := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("what came back is not what was sent")
	}
	o.Got("the same, in %s", time.Since(began).Round(100*time.Millisecond))
}

// A relay that dies takes no connection with it.
func TestRelayRestarted(t *testing.T) {
	t.Parallel()
	o := newOffice(t, onInterface, "relay killed and started again", "an open connection goes on")
	c := o.alice.Talk(o.ledger)
	o.Relay.Kill()
	down := func(s *localapi.Status) bool { return s.Relays[0].State != "connected" }
	o.alice.Wait("it notices that the relay is gone", down)
	o.ledger.Wait("it notices that the relay is gone", down)
	began := time.Now()
	o.Relay.Start()
	if err := o.Say(c, "still there?"); err != nil {
		t.Fatalf("after the relay came back: %v", err)
	}
	o.Got("goes on %s after the relay is started", time.Since(began).Round(100*time.Millisecond))
}

// What was verified is on the nodes' disks: the control plane is not needed to go
// on, nor to start again.
func TestCoordinatorKilled(t *testing.T) {
	t.Parallel()
	o := newOffice(t, onInterface, "coordinator killed, agents killed and started again", "traffic goes on")
	before := o.alice.Wait("it is up", func(s *localapi.Status) bool { return s.State == "up" })
	c := o.alice.Talk(o.ledger)
	o.Coordinator.Kill()
	if err := o.Say(c, "without a coordinator"); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	o.alice.Talk(o.ledger)
	for _, a := range []*Agent{o.alice, o.ledger} {
		a.Kill()
		a.Start()
	}
	o.Know(o.alice, o.ledger)
	after := o.alice.Wait("it is up", func(s *localapi.Status) bool { return s.State == "up" })
	if after.Digest != before.Digest || after.Seq != before.Seq || after.Addrs[0] != before.Addrs[0] {
		t.Errorf("from disk: got revision %d %s at %s, want %d %s at %s",
			after.Seq, after.Digest, after.Addrs[0], before.Seq, before.Digest, before.Addrs[0])
	}
	o.alice.Talk(o.ledger)
}

// A grant that a revision takes away is taken away from what is open, too: by
// relay and on a direct path.
func TestRevoked(t *testing.T) {
	for _, mode := range []mode{onInterface, inUserspace} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, mode, "access revoked while a connection is open, "+mode.name, "reset at both ends", NAT{}, NAT{})
			Meet(p.alice, p.ledger)
			c := p.alice.Talk(p.ledger)
			cut := make(chan error, 1)
			began := time.Now()
			var took time.Duration
			go func() {
				err := p.Cut(c)
				took = time.Since(began)
				cut <- err
			}()
			p.Publish(func(n *netmaptest.Policy) { *n = withMembers(*n) })
			if err := <-cut; err != nil {
				t.Fatalf("alice's end: %v", err)
			}
			for range 2 { // that of Meet, and c
				select {
				case err := <-p.echo.Ended:
					if err == nil {
						t.Error("the ledger's end: it ended in order, instead of being reset")
					}
				case <-time.After(within):
					t.Fatalf("the ledger's end: it lives on after %s", within)
				}
			}
			if err := refused(p.alice.Connect(p.ledger, echoPort)); err != nil {
				t.Error(err)
			}
			p.Got("reset at both ends, %s after the publication began", took.Round(10*time.Millisecond))
		})
	}
}

// A hostile coordinator offers a revision that was superseded. It verifies; it is
// refused all the same.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	o := newOffice(t, onInterface, "an older manifest is offered", "refused, the newer stays")
	old := o.Revisions[0] // alice is in accounting
	o.Publish(func(p *netmaptest.Policy) { *p = withMembers(*p) })
	newer := o.newest.Manifest.Seq
	for _, a := range []*Agent{o.alice, o.ledger} {
		a.Wait("it enforces the revision without alice", func(s *localapi.Status) bool { return s.Seq == newer })
	}
	o.Replay(old)
	o.ledger.Wait("it refuses the older manifest", func(s *localapi.Status) bool { return s.Refusals["rollback"] > 0 && s.Seq == newer })
	for _, a := range []*Agent{o.alice, o.ledger} {
		a.Kill()
		a.Start()
		if s := a.Wait("it is up from disk", func(s *localapi.Status) bool { return s.State == "up" }); s.Seq != newer {
			t.Errorf("%s after a restart: got revision %d, want %d", a.Host.Name, s.Seq, newer)
		}
	}
	if err := refused(o.alice.Connect(o.ledger, echoPort)); err != nil {
		t.Error(err)
	}
}

// withMembers is the policy with another accounting group.
func withMembers(p netmaptest.Policy, members ...string) netmaptest.Policy {
	p.Groups = map[string][]string{"accounting": members}
	return p
}

// refused wants a connection not to have come about.
func refused(c net.Conn, err error) error {
	if err == nil {
		c.Close()
		return errOpen
	}
	return nil
}
