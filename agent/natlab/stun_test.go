package natlab

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/relay/stun"
)

// The relay's own STUN server answers on a socket of a Net, in both families,
// and says what the topology says.
func TestServesSTUN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, Pair(5, KindNamed("home").WithIPv6(), KindNamed("open")))
		server, err := stun.New(stun.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var serving sync.WaitGroup
		pc := listen(t, w.Servers[0], 3478)
		serving.Go(func() {
			if err := server.Serve(ctx, pc); err != nil {
				t.Error(err)
			}
		})
		c := listen(t, w.A.Host, 41641)
		for to, want := range map[string]string{
			"192.0.2.1:3478":       "203.0.113.16:41641",
			"[2001:db8:1::1]:3478": "[2001:db8:1001::2]:41641",
		} {
			tx := [stun.TxSize]byte{1, 2, 3}
			send(t, c, string(stun.Request(tx)), netip.MustParseAddrPort(to))
			answer, from := next(t, c)
			got, seen, err := stun.ParseResponse([]byte(answer))
			if err != nil || got != tx || seen.String() != want || from.String() != to {
				t.Errorf("asked %s: got %s from %s, %v; want %s\n%s", to, seen, from, err, want, w.Log())
			}
		}
		time.Sleep(time.Second)
		stop()
		serving.Wait()
	})
}
