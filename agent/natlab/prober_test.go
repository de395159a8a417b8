package natlab

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// reflect answers every packet with the address that it came from, as STUN does,
// until the socket is closed.
func reflect(c *Conn, done *sync.WaitGroup) {
	done.Go(func() {
		var b [1500]byte
		for {
			_, from, err := c.ReadFromUDPAddrPort(b[:])
			if err != nil {
				return
			}
			text, _ := from.MarshalText()
			c.WriteToUDPAddrPort(text, from)
		}
	})
}

// seenFrom asks a reflector where it sees the socket. It returns the zero
// AddrPort if no answer comes within a second.
func seenFrom(t *testing.T, c *Conn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte("?"), server); err != nil {
		t.Fatalf("write to %s: %v", server, err)
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	defer c.SetReadDeadline(time.Time{})
	var b [100]byte
	n, from, err := c.ReadFromUDPAddrPort(b[:])
	if err != nil {
		return netip.AddrPort{}
	}
	if from != server {
		t.Fatalf("answer from %s, want from %s", from, server)
	}
	var seen netip.AddrPort
	if err := seen.UnmarshalText(b[:n]); err != nil {
		t.Fatal(err)
	}
	return seen
}

// A prober knows nothing of NATs: in every round it pings every address it knows
// of, it answers each ping to where that came from, and it comes to know that
// address. What it was answered on, from where it had sent to, is a path.
type prober struct {
	conn  *Conn
	me    byte
	known []netip.AddrPort

	tx      uint32
	pinged  map[uint32]netip.AddrPort
	proved  []netip.AddrPort
	foreign bool // packets came that were its own
}

const (
	ping = iota
	pong
)

func (p *prober) learn(a netip.AddrPort) {
	if a.IsValid() && !slices.Contains(p.known, a) {
		p.known = append(p.known, a)
	}
}

// probe runs the rounds, 100 ms each.
func (p *prober) probe(rounds int) {
	p.pinged = make(map[uint32]netip.AddrPort)
	var b [100]byte
	for range rounds {
		for _, to := range p.known {
			p.tx++
			p.pinged[p.tx] = to
			p.conn.WriteToUDPAddrPort(message(p.me, ping, p.tx), to)
		}
		p.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, from, err := p.conn.ReadFromUDPAddrPort(b[:])
			if err != nil {
				break
			}
			if n != 6 || b[0] == p.me {
				p.foreign = true
				continue
			}
			switch tx := binary.BigEndian.Uint32(b[2:]); b[1] {
			case ping:
				p.learn(from)
				p.conn.WriteToUDPAddrPort(message(p.me, pong, tx), from)
			case pong:
				if p.pinged[tx] == from && !slices.Contains(p.proved, from) {
					p.proved = append(p.proved, from)
				}
			}
		}
	}
}

func message(from, kind byte, tx uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{from, kind}, tx)
}

// meet lets A and B of a world probe each other for some rounds, each knowing
// the other's interface addresses and the one that a server saw, and returns the
// paths that each proved. It runs in a bubble.
func meet(t *testing.T, w *World, rounds int) (a, b []netip.AddrPort) {
	t.Helper()
	var servers sync.WaitGroup
	defer servers.Wait()
	server, err := w.Servers[0].ListenUDP(3478)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	reflect(server, &servers)

	probers := [2]*prober{{me: 1}, {me: 2}}
	var endpoints [2][]netip.AddrPort
	for i, s := range []Site{w.A, w.B} {
		c, err := s.Host.ListenUDP(41641)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		probers[i].conn = c
		endpoints[i] = append(endpoints[i], seenFrom(t, c, netip.MustParseAddrPort("192.0.2.1:3478")))
		for _, own := range s.Host.Addrs() {
			endpoints[i] = append(endpoints[i], netip.AddrPortFrom(own, 41641))
		}
	}
	var both sync.WaitGroup
	for i, p := range probers {
		for _, e := range endpoints[1-i] {
			p.learn(e)
		}
		both.Go(func() { p.probe(rounds) })
	}
	both.Wait()
	return probers[0].proved, probers[1].proved
}
