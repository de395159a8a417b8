//go:build lab

package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/examples/lab/link"
)

// within is how long anything that should happen may take on a busy machine.
const within = 60 * time.Second

// A Lab is one scenario's Internet with everything on it. All methods fail the
// test when the kernel refuses.
type Lab struct {
	t      *testing.T
	dir    string // for states, sockets, and logs
	row    *row
	inet   *Internet
	canary string // is in everything that scenarios say over the mesh

	mu       sync.Mutex // guards what is there to be cleaned up
	spaces   []*Namespace
	routers  []*Router
	wires    []*link.Wire
	taps     []*Tap
	programs []*Program
	agents   []*Agent
	closers  []io.Closer
}

// New begins a scenario, which is expected to end as told in a few words.
func New(t *testing.T, scenario, expected string) *Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{t: t, dir: dir, row: table.begin(scenario, expected), canary: "canary-" + rand.Text()}
	t.Cleanup(l.close)
	newInternet(l)
	return l
}

// Got is how the scenario ended, in the words of the table.
func (l *Lab) Got(format string, args ...any) { l.row.got = fmt.Sprintf(format, args...) }

// close looks for the canary, tells what is known of a failure, and takes
// everything down.
func (l *Lab) close() {
	for _, tap := range l.taps {
		tap.stop(l.t)
	}
	if l.t.Failed() {
		l.diagnose()
	}
	for _, p := range l.programs {
		p.Kill()
	}
	for _, c := range l.closers {
		c.Close()
	}
	for _, w := range l.wires {
		w.Close()
	}
	for _, n := range l.spaces {
		n.close()
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
	table.end(l.row, l.t.Failed())
}

func (l *Lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// cleanup closes c when the scenario ends.
func (l *Lab) cleanup(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, c)
}

func (l *Lab) namespace(name string) *Namespace {
	l.t.Helper()
	n, err := newNamespace(name)
	l.must(err)
	l.mu.Lock()
	l.spaces = append(l.spaces, n)
	l.mu.Unlock()
	// Duplicate addresses do not occur here, and looking for them takes a second
	// in which an address cannot be used.
	l.must(n.Sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
		"net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.default.accept_redirects=0",
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"))
	return n
}

// tap captures in a namespace until the scenario ends.
func (l *Lab) tap(n *Namespace) *Tap {
	l.t.Helper()
	tap, err := newTap(n, l.canary)
	l.must(err)
	l.mu.Lock()
	l.taps = append(l.taps, tap)
	l.mu.Unlock()
	return tap
}

// A Segment is what hosts and routers are attached to: the Internet, or the LAN
// behind a router.
type Segment interface {
	lab() *Lab
	// attach joins the namespace by an interface of that name and gives it
	// addresses and default routes.
	attach(n *Namespace, name string, over link.Shape) (v4, v6 netip.Addr)
}

// join lays a wire between an interface of one namespace and one of another.
func (l *Lab) join(a *Namespace, nameA string, b *Namespace, nameB string, over link.Shape) {
	l.t.Helper()
	if over == (link.Shape{}) {
		l.must(a.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", nameA, nameB, b.path())))
	} else {
		tapA, err := a.TAP(nameA)
		l.must(err)
		tapB, err := b.TAP(nameB)
		if err != nil {
			l.must(errors.Join(err, tapA.Close()))
		}
		back := over
		back.Seed++ // so that the directions' chances are not the same
		w, err := link.Join(tapA, tapB, over, back)
		l.must(err)
		l.mu.Lock()
		l.wires = append(l.wires, w)
		l.mu.Unlock()
	}
	l.must(a.IP("link set " + nameA + " up"))
	l.must(b.IP("link set " + nameB + " up"))
}

// The Internet routes between what is attached to it, each by a line of its own.
// It drops private addresses by having no route to them.
type Internet struct {
	*Namespace
	l   *Lab
	tap *Tap
	n   int // of attachments
}

func newInternet(l *Lab) {
	l.t.Helper()
	i := &Internet{l: l, Namespace: l.namespace("inet")}
	l.inet = i
	l.must(i.Sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"))
	l.must(i.IP("addr add 203.0.113.1/32 dev lo", "addr add 2001:db8:ffff::1/128 dev lo nodad"))
	l.must(i.NFT("table inet blocks {\n chain forward {\n type filter hook forward priority filter; policy accept;\n }\n}\n"))
	i.tap = l.tap(i.Namespace)
}

// Inet is the scenario's Internet.
func (l *Lab) Inet() *Internet { return l.inet }

func (i *Internet) lab() *Lab { return i.l }

func (i *Internet) attach(n *Namespace, name string, over link.Shape) (v4, v6 netip.Addr) {
	i.l.t.Helper()
	i.n++
	port, last := fmt.Sprintf("w%d", i.n), i.n+1
	v4 = netip.AddrFrom4([4]byte{203, 0, 113, byte(last)})
	v6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", last))
	i.l.join(n, name, i.Namespace, port, over)
	i.l.must(i.IP(
		fmt.Sprintf("addr add fe80::1/64 dev %s nodad", port),
		fmt.Sprintf("route add %s/32 dev %s", v4, port),
		fmt.Sprintf("route add %s/128 dev %s", v6, port),
		// What is behind a router has its own prefix.
		fmt.Sprintf("route add %s via fe80::2 dev %s", prefix6(last), port),
	))
	i.l.must(n.IP(
		fmt.Sprintf("addr add %s/32 dev %s", v4, name),
		fmt.Sprintf("addr add %s/128 dev %s nodad", v6, name),
		fmt.Sprintf("addr add fe80::2/64 dev %s nodad", name),
		fmt.Sprintf("route add 203.0.113.1 dev %s src %s", name, v4),
		fmt.Sprintf("route add default via 203.0.113.1 dev %s src %s", name, v4),
		fmt.Sprintf("route add default via fe80::1 dev %s src %s", name, v6),
	))
	return v4, v6
}

// prefix6 is the public prefix of the site that was attached as the n-th.
func prefix6(n int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/64", n))
}

// Block drops what passes between two addresses, both ways, protocol by
// protocol ("udp", "tcp"; "ip" for everything), until Unblock.
func (i *Internet) Block(proto string, a, b netip.Addr) {
	i.l.t.Helper()
	family, match := "ip", ""
	if a.Is6() {
		family = "ip6"
	}
	if proto != "ip" {
		match = "meta l4proto " + proto
	}
	var rules strings.Builder
	for _, way := range [][2]netip.Addr{{a, b}, {b, a}} {
		fmt.Fprintf(&rules, "add rule inet blocks forward %s saddr %s %s daddr %s %s counter drop\n", family, way[0], family, way[1], match)
	}
	i.l.must(i.NFT(rules.String()))
}

// Unblock ends every block.
func (i *Internet) Unblock() {
	i.l.t.Helper()
	i.l.must(i.NFT("flush chain inet blocks forward"))
}

// A Host is a machine that programs run on.
type Host struct {
	*Namespace
	l       *Lab
	segment Segment
	V4, V6  netip.Addr // V6 is not valid on a LAN without IPv6
}

// NewHost attaches a machine to a segment, by a line of that shape if one is
// given.
func NewHost(s Segment, name string, over ...link.Shape) *Host {
	l := s.lab()
	l.t.Helper()
	h := &Host{Namespace: l.namespace(name), l: l, segment: s}
	h.V4, h.V6 = s.attach(h.Namespace, "eth0", shape(over))
	return h
}

// lanRouter is the router of the LAN that the host is on.
func (h *Host) lanRouter() *Router { return h.segment.(*Router) }

// AddAddress gives a machine on the Internet one more public address, on the
// same line.
func (h *Host) AddAddress(v4 netip.Addr) {
	h.l.t.Helper()
	h.l.must(h.IP(fmt.Sprintf("addr add %s/32 dev eth0", v4)))
	h.l.must(h.l.inet.IP(fmt.Sprintf("route add %s/32 via %s onlink dev %s", v4, h.V4, h.l.inet.portOf(h.V4))))
}

// portOf is the interface that leads to an address.
func (i *Internet) portOf(a netip.Addr) string {
	i.l.t.Helper()
	return fmt.Sprintf("w%d", a.As4()[3]-1)
}

func shape(over []link.Shape) link.Shape {
	if len(over) == 0 {
		return link.Shape{}
	}
	return over[0]
}

// A Router stands between a segment and a LAN of its own.
type Router struct {
	*Namespace
	l      *Lab
	NAT    NAT
	WAN    netip.Addr // its address outside
	WAN6   netip.Addr
	tap    *Tap
	prefix netip.Prefix // of IPv6 inside; invalid without
	n      int          // machines on the LAN
}

// NewRouter attaches a router, by a line of that shape if one is given.
func NewRouter(s Segment, name string, nat NAT, over ...link.Shape) *Router {
	l := s.lab()
	l.t.Helper()
	r := &Router{Namespace: l.namespace(name), l: l, NAT: nat}
	r.WAN, r.WAN6 = s.attach(r.Namespace, "wan", shape(over))
	r.tap = l.tap(r.Namespace)
	l.must(r.NFT(nat.ruleset()))
	l.must(r.Sysctl(nat.sysctls()...))
	l.must(r.IP("link add lan type bridge", fmt.Sprintf("addr add %s/%d dev lan", nat.lan().Addr().Next(), nat.lan().Bits()), "link set lan up"))
	if i, ok := s.(*Internet); ok && nat.IPv6 {
		r.prefix = prefix6(i.n + 1)
		l.must(r.IP("addr add fe80::1/64 dev lan nodad", fmt.Sprintf("addr add %s1/64 dev lan nodad", strings.TrimSuffix(r.prefix.String(), "/64"))))
	}
	if i, ok := s.(*Internet); ok && nat.Mapping == Untranslated {
		l.must(i.IP(fmt.Sprintf("route add %s via %s onlink dev %s", nat.lan(), r.WAN, i.portOf(r.WAN))))
	}
	l.mu.Lock()
	l.routers = append(l.routers, r)
	l.mu.Unlock()
	return r
}

func (r *Router) lab() *Lab { return r.l }

func (r *Router) attach(n *Namespace, name string, over link.Shape) (v4, v6 netip.Addr) {
	r.l.t.Helper()
	r.n++
	port, last := fmt.Sprintf("p%d", r.n), byte(9+r.n)
	a := r.NAT.lan().Addr().As4()
	a[3] += last
	v4 = netip.AddrFrom4(a)
	gateway := r.NAT.lan().Addr().Next()
	r.l.join(n, name, r.Namespace, port, over)
	r.l.must(r.IP(fmt.Sprintf("link set %s master lan", port)))
	r.l.must(n.IP(fmt.Sprintf("addr add %s/%d dev %s", v4, r.NAT.lan().Bits(), name),
		fmt.Sprintf("route add default via %s dev %s", gateway, name)))
	if !r.prefix.IsValid() {
		r.l.must(n.Sysctl("net.ipv6.conf." + name + ".disable_ipv6=1"))
		return v4, v6
	}
	b := r.prefix.Addr().As16()
	b[15] = last
	v6 = netip.AddrFrom16(b)
	r.l.must(n.IP(fmt.Sprintf("addr add %s/64 dev %s nodad", v6, name), fmt.Sprintf("route add default via fe80::1 dev %s", name)))
	return v4, v6
}
