//go:build lab && bench

package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A beat is a numbered datagram every ten milliseconds from a host to an echo
// server, from before there is a way to it, as a call or a game sends them. It
// bears no canary: what is sent before there is an interface goes out in clear.
type beat struct {
	l    *Lab
	conn *net.UDPConn
	to   netip.AddrPort
	stop chan struct{}
	all  sync.WaitGroup
	once sync.Once // of Close

	mu    sync.Mutex
	sent  []time.Time // of datagram n
	came  []echoed    // in the order of their coming
	fresh chan struct{}
}

type echoed struct {
	n  uint64
	at time.Time
}

const beatEvery = 10 * time.Millisecond

func (h *Host) beat(to netip.Addr) *beat {
	h.l.t.Helper()
	conn, err := h.ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	h.l.must(err)
	b := &beat{l: h.l, conn: conn, to: netip.AddrPortFrom(to, echoPort), stop: make(chan struct{}), fresh: make(chan struct{})}
	b.all.Go(b.send)
	b.all.Go(b.receive)
	h.l.cleanup(b)
	return b
}

func (b *beat) send() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		b.mu.Lock()
		n := uint64(len(b.sent))
		b.sent = append(b.sent, time.Now())
		b.mu.Unlock()
		// Without a route it is lost, as a datagram may be.
		_, _ = b.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(make([]byte, 0, 64), n), b.to)
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
	}
}

func (b *beat) receive() {
	buf := make([]byte, 1500)
	for {
		n, _, err := b.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-b.stop:
				return
			default:
				continue
			}
		}
		if n < 8 {
			continue
		}
		b.mu.Lock()
		b.came = append(b.came, echoed{binary.BigEndian.Uint64(buf), time.Now()})
		close(b.fresh)
		b.fresh = make(chan struct{})
		b.mu.Unlock()
	}
}

// next waits for the echo of a datagram that was sent at that time or later, and
// tells when it came.
func (b *beat) next(after time.Time) time.Time {
	b.l.t.Helper()
	limit := time.After(within)
	looked := 0
	for {
		b.mu.Lock()
		for ; looked < len(b.came); looked++ {
			if e := b.came[looked]; !b.sent[e.n].Before(after) {
				b.mu.Unlock()
				return e.at
			}
		}
		fresh := b.fresh
		b.mu.Unlock()
		select {
		case <-fresh:
		case <-limit:
			b.l.t.Fatalf("no datagram sent after %s is echoed within %s", after.Format(time.StampMilli), within)
		}
	}
}

// between counts the datagrams that were sent in a time, and those of them that
// were never echoed.
func (b *beat) between(from, to time.Time) (sent, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	answered := map[uint64]bool{}
	for _, e := range b.came {
		answered[e.n] = true
	}
	for n, at := range b.sent {
		if at.Before(from) || at.After(to) {
			continue
		}
		sent++
		if !answered[uint64(n)] {
			lost++
		}
	}
	return sent, lost
}

// Close ends it. A second time does nothing.
func (b *beat) Close() (err error) {
	b.once.Do(func() {
		close(b.stop)
		err = b.conn.Close()
		b.all.Wait()
	})
	return err
}
