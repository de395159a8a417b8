package build_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/compile/validate"
	"github.com/writmesh/writ/policy/filters"
	"github.com/writmesh/writ/policy/reach"
)

// Policies are drawn as CUE text, and inventories beside them. What a flow may do is
// then found out in four ways, which must agree: from the policy's words (reading),
// by package acl from the leaves that a node holds, from the filters of the nodes,
// and by asking the engine.

// A drawn is a policy on its way from text to answers.
type drawn struct {
	text   string
	policy *model.Policy
	read   *reading
	leaves []leaf.Leaf
	comp   *reach.Compiled

	inbound    map[string]acl.Inbound // by the name of the leaf
	routes     []acl.Route
	principals map[acl.Selector][]acl.Membership
}

func open(t *rapid.T, text string) *drawn {
	p, err := model.Load(fstest.MapFS{"policy.cue": &fstest.MapFile{Data: []byte(text)}})
	if err != nil {
		t.Fatalf("load: %v\n%s", err, text)
	}
	d := &drawn{text: text, policy: p, read: read(p), inbound: map[string]acl.Inbound{}, principals: map[acl.Selector][]acl.Membership{}}
	if d.leaves, err = compile.Leaves(p); err != nil {
		t.Fatalf("compile: %v\n%s", err, text)
	}
	if d.comp, err = reach.Read(d.leaves); err != nil {
		t.Fatalf("read: %v\n%s", err, text)
	}
	if err := validate.Leaves(p, d.leaves, d.comp); err != nil {
		t.Fatalf("validate: %v\n%s", err, text)
	}
	for _, l := range d.leaves {
		unenforced := 0
		switch kind, _, _ := strings.Cut(l.Name, "/"); kind {
		case "inbound":
			d.inbound[l.Name], unenforced, err = leaf.DecodeInbound(l)
		case "route":
			var r acl.Route
			r, unenforced, err = leaf.DecodeRoute(l)
			d.routes = append(d.routes, r)
		case "principal":
			var p leaf.Principal
			p, err = leaf.DecodePrincipal(l)
			d.principals[p.Principal] = p.Groups
		}
		if err != nil || unenforced > 0 {
			t.Fatalf("decode %s: %v, %d grants of another version\n%s", l.Name, err, unenforced, text)
		}
	}
	return d
}

// subject is what a machine's papers prove, with the leaves of its principals.
func (d *drawn) subject(m *machine) (*acl.Subject, []acl.Selector) {
	s := &acl.Subject{Name: m.name, Tags: m.tags, Posture: m.reports}
	var principals []acl.Selector
	if m.user != "" {
		s.User = &acl.User{Issuer: "https://login.x.example", Subject: m.user, Email: m.user}
		principals = append(principals, acl.Selector{Kind: acl.KindUser, Name: m.user})
	}
	for _, t := range m.tags {
		principals = append(principals, acl.Selector{Kind: acl.KindTag, Name: t})
	}
	for _, c := range m.claims {
		principals = append(principals, acl.Selector{Kind: acl.KindClaim, Name: c})
	}
	for _, p := range principals {
		s.Groups = append(s.Groups, d.principals[p]...)
	}
	return s, principals
}

// held are the grants of the leaves that a destination's node has: those that it must
// hold, and of a router those of the routes that it offers something of.
func (d *drawn) held(to place) (out []acl.Inbound) {
	s, principals := d.subject(to.at)
	if to.via == acl.Own {
		for _, name := range netmap.Required(principals, s.Groups, s.Name) {
			if in, ok := d.inbound[name]; ok {
				out = append(out, in)
			}
		}
		return out
	}
	for _, r := range d.routes {
		if r.Exit == (to.via == acl.Exit) {
			out = append(out, r.Inbound...)
		}
	}
	return out
}

// all are the grants of every leaf.
func (d *drawn) all(to place) (out []acl.Inbound) {
	if to.via != acl.Own {
		return d.held(to)
	}
	for _, in := range d.inbound {
		out = append(out, in)
	}
	return out
}

// machines are the nodes of an inventory, and some that a policy might let in.
func machines(inv *reach.Inventory) (out []*machine) {
	if inv != nil {
		for i := range inv.Nodes {
			a := &inv.Nodes[i]
			m := &machine{name: a.Name, user: a.User, reports: a.Posture, admitted: a}
			for _, t := range a.Tags {
				m.tags = append(m.tags, strings.TrimPrefix(t, "tag:"))
			}
			out = append(out, m)
		}
	}
	return out
}

// behindAddrs are addresses at the cut points of what is drawn, and beside them.
var behindAddrs = func() (out []netip.Addr) {
	for _, s := range []string{
		"9.255.255.255", "10.0.0.0", "10.0.255.255", "10.1.0.0", "10.1.1.255", "10.1.2.0", "10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.63", "10.1.2.64",
		"10.1.2.9", "10.1.2.127", "10.1.2.128", "10.1.2.255", "10.1.3.0", "10.1.255.255", "10.2.0.0", "10.9.0.0", "10.127.255.255", "10.128.0.0", "192.168.7.7",
		"2001:db8:1::", "2001:db8:1:1:ffff:ffff:ffff:ffff", "2001:db8:1:2::6", "2001:db8:1:2::7", "2001:db8:1:3::", "2001:db8:2::", "fd12:1::", "fd12:1::ffff:ffff:ffff:ffff",
	} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}()

var (
	internet4 = netip.MustParseAddr("8.8.8.8")
	instants  = func() (out []time.Time) {
		for _, e := range oracleEnds {
			out = append(out, e.Add(-time.Second), e)
		}
		return append(out, hourEdges...)
	}()
	// hourEdges are instants around which drawn hours begin and end, in weeks in which
	// the zones differ by other hours.
	hourEdges = func() (out []time.Time) {
		for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York"} {
			z, err := acl.ParseZone(zone)
			if err != nil {
				panic(err)
			}
			for _, monday := range []int{1, 15, 127} { // of March: the second is between the zones' changes, the third in July
				for day := range 7 {
					for _, m := range []int{0, 8 * 60, 9 * 60, 11*60 + 30, 11*60 + 31, 17*60 + 30, 22 * 60} {
						at := time.Date(2027, 3, monday+day, 0, m, 0, 0, z)
						out = append(out, at.Add(-time.Second), at)
					}
				}
			}
		}
		slices.SortFunc(out, time.Time.Compare)
		return slices.CompactFunc(out, time.Time.Equal)
	}()
)

var oracleTargets = func() (out []acl.Target) {
	for _, p := range []uint16{0, 1, 78, 79, 80, 81, 82, 442, 443, 444, 7999, 8000, 8080, 8081, 65535} {
		out = append(out, acl.Target{Proto: acl.TCP, Port: p})
	}
	for _, p := range []uint16{0, 1, 52, 53, 54, 65535} {
		out = append(out, acl.Target{Proto: acl.UDP, Port: p})
	}
	for _, p := range []uint16{8, 9, 10} {
		out = append(out, acl.Target{Proto: acl.SCTP, Port: p})
	}
	return append(out, acl.Target{Proto: acl.ICMP, Echo: true}, acl.Target{Proto: acl.ICMPv6, Echo: true}, acl.Target{Proto: 47}, acl.Target{Proto: 46})
}()

// places are the ends that machines are, and that lie behind them at an instant.
func (d *drawn) places(list []*machine, at time.Time) (out []place) {
	for _, m := range list {
		if m.admitted == nil {
			out = append(out, place{at: m})
			continue
		}
		for _, a := range m.admitted.Addresses {
			out = append(out, place{m, acl.Own, a})
		}
		for _, a := range behindAddrs {
			if d.read.forwards(m, acl.Subnet, a, at) {
				out = append(out, place{m, acl.Subnet, a})
			}
		}
		if d.read.forwards(m, acl.Exit, internet4, at) {
			out = append(out, place{m, acl.Exit, internet4})
		}
	}
	return out
}

func (p place) String() string {
	who := strings.Join(append(append([]string{p.at.name, p.at.user}, p.at.tags...), p.at.claims...), " ")
	return fmt.Sprintf("%s of [%s] (%d)", p.addr, strings.Join(strings.Fields(who), " "), p.via)
}

// some draws a few of a list, each once. It never draws in vain, so that no round of a
// fuzz target is given up.
func some[T any](t *rapid.T, what string, list []T, n int) (out []T) {
	rest := slices.Clone(list)
	for range min(n, len(list)) {
		i := rapid.IntRange(0, len(rest)-1).Draw(t, what)
		out = append(out, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

func request(from, to *acl.Subject, f, t place, target acl.Target, at time.Time) acl.Request {
	return acl.Request{From: from, To: to, Target: target, At: at, FromAddr: f.addr, ToAddr: t.addr, FromVia: f.via, ToVia: t.via}
}

// told is what package acl says that applications are told, in the form of
// [reading.tells].
func told(caps map[string][]json.RawMessage) (out []string) {
	for name, values := range caps {
		for _, v := range values {
			out = append(out, name+" = "+canonical(v))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sameFamily reports whether a flow between the ends is possible. The internet is of
// both families.
func sameFamily(f, t place) bool {
	return f.via == acl.Exit || t.via == acl.Exit || !f.addr.IsValid() || !t.addr.IsValid() || f.addr.Is4() == t.addr.Is4()
}

// checkLeaves compares package acl over leaves with the policy's words.
func checkLeaves(t *rapid.T, d *drawn, inv *reach.Inventory) {
	list := append(machines(inv),
		&machine{name: "c1", user: "ann@x.example", claims: []string{"groups=eng"}}, &machine{name: "c2", user: "who@else.example", claims: []string{"groups=eng"}},
		&machine{name: "c3", user: "who@else.example"})
	for _, at := range some(t, "instants", instants, 5) {
		places := d.places(list, at)
		for _, m := range machines(inv) {
			d.checkRoutes(t, m, at)
		}
		targets := some(t, "targets", oracleTargets, 5)
		for _, to := range some(t, "to", places, 7) {
			held, all := d.held(to), d.all(to)
			tos, _ := d.subject(to.at)
			for _, from := range some(t, "from", places, 7) {
				if from.at == to.at || !sameFamily(from, to) {
					continue
				}
				froms, _ := d.subject(from.at)
				for _, target := range targets {
					req := request(froms, tos, from, to, target, at)
					want := d.read.allows(from, to, target, at, from.at.reports, false)
					if got := acl.Judge(all, req).Allowed; got != want {
						t.Fatalf("%s to %s on %s at %s: acl says %t, the policy %t\n%s", from, to, target, at, got, want, d.text)
					}
					if want = d.read.allows(from, to, target, at, from.at.reports, true); to.via != acl.Own {
						continue
					}
					if got := acl.Judge(held, req).Allowed; got != want {
						t.Fatalf("%s to %s on %s at %s: the leaves it holds say %t, the policy %t\n%s", from, to, target, at, got, want, d.text)
					}
				}
				req := request(froms, tos, from, to, acl.Target{}, at)
				for _, x := range []struct {
					grants []acl.Inbound
					held   bool
				}{{all, false}, {held, to.via == acl.Own}} {
					got, want := told(acl.Capabilities(x.grants, req)), d.read.tells(from, to, at, from.at.reports, x.held)
					if !slices.Equal(got, want) {
						t.Fatalf("%s to %s at %s: told %q, want %q\n%s", from, to, at, got, want, d.text)
					}
				}
			}
		}
	}
}

// checkRoutes compares what is approved.
func (d *drawn) checkRoutes(t *rapid.T, m *machine, at time.Time) {
	s, _ := d.subject(m)
	approved := func(p netip.Prefix) bool {
		return slices.ContainsFunc(d.routes, func(r acl.Route) bool { return r.Approves(s, p, at) })
	}
	for _, addr := range append(slices.Clone(behindAddrs), internet4) {
		via := acl.Subnet
		if addr == internet4 {
			via = acl.Exit
		}
		holds := func(p netip.Prefix) bool { return p.Contains(addr) && (p.Bits() == 0) == (via == acl.Exit) }
		got := !m.nobody() && (slices.ContainsFunc(m.admitted.Routes.Approved, holds) ||
			slices.ContainsFunc(m.admitted.Routes.Advertised, func(p netip.Prefix) bool { return holds(p) && approved(p) }))
		if want := d.read.forwards(m, via, addr, at); got != want {
			t.Fatalf("%s forwards to %s at %s: %t by its leaves, %t by the policy\n%s", m.name, addr, at, got, want, d.text)
		}
	}
}

// checkFilters compares the filters of the inventory's nodes. A filter sees only
// addresses: what one of several nodes with a source address may do, all may.
func checkFilters(t *rapid.T, d *drawn, inv *reach.Inventory) {
	at := some(t, "filters at", instants, 1)[0]
	report := filters.Of(d.comp, inv, at)
	places := d.places(machines(inv), at)
	targets := some(t, "filter targets", oracleTargets, 5)
	for _, to := range some(t, "filter to", places, 10) {
		if to.via == acl.Exit {
			continue
		}
		node := report.Nodes[to.at.name]
		for _, from := range some(t, "filter from", places, 10) {
			if from.via == acl.Exit || !sameFamily(from, to) {
				continue
			}
			alike := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return p.addr != from.addr })
			for _, target := range targets {
				want := slices.ContainsFunc(alike, func(f place) bool { return d.read.allows(f, to, target, at, f.at.reports, false) })
				if got := lets(node, from.addr, to.addr, target); got != want {
					b, _ := json.Marshal(inv)
					t.Fatalf("%s to %s on %s at %s: the filter says %t, the policy %t\n%s\n%s", from, to, target, at, got, want, d.text, b)
				}
			}
			var want, got []string
			for _, f := range alike {
				want = append(want, d.read.tells(f, to, at, f.at.reports, false)...)
			}
			for _, c := range node.Capabilities {
				if within(c.Src, from.addr) && within(c.Dst, to.addr) {
					b, err := json.Marshal(c.Value)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, c.Name+" = "+canonical(b))
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if want, got = slices.Compact(want), slices.Compact(got); !slices.Equal(got, want) {
				t.Fatalf("%s to %s at %s: the filter tells %q, the policy %q\n%s", from, to, at, got, want, d.text)
			}
		}
	}
}

func within(list []string, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		sel, err := acl.ParseSelector(s)
		return s == "*" || err == nil && sel.Prefix().Contains(a)
	})
}

// lets reads a filter as a node does.
func lets(n *filters.Node, from, to netip.Addr, t acl.Target) bool {
	return slices.ContainsFunc(n.Filter, func(e filters.Entry) bool {
		return within(e.Src, from) && slices.Contains(e.Proto, int(t.Proto)) && slices.ContainsFunc(e.Dst, func(d filters.Dst) bool {
			return within([]string{d.To}, to) && d.First <= t.Port && t.Port <= d.Last
		})
	})
}

func checkOracle(t *rapid.T) {
	d := draft{t, rapid.IntRange(1, 4).Draw(t, "literal") == 4, true}
	p := open(t, d.text(d.sections()))
	inv := d.inventory()
	checkLeaves(t, p, inv)
	checkFilters(t, p, inv)
}

// soak has rapid draw so often, which keeps the tests quick, and more where WRIT_SOAK
// asks for it. What -rapid.checks says counts.
func soak(t *testing.T, checks string) {
	if os.Getenv("WRIT_SOAK") != "" {
		checks = "5000"
	}
	f := flag.Lookup("rapid.checks")
	was := f.Value.String()
	if was != f.DefValue {
		return
	}
	if err := f.Value.Set(checks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(was); err != nil {
			t.Error(err)
		}
	})
}

// TestOracle compares what the policy's words mean with what its leaves, in the hands
// of those who hold them, and the filters of nodes say.
func TestOracle(t *testing.T) {
	soak(t, "200")
	rapid.Check(t, checkOracle)
}

func FuzzOracle(f *testing.F) {
	for _, seed := range []string{"a", "b", "c"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, seed []byte) { rapid.MakeFuzz(checkOracle)(t, stream(seed)) })
}

// stream is bytes to draw from: those of a seed, and what follows from them, which is
// more than a round takes. A round that runs out of bytes would be skipped.
func stream(seed []byte) []byte {
	const most = 1 << 18
	out := append(make([]byte, 0, len(seed)+most), seed...)
	more := rand.NewChaCha8(sha256.Sum256(seed))
	for range most / 8 {
		out = binary.LittleEndian.AppendUint64(out, more.Uint64())
	}
	return out
}
