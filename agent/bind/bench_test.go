package bind

import (
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
)

// A lane is a sender and a receiver on loopback, each way of doing it.
type lane struct {
	send func([][]byte) error
	recv conn.ReceiveFunc
}

// ours is two Binds that know each other.
func ours(t testing.TB) lane {
	a, b := newBind(t, Config{UDP: true}), newBind(t, Config{UDP: true})
	if _, _, err := a.Open(0); err != nil {
		t.Fatal(err)
	}
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	know(t, b, node(1))
	b.Learn(netip.AddrPortFrom(loop4, a.LocalPort()), node(1))
	b.Use(node(1), path.Choice{Relay: true})
	e, err := a.ParseEndpoint(node(2).String())
	if err != nil {
		t.Fatal(err)
	}
	a.Use(node(2), path.Choice{Direct: netip.AddrPortFrom(loop4, port)})
	return lane{func(p [][]byte) error { return a.Send(p, e) }, fns[1]}
}

// std is two of wireguard-go's binds.
func std(t testing.TB) lane {
	a, b := conn.NewStdNetBind(), conn.NewStdNetBind()
	if _, _, err := a.Open(0); err != nil {
		t.Fatal(err)
	}
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	e := &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(loop4, port)}
	return lane{func(p [][]byte) error { return a.Send(p, e) }, fns[0]}
}

// round sends packets and receives them all, and returns how long each took. The
// receiver's buffers hold a batch, so that none is lost on loopback.
func (l lane) round(t testing.TB, pkts [][]byte, buf *batch) (sending, receiving time.Duration) {
	began := time.Now()
	if err := l.send(pkts); err != nil {
		t.Fatal(err)
	}
	sent := time.Now()
	for got := 0; got < len(pkts); {
		n, err := l.recv(buf.bufs, buf.sizes, buf.eps)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range buf.sizes[:n] {
			if size > 0 {
				got++
			}
		}
	}
	return sent.Sub(began), time.Since(sent)
}

// packets are as WireGuard's: each in a buffer that is longer.
func packets(n, size int) (pkts [][]byte) {
	for i := range n {
		pkts = append(pkts, append(make([]byte, 0, 1<<16), data(size, i)...))
	}
	return pkts
}

func TestNoAllocationDirect(t *testing.T) {
	l, buf := ours(t), newBatch()
	for _, n := range []int{1, BatchSize} {
		pkts := packets(n, 1280)
		for range 10 {
			l.round(t, pkts, buf)
		}
		got := testing.AllocsPerRun(200, func() { l.round(t, pkts, buf) })
		t.Logf("%v allocations for sending and receiving %d packets", got, n)
		if got >= 1 && !raceEnabled {
			t.Errorf("%v allocations for %d packets, want none", got, n)
		}
	}
}

// BenchmarkDirect compares with StdNetBind, in turns, so that what else the
// machine does falls on both.
func BenchmarkDirect(b *testing.B) {
	for _, c := range []struct {
		name    string
		n, size int
	}{{"batch=128/1280B", 128, 1280}, {"batch=128/96B", 128, 96}, {"batch=1/1280B", 1, 1280}} {
		b.Run(c.name, func(b *testing.B) {
			us, them := ours(b), std(b)
			buf, pkts := newBatch(), packets(c.n, c.size)
			var ourSend, ourRecv, stdSend, stdRecv time.Duration
			for range 20 {
				us.round(b, pkts, buf)
				them.round(b, pkts, buf)
			}
			for b.Loop() {
				s, r := us.round(b, pkts, buf)
				ourSend, ourRecv = ourSend+s, ourRecv+r
				s, r = them.round(b, pkts, buf)
				stdSend, stdRecv = stdSend+s, stdRecv+r
			}
			per := float64(b.N * c.n)
			b.ReportMetric(float64(ourSend)/per, "send-ns/packet")
			b.ReportMetric(float64(ourRecv)/per, "receive-ns/packet")
			b.ReportMetric(float64(ourSend)/float64(stdSend), "send/std")
			b.ReportMetric(float64(ourRecv)/float64(stdRecv), "receive/std")
		})
	}
}

// BenchmarkLook is a batch from one address, and one from as many as it has
// packets.
func BenchmarkLook(b *testing.B) {
	for name, mask := range map[string]int{"one-address": 0, "128-addresses": 127} {
		b.Run(name, func(b *testing.B) {
			bd := newBind(b, Config{UDP: true})
			r := &udpReceiver{bind: bd}
			var addrs [128]netip.AddrPort
			for i := range addrs {
				addrs[i] = netip.AddrPortFrom(loop4, uint16(i+1))
				bd.Learn(addrs[i], key.NodeID{0: byte(i)})
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if r.look(addrs[i&mask]).stranger != nil {
					b.Fatal("a stranger")
				}
				i++
			}
		})
	}
}
