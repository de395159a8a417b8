//go:build lab && bench

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// What a node carries: two machines joined by one cable, no NAT, everything on
// one computer. The agents are real, with their filter and a policy of a hundred
// rules of which the last allows the load; beside them, on machines and a cable
// like theirs, wireguard-go as it is. They take turns.
//
//	             the Internet (no UDP between the ends of a cable)
//	      ┌───────────┬─────┴─────┬─────────────┬────────────┬────────────┐
//	 coordinator    relay       alice ═══════ ledger      plain-a ═════ plain-b
//	                                  cable                      cable
//	                               10.99.0.0/30               10.99.2.0/30

const (
	streamFor = 4 * time.Second
	floodFor  = 3 * time.Second
)

// hundredRules is a policy in which alice reaches the ledger by the last rule of
// a hundred; the others are about other people and other ports.
func hundredRules() netmaptest.Policy {
	p := netmaptest.Policy{Groups: map[string][]string{"zz-load": {aliceMail}}}
	for i := range 99 {
		group := fmt.Sprintf("group-%02d", i)
		p.Groups[group] = []string{fmt.Sprintf("user-%02d@acme.example", i)}
		p.Rules = append(p.Rules, netmaptest.Rule{
			Name: fmt.Sprintf("rule-%02d", i), From: "group:" + group, To: "tag:ledger", Allow: fmt.Sprintf("tcp/%d udp/%d", 6000+i, 6000+i),
		})
	}
	p.Rules = append(p.Rules, netmaptest.Rule{
		Name: "zz-load", From: "group:zz-load", To: "tag:ledger", Allow: fmt.Sprintf("tcp/%d udp/%d udp/%d icmp", loadPort, loadPort, echoPort),
	})
	return p
}

// A subject is something whose load is measured.
type subject struct {
	name     string
	from, to *Host
	source   netip.Addr
	at       netip.Addr
	daemons  []*Program
	before   func() // each turn

	gbit, perGB, idle, loaded             series
	received, perPacket                   map[int]series // by rate
	rssAfterStreams, rssAfterFloods, base []float64
}

// cable joins two hosts beside the Internet, and closes the way between them by
// the Internet to UDP.
func (l *Lab) cable(a, b *Host, n byte) (atA, atB netip.Addr) {
	l.t.Helper()
	atA, atB = netip.AddrFrom4([4]byte{10, 99, n, 1}), netip.AddrFrom4([4]byte{10, 99, n, 2})
	l.must(a.IP("link add cable type veth peer name cable netns " + b.path()))
	l.must(a.IP("addr add "+atA.String()+"/30 dev cable", "link set cable up"))
	l.must(b.IP("addr add "+atB.String()+"/30 dev cable", "link set cable up"))
	l.inet.Block("udp", a.V4, b.V4)
	l.inet.Block("udp", a.V6, b.V6)
	return atA, atB
}

// withMTU builds an agent whose mesh has another MTU than ours.
func withMTU(t *testing.T, mtu int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const file, was = "agent/node/plane.go", "\nconst mtu = 1280\n"
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), was) != 1 {
		t.Fatalf("%s: does not say %q once", file, was)
	}
	other := filepath.Join(dir, "plane.go")
	overlay := filepath.Join(dir, "overlay.json")
	for name, text := range map[string]string{
		other:   strings.Replace(string(source), was, fmt.Sprintf("\nconst mtu = %d\n", mtu), 1),
		overlay: fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(root, file), other),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(dir, "agent"), "./agent")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build agent with an MTU of %d: %v\n%s", mtu, err, out)
	}
	return dir
}

// ours are two agents on hosts with a cable, once they use it.
func (m *Mesh) ours(name string, a, b *Host) *subject {
	m.l.t.Helper()
	ledger := m.Up(b, "tag:ledger", "--log", "warn")
	alice := m.Up(a, aliceMail, "--log", "warn")
	m.Know(alice, ledger)
	beat := a.beat(ledger.Address())
	w := &timed{Lab: m.l, Mesh: m, alice: alice, ledger: ledger, beat: beat}
	w.direct(time.Time{})
	for _, s := range []string{alice.Path(ledger), ledger.Path(alice)} {
		if !strings.Contains(s, "10.99.") {
			m.l.t.Fatalf("%s: the path is %s, want the cable", name, s)
		}
	}
	beat.Close()
	return &subject{name: name, from: a, to: b, source: alice.Address(), at: ledger.Address(), daemons: []*Program{alice.Program, ledger.Program}}
}

// newLoad builds the drawing above. What comes first is what the others are
// compared with.
func newLoad(t *testing.T, otherMTUs bool) (*Lab, []*subject) {
	t.Helper()
	l := New(t, "measured: "+t.Name(), "figures")
	m := l.NewMesh(hundredRules())
	alice, ledger := NewHost(l.Inet(), "alice"), NewHost(l.Inet(), "ledger")
	l.cable(alice, ledger, 0)
	// On hosts of their own: an agent would find the other tunnel, and send by it.
	plainA, plainB := NewHost(l.Inet(), "plain-a"), NewHost(l.Inet(), "plain-b")
	atA, atB := l.cable(plainA, plainB, 2)
	a, b := l.plainPair(plainWireGuard(t), plainA, plainB, atA, atB)
	plain := func(name string, mtu int) *subject {
		return &subject{
			name: name, from: plainA, to: plainB, source: a.addr, at: b.addr, daemons: []*Program{a.Program, b.Program},
			before: func() { a.mtu(l, mtu); b.mtu(l, mtu) },
		}
	}
	subjects := []*subject{plain("wireguard-go, MTU 1420, as it ships", 1420), m.ours("agent, MTU 1280, as it ships", alice, ledger)}
	if otherMTUs {
		alice, ledger := NewHost(l.Inet(), "alice-1420"), NewHost(l.Inet(), "ledger-1420")
		l.cable(alice, ledger, 1)
		shipped := bin
		bin = withMTU(t, 1420)
		subjects = append(subjects, plain("wireguard-go, MTU 1280", 1280), m.ours("agent, MTU 1420", alice, ledger))
		bin = shipped
	}
	for _, s := range subjects {
		s.received, s.perPacket = map[int]series{}, map[int]series{}
		_, s.base = l.spent(s.daemons...)
	}
	return l, subjects
}

// TestMeasureStreams is how much one stream of TCP carries, and what it costs.
func TestMeasureStreams(t *testing.T) {
	l, subjects := newLoad(t, true)
	reference := subjects[0]
	for i := range rounds(t) {
		order := slices.Clone(subjects)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			s.turn(l)
			got := l.stream(s.from, s.to, s.at, streamFor, nil, s.daemons...)
			s.gbit, s.perGB = append(s.gbit, got.gbit), append(s.perGB, got.perGB)
			_, s.rssAfterStreams = l.spent(s.daemons...)
		}
	}
	say("\n%-38s %3s %7s %15s %7s %15s %8s  %s", "one stream of TCP", "n", "Gbit/s", "least-most", "ratio", "95 %", "s per GB", "MB before, after")
	for _, s := range subjects {
		ratio := make(series, len(s.gbit))
		for i := range ratio {
			ratio[i] = s.gbit[i] / reference.gbit[i]
		}
		low, high := ratio.interval()
		say("%-38s %3d %7.2f %7.2f-%7.2f %7.2f %7.2f-%7.2f %8.2f  %.0f", s.name, len(ratio), s.gbit.median(), slices.Min(s.gbit), slices.Max(s.gbit),
			ratio.median(), low, high, s.perGB.median(), append(slices.Clone(s.base), s.rssAfterStreams...))
		record(t, "throughput", "gbit, "+s.name, s.gbit)
		record(t, "throughput", "ratio, "+s.name, ratio)
		record(t, "throughput", "cpu seconds per GB, "+s.name, s.perGB)
	}
}

// TestMeasureDatagrams is how many small packets come through, and how long a
// packet takes, alone and beside a stream.
func TestMeasureDatagrams(t *testing.T) {
	l, subjects := newLoad(t, false)
	rates := []int{80_000, 120_000}
	for i := range rounds(t) {
		order := slices.Clone(subjects)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			s.turn(l)
			for _, rate := range rates {
				got := l.flood(s.from, s.to, s.source, s.at, rate, floodFor, s.daemons...)
				if got.offered < 0.97*float64(rate) {
					say("    %s: offered %.0f packets a second instead of %d", s.name, got.offered, rate)
				}
				s.received[rate], s.perPacket[rate] = append(s.received[rate], got.received), append(s.perPacket[rate], got.perPacket)
			}
			_, s.rssAfterFloods = l.spent(s.daemons...)
			s.idle = append(s.idle, l.ping(s.from, s.at, 100)...)
			l.stream(s.from, s.to, s.at, 1200*time.Millisecond, func() { s.loaded = append(s.loaded, l.ping(s.from, s.at, 100)...) }, s.daemons...)
		}
	}
	say("\n%-38s %3s %8s %9s %17s %12s  %s", "datagrams of 64 bytes a second", "n", "offered", "received", "least-most", "µs a packet", "MB after")
	for _, s := range subjects {
		for _, rate := range rates {
			r := s.received[rate]
			say("%-38s %3d %8d %9.0f %8.0f-%8.0f %12.1f  %.0f", s.name, len(r), rate, r.median(), slices.Min(r), slices.Max(r), s.perPacket[rate].median(), s.rssAfterFloods)
			record(t, "throughput", fmt.Sprintf("packets received of %d, %s", rate, s.name), r)
		}
	}
	say("\n%-38s %5s %7s %7s %9s %7s %7s", "round trip, ms", "n", "median", "99 %", "in load n", "median", "99 %")
	for _, s := range subjects {
		say("%-38s %5d %7.3f %7.3f %9d %7.3f %7.3f", s.name, len(s.idle), s.idle.median(), s.idle.at(0.99), len(s.loaded), s.loaded.median(), s.loaded.at(0.99))
	}
}

// turn gets a subject ready, with a path that is in use.
func (s *subject) turn(l *Lab) {
	l.t.Helper()
	if s.before != nil {
		s.before()
	}
	l.ping(s.from, s.at, 20)
}
