//go:build lab

package lab

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
)

// The routers of this laboratory are what they claim to be, in the words of RFC
// 4787, by measurement with sockets and nothing of Writ:
//
//	              the Internet
//	                   │
//	   ┌───────────────┼───────────────────┐
//	   │               │                   │
//	observer        router              stranger
//	2 addresses        │ LAN
//	2 ports each    ┌──┴───┐
//	             client  neighbour

func TestNATKinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		nat  NAT
		want behaviour
	}{
		{"endpoint-independent NAT", NAT{}, behaviour{"endpoint-independent", "address-and-port-dependent", true}},
		{"endpoint-dependent NAT", NAT{Mapping: AddressAndPortDependent}, behaviour{"address-and-port-dependent", "address-and-port-dependent", false}},
		{"firewall without NAT", NAT{Mapping: Untranslated, LAN: netip.MustParsePrefix("198.51.100.0/24")}, behaviour{"untranslated", "address-and-port-dependent", true}},
		{"UDP blocked", NAT{BlockUDP: true}, behaviour{mapping: "none"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := New(t, "laboratory: "+tt.name, tt.want.String())
			router := NewRouter(l.Inet(), "router", tt.nat)
			got := observe(l, NewHost(router, "client"), NewHost(router, "neighbour"))
			l.Got("%s", got)
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// Two routers, one behind the other: the provider's and the home's.
func TestCarrierGradeNATKind(t *testing.T) {
	t.Parallel()
	want := behaviour{"endpoint-independent", "address-and-port-dependent", true}
	l := New(t, "laboratory: carrier-grade double NAT", want.String())
	provider := NewRouter(l.Inet(), "provider", NAT{LAN: carrierLAN})
	home := NewRouter(provider, "home", NAT{})
	got := observe(l, NewHost(home, "client"), NewHost(home, "neighbour"))
	l.Got("%s", got)
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// carrierLAN is of the addresses that providers use behind their NAT (RFC 6598).
// Mesh addresses are from the same range, by default: the agent must take none
// that is not the mesh's own.
var carrierLAN = netip.MustParsePrefix("100.80.7.0/24")

// behaviour is what a NAT was seen to do.
type behaviour struct {
	mapping, filtering string
	keepsPort          bool
}

func (b behaviour) String() string {
	s := b.mapping + " mapping"
	if b.mapping == "none" {
		return "no UDP"
	}
	s += ", " + b.filtering + " filtering"
	if b.keepsPort {
		s += ", port kept"
	}
	return s
}

// observe measures the NAT before a client.
func observe(l *Lab, client, neighbour *Host) (b behaviour) {
	l.t.Helper()
	server := NewHost(l.Inet(), "observer")
	second := netip.MustParseAddr("203.0.113.200")
	server.AddAddress(second)
	o := newObserver(l, server, server.V4, second)
	c := newProbe(l, client)

	// Mapping: does the address outside depend on the destination?
	var seen []netip.AddrPort
	for _, to := range o.at {
		a, ok := c.ask(to, 0)
		if !ok {
			b.mapping = "none"
			return b
		}
		seen = append(seen, a)
	}
	local := c.at()
	switch {
	case seen[0] == local:
		b.mapping = "untranslated"
	case seen[0] == seen[1] && seen[0] == seen[2]:
		b.mapping = "endpoint-independent"
	case seen[0] == seen[1]:
		b.mapping = "address-dependent"
	default:
		b.mapping = "address-and-port-dependent"
	}
	b.keepsPort = seen[0].Port() == local.Port()

	// Filtering: a new socket, of which the NAT knows nothing, asks to be answered
	// from elsewhere too.
	c = newProbe(l, client)
	c.ask(o.at[0], 0)
	fromPort := c.hears(o.at[0], 1)
	c = newProbe(l, client)
	c.ask(o.at[0], 0)
	fromAddr := c.hears(o.at[0], 2)
	switch {
	case fromAddr:
		b.filtering = "endpoint-independent"
	case fromPort:
		b.filtering = "address-dependent"
	default:
		b.filtering = "address-and-port-dependent"
	}

	// Hairpin: nobody on the LAN reaches a mapping of a neighbour by its address
	// outside. (Without translation there is no such address.)
	if b.mapping == "untranslated" {
		return b
	}
	c = newProbe(l, client)
	outside, ok := c.ask(o.at[0], 0)
	if !ok {
		l.t.Fatal("the mapping for the hairpin is not answered")
	}
	n := newProbe(l, neighbour)
	if _, ok := n.ask(o.at[0], 0); !ok {
		l.t.Fatal("the neighbour is not answered")
	}
	n.send(outside, "hairpin")
	n.ask(o.at[0], 0) // the router has handled what came before
	if c.heardBeforeAnswer(o.at[0], "hairpin") {
		l.t.Errorf("a packet of the neighbour to %s comes back into the LAN; want none of these routers to do so", outside)
	}
	return b
}

// observer answers each datagram with the address that it came from. It has two
// addresses with two ports each: at[0] and at[1] share the address, at[0] and
// at[2] the port.
type observer struct {
	at    [4]netip.AddrPort
	socks [4]*net.UDPConn
}

func newObserver(l *Lab, h *Host, first, second netip.Addr) *observer {
	l.t.Helper()
	o := &observer{}
	for i, at := range []netip.AddrPort{
		netip.AddrPortFrom(first, 3478), netip.AddrPortFrom(first, 3479),
		netip.AddrPortFrom(second, 3478), netip.AddrPortFrom(second, 3479),
	} {
		c, err := h.ListenUDP(at)
		l.must(err)
		l.cleanup(c)
		o.at[i], o.socks[i] = at, c
	}
	for i, c := range o.socks {
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				// The first byte asks for an answer from another socket before
				// the usual one.
				if n > 0 && buf[0] != 0 && int(buf[0]) < len(o.socks) {
					o.socks[(i+int(buf[0]))%len(o.socks)].WriteToUDPAddrPort([]byte("elsewhere"), from)
				}
				c.WriteToUDPAddrPort([]byte(from.String()), from)
			}
		}()
	}
	return o
}

// probe is a socket behind a NAT.
type probe struct {
	l    *Lab
	host *Host
	sock *net.UDPConn
}

func newProbe(l *Lab, h *Host) *probe {
	l.t.Helper()
	c, err := h.ListenUDP(netip.AddrPortFrom(h.V4, 0))
	l.must(err)
	l.cleanup(c)
	return &probe{l: l, host: h, sock: c}
}

func (p *probe) at() netip.AddrPort { return p.sock.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *probe) send(to netip.AddrPort, what string) {
	p.l.t.Helper()
	_, err := p.sock.WriteToUDPAddrPort([]byte(what), to)
	p.l.must(err)
}

// retries is how often a datagram is sent before nobody is there. Nothing is lost
// in a laboratory but what a router drops; the first to a new neighbour waits for
// its link address.
const retries = 3

// ask asks what address the observer sees, and tells whether it answers.
func (p *probe) ask(to netip.AddrPort, mode byte) (seen netip.AddrPort, ok bool) {
	p.l.t.Helper()
	for range retries {
		p.send(to, string([]byte{mode}))
		for {
			from, text, ok := p.read(2 * time.Second)
			if !ok {
				break
			}
			if from == to {
				a, err := netip.ParseAddrPort(text)
				p.l.must(err)
				return a, true
			}
		}
	}
	return seen, false
}

// hears tells whether an answer comes in from the observer's socket that mode
// names. The answer from there leaves before the usual one, and takes the same
// way; after one more exchange it has come if it comes at all.
func (p *probe) hears(to netip.AddrPort, mode byte) bool {
	p.l.t.Helper()
	p.send(to, string([]byte{mode}))
	heard, usual := false, 0
	for usual < 2 {
		from, text, ok := p.read(10 * time.Second)
		switch {
		case !ok:
			p.l.t.Fatalf("%s: no answer from %s", p.host.Name, to)
		case text == "elsewhere":
			heard = true
		case from == to:
			if usual++; usual == 1 {
				p.send(to, "\x00")
			}
		}
	}
	return heard
}

// heardBeforeAnswer tells whether text came, reading up to an answer of the
// observer that is asked for now.
func (p *probe) heardBeforeAnswer(to netip.AddrPort, text string) (heard bool) {
	p.l.t.Helper()
	p.send(to, "\x00")
	for {
		from, got, ok := p.read(10 * time.Second)
		switch {
		case !ok:
			p.l.t.Fatalf("%s: no answer from %s", p.host.Name, to)
		case got == text:
			heard = true
		case from == to:
			return heard
		}
	}
}

func (p *probe) read(limit time.Duration) (from netip.AddrPort, text string, ok bool) {
	p.l.t.Helper()
	p.l.must(p.sock.SetReadDeadline(time.Now().Add(limit)))
	buf := make([]byte, 1500)
	n, from, err := p.sock.ReadFromUDPAddrPort(buf)
	if err != nil {
		return from, "", false
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), string(bytes.TrimSpace(buf[:n])), true
}
