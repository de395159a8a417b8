//go:build lab

package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A path that carries packets of 1300 bytes and tells nobody, as behind many a
// tunnel whose ICMP is filtered. WireGuard's full packets are 1340 bytes long.
//
//	home-a ──── at most 1300 bytes of UDP, no ICMP ──── home-b
//	   │                                                   │
//	 alice                                              ledger

// Narrow has the Internet lose the packets of UDP that are longer, until Unblock.
func (i *Internet) Narrow(bytes int) {
	i.l.t.Helper()
	i.l.must(i.NFT(fmt.Sprintf("add rule inet blocks forward meta l4proto udp meta length gt %d counter drop\n", bytes)))
}

// bulk is longer than any packet, so that most packets of a connection that says
// it are full.
var bulk = strings.Repeat("y", 100_000)

// bulk has a new connection carry full packets both ways, and tells how long it
// took.
func (p *pair) bulk() time.Duration {
	p.t.Helper()
	began := time.Now()
	c, err := p.alice.Connect(p.ledger, echoPort)
	if err == nil {
		err = p.Say(c, bulk)
		c.Close()
	}
	if err != nil {
		p.t.Fatalf("100 kB over the mesh, by %q: %v", p.alice.Path(p.ledger), err)
	}
	return time.Since(began)
}

// Tells waits until the agent says why it has no direct path to another, in words
// that contain some.
func (a *Agent) Tells(to *Agent, words string) {
	t := a.Host.l.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for why := ""; !strings.Contains(why, words); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s has no direct path to %s because %q, want %q", a.Host.Name, to.Host.Name, why, words)
		}
		s, err := a.Status(ctx, -1)
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		if err != nil {
			continue // says so above
		}
		if p := peer(s, to.Host.Name); p != nil {
			why = p.NotDirect
		}
	}
}

func TestNarrowPath(t *testing.T) {
	t.Parallel()
	p := newPair(t, onInterface, "a path that loses full packets, without ICMP", "by relay until it carries them", NAT{}, NAT{})
	p.Inet().Narrow(1300)
	first := p.bulk()
	p.alice.Tells(p.ledger, "packets of 1340 bytes are lost on the way")
	for range 3 {
		p.bulk()
	}
	if s := p.alice.steps(p.ledger); strings.Contains(s, "direct ") {
		t.Errorf("the path of alice while it was narrow: got a direct one, want none:%s", s)
	}

	p.Inet().Unblock()
	began := time.Now()
	p.alice.Reach(p.ledger, "a direct path", direct)
	p.ledger.Reach(p.alice, "a direct path", direct)
	wide := time.Since(began)
	p.bulk()

	// Short packets pass still, both ways: only pings as long as data show it.
	p.Inet().Narrow(1300)
	again := p.bulk()
	p.alice.Reach(p.ledger, "the relay", func(path string) bool { return path == "relay eu-1" })
	p.bulk()
	p.Got("100 kB after %s; direct %s after it was lifted; narrow in use: 100 kB after %s",
		first.Round(10*time.Millisecond), wide.Round(10*time.Millisecond), again.Round(10*time.Millisecond))
}
