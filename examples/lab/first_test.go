//go:build lab

package lab

import (
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

// How soon a node is there. The times are those of a machine that does other
// things besides; BENCHMARKS.md has the figures.
//
//	                  the Internet
//	      ┌───────────┬─────┴─────┬─────────────┐
//	 coordinator    relay      home-a         home-b
//	                              │              │
//	                            alice          ledger (tag:ledger, tcp/7 echoes)

// soon is far more than it may take, and less than a wait that somebody forgot:
// WireGuard's retransmission comes after 5 s.
const soon = 4 * time.Second

func TestFirstAnswer(t *testing.T) {
	for _, mode := range []mode{onInterface, inUserspace} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			testFirstAnswer(t, mode)
		})
	}
}

func testFirstAnswer(t *testing.T, mode mode) {
	l := New(t, "first answer: fresh join, then started again, "+mode.name, "within 2 s, within 0.5 s")
	m := l.NewMesh(accounting(aliceMail))
	atLedger := NewHost(NewRouter(l.Inet(), "home-b", NAT{}), "ledger")
	atLedger.Echo()
	ledger := m.Up(atLedger, "tag:ledger", mode.ledger...)
	m.Know(ledger)
	atAlice := NewHost(NewRouter(l.Inet(), "home-a", NAT{}), "alice")
	began := time.Now()
	alice := m.Up(atAlice, aliceMail, mode.alice...)
	alice.TalkSoon(ledger)
	fresh := time.Since(began)
	alice.Kill()
	began = time.Now()
	alice.Start()
	alice.TalkSoon(ledger)
	kept := time.Since(began)
	l.Got("%.2f s, %.2f s", fresh.Seconds(), kept.Seconds())
	if fresh > soon || kept > soon {
		t.Errorf("first answer: got %s after a fresh join, %s after a start with kept state; want less than %s", fresh, kept, soon)
	}
}

// TalkSoon talks to another agent as soon as it is known, and again while there
// is no way, as a program does that starts with the machine.
func (a *Agent) TalkSoon(to *Agent) {
	t := a.Host.l.t
	t.Helper()
	a.Wait("it knows "+to.Host.Name, func(s *localapi.Status) bool { return s.State == "up" && peer(s, to.Host.Name) != nil })
	limit := time.After(within)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		c, err := a.Connect(to, echoPort)
		if err == nil {
			if err := a.Host.l.Say(c, "hello"); err != nil {
				t.Fatal(err)
			}
			return
		}
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("%s talks to %s: %v", a.Host.Name, to.Host.Name, err)
		}
	}
}
