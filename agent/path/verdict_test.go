package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// endpoints is a message with addresses.
func endpoints(m disco.Mapping, list ...string) *disco.Endpoints {
	e := &disco.Endpoints{Mapping: m}
	for _, a := range list {
		e.List = append(e.List, disco.Endpoint{Addr: netip.MustParseAddrPort(a), Kind: disco.Reflexive})
	}
	return e
}

func TestWhyNotDirect(t *testing.T) {
	id := key.NodeID{1}
	easy, hard := disco.MappingEndpointIndependent, disco.MappingEndpointDependent
	for _, test := range []struct {
		want string
		self Self
		do   func(e *Engine, now time.Time) // after the peer woke
	}{
		{want: "peer has not told its endpoints"},
		{want: "peer has no endpoints yet", do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(easy))
		}},
		{want: "none of the peer's 2 endpoints may be pinged", do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(easy, "127.0.0.1:1", "100.64.0.1:1"))
		}},
		{want: "UDP is blocked here", self: Self{Mapping: disco.MappingBlocked}, do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(hard, "203.0.113.9:4242"))
		}},
		{want: "UDP is blocked at the peer", self: Self{Mapping: hard, UDP4: true}, do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(disco.MappingBlocked, "203.0.113.9:4242"))
		}},
		{want: "both NATs have endpoint-dependent mapping", self: Self{Mapping: hard, UDP4: true}, do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(hard, "203.0.113.9:4242"))
		}},
		{want: "no answer from 203.0.113.9:4242 to N pings", self: Self{Mapping: hard, UDP4: true}, do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(easy, "192.168.1.9:4242", "203.0.113.9:4242", "192.168.1.8:4242"))
			pass(e, now, 5*time.Second)
		}},
		{want: "203.0.113.9:4242: the socket refuses: no route to host", do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(easy, "203.0.113.9:4242"))
			e.Failed(now, id, netip.MustParseAddrPort("203.0.113.9:4242"), "no route to host")
		}},
		{want: "203.0.113.9:4242: answers, but the peer's own pings have no answer", do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.AddrPort{}, endpoints(easy, "203.0.113.9:4242"))
			for range 2 { // a short ping, and a long one
				now = now.Add(time.Millisecond)
				for _, a := range e.Take() {
					if s, ok := a.(Send); ok {
						if p, ok := s.Msg.(*disco.Ping); ok {
							e.Receive(now, id, s.To, &disco.Pong{Tx: p.Tx})
						}
					}
				}
			}
		}},
		{want: "203.0.113.9:4242: the peer's pings are answered; no answer to 1 ping of this node", do: func(e *Engine, now time.Time) {
			e.Receive(now, id, netip.MustParseAddrPort("203.0.113.9:4242"), &disco.Ping{Proved: true})
		}},
		{want: "no traffic", do: func(e *Engine, now time.Time) { pass(e, now, 3*time.Minute) }},
	} {
		e := New(Config{})
		now := time.Unix(1_700_000_000, 0)
		test.self.Mesh = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
		e.SetSelf(now, test.self)
		e.SetPeers(now, []Peer{{ID: id}})
		e.Wake(now, id)
		if test.do != nil {
			test.do(e, now)
		}
		var sent int
		for _, a := range e.Take() {
			if s, ok := a.(Send); ok && s.To == netip.MustParseAddrPort("203.0.113.9:4242") {
				sent++
			}
		}
		want := strings.ReplaceAll(test.want, "N pings", fmt.Sprint(sent, " pings"))
		if got := e.Verdict(id).Why; got != want {
			t.Errorf("why %q, want %q", got, want)
		}
	}
	if got := New(Config{}).Verdict(id).Why; got != "not a peer" {
		t.Errorf("why %q for a stranger, want %q", got, "not a peer")
	}
}

// pass lets time pass for an engine that nobody answers.
func pass(e *Engine, now time.Time, d time.Duration) {
	for end := now.Add(d); ; {
		at, ok := e.Next()
		if !ok || at.After(end) {
			e.Advance(end)
			return
		}
		e.Advance(at)
	}
}

func TestCandidateResults(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	v := a.verdict(b)
	got := map[string]string{}
	for _, c := range v.Candidates {
		got[c.Kind] += c.Result
		if c.InUse && (c.RTT != 20*time.Millisecond || !c.Proved || c.Loss != 0 || c.Addr != v.Choice.Direct) {
			t.Errorf("candidate in use %+v, want a round trip of 20 ms and no loss", c)
		}
	}
	if got["reflexive"] != "in use" || !strings.HasPrefix(got["interface"], "no answer to ") {
		t.Errorf("results %q, want the reflexive in use and no answer from the interface", got)
	}
	if v.Why != "" || v.RTT != 20*time.Millisecond || v.State != Direct || v.Mapping != disco.MappingEndpointIndependent {
		t.Errorf("verdict %+v", v)
	}
	if n := len(v.Transitions); n != 2 || v.Transitions[1].To != Direct || v.Transitions[1].Addr != v.Choice.Direct || v.Transitions[0].To != Relayed {
		t.Errorf("transitions %+v, want to relay, then direct", v.Transitions)
	}
}

// Packets from one address are one peer's: the one that answers first keeps it
// until it does not answer any more.
func TestTwoPeersClaimOneAddress(t *testing.T) {
	one, two := key.NodeID{1}, key.NodeID{2}
	at := netip.MustParseAddrPort("203.0.113.9:4242")
	e := New(Config{})
	now := time.Unix(1_700_000_000, 0)
	e.SetPeers(now, []Peer{{ID: one}, {ID: two}})
	owners := map[netip.AddrPort]key.NodeID{}
	answering := map[key.NodeID]bool{one: true, two: true}
	round := func() {
		for _, a := range e.Take() {
			switch a := a.(type) {
			case Learn:
				if owners[a.Addr] = a.Peer; a.Gone {
					delete(owners, a.Addr)
				}
			case Send:
				if p, ok := a.Msg.(*disco.Ping); ok && answering[a.Peer] {
					e.Receive(now, a.Peer, at, &disco.Pong{Tx: p.Tx, Proved: true})
				}
			}
		}
	}
	for _, id := range []key.NodeID{one, two} {
		e.Wake(now, id)
		e.Receive(now, id, netip.AddrPort{}, endpoints(disco.MappingNone, at.String()))
		for range 2 { // a short ping, and a long one
			now = now.Add(time.Millisecond)
			round()
		}
	}
	if owners[at] != one || e.Verdict(one).State != Direct || e.Verdict(two).State != Relayed {
		t.Fatalf("owner %v, states %v and %v; want the first", owners[at], e.Verdict(one).State, e.Verdict(two).State)
	}
	if r := e.Verdict(two).Candidates[0].Result; r != "answers, but is another peer's" {
		t.Errorf("result %q", r)
	}
	answering[one] = false
	for end := now.Add(time.Minute); now.Before(end); now = now.Add(10 * time.Millisecond) {
		e.Wake(now, two)
		e.Advance(now)
		round()
	}
	if owners[at] != two {
		t.Errorf("owner %v a minute after the first fell silent, want the second", owners[at])
	}
}

func TestSocketRefuses(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	to := a.choice[b.id].Direct
	refuse := func() { a.engine.Failed(w.now, b.id, to, "network is unreachable"); a.drain() }
	if refuse(); a.choice[b.id] != (Choice{Direct: to, Relay: true}) {
		t.Errorf("choice %v after one refusal, want both ways", a.choice[b.id])
	}
	if refuse(); a.choice[b.id] != (Choice{Relay: true}) {
		t.Errorf("choice %v after two refusals, want by relay", a.choice[b.id])
	}
	if why := a.verdict(b).Why; !strings.Contains(why, "the socket refuses: network is unreachable") {
		t.Errorf("why %q", why)
	}
	if !w.run(5*time.Second, bothDirect(a, b)) {
		t.Errorf("not direct 5 s later: %+v", a.verdict(b))
	}
}

func TestForgottenPeer(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	a.engine.SetPeers(w.now, nil)
	var gone int
	for _, x := range a.engine.Take() {
		switch x := x.(type) {
		case Use:
			if x.Choice != (Choice{}) {
				t.Errorf("uses %v for a peer that is none", x.Choice)
			}
			gone++
		case Learn:
			if !x.Gone {
				t.Errorf("learns %v", x.Addr)
			}
			gone++
		default:
			t.Errorf("%T for a peer that is none", x)
		}
	}
	if gone != 2 {
		t.Errorf("%d actions, want the choice and the address taken back", gone)
	}
	a.engine.Receive(w.now, b.id, netip.AddrPort{}, endpoints(disco.MappingNone, "203.0.113.9:4242"))
	a.engine.Wake(w.now, b.id)
	if _, ok := a.engine.Next(); ok || len(a.engine.Take()) > 0 {
		t.Error("a forgotten peer acts")
	}
}

func TestSleepingPeerRemembersLittle(t *testing.T) {
	id := key.NodeID{1}
	e := New(Config{})
	now := time.Unix(1_700_000_000, 0)
	static := netip.MustParseAddrPort("198.51.100.1:1")
	e.SetPeers(now, []Peer{{ID: id, Static: []netip.AddrPort{static}}})
	e.Wake(now, id)
	m := &disco.Endpoints{}
	for i := range disco.MaxEndpoints {
		m.List = append(m.List, disco.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1), Kind: disco.Interface})
	}
	e.Receive(now, id, netip.AddrPort{}, m)
	answered := m.List[20].Addr
	for range 2 { // a short ping, and a long one
		for _, a := range e.Take() {
			if s, ok := a.(Send); ok && s.To == answered {
				e.Receive(now, id, answered, &disco.Pong{Tx: s.Msg.(*disco.Ping).Tx})
			}
		}
	}
	pass(e, now, 10*time.Minute)
	v := e.Verdict(id)
	var kept []netip.AddrPort
	for _, c := range v.Candidates {
		kept = append(kept, c.Addr)
	}
	has := func(a netip.AddrPort) bool {
		for _, k := range kept {
			if k == a {
				return true
			}
		}
		return false
	}
	if v.State != Asleep || len(kept) != maxRemembered+1 || !has(static) || !has(answered) {
		t.Errorf("%v, remembers %v; want asleep with 9, the static one and %v among them", v.State, kept, answered)
	}
}

// The peer's word alone does not end a doubt: it may rest on what the peer saw
// before.
func TestDoubtEndsByAnOwnPong(t *testing.T) {
	e, at, count := engineOf(1, 1)
	id, now := numbered(0), *at
	direct := e.Verdict(id).Choice.Direct
	for end := now.Add(idleAfter + time.Second); now.Before(end); { // answered until it rests
		now = now.Add(10 * time.Millisecond)
		e.Advance(now)
		answer(e, now, e.Take())
	}
	if s := e.Verdict(id).State; s != Resting {
		t.Fatalf("%v after 46 s without traffic, want resting", s)
	}
	*count++
	var asked []Action
	for end := now.Add(pollResting + 100*time.Millisecond); now.Before(end); {
		now = now.Add(10 * time.Millisecond)
		e.Advance(now)
		asked = append(asked, e.Take()...)
	}
	e.Receive(now, id, direct, &disco.Ping{Tx: disco.TxID{1}, Proved: true})
	if s := e.Verdict(id).State; s != Doubted {
		t.Errorf("%v after traffic came back and the peer says Proved, want doubted", s)
	}
	answer(e, now, asked)
	if s := e.Verdict(id).State; s != Direct {
		t.Errorf("%v after an own ping was answered, want direct", s)
	}
}
