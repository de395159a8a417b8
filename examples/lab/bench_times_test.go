//go:build lab && bench

package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

// How long things take, with a datagram under way every ten milliseconds from
// before they begin. From is the moment the program is executed, or the packet
// filter on the Internet has changed.
//
//	                  the Internet
//	      ┌───────────┬─────┴─────┬─────────────┐
//	 coordinator    relay       site-a        site-b        a NAT, or none
//	              (and STUN)      │              │
//	                            alice          ledger (tag:ledger, 7 echoes)

// A timed is the drawing above, with everything up.
type timed struct {
	*Lab
	*Mesh
	a, b          Segment
	alice, ledger *Agent
	beat          *beat
}

// A sites is a kind of network on both sides.
type sites struct {
	name string
	a, b *NAT // nil: no NAT
	path bool // there is a direct path
}

var (
	easy, hard = &NAT{}, &NAT{Mapping: AddressAndPortDependent}

	kinds = []sites{
		{"no NAT", nil, nil, true},
		{"two endpoint-independent NATs", easy, easy, true},
		{"one endpoint-dependent NAT", easy, hard, false},
		{"two endpoint-dependent NATs", hard, hard, false},
	}
)

func (l *Lab) site(name string, nat *NAT) Segment {
	l.t.Helper()
	if nat == nil {
		return l.Inet()
	}
	return NewRouter(l.Inet(), name, *nat)
}

func newTimed(t *testing.T, k sites) *timed {
	t.Helper()
	m := &timed{Lab: New(t, "measured: "+t.Name(), "figures")}
	m.Mesh = m.NewMesh(accounting(aliceMail))
	m.a, m.b = m.site("site-a", k.a), m.site("site-b", k.b)
	atLedger := NewHost(m.b, "ledger")
	atLedger.Echo()
	m.ledger = m.Up(atLedger, "tag:ledger")
	m.alice = m.Up(NewHost(m.a, "alice"), aliceMail)
	m.Know(m.alice, m.ledger)
	m.beat = m.alice.Host.beat(m.ledger.Address())
	m.settle(k.path)
	return m
}

// settle waits until the path is what the kinds of NAT allow.
func (m *timed) settle(direct bool) {
	m.t.Helper()
	m.beat.next(time.Now())
	if direct {
		m.direct(time.Time{})
	}
}

// direct waits until both agents send by a direct path alone, and tells when the
// later of them began to after the time from.
func (m *timed) direct(from time.Time) time.Time {
	m.t.Helper()
	var last time.Time
	for _, end := range []struct{ of, to *Agent }{{m.alice, m.ledger}, {m.ledger, m.alice}} {
		began := time.Time{}
		end.of.Wait("it sends directly", func(s *localapi.Status) bool {
			p := peer(s, end.to.Host.Name)
			if p == nil || !p.Direct || strings.Contains(p.Path, "+") {
				return false
			}
			for _, step := range p.Steps {
				if step.At.After(from) && strings.HasPrefix(step.Text, "direct ") {
					began = step.At
					return true
				}
			}
			return from.IsZero()
		})
		if began.After(last) {
			last = began
		}
	}
	return last
}

func seconds(from, to time.Time) float64 { return to.Sub(from).Seconds() }

// explain prints what the programs logged from a time on, when what was measured
// is above $EXPLAIN seconds.
func (m *timed) explain(what string, took float64, from time.Time) {
	limit, err := strconv.ParseFloat(os.Getenv("EXPLAIN"), 64)
	if err != nil || took < limit {
		return
	}
	say("---- %s: %.3f s, from %s", what, took, from.UTC().Format("15:04:05.000"))
	for _, p := range []*Program{m.alice.Program, m.ledger.Program, m.Relay} {
		for line := range strings.Lines(p.log.last(2000)) {
			at, rest, found := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			t, err := time.Parse(time.RFC3339Nano, at)
			if found && err == nil && !t.Before(from.Add(-50*time.Millisecond)) && !strings.Contains(rest, "Routine:") && !strings.Contains(rest, "Failed to send") {
				say("%-8s %6.3f %s", p.Name, seconds(from, t), strings.TrimSpace(rest))
			}
		}
	}
}

// begin restarts both agents and has them talk for a while. What died a moment
// ago, a path or a relay, is not trusted like others, and each round is to be the
// first.
func (m *timed) begin(direct bool) {
	m.t.Helper()
	for _, a := range []*Agent{m.alice, m.ledger} {
		a.Kill()
	}
	began := time.Now()
	for _, a := range []*Agent{m.alice, m.ledger} {
		a.Start()
	}
	if direct {
		m.direct(began)
	}
	// At any moment between two checks of the path.
	<-time.After(time.Second + rand.N(3*time.Second))
	m.beat.next(time.Now())
}

// restartGap is between two restarts of an agent whose peer goes on: by then the
// peer may tell it as much as at first.
const restartGap = 5 * time.Second

// TestMeasureStart is how soon a node is there that was killed and is started
// again, with the state that it kept.
func TestMeasureStart(t *testing.T) {
	headTimes()
	for _, k := range kinds {
		t.Run(strings.ReplaceAll(k.name, " ", "-"), func(t *testing.T) {
			m := newTimed(t, k)
			for _, who := range []struct {
				name   string
				agents []*Agent
			}{{"one agent started", []*Agent{m.alice}}, {"both agents started at once", []*Agent{m.alice, m.ledger}}} {
				var first, direct series
				for range rounds(t) {
					if len(who.agents) == 1 {
						// The other end goes on, and bounds how much one peer may ask of
						// it however often it begins anew.
						<-time.After(restartGap)
						m.beat.next(time.Now())
					}
					for _, a := range who.agents {
						a.Kill()
					}
					began := time.Now()
					for _, a := range who.agents {
						a.Start()
					}
					first = append(first, seconds(began, m.beat.next(began)))
					m.explain(who.name, first[len(first)-1], began)
					if k.path {
						direct = append(direct, seconds(began, m.direct(began)))
						m.explain(who.name, direct[len(direct)-1], began)
					}
				}
				sayTimes(t, fmt.Sprintf("%s, %s → first answer", who.name, k.name), first)
				if k.path {
					sayTimes(t, fmt.Sprintf("%s, %s → direct both ways", who.name, k.name), direct)
				}
			}
		})
	}
}

// TestMeasureJoin is how soon a node is there that has no state: it makes its
// keys, asks to join, is admitted, and takes up its netmap.
func TestMeasureJoin(t *testing.T) {
	headTimes()
	m := newTimed(t, kinds[1])
	var first, direct series
	for i := range rounds(t) {
		at := NewHost(m.a, fmt.Sprintf("guest-%d", i))
		beat := at.beat(m.ledger.Address())
		began := time.Now()
		m.alice = m.Up(at, aliceMail)
		first = append(first, seconds(began, beat.next(began)))
		direct = append(direct, seconds(began, m.direct(began)))
		m.alice.Kill()
	}
	sayTimes(t, "fresh join, two endpoint-independent NATs → first answer", first)
	sayTimes(t, "fresh join, two endpoint-independent NATs → direct both ways", direct)
}

// TestMeasureBlocked is how long there is no traffic when the direct path dies,
// and how soon it is used again when it is back.
func TestMeasureBlocked(t *testing.T) {
	headTimes()
	for _, k := range kinds[:2] {
		t.Run(strings.ReplaceAll(k.name, " ", "-"), func(t *testing.T) {
			var relayed, direct series
			sent, lost := 0, 0
			m := newTimed(t, k)
			a, b := m.alice.Host.V4, m.ledger.Host.V4
			a6, b6 := m.alice.Host.V6, m.ledger.Host.V6
			if k.a != nil {
				a, b = m.a.(*Router).WAN, m.b.(*Router).WAN
			}
			for range rounds(t) {
				m.begin(true)
				if k.a == nil {
					m.Inet().Block("udp", a6, b6) // what is in use is IPv6, or is IPv4 from here on
					m.direct(time.Time{})
				}
				m.Inet().Block("udp", a, b)
				blocked := time.Now()
				relayed = append(relayed, seconds(blocked, m.beat.next(blocked.Add(beatEvery))))
				m.explain("blocked", relayed[len(relayed)-1], blocked)
				m.alice.Wait("it sends by relay", func(s *localapi.Status) bool { return !peer(s, "ledger").Direct })
				m.ledger.Wait("it sends by relay", func(s *localapi.Status) bool { return !peer(s, "alice").Direct })
				opened := time.Now()
				m.Inet().Unblock()
				back := m.direct(opened)
				direct = append(direct, seconds(opened, back))
				m.explain("unblocked", direct[len(direct)-1], opened)
				m.beat.next(back)
				s, n := m.beat.between(opened, back)
				sent, lost = sent+s, lost+n
			}
			sayTimes(t, fmt.Sprintf("direct path blocked, %s → traffic by relay", k.name), relayed)
			sayTimes(t, fmt.Sprintf("direct path unblocked, %s → direct both ways", k.name), direct)
			say("    lost on the way back to it: %d of %d datagrams", lost, sent)
		})
	}
}

// TestMeasureRelayRestarted is how long there is no traffic when the relay by
// which it goes dies and is started again.
func TestMeasureRelayRestarted(t *testing.T) {
	headTimes()
	m := newTimed(t, kinds[3])
	for _, rest := range []time.Duration{0, time.Second} {
		var outage series
		for range rounds(t) {
			m.begin(false)
			m.Relay.Kill()
			<-time.After(rest) // how long it is down is what is measured
			began := time.Now()
			m.Relay.Start()
			outage = append(outage, seconds(began, m.beat.next(began)))
			m.explain("relay", outage[len(outage)-1], began)
		}
		sayTimes(t, fmt.Sprintf("relay started, %v after it was killed → traffic again", rest), outage)
	}
}
