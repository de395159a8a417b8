package netcheck

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A world is what lies between a node and servers: to each server, what it sees
// and how long an answer takes. A server that is not in it never answers.
type world struct {
	sees func(server netip.AddrPort) netip.AddrPort
	rtt  map[netip.AddrPort]time.Duration
	lose func(server netip.AddrPort, nth int) bool // the nth request to it, from 0
	fail func(server netip.AddrPort) string
}

// A delivery is an answer on its way.
type delivery struct {
	at   time.Time
	src  netip.AddrPort
	data []byte
}

// run plays a round to its end in virtual time, calls each before every step, and
// returns the moments at which requests were sent, by server.
func (w world) run(t *testing.T, c *Check, each func(now time.Time)) map[netip.AddrPort][]time.Duration {
	t.Helper()
	now := epoch
	var wire []delivery
	sent := map[netip.AddrPort][]time.Duration{}
	for step := 0; ; step++ {
		if step > 1000 {
			t.Fatal("the round does not end")
		}
		for _, p := range c.Advance(now) {
			nth := len(sent[p.To])
			sent[p.To] = append(sent[p.To], now.Sub(epoch))
			if w.fail != nil {
				if cause := w.fail(p.To); cause != "" {
					c.Failed(p.To, cause)
					continue
				}
			}
			rtt, up := w.rtt[p.To]
			if !up || w.lose != nil && w.lose(p.To, nth) {
				continue
			}
			wire = append(wire, delivery{now.Add(rtt), p.To, answer(t, p.Data, w.sees(p.To))})
		}
		if each != nil {
			each(now)
		}
		next := c.Next()
		if next.IsZero() {
			return sent
		}
		slices.SortStableFunc(wire, func(a, b delivery) int { return a.at.Compare(b.at) })
		if len(wire) > 0 && !wire[0].at.After(next) {
			d := wire[0]
			wire, now = wire[1:], d.at
			c.Receive(now, d.src, d.data)
			continue
		}
		if !next.After(now) {
			t.Fatalf("next is %v, and now is %v", next, now)
		}
		now = next
	}
}

// answer makes a binding success response from a request, by RFC 8489 sections 5
// and 14.2, without the package that the code uses.
func answer(t testing.TB, request []byte, seen netip.AddrPort) []byte {
	t.Helper()
	if len(request) < 20 || request[0] != 0 || request[1] != 1 || binary.BigEndian.Uint32(request[4:]) != 0x2112a442 {
		t.Fatalf("%x is no binding request", request)
	}
	return response([12]byte(request[8:20]), seen)
}

func response(tx [12]byte, seen netip.AddrPort) []byte {
	pad := append([]byte{0x21, 0x12, 0xa4, 0x42}, tx[:]...)
	addr, fam := seen.Addr().AsSlice(), byte(1)
	if len(addr) == 16 {
		fam = 2
	}
	for i := range addr {
		addr[i] ^= pad[i]
	}
	b := []byte{1, 1, 0, byte(8 + len(addr))}
	b = append(b, pad...)
	b = append(b, 0, 0x20, 0, byte(4+len(addr)), 0, fam)
	b = binary.BigEndian.AppendUint16(b, seen.Port()^0x2112)
	return append(b, addr...)
}
