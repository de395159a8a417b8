package path

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// maxTransitions is how many changes of a peer's path are remembered.
const maxTransitions = 16

// A Verdict is what is known of the path to a peer.
type Verdict struct {
	State       State
	Since       time.Time
	Choice      Choice
	RTT         time.Duration // of the direct path in use; zero: none
	RelayRTT    time.Duration // as last measured by Probe; zero: not measured
	Mapping     disco.Mapping // of the peer's NAT, as it says
	Candidates  []Candidate
	Why         string // the fact that blocks a direct path; empty when one is in use
	Transitions []Transition
}

// A Candidate is what is known of one of a peer's addresses.
type Candidate struct {
	Addr     netip.AddrPort
	Kind     string        // how it is known: static, interface, reflexive, observed
	InUse    bool          // data goes there
	Proved   bool          // it works both ways
	RTT      time.Duration // zero: never answered
	Loss     float64       // part of the last 20 pings while it worked
	LastPong time.Time     // zero: never
	Result   string        // in words
}

// A Transition is a change of a peer's path.
type Transition struct {
	At   time.Time
	From State
	To   State
	Addr netip.AddrPort // of the direct path afterwards; zero: none
	Why  string
}

// note remembers a transition.
func (p *peer) note(to State, why string) {
	t := Transition{At: p.e.now, From: p.state, To: to, Why: why}
	if p.using != nil {
		t.Addr = p.using.addr
	}
	if len(p.transitions) == maxTransitions {
		copy(p.transitions, p.transitions[1:])
		p.transitions = p.transitions[:maxTransitions-1]
	}
	p.transitions = append(p.transitions, t)
}

// Verdict says what is known of the path to a peer. It is the zero Verdict, but
// for Why, for a node that is no peer.
func (e *Engine) Verdict(id key.NodeID) Verdict {
	p := e.peers[id]
	if p == nil {
		return Verdict{Why: "not a peer"}
	}
	v := Verdict{
		State:       p.state,
		Since:       p.since,
		Choice:      p.choice,
		RelayRTT:    p.relayRTT,
		Mapping:     p.mapping,
		Why:         p.why(),
		Transitions: append([]Transition(nil), p.transitions...),
	}
	if p.using != nil {
		v.RTT = p.using.rtt
	}
	v.Candidates = make([]Candidate, 0, len(p.candidates))
	for _, c := range p.candidates {
		v.Candidates = append(v.Candidates, Candidate{
			Addr:     c.addr,
			Kind:     c.kind(),
			InUse:    c == p.using,
			Proved:   c.proved(),
			RTT:      c.rtt,
			Loss:     c.losses.ratio(),
			LastPong: c.lastPong,
			Result:   c.result(),
		})
	}
	return v
}

// kind is how c is known.
func (c *candidate) kind() string {
	switch {
	case c.static:
		return "static"
	case c.listed != 0:
		return c.listed.String()
	}
	return "observed"
}

// result is what became of c, in words.
func (c *candidate) result() string {
	p := c.peer
	switch {
	case c == p.using && p.state == Direct:
		return "in use"
	case c == p.using:
		return "in use beside the relay"
	case p.e.now.Before(c.barredUntil):
		return "pings pass, WireGuard does not"
	case c.refusal != "":
		return "the socket refuses: " + c.refusal
	case c.foreign:
		return "answers, but is another peer's"
	case c.narrow:
		return p.e.tooLong(c.addr.Addr()) + " are lost on the way there, shorter ones pass"
	case c.mine && c.theirs:
		return "works both ways"
	case c.mine:
		return "answers, but the peer's own pings have no answer"
	case c.theirs:
		return "the peer's pings are answered; no answer to " + pings(c.unanswered) + " of this node"
	case c.unanswered > 0:
		return "no answer to " + pings(c.unanswered)
	case !c.lastPong.IsZero():
		return "answered before"
	}
	return "not pinged yet"
}

// tooLong names the packets that a narrow path loses, by their length with the
// headers of IP and UDP: what the MTU of a link is about.
func (e *Engine) tooLong(a netip.Addr) string {
	headers := 20 + 8
	if a.Is6() {
		headers = 40 + 8
	}
	return fmt.Sprintf("packets of %d bytes", shortSize+e.pad+headers)
}

func pings(n int) string {
	if n == 1 {
		return "1 ping"
	}
	return fmt.Sprintf("%d pings", n)
}

// why is the one fact that blocks a direct path: the first that is true, from
// what no ping can change to what the pings showed.
func (p *peer) why() string {
	e := p.e
	own, theirs := e.self.Mapping, p.mapping
	var barred, narrow, half, telling *candidate
	for _, c := range p.candidates {
		switch {
		case e.now.Before(c.barredUntil):
			barred = c
		case c.narrow:
			narrow = c
		case c.mine != c.theirs:
			half = c
		}
		if telling == nil || c.tells(telling) {
			telling = c
		}
	}
	switch {
	case p.using != nil:
		return ""
	case p.state == Asleep:
		return "no traffic"
	case barred != nil:
		return fmt.Sprintf("pings pass to %v, WireGuard does not: by relay for %v more",
			barred.addr, barred.barredUntil.Sub(e.now).Round(time.Second))
	case narrow != nil:
		return fmt.Sprintf("%s are lost on the way to %v, shorter ones pass", e.tooLong(narrow.addr.Addr()), narrow.addr)
	case own == disco.MappingBlocked || e.known && own != disco.MappingUnknown && !e.self.UDP4 && !e.self.UDP6:
		return "UDP is blocked here"
	case theirs == disco.MappingBlocked:
		return "UDP is blocked at the peer"
	case own == disco.MappingEndpointDependent && theirs == disco.MappingEndpointDependent:
		return "both NATs have endpoint-dependent mapping"
	case half != nil:
		return fmt.Sprintf("%v: %s", half.addr, half.result())
	case !p.everHeard && len(p.candidates) == 0:
		return "peer has not told its endpoints"
	case p.list == 0 && len(p.candidates) == 0:
		return "peer has no endpoints yet"
	case len(p.candidates) == 0:
		return fmt.Sprintf("none of the peer's %d endpoints may be pinged", p.list)
	case telling.refusal == "" && telling.unanswered > 0:
		return fmt.Sprintf("no answer from %v to %s", telling.addr, pings(telling.unanswered))
	}
	return fmt.Sprintf("%v: %s", telling.addr, telling.result())
}

// tells reports whether what became of c says more than what became of o: first
// an address that answered before, then one that the socket sends to, then one
// that is not of a private network, then the one that was pinged more.
func (c *candidate) tells(o *candidate) bool {
	for _, differ := range [...][2]bool{
		{!c.lastPong.IsZero(), !o.lastPong.IsZero()},
		{c.refusal == "", o.refusal == ""},
		{!near(c.addr.Addr()), !near(o.addr.Addr())},
	} {
		if differ[0] != differ[1] {
			return differ[0]
		}
	}
	return c.unanswered > o.unanswered
}
