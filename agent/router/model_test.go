//go:build linux

package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// world is a model of what the kernel must hold, beside the kernel.
type world struct {
	t           *testing.T
	r           *Router
	tun         *os.File
	state       State
	unreachable map[netip.Prefix]bool // wanted, or of addresses that departed
	active      bool                  // addresses, routes to the interface and the table are there
}

// Whatever happens, and in whatever order, after Set the kernel holds the state;
// after Close what protects; after Cleanup nothing. What belongs to others is
// there all the while.
func TestAnySequenceEndsAsWanted(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if _, ok := output(t, "ip", "-V"); !ok {
		t.Skip("NOT TRIED: needs ip to read the result")
	}
	newNeighbour(t)
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	// Others' things, where ours are.
	must(t, netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("100.64.200.0/24")), LinkIndex: lan.Attrs().Index, Table: Table, Protocol: unix.RTPROT_STATIC}))
	foreignRule := netlink.NewRule()
	foreignRule.Priority, foreignRule.Table, foreignRule.Family, foreignRule.Mark = Priority, 99, unix.AF_INET, 5
	must(t, netlink.RuleAdd(foreignRule))
	_, nft := output(t, "nft", "add", "table", "inet", "other", "{", "chain", "c", "{", "}", ";", "}")

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := &world{t: t, unreachable: make(map[netip.Prefix]bool)}
	var did []string
	for range 40 {
		did = append(did, w.step(rnd))
		w.check(nft)
		if t.Failed() {
			t.Fatalf("seed %d, after %s", seed, strings.Join(did, ", "))
		}
	}
	w.end()
	must(t, Cleanup(t.Context()))
	clear(w.unreachable)
	w.check(nft)
}

// step does one thing, and what puts it right.
func (w *world) step(rnd *rand.Rand) string {
	if w.r == nil {
		if rnd.IntN(4) == 0 {
			must(w.t, Cleanup(w.t.Context()))
			clear(w.unreachable)
			w.active = false
			return "cleanup"
		}
		w.start()
		w.set(randomState(rnd))
		return "start"
	}
	switch rnd.IntN(12) {
	case 0:
		w.end()
		return "close"
	case 1: // as kill -9: nothing is put back, and the interface goes with its file
		w.tun.Close()
		w.r.k.close()
		w.r = nil
		w.start() // what is there without a Router is TestKilledAgentLeaksNothing's
		w.set(randomState(rnd))
		return "kill and start"
	case 2, 3, 4:
		w.set(randomState(rnd))
		return "set"
	}
	what := w.disturb(rnd)
	w.set(w.state)
	return what
}

func (w *world) start() {
	w.t.Helper()
	tun, err := openTUN("writ0")
	must(w.t, err)
	r, err := New(Config{Interface: "writ0"})
	must(w.t, err)
	w.tun, w.r = tun, r
}

func (w *world) end() {
	w.t.Helper()
	if w.r != nil {
		must(w.t, w.r.Close())
		w.tun.Close()
		w.r = nil
	}
	w.active = false
}

func (w *world) set(s State) {
	w.t.Helper()
	must(w.t, w.r.Set(w.t.Context(), s))
	w.state, w.active = s, true
	if got := w.r.Warnings(); len(got) != 2 || !strings.Contains(got[0], "1 route not ours in table 8787") || !strings.Contains(got[1], "1 rule not ours at priority 1870") {
		w.t.Errorf("Warnings are %q, want that of the foreign route and that of the foreign rule", got)
	}
	if s.Prefix6.IsValid() {
		w.unreachable[s.Prefix6] = true
	}
	for _, p := range s.Peers {
		if !s.Prefix6.IsValid() || !s.Prefix6.Contains(p) {
			w.unreachable[netip.PrefixFrom(p, p.BitLen())] = true
		}
	}
}

// disturb does what others do to a machine's network.
func (w *world) disturb(rnd *rand.Rand) string {
	w.t.Helper()
	link, err := netlink.LinkByName("writ0")
	must(w.t, err)
	switch rnd.IntN(8) {
	case 0:
		routes, err := netlink.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: Table, Protocol: Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		must(w.t, err)
		for _, r := range routes {
			if rnd.IntN(2) == 0 {
				must(w.t, netlink.RouteDel(&r))
				if r.Type == unix.RTN_UNREACHABLE {
					delete(w.unreachable, fromIPNet(r.Dst, r.Family))
				}
			}
		}
		return "remove routes"
	case 1:
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			must(w.t, netlink.RuleDel(ourRule(family)))
		}
		return "remove rules"
	case 2:
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		must(w.t, err)
		for _, a := range addrs {
			must(w.t, netlink.AddrDel(link, &a))
		}
		return "remove addresses"
	case 3:
		must(w.t, netlink.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("100.64.99.1/24"))}))
		return "add an address"
	case 4:
		must(w.t, netlink.LinkSetDown(link))
		return "take the interface down"
	case 5:
		w.tun.Close()
		w.tun, err = openTUN("writ0")
		must(w.t, err)
		return "make the interface anew"
	case 6:
		must(w.t, removeTable())
		return "remove the nftables table"
	default:
		output(w.t, "nft", "flush", "set", "inet", TableName, "mesh4")
		return "flush an nftables set"
	}
}

// randomState is one of a few peers out of a few, so that they come and go.
func randomState(rnd *rand.Rand) State {
	s := State{Addresses: []netip.Addr{addr("100.64.0.1"), addr("fd12:3456:789a::1")}, MTU: 1280 + rnd.IntN(3)}
	switch rnd.IntN(4) {
	case 0:
		s.Addresses = s.Addresses[:1]
	case 1:
		s.Addresses = []netip.Addr{addr("fd12:3456:789a::2")}
	}
	if rnd.IntN(3) > 0 {
		s.Prefix6 = netip.MustParsePrefix("fd12:3456:789a::/48")
	}
	for i := range 8 {
		if rnd.IntN(2) == 0 {
			s.Peers = append(s.Peers, addr(fmt.Sprintf("100.64.1.%d", i+1)), addr(fmt.Sprintf("fd12:3456:789a::%x", 0x100+i)))
		}
	}
	if rnd.IntN(3) == 0 {
		s.Peers = append(s.Peers, addr("fd99::1"))
	}
	rnd.Shuffle(len(s.Peers), func(i, j int) { s.Peers[i], s.Peers[j] = s.Peers[j], s.Peers[i] })
	return s
}

// check compares the kernel, as other programs read it, with the model.
func (w *world) check(nft bool) {
	w.t.Helper()
	want4 := []string{"100.64.200.0/24 dev lan0 proto static"}
	var want6 []string
	for p := range w.unreachable {
		dst := strings.TrimSuffix(strings.TrimSuffix(p.String(), "/32"), "/128")
		if p.Addr().Is4() {
			want4 = append(want4, "unreachable "+dst+" proto 87 metric 8700")
		} else {
			want6 = append(want6, "unreachable "+dst+" dev lo proto 87 metric 8700 pref medium")
		}
	}
	rules := []string{"1870: from all fwmark 0x5 lookup 99"}
	var rules6, addrs []string
	if len(w.unreachable) > 0 || w.active {
		rules, rules6 = append(rules, "1870: from all lookup 8787 proto 87"), []string{"1870: from all lookup 8787 proto 87"}
	}
	ruleset := "table inet other { chain c { } }"
	if w.active {
		for _, p := range w.state.Peers {
			src := w.state.own(p.Is4())
			switch {
			case !src.IsValid():
			case p.Is4():
				want4 = append(want4, fmt.Sprintf("%s dev writ0 proto 87 scope link src %s metric 100", p, src))
			default:
				want6 = append(want6, fmt.Sprintf("%s dev writ0 proto 87 src %s metric 100 pref medium", p, src))
			}
		}
		for _, a := range w.state.Addresses {
			addrs = append(addrs, fmt.Sprintf("%s/%d", a, a.BitLen()))
		}
		ruleset += " " + rulesetOf(w.state)
	}
	equalLines(w.t, "IPv4 routes", want4, "-4", "route", "show", "table", "8787")
	equalLines(w.t, "IPv6 routes", want6, "-6", "route", "show", "table", "8787")
	equalLines(w.t, "IPv4 rules", rules, "-4", "rule", "show", "priority", "1870")
	equalLines(w.t, "IPv6 rules", rules6, "-6", "rule", "show", "priority", "1870")
	if w.active {
		got, _ := output(w.t, "ip", "-br", "addr", "show", "dev", "writ0")
		if want := append([]string{"writ0", "UNKNOWN"}, addrs...); !slices.Equal(strings.Fields(got), want) {
			w.t.Errorf("the interface is %q, want %q", strings.Fields(got), want)
		}
	}
	if nft {
		got, _ := output(w.t, "nft", "--stateless", "list", "ruleset")
		if fields(got) != fields(ruleset) {
			w.t.Errorf("nft lists\n%s\nwant\n%s", fields(got), fields(ruleset))
		}
	}
}

// equalLines compares the lines that ip prints, in whatever order.
func equalLines(t *testing.T, what string, want []string, args ...string) {
	t.Helper()
	out, _ := output(t, "ip", args...)
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, fields(line))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s are\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// rulesetOf is our table as nft prints it without its counts.
func rulesetOf(s State) string {
	mesh4, mesh6, own4, own6 := make(map[netip.Addr]bool), make(map[netip.Addr]bool), make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for _, a := range slices.Concat(s.Peers, s.Addresses) {
		if a.Is4() {
			mesh4[a] = true
		} else if !s.Prefix6.IsValid() || !s.Prefix6.Contains(a) {
			mesh6[a] = true
		}
	}
	for _, a := range s.Addresses {
		if a.Is4() {
			own4[a] = true
		} else {
			own6[a] = true
		}
	}
	var out strings.Builder
	set := func(name, of string, addrs map[netip.Addr]bool) {
		fmt.Fprintf(&out, "set %s { type %s ", name, of)
		var texts []string
		for _, a := range slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare) {
			texts = append(texts, a.String())
		}
		if len(texts) > 0 {
			fmt.Fprintf(&out, "elements = { %s } ", strings.Join(texts, ", "))
		}
		out.WriteString("} ")
	}
	out.WriteString("table inet writ { ")
	set("mesh4", "ipv4_addr", mesh4)
	set("mesh6", "ipv6_addr", mesh6)
	set("own4", "ipv4_addr", own4)
	set("own6", "ipv6_addr", own6)
	out.WriteString(`chain arriving { type filter hook prerouting priority raw; policy accept;
iifname "writ0" accept iifname "lo" accept
ip saddr @mesh4 counter drop comment "source in the mesh"
ip6 saddr @mesh6 counter drop comment "source in the mesh"
ip daddr @own4 counter drop comment "own address"
ip6 daddr @own6 counter drop comment "own address" `)
	if s.Prefix6.IsValid() {
		fmt.Fprintf(&out, "ip6 saddr %s counter drop comment \"source in the mesh\" ", s.Prefix6)
	}
	out.WriteString(`} chain leaving { type filter hook postrouting priority 300; policy accept;
oifname "writ0" accept oifname "lo" accept
ip daddr @mesh4 counter drop comment "to the mesh in clear"
ip6 daddr @mesh6 counter drop comment "to the mesh in clear" `)
	if s.Prefix6.IsValid() {
		fmt.Fprintf(&out, "ip6 daddr %s counter drop comment \"to the mesh in clear\" ", s.Prefix6)
	}
	out.WriteString("} }")
	return out.String()
}
