//go:build lab

package lab

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/relay/stun"
)

// The relay tells a node how it is seen from outside, on each of its addresses
// and ports, and so what kind of NAT is before it.
//
//	             the Internet
//	    ┌─────────────┴───────────┐
//	  relay                     router
//	  2 addresses IPv4, 1 IPv6    │ LAN
//	  2 ports each              client

func TestSTUN(t *testing.T) {
	for _, tt := range []struct {
		name    string
		nat     NAT
		want    string
		answers int // of the relay's six addresses
	}{
		{"endpoint-independent NAT", NAT{}, "one address outside", 4},
		{"endpoint-dependent NAT", NAT{Mapping: AddressAndPortDependent}, "an address outside for each destination", 4},
		{"IPv6 behind a firewall", NAT{IPv6: true}, "one address outside, and IPv6 as it is", 6},
		{"UDP blocked", NAT{BlockUDP: true}, "no answer", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := New(t, "STUN of the relay: "+tt.name, tt.want)
			m := l.NewMesh(accounting())
			router := NewRouter(l.Inet(), "router", tt.nat)
			client := NewHost(router, "client")
			sock, err := client.ListenUDP(netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
			l.must(err)
			l.cleanup(sock)
			local := sock.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()

			asked := map[[stun.TxSize]byte]netip.AddrPort{}
			for _, s := range m.STUN {
				to := netip.MustParseAddrPort(s)
				if to.Addr().Is6() && !tt.nat.IPv6 {
					continue // there is no way to it
				}
				var tx [stun.TxSize]byte
				rand.Read(tx[:])
				asked[tx] = to
			}
			seen := map[netip.AddrPort]netip.AddrPort{}
			buf := make([]byte, 1500)
			for range retries {
				for tx, to := range asked {
					if _, ok := seen[to]; !ok {
						_, err := sock.WriteToUDPAddrPort(stun.Request(tx), to)
						l.must(err)
					}
				}
				limit := time.Now().Add(2 * time.Second)
				for len(seen) < len(asked) {
					l.must(sock.SetReadDeadline(limit))
					n, from, err := sock.ReadFromUDPAddrPort(buf)
					if err != nil {
						break
					}
					tx, addr, err := stun.ParseResponse(buf[:n])
					l.must(err)
					from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
					if asked[tx] != from {
						t.Errorf("got an answer from %s, which was asked of %s", from, asked[tx])
					}
					seen[from] = addr
				}
				if len(seen) == len(asked) {
					break
				}
			}
			if len(seen) != tt.answers {
				t.Fatalf("answers: got %d (%v), want %d", len(seen), seen, tt.answers)
			}
			outside := map[netip.AddrPort]bool{}
			for to, addr := range seen {
				switch {
				case to.Addr().Is6():
					if want := netip.AddrPortFrom(client.V6, local); addr != want {
						t.Errorf("from %s: got %s, want the client's own, %s", to, addr, want)
					}
					continue
				case addr.Addr() != router.WAN:
					t.Errorf("from %s: got %s, want an address of the router, %s", to, addr, router.WAN)
				}
				outside[addr] = true
			}
			if want := tt.nat.Mapping == AddressAndPortDependent; (len(outside) > 1) != want {
				t.Errorf("addresses outside: got %v, want several: %t", outside, want)
			}
			if tt.answers == 0 {
				return
			}
			l.Got("%s (%s)", tt.want, plural(len(outside), "mapping"))
		})
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
