//go:build lab

package lab

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// Every pair of the networks that people have, in one mesh:
//
//	                              the Internet
//	 ┌───────┬───────┬────────┬────────┬───────┬────────┬─────────┬──────────┐
//	relay  server  home-1   home-2   hotel-1 hotel-2  office   carrier-1  carrier-2
//	               ┌─┴─┐      │         │       │     UDP is    │ (EI)      │ (APD)
//	             anna ben   carl      dora    emil   blocked   flat-1     flat-2
//	                                                   │         │           │
//	                                                 fred      gina        hans
//
// Homes map endpoint-independently (EI), hotels address-and-port-dependently
// (APD); carriers are a second NAT before the flats'. All filter
// address-and-port-dependently, but the server, which has no NAT.
//
// What is expected of a pair follows from RFC 4787's words alone.

// place is where a node of the matrix is.
type place struct {
	node    string
	router  *Router // nil: on the Internet
	mapping Mapping // the stricter, where there are two
	open    bool    // lets in what it did not ask for
	udp     bool
}

// reach reports whether a packet of x to the address that y is seen under gets in.
func reach(x, y place) bool {
	if y.mapping == AddressAndPortDependent {
		return y.open
	}
	return y.open || x.mapping != AddressAndPortDependent
}

// works reports whether x can open a path to y.
func works(x, y place) bool {
	return reach(x, y) && (y.mapping != AddressAndPortDependent || x.open)
}

func (x place) expect(y place) string {
	switch {
	case x.router != nil && x.router == y.router:
		return "direct"
	case x.udp && y.udp && (works(x, y) || works(y, x)):
		return "direct"
	}
	return "relay"
}

func TestEveryPair(t *testing.T) {
	t.Parallel()
	l := New(t, "every pair of nine kinds of network", "26 direct, 46 by relay")
	m := l.NewMesh(netmaptest.Policy{
		Rules: []netmaptest.Rule{{Name: "all", From: "tag:lab", To: "tag:lab", Allow: "tcp/7 icmp"}},
	})
	inet, apd := l.Inet(), NAT{Mapping: AddressAndPortDependent}
	home1, home2 := NewRouter(inet, "home-1", NAT{}), NewRouter(inet, "home-2", NAT{})
	carrier1 := NewRouter(inet, "carrier-1", NAT{LAN: carrierLAN})
	carrier2 := NewRouter(inet, "carrier-2", NAT{LAN: carrierLAN, Mapping: AddressAndPortDependent})
	places := []place{
		{"server", nil, EndpointIndependent, true, true},
		{"anna", home1, EndpointIndependent, false, true},
		{"ben", home1, EndpointIndependent, false, true},
		{"carl", home2, EndpointIndependent, false, true},
		{"dora", NewRouter(inet, "hotel-1", apd), AddressAndPortDependent, false, true},
		{"emil", NewRouter(inet, "hotel-2", apd), AddressAndPortDependent, false, true},
		{"fred", NewRouter(inet, "office", NAT{BlockUDP: true}), EndpointIndependent, false, false},
		{"gina", NewRouter(carrier1, "flat-1", NAT{}), EndpointIndependent, false, true},
		{"hans", NewRouter(carrier2, "flat-2", NAT{}), AddressAndPortDependent, false, true},
	}
	agents := make([]*Agent, len(places))
	for i, p := range places {
		var s Segment = inet
		if p.router != nil {
			s = p.router
		}
		h := NewHost(s, p.node)
		h.Echo()
		agents[i] = m.Up(h, "tag:lab")
	}
	m.Know(agents...)
	for i := range agents {
		for j := range i {
			agents[i].Talk(agents[j])
		}
	}
	pairs := func(do func(a, b *Agent, want string)) {
		for i := range agents {
			for j := range agents {
				if i != j {
					do(agents[i], agents[j], places[i].expect(places[j]))
				}
			}
		}
	}
	counts, reasons := map[string]int{}, map[string]int{}
	pairs(func(a, b *Agent, want string) {
		counts[want]++
		if want == "direct" {
			a.Reach(b, "a direct path", direct)
			return
		}
		blocked := a.Host.Name == "fred" || b.Host.Name == "fred"
		reasons[reasonKind(a.whyNot(b, blocked))]++
	})
	// Once those that can have met, those that cannot have had the time to.
	pairs(func(a, b *Agent, want string) {
		if path := a.Path(b); want == "relay" && path != "relay eu-1" {
			t.Errorf("%s reaches %s by %q, want the relay", a.Host.Name, b.Host.Name, path)
		}
	})
	t.Logf("why not direct: %v", reasons)
	// By hand: five nodes of which each two can meet, and the server with the
	// three behind endpoint-dependent NATs, each seen from both ends.
	got := fmt.Sprintf("%d direct, %d by relay", counts["direct"], counts["relay"])
	l.Got("%s", got)
	if got != l.row.expected {
		t.Errorf("got %s, want %s", got, l.row.expected)
	}
}

// pinged finds how often an endpoint was tried.
var pinged = regexp.MustCompile(`no answer to (\d+) pings`)

// enough is how many pings without an answer end the hope that one is answered:
// a mapping opens with the first, and those after it find it open.
const enough = 5

// whyNot waits until the agent has said why it has no direct path to another, and
// it is not for lack of trying, or, where UDP is blocked, that it is.
func (a *Agent) whyNot(to *Agent, blocked bool) string {
	t := a.Host.l.t
	t.Helper()
	limit := time.After(within)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		s, err := a.Status(t.Context(), -1)
		a.Host.l.must(err)
		if p := peer(s, to.Host.Name); p != nil && p.NotDirect != "" {
			tried := strings.Contains(p.NotDirect, "UDP is blocked")
			for _, e := range p.Endpoints {
				m := pinged.FindStringSubmatch(e.Result)
				if n := 0; m != nil {
					fmt.Sscan(m[1], &n)
					tried = tried || n >= enough && !blocked
				}
			}
			if tried {
				return p.NotDirect
			}
		}
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("%s does not say within %s why it has no direct path to %s", a.Host.Name, within, to.Host.Name)
		}
	}
}

// reasonKind is a reason without its addresses and numbers.
func reasonKind(why string) string {
	return regexp.MustCompile(`[\[\d][\da-f.:\]]*`).ReplaceAllString(why, "…")
}
