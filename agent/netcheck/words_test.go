package netcheck

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWords(t *testing.T) {
	local := []netip.AddrPort{home, wan6}
	seen4 := func(s string) func(netip.AddrPort) netip.AddrPort {
		return func(srv netip.AddrPort) netip.AddrPort {
			if srv.Addr().Is6() {
				return wan6
			}
			return ap(s)
		}
	}
	for name, v := range map[string]struct {
		servers []Server
		local   []netip.AddrPort
		w       world
		want    string
	}{
		"a home with IPv6": {[]Server{a1, b1, a6}, local, world{sees: seen4("203.0.113.77:40001"), rtt: rtts(a1, b1, a6)}, `
IPv4: UDP works, seen as 203.0.113.77:40001
IPv4 NAT: endpoint-independent mapping; it keeps the port
IPv6: UDP works, seen as [2001:db8:77::10]:40006
IPv6 NAT: none, the address is this node's own; a firewall may stand before it
direct paths: to every peer without NAT or with endpoint-independent mapping; to the others if nothing before this node filters by port
nearest relay: fra, 20ms
`},
		"a company": {[]Server{a1, a2, b1, c1}, local[:1], world{sees: (&mapper{key: behaviours[AddressAndPortDependent]}).sees, rtt: rtts(a1, a2, b1)}, `
IPv4: UDP works, seen as 203.0.113.77:50000, 203.0.113.77:50001, 203.0.113.77:50002; no answer from 1 of 4 servers
IPv4 NAT: address-and-port-dependent mapping; it changes the port
IPv6: not measured, no relay answers STUN over it
direct paths: to peers without NAT and firewall, and to those with endpoint-independent mapping that do not filter by port; to the others by relay, as a rule
nearest relay: fra, 20ms
`},
		"two relays of one port": {[]Server{a1, b1, a6}, local[:1], world{sees: (&mapper{key: behaviours[AddressDependent]}).sees, rtt: rtts(a1, b1)}, `
IPv4: UDP works, seen as 203.0.113.77:50000, 203.0.113.77:50001
IPv4 NAT: address-dependent or address-and-port-dependent mapping (two ports of one server are needed to tell); it changes the port
IPv6: this node has no address
direct paths: to peers without NAT and firewall, and to those with endpoint-independent mapping that do not filter by port; to the others by relay, as a rule
nearest relay: fra, 20ms
`},
		"one relay of two ports": {[]Server{a1, a2}, []netip.AddrPort{ap("100.70.1.1:4")}, world{sees: seen4("203.0.113.77:50000"), rtt: rtts(a1, a2)}, `
IPv4: UDP works, seen as 203.0.113.77:50000
IPv4 NAT: mapping does not depend on the port; endpoint-independent, or address-dependent (servers at two addresses are needed to tell); it changes the port
IPv4 NAT: a provider's (carrier-grade): this node's own address is of 100.64.0.0/10
IPv6: not measured, no relay answers STUN over it
direct paths: to every peer without NAT or with endpoint-independent mapping; to the others if nothing before this node filters by port
nearest relay: fra, 20ms
`},
		"one relay": {[]Server{a1}, local, world{sees: seen4("203.0.113.77:50000"), rtt: rtts(a1)}, `
IPv4: UDP works, seen as 203.0.113.77:50000
IPv4 NAT: there is one; how it maps is not known (two servers are needed to tell); it changes the port
IPv6: not measured, no relay answers STUN over it
direct paths: likely, with most peers
nearest relay: fra, 20ms
`},
		"blocked": {[]Server{a1, b1, a6, b6}, local, world{fail: func(a netip.AddrPort) string {
			if a.Addr().Is6() {
				return "network is unreachable"
			}
			return ""
		}}, `
IPv4: no answer from 2 servers; UDP is blocked, or they are down
IPv6: UDP cannot be sent: network is unreachable
direct paths: none; all traffic goes by relay
`},
		"a lie": {[]Server{a1}, local, world{sees: seen4("10.66.66.66:53"), rtt: rtts(a1)}, `
IPv4: UDP works
IPv4 NAT: not known, no answer can be used
IPv6: not measured, no relay answers STUN over it
direct paths: likely, with most peers
nearest relay: fra, 20ms
fra (203.0.113.1:3478) says that it sees 10.66.66.66:53: of a private network, from a server that is not in one; not used
`},
		"no relays": {nil, local, world{}, `
IPv4: not measured, no relay answers STUN over it
IPv6: not measured, no relay answers STUN over it
direct paths: not known
`},
	} {
		c := Start(epoch, v.servers, v.local, nil)
		v.w.run(t, c, nil)
		if got := c.Report().String(); got != v.want[1:] {
			t.Errorf("%s: got\n%swant\n%s", name, got, v.want[1:])
		}
	}
	c := Start(epoch, []Server{a1, a6}, nil, nil)
	c.Advance(epoch)
	want := "IPv4: no answer yet from 1 server\nIPv6: no answer yet from 1 server\ndirect paths: not known\n"
	if got := c.Report().String(); got != want {
		t.Errorf("before the first answer: got\n%swant\n%s", got, want)
	}
}

// testdata/report.json is what other programs read.
func TestJSON(t *testing.T) {
	c := Start(epoch, []Server{a1, b1, c1, a6, b6}, []netip.AddrPort{home, wan6}, nil)
	world{
		sees: func(s netip.AddrPort) netip.AddrPort {
			switch s {
			case a6.Addr:
				return wan6
			case b1.Addr:
				return ap("10.66.66.66:53")
			}
			return ap("203.0.113.77:40001")
		},
		rtt: rtts(a1, b1, a6), fail: only(b6, "network is unreachable"),
	}.run(t, c, nil)
	c.Receive(epoch.Add(4*time.Second), a1.Addr, nil)
	got, err := json.MarshalIndent(c.Report(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/report.json"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var back Report
	if err := json.Unmarshal(want, &back); err != nil || back.String() != c.Report().String() {
		t.Errorf("read back: %v\n%s", err, back)
	}
}

// Every word of the report's types is one that its words have a sentence for.
func TestBehavioursHaveWords(t *testing.T) {
	all := []Behaviour{Unknown, None, EndpointIndependent, NotPortDependent, AddressDependent, AddressAndPortDependent, EndpointDependent}
	var seen []string
	for _, b := range all {
		w := b.words(Family{Endpoints: []netip.AddrPort{home}})
		if slices.Contains(seen, w) || strings.Contains(w, "no answer") {
			t.Errorf("%s: %q", b, w)
		}
		seen = append(seen, w)
	}
}
